//! The contract: what may take a page, and the five operations that it answers.
//!
//! Implementations live in other crates. The chain calls them; a test may call them directly. The
//! rules B1 to B11 that the method comments name are in `docs/contract.md`.

use crate::error::Error;
use crate::key::{Area, Bytes, Key, Pages};
use crate::page::Page;

/// The answer to a store. A rejection is an answer, not an error (rule B3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The page has been copied and can be loaded until it is overwritten or invalidated.
    Accepted,
    /// The page was not taken, and the backend now holds nothing for its key (rule B4).
    Rejected(Reject),
}

/// The answer to a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// The buffer holds the page.
    Loaded,
    /// Nothing is held for that key; the buffer is as it was.
    Missing,
}

/// Why a page was not taken. Every reason is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reject {
    /// No room within the capacity.
    Full,
    /// The owner is over its quota.
    Quota,
    /// The page does not compress and this backend keeps none that do not.
    CompressPoor,
    /// The pool takes no new pages for now.
    Frozen,
    /// The other side does not answer.
    Unreachable,
    /// The area is not initialised here, or was invalidated (rule B6).
    NoArea,
    /// The backend is broken, or is being removed.
    Closing,
    /// There is no backend at all (rule F12).
    NoBackend,
    /// A reason of the backend's own, or a test that injects rejections.
    Other,
}

impl Reject {
    /// Every reason, in the order of its number.
    pub const ALL: [Reject; 9] = [
        Reject::Full,
        Reject::Quota,
        Reject::CompressPoor,
        Reject::Frozen,
        Reject::Unreachable,
        Reject::NoArea,
        Reject::Closing,
        Reject::NoBackend,
        Reject::Other,
    ];

    /// The name of its counter.
    pub fn name(self) -> &'static str {
        match self {
            Reject::Full => "reject_full",
            Reject::Quota => "reject_quota",
            Reject::CompressPoor => "reject_compress_poor",
            Reject::Frozen => "reject_frozen",
            Reject::Unreachable => "reject_unreachable",
            Reject::NoArea => "reject_no_area",
            Reject::Closing => "reject_closing",
            Reject::NoBackend => "reject_no_backend",
            Reject::Other => "reject_other",
        }
    }

    /// The reason with that counter name, if there is one.
    pub fn from_name(name: &str) -> Option<Reject> {
        Reject::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// Which of the two processes after a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkSide {
    /// The one that forked.
    Parent,
    /// The new one, with a copy of everything.
    Child,
}

/// What a backend is, fixed for its life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Its kind, the word of `--backend`: `zpool`, `ram`, `file`, ...
    pub kind: String,
    /// Where it keeps pages, when that is a place: a directory, an address. Empty otherwise.
    pub place: String,
    /// It can lose pages (rule B2), and so needs writethrough (rule F6).
    pub is_volatile: bool,
    /// It is on a disk: the last of a chain.
    pub is_slow: bool,
}

impl Description {
    /// Its name in messages: the kind, and the place where it has one.
    pub fn name(&self) -> String {
        if self.place.is_empty() { self.kind.clone() } else { format!("{}:{}", self.kind, self.place) }
    }
}

/// What a backend holds and what that costs, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Keys that load.
    pub stored_pages: Pages,
    /// Bytes of what it keeps for them, without overhead: compressed where it compresses.
    pub compr_data_size: Bytes,
    /// Every byte of RAM it takes: objects, fragmentation, tables, staging.
    pub mem_used_total: Bytes,
    /// Bytes on a disk that are taken by pages.
    pub disk_used_total: Bytes,
    /// The capacity. RAM for a backend in RAM, disk for one on a disk; `u64::MAX` when it has none.
    pub mem_limit: Bytes,
    /// Times that a page was rejected because the capacity was reached.
    pub pool_limit_hit: u64,
    /// Bytes of pages that it wants handed down now, to get below its capacity with a reserve.
    /// Zero when it has room.
    pub pressure: Bytes,
    /// Bytes above the capacity itself. Zero when it fits (rule B7).
    pub excess: Bytes,
}

/// Something that may take a page.
///
/// Everything is synchronous: when a call returns, it has happened. Calls on different keys run in
/// parallel; two calls on one key never do, the chain sees to that (rule B9).
pub trait Backend: Send + Sync {
    /// Begins an area of `pages` pages. Areas that were invalidated may begin again.
    ///
    /// # Errors
    /// The backend cannot serve this area at all; nothing has changed.
    fn init(&self, area: Area, pages: Pages) -> Result<(), Error>;

    /// Offers one page. Accepted means copied (B1) and kept (B2). Rejected means that nothing is
    /// held for the key, not even an older copy (B4).
    ///
    /// # Errors
    /// It is broken: it takes no pages any more. What it held still loads, as far as it can.
    fn store(&self, key: Key, page: &Page) -> Result<Answer, Error>;

    /// Copies a page out and leaves it (B5).
    ///
    /// # Errors
    /// The page is held but cannot be given back. Never zeroes, never old bytes (B10).
    fn load(&self, key: Key, out: &mut Page) -> Result<Loaded, Error>;

    /// Forgets one page. Cannot fail; forgetting what is not held is fine (B6).
    fn invalidate_page(&self, key: Key);

    /// Forgets a whole area. Cannot fail; stores to it are rejected until [`Backend::init`] (B6).
    fn invalidate_area(&self, area: Area);

    /// What it is.
    fn describe(&self) -> Description;

    /// What it holds.
    fn usage(&self) -> Usage;

    /// Changes the capacity, also to below what is held: then new pages are rejected, and
    /// [`Usage::excess`] says how much the chain should hand down (B7).
    ///
    /// # Errors
    /// The capacity cannot be had; it is what it was.
    fn set_capacity(&self, capacity: Bytes) -> Result<(), Error>;

    /// Appends up to `want` keys that it holds to `victims`, the coldest it can find within bounded
    /// work. Fewer, or none, is an answer.
    fn coldest(&self, want: usize, victims: &mut Vec<Key>);

    /// Does one bounded piece of housekeeping (compaction, giving memory back). True when there is
    /// more to do.
    fn maintain(&self) -> bool {
        false
    }

    /// The process has forked, and no thread was inside a call of this backend at that moment. In the
    /// child there is only the thread that forked. Told on both sides before any other call, and only by
    /// an owner that goes on in the child; without that, the child's backends are not used.
    fn forked(&self, _side: ForkSide) {}

    /// Counters of its own, beyond [`Usage`]: name and value.
    fn details(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
