//! The pager: decides when a page leaves a process, takes it out, and brings it back.
//!
//! Read in this order: [`page_state`] is the table of what a page can be; [`uffd`] is the one file that
//! calls userfaultfd; [`fault`] answers a fault, [`evict`] takes pages out; [`pager`] holds what they
//! share. A fault comes by [`signal`] (in the faulting thread) or by [`handler`] (a thread of ours, which
//! also learns what the program does to its memory). [`tree`] is the budget that processes share.
//!
//! Lock order: the gate of forks, the evictor's turn, the lock of events, extents, one chunk, then what
//! the chain locks. Nothing here calls Python, and a faulting thread may hold any lock but these.

pub mod budget;
pub mod chunks;
pub mod counters;
pub mod evict;
pub mod extents;
pub mod fault;
pub mod fork;
pub mod growth;
pub mod handler;
pub mod options;
pub mod page_state;
pub mod pagemap;
pub mod pager;
mod ration;
pub mod signal;
pub mod staging;
pub mod streams;
pub mod threads;
pub mod tree;
pub mod uffd;

pub use budget::{Accounting, Budget, Own, Share, Usage};
pub use options::{Mode, PagerOptions, Threads};
pub use pager::{Pager, PagerStats};
pub use tree::{Membership, Tree};
