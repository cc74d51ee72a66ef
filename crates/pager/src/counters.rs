//! What a pager counts: events, and how long faults took.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of one process, in the order in which a tree's memory has them.
        #[repr(C)]
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64,)* }

        impl Counters {
            /// Their names.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// Each with its name.
            pub fn all(&self) -> [(&'static str, &AtomicU64); Self::NAMES.len()] {
                [$((stringify!($name), &self.$name),)*]
            }
        }
    };
}

counters! {
    /// Faults that were answered.
    faults,
    /// Faults on pages that had been evicted.
    refaults,
    /// Pages of zeroes that were mapped.
    zero_faults,
    /// Pages that were brought from the chain, those ahead of need included.
    loads,
    /// Pages that left the process.
    evicted_pages,
    /// Evicted pages whose copy in the chain was still right.
    kept_pages,
    /// Evicted pages that the chain took anew.
    succ_stores,
    /// Pages that nobody took, so they stayed.
    failed_stores,
    /// Pages that a device holds, or a fork shares, when they were to leave.
    busy_pages,
    /// Faults that had to wait for room.
    throttled,
    /// Faults that were answered although there was no room.
    over_limit,
    /// Pages that could not be given back.
    page_errors,
    /// Nanoseconds spent answering faults.
    fault_ns_total,
}

/// Adds `count` to a counter.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Four buckets for each power of two, from 64 ns to 64 s.
pub const BUCKETS: usize = 120;
const FIRST_LOG2: u32 = 6;

/// A histogram of durations.
#[repr(C)]
#[derive(Debug)]
pub struct Latencies([AtomicU64; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Latencies([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Latencies {
    /// Counts one duration.
    pub fn record(&self, ns: u64) {
        self.0[bucket(ns)].fetch_add(1, Ordering::Relaxed);
    }

    /// Adds what another has counted.
    pub fn add(&self, other: &Latencies) {
        for (mine, theirs) in self.0.iter().zip(&other.0) {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// The duration that `percent` of the counted ones do not exceed, within 19 %; 0 when there is none.
    pub fn percentile_ns(&self, percent: u64) -> u64 {
        let counts = self.0.each_ref().map(|count| count.load(Ordering::Relaxed));
        let total: u64 = counts.iter().sum();
        let mut below = 0;
        for (index, count) in counts.iter().enumerate() {
            below += count;
            if total > 0 && below * 100 >= total * percent {
                return upper_ns(index);
            }
        }
        0
    }
}

fn bucket(ns: u64) -> usize {
    let ns = ns.max(1 << FIRST_LOG2);
    let log2 = ns.ilog2();
    let quarter = (ns >> (log2 - 2)) & 3;
    (((log2 - FIRST_LOG2) * 4 + quarter as u32) as usize).min(BUCKETS - 1)
}

fn upper_ns(bucket: usize) -> u64 {
    let log2 = FIRST_LOG2 + bucket as u32 / 4;
    (5 + bucket as u64 % 4) << (log2 - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_quarter() {
        let latencies = Latencies::default();
        for ns in 1..=1000u64 {
            latencies.record(ns * 100);
        }
        for (percent, exact) in [(50, 50_000), (99, 99_000)] {
            let found = latencies.percentile_ns(percent);
            assert!(found >= exact && found <= exact * 5 / 4, "{percent}: {found}");
        }
        assert_eq!(Latencies::default().percentile_ns(99), 0);
    }
}
