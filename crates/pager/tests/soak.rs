//! A randomised soak: threads write, read, throw away, unmap, map and move memory against shadow copies,
//! while the budget jumps and the backend rejects, delays and fails.
//!
//! `FRONTSWAP_SOAK_SECONDS` says how long each mode runs; a few seconds by default.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Array, chain_with_faults, pager_on};
use frontswap::{Bytes, PAGE_SIZE};
use frontswap_backends::Faults;
use frontswap_pager::{Mode, Pager};

const MIB: usize = 1 << 20;
const THREADS: u64 = 3;
const ARRAYS: usize = 4;
const ARRAY_PAGES_MAX: u64 = 6 * 256;

#[test]
fn a_soak_in_signal_mode_loses_nothing() {
    soak(Mode::Signal);
}

#[test]
fn a_soak_in_handler_mode_loses_nothing() {
    soak(Mode::Handler);
}

/// Pages that must have moved for a run to say anything, and how long it may take.
const MOVED_MIN: u64 = 20_000;
const LONGEST: Duration = Duration::from_secs(120);

/// Pages that left, and pages that came back.
fn moved_pages(pager: &Pager) -> u64 {
    let counters = pager.counters();
    counters.evicted_pages.load(Ordering::Relaxed) + counters.loads.load(Ordering::Relaxed)
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// An array and what each page of it should say.
struct Shadowed {
    array: Array,
    tags: Vec<u64>,
}

fn soak(mode: Mode) {
    let seconds =
        std::env::var("FRONTSWAP_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let faults = Faults { seed: 5, reject: 0.02, delay: Duration::ZERO, ..Faults::default() };
    let pager = pager_on(mode, 24 * MIB, chain_with_faults(64 * MIB, faults));
    let must_stop = AtomicBool::new(false);
    let operations = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (pager, must_stop, operations) = (&pager, &must_stop, &operations);
            scope.spawn(move || work(pager, thread, must_stop, operations));
        }
        let mut chance = Chance(77);
        let began = Instant::now();
        // A busy machine gets longer, so that enough is tried everywhere.
        while began.elapsed() < Duration::from_secs(seconds)
            || moved_pages(&pager) < MOVED_MIN && began.elapsed() < LONGEST
        {
            pager.set_ram(Bytes((10 + chance.below(30)) * MIB as u64));
            std::thread::sleep(Duration::from_millis(20));
        }
        must_stop.store(true, Ordering::Relaxed);
    });
    let stats = pager.stats();
    let moved = moved_pages(&pager);
    println!("{mode:?}: {} operations, {moved} pages moved, {stats:?}", operations.load(Ordering::Relaxed));
    assert!(moved >= MOVED_MIN, "{stats:?}");
    pager.close();
}

fn work(pager: &Arc<Pager>, thread: u64, must_stop: &AtomicBool, operations: &AtomicU64) {
    let mut chance = Chance(thread + 1);
    let mut arrays: Vec<Shadowed> = (0..ARRAYS).map(|_| new_array(pager, &mut chance)).collect();
    while !must_stop.load(Ordering::Relaxed) {
        let which = chance.below(ARRAYS as u64) as usize;
        step(pager, &mut arrays[which], &mut chance);
        operations.fetch_add(1, Ordering::Relaxed);
    }
    for shadowed in &arrays {
        for (page, tag) in shadowed.tags.iter().enumerate() {
            assert_eq!(shadowed.array.read(page), *tag, "page {page}");
        }
    }
}

fn new_array(pager: &Arc<Pager>, chance: &mut Chance) -> Shadowed {
    // A budget that is used up for a moment refuses.
    loop {
        let pages = 1 + chance.below(ARRAY_PAGES_MAX) as usize;
        if let Some(array) = Array::try_new(pager, pages * PAGE_SIZE) {
            return Shadowed { array, tags: vec![0; pages] };
        }
        std::thread::yield_now();
    }
}

fn step(pager: &Arc<Pager>, shadowed: &mut Shadowed, chance: &mut Chance) {
    let pages = shadowed.tags.len() as u64;
    let first = chance.below(pages) as usize;
    let run = (1 + chance.below(64) as usize).min(pages as usize - first);
    match chance.below(1000) {
        0..2 => *shadowed = new_array(pager, chance),
        2..12 => {
            shadowed.array.discard(first, run);
            shadowed.tags[first..first + run].fill(0);
        }
        12..16 => {
            let _pinned = shadowed.array.pin(first, run);
            for page in first..first + run {
                assert_eq!(shadowed.array.read(page), shadowed.tags[page]);
            }
        }
        16..400 => {
            for page in first..first + run {
                assert_eq!(shadowed.array.read(page), shadowed.tags[page], "page {page} of {pages}");
            }
        }
        400..700 => assert_eq!(shadowed.array.read(first), shadowed.tags[first], "page {first} of {pages}"),
        _ => {
            let tag = chance.next() | 1;
            shadowed.array.write(first, tag);
            shadowed.tags[first] = tag;
        }
    }
}
