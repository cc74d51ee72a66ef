//! A parent and its children go on with one chain each, over copies of the pools and one swap file. Alone in
//! its file, because only one thread may be running when a process forks.

mod common;

use std::sync::Arc;

use common::sharing::{Child, Claims, Step};
use common::{Look, MIB, assert_holds, assert_missing, chain, member, without_worker};
use frontswap::{
    Answer, Area, Backend, Bytes, Chain, ForkSide, Housekeeping, Key, Kind, Loaded, Page, Pages, Reject,
    Stored,
};
use frontswap_backends::{CodecChoice, Incompressible, Ram, SwapFile, Zpool, ZpoolOptions};

fn key(offset: u64) -> Key {
    Key::new(0, offset)
}

#[track_caller]
fn assert_loads(swap: &SwapFile, offset: u64, expected: &Page) {
    let mut out = Page::ZERO;
    assert_eq!(swap.load(key(offset), &mut out), Ok(Loaded::Loaded), "{offset}");
    assert!(out == *expected, "page {offset} came back changed");
}

fn store(swap: &SwapFile, offset: u64, seed: u64) -> Answer {
    swap.store(key(offset), &Look::Noise.page(seed)).expect("the disk does not fail")
}

fn fill(swap: &SwapFile, offsets: std::ops::Range<u64>, salt: u64) {
    offsets.for_each(|offset| assert_eq!(store(swap, offset, offset ^ salt), Answer::Accepted));
}

fn keep_house(swap: &SwapFile) {
    let rounds = (0..1000).find(|_| !swap.maintain());
    assert!(rounds.is_some(), "there is always more to do");
}

fn swap_file(claims: Claims) -> Arc<SwapFile> {
    let swap = claims.swap_file();
    swap.init(Area(0), Pages(100_000)).unwrap();
    swap
}

#[test]
fn processes_go_on_after_a_fork() {
    a_chain_goes_on_on_both_sides();
    what_a_child_may_read_is_not_overwritten();
    staged_pages_are_for_each_to_write();
    a_child_without_clusters_keeps_what_it_has_staged();
    a_child_of_a_child_reads_them_all();
    what_a_child_has_claimed_goes_back_with_its_file();
    a_file_that_is_not_shared_stays_with_the_parent();
}

fn heritable_chain(claims: Claims) -> Arc<Chain> {
    let options = ZpoolOptions {
        capacity: Bytes(2 * MIB),
        codec: CodecChoice::Auto,
        level: 1,
        incompressible: Incompressible::Reject,
        inherit: true,
    };
    let pool = member(Arc::new(Zpool::new(options).unwrap()));
    let plain = member(Arc::new(Ram::with_inherit(Bytes(2 * MIB), true).unwrap()));
    chain(&[&pool, &plain, &member(claims.swap_file())], without_worker(), 10_000)
}

fn look(offset: u64) -> Look {
    Look::ALL[offset as usize % 4]
}

/// Stores every third page anew, forgets every third, checks all, some of them often, and closes.
fn live_on(chain: &Chain, pages: u64, salt: u64) {
    for offset in (0..pages).filter(|offset| offset % 3 == 0) {
        let stored = chain.store(key(offset), &look(offset).page(offset ^ salt)).unwrap();
        assert!(!matches!(stored, Stored::Rejected(_)), "{stored:?}");
    }
    (0..pages).filter(|offset| offset % 3 == 1).for_each(|offset| chain.invalidate_page(key(offset)));
    let more = (0..10_000).find(|_| !chain.maintain());
    assert!(more.is_some(), "there is always more to do");
    for offset in (0..pages).chain(0..200) {
        match offset % 3 {
            0 => assert_holds(chain, key(offset), &look(offset).page(offset ^ salt)),
            1 => assert_missing(chain, key(offset)),
            _ => assert_holds(chain, key(offset), &look(offset).page(offset)),
        }
    }
    assert_eq!(chain.counts().load_errors, 0);
}

fn a_chain_goes_on_on_both_sides() {
    const PAGES: u64 = 6000;
    let claims = Claims::new(64);
    let chain = heritable_chain(claims);
    for offset in 0..PAGES {
        chain.store(key(offset), &look(offset).page(offset)).unwrap();
    }
    let in_each: Vec<_> = chain.members().iter().map(|member| member.counters.stored_pages()).collect();
    assert!(in_each.iter().all(|pages| *pages > 100), "{in_each:?}");
    claims.set_heirs(2);
    let lives = [1u64 << 40, 2 << 40].map(|salt| {
        let child = Child::run(|| {
            chain.forked(ForkSide::Child);
            live_on(&chain, PAGES, salt);
            chain.close();
            assert_eq!(chain.store(key(0), &Page::ZERO).unwrap_err().kind(), Kind::Closed);
            drop(chain.members());
        });
        chain.forked(ForkSide::Parent);
        child
    });
    live_on(&chain, PAGES, 3 << 40);
    lives.into_iter().for_each(Child::join);
    claims.set_heirs(0);
    live_on(&chain, PAGES, 4 << 40);
    let members = chain.members();
    chain.close();
    while members[2].backend().maintain() {}
    assert_eq!(claims.own(), [0; 0], "nothing is kept of it");
}

fn what_a_child_may_read_is_not_overwritten() {
    let (claims, step) = (Claims::new(16), Step::new());
    let swap = swap_file(claims);
    fill(&swap, 0..1024, 0);
    keep_house(&swap);
    assert_eq!(swap.usage().disk_used_total, Bytes(4 * MIB));
    let before = claims.own();
    assert_eq!(before.len(), 4);
    claims.set_heirs(1);
    let parent = std::process::id();
    let child = Child::run(|| {
        swap.forked(ForkSide::Child);
        assert_eq!(swap.usage().disk_used_total, Bytes(0), "it is the parent's");
        step.wait(1);
        (0..1024).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset)));
        // Its own pages go elsewhere; to forget an inherited one changes nothing for the parent.
        fill(&swap, 0..512, 77);
        (512..700).for_each(|offset| swap.invalidate_page(key(offset)));
        keep_house(&swap);
        (0..512).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset ^ 77)));
        (700..1024).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset)));
        assert_eq!((claims.own().len(), swap.usage().stored_pages), (2, Pages(1024 - 188)));
        step.set(2);
    });
    swap.forked(ForkSide::Parent);
    fill(&swap, 0..768, 5);
    (768..1024).for_each(|offset| swap.invalidate_page(key(offset)));
    keep_house(&swap);
    assert_eq!(claims.own().len(), 7, "none was released, and new pages went to new clusters");
    assert!(before.iter().all(|number| claims.of(parent).contains(number)));
    step.set(1);
    step.wait(2);
    child.join();
    (0..768).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset ^ 5)));
    keep_house(&swap);
    assert_eq!(claims.own().len(), 7, "as long as nobody says that the heir is gone");
    claims.set_heirs(0);
    keep_house(&swap);
    assert_eq!(claims.own().len(), 3);
    fill(&swap, 1000..1256, 5);
    keep_house(&swap);
    assert_eq!(claims.own().len(), 4);
    (0..768).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset ^ 5)));
    drop(swap);
    assert_eq!(claims.own(), [0; 0]);
}

fn staged_pages_are_for_each_to_write() {
    let claims = Claims::new(16);
    let swap = swap_file(claims);
    // One full batch that waits to be written, and one that is not full.
    fill(&swap, 0..300, 0);
    claims.set_heirs(1);
    let child = Child::run(|| {
        swap.forked(ForkSide::Child);
        assert_eq!(claims.own(), [0; 0], "a child that only loads needs no cluster");
        (0..300).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset)));
        fill(&swap, 300..600, 9);
        keep_house(&swap);
        assert!(claims.own().len() >= 2);
        (0..300).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset)));
        (300..600).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset ^ 9)));
        let inherited = claims.own();
        swap.invalidate_area(Area(0));
        keep_house(&swap);
        assert!(claims.own().is_empty(), "{inherited:?}");
    });
    swap.forked(ForkSide::Parent);
    fill(&swap, 300..600, 8);
    keep_house(&swap);
    child.join();
    (0..300).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset)));
    (300..600).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset ^ 8)));
}

fn a_child_without_clusters_keeps_what_it_has_staged() {
    let claims = Claims::new(3);
    let swap = swap_file(claims);
    fill(&swap, 0..768, 0);
    assert_eq!(store(&swap, 800, 0), Answer::Rejected(Reject::Full));
    assert_eq!(claims.own().len(), 3);
    claims.set_heirs(1);
    let child = Child::run(|| {
        swap.forked(ForkSide::Child);
        keep_house(&swap);
        (0..768).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset)));
        assert_eq!(store(&swap, 5, 0), Answer::Rejected(Reject::Full));
        assert_eq!(swap.load(key(5), &mut Page::default()), Ok(Loaded::Missing), "rule B4");
        assert_eq!(swap.usage().stored_pages, Pages(767));
    });
    swap.forked(ForkSide::Parent);
    child.join();
    keep_house(&swap);
    (0..768).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset)));
    // What is freed is usable only when no heir is left.
    swap.invalidate_page(key(0));
    assert_eq!(store(&swap, 800, 0), Answer::Rejected(Reject::Full));
    claims.set_heirs(0);
    assert_eq!(store(&swap, 800, 0), Answer::Accepted);
}

fn a_child_of_a_child_reads_them_all() {
    let claims = Claims::new(16);
    let swap = swap_file(claims);
    fill(&swap, 0..256, 0);
    keep_house(&swap);
    claims.set_heirs(2);
    let child = Child::run(|| {
        swap.forked(ForkSide::Child);
        fill(&swap, 256..512, 0);
        keep_house(&swap);
        claims.set_heirs(1);
        let grandchild = Child::run(|| {
            swap.forked(ForkSide::Child);
            fill(&swap, 512..768, 0);
            keep_house(&swap);
            (0..768).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset)));
            assert_eq!(claims.own().len(), 1);
        });
        swap.forked(ForkSide::Parent);
        (256..512).for_each(|offset| swap.invalidate_page(key(offset)));
        keep_house(&swap);
        assert_eq!(claims.own().len(), 1);
        grandchild.join();
        claims.set_heirs(0);
        keep_house(&swap);
        assert_eq!(claims.own(), [0; 0]);
    });
    swap.forked(ForkSide::Parent);
    child.join();
}

fn what_a_child_has_claimed_goes_back_with_its_file() {
    let claims = Claims::new(8);
    let mut swap = Some(swap_file(claims));
    fill(swap.as_ref().expect("it is there"), 0..256, 0);
    claims.set_heirs(1);
    let child = Child::run(|| {
        let swap = swap.take().expect("the child has a copy");
        swap.forked(ForkSide::Child);
        fill(&swap, 300..600, 0);
        keep_house(&swap);
        assert!(claims.own().len() >= 2);
        drop(swap);
        assert_eq!(claims.own(), [0; 0]);
    });
    let swap = swap.expect("only the child took it");
    swap.forked(ForkSide::Parent);
    child.join();
    assert_eq!(claims.own().len(), 1);
}

fn a_file_that_is_not_shared_stays_with_the_parent() {
    let swap = SwapFile::create_without_writers(&std::env::temp_dir(), Bytes(4 * MIB), false).unwrap();
    swap.init(Area(0), Pages(100_000)).unwrap();
    fill(&swap, 0..300, 0);
    keep_house(&swap);
    let child = Child::run(|| {
        swap.forked(ForkSide::Child);
        (0..300).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset)));
        assert_eq!(swap.store(key(0), &Page::ZERO).unwrap_err().kind(), Kind::BackendBroken);
        keep_house(&swap);
    });
    swap.forked(ForkSide::Parent);
    fill(&swap, 300..600, 0);
    keep_house(&swap);
    child.join();
    (0..600).for_each(|offset| assert_loads(&swap, offset, &Look::Noise.page(offset)));
}
