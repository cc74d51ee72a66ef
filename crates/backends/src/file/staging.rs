//! Pages that were accepted and are not on the disk yet, and the promise that each gets a slot.
//!
//! A page is staged into the *open* batch. A full batch is queued; a writer takes it, chooses slots,
//! writes them and finishes the batch, which is then spare again. `State` holds every count of the
//! backend that must agree with another one; it is under one mutex, held for a few dozen instructions
//! and never across I/O. The bytes are elsewhere, one buffer per batch: see `Shared`.
//!
//! A batch that is not full stays open, however long. Its memory is fixed, so writing it early would
//! free nothing, and a page that dies meanwhile costs no I/O at all.

use std::collections::VecDeque;

use frontswap::Key;

use super::claims::Slots;
use super::io::Fault;
use super::slots::CLUSTER_SLOTS;

/// Pages in a batch: what one cluster of the file takes.
pub(super) const BATCH_PAGES: usize = CLUSTER_SLOTS;

const BATCH_WORDS: usize = BATCH_PAGES / 64;

/// Where a staged page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub batch: usize,
    pub index: usize,
}

/// Whether a page can be staged now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It can, and a slot for it is certain.
    Room,
    /// The capacity is reached.
    Full,
    /// When a write that is under way has ended.
    Later,
    /// Never again: a write failed.
    Broken,
}

/// When the ceiling is as low as the capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lowered {
    /// It is.
    Now,
    /// When batches that wait to be written were written, and this was tried again.
    AfterFlush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Spare,
    Open,
    Queued,
    Writing,
}

struct Batch {
    phase: Phase,
    keys: Vec<Key>,
    /// One bit per page that was not forgotten since.
    alive: [u64; BATCH_WORDS],
}

/// One page of a batch that is being written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flushed {
    pub index: usize,
    pub key: Key,
    pub slot: u32,
}

/// The counts of the backend.
///
/// Invariants, with `taken` = slots taken in `slots`:
/// `held` = pages that load; `reserved` = alive pages of batches that are open or queued;
/// `dying` = dead pages of batches that are being written, which have a slot until the write ends;
/// `held` - `reserved` + `dying` = `taken`; `reserved` <= `slots.available()`;
/// `capacity` <= `slots.ceiling()`; every batch is in exactly one phase, at most one is open.
/// The child of a fork begins with less: its parent's slots are among `held` and not among `taken`, and
/// what it has staged may have no slot for certain. It stays staged until there is one.
pub(super) struct State {
    pub slots: Slots,
    /// Pages that may be held. Below the ceiling only until [`State::lower_ceiling`] has worked.
    pub capacity: u32,
    pub held: u32,
    reserved: u32,
    dying: u32,
    batches: Vec<Batch>,
    open: Option<usize>,
    spare: Vec<usize>,
    queue: VecDeque<usize>,
    /// Why no write is tried any more.
    pub broken: Option<Fault>,
    pub is_stopping: bool,
}

impl State {
    pub(super) fn new(slots: Slots, batches: usize) -> Self {
        let batch =
            || Batch { phase: Phase::Spare, keys: Vec::with_capacity(BATCH_PAGES), alive: [0; BATCH_WORDS] };
        State {
            capacity: slots.ceiling(),
            slots,
            held: 0,
            reserved: 0,
            dying: 0,
            batches: (0..batches).map(|_| batch()).collect(),
            open: None,
            spare: (0..batches).collect(),
            queue: VecDeque::with_capacity(batches),
            broken: None,
            is_stopping: false,
        }
    }

    /// Whether one more page can be staged.
    pub(super) fn admit(&mut self) -> Admission {
        if self.broken.is_some() {
            return Admission::Broken;
        }
        if self.held >= self.capacity {
            return Admission::Full;
        }
        let has_slot = self.slots.ensure(self.reserved + 1);
        if !has_slot && self.slots.shared().is_some() {
            // Whatever is freed may go to another process.
            return Admission::Full;
        }
        if has_slot && self.has_batch() { Admission::Room } else { Admission::Later }
    }

    /// Whether a page that is held in a slot can be staged, to get another slot.
    pub(super) fn can_move(&self) -> bool {
        self.broken.is_none() && self.reserved < self.slots.available() && self.has_batch()
    }

    fn has_batch(&self) -> bool {
        self.open.is_some() || !self.spare.is_empty()
    }

    /// Gives a place to one more page. The caller was admitted under this same lock, copies the page
    /// and sets its entry before anybody can lock its key, and wakes a writer if true is returned.
    pub(super) fn stage(&mut self, key: Key) -> (Position, bool) {
        let batch = *self.open.get_or_insert_with(|| {
            let batch = self.spare.pop().expect("an admitted page has a batch");
            self.batches[batch].phase = Phase::Open;
            batch
        });
        let pages = &mut self.batches[batch];
        let index = pages.keys.len();
        pages.keys.push(key);
        pages.alive[index / 64] |= 1 << (index % 64);
        self.held += 1;
        self.reserved += 1;
        let is_full = index + 1 == BATCH_PAGES;
        if is_full {
            self.close_batch();
        }
        (Position { batch, index }, is_full)
    }

    fn close_batch(&mut self) {
        if let Some(batch) = self.open.take() {
            self.batches[batch].phase = Phase::Queued;
            self.queue.push_back(batch);
        }
    }

    /// Forgets a staged page. When its write has not begun, none is needed.
    pub(super) fn forget_staged(&mut self, position: Position) {
        let batch = &mut self.batches[position.batch];
        let bit = 1 << (position.index % 64);
        debug_assert_ne!(batch.alive[position.index / 64] & bit, 0, "a staged page was forgotten twice");
        batch.alive[position.index / 64] &= !bit;
        self.held -= 1;
        if batch.phase == Phase::Writing {
            self.dying += 1;
        } else {
            self.reserved -= 1;
        }
    }

    /// Forgets a page that is in a slot.
    pub(super) fn forget_slot(&mut self, slot: u32) {
        self.held -= 1;
        self.slots.release(slot);
    }

    /// The next batch to write: its number, with its pages in `pages`, in the order of their slots.
    /// `slots` is working space. `None` when none is queued, or when there are no slots for one.
    pub(super) fn begin_flush(&mut self, pages: &mut Vec<Flushed>, slots: &mut Vec<u32>) -> Option<usize> {
        let number = *self.queue.front()?;
        let batch = &mut self.batches[number];
        pages.clear();
        for (index, key) in batch.keys.iter().enumerate() {
            if batch.alive[index / 64] >> (index % 64) & 1 != 0 {
                pages.push(Flushed { index, key: *key, slot: 0 });
            }
        }
        if !self.slots.ensure(pages.len() as u32) {
            return None;
        }
        batch.phase = Phase::Writing;
        self.queue.pop_front();
        slots.clear();
        self.slots.take(pages.len(), slots);
        self.reserved -= pages.len() as u32;
        for (page, slot) in pages.iter_mut().zip(&*slots) {
            page.slot = *slot;
        }
        Some(number)
    }

    /// Ends a flush: `dead` are those of its pages that were forgotten before their entry named a slot.
    pub(super) fn finish_flush(&mut self, number: usize, dead: &[Flushed]) {
        dead.iter().for_each(|page| self.slots.release(page.slot));
        self.dying -= dead.len() as u32;
        let batch = &mut self.batches[number];
        batch.phase = Phase::Spare;
        batch.keys.clear();
        batch.alive = [0; BATCH_WORDS];
        self.spare.push(number);
    }

    /// Brings the ceiling down to the capacity, as soon as every staged page finds a slot below it.
    /// Until then the open batch is closed, so that it is written.
    pub(super) fn lower_ceiling(&mut self) -> Lowered {
        if let Some(map) = self.slots.own().filter(|map| map.ceiling() > self.capacity) {
            if map.available_below(self.capacity) < self.reserved {
                self.close_batch();
                return Lowered::AfterFlush;
            }
            map.set_ceiling(self.capacity);
        }
        Lowered::Now
    }

    /// Uses clusters of a shared file again that no child reads any more, and gives empty ones back.
    pub(super) fn tidy_clusters(&mut self) {
        if let Some(claimed) = self.slots.shared() {
            claimed.thaw();
            claimed.shed(self.reserved);
        }
    }

    /// Batches that nobody uses.
    pub(super) fn spare(&self) -> &[usize] {
        &self.spare
    }

    /// Alive pages in batches.
    pub(super) fn staged_pages(&self) -> u64 {
        self.batches.iter().flat_map(|batch| batch.alive).map(|word| u64::from(word.count_ones())).sum()
    }

    /// Bytes that all of this takes.
    pub(super) fn bytes(&self) -> u64 {
        let batch = size_of::<Batch>() + BATCH_PAGES * size_of::<Key>() + 2 * size_of::<usize>();
        self.slots.bytes() + (self.batches.len() * batch + size_of::<State>()) as u64
    }

    /// Checks the invariants that involve several parts.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let taken = match &self.slots {
            Slots::Own(map) => map.ceiling() - map.available() + map.tail(),
            Slots::Shared(claimed) => {
                claimed.check();
                claimed.taken()
            }
        };
        assert_eq!(self.held + self.dying, taken + self.reserved);
        assert!(self.reserved <= self.slots.available(), "{} of {}", self.reserved, self.slots.available());
        assert!(self.capacity <= self.slots.ceiling());
    }
}
