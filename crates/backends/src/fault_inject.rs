//! A backend that wraps another and makes it misbehave by a seed: it rejects, delays, fails and
//! damages pages, as often as it is told. For tests of everything that stands above a backend.
//!
//! What happens to a call depends on the seed, the key, and how many calls there were before: one
//! thread sees the same faults in every run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use frontswap::backend::{Answer, Backend, Description, ForkSide, Loaded, Reject, Usage};
use frontswap::error::{Error, Kind};
use frontswap::key::{Area, Bytes, Key, Pages};
use frontswap::page::{PAGE_SIZE, Page};

/// How often each fault happens; parts of 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Where the sequence of faults begins.
    pub seed: u64,
    /// Stores that are rejected.
    pub reject: f64,
    /// How long every store and load takes longer.
    pub delay: Duration,
    /// Stores that break the backend.
    pub store_error: f64,
    /// Loads that fail although the page is there.
    pub load_error: f64,
    /// Loads of which one bit is wrong.
    pub corrupt: f64,
}

/// A backend with faults.
pub struct FaultInject {
    inner: Arc<dyn Backend>,
    faults: Faults,
    calls: AtomicU64,
    injected: [AtomicU64; 4],
}

impl FaultInject {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Backend>, faults: Faults) -> Self {
        FaultInject { inner, faults, calls: AtomicU64::new(0), injected: Default::default() }
    }

    /// Whether fault number `which` of the given likelihood happens to this call.
    fn happens(&self, which: usize, likelihood: f64, call: u64) -> bool {
        if likelihood <= 0.0 {
            return false;
        }
        let part = mix(self.faults.seed ^ mix(call.wrapping_mul(4).wrapping_add(which as u64))) >> 11;
        let happens = (part as f64 / (1u64 << 53) as f64) < likelihood;
        if happens {
            self.injected[which].fetch_add(1, Ordering::Relaxed);
        }
        happens
    }

    fn begin_call(&self) -> u64 {
        if !self.faults.delay.is_zero() {
            std::thread::sleep(self.faults.delay);
        }
        self.calls.fetch_add(1, Ordering::Relaxed)
    }
}

/// The finaliser of SplitMix64.
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

impl Backend for FaultInject {
    fn init(&self, area: Area, pages: Pages) -> Result<(), Error> {
        self.inner.init(area, pages)
    }

    fn store(&self, key: Key, page: &Page) -> Result<Answer, Error> {
        let call = self.begin_call();
        if self.happens(0, self.faults.reject, call) {
            // Rule B4: a rejection leaves nothing behind.
            self.inner.invalidate_page(key);
            return Ok(Answer::Rejected(Reject::Other));
        }
        if self.happens(1, self.faults.store_error, call) {
            self.inner.invalidate_page(key);
            let fields: [(&'static str, &dyn std::fmt::Display); 2] =
                [("backend", &self.describe().name()), ("reason", &"an injected fault")];
            return Err(Error::new(Kind::BackendBroken, &fields));
        }
        self.inner.store(key, page)
    }

    fn load(&self, key: Key, out: &mut Page) -> Result<Loaded, Error> {
        let call = self.begin_call();
        let mut page = Page::ZERO;
        let answer = self.inner.load(key, &mut page)?;
        if answer == Loaded::Missing {
            return Ok(answer);
        }
        if self.happens(2, self.faults.load_error, call) {
            let fields: [(&'static str, &dyn std::fmt::Display); 4] = [
                ("backend", &self.describe().name()),
                ("area", &key.area),
                ("offset", &key.offset),
                ("reason", &"an injected fault"),
            ];
            return Err(Error::new(Kind::PageUnreadable, &fields));
        }
        if self.happens(3, self.faults.corrupt, call) {
            let bit = mix(self.faults.seed ^ call) as usize % (PAGE_SIZE * 8);
            page.0[bit / 8] ^= 1 << (bit % 8);
        }
        *out = page;
        Ok(answer)
    }

    fn invalidate_page(&self, key: Key) {
        self.inner.invalidate_page(key);
    }

    fn invalidate_area(&self, area: Area) {
        self.inner.invalidate_area(area);
    }

    fn describe(&self) -> Description {
        let inner = self.inner.describe();
        Description { kind: "fault_inject".to_owned(), place: inner.kind.clone(), ..inner }
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn set_capacity(&self, capacity: Bytes) -> Result<(), Error> {
        self.inner.set_capacity(capacity)
    }

    fn coldest(&self, want: usize, victims: &mut Vec<Key>) {
        self.inner.coldest(want, victims);
    }

    fn maintain(&self) -> bool {
        self.inner.maintain()
    }

    fn forked(&self, side: ForkSide) {
        self.inner.forked(side);
    }

    fn details(&self) -> Vec<(&'static str, u64)> {
        let names =
            ["injected_rejects", "injected_store_errors", "injected_load_errors", "injected_corruptions"];
        let counts = self.injected.iter().map(|count| count.load(Ordering::Relaxed));
        names.into_iter().zip(counts).chain(self.inner.details()).collect()
    }
}
