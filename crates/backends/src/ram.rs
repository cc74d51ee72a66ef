//! Plain RAM: pages as they are, in an arena. The ramdisk of a comparison, and the backend for data
//! that does not compress.
//!
//! Lock order: an entry, then the frames.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use frontswap::backend::{Answer, Backend, Description, Loaded, Reject, Usage};
use frontswap::error::{Error, Kind};
use frontswap::key::{Area, Bytes, Key, Pages};
use frontswap::page::{PAGE_SIZE, Page};
use frontswap::table::{Entry, PageTable};

use crate::area_set::AreaSet;
use crate::arena::{Arena, machine_bytes};
use crate::clock::{AGE_LOADED, AGE_STORED, Clock};

/// Frames that get memory in one call.
const COMMIT_FRAMES: u32 = 16;
/// Free frames that keep their memory, as a part of those in use, and at least.
const READY_DIVISOR: u64 = 64;
const READY_FRAMES_MIN: u64 = 64;
/// Part of the capacity that is kept free ahead of need, and its limit.
const RESERVE_DIVISOR: u64 = 32;
const RESERVE_BYTES_MAX: u64 = 4 << 20;
/// Frame numbers have 28 bits in an entry: 1 TiB.
const FRAMES_MAX: u64 = (1 << 28) - 1;

/// Plain RAM.
pub struct Ram {
    /// First word: bits 2 and 3 age, 4 to 31 the frame's number plus one.
    table: PageTable<1>,
    arena: Arena,
    areas: AreaSet,
    clock: Clock<1>,
    frames: Mutex<Frames>,
    /// Frames with memory behind them.
    committed: AtomicU64,
    capacity: AtomicU64,
    pool_limit_hit: AtomicU64,
}

#[derive(Default)]
struct Frames {
    /// Free, with memory.
    ready: Vec<u32>,
    /// Free, without memory.
    bare: Vec<u32>,
    /// Never used from here on.
    fresh: u32,
}

impl Ram {
    /// An empty backend: it takes memory as pages come.
    ///
    /// # Errors
    /// The address space cannot be reserved.
    pub fn new(capacity: Bytes) -> Result<Self, Error> {
        Ram::with_inherit(capacity, false)
    }

    /// Like [`Ram::new`]; a child of fork gets a copy if it is to `inherit`. Otherwise it has nothing
    /// there, and must not use this one.
    ///
    /// # Errors
    /// The address space cannot be reserved.
    pub fn with_inherit(capacity: Bytes, inherit: bool) -> Result<Self, Error> {
        let most = machine_bytes().max(capacity.0).min(FRAMES_MAX * PAGE_SIZE as u64) as usize;
        let arena = |bytes: usize| Arena::reserve("ram", bytes.next_multiple_of(PAGE_SIZE), inherit);
        let arena = arena(most).or_else(|_| arena(capacity.0 as usize))?;
        Ok(Ram {
            table: PageTable::default(),
            arena,
            areas: AreaSet::default(),
            clock: Clock::default(),
            frames: Mutex::default(),
            committed: AtomicU64::new(0),
            capacity: AtomicU64::new(capacity.0),
            pool_limit_hit: AtomicU64::new(0),
        })
    }

    fn overhead_bytes(&self) -> u64 {
        self.table.bytes() + AreaSet::BYTES
    }

    fn frames_max(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed).saturating_sub(self.overhead_bytes()) / PAGE_SIZE as u64
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free frame with memory behind it, within the capacity.
    fn take_frame(&self) -> Option<u32> {
        let mut frames = self.frames();
        // Frames that are on their way back to the system are counted until they are there.
        let used = self.committed.load(Ordering::Relaxed).saturating_sub(frames.ready.len() as u64);
        let frames_max = self.frames_max();
        if used >= frames_max {
            return None;
        }
        if let Some(frame) = frames.ready.pop() {
            return Some(frame);
        }
        if let Some(frame) = frames.bare.pop() {
            return self.commit(&mut frames, frame, 1);
        }
        let first = frames.fresh;
        let most = (self.arena.length() / PAGE_SIZE) as u64 - u64::from(first);
        let count = u64::from(COMMIT_FRAMES).min(frames_max - used).min(most) as u32;
        if count == 0 {
            return None;
        }
        frames.fresh += count;
        self.commit(&mut frames, first, count)
    }

    fn commit(&self, frames: &mut Frames, first: u32, count: u32) -> Option<u32> {
        let is_committed = self.arena.commit(first as usize * PAGE_SIZE, count as usize * PAGE_SIZE);
        if !is_committed {
            frames.bare.extend(first..first + count);
            return None;
        }
        self.committed.fetch_add(u64::from(count), Ordering::Relaxed);
        frames.ready.extend((first + 1..first + count).rev());
        Some(first)
    }

    /// Gives the memory of free frames back, neighbours in one call, but for `keep` of them.
    fn release_ready(&self, keep: usize) {
        let mut frames = self.frames();
        if frames.ready.len() <= keep {
            return;
        }
        let mut released = frames.ready.split_off(keep);
        // No store waits while the system takes its memory back.
        drop(frames);
        released.sort_unstable();
        for run in released.chunk_by(|left, right| left + 1 == *right) {
            self.arena.release(run[0] as usize * PAGE_SIZE, run.len() * PAGE_SIZE);
        }
        self.committed.fetch_sub(released.len() as u64, Ordering::Relaxed);
        self.frames().bare.extend(released);
    }

    fn forget(&self, entry: &mut Entry<'_, 1>) {
        if let Some(frame) = Self::frame_of(entry) {
            entry.clear();
            self.frames().ready.push(frame);
        }
    }

    fn frame_of(entry: &Entry<'_, 1>) -> Option<u32> {
        (entry.get()[0] >> 4).checked_sub(1)
    }

    fn used_bytes(&self) -> u64 {
        self.committed.load(Ordering::Relaxed) * PAGE_SIZE as u64 + self.overhead_bytes()
    }
}

impl Backend for Ram {
    fn init(&self, area: Area, _pages: Pages) -> Result<(), Error> {
        self.areas.insert(area);
        Ok(())
    }

    fn store(&self, key: Key, page: &Page) -> Result<Answer, Error> {
        let mut entry = self.table.lock(key);
        self.forget(&mut entry);
        let frame = if self.areas.contains(key.area) { self.take_frame() } else { None };
        let Some(frame) = frame else {
            drop(entry);
            // Rule B11: no empty leaf stays behind.
            self.table.trim_when_sparse();
            if !self.areas.contains(key.area) {
                return Ok(Answer::Rejected(Reject::NoArea));
            }
            self.pool_limit_hit.fetch_add(1, Ordering::Relaxed);
            return Ok(Answer::Rejected(Reject::Full));
        };
        // SAFETY: the frame was free and has memory; only this entry will name it.
        unsafe { self.arena.write(frame as usize * PAGE_SIZE, &page.0) };
        entry.set([AGE_STORED | (frame + 1) << 4]);
        Ok(Answer::Accepted)
    }

    fn load(&self, key: Key, out: &mut Page) -> Result<Loaded, Error> {
        let Some(mut entry) = self.table.lock_existing(key) else { return Ok(Loaded::Missing) };
        let Some(frame) = Self::frame_of(&entry) else { return Ok(Loaded::Missing) };
        // SAFETY: the entry is locked, so the frame is in use and nobody writes it.
        out.0.copy_from_slice(unsafe { self.arena.bytes(frame as usize * PAGE_SIZE, PAGE_SIZE) });
        let first = entry.get()[0];
        entry.set_first(first | AGE_LOADED);
        Ok(Loaded::Loaded)
    }

    fn invalidate_page(&self, key: Key) {
        if let Some(mut entry) = self.table.lock_existing(key) {
            self.forget(&mut entry);
        }
    }

    fn invalidate_area(&self, area: Area) {
        if self.areas.remove(area) {
            self.table.for_each_in_area(area, |_, entry| self.forget(entry));
            self.clock.rest();
            self.table.trim();
            self.release_ready(0);
        }
    }

    fn describe(&self) -> Description {
        Description { kind: "ram".to_owned(), ..Description::default() }
    }

    fn usage(&self) -> Usage {
        let capacity = self.capacity.load(Ordering::Relaxed);
        let stored = Pages(self.table.live());
        let reserve = (capacity / RESERVE_DIVISOR).min(RESERVE_BYTES_MAX);
        let excess = self.used_bytes().saturating_sub(capacity).min(stored.bytes().0);
        let in_use = stored.bytes().0 + self.overhead_bytes();
        Usage {
            stored_pages: stored,
            compr_data_size: stored.bytes(),
            mem_used_total: Bytes(self.used_bytes()),
            disk_used_total: Bytes(0),
            mem_limit: Bytes(capacity),
            pool_limit_hit: self.pool_limit_hit.load(Ordering::Relaxed),
            pressure: Bytes((in_use + reserve).saturating_sub(capacity).max(excess).min(stored.bytes().0)),
            excess: Bytes(excess),
        }
    }

    fn set_capacity(&self, capacity: Bytes) -> Result<(), Error> {
        if capacity.0 > self.arena.length() as u64 {
            let reason =
                format!("only {} of address space could be reserved", Bytes(self.arena.length() as u64));
            let fields: [(&'static str, &dyn std::fmt::Display); 3] =
                [("backend", &"ram"), ("capacity", &capacity), ("reason", &reason)];
            return Err(Error::new(Kind::CapacityInvalid, &fields));
        }
        self.capacity.store(capacity.0, Ordering::Relaxed);
        Ok(())
    }

    fn coldest(&self, want: usize, victims: &mut Vec<Key>) {
        self.clock.coldest(&self.table, want, victims);
    }

    fn maintain(&self) -> bool {
        let is_over = self.used_bytes() > self.capacity.load(Ordering::Relaxed);
        let keep = (self.table.live() / READY_DIVISOR).max(READY_FRAMES_MIN);
        self.release_ready(if is_over { 0 } else { keep as usize });
        if is_over {
            self.table.trim();
        } else {
            self.table.trim_when_sparse();
        }
        false
    }
}
