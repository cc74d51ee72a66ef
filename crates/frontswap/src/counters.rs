//! Counters under the kernel's names: of the chain, of every area, of every backend.
//!
//! An event is counted once (rule B8). The counts are spread over cells by key, so that threads on
//! different pages do not fight over a cache line; a sum over the cells is exact once calls return.
//! What must be exact at any moment (`stored_pages`) is one number of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::Reject;
use crate::key::Key;

/// Cells per set. More would only help more threads than machines of this size run.
const CELLS: usize = 16;

/// What is counted, in the order of the cells' numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Event {
    /// A page was loaded.
    Load,
    /// A load found nothing.
    LoadMissing,
    /// A store was accepted.
    SuccStore,
    /// A store was rejected.
    FailedStore,
    /// A page that was held was invalidated by its owner. A backend counts here whenever it is told to
    /// forget a page for its owner's sake: after an exclusive load too, and when a page that it has is
    /// stored again and another is asked first.
    Invalidate,
    /// A page went down the chain, out of this backend.
    WrittenBack,
    /// A page came up the chain.
    Promoted,
    /// A page was held and could not be given back.
    LoadError,
    /// A page was offered anew, and was held with these very bytes.
    Kept,
}

const EVENTS: usize = 9;

/// A set of counters.
#[derive(Default)]
pub struct Counters {
    cells: [Cell; CELLS],
    stored_pages: AtomicU64,
    same_filled_pages: AtomicU64,
}

#[derive(Default)]
#[repr(align(128))]
struct Cell {
    events: [AtomicU64; EVENTS],
    rejects: [AtomicU64; Reject::ALL.len()],
}

/// A reading of [`Counters`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Loads that returned a page.
    pub loads: u64,
    /// Loads that found nothing.
    pub loads_missing: u64,
    /// Loads of a page that was held and could not be given back.
    pub load_errors: u64,
    /// Stores that were accepted.
    pub succ_stores: u64,
    /// Stores that were rejected.
    pub failed_stores: u64,
    /// Pages that were offered anew and were held as they are, so that nothing was stored.
    pub kept_pages: u64,
    /// Pages that were invalidated.
    pub invalidates: u64,
    /// Pages held now.
    pub stored_pages: u64,
    /// Of these, pages of one repeated word, which take no backend space.
    pub same_filled_pages: u64,
    /// Pages that were demoted.
    pub written_back_pages: u64,
    /// Pages that were promoted.
    pub promoted_pages: u64,
    /// Rejections by reason, in the order of [`Reject::ALL`].
    pub rejects: [u64; Reject::ALL.len()],
}

impl Counters {
    /// Counts one event on `key`.
    pub fn count(&self, key: Key, event: Event) {
        self.cell(key).events[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one rejected store of `key`.
    pub fn reject(&self, key: Key, reason: Reject) {
        let cell = self.cell(key);
        cell.events[Event::FailedStore as usize].fetch_add(1, Ordering::Relaxed);
        cell.rejects[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// One more page is held.
    pub fn page_came(&self) {
        self.stored_pages.fetch_add(1, Ordering::Relaxed);
    }

    /// One page less is held.
    pub fn page_went(&self) {
        self.stored_pages.fetch_sub(1, Ordering::Relaxed);
    }

    /// Of the pages held, one more (or less) is same-filled.
    pub fn same_filled(&self, came: bool) {
        if came {
            self.same_filled_pages.fetch_add(1, Ordering::Relaxed);
        } else {
            self.same_filled_pages.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Pages held now; exact at any time (rule F9).
    pub fn stored_pages(&self) -> u64 {
        self.stored_pages.load(Ordering::Relaxed)
    }

    /// Of the pages held, those of one repeated word.
    pub fn same_filled_pages(&self) -> u64 {
        self.same_filled_pages.load(Ordering::Relaxed)
    }

    /// The sums.
    pub fn read(&self) -> Counts {
        let sum = |event: Event| {
            self.cells.iter().map(|cell| cell.events[event as usize].load(Ordering::Relaxed)).sum()
        };
        let mut rejects = [0; Reject::ALL.len()];
        for cell in &self.cells {
            for (total, count) in rejects.iter_mut().zip(&cell.rejects) {
                *total += count.load(Ordering::Relaxed);
            }
        }
        Counts {
            loads: sum(Event::Load),
            loads_missing: sum(Event::LoadMissing),
            load_errors: sum(Event::LoadError),
            succ_stores: sum(Event::SuccStore),
            failed_stores: sum(Event::FailedStore),
            kept_pages: sum(Event::Kept),
            invalidates: sum(Event::Invalidate),
            stored_pages: self.stored_pages(),
            same_filled_pages: self.same_filled_pages(),
            written_back_pages: sum(Event::WrittenBack),
            promoted_pages: sum(Event::Promoted),
            rejects,
        }
    }

    fn cell(&self, key: Key) -> &Cell {
        &self.cells[key.spread() % CELLS]
    }
}
