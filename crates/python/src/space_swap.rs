//! The swap file of a space: one that a process and its children of fork share.
//!
//! A child reads what was written before the fork, and both write from then on; so each may only use the
//! clusters that it has claimed. Who has which is in the memory of a tree of processes, which is made for
//! this file alone; the RAM of each process stays its own.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use frontswap::error::{Error, Kind};
use frontswap::key::Bytes;
use frontswap_backends::file::create_file;
use frontswap_backends::{CLUSTER_BYTES, ClusterClaims, SwapFile};
use frontswap_pager::{Membership, Tree};

use crate::lifetime::gate;

/// The memberships of this process, to be told of forks. Locked behind the gate of forks.
static MEMBERSHIPS: Mutex<Vec<Weak<Membership>>> = Mutex::new(Vec::new());

/// The clusters of one process.
struct Clusters(Arc<Membership>);

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

impl Drop for Clusters {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Makes a swap file that children of fork can go on with.
///
/// # Errors
/// The place cannot hold it, it is below 1 MiB, or the system has no memory for the tree.
pub fn create(directory: &Path, size: Bytes, direct: bool) -> Result<SwapFile, Error> {
    let clusters = u32::try_from(size.0 / CLUSTER_BYTES).unwrap_or(u32::MAX);
    let file = create_file(directory, size, direct)?;
    let tree = Tree::create(0, "", Some((file.as_raw_fd() as u32, clusters)))?;
    // Programs that this one starts have no business with it.
    // SAFETY: sets a flag of a descriptor that the tree owns.
    unsafe { libc::fcntl(tree.file().as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    let full = || {
        let fields: [(&'static str, &dyn std::fmt::Display); 2] =
            [("operation", &"share a swap file"), ("reason", &"its tree is full")];
        Error::new(Kind::Internal, &fields)
    };
    let membership = Arc::new(Membership::join(tree).ok_or_else(full)?);
    {
        let _gate = gate();
        let mut memberships = MEMBERSHIPS.lock().unwrap_or_else(PoisonError::into_inner);
        memberships.retain(|membership| membership.strong_count() > 0);
        memberships.push(Arc::downgrade(&membership));
    }
    SwapFile::shared(file, Arc::new(Clusters(membership)))
}

fn each(work: impl Fn(&Membership)) {
    let memberships = MEMBERSHIPS.lock().unwrap_or_else(PoisonError::into_inner);
    memberships.iter().filter_map(Weak::upgrade).for_each(|membership| work(&membership));
}

/// The process is about to fork. Called at the gate.
pub fn before_fork() {
    each(Membership::note_fork);
}

/// This is the child of a fork. Called at the gate, before pages come and go.
pub fn in_child() {
    each(|membership| {
        // A tree has room for a thousand processes. In one more the file takes no pages, and gives none of
        // the parent's out wrongly: their checksums tell.
        membership.join_in_child();
    });
}
