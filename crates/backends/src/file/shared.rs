//! What callers and writers of one swap file share, and the work on it that is not a call of the
//! contract: staging, forgetting, and keeping the file as short as its capacity.
//!
//! Lock order: housekeeping, an entry of the table, `State`, a buffer; each may be skipped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use frontswap::table::{Entry, LEAF_PAGES, PageTable};
use frontswap::{Answer, Area, Error, Kind, Reject};

use crate::area_set::AreaSet;

use super::claims::Slots;
use super::io::{AlignedPage, AlignedPages, Fault, PageFile};
use super::slots::SlotMap;
use super::staging::{Admission, BATCH_PAGES, Lowered, Position, State};

/// Batches of 1 MiB: two being written, one being filled, and some between, so that neither the
/// stores nor the disk waits while the other has a bad moment.
pub(super) const BATCHES: usize = 6;

/// Leaves of the table that one walk looks at: 65536 entries, about a millisecond.
const WALK_LEAVES_MAX: usize = 512;

/// Pages that one piece of housekeeping moves.
const MOVE_PAGES_MAX: usize = BATCH_PAGES;

/// Clusters whose space one piece of housekeeping gives back.
const GIVE_BACK_CLUSTERS_MAX: usize = 16;

/// Forgotten pages after which leaves of the table without pages are looked for.
const TRIM_PAGES: u64 = 64 * LEAF_PAGES as u64;

/// See the file's header.
pub(super) struct Shared {
    pub file: PageFile,
    /// As errors call this backend.
    pub name: String,
    pub table: PageTable<1>,
    pub areas: AreaSet,
    pub state: Mutex<State>,
    /// A batch was queued, or everything stops.
    pub work: Condvar,
    /// A batch became spare, slots became free, or the backend broke.
    pub space: Condvar,
    /// Threads of ours write the batches. Without them, those who call do.
    pub has_writers: bool,
    /// The bytes of each batch; without writers, of those that are in use. Written only while the batch is open. A writer holds one for reading
    /// while it writes to the disk; nobody wants to write to it then, so that nobody waits.
    buffers: Vec<RwLock<AlignedPages>>,
    /// Held while the space of the file changes, so that nothing is given back that is in use again.
    pub housekeeping: Mutex<Hand>,
    pub coldest: Mutex<Hand>,
    pub counts: Counts,
}

/// What happened, for `details`.
#[derive(Default)]
pub(super) struct Counts {
    pub pool_limit_hit: AtomicU64,
    pub clusters_written: AtomicU64,
    pub runs_written: AtomicU64,
    pub pages_written: AtomicU64,
    pub pages_read: AtomicU64,
    pub pages_moved: AtomicU64,
    /// Pages forgotten since leaves were last trimmed.
    forgotten: AtomicU64,
}

/// Where a walk over the table goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hand {
    shard: usize,
    leaf: usize,
    index: usize,
}

/// Where a page is: the payload of its entry. Bits 0 and 1 are the lock's; [`HELD`] tells slot 0
/// from a vacant entry; 28 bits number a slot or a position in the batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Staged(Position),
    Slot(u32),
}

const HELD: u32 = 1 << 2;
const STAGED: u32 = 1 << 3;
const NUMBER_SHIFT: u32 = 4;

impl Location {
    /// What `entry` says, or `None` when it is vacant.
    pub(super) fn of(entry: &Entry<'_, 1>) -> Option<Location> {
        let [word] = entry.get();
        let number = word >> NUMBER_SHIFT;
        match (word & HELD != 0, word & STAGED != 0) {
            (false, _) => None,
            (true, false) => Some(Location::Slot(number)),
            (true, true) => {
                let (batch, index) = (number as usize / BATCH_PAGES, number as usize % BATCH_PAGES);
                Some(Location::Staged(Position { batch, index }))
            }
        }
    }

    /// The word for an entry.
    pub(super) fn word(self) -> u32 {
        match self {
            Location::Slot(slot) => HELD | slot << NUMBER_SHIFT,
            Location::Staged(Position { batch, index }) => {
                HELD | STAGED | ((batch * BATCH_PAGES + index) as u32) << NUMBER_SHIFT
            }
        }
    }
}

impl Shared {
    pub(super) fn new(file: PageFile, name: String, slots: Slots, has_writers: bool) -> Self {
        let pages = if has_writers { BATCH_PAGES } else { 0 };
        Shared {
            file,
            name,
            table: PageTable::default(),
            areas: AreaSet::default(),
            state: Mutex::new(State::new(slots, BATCHES)),
            has_writers,
            work: Condvar::new(),
            space: Condvar::new(),
            buffers: (0..BATCHES).map(|_| RwLock::new(AlignedPages::new(pages))).collect(),
            housekeeping: Mutex::default(),
            coldest: Mutex::default(),
            counts: Counts::default(),
        }
    }

    pub(super) fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a batch, to read.
    pub(super) fn buffer(&self, batch: usize) -> RwLockReadGuard<'_, AlignedPages> {
        self.buffers[batch].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every byte of RAM that this backend takes.
    pub(super) fn memory_bytes(&self) -> u64 {
        let buffers: u64 = (0..BATCHES).map(|batch| self.buffer(batch).bytes()).sum();
        buffers + AreaSet::BYTES + self.lock_state().bytes() + self.table.bytes()
    }

    /// Why a page of `area` would not be taken, if that is known without its entry.
    pub(super) fn refusal(&self, area: Area) -> Option<Answer> {
        if !self.areas.contains(area) {
            return Some(Answer::Rejected(Reject::NoArea));
        }
        (self.lock_state().admit() == Admission::Full).then(|| self.reject_full())
    }

    /// Counts and answers that the capacity is reached.
    pub(super) fn reject_full(&self) -> Answer {
        self.counts.pool_limit_hit.fetch_add(1, Ordering::Relaxed);
        Answer::Rejected(Reject::Full)
    }

    /// Stages a page that was admitted under `state`, and makes `entry` name it. What the entry named
    /// before was forgotten.
    pub(super) fn stage(&self, mut state: MutexGuard<'_, State>, entry: &mut Entry<'_, 1>, bytes: &[u8]) {
        let (position, is_full) = state.stage(entry.key());
        // Taken before the state is let go: who writes this batch to the disk comes after the copy.
        let mut buffer = self.buffers[position.batch].write().unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if buffer.bytes() == 0 {
            *buffer = AlignedPages::new(BATCH_PAGES);
        }
        buffer.page_mut(position.index).copy_from_slice(bytes);
        drop(buffer);
        entry.set([Location::Staged(position).word()]);
        if is_full {
            self.work.notify_one();
        }
    }

    /// Forgets what `entry` names and makes it vacant.
    pub(super) fn forget(&self, entry: &mut Entry<'_, 1>) {
        match Location::of(entry) {
            None => return,
            Some(Location::Staged(position)) => self.lock_state().forget_staged(position),
            Some(Location::Slot(slot)) => self.lock_state().forget_slot(slot),
        }
        entry.clear();
        self.counts.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads the page in `slot`, whose entry the caller holds.
    pub(super) fn read(&self, slot: u32, page: &mut AlignedPage) -> Result<(), Fault> {
        self.counts.pages_read.fetch_add(1, Ordering::Relaxed);
        self.file.read(slot, page)
    }

    /// Takes no page and tries no write from now on, and wakes everybody who waits for one.
    pub(super) fn break_down(&self, fault: Fault) {
        self.lock_state().broken.get_or_insert(fault);
        self.work.notify_all();
        self.space.notify_all();
    }

    /// The error of a broken backend.
    pub(super) fn broken_error(&self, state: &State) -> Error {
        let (reason, errno) = state.broken.as_ref().map_or(("", None), |fault| (&*fault.reason, fault.errno));
        Error::new(Kind::BackendBroken, &[("backend", &self.name), ("reason", &reason)]).with_errno(errno)
    }

    /// See [`State::lower_ceiling`].
    pub(super) fn lower_ceiling(&self) {
        if self.lock_state().lower_ceiling() == Lowered::AfterFlush {
            self.work.notify_one();
        }
    }

    /// Moves pages from above the ceiling to slots below it, by staging them again. Returns how many.
    /// `hand` is that of the housekeeping lock, which the caller holds: the ceiling stays.
    pub(super) fn move_tail(&self, hand: &mut Hand) -> usize {
        let ceiling = {
            let mut state = self.lock_state();
            let tail = state.slots.own().map_or(0, |map| map.tail());
            if tail == 0 || !state.can_move() {
                return 0;
            }
            state.slots.ceiling()
        };
        let mut moved = 0;
        let mut page = AlignedPage::ZERO;
        self.walk(hand, |mut entry| {
            let slot = match Location::of(&entry) {
                Some(Location::Slot(slot)) if slot >= ceiling => slot,
                _ => return true,
            };
            if self.read(slot, &mut page).is_err() {
                // It stays where it is; who loads it is told.
                return true;
            }
            let mut state = self.lock_state();
            if !state.can_move() {
                return false;
            }
            state.forget_slot(slot);
            self.stage(state, &mut entry, &page.0);
            moved += 1;
            moved < MOVE_PAGES_MAX
        });
        self.counts.pages_moved.fetch_add(moved as u64, Ordering::Relaxed);
        moved
    }

    /// Gives some of the space above the ceiling back to the disk. True when there is more. The
    /// caller holds the housekeeping lock, so that no slot above the ceiling comes into use.
    pub(super) fn give_back(&self) -> bool {
        let take = |map: &mut SlotMap| map.take_stale(GIVE_BACK_CLUSTERS_MAX);
        let runs = self.lock_state().slots.own().map(take).unwrap_or_default();
        runs.into_iter().for_each(|run| self.file.give_back(run));
        self.lock_state().slots.own().is_some_and(|map| map.has_stale())
    }

    /// Gives back what is only needed while there is more to write: clusters of a shared file that are
    /// empty, and without writers the memory of batches that nobody uses.
    pub(super) fn give_back_spare(&self) {
        let mut state = self.lock_state();
        state.tidy_clusters();
        if !self.has_writers {
            // The state is locked until the end, so that none of them comes into use.
            for batch in state.spare() {
                let mut buffer = self.buffers[*batch].write().unwrap_or_else(PoisonError::into_inner);
                *buffer = AlignedPages::new(0);
            }
        }
    }

    /// Drops leaves of the table without pages, when many pages went since, or all.
    pub(super) fn trim(&self) {
        let forgotten = self.counts.forgotten.load(Ordering::Relaxed);
        if forgotten >= TRIM_PAGES || forgotten > 0 && self.table.live() == 0 {
            self.counts.forgotten.store(0, Ordering::Relaxed);
            self.table.trim();
        }
    }

    /// Hands entries that hold a page and that nobody else has locked to `visit`, from `hand` on, at
    /// most once around the table, until it says false. The hand then points behind the last one.
    ///
    /// # Cost
    /// Bounded by [`WALK_LEAVES_MAX`].
    pub(super) fn walk<'a>(&'a self, hand: &mut Hand, mut visit: impl FnMut(Entry<'a, 1>) -> bool) {
        let (start, shards) = (*hand, self.table.shard_count());
        let mut leaves_left = WALK_LEAVES_MAX;
        for step in 0..=shards {
            let leaves = self.table.leaves_of_shard(hand.shard);
            while let Some(leaf) = leaves.get(hand.leaf) {
                let is_round = step == shards && (hand.leaf, hand.index) >= (start.leaf, start.index);
                if is_round || leaves_left == 0 {
                    return;
                }
                let index = hand.index;
                *hand = match index + 1 {
                    LEAF_PAGES => Hand { leaf: hand.leaf + 1, index: 0, ..*hand },
                    index => Hand { index, ..*hand },
                };
                leaves_left -= usize::from(hand.index == 0);
                if self.table.try_lock_live(leaf, index).is_some_and(|entry| !visit(entry)) {
                    return;
                }
            }
            *hand = Hand { shard: (hand.shard + 1) % shards, ..Hand::default() };
        }
    }
}
