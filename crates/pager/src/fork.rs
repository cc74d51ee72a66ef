//! What a fork needs: nobody of ours is at work when the process is copied, and the child starts anew.
//!
//! A child inherits pages that are out as holes. Before its program runs again it opens a userfaultfd of
//! its own, registers everything, and starts threads of its own; the pool and all tables are copied on
//! write. Threads that work hold the gate; a fork closes it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError, RwLockWriteGuard};
use std::time::Duration;

use frontswap::Error;
use frontswap::backend::ForkSide;

use crate::options::Threads;
use crate::pager::Pager;
use crate::threads::lock;

/// All pagers of this process.
static PAGERS: Mutex<Vec<Arc<Pager>>> = Mutex::new(Vec::new());
/// The gates that the forking thread has closed.
static CLOSED: Mutex<Vec<Closed>> = Mutex::new(Vec::new());
/// The thread that forks, while a gate is closed; 0 otherwise.
static FORKING_THREAD: AtomicU32 = AtomicU32::new(0);
/// Grows when a fault is answered although a gate is closed, and what it was when the gate was closed. In
/// memory that parent and child share, because the copy of anything else is not of one moment.
static EMERGENCIES: OnceLock<&'static AtomicU32> = OnceLock::new();
static EMERGENCIES_BEFORE: AtomicU32 = AtomicU32::new(0);
/// What brings in pages that the C library touches in a child before its handlers run.
static BRING_IN: OnceLock<fn()> = OnceLock::new();
static HAS_FORKED: AtomicBool = AtomicBool::new(false);
static WATCH: Once = Once::new();

/// A gate that is closed, and its pager, which outlives it.
struct Closed {
    _gate: RwLockWriteGuard<'static, ()>,
    pager: Arc<Pager>,
}

// SAFETY: opened by the thread that closed it, in the parent and in the child.
unsafe impl Send for Closed {}

/// Whether this process, or one that it came from, has forked: then pages may be shared.
pub fn has_forked() -> bool {
    HAS_FORKED.load(Ordering::Relaxed)
}

/// Begins to look after forks. Handlers that were registered before run before ours in a child.
pub fn watch() {
    WATCH.call_once(|| {
        let _ = EMERGENCIES.set(shared_word());
        // SAFETY: the handlers do what is allowed between a fork's ends: see each.
        let failed = unsafe { libc::pthread_atfork(Some(prepare), Some(in_parent), Some(in_child)) };
        assert_eq!(failed, 0, "the system has no memory for a fork handler");
    });
}

/// Calls `bring_in` before each fork, while pages still come in.
pub fn bring_in_before(bring_in: fn()) {
    let _ = BRING_IN.set(bring_in);
}

/// Whether the fork that has just ended was of a state in between, because a fault had to be answered while
/// it waited. Its child has ended by itself, and the fork can be tried again.
pub fn was_in_between() -> bool {
    emergencies() != EMERGENCIES_BEFORE.load(Ordering::Relaxed)
}

fn emergencies() -> u32 {
    EMERGENCIES.get().map_or(0, |word| word.load(Ordering::Acquire))
}

fn shared_word() -> &'static AtomicU32 {
    use rustix::mm::{MapFlags, ProtFlags};
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice, which stays; zeroes are a valid word.
    unsafe {
        let page = rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, protection, flags);
        &*page.expect("the system has a page for forks").cast::<AtomicU32>()
    }
}

/// The handler's way past a closed gate. A thread that holds a lock of the C library may wait for a page
/// while the forking thread waits for that lock: then the fault is answered, and the fork is tried again.
/// True when the forking thread waits for a lock, so that a fault may be answered now.
pub(crate) fn may_pass() -> bool {
    let thread = FORKING_THREAD.load(Ordering::Acquire);
    if thread == 0 || !crate::pagemap::waits_for_lock(thread) {
        return false;
    }
    if let Some(word) = EMERGENCIES.get() {
        word.fetch_add(1, Ordering::AcqRel);
    }
    true
}

/// Looks after `pager` in forks from now on.
pub(crate) fn enter(pager: &Arc<Pager>) {
    watch();
    lock(&PAGERS).push(pager.clone());
}

/// No longer looks after `pager`.
pub(crate) fn leave(pager: &Pager) {
    lock(&PAGERS).retain(|known| !std::ptr::eq(&raw const **known, pager));
}

/// Before the fork, in the parent: waits until nobody is at work, and keeps it so.
extern "C" fn prepare() {
    HAS_FORKED.store(true, Ordering::Relaxed);
    if let Some(bring_in) = BRING_IN.get() {
        bring_in();
    }
    for pager in lock(&PAGERS).iter() {
        let gate = pager.gate.write().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the pager is kept beside the guard and outlives it.
        let gate: RwLockWriteGuard<'static, ()> = unsafe { std::mem::transmute(gate) };
        lock(&CLOSED).push(Closed { _gate: gate, pager: pager.clone() });
    }
    EMERGENCIES_BEFORE.store(emergencies(), Ordering::Relaxed);
    FORKING_THREAD.store(rustix::thread::gettid().as_raw_nonzero().get() as u32, Ordering::Release);
}

extern "C" fn in_parent() {
    FORKING_THREAD.store(0, Ordering::Release);
    for closed in std::mem::take(&mut *lock(&CLOSED)) {
        closed.pager.chain().forked(ForkSide::Parent);
    }
}

extern "C" fn in_child() {
    FORKING_THREAD.store(0, Ordering::Release);
    if was_in_between() {
        // SAFETY: ends the process, whose tables are a copy of no single moment. The parent tries again.
        unsafe { libc::syscall(libc::SYS_exit_group, 0) };
    }
    for closed in std::mem::take(&mut *lock(&CLOSED)) {
        closed.pager.chain().forked(ForkSide::Child);
        let pager = closed.pager.clone();
        drop(closed);
        let result = match pager.threads_kind() {
            Threads::Ordinary => pager.resume_in_child(),
            Threads::Hidden => resume_apart(pager),
        };
        if let Err(error) = result {
            fail(&error);
        }
    }
}

/// Resumes on a thread that has its own descriptors, and waits for it.
fn resume_apart(pager: Arc<Pager>) -> Result<(), Error> {
    let done = Arc::new((AtomicU32::new(0), Mutex::new(Ok(()))));
    let theirs = done.clone();
    let work = move || {
        *lock(&theirs.1) = pager.resume_in_child();
        theirs.0.store(1, Ordering::Release);
        crate::evict::ring(&theirs.0);
    };
    let thread = crate::threads::spawn_apart("fs-resume", Box::new(work))?;
    while done.0.load(Ordering::Acquire) == 0 {
        crate::evict::wait(&done.0, 0, Duration::from_millis(100));
    }
    thread.join();
    std::mem::replace(&mut *lock(&done.1), Ok(()))
}

/// The child cannot have its memory: it ends before it can read zeroes.
fn fail(error: &Error) -> ! {
    crate::threads::write_stderr(&format!(
        "frontswap: error: {}\n  the child of a fork ends, because it cannot have its pages\n",
        error.message()
    ));
    std::process::abort();
}
