//! Demotion to the slow swap: how fast a pool empties itself into the file when its capacity is
//! lowered.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use frontswap::{Area, Bytes, Chain, ChainOptions, Member, Page, Pages};
use frontswap_backends::SwapFile;

use crate::{key, zpool};

/// Prints bytes of pages and seconds.
pub fn run(pages: &[Page], directory: &Path) {
    let file = SwapFile::create(directory, Pages(pages.len() as u64 + 1024).bytes(), true);
    let pool = Arc::new(Member::new(Arc::new(zpool(Bytes(8 << 30)))));
    let slow = Arc::new(Member::new(Arc::new(file.expect("the place takes a swap file"))));
    let chain = Chain::new(vec![pool.clone(), slow.clone()], ChainOptions::default()).expect("in order");
    chain.init(Area(0), Pages(1 << 24)).expect("the area is new");
    for (offset, page) in pages.iter().enumerate() {
        chain.store(key(offset), page).expect("it is stored");
    }
    let before = slow.counters.stored_pages();
    let start = Instant::now();
    pool.backend().set_capacity(Bytes(2 << 20)).expect("it is lower");
    chain.fit(&pool);
    let seconds = start.elapsed().as_secs_f64();
    let moved = slow.counters.stored_pages() - before;
    println!("{{\"demoted_bytes\": {}, \"seconds\": {seconds:.6}}}", Pages(moved).bytes().0);
}
