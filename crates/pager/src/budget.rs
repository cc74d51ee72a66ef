//! How much RAM there is, who shares it, and how much is used.
//!
//! Used is everything: pages in the process, pages in the staging, what the backends in RAM take, and
//! what is known of them. It is measured on the evictor's clock and kept up to date between by what is
//! filled and dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use frontswap::page::PAGE_SIZE;

use crate::counters::{Counters, Latencies};

/// One process's view of a limit that it may share with others.
pub trait Share: Send + Sync {
    /// Bytes of RAM for all that share.
    fn limit_bytes(&self) -> u64;

    /// Sets it.
    fn set_limit_bytes(&self, bytes: u64);

    /// Bytes that the others use now.
    fn others_bytes(&self) -> u64;

    /// Whether another process may share memory with this one since a fork.
    fn has_relatives(&self) -> bool;

    /// Tells the others what this process uses.
    fn publish(&self, usage: &Usage);

    /// Where this process counts.
    fn counters(&self) -> &Counters;

    /// Where durations of faults are counted.
    fn latencies(&self) -> &Latencies;

    /// Bytes of RAM that this process's chain may take now; None when its owner sees to that.
    fn pool_limit_bytes(&self) -> Option<u64>;

    /// The part that this process should give of what all together must, in 1024ths.
    fn part_1024(&self) -> u64;
}

/// What one process uses, for the others to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of RAM, everything counted.
    pub used_bytes: u64,
    /// Those of them that are pages of the program.
    pub resident_bytes: u64,
    /// Bytes of address space that are managed.
    pub registered_bytes: u64,
    /// Pages in the chain, copies of resident ones included.
    pub stored_pages: u64,
    /// Bytes of RAM that the chain takes.
    pub mem_used_total: u64,
    /// Bytes of disk that it takes.
    pub disk_used_total: u64,
}

/// How the used bytes of this process are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounting {
    /// By what the pager fills and drops: it manages a part of the process, from the first touch.
    Counted,
    /// By the kernel's count of resident anonymous memory: it manages a whole program.
    Process,
}

/// A limit and the way to count against it.
#[derive(Clone)]
pub struct Budget {
    /// Whose limit.
    pub share: Arc<dyn Share>,
    /// How to count.
    pub accounting: Accounting,
    /// Bytes kept free ahead of need, so that a fault finds room: what may be touched while the
    /// evictor sleeps.
    pub reserve_bytes: u64,
}

/// A limit of one's own.
#[derive(Default)]
pub struct Own {
    limit_bytes: AtomicU64,
    counters: Counters,
    latencies: Latencies,
}

impl Own {
    /// A limit of `bytes`.
    pub fn new(bytes: u64) -> Self {
        Own { limit_bytes: AtomicU64::new(bytes), ..Own::default() }
    }
}

impl Share for Own {
    fn limit_bytes(&self) -> u64 {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    fn set_limit_bytes(&self, bytes: u64) {
        self.limit_bytes.store(bytes, Ordering::Relaxed);
    }

    fn others_bytes(&self) -> u64 {
        0
    }

    fn has_relatives(&self) -> bool {
        false
    }

    fn publish(&self, _usage: &Usage) {}

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    fn pool_limit_bytes(&self) -> Option<u64> {
        None
    }

    fn part_1024(&self) -> u64 {
        1024
    }
}

/// What is used, between two measurements.
#[derive(Debug, Default)]
pub struct Used {
    /// What does not change by a fill or a drop.
    base_bytes: AtomicI64,
    resident_pages: AtomicI64,
    others_bytes: AtomicU64,
}

impl Used {
    /// Counts pages that came into the process.
    pub fn filled(&self, pages: u64) {
        self.resident_pages.fetch_add(pages as i64, Ordering::Relaxed);
    }

    /// Counts pages whose memory was given back.
    pub fn dropped(&self, pages: u64) {
        self.resident_pages.fetch_sub(pages as i64, Ordering::Relaxed);
    }

    /// Resident pages, staged ones included; in a whole program, the change since the beginning.
    pub fn resident_pages(&self) -> i64 {
        self.resident_pages.load(Ordering::Relaxed)
    }

    /// Sets what was measured: by the kernel all of it, or what is beside the counted pages.
    pub fn measured(&self, accounting: Accounting, bytes: u64, others_bytes: u64) {
        let counted = self.resident_pages() * PAGE_SIZE as i64;
        let base = match accounting {
            Accounting::Counted => bytes as i64,
            Accounting::Process => bytes as i64 - counted,
        };
        self.base_bytes.store(base, Ordering::Relaxed);
        self.others_bytes.store(others_bytes, Ordering::Relaxed);
    }

    /// Bytes that are used beside what was counted.
    pub fn base_bytes(&self) -> i64 {
        self.base_bytes.load(Ordering::Relaxed)
    }

    /// Bytes used by this process.
    pub fn own_bytes(&self) -> u64 {
        let counted = self.resident_pages() * PAGE_SIZE as i64;
        (self.base_bytes.load(Ordering::Relaxed) + counted).max(0) as u64
    }

    /// Bytes used by all that share.
    pub fn total_bytes(&self) -> u64 {
        self.own_bytes() + self.others_bytes.load(Ordering::Relaxed)
    }
}

/// Marks in the used bytes. Eviction starts above *high* and stops below *low*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// No fault is answered above it, if it can be helped.
    pub limit_bytes: u64,
    /// Above it the evictor works.
    pub high_bytes: u64,
    /// Down to it.
    pub low_bytes: u64,
}

impl Budget {
    /// The marks for the limit of now.
    pub fn watermarks(&self) -> Watermarks {
        let limit_bytes = self.share.limit_bytes();
        let reserve = self.reserve_bytes.min(limit_bytes / 8);
        let high_bytes = limit_bytes - reserve;
        Watermarks { limit_bytes, high_bytes, low_bytes: high_bytes - reserve / 2 }
    }
}
