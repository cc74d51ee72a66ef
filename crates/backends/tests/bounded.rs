//! Rule B11: what is not kept costs nothing, however often it is tried.

use std::sync::Arc;

use frontswap::{
    Answer, Area, Backend, Bytes, Chain, ChainOptions, Housekeeping, Key, Kind, Member, Page, Pages, Stored,
};
use frontswap_backends::{CodecChoice, Incompressible, Ram, Zpool, ZpoolOptions};

const MIB: u64 = 1 << 20;

fn zpool(capacity: u64) -> Zpool {
    let (codec, incompressible) = (CodecChoice::Auto, Incompressible::Keep);
    Zpool::new(ZpoolOptions { capacity: Bytes(capacity), codec, level: 1, incompressible, inherit: false })
        .unwrap()
}

fn noise(seed: u64) -> Page {
    let mut page = Page::ZERO;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for bytes in page.0.as_chunks_mut::<8>().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *bytes = state.to_le_bytes();
    }
    page
}

#[test]
fn rejected_pages_far_apart_leave_nothing_in_a_full_backend() {
    let backends: [Box<dyn Backend>; 2] = [Box::new(zpool(MIB)), Box::new(Ram::new(Bytes(MIB)).unwrap())];
    for backend in backends {
        backend.init(Area(0), Pages(1 << 30)).unwrap();
        for offset in 0..400 {
            backend.store(Key::new(0, offset), &noise(offset)).unwrap();
        }
        for offset in 0..30_000 {
            let answer = backend.store(Key::new(0, (offset + 10) * 128), &noise(offset)).unwrap();
            assert!(matches!(answer, Answer::Rejected(_)), "{offset}");
            let answer = backend.store(Key::new(1, offset * 128), &noise(offset)).unwrap();
            assert!(matches!(answer, Answer::Rejected(_)), "an area that is not initialised");
        }
        let used = backend.usage().mem_used_total.0;
        assert!(used < MIB * 5 / 4, "{} uses {used} bytes", backend.describe().kind);
    }
}

#[test]
fn rejected_pages_far_apart_leave_nothing_in_the_map() {
    let pool = Arc::new(Member::new(Arc::new(zpool(MIB))));
    let chain = Chain::new(vec![pool], ChainOptions::default()).unwrap();
    chain.init(Area(0), Pages(1 << 30)).unwrap();
    let mut kept = 0;
    for offset in 0..20_000 {
        let stored = chain.store(Key::new(0, offset * 128), &noise(offset)).unwrap();
        kept += u64::from(!matches!(stored, Stored::Rejected(_)));
    }
    assert_eq!(chain.curr_pages(), Pages(kept));
    let bytes = chain.map_bytes().0;
    assert!(bytes < 4 * MIB, "{bytes} bytes of map for {kept} pages");
}

#[test]
fn areas_that_are_gone_cost_a_record_each() {
    let chain = Chain::new(vec![], ChainOptions::default()).unwrap();
    for number in 0..2000 {
        chain.init(Area(number), Pages(100)).unwrap();
        chain.invalidate_area(Area(number));
    }
    assert!(chain.area_counts().is_empty());
    assert!(chain.map_bytes().0 < 128 << 10, "{}", chain.map_bytes());
    let stored = chain.store(Key::new(7, 5), &noise(1)).unwrap();
    assert!(matches!(stored, Stored::Rejected(_)));
    let mut out = Page::ZERO;
    assert!(!chain.load(Key::new(7, 5), &mut out, false).unwrap());
}

#[test]
fn a_closed_chain_takes_nothing() {
    let pool = Arc::new(Member::new(Arc::new(zpool(MIB))));
    let chain = Chain::new(vec![pool.clone()], ChainOptions::default()).unwrap();
    chain.close();
    assert_eq!(chain.init(Area(0), Pages(1)).unwrap_err().kind(), Kind::Closed);
    assert_eq!(chain.add_backend(pool.clone(), 0).unwrap_err().kind(), Kind::Closed);
    assert_eq!(chain.remove_backend(&pool).unwrap_err().kind(), Kind::Closed);
    assert_eq!(chain.store(Key::new(0, 0), &noise(1)).unwrap_err().kind(), Kind::Closed);
    assert!(!pool.is_seated() && !chain.maintain());
}
