//! Where pages are between the process and the chain: a chunk's worth of memory of ours.
//!
//! A page is moved here, stays unchanged while the chain takes it, and can be copied back meanwhile by a
//! fault. Whoever holds a slot's token moves pages in and drops them; others only read pages that the
//! chunk's lock tells them are there.

use std::ops::Range;
use std::ptr::NonNull;

use frontswap::error::{Error, Kind};
use frontswap::key::Bytes;
use frontswap::page::{PAGE_SIZE, Page};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::extents::CHUNK_BYTES;
use crate::uffd::Uffd;

/// The memory.
pub struct Staging {
    mapping: NonNull<u8>,
    /// The first whole chunk in the mapping.
    base: usize,
    /// The events of unmapped contents are reported for it, which only costs time.
    has_events: bool,
}

// SAFETY: plain memory; who may touch which page is the contract above.
unsafe impl Send for Staging {}
// SAFETY: as above.
unsafe impl Sync for Staging {}

impl Staging {
    /// Takes the memory and registers it.
    ///
    /// # Errors
    /// There is no address space for it.
    pub fn new(uffd: &Uffd, has_events: bool) -> Result<Self, Error> {
        let length = 2 * CHUNK_BYTES;
        let refuse = |errno: rustix::io::Errno| {
            let fields: [(&'static str, &dyn std::fmt::Display); 3] =
                [("backend", &"the pager"), ("size", &Bytes(length as u64)), ("reason", &errno)];
            Error::new(Kind::NoMemory, &fields).with_errno(Some(errno.raw_os_error()))
        };
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let mapping = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(refuse)?;
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("mmap returns no null");
        let base = (mapping.as_ptr() as usize).next_multiple_of(CHUNK_BYTES);
        let staging = Staging { mapping, base, has_events };
        staging.register(uffd).map_err(refuse)?;
        Ok(staging)
    }

    /// Registers it with the userfaultfd of a child of fork.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn register(&self, uffd: &Uffd) -> Result<(), rustix::io::Errno> {
        // SAFETY: nobody touches a missing page of it.
        unsafe { uffd.register(&self.range()) }
    }

    /// Its addresses.
    pub fn range(&self) -> Range<usize> {
        self.base..self.base + CHUNK_BYTES
    }

    /// The addresses of the whole mapping.
    pub fn mapping_range(&self) -> Range<usize> {
        let start = self.mapping.as_ptr() as usize;
        start..start + 2 * CHUNK_BYTES
    }

    /// Page `index`.
    ///
    /// # Safety
    /// It was moved in and is not dropped while the reference lives.
    pub unsafe fn page(&self, index: usize) -> &Page {
        // SAFETY: inside the mapping and aligned; the caller vouches that the page is there.
        unsafe { &*((self.base + index * PAGE_SIZE) as *const Page) }
    }

    /// Gives the memory of all pages back, and makes their places free for the next.
    ///
    /// # Safety
    /// Nobody reads a page of it any more.
    pub unsafe fn drop_pages(&self, uffd: &Uffd) {
        let range = self.range();
        // With events on, throwing contents away would wait for whoever reads events.
        // SAFETY: our own memory; it is registered again before a page comes in.
        let unregistered = self.has_events && unsafe { uffd.unregister(&range) }.is_ok();
        // SAFETY: our own memory, and the caller vouches that it is not read.
        let dropped = unsafe { rustix::mm::madvise(self.base as *mut _, CHUNK_BYTES, Advice::LinuxDontNeed) };
        assert!(dropped.is_ok(), "our own memory can be dropped");
        if unregistered {
            let registered = self.register(uffd);
            assert!(registered.is_ok(), "what was registered can be again");
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and with `self` its last user goes.
        let unmapped = unsafe { rustix::mm::munmap(self.mapping.as_ptr().cast(), 2 * CHUNK_BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}
