//! RAM for compressed bytes: after a fill, and after churn with mixed sizes.

use std::sync::Arc;

use frontswap::{Backend, Bytes, Housekeeping, Page};

use crate::{chain, key, zpool};

/// Prints the space after the fill and after `churn` stores and invalidations. `data` is one list of
/// pages for each kind; they are mixed page by page.
pub fn run(data: &[Vec<Page>], churn: u64) {
    let pool: Arc<dyn Backend> = Arc::new(zpool(Bytes(8 << 30)));
    let chain = chain(vec![pool.clone()]);
    let slots = data.iter().map(Vec::len).sum::<usize>();
    for offset in 0..slots {
        let kind = offset % data.len();
        chain.store(key(offset), &data[kind][offset / data.len() % data[kind].len()]).expect("it is stored");
    }
    settle(&chain);
    report("fill", &chain, &*pool);
    // Kinds come and go in waves, so that size classes grow and shrink, as programs do.
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut worst = 0.0f64;
    for step in 0..churn {
        let offset = (next() % slots as u64) as usize;
        let wave = (step * data.len() as u64 * 4 / churn) as usize;
        let kind = if next() % 2 == 0 { wave % data.len() } else { (next() % data.len() as u64) as usize };
        if next() % 4 == 0 {
            chain.invalidate_page(key(offset));
        } else {
            let page = &data[kind][(next() % data[kind].len() as u64) as usize];
            chain.store(key(offset), page).expect("it is stored");
        }
        if step % 65_536 == 0 {
            let usage = pool.usage();
            worst = worst.max(usage.mem_used_total.0 as f64 / usage.compr_data_size.0 as f64);
        }
    }
    settle(&chain);
    report("churn", &chain, &*pool);
    println!("{{\"phase\": \"worst\", \"ratio\": {worst:.4}}}");
}

/// Gives the housekeeping the moment that it takes from a program that pauses.
fn settle(chain: &frontswap::Chain) {
    for _ in 0..3 {
        while chain.maintain() {}
    }
}

fn report(phase: &str, chain: &frontswap::Chain, pool: &dyn Backend) {
    let usage = pool.usage();
    println!(
        "{{\"phase\": \"{phase}\", \"stored_pages\": {}, \"compr_data_size\": {}, \"mem_used_total\": {}, \"map_bytes\": {}, \
         \"curr_pages\": {}}}",
        usage.stored_pages,
        usage.compr_data_size.0,
        usage.mem_used_total.0,
        chain.map_bytes().0,
        chain.curr_pages(),
    );
}
