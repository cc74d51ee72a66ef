//! Byte shuffle: byte 0 of every item first, then byte 1, and so on. Numbers of one size that differ
//! in few bytes turn into long runs, which lz4 likes.
//!
//! One pass takes even and odd bytes apart; two and three passes shuffle items of 4 and 8 bytes. A
//! pass is a plain loop that the compiler vectorises on every target: there is no code per processor.

use frontswap::page::{PAGE_SIZE, Page};

const HALF: usize = PAGE_SIZE / 2;

/// Item sizes that can be shuffled, as the number of passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 2-byte items.
    Two = 1,
    /// 4-byte items.
    Four = 2,
    /// 8-byte items.
    Eight = 3,
}

impl Width {
    /// Every width, widest first.
    pub const ALL: [Width; 3] = [Width::Eight, Width::Four, Width::Two];

    /// Bytes of an item.
    pub fn bytes(self) -> usize {
        1 << self as usize
    }
}

/// Shuffles `page` into `out`.
///
/// # Cost
/// 0.08 us for every doubling of the width.
pub fn shuffle(page: &Page, width: Width, out: &mut Page) {
    repeat(take_apart, page, width, out);
}

/// The reverse of [`shuffle`], at the same cost.
pub fn unshuffle(page: &Page, width: Width, out: &mut Page) {
    repeat(put_together, page, width, out);
}

/// Does one pass for every doubling of the width.
fn repeat(pass: impl Fn(&Page, &mut Page), page: &Page, width: Width, out: &mut Page) {
    match width {
        Width::Two => pass(page, out),
        Width::Four => {
            let mut spare = Page::ZERO;
            pass(page, &mut spare);
            pass(&spare, out);
        }
        Width::Eight => {
            let mut spare = Page::ZERO;
            pass(page, out);
            pass(out, &mut spare);
            pass(&spare, out);
        }
    }
}

/// Parts of the bytes of `page` that equal the byte `width` bytes earlier, in 256ths: high where
/// shuffling may pay.
pub fn lane_likeness(page: &Page, width: Width) -> usize {
    let lag = width.bytes();
    let mut alike = 0usize;
    // Counted in bytes per chunk, so that the compiler can keep 16 counters in a register.
    for (later, earlier) in page.0[lag..].chunks(128).zip(page.0.chunks(128)) {
        let count: u8 = later.iter().zip(earlier).map(|(left, right)| u8::from(left == right)).sum();
        alike += usize::from(count);
    }
    alike * 256 / PAGE_SIZE
}

fn take_apart(page: &Page, out: &mut Page) {
    let (even, odd) = out.0.split_at_mut(HALF);
    let pairs = page.0.as_chunks::<2>().0;
    for index in 0..HALF {
        let pair = u16::from_le_bytes(pairs[index]);
        even[index] = pair as u8;
        odd[index] = (pair >> 8) as u8;
    }
}

fn put_together(page: &Page, out: &mut Page) {
    let (even, odd) = page.0.split_at(HALF);
    let pairs = out.0.as_chunks_mut::<2>().0;
    for index in 0..HALF {
        pairs[index] = (u16::from(even[index]) | u16::from(odd[index]) << 8).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lanes_lie_one_behind_the_other() {
        let mut page = Page::ZERO;
        for (index, byte) in page.0.iter_mut().enumerate() {
            *byte = (index % 8) as u8;
        }
        let mut out = Page::ZERO;
        shuffle(&page, Width::Eight, &mut out);
        for (index, byte) in out.0.iter().enumerate() {
            assert_eq!(usize::from(*byte), index / 512, "byte {index}");
        }
        assert_eq!(lane_likeness(&page, Width::Eight), 255);
        assert_eq!(lane_likeness(&page, Width::Four), 0);
    }

    proptest! {
        #[test]
        fn unshuffle_undoes_shuffle(bytes in prop::collection::vec(any::<u8>(), PAGE_SIZE)) {
            let mut page = Page::ZERO;
            page.0.copy_from_slice(&bytes);
            let (mut out, mut back) = (Page::ZERO, Page::ZERO);
            for width in Width::ALL {
                shuffle(&page, width, &mut out);
                for index in 0..PAGE_SIZE {
                    let lanes = width.bytes();
                    prop_assert_eq!(out.0[index % lanes * (PAGE_SIZE / lanes) + index / lanes], page.0[index]);
                }
                unshuffle(&out, width, &mut back);
                prop_assert!(back == page);
            }
        }
    }
}
