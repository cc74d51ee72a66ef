//! What a chain does when a backend misbehaves, is full, is lost, or goes: each test is one promise
//! of the contract, over real backends.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::moody::Moody;
use common::{
    KIB, Look, MIB, assert_holds, assert_missing, chain, eventually, file, member, ram, within, writethrough, zpool,
};
use frontswap::member::State;
use frontswap::{
    Answer, Area, Backend, Bytes, Chain, ChainOptions, Error, Key, Kind, Loaded, Member, Page, Pages, Reject, Stored,
};

fn key(offset: u64) -> Key {
    Key::new(0, offset)
}

fn noise(offset: u64) -> Page {
    Look::Noise.page(offset)
}

fn store_all(chain: &Chain, offsets: std::ops::Range<u64>) {
    for offset in offsets {
        let answer = chain.store(key(offset), &noise(offset)).unwrap();
        assert!(matches!(answer, Stored::In(_)), "{offset}: {answer:?}");
    }
}

fn is_in(backend: &dyn Backend, offset: u64) -> bool {
    backend.load(key(offset), &mut Page::ZERO).unwrap() == Loaded::Loaded
}

fn stored(member: &Member) -> u64 {
    member.counters.stored_pages()
}

#[test]
fn without_a_backend_a_store_is_rejected_and_nothing_old_is_left() {
    let ram = member(ram(MIB));
    let chain = chain(&[&ram], ChainOptions::default(), 100);
    assert_eq!(chain.store(key(3), &Page::filled_with(7)), Ok(Stored::SameFilled));
    chain.remove_backend(&ram).unwrap();
    assert_holds(&chain, key(3), &Page::filled_with(7));
    assert_eq!(chain.store(key(3), &noise(3)), Ok(Stored::Rejected(Reject::NoBackend)));
    assert_missing(&chain, key(3));
    assert_eq!(chain.curr_pages(), Pages(0));
}

#[test]
fn a_rejection_by_all_leaves_nothing_old() {
    let small = ram(64 * KIB);
    let only = member(small.clone());
    let chain = chain(&[&only], ChainOptions::default(), 1000);
    let held = (0..).find(|offset| chain.store(key(*offset), &noise(*offset)).unwrap() != Stored::In(frontswap::place::Seat(0)));
    let held = held.expect("the backend fills up");
    assert!(held > 4, "{held} pages fit into 64 KiB");
    small.set_capacity(Bytes(0)).unwrap();
    assert_eq!(chain.store(key(1), &noise(999)), Ok(Stored::Rejected(Reject::Full)));
    assert_missing(&chain, key(1));
    assert_eq!(chain.curr_pages(), Pages(held - 1));
    for offset in (0..held).filter(|offset| *offset != 1) {
        assert_holds(&chain, key(offset), &noise(offset));
    }
}

#[test]
fn a_broken_backend_takes_no_page_and_still_gives_its_pages_back() {
    let moody = Moody::new(ram(MIB));
    let (first, second) = (member(moody.clone()), member(ram(4 * MIB)));
    let chain = chain(&[&first, &second], ChainOptions::default(), 1000);
    store_all(&chain, 0..50);
    moody.breaks.store(true, Ordering::Relaxed);
    store_all(&chain, 40..100);
    moody.breaks.store(false, Ordering::Relaxed);
    store_all(&chain, 100..110);
    assert_eq!(first.state(), State::Broken);
    assert!(first.broken_reason().unwrap().contains("a bad mood"));
    assert_eq!((stored(&first), stored(&second)), (40, 70));
    assert_eq!(moody.usage().stored_pages, Pages(40));
    for offset in 0..110 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
    chain.remove_backend(&first).unwrap();
    for offset in 0..110 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
}

#[test]
fn a_damaged_page_is_an_error_that_names_it() {
    let moody = Moody::new(ram(MIB));
    let only = member(moody.clone());
    let chain = chain(&[&only], ChainOptions::default(), 1000);
    chain.init(Area(7), Pages(100)).unwrap();
    chain.store(Key::new(7, 42), &noise(42)).unwrap();
    moody.damage(Some(42));
    let error = chain.load(Key::new(7, 42), &mut Page::ZERO, true).unwrap_err();
    assert_eq!(error.kind(), Kind::PageCorrupt);
    let wanted = "backend `moody` damaged page `42` of area `7`: checksum ";
    assert!(error.message().starts_with(wanted), "{error}");
    assert!(error.message().ends_with(&format!("expected {}", noise(42).checksum())), "{error}");
    assert_eq!(chain.counts().load_errors, 1);
    assert_eq!(chain.counts().loads, 0);
    moody.damage(None);
    assert_holds(&chain, Key::new(7, 42), &noise(42));
}

#[test]
fn a_lost_page_is_an_error_and_not_missing() {
    let moody = Moody::new(ram(MIB));
    let only = member(moody.clone());
    let chain = chain(&[&only], ChainOptions::default(), 1000);
    store_all(&chain, 0..1);
    moody.lose_everything();
    let error = chain.load(key(0), &mut Page::ZERO, false).unwrap_err();
    assert_eq!(error.kind(), Kind::PageLost);
    chain.invalidate_page(key(0));
    assert_missing(&chain, key(0));
    assert_eq!((chain.curr_pages(), stored(&only)), (Pages(0), 0));
}

#[test]
fn a_damaged_page_is_not_moved() {
    let moody = Moody::new(ram(MIB));
    let (first, second) = (member(moody.clone()), member(ram(MIB)));
    let chain = chain(&[&first, &second], ChainOptions::default(), 1000);
    store_all(&chain, 0..20);
    moody.damage(Some(5));
    let error = chain.remove_backend(&first).unwrap_err();
    assert_eq!(error.kind(), Kind::DrainIncomplete);
    assert_eq!((stored(&first), stored(&second)), (1, 19));
    moody.damage(None);
    chain.remove_backend(&first).unwrap();
    for offset in 0..20 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
}

#[test]
fn writethrough_survives_the_loss_of_a_backend() {
    let moody = Moody::volatile(zpool(2 * MIB));
    let (fast, slow) = (member(moody.clone()), member(file(4 * MIB)));
    let chain = chain(&[&fast, &slow], writethrough(), 1000);
    store_all(&chain, 0..200);
    assert_eq!((stored(&fast), stored(&slow)), (200, 200));
    moody.lose_everything();
    for offset in 0..200 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
    assert_eq!(stored(&fast), moody.usage().stored_pages.0);
    assert_eq!((stored(&slow), chain.curr_pages()), (200, Pages(200)));
    for offset in 0..200 {
        chain.invalidate_page(key(offset));
    }
    assert_eq!((stored(&fast), stored(&slow), chain.curr_pages()), (0, 0, Pages(0)));
}

#[test]
fn a_volatile_backend_needs_writethrough() {
    let volatile = member(Moody::volatile(ram(MIB)));
    let error = Chain::new(vec![volatile.clone()], ChainOptions::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::VolatileNeedsWritethrough);
    let error = Chain::new(vec![volatile], writethrough()).err().unwrap();
    assert_eq!(error.kind(), Kind::WritethroughNeedsSlow);
}

#[test]
fn a_volatile_backend_that_lost_everything_can_be_removed() {
    let moody = Moody::volatile(ram(MIB));
    let (fast, middle, slow) = (member(moody.clone()), member(ram(MIB)), member(file(4 * MIB)));
    let chain = chain(&[&fast, &middle, &slow], writethrough(), 1000);
    store_all(&chain, 0..100);
    moody.lose_everything();
    chain.remove_backend(&fast).unwrap();
    assert_eq!((stored(&fast), stored(&slow)), (0, 100));
    for offset in 0..100 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
}

#[test]
fn under_writethrough_a_page_that_the_disk_rejects_is_rejected() {
    let (fast, slow) = (member(ram(MIB)), member(file(40 * KIB)));
    let chain = chain(&[&fast, &slow], writethrough(), 1000);
    store_all(&chain, 0..10);
    assert_eq!(chain.store(key(10), &noise(10)), Ok(Stored::Rejected(Reject::Full)));
    assert_missing(&chain, key(10));
    assert_eq!((stored(&fast), stored(&slow), chain.curr_pages()), (10, 10, Pages(10)));
    assert_eq!(fast.backend().usage().stored_pages, Pages(10));
}

#[test]
fn a_removal_that_cannot_drain_leaves_every_page_and_the_backend() {
    let (first, second) = (member(zpool(2 * MIB)), member(ram(128 * KIB)));
    let chain = chain(&[&first, &second], ChainOptions::default(), 1000);
    store_all(&chain, 0..200);
    let error = chain.remove_backend(&first).unwrap_err();
    assert_eq!(error.kind(), Kind::DrainIncomplete);
    assert!(error.message().contains(&format!("`{}` of its pages", stored(&first))), "{error}");
    assert_eq!(chain.members().len(), 2);
    assert_eq!(first.state(), State::Ready);
    assert_eq!(stored(&first) + stored(&second), 200);
    for offset in 0..200 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
    let before = stored(&first);
    store_all(&chain, 200..210);
    assert_eq!(stored(&first), before + 10);
}

#[test]
fn a_backend_that_was_removed_is_empty_and_can_be_used_again() {
    let (first, second) = (member(zpool(2 * MIB)), member(ram(2 * MIB)));
    let chain = chain(&[&first, &second], ChainOptions::default(), 1000);
    store_all(&chain, 0..100);
    chain.remove_backend(&first).unwrap();
    assert_eq!((stored(&first), first.backend().usage().stored_pages), (0, Pages(0)));
    assert_eq!(first.backend().store(key(0), &noise(0)), Ok(Answer::Rejected(Reject::NoArea)));
    chain.add_backend(first.clone(), 1).unwrap();
    chain.remove_backend(&second).unwrap();
    assert_eq!(stored(&first), 100);
    for offset in 0..100 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
}

#[test]
fn a_page_that_is_loaded_again_soon_comes_up() {
    let (fast, slow) = (member(zpool(2 * MIB)), member(file(4 * MIB)));
    let chain = chain(&[&slow], ChainOptions::default(), 1000);
    store_all(&chain, 0..500);
    chain.add_backend(fast.clone(), 0).unwrap();
    for offset in 0..300 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
    assert_eq!(stored(&fast), 0, "a scan brings nothing up");
    assert_holds(&chain, key(299), &noise(299));
    assert_eq!((stored(&fast), stored(&slow)), (1, 499));
    assert!(is_in(&**fast.backend(), 299) && !is_in(&**slow.backend(), 299));
    assert_eq!((chain.counts().promoted_pages, fast.counters.read().promoted_pages), (1, 1));
    for offset in 300..500 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
    for offset in 0..500 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
}

#[test]
fn under_writethrough_a_page_that_comes_up_stays_below_too() {
    let (fast, slow) = (member(ram(2 * MIB)), member(file(4 * MIB)));
    let chain = chain(&[&slow], writethrough(), 1000);
    store_all(&chain, 0..10);
    chain.add_backend(fast.clone(), 0).unwrap();
    for _ in 0..3 {
        assert_holds(&chain, key(4), &noise(4));
    }
    assert_eq!((stored(&fast), stored(&slow)), (1, 10));
    chain.store(key(4), &noise(400)).unwrap();
    assert_holds(&chain, key(4), &noise(400));
    assert_eq!((stored(&fast), stored(&slow)), (1, 10));
}

/// The history of a chain must not decide how soon "soon" is.
#[test]
fn promotion_works_as_well_after_a_million_loads() {
    let (fast, slow) = (member(ram(16 * MIB)), member(ram(4 * MIB)));
    let chain = chain(&[&slow], ChainOptions::default(), 10_000);
    store_all(&chain, 0..500);
    chain.add_backend(fast.clone(), 0).unwrap();
    store_all(&chain, 1000..1800);
    let mut out = Page::ZERO;
    // Rounds over 500 pages are further apart than 800 pages' worth, so none of these comes up.
    let options = if cfg!(debug_assertions) { 400 } else { 4000 };
    let mut promoted = 0;
    for round in 0..options {
        for offset in 0..400 {
            // A scan over pages that are each loaded once in many epochs.
            let _ = chain.load(key(offset), &mut out, false).unwrap();
        }
        if round % 100 == 99 {
            let hot = 400 + round / 100 % 100;
            let before = stored(&fast);
            assert!(chain.load(key(hot), &mut out, false).unwrap());
            // Some pages come meanwhile, as they always do.
            store_all(&chain, 2000 + 20 * round..2000 + 20 * round + 16);
            for offset in 2000 + 20 * round..2000 + 20 * round + 16 {
                chain.invalidate_page(key(offset));
            }
            chain.invalidate_page(key(1000 + round / 100 * 8 % 800));
            assert!(chain.load(key(hot), &mut out, false).unwrap());
            promoted += u64::from(stored(&fast) >= before);
        }
    }
    assert_eq!(promoted, options / 100);
}
