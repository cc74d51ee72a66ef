//! Eviction: the coldest chunk's pages are moved out, offered to the chain, and their memory given back.
//!
//! Done ahead of need by a thread that polls; a fault only waits when that falls behind. Pages go by the
//! chunk, because one call then serves many: page by page costs ten times more. The victims are those
//! filled longest ago, but for pages that came back soon after they left last time.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use frontswap::Housekeeping;
use frontswap::chain::{Refreshed, Stored, Whereabouts};
use frontswap::page::PAGE_SIZE;
use rustix::mm::Advice;
use rustix::thread::{CpuSet, futex};

use crate::budget::Accounting;
use crate::chunks::PageSet;
use crate::counters::add;
use crate::extents::{CHUNK_PAGES, Extent};
use crate::options::Mode;
use crate::pagemap::Which;
use crate::pager::{Files, Pager, chunks_of, key, lock_events, nap, read};
use crate::threads::lock;
use crate::uffd::Refusal;

/// Pages that one call moves while events wait: about 25 us.
const WINDOW_PAGES: usize = 64;

/// The evictor's clock. A program can touch some 8 GB in a second, so far below the limit it may sleep
/// long.
const POLL_MIN: Duration = Duration::from_micros(500);
const POLL_MAX: Duration = Duration::from_millis(50);
const TOUCH_BYTES_PER_MS: u64 = 8_000_000;

/// How long housekeeping of the chain rests when there was nothing to do.
const HOUSE_POLL_MIN: Duration = Duration::from_millis(1);
const HOUSE_POLL_MAX: Duration = Duration::from_millis(64);

/// Chunks that are looked at in a row without a page leaving, before the evictor gives up for now.
const FRUITLESS_MAX: u32 = 64;

/// Chunks whose copies are forgotten at a time.
const COPIES_CHUNKS: usize = 16;

/// Looking for more takes one part in this many of the time at most.
const LOOK_PART: u64 = 10;
const LOOK_PAUSE_US_MIN: u64 = 1000;

/// Rejections in a row after which the rest of a chunk is not offered, and chunks in a row of which nobody
/// took a page after which nobody takes any.
const REJECTIONS_MAX: u32 = 8;
const REJECTED_CHUNKS_MAX: u32 = 8;
/// How long a chunk that nobody took rests, in milliseconds.
const REJECTED_QUIET_MS: u64 = 200;

/// Pages of a chunk that did not leave.
#[derive(Default)]
struct Left {
    /// Runs that a fork shares, or a device holds.
    busy: Vec<Range<usize>>,
    /// There are others that may leave the next time.
    is_more: bool,
}

/// What came of an attempt to evict one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// So many pages left.
    Pages(u64),
    /// Nobody takes its pages.
    Rejected,
    /// There is no chunk.
    NoChunk,
}

/// The evictor's thread.
pub fn run(pager: &Pager) {
    while !pager.must_stop.load(Ordering::Acquire) {
        let used = {
            let _gate = read(&pager.gate);
            pager.evict_down();
            let used = pager.measure();
            pager.ration();
            used
        };
        let marks = pager.options.budget.watermarks();
        let free = marks.high_bytes.saturating_sub(used);
        let pause = Duration::from_millis(free / TOUCH_BYTES_PER_MS).clamp(POLL_MIN, POLL_MAX);
        pager.doze(pause);
    }
}

/// The thread that does the chain's housekeeping: demotion, compaction, writing to the slow swap.
pub fn keep_house(pager: &Pager) {
    let mut pause = HOUSE_POLL_MIN;
    while !pager.must_stop.load(Ordering::Acquire) {
        let has_worked = {
            let _gate = read(&pager.gate);
            let has_worked = pager.options.chain.maintain();
            if pause == HOUSE_POLL_MAX {
                pager.options.chain.tidy();
            }
            has_worked
        };
        pause = if has_worked { HOUSE_POLL_MIN } else { (pause * 2).min(HOUSE_POLL_MAX) };
        if !has_worked {
            std::thread::sleep(pause);
        }
    }
}

/// Wakes who waits for a bell.
pub(crate) fn ring(bell: &AtomicU32) {
    bell.fetch_add(1, Ordering::Release);
    let _ = futex::wake(bell, futex::Flags::PRIVATE, i32::MAX as u32);
}

/// Waits for a bell that read `heard`, or for `pause`.
pub(crate) fn wait(bell: &AtomicU32, heard: u32, pause: Duration) {
    let pause = futex::Timespec { tv_sec: 0, tv_nsec: pause.as_nanos().min(999_999_999) as _ };
    let _ = futex::wait(bell, futex::Flags::PRIVATE, heard, Some(&pause));
}

impl Pager {
    fn doze(&self, pause: Duration) {
        let heard = self.bell.load(Ordering::Acquire);
        self.is_dozing.store(true, Ordering::Release);
        if !self.must_stop.load(Ordering::Acquire) {
            wait(&self.bell, heard, pause);
        }
        self.is_dozing.store(false, Ordering::Release);
    }

    /// Takes pages out until the use is below the low mark, when it is above the high one.
    pub fn evict_down(&self) -> u64 {
        let marks = self.options.budget.watermarks();
        if self.measure() <= marks.high_bytes {
            self.is_stuck.store(false, Ordering::Relaxed);
            return 0;
        }
        if self.options.budget.accounting == Accounting::Process {
            self.register_growth(false);
        }
        if !self.may_keep.load(Ordering::Relaxed) {
            self.forget_copies();
        }
        let (mut evicted, mut fruitless, mut rejected) = (0, 0, 0);
        let over = self.used.total_bytes().saturating_sub(marks.low_bytes);
        let goal = over * self.options.budget.share.part_1024() / 1024;
        let enough = self.used.own_bytes().saturating_sub(goal);
        while self.used.own_bytes() > enough && fruitless < FRUITLESS_MAX {
            match self.evict_oldest() {
                Evicted::Pages(0) => fruitless += 1,
                Evicted::Pages(pages) => {
                    evicted += pages;
                    (fruitless, rejected) = (0, 0);
                    self.is_stuck.store(false, Ordering::Relaxed);
                }
                Evicted::Rejected => rejected += 1,
                Evicted::NoChunk if self.find_more() => {}
                Evicted::NoChunk => break,
            }
            if rejected == REJECTED_CHUNKS_MAX {
                self.is_stuck.store(true, Ordering::Relaxed);
                break;
            }
            // The pool grows by what it takes, and the program goes on.
            self.measure();
            if self.options.budget.accounting == Accounting::Process {
                self.register_growth(false);
            }
            if self.must_stop.load(Ordering::Relaxed) {
                break;
            }
        }
        evicted
    }

    /// Forgets copies of pages that are in the process, in the next few chunks: when the pool is nearly full,
    /// it has better use for the room, and so has the slow swap behind it.
    fn forget_copies(&self) {
        let files = read(&self.files).clone();
        let hand = self.copies_hand.load(Ordering::Relaxed);
        let extents: Vec<Extent> = read(&self.extents).all().collect();
        let numbers: Vec<u64> = extents.iter().flat_map(chunks_of).collect();
        let first = numbers.partition_point(|number| *number < hand);
        let next = numbers.iter().cycle().skip(first).take(numbers.len().min(COPIES_CHUNKS));
        for number in next {
            self.copies_hand.store(number + 1, Ordering::Relaxed);
            let _events = lock_events(self);
            let extents = read(&self.extents);
            let chunk = self.chunks.lock(*number);
            if !chunk.may_have_copies {
                continue;
            }
            for part in extents.of_chunk(*number) {
                let Ok(present) = files.pagemap.present(&(part.start..part.end()), Which::Written) else {
                    continue;
                };
                let first = (part.key % CHUNK_PAGES) as usize;
                for index in present.pages.iter().filter(|index| chunk.is_settled(first + index)) {
                    self.options.chain.invalidate_page(key(part.key + index as u64));
                }
            }
        }
    }

    /// Finds more memory that may leave: what the program has got meanwhile, and chunks that it has written to
    /// where zeroes were mapped, of which no fault tells.
    fn find_more(&self) -> bool {
        let now_us = self.clock_us();
        if now_us < self.next_look_us.load(Ordering::Relaxed) {
            return false;
        }
        if self.options.budget.accounting == Accounting::Process {
            self.register_growth(true);
        }
        self.queue_present();
        let took_us = self.clock_us() - now_us;
        self.next_look_us.store(now_us + took_us * LOOK_PART + LOOK_PAUSE_US_MIN, Ordering::Relaxed);
        !lock(&self.queue).is_empty()
    }

    /// Queues every chunk that has pages and is not queued.
    fn queue_present(&self) {
        let files = read(&self.files).clone();
        let extents: Vec<Extent> = read(&self.extents).all().collect();
        for number in extents.iter().flat_map(chunks_of) {
            let parts: Vec<Extent> = read(&self.extents).of_chunk(number).collect();
            let has_pages = parts.iter().any(|part| {
                let present = files.pagemap.present(&(part.start..part.end()), Which::Written);
                present.is_ok_and(|present| !present.pages.is_empty())
            });
            if has_pages {
                self.queue_up(number, &mut self.chunks.lock(number));
            }
        }
    }

    /// Evicts the chunk that was filled longest ago.
    pub fn evict_oldest(&self) -> Evicted {
        let Some(number) = lock(&self.queue).pop_front() else { return Evicted::NoChunk };
        let _turn = lock(&self.turn);
        let moved = self.move_out(number);
        if moved.is_empty() {
            return Evicted::Pages(0);
        }
        let is_rejected = self.store_moved(number, &moved) == 0;
        let mut chunk = self.chunks.lock(number);
        debug_assert!(chunk.moving.is_empty());
        chunk.generation = chunk.generation.wrapping_add(1);
        chunk.evicted_at = self.counters().evicted_pages.load(Ordering::Relaxed);
        if is_rejected {
            chunk.quiet_until_ms = self.clock_ms() + REJECTED_QUIET_MS;
        }
        drop(chunk);
        // SAFETY: no page is moving any more, so nobody reads one here.
        unsafe { self.staging.drop_pages(&read(&self.files).uffd) };
        self.used.dropped(u64::from(moved.len()));
        if is_rejected { Evicted::Rejected } else { Evicted::Pages(u64::from(moved.len())) }
    }

    /// Moves the pages of a chunk into the staging; returns which.
    ///
    /// Each run of pages costs an interrupt of every other processor on which the program runs. When all
    /// faults come from one, the pages are moved there: nobody has to be interrupted.
    fn move_out(&self, number: u64) -> PageSet {
        let _there = self.faults_on.the_one().map(Elsewhere::go);
        let files = read(&self.files).clone();
        let mut left = Left::default();
        let moved = {
            let _events = lock_events(self);
            let extents = read(&self.extents);
            let mut chunk = self.chunks.lock(number);
            chunk.is_queued = false;
            if chunk.holds > 0 || chunk.quiet_until_ms > self.clock_ms() {
                self.queue_up(number, &mut chunk);
                return PageSet::default();
            }
            let credit = std::mem::take(&mut chunk.credit);
            for part in extents.of_chunk(number) {
                self.move_part(&files, &part, &credit, &mut left);
            }
            if !credit.is_empty() || left.is_more || !left.busy.is_empty() {
                self.queue_up(number, &mut chunk);
            }
            // What was moved is what is there now: the only truth about it.
            let present = files.pagemap.present(&self.staging.range(), Which::Any);
            chunk.moving = present.expect("the kernel has answered before").pages;
            chunk.generation = chunk.generation.wrapping_add(1);
            chunk.moving
        };
        add(&self.counters().busy_pages, left.busy.iter().map(|run| (run.len() / PAGE_SIZE) as u64).sum());
        if crate::fork::has_forked() {
            left.busy.iter().for_each(unshare);
        }
        moved
    }

    /// Moves what is present of one part of a chunk. Runs that a fork shares, or a device holds, are left
    /// and added to `shared`.
    fn move_part(&self, files: &Files, part: &Extent, credit: &PageSet, left: &mut Left) {
        let range = part.start..part.end();
        let which = match self.options.budget.accounting {
            Accounting::Counted => Which::Present,
            Accounting::Process => Which::Written,
        };
        let Ok(present) = files.pagemap.present(&range, which) else { return };
        let first = (part.key % CHUNK_PAGES) as usize;
        let window_pages =
            if self.mode == Mode::Signal || present.is_huge { CHUNK_PAGES as usize } else { WINDOW_PAGES };
        let mut window: Option<Range<usize>> = None;
        for index in present.pages.iter() {
            let address = part.start + index * PAGE_SIZE;
            let stays = credit.has(first + index);
            let fits =
                window.as_ref().is_some_and(|window| address - window.start < window_pages * PAGE_SIZE);
            if (stays || !fits)
                && let Some(window) = window.take()
            {
                self.move_window(files, &window, part, left);
            }
            if !stays {
                window = Some(window.map_or(address, |window| window.start)..address + PAGE_SIZE);
            }
        }
        if let Some(window) = window {
            self.move_window(files, &window, part, left);
        }
    }

    fn move_window(&self, files: &Files, window: &Range<usize>, part: &Extent, left: &mut Left) {
        let staging = self.staging.range().start + (part.key % CHUNK_PAGES) as usize * PAGE_SIZE;
        let mut at = window.start;
        while at < window.end {
            // SAFETY: the staging is registered and this thread's turn; the chunk is locked.
            let (done, refusal) =
                unsafe { files.uffd.move_pages(&(at..window.end), staging + (at - part.start)) };
            at += done;
            match refusal {
                None => return,
                Some(Refusal::Again) if done > 0 => {}
                // An event waits to be read, or the page is in somebody's hands for a moment: next time.
                Some(Refusal::Again | Refusal::NoMemory) => {
                    left.is_more = true;
                    return;
                }
                // Locked or read-only for now; it is looked at again when the queue runs out.
                Some(Refusal::Unmovable) => return,
                Some(Refusal::Busy) => {
                    match left.busy.last_mut().filter(|run| run.end == at) {
                        Some(run) => run.end += PAGE_SIZE,
                        None => left.busy.push(at..at + PAGE_SIZE),
                    }
                    at += PAGE_SIZE;
                }
                Some(Refusal::Exists | Refusal::Gone) => at += PAGE_SIZE,
            }
        }
    }

    /// Offers moved pages to the chain. Those that nobody takes go back. Returns how many left.
    fn store_moved(&self, number: u64, moved: &PageSet) -> u64 {
        let (mut unchanged, mut changed, mut evicted) = (0, 0, 0);
        let mut rejections = 0;
        for index in moved.iter() {
            let page_key = key(number * CHUNK_PAGES + index as u64);
            {
                let mut chunk = self.chunks.lock(number);
                if !chunk.moving.has(index) {
                    continue;
                }
                chunk.storing = Some(index);
            }
            // SAFETY: it was moved in, and is dropped by this thread alone.
            let page = unsafe { self.staging.page(index) };
            let had_copy = self.options.chain.whereabouts(page_key) != Whereabouts::Missing;
            let answer = if rejections >= REJECTIONS_MAX {
                None
            } else if page.same_filled() == Some(0) {
                self.options.chain.invalidate_page(page_key);
                Some(false)
            } else {
                match self.options.chain.store_changed(page_key, page) {
                    Ok(Refreshed::Unchanged) => {
                        unchanged += 1;
                        Some(true)
                    }
                    Ok(Refreshed::Stored(Stored::Rejected(_))) | Err(_) => None,
                    Ok(Refreshed::Stored(_)) => {
                        changed += u32::from(had_copy);
                        Some(true)
                    }
                }
            };
            let Some(has_copy) = answer else {
                rejections += 1;
                self.put_back(number, index);
                self.chunks.lock(number).storing = None;
                continue;
            };
            rejections = 0;
            let mut chunk = self.chunks.lock(number);
            chunk.storing = None;
            if chunk.moving.remove(index) {
                chunk.may_have_copies |= has_copy;
                evicted += 1;
            } else {
                // Thrown away or taken back meanwhile: what was stored is nobody's.
                self.options.chain.invalidate_page(page_key);
            }
        }
        let mut chunk = self.chunks.lock(number);
        chunk.learn(unchanged, changed);
        chunk.forget_slowly();
        drop(chunk);
        add(&self.counters().evicted_pages, evicted);
        add(&self.counters().kept_pages, u64::from(unchanged));
        add(&self.counters().succ_stores, evicted - u64::from(unchanged).min(evicted));
        evicted
    }

    /// Puts a moved page back where it came from, or where the program has moved that place to.
    fn put_back(&self, number: u64, index: usize) {
        add(&self.counters().failed_stores, 1);
        let page_key = number * CHUNK_PAGES + index as u64;
        let files = read(&self.files).clone();
        loop {
            let extents = read(&self.extents);
            let mut chunk = self.chunks.lock(number);
            let place =
                extents.of_chunk(number).find(|part| (part.key..part.key + part.pages).contains(&page_key));
            let (Some(part), true) = (place, chunk.moving.has(index)) else { return };
            let address = part.start + (page_key - part.key) as usize * PAGE_SIZE;
            // SAFETY: it was moved in, and is dropped by this thread alone.
            let page = unsafe { self.staging.page(index) };
            // SAFETY: the chunk is locked and the page is moving: these are its contents.
            let (_, refusal) = unsafe { files.uffd.copy(address, std::slice::from_ref(page)) };
            match refusal {
                Some(Refusal::Again | Refusal::NoMemory) => {}
                // Present: the program has something else there by now. Gone: it has unmapped it.
                _ => {
                    self.used.filled(u64::from(refusal.is_none()));
                    chunk.moving.remove(index);
                    self.queue_up(number, &mut chunk);
                    return;
                }
            }
            drop(chunk);
            drop(extents);
            nap();
        }
    }
}

/// Faults by processor, lately.
#[derive(Debug)]
pub(crate) struct FaultsOn([AtomicU32; PROCESSORS_MAX]);

impl Default for FaultsOn {
    fn default() -> Self {
        FaultsOn([const { AtomicU32::new(0) }; PROCESSORS_MAX])
    }
}

/// Processors of larger numbers are not told apart.
const PROCESSORS_MAX: usize = 64;

impl FaultsOn {
    /// A fault came from `processor`.
    pub(crate) fn note(&self, processor: usize) {
        self.0[processor % PROCESSORS_MAX].fetch_add(1, Ordering::Relaxed);
    }

    /// The processor that nearly all faults since the last call came from, if there is one.
    fn the_one(&self) -> Option<usize> {
        let counts = self.0.each_ref().map(|count| count.swap(0, Ordering::Relaxed));
        let total: u32 = counts.iter().sum();
        let most = (0..PROCESSORS_MAX).max_by_key(|index| counts[*index])?;
        (total >= FAULTS_TO_MOVE_MIN && counts[most] >= total - total / 8).then_some(most)
    }
}

/// Going to another processor costs as much as some shootdowns.
const FAULTS_TO_MOVE_MIN: u32 = 32;

/// The calling thread is on one processor for a while.
struct Elsewhere(CpuSet);

impl Elsewhere {
    fn go(processor: usize) -> Option<Self> {
        let before = rustix::thread::sched_getaffinity(None).ok()?;
        let mut there = CpuSet::new();
        there.set(processor);
        rustix::thread::sched_setaffinity(None, &there).ok()?;
        Some(Elsewhere(before))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // Where it was allowed to run before, it is.
        let _ = rustix::thread::sched_setaffinity(None, &self.0);
    }
}

/// Makes pages that a fork shares this process's own, so that they can leave: the kernel copies them, or
/// sees that nobody else has them any more.
fn unshare(run: &Range<usize>) {
    // SAFETY: faulting pages in for writing changes no contents; no lock of ours is held.
    let _ = unsafe { rustix::mm::madvise(run.start as *mut _, run.len(), Advice::LinuxPopulateWrite) };
}
