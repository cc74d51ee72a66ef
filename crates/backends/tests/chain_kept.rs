//! An owner that keeps the copies of pages that it has loaded, keeps house itself, and asks where pages are.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::moody::Moody;
use common::{
    KIB, Look, MIB, assert_holds, assert_missing, chain, faulty, member, quiet_file, ram, within,
    without_worker, writethrough, zpool,
};
use frontswap::{
    Answer, Area, Backend, Chain, ChainOptions, Housekeeping, Key, Kind, Page, Pages, Refreshed, Reject,
    Stored, Whereabouts,
};
use frontswap_backends::Faults;

fn page(seed: u64) -> Page {
    Look::Text.page(seed)
}

#[track_caller]
fn assert_kept(chain: &Chain, key: Key, page: &Page) {
    assert_eq!(chain.store_changed(key, page), Ok(Refreshed::Unchanged));
}

#[test]
fn a_page_that_did_not_change_is_kept_and_counted_once() {
    let pool = member(zpool(4 * MIB));
    let chain = chain(&[&pool], ChainOptions::default(), 100);
    let key = Key::new(0, 7);
    assert!(matches!(chain.store_changed(key, &page(1)), Ok(Refreshed::Stored(Stored::In(_)))));
    let (before, in_pool) = (chain.counts(), pool.counters.read());
    for _ in 0..3 {
        assert_kept(&chain, key, &page(1));
    }
    let counts = chain.counts();
    assert_eq!(counts.kept_pages, 3);
    assert_eq!((counts.succ_stores, counts.stored_pages), (before.succ_stores, 1));
    assert_eq!(chain.area_counts()[0].counts.kept_pages, 3);
    assert_eq!(pool.counters.read(), in_pool, "the backend was not asked");
    assert!(matches!(chain.store_changed(key, &page(2)), Ok(Refreshed::Stored(Stored::In(_)))));
    assert_holds(&chain, key, &page(2));
    assert_eq!((chain.counts().kept_pages, chain.counts().succ_stores), (3, before.succ_stores + 1));
}

#[test]
fn words_are_kept_in_the_map() {
    let pool = member(zpool(4 * MIB));
    let chain = chain(&[&pool], ChainOptions::default(), 100);
    let key = Key::new(0, 0);
    let word = Page::filled_with(5);
    assert_eq!(chain.store_changed(key, &word), Ok(Refreshed::Stored(Stored::SameFilled)));
    assert_kept(&chain, key, &word);
    let other = Page::filled_with(6);
    assert_eq!(chain.store_changed(key, &other), Ok(Refreshed::Stored(Stored::SameFilled)));
    assert_holds(&chain, key, &other);
    assert!(matches!(chain.store_changed(key, &page(6)), Ok(Refreshed::Stored(Stored::In(_)))));
    assert_eq!(chain.store_changed(key, &word), Ok(Refreshed::Stored(Stored::SameFilled)));
    assert_eq!((chain.counts().kept_pages, chain.curr_pages()), (1, Pages(1)));
    chain.invalidate_page(key);
    assert_missing(&chain, key);
    assert_eq!(
        chain.store_changed(key, &word),
        Ok(Refreshed::Stored(Stored::SameFilled)),
        "it was forgotten"
    );
}

#[test]
fn both_copies_of_writethrough_are_kept() {
    let fast = Moody::volatile(ram(4 * MIB));
    let (first, slow) = (member(fast.clone()), member(quiet_file(4 * MIB)));
    let chain = chain(&[&first, &slow], writethrough(), 100);
    let key = Key::new(0, 3);
    chain.store(key, &page(1)).unwrap();
    assert_kept(&chain, key, &page(1));
    assert_eq!((first.counters.stored_pages(), slow.counters.stored_pages()), (1, 1));
    fast.lose_everything();
    assert_kept(&chain, key, &page(1));
    assert_holds(&chain, key, &page(1));
    assert_eq!((first.counters.stored_pages(), slow.counters.stored_pages()), (0, 1));
    assert_kept(&chain, key, &page(1));
    assert!(matches!(chain.store_changed(key, &page(2)), Ok(Refreshed::Stored(_))));
    assert_eq!((first.counters.stored_pages(), slow.counters.stored_pages()), (1, 1));
    assert_holds(&chain, key, &page(2));
}

#[test]
fn what_is_offered_anew_while_shrink_hands_it_back_stays() {
    let pool = member(zpool(4 * MIB));
    let chain = chain(&[&pool], ChainOptions::default(), 100);
    let key = Key::new(0, 3);
    chain.store(key, &page(1)).unwrap();
    let mut pulls = 0;
    let left = chain.shrink(Pages(0), &mut |key, page| {
        pulls += 1;
        assert_kept(&chain, key, page);
        Ok(true)
    });
    assert_eq!((left, pulls > 0), (Ok(Pages(1)), true));
    assert_holds(&chain, key, &page(1));
}

#[test]
fn refusals_are_those_of_a_store() {
    let only = member(faulty(ram(MIB), Faults { reject: 1.0, ..Faults::default() }));
    let chain = chain(&[&only], ChainOptions::default(), 100);
    let rejected = |reason| Ok(Refreshed::Stored(Stored::Rejected(reason)));
    assert_eq!(chain.store_changed(Key::new(0, 0), &page(1)), rejected(Reject::Other));
    let error = chain.store_changed(Key::new(0, 100), &page(1)).unwrap_err();
    assert_eq!(error.kind(), Kind::OffsetPastEnd);
    chain.invalidate_area(Area(0));
    assert_eq!(chain.store_changed(Key::new(0, 0), &Page::ZERO), rejected(Reject::NoArea));
}

#[test]
fn whereabouts_tell_slow_from_fast_and_count_nothing() {
    let (pool, slow) = (member(zpool(4 * MIB)), member(quiet_file(4 * MIB)));
    let chain = chain(&[&pool, &slow], without_worker(), 100);
    chain.store(Key::new(0, 0), &Page::ZERO).unwrap();
    for offset in 1..5 {
        chain.store(Key::new(0, offset), &page(offset)).unwrap();
    }
    assert_eq!(chain.shrink_to_slow(Pages(1)), Pages(1));
    chain.store(Key::new(0, 5), &page(5)).unwrap();
    let counts = chain.counts();
    let places: Vec<_> = (0..8).map(|offset| chain.whereabouts(Key::new(0, offset))).collect();
    let mut expected = [Whereabouts::Slow; 8];
    expected[0] = Whereabouts::SameFilled;
    expected[5] = Whereabouts::Fast;
    expected[6..].fill(Whereabouts::Missing);
    assert_eq!(places, expected);
    for (area, offset) in [(0, 50_000), (9, 0)] {
        assert_eq!(chain.whereabouts(Key::new(area, offset)), Whereabouts::Missing);
    }
    assert_eq!(chain.counts(), counts);
    assert_eq!(slow.counters.read().loads, 0);
}

#[test]
fn whereabouts_wait_for_nobody() {
    let delay = Duration::from_millis(300);
    let only = member(faulty(ram(MIB), Faults { delay, ..Faults::default() }));
    let chain = chain(&[&only], ChainOptions::default(), 100);
    let key = Key::new(0, 1);
    std::thread::scope(|scope| {
        let storing = scope.spawn(|| chain.store(key, &page(1)).unwrap());
        // Until the store has the key there is no entry; then nobody can say, and at last it is there.
        within(
            Duration::from_secs(10),
            "the store",
            || {
                while chain.whereabouts(key) == Whereabouts::Missing {}
            },
        );
        assert_eq!(chain.whereabouts(key), Whereabouts::Slow);
        assert!(!storing.is_finished());
        storing.join().unwrap();
    });
    assert_eq!(chain.whereabouts(key), Whereabouts::Fast);
}

#[test]
fn without_a_worker_the_owner_makes_room() {
    let (pool, slow) = (member(ram(MIB)), member(quiet_file(64 * MIB)));
    let chain = chain(&[&pool, &slow], without_worker(), 100_000);
    let mut stored = 0;
    while pool.backend().usage().pressure.0 == 0 {
        chain.store(Key::new(0, stored), &Look::Noise.page(stored)).unwrap();
        stored += 1;
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(chain.counts().written_back_pages, 0, "nobody else does it");
    chain.kick();
    within(Duration::from_secs(20), "housekeeping", || while chain.maintain() {});
    assert_eq!(pool.backend().usage().pressure.0, 0);
    assert!(chain.counts().written_back_pages > 0);
    // Stores alone make room too, and write what they hand down.
    for offset in stored..4000 {
        assert!(matches!(chain.store(Key::new(0, offset), &Look::Noise.page(offset)), Ok(Stored::In(_))));
    }
    for offset in 0..4000 {
        assert_holds(&chain, Key::new(0, offset), &Look::Noise.page(offset));
    }
    chain.tidy();
    chain.close();
    assert_eq!(slow.backend().usage().stored_pages, Pages(0));
}

#[test]
fn a_file_without_writers_writes_when_it_is_kept_and_when_it_must() {
    let swap = quiet_file(16 * MIB);
    let detail = |name| swap.details().into_iter().find(|(other, _)| *other == name).unwrap().1;
    let fixed = swap.usage().mem_used_total.0;
    assert!(fixed < 64 * KIB, "batches take memory when they are used: {fixed}");
    swap.init(Area(0), Pages(100_000)).unwrap();
    let store = |offset| swap.store(Key::new(0, offset), &Look::Noise.page(offset));
    (0..600).for_each(|offset| assert_eq!(store(offset), Ok(Answer::Accepted)));
    assert_eq!((detail("staged_pages"), detail("clusters_written")), (600, 0));
    assert!(swap.maintain(), "two batches are full");
    assert_eq!(detail("clusters_written"), 1);
    assert!(swap.maintain());
    assert!(!swap.maintain());
    assert_eq!((detail("staged_pages"), detail("clusters_written")), (88, 2));
    // Without housekeeping a store writes when no batch is spare.
    within(Duration::from_secs(20), "stores", || {
        (600..4096).for_each(|offset| assert_eq!(store(offset), Ok(Answer::Accepted)));
    });
    assert!(detail("clusters_written") >= 10);
    assert_eq!(store(4096), Ok(Answer::Rejected(Reject::Full)));
    let mut out = Page::ZERO;
    for offset in 0..4096 {
        swap.load(Key::new(0, offset), &mut out).unwrap();
        assert!(out == Look::Noise.page(offset), "{offset}");
    }
    while swap.maintain() {}
    assert_eq!(detail("staged_pages"), 0);
    swap.invalidate_area(Area(0));
    while swap.maintain() {}
    assert!(swap.usage().mem_used_total.0 < 64 * KIB);
}

#[test]
fn threads_share_a_file_without_writers() {
    let swap = quiet_file(16 * MIB);
    swap.init(Area(0), Pages(100_000)).unwrap();
    let swap: &Arc<_> = &swap;
    within(Duration::from_secs(60), "threads", || {
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                scope.spawn(move || {
                    for round in 0..3 {
                        for offset in (thread..3000).step_by(4) {
                            let page = Look::Noise.page(offset << 8 | round);
                            assert_eq!(swap.store(Key::new(0, offset), &page), Ok(Answer::Accepted));
                        }
                        while thread == 0 && swap.maintain() {}
                    }
                });
            }
        });
    });
    let mut out = Page::ZERO;
    for offset in 0..3000 {
        swap.load(Key::new(0, offset), &mut out).unwrap();
        assert!(out == Look::Noise.page(offset << 8 | 2), "{offset}");
    }
}
