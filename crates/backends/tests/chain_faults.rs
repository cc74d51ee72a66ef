//! What a chain does when a backend misbehaves, is full, is lost, or goes: each test is one promise
//! of the contract, over real backends.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::moody::Moody;
use common::{
    KIB, Look, MIB, assert_holds, assert_missing, chain, eventually, file, member, ram, within, writethrough,
    zpool,
};
use frontswap::member::State;
use frontswap::{
    Answer, Area, Backend, Bytes, Chain, ChainOptions, Error, Key, Kind, Loaded, Member, Page, Pages, Reject,
    Stored,
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
    backend.load(key(offset), &mut Page::default()).unwrap() == Loaded::Loaded
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
    let held = (0..).find(|offset| {
        chain.store(key(*offset), &noise(*offset)).unwrap() != Stored::In(frontswap::place::Seat(0))
    });
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
    let error = chain.load(Key::new(7, 42), &mut Page::default(), true).unwrap_err();
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
    let error = chain.load(key(0), &mut Page::default(), false).unwrap_err();
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

/// How soon "soon" is must not depend on how long the chain has been running.
#[test]
fn promotion_works_as_well_after_many_loads() {
    let (fast, slow) = (member(ram(16 * MIB)), member(ram(16 * MIB)));
    let chain = chain(&[&slow], ChainOptions::default(), 10_000);
    store_all(&chain, 0..1600);
    chain.add_backend(fast.clone(), 0).unwrap();
    store_all(&chain, 2000..2520);
    let (loads, trials) = if cfg!(debug_assertions) { (60_000, 10) } else { (200_000, 50) };
    // A scan that comes round only after three times as many loads as there are pages above.
    for load in 0..loads {
        assert!(chain.load(key(load % 1500), &mut Page::default(), false).unwrap());
    }
    assert_eq!(chain.counts().promoted_pages, 0, "a scan brings nothing up");
    for trial in 0..trials {
        let hot = 1500 + trial;
        assert_holds(&chain, key(hot), &noise(hot));
        store_all(&chain, 3000 + 8 * trial..3008 + 8 * trial);
        assert_holds(&chain, key(hot), &noise(hot));
        assert!(is_in(&**fast.backend(), hot), "trial {trial}");
    }
}

#[test]
fn hot_pages_stay_up_while_cold_ones_go_down() {
    let (fast, slow) = (member(ram(MIB)), member(file(8 * MIB)));
    let chain = chain(&[&fast, &slow], ChainOptions::default(), 5000);
    for offset in 0..1500 {
        store_all(&chain, offset..offset + 1);
        if offset % 10 == 9 {
            for hot in 0..50.min(offset) {
                assert_holds(&chain, key(hot), &noise(hot));
            }
        }
    }
    let hot = (0..50).filter(|offset| is_in(&**fast.backend(), *offset)).count();
    assert!(hot >= 45, "{hot} of 50 hot pages are in the fast backend");
    assert!(chain.counts().written_back_pages >= 1200);
    assert_eq!(stored(&fast) + stored(&slow), 1500);
}

fn assert_no_new_page_passes(fast: Arc<Member>, looks: &[Look], stride: u64) {
    let slow = member(file(40 * MIB));
    let pages = 3000.max(fast.backend().usage().mem_limit.pages().0 * 2);
    let chain = chain(&[&fast, &slow], ChainOptions::default(), pages * stride);
    let mut passed = 0;
    for offset in 0..pages {
        let page = looks[common::mix(offset) as usize % looks.len()].page(offset);
        match chain.store(key(offset * stride), &page).unwrap() {
            Stored::In(seat) => passed += u64::from(chain.member(seat).unwrap().description().is_slow),
            other => panic!("{other:?}"),
        }
    }
    assert!(stored(&slow) > 0, "the fast backend was full");
    let kind = &fast.description().kind;
    assert_eq!(passed, 0, "{kind}, {looks:?}, stride {stride}: new pages went past colder ones to the disk");
}

#[test]
fn no_new_page_passes_a_full_ram() {
    assert_no_new_page_passes(member(ram(2 * MIB)), &[Look::Noise], 1);
    assert_no_new_page_passes(member(ram(2 * MIB)), &[Look::Noise], 131);
}

#[test]
fn no_new_page_passes_a_full_pool_of_like_pages() {
    assert_no_new_page_passes(member(zpool(2 * MIB)), &[Look::Noise], 1);
    assert_no_new_page_passes(member(zpool(512 * KIB)), &[Look::Text], 1);
    assert_no_new_page_passes(member(zpool(2 * MIB)), &[Look::Noise], 131);
}

#[test]
fn no_new_page_passes_a_large_full_pool() {
    assert_no_new_page_passes(member(zpool(16 * MIB)), &[Look::Noise], 1);
    assert_no_new_page_passes(member(zpool(16 * MIB)), &[Look::Noise], 131);
}

#[test]
fn no_new_page_passes_a_full_pool_of_mixed_pages() {
    assert_no_new_page_passes(member(zpool(MIB)), &[Look::Noise, Look::Text, Look::Counters], 1);
}

#[test]
fn a_lowered_capacity_moves_pages_down_and_loses_none() {
    let (pool, plain, slow) = (member(zpool(2 * MIB)), member(ram(MIB)), member(file(8 * MIB)));
    let chain = chain(&[&pool, &plain, &slow], ChainOptions::default(), 5000);
    store_all(&chain, 0..900);
    for (lowered, capacity) in
        [(&pool, 600 * KIB), (&plain, 100 * KIB), (&pool, 0), (&plain, 0), (&pool, 2 * MIB)]
    {
        lowered.backend().set_capacity(Bytes(capacity)).unwrap();
        // The worker may just be moving some of these pages.
        eventually("it fits", || chain.fit(lowered) == Pages(0));
        let usage = lowered.backend().usage();
        assert!(
            usage.mem_used_total.0 <= capacity || usage.stored_pages == Pages(0),
            "{capacity}: {usage:?}"
        );
    }
    assert_eq!((stored(&pool), stored(&plain), stored(&slow)), (0, 0, 900));
    for offset in 0..900 {
        assert_holds(&chain, key(offset), &noise(offset));
    }
}

#[test]
fn a_lowered_capacity_with_nowhere_to_go_keeps_every_page() {
    for backend in [zpool(2 * MIB) as Arc<dyn Backend>, ram(2 * MIB)] {
        let only = member(backend);
        let chain = chain(&[&only], ChainOptions::default(), 5000);
        store_all(&chain, 0..300);
        only.backend().set_capacity(Bytes(512 * KIB)).unwrap();
        let left = within(Duration::from_secs(10), "fit", || chain.fit(&only));
        assert!(left > Pages(100), "{left:?}");
        for offset in 0..300 {
            assert_holds(&chain, key(offset), &noise(offset));
        }
    }
}

/// Rule B7: above its capacity a backend takes no page, also where it has a free slot.
#[test]
fn a_backend_above_its_capacity_rejects() {
    for backend in [zpool(2 * MIB) as Arc<dyn Backend>, ram(2 * MIB)] {
        backend.init(Area(0), Pages(1000)).unwrap();
        for offset in 0..300 {
            assert_eq!(backend.store(key(offset), &noise(offset)), Ok(Answer::Accepted));
        }
        backend.set_capacity(Bytes(512 * KIB)).unwrap();
        for offset in (0..300).step_by(10) {
            backend.invalidate_page(key(offset));
        }
        let usage = backend.usage();
        assert!(usage.mem_used_total > usage.mem_limit && usage.excess > Bytes(0));
        let kind = backend.describe().kind;
        assert_eq!(backend.store(key(500), &noise(500)), Ok(Answer::Rejected(Reject::Full)), "{kind}");
        assert_eq!(backend.usage().stored_pages, Pages(270));
    }
}

/// Slots that compaction set aside, and could not empty because others took the room, come back.
#[test]
fn a_sweep_that_others_get_in_the_way_of_loses_no_room() {
    let pool = zpool(2 * MIB);
    pool.init(Area(0), Pages(10_000)).unwrap();
    let fill =
        |from: u64| (from..).find(|offset| pool.store(key(*offset), &noise(*offset)) != Ok(Answer::Accepted));
    let full = fill(0).unwrap();
    assert!(full > 400, "{full} pages fit into 2 MiB");
    for offset in (0..full).filter(|offset| offset % 5 != 0) {
        pool.invalidate_page(key(offset));
    }
    assert!(pool.maintain(), "there is something to compact");
    let next = fill(full).unwrap();
    assert!((0..10_000).any(|_| !pool.maintain()), "there is always more to do");
    fill(next).unwrap();
    let held = pool.usage().stored_pages.0;
    assert!(held + 16 >= full, "{held} pages fit where {full} did");
}

#[test]
fn exclusive_loads_hand_the_page_over_once() {
    for options in [ChainOptions::default(), writethrough()] {
        let (fast, slow) = (member(zpool(2 * MIB)), member(file(4 * MIB)));
        let chain = chain(&[&fast, &slow], options, 100);
        store_all(&chain, 0..10);
        chain.store(key(10), &Page::filled_with(3)).unwrap();
        for offset in 0..11 {
            assert_eq!(chain.load(key(offset), &mut Page::default(), true), Ok(true));
            assert_missing(&chain, key(offset));
        }
        assert_eq!((chain.curr_pages(), stored(&fast), stored(&slow)), (Pages(0), 0, 0));
        assert_eq!(chain.counts().same_filled_pages, 0);
    }
}

#[test]
fn shrinking_into_the_slow_swap_empties_what_is_above() {
    for options in [ChainOptions::default(), writethrough()] {
        let (fast, middle, slow) = (member(zpool(2 * MIB)), member(ram(MIB)), member(file(4 * MIB)));
        let chain = chain(&[&fast, &middle, &slow], options, 1000);
        store_all(&chain, 0..600);
        chain.store(key(600), &Page::filled_with(3)).unwrap();
        let above = chain.shrink_to_slow(Pages(100));
        assert_eq!(stored(&fast) + stored(&middle) + 1, above.0);
        assert!(above <= Pages(100), "{above:?}");
        assert_eq!(chain.shrink_to_slow(Pages(0)), Pages(1), "a same-filled page stays in the map");
        assert_eq!((stored(&fast), stored(&middle), stored(&slow)), (0, 0, 600));
        for offset in 0..600 {
            assert_holds(&chain, key(offset), &noise(offset));
        }
    }
}

#[test]
fn shrinking_pulls_what_the_front_end_takes_and_forgets_nothing_else() {
    let (fast, slow) = (member(zpool(2 * MIB)), member(file(4 * MIB)));
    let chain = chain(&[&fast, &slow], ChainOptions::default(), 1000);
    store_all(&chain, 0..300);
    let mut pulled = Vec::new();
    let left = chain.shrink(Pages(100), &mut |key, page| {
        assert!(*page == noise(key.offset.0));
        let takes = pulled.len() < 50;
        pulled.extend(takes.then_some(key));
        Ok(takes)
    });
    assert_eq!((left, pulled.len()), (Ok(Pages(250)), 50));
    let left = chain.shrink(Pages(100), &mut |key, _| {
        pulled.push(key);
        Ok(true)
    });
    assert_eq!((left, pulled.len()), (Ok(Pages(100)), 200));
    for offset in 0..300 {
        if pulled.contains(&key(offset)) {
            assert_missing(&chain, key(offset));
        } else {
            assert_holds(&chain, key(offset), &noise(offset));
        }
    }
}

#[test]
fn a_page_that_is_stored_while_its_old_copy_is_pulled_is_kept() {
    let only = member(ram(MIB));
    let chain = chain(&[&only], ChainOptions::default(), 1000);
    store_all(&chain, 0..1);
    let mut pulls = 0;
    let left = chain.shrink(Pages(0), &mut |key, page| {
        pulls += 1;
        if pulls > 1 {
            return Ok(false);
        }
        assert!(*page == noise(0));
        chain.store(key, &noise(1)).unwrap();
        // Another shrink comes, and its front end wants nothing.
        assert_eq!(chain.shrink(Pages(0), &mut |_, _| Ok(false)), Ok(Pages(1)));
        Ok(true)
    });
    assert_eq!(left, Ok(Pages(1)));
    assert_holds(&chain, key(0), &noise(1));
}

#[test]
fn one_page_that_cannot_be_given_back_does_not_stop_a_shrink() {
    let moody = Moody::new(ram(MIB));
    let only = member(moody.clone());
    let chain = chain(&[&only], ChainOptions::default(), 1000);
    store_all(&chain, 0..100);
    moody.damage(Some(13));
    let mut pulled = 0;
    let error = chain.shrink(Pages(0), &mut |_, _| {
        pulled += 1;
        Ok(true)
    });
    assert_eq!(error.unwrap_err().kind(), Kind::PageCorrupt);
    assert_eq!((pulled, chain.curr_pages()), (99, Pages(1)));
    moody.damage(None);
    assert_holds(&chain, key(13), &noise(13));
}

#[test]
fn an_area_that_a_backend_cannot_begin_begins_nowhere() {
    struct Picky(Arc<dyn Backend>);
    impl Backend for Picky {
        fn init(&self, area: Area, pages: Pages) -> Result<(), Error> {
            if pages > Pages(100) {
                let fields: [(&'static str, &dyn std::fmt::Display); 2] =
                    [("backend", &"picky"), ("reason", &"too long")];
                return Err(Error::new(Kind::BackendBroken, &fields));
            }
            self.0.init(area, pages)
        }
        fn store(&self, key: Key, page: &Page) -> Result<Answer, Error> {
            self.0.store(key, page)
        }
        fn load(&self, key: Key, out: &mut Page) -> Result<Loaded, Error> {
            self.0.load(key, out)
        }
        fn invalidate_page(&self, key: Key) {
            self.0.invalidate_page(key);
        }
        fn invalidate_area(&self, area: Area) {
            self.0.invalidate_area(area);
        }
        fn describe(&self) -> frontswap::Description {
            self.0.describe()
        }
        fn usage(&self) -> frontswap::Usage {
            self.0.usage()
        }
        fn set_capacity(&self, capacity: Bytes) -> Result<(), Error> {
            self.0.set_capacity(capacity)
        }
        fn coldest(&self, want: usize, victims: &mut Vec<Key>) {
            self.0.coldest(want, victims);
        }
    }
    let (first, picky) = (member(ram(MIB)), member(Arc::new(Picky(ram(MIB)))));
    let chain = chain(&[&first], ChainOptions::default(), 1000);
    assert!(chain.add_backend(picky.clone(), 1).is_err());
    assert!(!picky.is_seated());
    chain.invalidate_area(Area(0));
    chain.init(Area(1), Pages(100)).unwrap();
    chain.add_backend(picky, 1).unwrap();
    assert!(chain.init(Area(2), Pages(101)).is_err());
    assert_eq!(chain.store(Key::new(2, 0), &noise(0)).unwrap_err().kind(), Kind::AreaNotInitialised);
    assert_eq!(first.backend().store(Key::new(2, 0), &noise(0)), Ok(Answer::Rejected(Reject::NoArea)));
}

#[test]
fn the_worker_makes_room_before_a_store_needs_it() {
    let (fast, slow) = (member(ram(8 * MIB)), member(file(32 * MIB)));
    let chain = chain(&[&fast, &slow], ChainOptions::default(), 10_000);
    let fits = (0..).find(|offset| {
        store_all(&chain, *offset..*offset + 1);
        fast.backend().usage().pressure > Bytes(0)
    });
    assert!(fits.unwrap() > 1500);
    chain.kick();
    eventually("the reserve is free again", || fast.backend().usage().pressure == Bytes(0));
    assert!(stored(&slow) > 0 && fast.backend().usage().pool_limit_hit == 0);
}
