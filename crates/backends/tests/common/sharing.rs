//! Real forks, and what processes of a test share: numbers to wait for, and the clusters of a file.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use frontswap_backends::{CLUSTER_BYTES, ClusterClaims, SwapFile};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

// SAFETY: these are the C library's own functions, with its types.
unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
    fn kill(process: i32, signal: i32) -> i32;
    fn _exit(status: i32) -> !;
}

const WNOHANG: i32 = 1;
const SIGKILL: i32 = 9;
const PATIENCE: Duration = Duration::from_secs(20);

/// A child of fork.
pub struct Child(i32);

impl Child {
    /// Forks; the child runs `life`, which may panic, and ends. The test is alone in its process, or the
    /// other threads hold no lock that `life` wants.
    pub fn run(life: impl FnOnce()) -> Child {
        // SAFETY: the child runs nothing but `life`, and ends without anything of the parent's.
        let child = unsafe { fork() };
        if child == 0 {
            let result = catch_unwind(AssertUnwindSafe(life));
            if let Err(panic) = &result {
                // What the hook for panics prints goes into a buffer of the parent's test.
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                let _ = writeln!(std::io::stderr(), "in the child: {text}");
            }
            // SAFETY: the child ends here.
            unsafe { _exit(i32::from(result.is_err())) };
        }
        assert!(child > 0, "the system forks no more");
        Child(child)
    }

    /// Waits for the end of the child, which must be a good one.
    #[track_caller]
    pub fn join(self) {
        let start = Instant::now();
        let mut status = 0;
        while start.elapsed() < PATIENCE {
            // SAFETY: the child is ours, and the pointer is to a number.
            if unsafe { waitpid(self.0, &mut status, WNOHANG) } == self.0 {
                assert_eq!(status, 0, "the child crashed, or found what it should not");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // SAFETY: the child is ours and has not been waited for, so the number is still its own.
        unsafe {
            kill(self.0, SIGKILL);
            waitpid(self.0, &mut status, 0);
        }
        panic!("the child hung");
    }
}

/// A number that processes share.
#[derive(Clone, Copy)]
pub struct Step(&'static AtomicU32);

impl Step {
    pub fn new() -> Self {
        Step(&shared_numbers(1)[0])
    }

    pub fn set(self, step: u32) {
        self.0.store(step, Ordering::Release);
    }

    #[track_caller]
    pub fn wait(self, step: u32) {
        let start = Instant::now();
        while self.0.load(Ordering::Acquire) < step {
            assert!(start.elapsed() < PATIENCE, "step {step} never came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Numbers that a fork shares, never unmapped: a test has a few.
fn shared_numbers(count: usize) -> &'static [AtomicU32] {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing; it is zeroed, aligned to a
    // page, long enough, and stays.
    unsafe {
        let numbers = rustix::mm::mmap_anonymous(ptr::null_mut(), count * 4, protection, flags).unwrap();
        std::slice::from_raw_parts(numbers.cast(), count)
    }
}

/// The clusters of one file, each with the number of the process that has it, and the living heirs of one
/// process.
#[derive(Clone, Copy)]
pub struct Claims {
    owners: &'static [AtomicU32],
    /// The process that forked, and its heirs.
    parent: &'static AtomicU32,
    heirs: &'static AtomicU32,
}

impl Claims {
    pub fn new(clusters: usize) -> Self {
        let numbers = shared_numbers(clusters + 2);
        Claims { owners: &numbers[2..], parent: &numbers[0], heirs: &numbers[1] }
    }

    /// This process forks, and has `heirs` living heirs from now on.
    pub fn set_heirs(self, heirs: u32) {
        self.parent.store(std::process::id(), Ordering::Release);
        self.heirs.store(heirs, Ordering::Release);
    }

    /// The clusters of `process`.
    pub fn of(self, process: u32) -> Vec<usize> {
        let all = self.owners.iter().enumerate();
        all.filter(|(_, owner)| owner.load(Ordering::Acquire) == process).map(|(number, _)| number).collect()
    }

    /// The clusters of this process.
    pub fn own(self) -> Vec<usize> {
        self.of(std::process::id())
    }

    /// The file that these are the clusters of.
    pub fn swap_file(self) -> Arc<SwapFile> {
        Arc::new(SwapFile::shared(self.file(), Arc::new(self)).expect("a file of that length"))
    }

    fn file(self) -> OwnedFd {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR).unwrap();
        let length = self.owners.len() as u64 * CLUSTER_BYTES;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length).unwrap();
        file
    }
}

impl ClusterClaims for Claims {
    fn clusters(&self) -> u32 {
        self.owners.len() as u32
    }

    fn claim(&self) -> Option<u32> {
        let (order, me) = (Ordering::AcqRel, std::process::id());
        let take = |owner: &AtomicU32| owner.compare_exchange(0, me, order, Ordering::Relaxed).is_ok();
        self.owners.iter().position(take).map(|number| number as u32)
    }

    fn release(&self, cluster: u32) {
        let owner = self.owners[cluster as usize].swap(0, Ordering::AcqRel);
        assert_eq!(owner, std::process::id(), "cluster {cluster} is another process's");
    }

    fn has_heirs(&self) -> bool {
        self.parent.load(Ordering::Acquire) == std::process::id() && self.heirs.load(Ordering::Acquire) > 0
    }
}
