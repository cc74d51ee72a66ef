//! How long single accesses took, kept as counts in buckets of 3 percent.

use std::time::Duration;

/// Buckets of one power of two. Their width is what a percentile may be off by.
const STEPS: usize = 32;
const STEPS_BITS: u32 = STEPS.ilog2();

/// Nanoseconds, counted by size.
pub struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    pub fn new() -> Histogram {
        Histogram { counts: vec![0; (65 - STEPS_BITS as usize) * STEPS] }
    }

    pub fn add(&mut self, took: Duration) {
        self.counts[bucket(took.as_nanos() as u64)] += 1;
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// How many took longer than this.
    pub fn slower_than(&self, least: Duration) -> u64 {
        self.counts[bucket(least.as_nanos() as u64) + 1..].iter().sum()
    }

    /// Among those that took longer than `least`, what this share of them took at most; 0 without any.
    pub fn quantile_of_slower(&self, least: Duration, share: f64) -> u64 {
        let first = bucket(least.as_nanos() as u64) + 1;
        let mut left = (self.slower_than(least) as f64 * share).ceil() as u64;
        for (at, count) in self.counts.iter().enumerate().skip(first) {
            if *count >= left {
                return if left == 0 { 0 } else { bound(at) };
            }
            left -= count;
        }
        0
    }

    /// The buckets that are not empty, as `[nanoseconds, count]` in JSON.
    pub fn json(&self) -> String {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let pairs: Vec<_> = filled.map(|(at, count)| format!("[{}, {count}]", bound(at))).collect();
        format!("[{}]", pairs.join(", "))
    }
}

/// Small numbers have a bucket each; above, the highest six bits choose it.
fn bucket(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(STEPS_BITS + 1);
    (shift as usize * STEPS) + (nanos >> shift) as usize
}

/// The largest number in a bucket.
fn bound(bucket: usize) -> u64 {
    let shift = (bucket / STEPS).saturating_sub(1);
    (((bucket - shift * STEPS) as u64 + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_where_the_next_begins() {
        for at in 0..1000 {
            assert_eq!(bucket(bound(at)), at);
            assert_eq!(bucket(bound(at) + 1), at + 1);
        }
    }

    #[test]
    fn quantiles_are_of_the_slow_ones_alone() {
        let mut histogram = Histogram::new();
        for micros in (0..90).map(|_| 1).chain(101..=110) {
            histogram.add(Duration::from_micros(micros));
        }
        let least = Duration::from_micros(2);
        assert_eq!(histogram.slower_than(least), 10);
        for (share, micros) in [(0.1, 101), (0.5, 105), (0.99, 110)] {
            let nanos = histogram.quantile_of_slower(least, share) as f64;
            assert!((1.0..1.04).contains(&(nanos / 1000.0 / f64::from(micros))), "{nanos}");
        }
    }
}
