//! The memory behind spans: who has some, who keeps some ready, and what goes back to the system.
//!
//! A span is one unit of 16 KiB, or four in one piece. Address space is never short: small spans are cut
//! from large ones and stay small. Memory is: it is counted here, and never goes above what the caller
//! allows.
//!
//! Invariant: `units` = units that were taken and not put back + units that are ready.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use frontswap::error::Error;

use crate::arena::Arena;

/// Bytes of the smallest span; spans are named by the number of their first unit.
pub const UNIT_BYTES: usize = 16 << 10;
/// Units of a large span: 64 KiB, of which even slots of 4096 bytes waste nothing.
pub const LARGE_UNITS: u32 = 4;
/// Bytes of a large span.
pub const LARGE_BYTES: usize = LARGE_UNITS as usize * UNIT_BYTES;
/// What the owner of a span keeps about each unit of it, at most.
pub const RECORD_BYTES: usize = 72;

/// Empty units that are kept at hand, so that a page that goes and another that comes cost no system
/// call: one for every 128 in use, within these.
const READY_UNITS_MIN: u64 = 1;
const READY_UNITS_MAX: u64 = 16;
/// Large spans that are made ready ahead of a pool that grows: 1 MiB, and as many at a time.
const AHEAD_SPANS_MAX: usize = 16;
const AHEAD_SPANS_STEP: usize = 4;

/// Spans of one size that nobody has.
#[derive(Default)]
struct Spare {
    /// With memory behind them.
    ready: Vec<u32>,
    /// Without.
    bare: Vec<u32>,
}

#[derive(Default)]
struct Stock {
    small: Spare,
    large: Spare,
    /// Units from here on were never used.
    fresh: u32,
}

/// The spans of one arena.
pub struct Spans {
    arena: Arena,
    stock: Mutex<Stock>,
    /// Units with memory behind them.
    units: AtomicU64,
    /// Large spans that were taken so far.
    large_taken: AtomicU64,
}

impl Spans {
    /// Room for `bytes` of spans, with no memory behind them yet; `inherit` as for [`Arena::reserve`].
    ///
    /// # Errors
    /// The address space cannot be reserved.
    pub fn new(backend: &str, bytes: usize, inherit: bool) -> Result<Self, Error> {
        Ok(Spans {
            arena: Arena::reserve(backend, bytes.next_multiple_of(LARGE_BYTES), inherit)?,
            stock: Mutex::default(),
            units: AtomicU64::new(0),
            large_taken: AtomicU64::new(0),
        })
    }

    /// Where the bytes are: a span begins at its number times [`UNIT_BYTES`].
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Bytes of memory behind spans, and what describes them at most.
    pub fn memory_bytes(&self) -> u64 {
        self.units.load(Ordering::Relaxed) * Self::bytes_of(1)
    }

    /// What `units` add to [`Spans::memory_bytes`].
    pub fn bytes_of(units: u32) -> u64 {
        u64::from(units) * (UNIT_BYTES + RECORD_BYTES) as u64
    }

    /// A span with memory behind it; `None` when that would take [`Spans::memory_bytes`] above the limit.
    pub fn take(&self, units: u32, memory_bytes_max: u64) -> Option<u32> {
        let ready = self.stock().spare(units).ready.pop();
        let id = match ready {
            Some(id) => id,
            None if self.memory_bytes() + Self::bytes_of(units) > memory_bytes_max => return None,
            None => self.commit(units)?,
        };
        self.large_taken.fetch_add(u64::from(units == LARGE_UNITS), Ordering::Relaxed);
        Some(id)
    }

    /// Gives a span back, to be kept at hand or to the system.
    pub fn put_back(&self, id: u32, units: u32) {
        let mut stock = self.stock();
        let ready = stock.small.ready.len() + stock.large.ready.len() * LARGE_UNITS as usize;
        let ready_max = (self.units.load(Ordering::Relaxed) / 128).clamp(READY_UNITS_MIN, READY_UNITS_MAX);
        if ready as u64 + u64::from(units) <= ready_max {
            stock.spare(units).ready.push(id);
            return;
        }
        drop(stock);
        self.release(id, units);
    }

    /// Large spans that were taken so far: the pool grows when this does.
    pub fn large_taken(&self) -> u64 {
        self.large_taken.load(Ordering::Relaxed)
    }

    /// Puts memory behind some spans that a growing pool will take next, so that no store has to wait
    /// for the system to clear it. True when there may be more to do.
    pub fn make_ready(&self, memory_bytes_max: u64) -> bool {
        for _ in 0..AHEAD_SPANS_STEP {
            let ready = self.stock().large.ready.len();
            let ahead_bytes = Self::bytes_of(LARGE_UNITS) * AHEAD_SPANS_MAX as u64;
            if ready >= AHEAD_SPANS_MAX || self.memory_bytes() + ahead_bytes > memory_bytes_max {
                return false;
            }
            let Some(id) = self.commit(LARGE_UNITS) else { return false };
            self.stock().large.ready.push(id);
        }
        true
    }

    /// Gives what was made ready for a pool that no longer grows back to the system.
    pub fn forget_ready(&self) {
        let mut stock = self.stock();
        let kept = stock.large.ready.len().min(1);
        let spare = stock.large.ready.split_off(kept);
        drop(stock);
        spare.iter().for_each(|span| self.release(*span, LARGE_UNITS));
    }

    /// Gives every span that is ready back to the system; true when there were any.
    pub fn release_ready(&self) -> bool {
        let mut stock = self.stock();
        let small = std::mem::take(&mut stock.small.ready);
        let large = std::mem::take(&mut stock.large.ready);
        drop(stock);
        small.iter().for_each(|span| self.release(*span, 1));
        large.iter().for_each(|span| self.release(*span, LARGE_UNITS));
        !small.is_empty() || !large.is_empty()
    }

    fn commit(&self, units: u32) -> Option<u32> {
        let id = self.stock().take_bare(units, self.arena.length())?;
        self.units.fetch_add(u64::from(units), Ordering::Relaxed);
        if !self.arena.commit(id as usize * UNIT_BYTES, units as usize * UNIT_BYTES) {
            self.units.fetch_sub(u64::from(units), Ordering::Relaxed);
            self.stock().spare(units).bare.push(id);
            return None;
        }
        Some(id)
    }

    fn release(&self, id: u32, units: u32) {
        self.arena.release(id as usize * UNIT_BYTES, units as usize * UNIT_BYTES);
        self.stock().spare(units).bare.push(id);
        self.units.fetch_sub(u64::from(units), Ordering::Relaxed);
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    fn spare(&mut self, units: u32) -> &mut Spare {
        if units == 1 { &mut self.small } else { &mut self.large }
    }

    /// A span without memory; a small one is cut from a large one when there is none.
    fn take_bare(&mut self, units: u32, arena_bytes: usize) -> Option<u32> {
        if let Some(id) = self.spare(units).bare.pop() {
            return Some(id);
        }
        if units == 1 {
            let id = self.take_bare(LARGE_UNITS, arena_bytes)?;
            self.small.bare.extend((id + 1..id + LARGE_UNITS).rev());
            return Some(id);
        }
        let id = self.fresh;
        let is_within = (id + LARGE_UNITS) as usize * UNIT_BYTES <= arena_bytes;
        self.fresh += if is_within { LARGE_UNITS } else { 0 };
        is_within.then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_was_taken_and_what_is_ready() {
        let spans = Spans::new("test", 1 << 20, false).unwrap();
        let plenty = u64::MAX;
        let small: Vec<_> = (0..5).map(|_| spans.take(1, plenty).unwrap()).collect();
        let large = spans.take(LARGE_UNITS, plenty).unwrap();
        assert_eq!(spans.memory_bytes(), Spans::bytes_of(9));
        assert!(spans.take(1, spans.memory_bytes()).is_none(), "the limit holds");
        spans.put_back(large, LARGE_UNITS);
        small.iter().for_each(|id| spans.put_back(*id, 1));
        assert!(spans.memory_bytes() <= Spans::bytes_of(1));
        spans.release_ready();
        assert_eq!(spans.memory_bytes(), 0);
        assert!(!spans.release_ready());
    }

    #[test]
    fn the_arena_ends() {
        let spans = Spans::new("test", 2 * LARGE_BYTES, false).unwrap();
        let taken: Vec<_> = std::iter::from_fn(|| spans.take(1, u64::MAX)).collect();
        assert_eq!(taken.len(), 8);
        assert!(spans.take(LARGE_UNITS, u64::MAX).is_none());
    }

    #[test]
    fn a_growing_pool_finds_memory_ready() {
        let spans = Spans::new("test", 8 << 20, false).unwrap();
        while spans.make_ready(u64::MAX) {}
        let ready = spans.memory_bytes();
        assert_eq!(ready, Spans::bytes_of(LARGE_UNITS * AHEAD_SPANS_MAX as u32));
        spans.take(LARGE_UNITS, 0).expect("it is there already");
        assert_eq!((spans.memory_bytes(), spans.large_taken()), (ready, 1));
        spans.forget_ready();
        assert_eq!(spans.memory_bytes(), Spans::bytes_of(2 * LARGE_UNITS));
    }
}
