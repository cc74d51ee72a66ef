//! The pager itself: what faults, eviction and forks share, and the calls of its owner.

use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use frontswap::error::{Error, Kind};
use frontswap::key::{Area, Bytes, Key, Offset, Pages};
use frontswap::page::{PAGE_SIZE, Page};
use frontswap::{Chain, Description};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::budget::{Accounting, Usage, Used};
use crate::chunks::Chunks;
use crate::counters::{Counters, Latencies};
use crate::evict::FaultsOn;
use crate::extents::{CHUNK_BYTES, CHUNK_PAGES, CHUNKS_MAX, Extent, Extents};
use crate::growth::Growth;
use crate::options::{Mode, PagerOptions, Threads};
use crate::pagemap::{Meter, Pagemap, Which};
use crate::ration::Ration;
use crate::staging::Staging;
use crate::streams::{Streams, WINDOW_MAX};
use crate::threads::{Thread, lock};
use crate::uffd::Uffd;

/// Buffers for pages that are read ahead; a fault that finds none free reads none ahead.
const AHEAD_BUFFERS: usize = 4;

/// Contents that the program throws away stay where they are for so long, unless the end of its call is
/// known: the kernel tells of the call before it does it.
const QUIET_MS: u64 = 1000;

/// Pages that are read ahead go in here.
pub(crate) type AheadBuffer = Box<[Page; WINDOW_MAX]>;

/// What belongs to this process alone and is opened anew in a child of fork.
pub(crate) struct Files {
    pub uffd: Uffd,
    pub pagemap: Pagemap,
    pub meter: Meter,
}

impl Files {
    fn open(mode: Mode) -> Result<Self, Error> {
        let uffd = Uffd::open(mode).map_err(|errno| cannot_open(mode, errno))?;
        let proc_failed = |errno: Errno| {
            Error::new(Kind::PagerFailed, &[("operation", &"read `/proc/self`"), ("reason", &errno)])
                .with_errno(Some(errno.raw_os_error()))
        };
        let pagemap = Pagemap::open().map_err(proc_failed)?;
        let meter = Meter::open().map_err(proc_failed)?;
        Ok(Files { uffd, pagemap, meter })
    }
}

fn cannot_open(mode: Mode, errno: Errno) -> Error {
    let kind = match (mode, errno) {
        (_, Errno::NOSYS | Errno::INVAL) => Kind::PagerUnsupported,
        (Mode::Handler, Errno::PERM | Errno::ACCESS | Errno::NOENT) => Kind::PagerPermission,
        _ => Kind::PagerFailed,
    };
    Error::new(kind, &[("operation", &"open a userfaultfd"), ("reason", &errno)])
        .with_errno(Some(errno.raw_os_error()))
}

/// Takes cold pages out of this process and brings them back.
pub struct Pager {
    // Closed before the staging is unmapped: an unmapping would wait for a reader of events.
    pub(crate) files: RwLock<Arc<Files>>,
    pub(crate) staging: Staging,
    pub(crate) mode: Mode,
    pub(crate) options: PagerOptions,
    pub(crate) extents: RwLock<Extents>,
    pub(crate) chunks: Chunks,
    /// Chunks in the order in which they were last filled.
    pub(crate) queue: Mutex<VecDeque<u64>>,
    pub(crate) streams: Streams,
    pub(crate) ahead: [Mutex<AheadBuffer>; AHEAD_BUFFERS],
    pub(crate) used: Used,
    /// Held for reading by every thread of ours while it works, for writing across a fork.
    pub(crate) gate: RwLock<()>,
    /// Held from before an event is read until it is applied, and by whoever moves pages out: an address
    /// that was unmapped may be something else by then.
    pub(crate) events: Mutex<()>,
    /// Held by the one who moves pages out: the staging is its.
    pub(crate) turn: Mutex<()>,
    /// Faults that wait for the slow swap, for the threads that may.
    pub(crate) slow_faults: Mutex<VecDeque<usize>>,
    pub(crate) slow_bell: AtomicU32,
    pub(crate) bell: AtomicU32,
    pub(crate) is_dozing: AtomicBool,
    /// The last attempt to take pages out came to nothing: nobody accepts.
    pub(crate) is_stuck: AtomicBool,
    /// The pool has room for copies of pages that are in the process too.
    pub(crate) may_keep: AtomicBool,
    /// The next chunk whose copies are looked at, when there is none.
    pub(crate) copies_hand: AtomicU64,
    pub(crate) must_stop: AtomicBool,
    pub(crate) threads: Mutex<Vec<Thread>>,
    pub(crate) growth: Growth,
    pub(crate) faults_on: FaultsOn,
    /// When to look for more memory that may leave, in microseconds of the clock.
    pub(crate) next_look_us: AtomicU64,
    pub(crate) ration: Ration,
    started: Instant,
    bytes_mapped: AtomicU64,
    held_bytes: AtomicU64,
}

/// A reading of a pager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagerStats {
    /// Bytes of RAM that it may use.
    pub ram_limit_bytes: u64,
    /// What it uses.
    pub usage: Usage,
    /// The counters, in the order of [`Counters::NAMES`].
    pub counters: [u64; Counters::NAMES.len()],
    /// Median of the time to answer a fault, in nanoseconds.
    pub fault_ns_p50: u64,
    /// What 99 of 100 faults did not exceed.
    pub fault_ns_p99: u64,
}

pub(crate) const AREA: Area = Area(0);

pub(crate) fn key(number: u64) -> Key {
    Key { area: AREA, offset: Offset(number) }
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// The lock of events, where there are any.
pub(crate) fn lock_events(pager: &Pager) -> Option<MutexGuard<'_, ()>> {
    (pager.mode == Mode::Handler).then(|| lock(&pager.events))
}

impl Pager {
    /// A pager that manages nothing yet, with its threads.
    ///
    /// # Errors
    /// `PagerPermission`, `PagerUnsupported`, or the system has no thread or memory for it.
    pub fn new(options: PagerOptions) -> Result<Arc<Self>, Error> {
        let files = Files::open(options.mode)?;
        if options.mode == Mode::Signal {
            crate::signal::install()?;
        }
        options.chain.init(AREA, Pages(CHUNKS_MAX * CHUNK_PAGES))?;
        let pager = Arc::new(Pager {
            staging: Staging::new(&files.uffd, options.mode == Mode::Handler)?,
            files: RwLock::new(Arc::new(files)),
            mode: options.mode,
            options,
            extents: RwLock::default(),
            chunks: Chunks::default(),
            queue: Mutex::default(),
            streams: Streams::default(),
            ahead: std::array::from_fn(|_| Mutex::new(Box::new([const { Page::ZERO }; WINDOW_MAX]))),
            used: Used::default(),
            gate: RwLock::default(),
            events: Mutex::default(),
            turn: Mutex::default(),
            slow_faults: Mutex::default(),
            slow_bell: AtomicU32::new(0),
            bell: AtomicU32::new(0),
            is_dozing: AtomicBool::new(false),
            is_stuck: AtomicBool::new(false),
            may_keep: AtomicBool::new(true),
            copies_hand: AtomicU64::new(0),
            must_stop: AtomicBool::new(false),
            threads: Mutex::default(),
            growth: Growth::default(),
            faults_on: FaultsOn::default(),
            next_look_us: AtomicU64::new(0),
            ration: Ration::default(),
            started: Instant::now(),
            bytes_mapped: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
        });
        pager.measure();
        pager.start_threads()?;
        if pager.mode == Mode::Signal {
            crate::signal::enter(&pager);
        }
        crate::fork::enter(&pager);
        Ok(pager)
    }

    /// Where pages go.
    pub fn chain(&self) -> &Arc<Chain> {
        &self.options.chain
    }

    pub(crate) fn threads_kind(&self) -> Threads {
        self.options.threads
    }

    /// Who answers faults.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Maps `bytes` of zeroed, managed memory, rounded up to whole pages; at a multiple of 2 MiB when it
    /// is as long as that.
    ///
    /// # Errors
    /// `NoMemory`: there is no address space for it, or nobody takes pages and the budget is used up.
    pub fn map(&self, bytes: usize) -> Result<NonNull<u8>, Error> {
        let refuse = |reason: &dyn std::fmt::Display, errno: Option<i32>| {
            let fields: [(&'static str, &dyn std::fmt::Display); 3] =
                [("backend", &"managed memory"), ("size", &Bytes(bytes as u64)), ("reason", reason)];
            Error::new(Kind::NoMemory, &fields).with_errno(errno)
        };
        self.admit(bytes)?;
        let _gate = read(&self.gate);
        let length = bytes.max(1).next_multiple_of(PAGE_SIZE);
        let align = if length >= CHUNK_BYTES { CHUNK_BYTES } else { PAGE_SIZE };
        let start = map_aligned(length, align).map_err(|errno| refuse(&errno, Some(errno.raw_os_error())))?;
        let range = start..start + length;
        // SAFETY: the range is new and nobody's yet, so nobody waits for a page of it before it is known.
        if let Err(errno) = unsafe { self.manage(&range) } {
            // SAFETY: as above.
            let _ = unsafe { rustix::mm::munmap(start as *mut _, length) };
            return Err(refuse(&errno, Some(errno.raw_os_error())));
        }
        Ok(NonNull::new(start as *mut u8).expect("mmap returns no null"))
    }

    /// Says whether there is any point in giving out `bytes` more.
    ///
    /// # Errors
    /// `NoMemory`: nobody takes pages and the budget is used up.
    pub fn admit(&self, bytes: usize) -> Result<(), Error> {
        if !self.is_stuck.load(Ordering::Relaxed) || self.has_room((bytes / PAGE_SIZE) as u64 + 1) {
            return Ok(());
        }
        let reason = "the budget is used up and no backend takes more pages";
        let fields: [(&'static str, &dyn std::fmt::Display); 3] =
            [("backend", &"managed memory"), ("size", &Bytes(bytes as u64)), ("reason", &reason)];
        Err(Error::new(Kind::NoMemory, &fields).with_errno(Some(libc::ENOMEM)))
    }

    /// Manages `range` from now on: its missing pages come from here, and its pages may leave.
    ///
    /// # Errors
    /// The kernel refuses it, or it is managed already.
    ///
    /// # Safety
    /// It is anonymous memory whose missing pages are zeroes.
    pub unsafe fn manage(&self, range: &Range<usize>) -> Result<(), Errno> {
        let mut extents = self.extents.write().unwrap_or_else(PoisonError::into_inner);
        if extents.within(range.clone()).next().is_some() {
            return Err(Errno::EXIST);
        }
        // SAFETY: faults wait until `extents` is free again, and then it is known.
        unsafe { read(&self.files).uffd.register(range) }?;
        if !self.add_extent(&mut extents, range) {
            // SAFETY: no page of it has left.
            unsafe { read(&self.files).uffd.unregister(range) }?;
            return Err(Errno::NOMEM);
        }
        Ok(())
    }

    /// Adds a registered range. False when it is known, or there are no keys left.
    pub(crate) fn add_extent(&self, extents: &mut Extents, range: &Range<usize>) -> bool {
        if extents.within(range.clone()).next().is_some() {
            return false;
        }
        let Some(extent) = extents.add(range) else { return false };
        let mut queue = lock(&self.queue);
        queue.reserve((extent.pages / CHUNK_PAGES + 2) as usize);
        drop(queue);
        for number in chunks_of(&extent) {
            self.queue_up(number, &mut self.chunks.lock(number));
        }
        self.bytes_mapped.fetch_add(range.len() as u64, Ordering::Relaxed);
        true
    }

    /// Unmaps `bytes` at `at` and forgets their pages.
    ///
    /// # Safety
    /// It was mapped here, and nobody uses it any more.
    pub unsafe fn unmap(&self, at: NonNull<u8>, bytes: usize) {
        let start = at.as_ptr() as usize;
        let range = start..start + bytes.max(1).next_multiple_of(PAGE_SIZE);
        let _gate = read(&self.gate);
        // Nothing leaves while pages are counted and go.
        let _turn = lock(&self.turn);
        let resident = self.resident_pages_in(&range);
        self.forget_range(&range);
        // SAFETY: the caller gives the range up. In handler mode the call waits until its event is read.
        let unmapped = unsafe { rustix::mm::munmap(range.start as *mut _, range.len()) };
        debug_assert!(unmapped.is_ok());
        self.used.dropped(resident);
    }

    /// Throws the contents of a range away: it reads as zeroes from now on.
    ///
    /// # Safety
    /// It was mapped here, and nobody reads or writes it meanwhile.
    pub unsafe fn discard(&self, at: NonNull<u8>, bytes: usize) {
        let start = at.as_ptr() as usize;
        let range = start..start + bytes;
        let _gate = read(&self.gate);
        let _turn = lock(&self.turn);
        let resident = self.resident_pages_in(&range);
        self.forget_contents(&range, 0);
        // SAFETY: the caller gives the contents up.
        let dropped = unsafe { rustix::mm::madvise(start as *mut _, bytes, Advice::LinuxDontNeed) };
        debug_assert!(dropped.is_ok());
        self.used.dropped(resident);
    }

    fn resident_pages_in(&self, range: &Range<usize>) -> u64 {
        let files = read(&self.files).clone();
        let ends =
            (range.start..range.end).step_by(CHUNK_BYTES).map(|at| at..range.end.min(at + CHUNK_BYTES));
        ends.filter_map(|part| files.pagemap.present(&part, Which::Any).ok())
            .map(|present| u64::from(present.pages.len()))
            .sum()
    }

    /// Brings the pages of a range in and holds them: nothing of them leaves until [`Pager::unpin`]. Holds
    /// add up.
    ///
    /// # Errors
    /// They do not fit into the budget together; nothing is held then.
    pub fn pin(&self, at: *const u8, bytes: usize) -> Result<(), Error> {
        let range = whole_pages(at as usize, bytes);
        let limit = self.options.budget.watermarks().low_bytes;
        let length = range.len() as u64;
        let held = self.held_bytes.fetch_add(length, Ordering::Relaxed);
        if held + length > limit {
            self.held_bytes.fetch_sub(length, Ordering::Relaxed);
            let fields: [(&'static str, &dyn std::fmt::Display); 3] =
                [("size", &Bytes(length)), ("held", &Bytes(held)), ("limit", &Bytes(limit))];
            return Err(Error::new(Kind::PinTooLarge, &fields));
        }
        self.hold(&range, true);
        for address in range.step_by(PAGE_SIZE) {
            // SAFETY: the caller owns memory there; one byte of each page is read, which brings the page.
            unsafe { std::ptr::read_volatile(address as *const u8) };
        }
        Ok(())
    }

    /// Ends one hold of a range.
    pub fn unpin(&self, at: *const u8, bytes: usize) {
        let range = whole_pages(at as usize, bytes);
        self.held_bytes.fetch_sub(range.len() as u64, Ordering::Relaxed);
        self.hold(&range, false);
    }

    pub(crate) fn hold(&self, range: &Range<usize>, is_held: bool) {
        let _gate = read(&self.gate);
        let extents = read(&self.extents);
        for part in extents.within(range.clone()) {
            for number in chunks_of(&part) {
                let mut chunk = self.chunks.lock(number);
                chunk.holds = if is_held { chunk.holds + 1 } else { chunk.holds.saturating_sub(1) };
            }
        }
    }

    /// Forgets a range that is being unmapped, or was. Pages of it that are moving are no longer wanted.
    pub(crate) fn forget_range(&self, range: &Range<usize>) {
        let mut extents = self.extents.write().unwrap_or_else(PoisonError::into_inner);
        let parts = extents.cut(range);
        for part in &parts {
            self.forget_part(part, 0);
            self.bytes_mapped.fetch_sub(part.pages * PAGE_SIZE as u64, Ordering::Relaxed);
        }
        extents.forget(&parts);
    }

    /// The program has moved a range with its pages; what was at the new place is gone.
    pub(crate) fn move_range(&self, from: &Range<usize>, to: usize) {
        let mut extents = self.extents.write().unwrap_or_else(PoisonError::into_inner);
        let parts = extents.cut(from);
        let replaced = extents.cut(&(to..to + from.len()));
        replaced.iter().for_each(|part| self.forget_part(part, 0));
        extents.forget(&replaced);
        extents.put_back(&parts, from.start, to);
        for number in parts.iter().flat_map(chunks_of) {
            let mut chunk = self.chunks.lock(number);
            chunk.generation = chunk.generation.wrapping_add(1);
        }
    }

    /// Forgets the contents of a range that stays managed. With `quiet_ms`, nothing leaves from there for
    /// so long.
    pub fn forget_contents(&self, range: &Range<usize>, quiet_ms: u64) {
        let extents = read(&self.extents);
        for part in extents.within(range.clone()) {
            self.forget_part(&part, quiet_ms);
        }
    }

    /// As [`Pager::forget_contents`], for a call of the program of which only the beginning is known.
    pub(crate) fn forget_contents_early(&self, range: &Range<usize>) {
        self.forget_contents(range, QUIET_MS);
    }

    /// Forgets what is known of pages: those that are moving are no longer wanted, copies go.
    fn forget_part(&self, part: &Extent, quiet_ms: u64) {
        for number in chunks_of(part) {
            let first = number * CHUNK_PAGES;
            let pages = part.key.max(first)..(part.key + part.pages).min(first + CHUNK_PAGES);
            let mut chunk = self.chunks.lock(number);
            chunk.generation = chunk.generation.wrapping_add(1);
            for page in pages.clone() {
                chunk.moving.remove((page - first) as usize);
                chunk.credit.remove((page - first) as usize);
                if chunk.may_have_copies {
                    self.options.chain.invalidate_page(key(page));
                }
            }
            if pages.end - pages.start == CHUNK_PAGES {
                chunk.may_have_copies = false;
            }
            if quiet_ms > 0 {
                chunk.quiet_until_ms = self.clock_ms() + quiet_ms;
            }
        }
    }

    /// The program's call that threw contents away has ended, so the quiet time of the range can too.
    pub fn contents_are_gone(&self, range: &Range<usize>) {
        let _gate = read(&self.gate);
        let _events = lock_events(self);
        let extents = read(&self.extents);
        for part in extents.within(range.clone()) {
            for number in chunks_of(&part) {
                self.chunks.lock(number).quiet_until_ms = 0;
            }
        }
    }

    /// Milliseconds since the pager began.
    pub(crate) fn clock_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Microseconds since the pager began.
    pub(crate) fn clock_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// Changes the limit of RAM. Pages leave until it fits.
    pub fn set_ram(&self, ram: Bytes) {
        self.options.budget.share.set_limit_bytes(ram.0);
        self.ring();
    }

    /// The limit of RAM.
    pub fn ram(&self) -> Bytes {
        Bytes(self.options.budget.share.limit_bytes())
    }

    /// Whether `pages` more fit under the limit.
    pub(crate) fn has_room(&self, pages: u64) -> bool {
        self.used.total_bytes() + pages * PAGE_SIZE as u64 <= self.options.budget.share.limit_bytes()
    }

    /// Wakes the evictor if it sleeps long.
    pub(crate) fn ring(&self) {
        if self.is_dozing.swap(false, Ordering::AcqRel) {
            crate::evict::ring(&self.bell);
        }
    }

    /// Measures what is used; returns the bytes of all that share.
    pub(crate) fn measure(&self) -> u64 {
        let budget = &self.options.budget;
        let bytes = match budget.accounting {
            Accounting::Counted => self.pool_bytes() + self.chunks.bytes(),
            Accounting::Process => read(&self.files).meter.bytes(budget.share.has_relatives()),
        };
        self.used.measured(budget.accounting, bytes, budget.share.others_bytes());
        budget.share.publish(&self.usage());
        self.may_keep.store(self.pool_has_room(), Ordering::Relaxed);
        if let Some(bytes) = budget.share.pool_limit_bytes() {
            self.limit_pool(bytes);
        }
        self.used.total_bytes()
    }

    /// Whether the backends in RAM are so far from full that they may have what is in the process too.
    fn pool_has_room(&self) -> bool {
        let members = self.options.chain.members();
        let fast = members.iter().filter(|member| !member.description().is_slow);
        let (used, limit) = fast.fold((0u64, 0u64), |(used, limit), member| {
            let usage = member.backend().usage();
            (used + usage.mem_used_total.0, limit.saturating_add(usage.mem_limit.0))
        });
        used < limit.min(self.options.budget.share.limit_bytes()) / 4 * 3
    }

    /// Sets the capacity of the backends in RAM, when it differs by more than a little.
    fn limit_pool(&self, bytes: u64) {
        for member in self.options.chain.members().iter().filter(|member| !member.description().is_slow) {
            let now = member.backend().usage().mem_limit.0;
            if now.abs_diff(bytes) > now / 64 {
                // A capacity that cannot be had leaves things as they are.
                let _ = member.backend().set_capacity(Bytes(bytes));
            }
        }
    }

    fn usage(&self) -> Usage {
        let chain = &self.options.chain;
        let usages: Vec<_> = chain.members().iter().map(|member| member.backend().usage()).collect();
        let used_bytes = self.used.own_bytes();
        let mem_used_total =
            usages.iter().map(|usage| usage.mem_used_total.0).sum::<u64>() + chain.map_bytes().0;
        Usage {
            used_bytes,
            resident_bytes: match self.options.budget.accounting {
                Accounting::Counted => self.used.resident_pages().max(0) as u64 * PAGE_SIZE as u64,
                Accounting::Process => used_bytes.saturating_sub(mem_used_total),
            },
            registered_bytes: self.bytes_mapped.load(Ordering::Relaxed),
            stored_pages: chain.curr_pages().0,
            mem_used_total,
            disk_used_total: usages.iter().map(|usage| usage.disk_used_total.0).sum(),
        }
    }

    /// Bytes of RAM that the chain takes.
    fn pool_bytes(&self) -> u64 {
        let chain = &self.options.chain;
        let members = chain.members();
        let backends: u64 = members.iter().map(|member| member.backend().usage().mem_used_total.0).sum();
        backends + chain.map_bytes().0
    }

    /// A reading of everything.
    pub fn stats(&self) -> PagerStats {
        let latencies = self.latencies();
        PagerStats {
            ram_limit_bytes: self.ram().0,
            usage: self.usage(),
            counters: self.counters().all().map(|(_, counter)| counter.load(Ordering::Relaxed)),
            fault_ns_p50: latencies.percentile_ns(50),
            fault_ns_p99: latencies.percentile_ns(99),
        }
    }

    /// The counters, live.
    pub fn counters(&self) -> &Counters {
        self.options.budget.share.counters()
    }

    /// How long faults took, live.
    pub fn latencies(&self) -> &Latencies {
        self.options.budget.share.latencies()
    }

    /// What the backends are.
    pub fn backends(&self) -> Vec<Description> {
        self.options.chain.members().iter().map(|member| member.description().clone()).collect()
    }

    fn start_threads(self: &Arc<Self>) -> Result<(), Error> {
        type Work = fn(&Pager);
        let mut works: Vec<(&'static str, Work)> =
            vec![("fs-evict", crate::evict::run), ("fs-chain", crate::evict::keep_house)];
        if self.mode == Mode::Handler {
            works.push(("fs-handler", crate::handler::run));
            works.push(("fs-slow-1", crate::handler::run_slow));
            works.push(("fs-slow-2", crate::handler::run_slow));
        }
        let mut threads = lock(&self.threads);
        for (name, work) in works {
            let pager = self.clone();
            threads.push(crate::threads::spawn(self.options.threads, name, Box::new(move || work(&pager)))?);
        }
        Ok(())
    }

    /// Stops the threads. Everything that was mapped must be unmapped before; what is still managed stays
    /// where it is and can no longer be brought in.
    pub fn close(&self) {
        crate::fork::leave(self);
        if self.mode == Mode::Signal {
            crate::signal::leave(self);
        }
        self.must_stop.store(true, Ordering::Release);
        self.is_dozing.store(true, Ordering::Release);
        self.ring();
        crate::evict::ring(&self.slow_bell);
        let threads = std::mem::take(&mut *lock(&self.threads));
        threads.into_iter().for_each(Thread::join);
    }

    /// Goes on in a child of fork: new files, everything registered again, new threads. The parent's
    /// threads are not here, and none of them was at work when the process forked.
    ///
    /// # Errors
    /// The system has no files, threads or memory for it.
    pub(crate) fn resume_in_child(self: &Arc<Self>) -> Result<(), Error> {
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            thread.forget();
        }
        if let Some(reopen) = &self.options.reopen {
            reopen()?;
        }
        let files = Arc::new(Files::open(self.mode)?);
        let failed = |errno: Errno| {
            Error::new(
                Kind::PagerFailed,
                &[("operation", &"register memory after a fork"), ("reason", &errno)],
            )
        };
        self.staging.register(&files.uffd).map_err(failed)?;
        for extent in read(&self.extents).all() {
            // SAFETY: the pager knows the extent, and its threads start below.
            unsafe { files.uffd.register(&(extent.start..extent.end())) }.map_err(failed)?;
        }
        let before =
            std::mem::replace(&mut *self.files.write().unwrap_or_else(PoisonError::into_inner), files);
        if self.options.threads == Threads::Hidden {
            // Its numbers were those of a table that this process has not got.
            std::mem::forget(before);
        }
        lock(&self.slow_faults).clear();
        self.start_threads()
    }
}

/// The chunks that have a page of `extent`.
pub(crate) fn chunks_of(extent: &Extent) -> Range<u64> {
    extent.key / CHUNK_PAGES..(extent.key + extent.pages).div_ceil(CHUNK_PAGES)
}

fn whole_pages(start: usize, bytes: usize) -> Range<usize> {
    start & !(PAGE_SIZE - 1)..(start + bytes).next_multiple_of(PAGE_SIZE)
}

/// Maps anonymous memory at a multiple of `align`.
fn map_aligned(length: usize, align: usize) -> Result<usize, Errno> {
    let extra = if align > PAGE_SIZE { align } else { 0 };
    let whole = length.checked_add(extra).ok_or(Errno::NOMEM)?;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let base =
        unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole, protection, flags) }? as usize;
    let start = base.next_multiple_of(align);
    for (from, to) in [(base, start), (start + length, base + whole)] {
        if from < to {
            // SAFETY: parts of the new mapping that are not wanted.
            unsafe { rustix::mm::munmap(from as *mut _, to - from) }?;
        }
    }
    // Huge pages come and go as a whole: a fault on a part of one that left brings small ones anyway.
    Ok(start)
}

/// A moment's sleep of whoever waits for room.
pub(crate) fn nap() {
    std::thread::sleep(Duration::from_micros(50));
}
