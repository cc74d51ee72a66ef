//! Faults that come as SIGBUS, answered in the faulting thread.
//!
//! The handler finds the pager that manages the address and fills the page; a signal that is nobody's goes
//! to whoever had the signal before. It takes no memory and no lock that the faulting thread can hold.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use frontswap::error::{Error, Kind};
use frontswap::page::PAGE_SIZE;

use crate::fault::Resolution;
use crate::pager::{Pager, read};
use crate::threads::lock;

/// Pagers in signal mode that a process can have.
const PAGERS_MAX: usize = 64;

/// Those that there are. A slot's pager lives at least until no handler is inside.
static PAGERS: [AtomicPtr<Pager>; PAGERS_MAX] = [const { AtomicPtr::new(std::ptr::null_mut()) }; PAGERS_MAX];
/// Handlers that are looking through the table.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// What was to be done about SIGBUS before us.
static PREVIOUS: OnceLock<Previous> = OnceLock::new();
static INSTALLING: Mutex<()> = Mutex::new(());

struct Previous(libc::sigaction);

// SAFETY: the structure is written once and then only read.
unsafe impl Send for Previous {}
// SAFETY: as above.
unsafe impl Sync for Previous {}

/// Takes SIGBUS over, once.
///
/// # Errors
/// The system refuses.
pub fn install() -> Result<(), Error> {
    let _installing = lock(&INSTALLING);
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for what is set, into a structure of ours.
    unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: the call above has filled it, and zeroes are a valid one.
    let now = unsafe { now.assume_init() };
    if now.sa_sigaction == on_sigbus as *const () as usize {
        return Ok(());
    }
    // Kept from the first time on: whoever took the signal in between has us before him.
    let _ = PREVIOUS.set(Previous(now));
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are a valid structure; the handler only does what a signal handler may.
    let answer = unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = on_sigbus as *const () as usize;
        // On the thread's own stack: alternate ones are often 8 KiB, and a page alone is 4.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, action, std::ptr::null_mut())
    };
    if answer == 0 {
        return Ok(());
    }
    let reason = std::io::Error::last_os_error();
    Err(Error::new(Kind::PagerFailed, &[("operation", &"handle SIGBUS"), ("reason", &reason)])
        .with_errno(reason.raw_os_error()))
}

/// Answers faults of `pager` from now on.
pub(crate) fn enter(pager: &Arc<Pager>) {
    let pointer = Arc::into_raw(pager.clone()).cast_mut();
    let is_in = PAGERS.iter().any(|slot| {
        slot.compare_exchange(std::ptr::null_mut(), pointer, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
    assert!(is_in, "more than {PAGERS_MAX} pagers in signal mode in one process");
}

/// No longer answers faults of `pager`.
pub(crate) fn leave(pager: &Pager) {
    let pointer = std::ptr::from_ref(pager).cast_mut();
    let slot = PAGERS.iter().find(|slot| {
        slot.compare_exchange(pointer, std::ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
    if slot.is_none() {
        return;
    }
    while INSIDE.load(Ordering::Acquire) > 0 {
        std::thread::yield_now();
    }
    // SAFETY: `enter` made this reference, and no handler can still have it.
    drop(unsafe { Arc::from_raw(pointer) });
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a filled structure.
    let address = unsafe { (*info).si_addr() } as usize & !(PAGE_SIZE - 1);
    // SAFETY: the thread's own variable, which the interrupted code must find as it was.
    let errno = unsafe { *libc::__errno_location() };
    INSIDE.fetch_add(1, Ordering::AcqRel);
    let is_answered = PAGERS.iter().any(|slot| {
        // SAFETY: not dropped while a handler is inside.
        unsafe { slot.load(Ordering::Acquire).as_ref() }.is_some_and(|pager| answer(pager, address))
    });
    INSIDE.fetch_sub(1, Ordering::AcqRel);
    if !is_answered {
        pass_on(signal, info, context);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Fills the page if `pager` manages it. False when it does not, or when the page is lost.
fn answer(pager: &Pager, address: usize) -> bool {
    let _gate = read(&pager.gate);
    loop {
        match pager.resolve(address, true) {
            Resolution::Done => return true,
            Resolution::Again | Resolution::Slow => {}
            Resolution::NotOurs => return false,
            Resolution::Lost(error) => {
                pager.report_lost(address, &error);
                // The access is tried again, and there is no handler any more: the process ends by it.
                // SAFETY: sets the default, which is always allowed.
                unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
                return true;
            }
        }
    }
}

/// Does what would have been done without us.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.get().map(|previous| &previous.0);
    match previous.map_or(libc::SIG_DFL, |action| action.sa_sigaction) {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: sets the default; the access is tried again and ends the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        handler if previous.is_some_and(|action| action.sa_flags & libc::SA_SIGINFO != 0) => {
            // SAFETY: whoever installed it gave a function of this type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: as above, of the shorter type.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}
