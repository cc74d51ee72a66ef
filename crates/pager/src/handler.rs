//! Faults that come to a thread of ours, and what the program does to its memory meanwhile.
//!
//! One thread reads: while it applies an event nobody moves pages out, and it never waits for a disk or
//! for room itself. Faults on the slow swap go to threads that may wait.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{RwLockReadGuard, TryLockError};
use std::time::{Duration, Instant};

use frontswap::error::Error;
use frontswap::page::PAGE_SIZE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::CpuSet;

use crate::counters::add;
use crate::fault::Resolution;
use crate::pagemap;
use crate::pager::{Files, Pager, read};
use crate::threads::lock;
use crate::uffd::{EVENTS_MAX, Event, Refusal};

/// How long the reader sleeps when nothing comes, so that it notices its end.
const POLL_MAX: Duration = Duration::from_millis(100);
/// How often it looks whether there is room for a fault that waits for some.
const ROOM_POLL: Duration = Duration::from_micros(100);
/// How long such a fault waits at most.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(200);

/// The same when nobody takes pages: the program is slowed, and told when it asks for more.
const STUCK_WAIT_MAX: Duration = Duration::from_millis(5);

/// A fault that could not be answered yet.
#[derive(Clone, Copy)]
struct Waiting {
    address: usize,
    since: Instant,
}

/// Keeps the reader on the processor of the thread that faults: there a wake-up costs a switch, across
/// processors it costs an interrupt, which is several times as much.
struct Follower {
    thread: u32,
    faults: u32,
    cpu: Option<usize>,
}

/// Faults of one thread between two looks at where it runs: a look costs about as much as a fault.
const FAULTS_PER_LOOK: u32 = 64;

impl Follower {
    fn follow(&mut self, thread: u32) {
        self.faults += 1;
        if thread == self.thread && self.faults < FAULTS_PER_LOOK {
            return;
        }
        // Two threads that take turns are not run after.
        if thread != self.thread && self.faults < FAULTS_PER_LOOK / 8 {
            self.thread = thread;
            return;
        }
        self.thread = thread;
        self.faults = 0;
        let cpu = pagemap::processor_of(thread);
        if let Some(number) = cpu.filter(|_| cpu != self.cpu) {
            let mut set = CpuSet::new();
            set.set(number);
            let _ = rustix::thread::sched_setaffinity(None, &set);
            self.cpu = cpu;
        }
    }
}

/// The thread that reads.
pub fn run(pager: &Pager) {
    crate::threads::ask_for_short_slices();
    let mut follower = Follower { thread: 0, faults: 0, cpu: None };
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let mut waiting: Vec<Waiting> = Vec::with_capacity(64);
    let files = read(&pager.files).clone();
    while !pager.must_stop.load(Ordering::Acquire) {
        let gate = pass_gate(pager, &files);
        {
            let _events = lock(&pager.events);
            files.uffd.read(&mut events);
            events
                .iter()
                .filter(|event| !matches!(event, Event::Fault { .. }))
                .for_each(|event| apply(pager, event));
        }
        let is_quiet = events.is_empty();
        {
            let since = Instant::now();
            let faults = events.drain(..).filter_map(|event| match event {
                Event::Fault { address, thread, .. } => {
                    follower.follow(thread);
                    Some(Waiting { address, since })
                }
                _ => None,
            });
            waiting.extend(faults);
            waiting.retain(|fault| !answer(pager, fault));
        }
        drop(gate);
        if is_quiet {
            let pause = if waiting.is_empty() { POLL_MAX } else { ROOM_POLL };
            let pause = Timespec { tv_sec: 0, tv_nsec: pause.as_nanos() as _ };
            let _ = poll(&mut [PollFd::new(&files.uffd, PollFlags::IN)], Some(&pause));
        }
    }
}

/// How long a fork may take before it is looked at what it waits for.
const FORK_WAIT: Duration = Duration::from_millis(2);

/// Waits until no fork is under way; None when a fault must be answered although one is.
fn pass_gate<'a>(pager: &'a Pager, files: &Files) -> Option<RwLockReadGuard<'a, ()>> {
    loop {
        let closed_since = Instant::now();
        while closed_since.elapsed() < FORK_WAIT {
            match pager.gate.try_read() {
                Ok(gate) => return Some(gate),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(ROOM_POLL),
            }
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let has_fault = poll(&mut [PollFd::new(&files.uffd, PollFlags::IN)], Some(&now)) == Ok(1);
        if has_fault && crate::fork::may_pass() {
            return None;
        }
    }
}

/// A thread that may wait: it answers faults on the slow swap.
pub fn run_slow(pager: &Pager) {
    while !pager.must_stop.load(Ordering::Acquire) {
        let heard = pager.slow_bell.load(Ordering::Acquire);
        let next = lock(&pager.slow_faults).pop_front();
        let Some(address) = next else {
            crate::evict::wait(&pager.slow_bell, heard, POLL_MAX);
            continue;
        };
        let _gate = read(&pager.gate);
        loop {
            match pager.resolve(address, true) {
                Resolution::Again => crate::pager::nap(),
                Resolution::Lost(error) => break pager.lose(address, &error),
                // Unmapped meanwhile, or moved: whoever waited faults again where it is.
                Resolution::NotOurs => break read(&pager.files).uffd.wake(&page_at(address)),
                Resolution::Done | Resolution::Slow => break,
            }
        }
    }
}

/// Answers one fault if it can be now.
fn answer(pager: &Pager, fault: &Waiting) -> bool {
    if !pager.has_room(1) {
        let is_stuck = pager.is_stuck.load(Ordering::Relaxed);
        if fault.since.elapsed() < if is_stuck { STUCK_WAIT_MAX } else { ROOM_WAIT_MAX } {
            pager.ring();
            return false;
        }
        add(&pager.counters().over_limit, 1);
    }
    match pager.resolve(fault.address, false) {
        Resolution::Done => {}
        Resolution::Again => return false,
        Resolution::Slow => {
            lock(&pager.slow_faults).push_back(fault.address);
            crate::evict::ring(&pager.slow_bell);
        }
        Resolution::Lost(error) => pager.lose(fault.address, &error),
        Resolution::NotOurs => return pager.adopt(fault.address),
    }
    if pager.used.total_bytes() > pager.options.budget.watermarks().high_bytes {
        pager.ring();
    }
    true
}

fn page_at(address: usize) -> Range<usize> {
    address..address + PAGE_SIZE
}

/// Applies what the program has done. The lock of events is held.
fn apply(pager: &Pager, event: &Event) {
    match event {
        Event::Fault { .. } | Event::Other => {}
        Event::Remove(range) => pager.forget_contents_early(range),
        Event::Unmap(range) => pager.forget_range(range),
        Event::Remap { from, to, length } => pager.move_range(&(*from..*from + *length), *to),
    }
}

impl Pager {
    /// Says that a page is lost, and makes whoever wants it get SIGBUS instead of something else.
    fn lose(&self, address: usize, error: &Error) {
        self.report_lost(address, error);
        let files = read(&self.files);
        if files.uffd.poison(address).is_err() {
            // SAFETY: sends a signal to this process, which ends by it.
            unsafe { libc::kill(libc::getpid(), libc::SIGBUS) };
        }
        files.uffd.wake(&page_at(address));
    }

    /// Says on stderr which page is lost, and why.
    pub(crate) fn report_lost(&self, address: usize, error: &Error) {
        add(&self.counters().page_errors, 1);
        let text = format!(
            "frontswap: error: {}\n  the process was sent SIGBUS at {address:#x} instead of being given wrong data\n",
            error.message()
        );
        crate::threads::write_stderr(&text);
    }

    /// A fault where nothing is known: the program has made a managed mapping longer, which the kernel does
    /// not tell. Manages the rest of that mapping.
    fn adopt(&self, address: usize) -> bool {
        let files = read(&self.files).clone();
        // SAFETY: if nothing of the map is changing, what nobody knows are zeroes.
        match unsafe { files.uffd.zero(&page_at(address)) } {
            // The program is moving memory to there: in a moment it is known.
            (_, Some(Refusal::Again)) => return false,
            (done, _) => self.used.filled(done as u64),
        }
        files.uffd.wake(&page_at(address));
        let mut found = None;
        let _ = pagemap::each_mapping(|mapping| {
            if (mapping.start..mapping.end).contains(&address) {
                found = Some(mapping.start..mapping.end);
            }
        });
        if let Some(mapping) = found {
            self.manage_found(&[self.gap_around(address, &mapping)]);
        }
        true
    }

    /// The part of `mapping` around `address` that is not managed.
    fn gap_around(&self, address: usize, mapping: &Range<usize>) -> Range<usize> {
        let extents = read(&self.extents);
        let before =
            extents.within(mapping.start..address).last().map_or(mapping.start, |extent| extent.end());
        let after = extents.within(address..mapping.end).next().map_or(mapping.end, |extent| extent.start);
        before..after
    }
}
