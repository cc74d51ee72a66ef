//! The answer to a fault: what the page holds, put where it is missing.
//!
//! Called by the faulting thread (signal mode) or by the handler. Takes no memory.

use std::sync::atomic::Ordering;
use std::time::Instant;

use frontswap::chain::Whereabouts;
use frontswap::error::Error;
use frontswap::page::{PAGE_SIZE, Page};

use crate::chunks::Chunk;
use crate::counters::add;
use crate::extents::{CHUNK_PAGES, Extent};
use crate::pager::{Files, Pager, key, lock_events, nap, read};
use crate::streams::Window;
use crate::threads::lock;
use crate::uffd::Refusal;

/// A page that comes back before this part of what is resident was evicted meanwhile gets another lap.
const SOON_DIVISOR: u64 = 2;

/// How long a fault waits for room at most, as naps of 50 us, before the limit is exceeded and counted.
const NAPS_MAX: u32 = 4000;
/// The same when nobody takes pages: waiting longer would change nothing.
const NAPS_WHEN_STUCK_MAX: u32 = 20;

/// Pages of zeroes that are mapped at once when there is no room.
const ZEROES_WITHOUT_ROOM: usize = 8;

/// What came of a fault.
#[derive(Debug)]
pub enum Resolution {
    /// The page is there.
    Done,
    /// The map is being changed: read the events, then try again.
    Again,
    /// The page is in the slow swap, or in other hands, and the caller must not wait.
    Slow,
    /// Nothing is managed there.
    NotOurs,
    /// The page cannot be given back.
    Lost(Error),
}

/// Where a missing page is.
struct Missing<'a> {
    files: &'a Files,
    extent: Extent,
    address: usize,
    /// Its key, and its index in the chunk.
    key: u64,
    index: usize,
}

impl Pager {
    /// Answers a fault at `address`, a page's first. With `may_wait` it waits for room and for the slow
    /// swap.
    pub fn resolve(&self, address: usize, may_wait: bool) -> Resolution {
        let started = Instant::now();
        self.faults_on.note(rustix::thread::sched_getcpu());
        if may_wait {
            self.wait_for_room();
        }
        let resolution = self.fill(address, may_wait);
        if let Resolution::Done = resolution {
            let ns = started.elapsed().as_nanos() as u64;
            self.latencies().record(ns);
            add(&self.counters().faults, 1);
            add(&self.counters().fault_ns_total, ns);
        }
        resolution
    }

    /// Waits until a page fits under the limit; not for ever.
    pub(crate) fn wait_for_room(&self) {
        let mut naps = 0;
        while !self.has_room(1) {
            if naps == 0 {
                add(&self.counters().throttled, 1);
            }
            self.ring();
            let is_stuck = self.is_stuck.load(Ordering::Relaxed);
            if naps >= if is_stuck { NAPS_WHEN_STUCK_MAX } else { NAPS_MAX } {
                add(&self.counters().over_limit, 1);
                return;
            }
            nap();
            naps += 1;
        }
        if self.used.total_bytes() > self.options.budget.watermarks().high_bytes {
            self.ring();
        }
    }

    fn fill(&self, address: usize, may_wait: bool) -> Resolution {
        let files = read(&self.files).clone();
        loop {
            let extents = read(&self.extents);
            let Some(extent) = extents.find(address) else { return Resolution::NotOurs };
            let number = extent.key_at(address);
            let missing = Missing {
                files: &files,
                extent,
                address,
                key: number,
                index: (number % CHUNK_PAGES) as usize,
            };
            let mut chunk = self.chunks.lock(number / CHUNK_PAGES);
            if chunk.moving.has(missing.index) {
                return self.fill_from_staging(&missing, &mut chunk);
            }
            if !chunk.is_settled(missing.index) {
                // Thrown away while it was being stored: in a moment the chain has forgotten it.
                drop((chunk, extents));
                if !may_wait {
                    return Resolution::Again;
                }
                std::thread::yield_now();
                continue;
            }
            match self.options.chain.whereabouts(key(number)) {
                Whereabouts::Missing => return self.fill_zeroes(&missing, &mut chunk),
                Whereabouts::SameFilled | Whereabouts::Fast => match self.fill_loaded(&missing, &mut chunk) {
                    Some(resolution) => return resolution,
                    None => continue,
                },
                Whereabouts::Slow if !may_wait => return Resolution::Slow,
                Whereabouts::Slow => {}
            }
            let generation = chunk.generation;
            drop(chunk);
            drop(extents);
            // No lock of ours is held while the disk works.
            let mut page = Page::ZERO;
            match self.options.chain.load(key(number), &mut page, false) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => return Resolution::Lost(error),
            }
            // An event that was read and not yet applied may be about this page.
            let _events = lock_events(self);
            let extents = read(&self.extents);
            let is_same = extents.find(address).is_some_and(|now| now.key_at(address) == number);
            let mut chunk = self.chunks.lock(number / CHUNK_PAGES);
            if !is_same || chunk.generation != generation || !chunk.is_settled(missing.index) {
                continue;
            }
            return self.put(&missing, &mut chunk, std::slice::from_ref(&page));
        }
    }

    /// The page is on its way out: it is copied back from where it is.
    fn fill_from_staging(&self, missing: &Missing<'_>, chunk: &mut Chunk) -> Resolution {
        // SAFETY: a page that is moving was moved in, and is dropped only after its bit is cleared.
        let page = unsafe { self.staging.page(missing.index) };
        // SAFETY: the chunk is locked, so these are the page's contents.
        let (_, refusal) = unsafe { missing.files.uffd.copy(missing.address, std::slice::from_ref(page)) };
        match refusal {
            None => self.used.filled(1),
            Some(Refusal::Again) => return Resolution::Again,
            Some(Refusal::Exists) => missing.files.uffd.wake(&missing.range(1)),
            Some(_) => return Resolution::NotOurs,
        }
        chunk.moving.remove(missing.index);
        chunk.credit.insert(missing.index);
        self.queue_up(missing.key / CHUNK_PAGES, chunk);
        add(&self.counters().refaults, 1);
        Resolution::Done
    }

    /// The chain has it in RAM. None: it no longer has.
    fn fill_loaded(&self, missing: &Missing<'_>, chunk: &mut Chunk) -> Option<Resolution> {
        let window = self.streams.window(missing.address);
        let resolution = match self.load_ahead(missing, chunk, window) {
            Some(resolution) => resolution,
            None => {
                let mut page = Page::ZERO;
                match self.options.chain.load(key(missing.key), &mut page, false) {
                    Ok(true) => self.put(missing, chunk, std::slice::from_ref(&page)),
                    Ok(false) => return None,
                    Err(error) => Resolution::Lost(error),
                }
            }
        };
        Some(resolution)
    }

    /// Loads a run of pages and puts them in by one call. None when there is no run.
    fn load_ahead(&self, missing: &Missing<'_>, chunk: &mut Chunk, window: Window) -> Option<Resolution> {
        let limit = window.pages.min(missing.pages_ahead());
        if limit < 2 || !self.has_room(limit as u64) {
            return None;
        }
        let mut buffer = self.ahead.iter().find_map(|buffer| buffer.try_lock().ok())?;
        let mut count = 0;
        for (ahead, page) in buffer.iter_mut().enumerate().take(limit) {
            let number = key(missing.key + ahead as u64);
            let is_here = chunk.is_settled(missing.index + ahead)
                && matches!(
                    self.options.chain.whereabouts(number),
                    Whereabouts::Fast | Whereabouts::SameFilled
                );
            match is_here.then(|| self.options.chain.load(number, page, false)) {
                Some(Ok(true)) => count += 1,
                // An error of a page that nobody has asked for yet is told when it is asked for.
                Some(Err(error)) if ahead == 0 => return Some(Resolution::Lost(error)),
                _ => break,
            }
        }
        (count > 1).then(|| self.put(missing, chunk, &buffer[..count]))
    }

    /// Puts loaded pages in, and decides whether their copies stay.
    fn put(&self, missing: &Missing<'_>, chunk: &mut Chunk, pages: &[Page]) -> Resolution {
        // SAFETY: the chunk is locked and its generation is that of the load: these are the contents.
        let (done, refusal) = unsafe { missing.files.uffd.copy(missing.address, pages) };
        match refusal {
            None | Some(Refusal::Exists) if done > 0 => {}
            Some(Refusal::Exists) => {
                missing.files.uffd.wake(&missing.range(1));
                return Resolution::Done;
            }
            Some(Refusal::Again) if done == 0 => return Resolution::Again,
            Some(_) if done == 0 => return Resolution::NotOurs,
            _ => {}
        }
        self.used.filled(done as u64);
        add(&self.counters().loads, done as u64);
        add(&self.counters().refaults, 1);
        if !chunk.keeps_copies() || !self.may_keep.load(Ordering::Relaxed) {
            for number in missing.key..missing.key + done as u64 {
                self.options.chain.invalidate_page(key(number));
            }
        }
        self.give_credit(missing, chunk);
        self.streams.advance(missing.address, done);
        self.queue_up(missing.key / CHUNK_PAGES, chunk);
        Resolution::Done
    }

    /// A page that comes back soon stays for another lap.
    fn give_credit(&self, missing: &Missing<'_>, chunk: &mut Chunk) {
        let evicted = self.counters().evicted_pages.load(Ordering::Relaxed);
        let resident = self.used.resident_pages().max(0) as u64;
        if evicted - chunk.evicted_at.min(evicted) < resident / SOON_DIVISOR {
            chunk.credit.insert(missing.index);
        }
    }

    /// Nobody has it: zeroes, and more of them where a stream goes on.
    fn fill_zeroes(&self, missing: &Missing<'_>, chunk: &mut Chunk) -> Resolution {
        let window = self.streams.window(missing.address);
        let mut limit = window.zero_pages.min(missing.pages_ahead());
        if limit > 1 && !self.has_room(limit as u64) {
            // Zeroes take no memory until they are written to.
            limit = limit.min(ZEROES_WITHOUT_ROOM);
        }
        let is_zero = |ahead: &usize| {
            chunk.is_settled(missing.index + ahead)
                && (!chunk.may_have_copies
                    || self.options.chain.whereabouts(key(missing.key + *ahead as u64))
                        == Whereabouts::Missing)
        };
        let count = 1 + (1..limit).take_while(is_zero).count();
        // SAFETY: the chunk is locked, nothing is moving there and the chain has nothing: zeroes.
        let (done, refusal) = unsafe { missing.files.uffd.zero(&missing.range(count)) };
        match refusal {
            Some(Refusal::Again) if done == 0 => return Resolution::Again,
            Some(Refusal::Exists) if done == 0 => missing.files.uffd.wake(&missing.range(1)),
            Some(_) if done == 0 => return Resolution::NotOurs,
            _ => {}
        }
        self.used.filled(done as u64);
        add(&self.counters().zero_faults, done as u64);
        self.streams.advance(missing.address, done.max(1));
        self.queue_up(missing.key / CHUNK_PAGES, chunk);
        Resolution::Done
    }

    /// The chunk has been filled: it leaves after those that were filled before.
    pub(crate) fn queue_up(&self, number: u64, chunk: &mut Chunk) {
        if !chunk.is_queued {
            chunk.is_queued = true;
            lock(&self.queue).push_back(number);
        }
    }
}

impl Missing<'_> {
    fn range(&self, pages: usize) -> std::ops::Range<usize> {
        self.address..self.address + pages * PAGE_SIZE
    }

    /// Pages from this one on in the same extent and chunk.
    fn pages_ahead(&self) -> usize {
        ((self.extent.end() - self.address) / PAGE_SIZE).min(CHUNK_PAGES as usize - self.index)
    }
}
