//! Functions of the C library that the program calls and of which the pager must know.

use std::ffi::{c_int, c_void};

use frontswap_pager::fork;

use crate::watch;

/// `madvise(2)`. The kernel tells the pager that contents will be thrown away, before they are; that it
/// has been done only this call's end tells.
///
/// # Safety
/// That of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int {
    // SAFETY: the caller's promises are passed on; the C library's function does nothing but the call.
    let answer = unsafe { libc::syscall(libc::SYS_madvise, address, length, advice) } as c_int;
    if matches!(advice, libc::MADV_DONTNEED | libc::MADV_FREE | libc::MADV_REMOVE)
        && let Some(pager) = watch::pager()
    {
        let start = address as usize;
        pager.contents_are_gone(&(start..start.saturating_add(length)));
    }
    answer
}

type Fork = unsafe extern "C" fn() -> libc::pid_t;
const FORKS_MAX: u32 = 100;

/// `fork(2)`. One that copied a state in between is tried again.
///
/// # Safety
/// That of the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fork() -> libc::pid_t {
    // SAFETY: the next function of that name is the C library's own, of that type.
    let real: Option<Fork> = unsafe { std::mem::transmute(libc::dlsym(libc::RTLD_NEXT, c"fork".as_ptr())) };
    let Some(real) = real else { return -1 };
    for _ in 0..FORKS_MAX {
        // SAFETY: the caller's promises are passed on.
        let child = unsafe { real() };
        if child <= 0 || watch::pager().is_none() || !fork::was_in_between() {
            return child;
        }
        // SAFETY: waits for a child of ours that has ended by itself.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    }
    // SAFETY: the thread's own variable.
    unsafe { *libc::__errno_location() = libc::EAGAIN };
    -1
}

/// `_exit(2)`: the process ends without the functions that run at an exit, and leaves its tree first.
///
/// # Safety
/// That of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _exit(status: c_int) -> ! {
    watch::end();
    loop {
        // SAFETY: ends the process.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// `_Exit(3)`, the same by its name in C.
///
/// # Safety
/// That of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Exit(status: c_int) -> ! {
    // SAFETY: the caller's promises are passed on.
    unsafe { _exit(status) }
}
