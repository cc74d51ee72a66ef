//! What is known of each chunk of 512 pages.
//!
//! A chunk's lock is held while its pages are moved out, and while one of them is filled: so a fill sees
//! either the page in the staging or what the chain has, and never fills in old contents. It is not held
//! while the chain stores, nor while a page comes from the slow swap.

use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::extents::{CHUNK_PAGES, CHUNKS_MAX};
use crate::threads::lock;

const SEGMENT_CHUNKS: usize = 1024;
const SEGMENTS_MAX: usize = CHUNKS_MAX as usize / SEGMENT_CHUNKS;

/// One bit for each page of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageSet([u64; CHUNK_PAGES as usize / 64]);

/// How sure it is that loaded pages are not written before they leave again.
const KEEP_AT_FIRST: u8 = 8;
const KEEP_MAX: u8 = 16;
const KEEP_MIN_TO_KEEP: u8 = 6;

/// The state of one chunk.
#[derive(Debug)]
pub struct Chunk {
    /// Changes when contents leave by other ways than a load: who loaded without the lock looks again.
    pub generation: u32,
    /// The page that is being offered to the chain, without the lock. What the chain has of it means
    /// nothing until that is over.
    pub storing: Option<usize>,
    /// The pages that are moving.
    pub moving: PageSet,
    /// Pages that came back soon after they left: they stay for another lap.
    pub credit: PageSet,
    /// It stands in the queue of the evictor.
    pub is_queued: bool,
    /// Somebody who holds it: nothing leaves.
    pub holds: u32,
    /// Some page of it may be in the chain.
    pub may_have_copies: bool,
    /// Evicted pages, of the whole pager, when it was evicted last.
    pub evicted_at: u64,
    /// Nothing leaves before this moment, in milliseconds of the pager's clock.
    pub quiet_until_ms: u64,
    keep: u8,
}

impl Default for Chunk {
    fn default() -> Self {
        Chunk {
            generation: 0,
            storing: None,
            moving: PageSet::default(),
            credit: PageSet::default(),
            is_queued: false,
            holds: 0,
            may_have_copies: false,
            evicted_at: 0,
            quiet_until_ms: 0,
            keep: KEEP_AT_FIRST,
        }
    }
}

impl Chunk {
    /// Whether what the chain says of page `index` is the truth.
    pub fn is_settled(&self, index: usize) -> bool {
        !self.moving.has(index) && self.storing != Some(index)
    }

    /// Whether a load should leave the copy in the chain.
    pub fn keeps_copies(&self) -> bool {
        self.keep >= KEEP_MIN_TO_KEEP
    }

    /// Learns from pages that left: how many were as their copies said, and how many copies were in vain.
    pub fn learn(&mut self, unchanged: u32, changed: u32) {
        if unchanged > changed {
            self.keep = (self.keep + 2).min(KEEP_MAX);
        } else if changed > 2 * unchanged {
            self.keep = self.keep.saturating_sub(3);
        }
    }

    /// Where nothing is learnt because nothing is kept, it is tried again after a while.
    pub fn forget_slowly(&mut self) {
        if !self.keeps_copies() {
            self.keep += 1;
        }
    }
}

impl PageSet {
    /// Whether page `index` is in it.
    pub fn has(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }

    /// Puts page `index` in.
    pub fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    /// Takes page `index` out; true when it was in.
    pub fn remove(&mut self, index: usize) -> bool {
        let was = self.has(index);
        self.0[index / 64] &= !(1 << (index % 64));
        was
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The pages in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let words = self.0;
        (0..CHUNK_PAGES as usize).filter(move |index| words[index / 64] & (1 << (index % 64)) != 0)
    }
}

type Segment = Box<[Mutex<Chunk>]>;

/// All chunks, by number. They come in segments that stay.
pub struct Chunks {
    segments: Box<[OnceLock<Segment>]>,
}

impl Default for Chunks {
    fn default() -> Self {
        Chunks { segments: (0..SEGMENTS_MAX).map(|_| OnceLock::new()).collect() }
    }
}

impl Chunks {
    /// Locks chunk `number`. Takes memory for a segment when it is the first of one.
    pub fn lock(&self, number: u64) -> MutexGuard<'_, Chunk> {
        lock(self.get(number))
    }

    fn get(&self, number: u64) -> &Mutex<Chunk> {
        let number = number as usize;
        let segment = self.segments[number / SEGMENT_CHUNKS]
            .get_or_init(|| (0..SEGMENT_CHUNKS).map(|_| Mutex::default()).collect());
        &segment[number % SEGMENT_CHUNKS]
    }

    /// Bytes of what there is.
    pub fn bytes(&self) -> u64 {
        let segments = self.segments.iter().filter(|segment| segment.get().is_some()).count();
        (segments * SEGMENT_CHUNKS * size_of::<Mutex<Chunk>>() + SEGMENTS_MAX * size_of::<usize>() * 2) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_kept_where_pages_are_not_written() {
        let mut chunk = Chunk::default();
        assert!(chunk.keeps_copies());
        chunk.learn(0, 10);
        assert!(!chunk.keeps_copies());
        for _ in 0..3 {
            chunk.forget_slowly();
        }
        assert!(chunk.keeps_copies());
        chunk.learn(10, 0);
        chunk.learn(3, 2);
        assert!(chunk.keeps_copies());
    }

    #[test]
    fn a_page_set_counts_and_lists() {
        let mut set = PageSet::default();
        for index in [0, 63, 64, 511] {
            set.insert(index);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 511]);
        assert!(set.remove(63) && !set.remove(63));
        assert_eq!(set.len(), 3);
        assert!(!set.is_empty());
    }
}
