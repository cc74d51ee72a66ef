//! A range of address space of our own, in which memory comes and goes by the span.
//!
//! Address space is reserved once, for the largest size that may ever be set, and costs nothing;
//! memory is committed and released inside it, so objects never move because a pool grows. A child
//! of fork gets a copy if that was asked for; otherwise it gets nothing, and a page of the parent's is
//! never read there (it would fault instead). Huge pages are off, so that what is counted is what is resident.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use frontswap::error::{Error, Kind};
use frontswap::key::Bytes;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

/// Memory is opened in steps: the call costs as much for a span as for many.
const OPEN_STEP_BYTES: usize = 32 << 20;

/// The reserved range.
///
/// Invariant: bytes that were committed and not released since are readable and writable.
pub struct Arena {
    base: NonNull<u8>,
    length: usize,
    /// Bytes from the start that are readable and writable.
    open: AtomicUsize,
    /// The only process that has it; `None` when children inherit it.
    owner: Option<rustix::process::Pid>,
}

// SAFETY: the arena is plain memory; who may touch which bytes is the contract of its methods.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Reserves `length` bytes of address space for `backend`; a child of fork gets a copy of what is in
    /// them if it is to `inherit`.
    ///
    /// # Errors
    /// The process may not have so much.
    pub fn reserve(backend: &str, length: usize, inherit: bool) -> Result<Self, Error> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let refuse = |errno: rustix::io::Errno| {
            let size = Bytes(length as u64);
            let fields: [(&'static str, &dyn std::fmt::Display); 3] =
                [("backend", &backend), ("size", &size), ("reason", &errno)];
            Error::new(Kind::NoMemory, &fields).with_errno(Some(errno.raw_os_error()))
        };
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), flags) }
            .map_err(refuse)?;
        let base_address = NonNull::new(base.cast()).expect("mmap returns no null");
        let arena = Arena {
            base: base_address,
            length,
            open: AtomicUsize::new(0),
            owner: (!inherit).then(rustix::process::getpid),
        };
        let on_fork = if inherit { Advice::LinuxDoFork } else { Advice::LinuxDontFork };
        for advice in [on_fork, Advice::LinuxNoHugepage] {
            // SAFETY: the range is ours, and neither advice changes contents.
            match unsafe { rustix::mm::madvise(base, length, advice) } {
                // A kernel without huge pages knows no such advice.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(errno) => return Err(refuse(errno)),
            }
        }
        Ok(arena)
    }

    /// The addresses of the range.
    pub fn addresses(&self) -> std::ops::Range<usize> {
        let start = self.base.as_ptr() as usize;
        start..start + self.length
    }

    /// Bytes that were reserved.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Puts memory behind `length` bytes at `at`, faulted in at once: one call instead of a fault
    /// for each page. False when the system has none.
    pub fn commit(&self, at: usize, length: usize) -> bool {
        let Some(range) = self.range(at, length) else { return false };
        if !self.open_to(at + length) {
            return false;
        }
        // SAFETY: as above; populating does not change contents.
        match unsafe { rustix::mm::madvise(range, length, Advice::LinuxPopulateWrite) } {
            // Before Linux 5.14: the pages come when they are touched.
            Ok(()) | Err(rustix::io::Errno::INVAL) => true,
            Err(_) => {
                self.release(at, length);
                false
            }
        }
    }

    /// Makes the arena readable and writable up to `end`, and ahead of it.
    fn open_to(&self, end: usize) -> bool {
        let open = self.open.load(Ordering::Acquire);
        if end <= open {
            return true;
        }
        let end = end.next_multiple_of(OPEN_STEP_BYTES).min(self.length);
        let Some(range) = self.range(open, end - open) else { return false };
        let protection = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is inside our own mapping; to open twice what another thread opens too is
        // harmless.
        let opened = unsafe { rustix::mm::mprotect(range, end - open, protection) };
        self.open.fetch_max(if opened.is_ok() { end } else { 0 }, Ordering::AcqRel);
        opened.is_ok()
    }

    /// Gives the memory behind `length` bytes at `at` back to the system. What was there is gone.
    pub fn release(&self, at: usize, length: usize) {
        let Some(range) = self.range(at, length) else { return };
        // SAFETY: the range is inside our own mapping, and the caller no longer uses it.
        let released = unsafe { rustix::mm::madvise(range, length, Advice::LinuxDontNeed) };
        debug_assert!(released.is_ok());
    }

    /// The `length` bytes at `at`.
    ///
    /// # Safety
    /// They are committed, and nobody writes them while the reference lives.
    pub unsafe fn bytes(&self, at: usize, length: usize) -> &[u8] {
        debug_assert!(at + length <= self.length);
        // SAFETY: inside the mapping; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(at), length) }
    }

    /// Copies `bytes` to `at`.
    ///
    /// # Safety
    /// They are committed, and nobody else reads or writes them meanwhile.
    pub unsafe fn write(&self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= self.length);
        // SAFETY: inside the mapping; the caller vouches for the rest.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(at), bytes.len()) }
    }

    fn range(&self, at: usize, length: usize) -> Option<*mut std::ffi::c_void> {
        let end = at.checked_add(length)?;
        // SAFETY: `at` is inside the mapping.
        (end <= self.length).then(|| unsafe { self.base.as_ptr().add(at) }.cast())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // A child of fork that inherits nothing has a hole there, or something of its own by now.
        if self.owner.is_some_and(|owner| owner != rustix::process::getpid()) {
            return;
        }
        // SAFETY: the mapping is ours, and with `self` the last user of it goes.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Bytes of RAM in this machine: the largest capacity that a backend in RAM may ever have.
pub fn machine_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_and_goes() {
        let arena = Arena::reserve("test", 1 << 20, false).unwrap();
        assert!(arena.commit(65536, 65536));
        // SAFETY: committed above, and this test is alone.
        unsafe {
            arena.write(70_000, b"page");
            assert_eq!(arena.bytes(70_000, 4), b"page");
        }
        arena.release(65536, 65536);
        assert!(arena.commit(65536, 65536));
        // SAFETY: as above.
        assert_eq!(unsafe { arena.bytes(70_000, 4) }, [0; 4]);
    }

    #[test]
    fn what_cannot_be_reserved_is_an_error() {
        let error = Arena::reserve("zpool", 1 << 60, false).err().unwrap();
        assert_eq!(error.kind(), Kind::NoMemory);
        assert!(error.message().contains("1024.00 PiB"), "{}", error.message());
    }

    #[test]
    fn nothing_is_committed_past_the_end() {
        let arena = Arena::reserve("test", 1 << 16, true).unwrap();
        assert!(!arena.commit(1 << 16, 4096));
        assert!(!arena.commit(usize::MAX, 4096));
    }
}
