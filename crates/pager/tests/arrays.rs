//! Arrays larger than their RAM, in both modes: every word that was written is read again.

mod common;

use common::{Array, pager};
use frontswap_pager::Mode;

const MIB: usize = 1 << 20;

#[test]
fn an_array_of_four_times_its_ram_is_right_in_signal_mode() {
    fill_and_read(Mode::Signal);
}

#[test]
fn an_array_of_four_times_its_ram_is_right_in_handler_mode() {
    fill_and_read(Mode::Handler);
}

fn fill_and_read(mode: Mode) {
    let pager = pager(mode, 32 * MIB, 24 * MIB);
    let array = Array::new(&pager, 96 * MIB);
    for page in 0..array.pages() {
        array.write(page, page as u64 + 1);
    }
    for step in 0..2 * array.pages() {
        let page = step * 7919 % array.pages();
        assert_eq!(array.read(page), page as u64 + 1, "page {page}");
        if step % 3 == 0 {
            array.write(page, page as u64 + 1);
        }
    }
    let stats = pager.stats();
    assert!(stats.usage.used_bytes <= 32 * MIB as u64, "{stats:?}");
    assert!(stats.usage.stored_pages > 0 && stats.counters[0] > 0, "{stats:?}");
    drop(array);
    pager.close();
}
