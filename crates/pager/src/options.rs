//! How a pager is set up.

use std::sync::Arc;

use frontswap::{Chain, Error};

use crate::budget::Budget;

/// Who answers a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The faulting thread itself, in a handler of SIGBUS. Needs no permission; a system call on a page
    /// that is out fails with EFAULT, so its pages are pinned first.
    Signal,
    /// A thread of ours. System calls work as ever; needs permission for full userfaultfd.
    Handler,
}

/// What the pager's threads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Ordinary ones.
    Ordinary,
    /// Unknown to the C library, for a program whose heap is managed: see [`crate::threads`].
    Hidden,
}

/// How a pager is set up; fixed for its life, but for the budget's limit.
#[derive(Clone)]
pub struct PagerOptions {
    /// Who answers faults.
    pub mode: Mode,
    /// What its threads are.
    pub threads: Threads,
    /// Where pages go. It has no worker of its own: the pager does its housekeeping.
    pub chain: Arc<Chain>,
    /// How much RAM there is, and who shares it.
    pub budget: Budget,
    /// Opens what the chain needs in a child of fork, whose hidden threads begin without descriptors.
    pub reopen: Option<fn() -> Result<(), Error>>,
}
