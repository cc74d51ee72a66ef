//! Which areas are initialised: one bit each, so that a store looks at one word.

use std::sync::atomic::{AtomicU64, Ordering};

use frontswap::key::Area;

/// A set of area numbers.
pub struct AreaSet(Box<[AtomicU64]>);

impl Default for AreaSet {
    fn default() -> Self {
        AreaSet((0..(1 << 16) / 64).map(|_| AtomicU64::new(0)).collect())
    }
}

impl AreaSet {
    /// Bytes that every set takes.
    pub const BYTES: u64 = (1 << 16) / 8;

    /// Adds an area.
    pub fn insert(&self, area: Area) {
        self.word(area).fetch_or(Self::bit(area), Ordering::AcqRel);
    }

    /// Removes an area; true when it was in.
    pub fn remove(&self, area: Area) -> bool {
        self.word(area).fetch_and(!Self::bit(area), Ordering::AcqRel) & Self::bit(area) != 0
    }

    /// Whether an area is in.
    pub fn contains(&self, area: Area) -> bool {
        self.word(area).load(Ordering::Acquire) & Self::bit(area) != 0
    }

    fn word(&self, area: Area) -> &AtomicU64 {
        &self.0[usize::from(area.0) / 64]
    }

    fn bit(area: Area) -> u64 {
        1 << (area.0 % 64)
    }
}
