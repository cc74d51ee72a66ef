//! Joining the tree, watching what the program uses, and making the pager when it gets tight.
//!
//! Lock order: `STAGE`, then what the pager locks.

use std::ffi::CStr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use frontswap::error::Error;
use frontswap_pager::budget::{Accounting, Budget, Share, Usage};
use frontswap_pager::pagemap::Meter;
use frontswap_pager::{Membership, Mode, Pager, PagerOptions, Threads, Tree, fork, growth, pagemap, threads};
use rustix::fs::{Mode as FileMode, OFlags};

use crate::settings::Settings;
use crate::swap;

/// The environment's word for the tree: a path, and after a semicolon the number of the same descriptor
/// as it was inherited.
const VARIABLE: &CStr = c"FRONTSWAP_TREE";

/// What a program can touch in a millisecond, and how often the watch looks.
const TOUCH_BYTES_PER_MS: u64 = 8_000_000;
const PAUSE_MIN: Duration = Duration::from_micros(500);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Kept free: what may be touched between two looks.
const RESERVE_DIVISOR: u64 = 16;
const RESERVE_BYTES_MIN: u64 = 4 << 20;
const RESERVE_BYTES_MAX: u64 = 32 << 20;

/// A process among many gets this part of what pools may take at least.
const POOL_PART_MIN: u64 = 8;

static MEMBERSHIP: OnceLock<&'static Membership> = OnceLock::new();
static PAGER: OnceLock<Arc<Pager>> = OnceLock::new();

/// How far this process is. Held across a fork.
static STAGE: Mutex<Stage> = Mutex::new(Stage { watcher: None, cannot: false });

struct Stage {
    watcher: Option<threads::Thread>,
    /// Making a pager has failed, and has been told.
    cannot: bool,
}

/// The pager, once there is one.
pub fn pager() -> Option<&'static Arc<Pager>> {
    PAGER.get()
}

/// Joins the tree that the environment names.
pub fn begin() {
    // SAFETY: called before the program's own code; nobody changes the environment yet.
    let variable = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    if variable.is_null() {
        return;
    }
    // SAFETY: a string of the environment, copied at once.
    let word = unsafe { CStr::from_ptr(variable) }.to_string_lossy().into_owned();
    let membership = match open_tree(&word) {
        Ok(tree) => match Membership::join(tree) {
            Some(membership) => membership,
            None => return warn("its tree has too many processes"),
        },
        Err(error) => return warn(error.message()),
    };
    keep_apart_what_is_here();
    let _ = MEMBERSHIP.set(Box::leak(Box::new(membership)));
    // SAFETY: the handlers do what is allowed between a fork's ends: see each.
    let failed = unsafe {
        libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child))
    };
    if failed != 0 {
        return warn("the system has no memory for a fork handler");
    }
    // After ours: a child joins the tree before its pager goes on.
    fork::watch();
    fork::bring_in_before(bring_in_streams);
    start_watching(&mut stage());
}

/// Leaves the tree: the process ends in an orderly way.
pub fn end() {
    if let Some(membership) = MEMBERSHIP.get() {
        membership.leave();
    }
}

/// Before a fork: the C library resets the locks of its streams in the child before our handlers run, and
/// the records of streams are in the heap.
fn bring_in_streams() {
    // SAFETY: names and types of the C library's own, which have not changed since its version 2.1.
    unsafe extern "C" {
        static _IO_list_all: *mut Stream;
        fn _IO_list_lock();
        fn _IO_list_unlock();
    }
    // The beginning of `struct _IO_FILE`: what lies before its chain and its lock.
    #[repr(C)]
    struct Stream {
        flags: i32,
        pointers: [usize; 12],
        chain: *mut Stream,
        file: [i32; 2],
        old_offset: i64,
        column: [u8; 8],
        lock: *mut u64,
    }
    if pager().is_none() {
        return;
    }
    // SAFETY: the C library's own list under its own lock; reading a word of each brings its pages in.
    unsafe {
        _IO_list_lock();
        let mut stream = _IO_list_all;
        while let Some(record) = stream.as_ref() {
            if !record.lock.is_null() {
                record.lock.read_volatile();
            }
            stream = record.chain;
        }
        _IO_list_unlock();
    }
}

fn stage() -> MutexGuard<'static, Stage> {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says on stderr that this process is not managed.
fn warn(reason: &str) {
    let text = format!("frontswap: warning: process {} runs unmanaged: {reason}\n", std::process::id());
    threads::write_stderr(&text);
}

fn open_tree(word: &str) -> Result<Tree, Error> {
    let (path, number) = word.split_once(';').unwrap_or((word, ""));
    let by_path = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty())
        .ok()
        .and_then(|file| Tree::open(file).ok());
    if let Some(tree) = by_path {
        return Ok(tree);
    }
    // SAFETY: duplicates a number; one that is not open is an error, and another file is refused by its head.
    let copy = unsafe { libc::fcntl(number.parse().unwrap_or(-1), libc::F_DUPFD_CLOEXEC, 3) };
    let copy = if copy < 0 {
        rustix::fs::memfd_create("none", rustix::fs::MemfdFlags::CLOEXEC).ok()
    } else {
        // SAFETY: the copy is new and nobody else's.
        Some(unsafe { OwnedFd::from_raw_fd(copy) })
    };
    match copy {
        Some(file) => Tree::open(file),
        None => {
            Err(Error::new(frontswap::Kind::PagerFailed, &[("operation", &"join a tree"), ("reason", &path)]))
        }
    }
}

/// What is mapped before the program begins is the loader's and the C library's: thread records, and
/// memory that a fork's child uses before it has its pages.
fn keep_apart_what_is_here() {
    let _ = pagemap::each_mapping(|mapping| {
        if mapping.is_movable && !mapping.is_heap {
            growth::keep_apart(&(mapping.start..mapping.end));
        }
    });
}

fn start_watching(stage: &mut Stage) {
    match threads::spawn_apart("fs-watch", Box::new(watch)) {
        Ok(thread) => stage.watcher = Some(thread),
        Err(error) => warn(error.message()),
    }
}

fn settings(membership: &Membership) -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| Settings::read(&membership.tree().settings()))
}

fn budget(membership: &'static Membership) -> Budget {
    struct Shared(&'static Membership);
    impl Share for Shared {
        fn limit_bytes(&self) -> u64 {
            self.0.limit_bytes()
        }
        fn set_limit_bytes(&self, bytes: u64) {
            self.0.set_limit_bytes(bytes);
        }
        fn others_bytes(&self) -> u64 {
            self.0.others_bytes()
        }
        fn has_relatives(&self) -> bool {
            self.0.has_relatives()
        }
        fn publish(&self, usage: &Usage) {
            self.0.publish(usage);
        }
        fn counters(&self) -> &frontswap_pager::counters::Counters {
            self.0.counters()
        }
        fn latencies(&self) -> &frontswap_pager::counters::Latencies {
            self.0.latencies()
        }
        fn pool_limit_bytes(&self) -> Option<u64> {
            let most = settings(self.0).pool_bytes_max(self.limit_bytes());
            let others = self.0.others_pool_bytes();
            Some(most.saturating_sub(others).max(most / POOL_PART_MIN))
        }
        fn part_1024(&self) -> u64 {
            self.0.part_1024()
        }
    }
    let limit = membership.limit_bytes();
    Budget {
        share: Arc::new(Shared(membership)),
        accounting: Accounting::Process,
        reserve_bytes: (limit / RESERVE_DIVISOR).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX),
    }
}

/// The watch: measures, tells the others, and makes the pager when the tree is above its high mark.
fn watch() {
    let Some(&membership) = MEMBERSHIP.get() else { return };
    let Ok(meter) = Meter::open() else { return };
    let marks = budget(membership);
    loop {
        let used = meter.bytes(membership.has_relatives());
        membership.publish(&Usage { used_bytes: used, resident_bytes: used, ..Usage::default() });
        let total = used + membership.others_bytes();
        let high = marks.watermarks().high_bytes;
        if total > high {
            let mut stage = stage();
            if stage.cannot || make_pager(&mut stage, membership) {
                return;
            }
        }
        let pause = Duration::from_millis(high.saturating_sub(total) / TOUCH_BYTES_PER_MS);
        std::thread::sleep(pause.clamp(PAUSE_MIN, PAUSE_MAX));
    }
}

/// Makes the pager. True when there is one.
fn make_pager(stage: &mut Stage, membership: &'static Membership) -> bool {
    let pager = settings(membership).chain(membership).and_then(|chain| {
        Pager::new(PagerOptions {
            mode: Mode::Handler,
            threads: Threads::Hidden,
            chain,
            budget: budget(membership),
            reopen: Some(reopen),
        })
    });
    match pager {
        Ok(pager) => PAGER.set(pager).is_ok(),
        Err(error) => {
            stage.cannot = true;
            warn(error.message());
            false
        }
    }
}

/// Opens what the chain needs in a child of fork.
fn reopen() -> Result<(), Error> {
    let tree = MEMBERSHIP.get().map(|membership| membership.tree());
    match tree.and_then(|tree| Some((tree, tree.swap_place()?))) {
        Some((tree, (process, fd))) => swap::reopen(tree, process, fd),
        None => Ok(()),
    }
}

/// Held from before a fork until after it, so that no pager is half made.
static HELD: Mutex<Option<Held>> = Mutex::new(None);
struct Held(MutexGuard<'static, Stage>);
// SAFETY: let go by the thread that took it, in the parent and in the child.
unsafe impl Send for Held {}

extern "C" fn before_fork() {
    let guard = stage();
    if let Some(membership) = MEMBERSHIP.get() {
        membership.note_fork();
    }
    *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Held(guard));
}

extern "C" fn after_fork_in_parent() {
    drop(HELD.lock().unwrap_or_else(PoisonError::into_inner).take());
}

extern "C" fn after_fork_in_child() {
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (Some(mut held), Some(membership)) = (held, MEMBERSHIP.get()) else { return };
    if !membership.join_in_child() {
        warn("its tree has too many processes");
    }
    if let Some(watcher) = held.0.watcher.take() {
        watcher.forget();
    }
    if pager().is_none() {
        start_watching(&mut held.0);
    }
}
