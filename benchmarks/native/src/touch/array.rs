//! The memory that is touched: pages that compress as those of the file do, and are all distinct.
//!
//! The first word of each page is its tag: the page's number below, how often it was written above. A
//! program that reads a page of another number, or an older copy of the right one, sees it there.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::managed::Managed;

/// Words in a page.
const WORDS: usize = 512;

/// Where the count of writes begins in a tag.
const WRITES_SHIFT: u32 = 32;

/// Who pages it.
enum Memory {
    /// Whoever pages this whole program.
    Ordinary(Vec<AtomicU64>),
    /// A pager in it.
    Managed(Managed),
}

/// The array and, for each page, what the low bits of its count of writes must be.
pub struct Array {
    memory: Memory,
    writes: Vec<AtomicU8>,
}

impl Array {
    /// An array of `bytes` bytes, each page a page of the file with a tag in its first word. With
    /// `ram_bytes`, a pager of our own keeps it in so much RAM.
    pub fn filled(file: &str, bytes: usize, ram_bytes: Option<u64>) -> Array {
        let source = std::fs::read(file).unwrap_or_else(|error| panic!("cannot read {file}: {error}"));
        let (source, _) = source.as_chunks::<{ 8 * WORDS }>();
        let pages = bytes / (8 * WORDS);
        assert!(!source.is_empty() && pages > 0, "both hold at least one page");
        let tagged = (0..pages as u64).zip(source.iter().cycle()).map(|(tag, page)| {
            let (page, _) = page.as_chunks::<8>();
            std::iter::once(tag).chain(page[1..].iter().map(|word| u64::from_ne_bytes(*word)))
        });
        let memory = match ram_bytes {
            None => {
                let mut words = Vec::with_capacity(pages * WORDS);
                tagged.for_each(|page| words.extend(page.map(AtomicU64::new)));
                Memory::Ordinary(words)
            }
            Some(ram_bytes) => {
                let managed = Managed::new(pages * WORDS, ram_bytes);
                let places = managed.words().chunks_exact(WORDS);
                for (place, page) in places.zip(tagged) {
                    place.iter().zip(page).for_each(|(place, word)| place.store(word, Relaxed));
                }
                Memory::Managed(managed)
            }
        };
        Array { memory, writes: (0..pages).map(|_| AtomicU8::new(0)).collect() }
    }

    /// What its pager says of itself, as JSON.
    pub fn stats(&self) -> String {
        match &self.memory {
            Memory::Ordinary(_) => "{}".into(),
            Memory::Managed(managed) => managed.stats(),
        }
    }

    fn words(&self) -> &[AtomicU64] {
        match &self.memory {
            Memory::Ordinary(words) => words,
            Memory::Managed(managed) => managed.words(),
        }
    }

    pub fn pages(&self) -> usize {
        self.writes.len()
    }

    /// Reads a page's tag and checks it. Only the thread that writes a page may ask whether its count is
    /// the latest, so `is_mine` says whose it is.
    pub fn read(&self, page: usize, is_mine: bool) {
        let tag = self.words()[page * WORDS].load(Relaxed);
        let is_latest = !is_mine || (tag >> WRITES_SHIFT) as u8 == self.writes[page].load(Relaxed);
        assert!(tag as u32 as usize == page && is_latest, "page {page} holds {tag:#x}");
    }

    /// Counts one more write in a page's tag.
    pub fn write(&self, page: usize) {
        let tag = self.words()[page * WORDS].fetch_add(1 << WRITES_SHIFT, Relaxed);
        let writes = self.writes[page].fetch_add(1, Relaxed);
        assert!(
            tag as u32 as usize == page && (tag >> WRITES_SHIFT) as u8 == writes,
            "page {page} holds {tag:#x}"
        );
    }
}
