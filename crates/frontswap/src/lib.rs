//! The frontswap layer: a page that must leave its owner is offered, in order, to a chain of
//! backends, and comes back bit for bit.
//!
//! Read in this order: [`backend`] is the contract, the five operations that a backend answers;
//! [`chain`] is the layer itself, which decides where a page goes and never loses it; [`place`] is
//! the table of states that a page can be in; [`table`] holds one entry per page, and the lock of its key.
//!
//! This crate knows no Python and makes no system call of its own: locks and the one worker thread
//! are the standard library's. It has no `unsafe`.

#![forbid(unsafe_code)]

pub mod backend;
pub mod budget;
pub mod chain;
pub mod counters;
pub mod error;
pub mod key;
pub mod key_lock;
pub mod member;
pub mod page;
pub mod place;
pub mod table;
pub mod worker;

pub use backend::{Answer, Backend, Description, ForkSide, Loaded, Reject, Usage};
pub use chain::{Chain, ChainOptions, Refreshed, Stored, Whereabouts};
pub use error::{Error, Kind};
pub use key::{Area, Bytes, Key, Offset, Pages};
pub use member::Member;
pub use page::{Checksum, PAGE_SIZE, Page};
pub use worker::Housekeeping;
