//! The tree's swap file, as one process sees it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use frontswap::error::{Error, Kind};
use frontswap_backends::ClusterClaims;
use frontswap_pager::{Membership, Tree};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Opens the file that `process` has open as `fd`. A process that cannot look there has inherited it under
/// that number, or is told.
///
/// # Errors
/// Neither way leads to it.
pub fn open(tree: &Tree, process: u32, fd: u32) -> Result<OwnedFd, Error> {
    let file = open_now(tree, process, fd)?;
    NUMBER.store(file.as_raw_fd(), Ordering::Relaxed);
    Ok(file)
}

fn open_now(tree: &Tree, process: u32, fd: u32) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{process}/fd/{fd}");
    let by_path = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::DIRECT, Mode::empty())
        .or_else(|_| rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()));
    let by_path =
        by_path.and_then(|file| if tree.is_swap_file(&file) { Ok(file) } else { Err(Errno::STALE) });
    by_path.or_else(|errno| inherited(fd).filter(|file| tree.is_swap_file(file)).ok_or(errno)).map_err(
        |errno| {
            let fields: [(&'static str, &dyn std::fmt::Display); 2] = [("place", &path), ("reason", &errno)];
            Error::new(Kind::SwapFileOpen, &fields).with_errno(Some(errno.raw_os_error()))
        },
    )
}

/// The number that the file has in the table of our threads, in this process and in children of fork.
static NUMBER: AtomicI32 = AtomicI32::new(-1);

/// Opens the file as `number` again, in a child of fork.
///
/// # Errors
/// As for [`open`].
pub fn reopen(tree: &Tree, process: u32, fd: u32) -> Result<(), Error> {
    let number = NUMBER.load(Ordering::Relaxed);
    let file = open_now(tree, process, fd)?;
    if number >= 0 && file.as_raw_fd() != number {
        // SAFETY: the number is free in this table, or the file's own from before.
        unsafe { libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC) };
    } else {
        std::mem::forget(file);
    }
    Ok(())
}

/// A descriptor that this process has from its parent, as one of its own.
fn inherited(fd: u32) -> Option<OwnedFd> {
    // SAFETY: duplicates a number; one that is not open is an error.
    let copy = unsafe { libc::fcntl(fd as i32, libc::F_DUPFD_CLOEXEC, 3) };
    // SAFETY: the copy is new and nobody else's.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) })
}

/// This process's clusters.
pub struct Clusters(pub &'static Membership);

impl ClusterClaims for Clusters {
    fn clusters(&self) -> u32 {
        self.0.tree().clusters().len() as u32
    }

    fn claim(&self) -> Option<u32> {
        self.0.claim_cluster()
    }

    fn release(&self, cluster: u32) {
        self.0.release_cluster(cluster);
    }

    fn has_heirs(&self) -> bool {
        self.0.has_heirs()
    }
}
