//! Threads of ours in a process whose heap is managed.
//!
//! A hidden thread is made by `clone` alone, on a stack and a block of thread-local storage that come
//! from our own mapping. The C library does not know it: it keeps no record of it in its heap, a
//! program of one thread stays one to it, and a child of fork can start new ones without its allocator.
//! Such a thread must not use dynamic thread-local storage, the C library's allocator, or panic.
//! All signals are blocked in it.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use frontswap::error::{Error, Kind};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::futex;

use crate::options::Threads;

const STACK_BYTES: usize = 256 << 10;
/// Static thread-local storage of the C library lies on one side of the thread pointer, its own record
/// of the thread on the other; a few KiB each.
const TLS_SIDE_BYTES: usize = 64 << 10;
const GUARD_BYTES: usize = 4096;

/// A thread that can be waited for.
pub enum Thread {
    /// An ordinary one.
    Ordinary(std::thread::JoinHandle<()>),
    /// One that the C library does not know.
    Hidden(Arc<Hidden>),
}

/// The memory of a hidden thread.
pub struct Hidden {
    base: *mut c_void,
    length: usize,
    /// The thread's number; the kernel clears it when the thread has ended.
    id: AtomicU32,
}

// SAFETY: the memory belongs to the thread until it has ended; `id` is atomic.
unsafe impl Send for Hidden {}
// SAFETY: as above.
unsafe impl Sync for Hidden {}

/// What a thread does.
pub type Work = Box<dyn FnOnce() + Send>;

/// Starts a thread of `kind`.
///
/// # Errors
/// The system starts none.
pub fn spawn(kind: Threads, name: &'static str, work: Work) -> Result<Thread, Error> {
    match kind {
        Threads::Ordinary => spawn_ordinary(name, work),
        Threads::Hidden => spawn_hidden(name, work, libc::CLONE_FILES),
    }
}

/// Starts a hidden thread with a table of descriptors of its own, which is empty: the program can neither
/// see nor close what is opened there, and hidden threads that it starts share it.
///
/// # Errors
/// The system starts none.
pub fn spawn_apart(name: &'static str, work: Work) -> Result<Thread, Error> {
    let work = Box::new(move || {
        // A copy of the program's table would keep its pipes open. The C library has no such function
        // everywhere.
        // SAFETY: this thread alone has this table, and nothing in it is ours yet.
        unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32) };
        work();
    });
    spawn_hidden(name, work, 0)
}

impl Thread {
    /// Waits until it has ended.
    pub fn join(self) {
        match self {
            // A panic of the thread has been printed; there is nobody to hand it to.
            Thread::Ordinary(thread) => drop(thread.join()),
            Thread::Hidden(thread) => thread.wait(),
        }
    }

    /// Forgets a thread of the parent's, in a child of fork, where it does not run.
    pub fn forget(self) {
        match self {
            Thread::Ordinary(thread) => std::mem::forget(thread),
            // It does not run here, so its memory can go.
            Thread::Hidden(thread) => thread.id.store(0, Ordering::Relaxed),
        }
    }
}

fn failed(reason: &dyn std::fmt::Display, errno: Option<i32>) -> Error {
    Error::new(Kind::ThreadFailed, &[("object", &"the pager"), ("reason", reason)]).with_errno(errno)
}

fn spawn_ordinary(name: &'static str, work: Work) -> Result<Thread, Error> {
    let mask = block_signals();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    restore_signals(&mask);
    thread.map(Thread::Ordinary).map_err(|error| failed(&error, error.raw_os_error()))
}

fn spawn_hidden(name: &'static str, work: Work, files: c_int) -> Result<Thread, Error> {
    let length = GUARD_BYTES + STACK_BYTES + 2 * TLS_SIDE_BYTES;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            length,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .map_err(|errno| failed(&errno, Some(errno.raw_os_error())))?;
    crate::growth::keep_apart(&(base as usize..base as usize + length));
    let thread = Arc::new(Hidden { base, length, id: AtomicU32::new(u32::MAX) });
    // SAFETY: the lowest page of our own mapping, which nothing uses yet.
    let guarded = unsafe { rustix::mm::mprotect(base, GUARD_BYTES, rustix::mm::MprotectFlags::empty()) };
    debug_assert!(guarded.is_ok());
    let stack = base.wrapping_byte_add(GUARD_BYTES + STACK_BYTES);
    let pointer = stack.wrapping_byte_add(TLS_SIDE_BYTES);
    prepare_tls(pointer.cast());
    let start = Box::into_raw(Box::new((name, work)));
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | files
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_CHILD_CLEARTID
        | libc::CLONE_CHILD_SETTID;
    let mask = block_signals();
    let id: *const AtomicU32 = &raw const thread.id;
    // SAFETY: the stack and the TLS block are the new thread's alone, `start` is handed over to it, and
    // `id` lives as long as the mapping, which is unmapped after the kernel has cleared it.
    let answer = unsafe {
        libc::clone(entry, stack, flags, start.cast(), std::ptr::null_mut::<c_int>(), pointer, id.cast_mut())
    };
    let error = std::io::Error::last_os_error();
    restore_signals(&mask);
    if answer < 0 {
        // SAFETY: the thread did not start, so the box is still ours.
        drop(unsafe { Box::from_raw(start) });
        thread.id.store(0, Ordering::Relaxed);
        return Err(failed(&error, error.raw_os_error()));
    }
    Ok(Thread::Hidden(thread))
}

extern "C" fn entry(start: *mut c_void) -> c_int {
    // SAFETY: `spawn_hidden` made the box for this thread alone.
    let (name, work) = *unsafe { Box::from_raw(start.cast::<(&'static str, Work)>()) };
    let mut buffer = [0; 16];
    let length = name.len().min(buffer.len() - 1);
    buffer[..length].copy_from_slice(&name.as_bytes()[..length]);
    if let Ok(name) = std::ffi::CStr::from_bytes_until_nul(&buffer) {
        let _ = rustix::thread::set_name(name);
    }
    work();
    0
}

impl Hidden {
    fn wait(&self) {
        loop {
            let id = self.id.load(Ordering::Acquire);
            if id == 0 {
                return;
            }
            // The kernel wakes without the private flag.
            let _ = futex::wait(&self.id, futex::Flags::empty(), id, None);
        }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if self.id.load(Ordering::Acquire) != 0 {
            return;
        }
        crate::growth::give_up(&(self.base as usize..self.base as usize + self.length));
        // SAFETY: the thread has ended, or never began: nobody uses its memory.
        let unmapped = unsafe { rustix::mm::munmap(self.base, self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Writes to the program's stderr, also from a thread that has not got it.
pub fn write_stderr(text: &str) {
    // A thread with a table of its own opens what the program has there; a socket it cannot.
    let path = format!("/proc/{}/fd/2", std::process::id());
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::APPEND | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
    let _ = match &file {
        Ok(file) => rustix::io::write(file, text.as_bytes()),
        // SAFETY: the number may be closed here, which the call says and nobody can be told.
        Err(_) => rustix::io::write(unsafe { rustix::fd::BorrowedFd::borrow_raw(2) }, text.as_bytes()),
    };
}

/// Makes the words that compiled code and the C library expect at the thread pointer.
#[cfg(target_arch = "x86_64")]
fn prepare_tls(pointer: *mut u64) {
    let (stack_guard, pointer_guard): (u64, u64);
    // SAFETY: on x86-64 these are words of every thread's own record: reading them changes nothing.
    unsafe {
        std::arch::asm!("mov {}, fs:[0x28]", out(reg) stack_guard, options(nostack, readonly));
        std::arch::asm!("mov {}, fs:[0x30]", out(reg) pointer_guard, options(nostack, readonly));
    }
    // SAFETY: inside the mapping, which is ours and zeroed. Offsets: the x86-64 ABI's `tcbhead_t`.
    unsafe {
        pointer.write(pointer as u64);
        pointer.add(2).write(pointer as u64);
        pointer.add(5).write(stack_guard);
        pointer.add(6).write(pointer_guard);
    }
}

/// On arm64 the guard is a global variable and the record may be all zeroes.
#[cfg(target_arch = "aarch64")]
fn prepare_tls(_pointer: *mut u64) {}

/// Asks the scheduler to let the calling thread run soon after it wakes: by a short slice, which needs no
/// permission and takes nothing from others. Kernels before 6.12 do not know it.
pub fn ask_for_short_slices() {
    /// `struct sched_attr`, of its first version.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const SLICE_NS: u64 = 100_000;
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: 0,
        flags: 0,
        nice: 0,
        priority: 0,
        runtime: SLICE_NS,
        deadline: 0,
        period: 0,
    };
    // SAFETY: reads one structure of ours. An error leaves things as they are.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// Blocks every signal in the calling thread; returns what was blocked before.
pub fn block_signals() -> u64 {
    set_mask(u64::MAX)
}

/// Undoes [`block_signals`].
pub fn restore_signals(mask: &u64) {
    set_mask(*mask);
}

fn set_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: the kernel's own call reads one mask of 8 bytes and writes the other. The C library's
    // would leave out the signals that it uses itself.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut before,
            size_of::<u64>(),
        );
    }
    before
}

/// A mutex whose holder cannot have spoilt what it guards by a panic.
pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
