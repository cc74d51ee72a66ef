//! Many threads on one chain while its capacity goes up and down, backends come and go, and pages move:
//! every page that comes back is checked against what its key may hold.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use common::moody::Moody;
use common::{
    KIB, Look, MIB, Random, chain, eventually, file, member, mix, ram, stress_time, within, writethrough,
    zpool,
};
use frontswap::table::{LEAF_PAGES, PageTable};
use frontswap::{
    Answer, Area, Backend, Bytes, Chain, ChainOptions, Housekeeping, Key, Member, Page, Pages, Stored,
};

const LIMIT: Duration = Duration::from_secs(40);
const THREADS: u64 = 4;
const KEYS: u64 = 1200;

fn key(number: u64) -> Key {
    // A few full leaves and some lone pages.
    Key::new(0, if number % 16 == 15 { 10_000 + number * 131 } else { number })
}

/// A page that says which key and version it is, in the first words, and is of some look after that.
fn versioned(number: u64, version: u64) -> Page {
    let look = Look::ALL[mix(number ^ version) as usize % Look::ALL.len()];
    let mut page = look.page(mix(number) ^ version);
    if look != Look::Word {
        page.0[8..16].copy_from_slice(&number.to_le_bytes());
        page.0[16..24].copy_from_slice(&version.to_le_bytes());
    }
    page
}

/// The version in a page of `number`, or `None` when the page is none of the versions so far.
fn version_of(page: &Page, number: u64, last: u64) -> Option<u64> {
    let written = u64::from_le_bytes(page.0[16..24].try_into().ok()?);
    if *page == versioned(number, written) {
        return Some(written);
    }
    // A page of one repeated word has no room for a version: it is one of the possible words.
    let word = page.same_filled()?;
    let version = word ^ mix(number);
    (version <= last && *page == versioned(number, version)).then_some(version)
}

/// What one thread knows of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Absent,
    Held(u64),
    /// The front end took it back; the chain may not have forgotten it yet.
    Pulled(u64),
}

/// Keys of which each has one owner at a time, who knows exactly what it holds.
struct Owned(Vec<Mutex<(Known, u64)>>);

impl Owned {
    fn new() -> Self {
        Owned((0..KEYS).map(|_| Mutex::new((Known::Absent, 0))).collect())
    }

    /// One random call on one random key, checked.
    fn step(&self, chain: &Chain, random: &mut Random) {
        let number = random.below(KEYS);
        let mut state = self.0[number as usize].lock().unwrap();
        let key = key(number);
        match random.below(10) {
            0..5 => {
                state.1 += 1;
                let version = state.1;
                let answer = chain.store(key, &versioned(number, version)).unwrap();
                let is_held = !matches!(answer, Stored::Rejected(_));
                state.0 = if is_held { Known::Held(version) } else { Known::Absent };
            }
            5 => {
                chain.invalidate_page(key);
                state.0 = Known::Absent;
            }
            6 => {
                Self::check(chain, number, &state, true);
                state.0 = Known::Absent;
            }
            _ => Self::check(chain, number, &state, false),
        }
    }

    fn check(chain: &Chain, number: u64, (known, last): &(Known, u64), exclusive: bool) {
        let mut page = Page::default();
        let is_held = chain.load(key(number), &mut page, exclusive).unwrap();
        let version = is_held.then(|| version_of(&page, number, *last).expect("a page of this key"));
        match known {
            Known::Absent => assert_eq!(version, None, "key {number}"),
            Known::Held(expected) => assert_eq!(version, Some(*expected), "key {number}"),
            Known::Pulled(expected) => {
                assert!(version.is_none_or(|found| found == *expected), "key {number}")
            }
        }
    }

    /// Takes pages back, as a front end that shrinks.
    fn pull(&self, chain: &Chain, target: u64) {
        chain
            .shrink(Pages(target), &mut |pulled, page| {
                let number = (0..KEYS).find(|number| key(*number) == pulled).unwrap();
                let Ok(mut state) = self.0[number as usize].try_lock() else { return Ok(false) };
                // It may have been overwritten or forgotten since it was copied out.
                if let Known::Held(version) = state.0
                    && version_of(page, number, state.1) == Some(version)
                {
                    state.0 = Known::Pulled(version);
                }
                Ok(true)
            })
            .unwrap();
    }

    fn check_all(&self, chain: &Chain) {
        let mut held = 0;
        for number in 0..KEYS {
            let state = self.0[number as usize].lock().unwrap();
            Self::check(chain, number, &state, false);
            held += u64::from(chain.load(key(number), &mut Page::default(), false).unwrap());
        }
        assert_eq!(chain.curr_pages(), Pages(held));
        assert_eq!(chain.counts().load_errors, 0);
    }
}

fn check_counts(chain: &Chain, is_writethrough: bool) {
    let counts = chain.counts();
    let in_backends = counts.stored_pages - counts.same_filled_pages;
    let members = chain.members();
    eventually("every page is counted where it is", || {
        let stored: Vec<_> = members.iter().map(|member| member.counters.stored_pages()).collect();
        let agrees = members
            .iter()
            .all(|member| member.counters.stored_pages() == member.backend().usage().stored_pages.0);
        let sum: u64 = stored.iter().sum();
        let expected = if is_writethrough { stored[stored.len() - 1] } else { sum };
        agrees && expected == in_backends
    });
    let by_area: u64 = chain.area_counts().iter().map(|area| area.counts.stored_pages).sum();
    assert_eq!(by_area, counts.stored_pages);
}

/// Runs `step` on some threads and `disturb` on another for the time of a stress test.
fn disturbed(step: impl Fn(&mut Random) + Sync, mut disturb: impl FnMut(&mut Random)) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (step, is_over) = (&step, &is_over);
            scope.spawn(move || {
                let mut random = Random(mix(thread));
                while !is_over.load(Ordering::Relaxed) {
                    step(&mut random);
                }
            });
        }
        let start = Instant::now();
        let mut random = Random(mix(99));
        while start.elapsed() < stress_time() {
            disturb(&mut random);
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

fn resize(chain: &Chain, member: &Arc<Member>, capacity: u64) {
    member.backend().set_capacity(Bytes(capacity)).unwrap();
    chain.fit(member);
}

#[test]
fn pages_survive_everything_that_happens_to_a_chain() {
    let (pool, plain, slow) = (member(zpool(MIB)), member(ram(MIB)), member(file(8 * MIB)));
    let chain = chain(&[&pool, &slow], ChainOptions::default(), 1 << 20);
    let owned = Owned::new();
    let mut disturb = |random: &mut Random| match random.below(9) {
        0 => resize(&chain, &pool, (4 + random.below(1600)) * KIB),
        1 => resize(&chain, &plain, (4 + random.below(800)) * KIB),
        2 | 3 => {
            let position = random.below(2) as usize;
            if plain.is_seated() {
                chain.remove_backend(&plain).unwrap();
            } else {
                chain.add_backend(plain.clone(), position).unwrap();
            }
        }
        4 => drop(chain.shrink_to_slow(Pages(random.below(KEYS)))),
        5 => owned.pull(&chain, random.below(KEYS)),
        6 => drop((0..100).find(|_| !chain.maintain())),
        7 => {
            chain.tidy();
            chain.kick();
        }
        _ => std::thread::sleep(Duration::from_millis(random.below(20))),
    };
    let has_seen_all = || {
        let counts = chain.counts();
        counts.succ_stores > 1000 && counts.written_back_pages > 0 && counts.promoted_pages > 0
    };
    // On a busy machine a thread does not come far in the time of one.
    within(LIMIT, "the stress test", || {
        (0..10).find(|_| {
            disturbed(|random| owned.step(&chain, random), &mut disturb);
            has_seen_all()
        })
    });
    owned.check_all(&chain);
    check_counts(&chain, false);
    assert!(has_seen_all(), "{:?}", chain.counts());
    chain.close();
    assert_eq!(pool.backend().usage().stored_pages, Pages(0));
}

#[test]
fn writethrough_loses_no_page_when_a_backend_loses_all_again_and_again() {
    let moody = Moody::volatile(zpool(2 * MIB));
    let (fast, plain, slow) = (member(moody.clone()), member(ram(512 * KIB)), member(file(8 * MIB)));
    let chain = chain(&[&fast, &slow], writethrough(), 1 << 20);
    let owned = Owned::new();
    let disturb = |random: &mut Random| match random.below(6) {
        0 | 1 => moody.lose_everything(),
        2 => resize(&chain, &fast, (4 + random.below(1600)) * KIB),
        3 if plain.is_seated() => chain.remove_backend(&plain).unwrap(),
        3 => chain.add_backend(plain.clone(), random.below(2) as usize).unwrap(),
        4 => drop(chain.shrink_to_slow(Pages(random.below(KEYS)))),
        _ => std::thread::sleep(Duration::from_millis(random.below(20))),
    };
    within(LIMIT, "the stress test", || disturbed(|random| owned.step(&chain, random), disturb));
    let mut held = 0;
    for number in 0..KEYS {
        Owned::check(&chain, number, &owned.0[number as usize].lock().unwrap(), false);
        held += u64::from(chain.load(key(number), &mut Page::default(), false).unwrap());
    }
    assert_eq!(chain.curr_pages(), Pages(held));
    for number in 0..KEYS {
        chain.invalidate_page(key(number));
    }
    check_counts(&chain, true);
    assert_eq!((fast.counters.stored_pages(), slow.counters.stored_pages()), (0, 0));
}

/// One writer per key, any number of readers: nobody ever reads a version older than one that was
/// settled before the read began, nor one that was not begun when it ended.
#[test]
fn readers_never_see_an_old_version() {
    struct Shared {
        begun: AtomicU64,
        settled: AtomicU64,
    }
    let (pool, plain, slow) = (member(zpool(600 * KIB)), member(ram(200 * KIB)), member(file(8 * MIB)));
    let chain = chain(&[&pool, &plain, &slow], ChainOptions::default(), 1 << 20);
    let keys: Vec<_> =
        (0..KEYS).map(|_| Shared { begun: AtomicU64::new(0), settled: AtomicU64::new(0) }).collect();
    let writers = AtomicU64::new(0);
    let step = |random: &mut Random, writer: u64| {
        let number = random.below(KEYS);
        let shared = &keys[number as usize];
        if number % THREADS == writer && random.below(2) == 0 {
            let version = shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
            if random.below(8) == 0 {
                chain.invalidate_page(key(number));
            } else {
                chain.store(key(number), &versioned(number, version)).unwrap();
            }
            shared.settled.store(version, Ordering::SeqCst);
            return;
        }
        let mut page = Page::default();
        let oldest = shared.settled.load(Ordering::SeqCst);
        let is_held = chain.load(key(number), &mut page, false).unwrap();
        let newest = shared.begun.load(Ordering::SeqCst);
        if is_held {
            let version = version_of(&page, number, newest).expect("a page of this key");
            assert!((oldest..=newest).contains(&version), "key {number}: {oldest} <= {version} <= {newest}");
        }
    };
    let disturb = |random: &mut Random| match random.below(4) {
        0 => resize(&chain, &pool, (4 + random.below(1000)) * KIB),
        1 if plain.is_seated() => chain.remove_backend(&plain).unwrap(),
        1 => chain.add_backend(plain.clone(), random.below(2) as usize).unwrap(),
        2 => drop(chain.shrink_to_slow(Pages(random.below(KEYS)))),
        _ => std::thread::sleep(Duration::from_millis(random.below(10))),
    };
    thread_local!(static WRITER: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) });
    let numbered = |random: &mut Random| {
        let writer = WRITER.get().unwrap_or_else(|| writers.fetch_add(1, Ordering::Relaxed));
        WRITER.set(Some(writer));
        step(random, writer);
    };
    within(LIMIT, "the stress test", || disturbed(numbered, disturb));
    check_counts(&chain, false);
}

/// Areas end and begin again while other threads use them: no count may be charged to a later area.
#[test]
fn counts_of_an_area_are_its_own() {
    let (plain, slow) = (member(ram(256 * KIB)), member(file(4 * MIB)));
    let chain = chain(&[&plain, &slow], ChainOptions::default(), 64);
    let step = |random: &mut Random| {
        let key = key(random.below(8));
        match random.below(4) {
            0 | 1 => drop(chain.store(key, &Look::ALL[random.below(4) as usize].page(key.offset.0))),
            2 => drop(chain.load(key, &mut Page::default(), true)),
            _ => chain.invalidate_page(key),
        }
    };
    let restart = |_: &mut Random| {
        chain.invalidate_area(Area(0));
        chain.init(Area(0), Pages(64)).unwrap();
    };
    within(LIMIT, "the stress test", || disturbed(step, restart));
    check_counts(&chain, false);
    let area = &chain.area_counts()[0].counts;
    assert_eq!(area.same_filled_pages, chain.counts().same_filled_pages);
    assert!(area.stored_pages <= 8, "{area:?}");
}

/// A lowered capacity is reached in bounded time although others go on storing.
#[test]
fn a_capacity_is_reached_while_others_store() {
    for backend in [zpool(8 * MIB) as Arc<dyn Backend>, ram(8 * MIB)] {
        let (fast, slow) = (member(backend), member(file(32 * MIB)));
        let chain = chain(&[&fast, &slow], ChainOptions::default(), 5000);
        let store = |offset: u64| chain.store(Key::new(0, offset), &Look::Noise.page(offset)).unwrap();
        (0..1800).for_each(|offset| _ = store(offset));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (store, is_over) = (&store, &is_over);
                scope.spawn(move || {
                    let mut random = Random(thread);
                    while !is_over.load(Ordering::Relaxed) {
                        store(random.below(4000));
                    }
                });
            }
            within(Duration::from_secs(10), "fit", || {
                for capacity in [2 * MIB, 6 * MIB, MIB] {
                    fast.backend().set_capacity(Bytes(capacity)).unwrap();
                    eventually("it fits", || chain.fit(&fast) == Pages(0));
                }
            });
            is_over.store(true, Ordering::Relaxed);
        });
        check_counts(&chain, false);
    }
}

/// Leaves are dropped only when nobody uses them: a page that is stored meanwhile is not dropped with
/// its leaf.
#[test]
fn trimming_drops_no_entry() {
    let table = PageTable::<1>::default();
    let is_over = AtomicBool::new(false);
    let step = |area: u16, step: u64| {
        let key = Key::new(area, step % 16 * LEAF_PAGES as u64);
        table.lock(key).set([4]);
        let mut entry = table.lock_existing(key).expect("its leaf is in use");
        assert!(!entry.is_vacant(), "{key:?} was dropped");
        entry.clear();
    };
    std::thread::scope(|scope| {
        for area in 0..3 {
            let (step, is_over) = (&step, &is_over);
            scope.spawn(move || {
                (0..).take_while(|_| !is_over.load(Ordering::Relaxed)).for_each(|number| step(area, number));
            });
        }
        let start = Instant::now();
        while start.elapsed() < stress_time() / 2 {
            table.trim();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(table.live(), 0);
    table.trim();
    assert_eq!(table.bytes(), PageTable::<1>::default().bytes());
}

/// Two threads that both find a pool without a slot add no more to it than compaction can undo.
#[test]
fn housekeeping_comes_to_an_end() {
    const ROUNDS: u64 = if cfg!(debug_assertions) { 100 } else { 400 };
    for round in 0..ROUNDS {
        let pool = zpool(4 * MIB);
        pool.init(Area(0), Pages(1000)).unwrap();
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (pool, barrier) = (&pool, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let answer = pool.store(Key::new(0, thread * 500), &Look::Noise.page(round));
                    assert_eq!(answer, Ok(Answer::Accepted));
                });
            }
        });
        let calls = (0..1000).find(|_| !pool.maintain());
        assert!(calls.is_some(), "round {round}: there is always more to do");
    }
}
