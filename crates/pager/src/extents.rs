//! Which addresses are managed, and under which keys their pages are stored.
//!
//! A page's key is given once, when its extent is registered, and stays: when the program moves memory
//! (`mremap`) only the extent's address changes. Keys are given by the chunk of 512, so that a chunk
//! of keys is 2 MiB of addresses, aligned like a huge page as long as it stays where it began.

use std::collections::BTreeMap;
use std::ops::Range;

use frontswap::page::PAGE_SIZE;

/// Pages of one chunk: a huge page of x86-64 and of arm64 with small pages.
pub const CHUNK_PAGES: u64 = 512;
/// Bytes of one chunk.
pub const CHUNK_BYTES: usize = CHUNK_PAGES as usize * PAGE_SIZE;
/// Chunks that there can be: 16 TiB.
pub const CHUNKS_MAX: u64 = 1 << 23;

/// Contiguous managed pages with contiguous keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The address of its first page.
    pub start: usize,
    /// How many pages.
    pub pages: u64,
    /// The key of its first page.
    pub key: u64,
}

/// All extents. Invariant: no two share an address or a key.
#[derive(Debug, Default)]
pub struct Extents {
    by_address: BTreeMap<usize, Extent>,
    /// First keys, and the address that they are at.
    by_key: BTreeMap<u64, usize>,
    keys: KeySpace,
}

impl Extent {
    /// The first address behind it.
    pub fn end(&self) -> usize {
        self.start + self.pages as usize * PAGE_SIZE
    }

    /// The key of the page at `address`, which is inside.
    pub fn key_at(&self, address: usize) -> u64 {
        self.key + ((address - self.start) / PAGE_SIZE) as u64
    }

    /// The part of it in `range`.
    fn within(&self, range: &Range<usize>) -> Extent {
        let start = self.start.max(range.start);
        let end = self.end().min(range.end);
        Extent { start, pages: (end.saturating_sub(start) / PAGE_SIZE) as u64, key: self.key_at(start) }
    }
}

impl Extents {
    /// Manages `range` from now on, under new keys. None when there are no keys left.
    pub fn add(&mut self, range: &Range<usize>) -> Option<Extent> {
        let pages = (range.len() / PAGE_SIZE) as u64;
        let phase = (range.start / PAGE_SIZE) as u64 % CHUNK_PAGES;
        let chunk = self.keys.take((phase + pages).div_ceil(CHUNK_PAGES))?;
        let extent = Extent { start: range.start, pages, key: chunk * CHUNK_PAGES + phase };
        self.insert(extent);
        Some(extent)
    }

    fn insert(&mut self, extent: Extent) {
        self.by_address.insert(extent.start, extent);
        self.by_key.insert(extent.key, extent.start);
    }

    /// The extent that has `address`.
    pub fn find(&self, address: usize) -> Option<Extent> {
        let (_, extent) = self.by_address.range(..=address).next_back()?;
        (address < extent.end()).then_some(*extent)
    }

    /// The managed parts of `range`, in the order of addresses.
    pub fn within(&self, range: Range<usize>) -> impl Iterator<Item = Extent> {
        let first = self.find(range.start).map_or(range.start, |extent| extent.start);
        self.by_address
            .range(first..range.end.max(first))
            .map(move |(_, extent)| extent.within(&range))
            .filter(|extent| extent.pages > 0)
    }

    /// Where the pages of a chunk are: mostly one extent, several when the program has moved a part.
    pub fn of_chunk(&self, chunk: u64) -> impl Iterator<Item = Extent> {
        let keys = chunk * CHUNK_PAGES..(chunk + 1) * CHUNK_PAGES;
        let before = self.by_key.range(..keys.start).next_back().into_iter();
        before.chain(self.by_key.range(keys.clone())).filter_map(move |(_, address)| {
            let extent = self.by_address[address];
            let first = extent.key.max(keys.start);
            let last = (extent.key + extent.pages).min(keys.end);
            (first < last).then(|| Extent {
                start: extent.start + (first - extent.key) as usize * PAGE_SIZE,
                pages: last - first,
                key: first,
            })
        })
    }

    /// Takes the parts of `range` out, cutting extents where it must; their keys stay taken.
    pub fn cut(&mut self, range: &Range<usize>) -> Vec<Extent> {
        let parts: Vec<Extent> = self.within(range.clone()).collect();
        for part in &parts {
            let Some(whole) = self.find(part.start) else { continue };
            self.by_address.remove(&whole.start);
            self.by_key.remove(&whole.key);
            for rest in [whole.start..part.start, part.end()..whole.end()] {
                if !rest.is_empty() {
                    self.insert(whole.within(&rest));
                }
            }
        }
        parts
    }

    /// Puts parts that were cut at `from` back at `to`.
    pub fn put_back(&mut self, parts: &[Extent], from: usize, to: usize) {
        for part in parts {
            self.insert(Extent { start: part.start - from + to, ..*part });
        }
    }

    /// Forgets parts that were cut; chunks that have no page left give their keys back. Returns them.
    pub fn forget(&mut self, parts: &[Extent]) -> Vec<u64> {
        let mut freed = Vec::new();
        for part in parts {
            for chunk in part.key / CHUNK_PAGES..(part.key + part.pages).div_ceil(CHUNK_PAGES) {
                if self.of_chunk(chunk).next().is_none() && self.keys.give_back(chunk) {
                    freed.push(chunk);
                }
            }
        }
        freed
    }

    /// Every extent, in the order of addresses.
    pub fn all(&self) -> impl Iterator<Item = Extent> {
        self.by_address.values().copied()
    }

    /// Pages of all of them.
    pub fn pages(&self) -> u64 {
        self.by_address.values().map(|extent| extent.pages).sum()
    }
}

/// Which chunk numbers are free: those from `next` on, and the runs that came back.
#[derive(Debug, Default)]
struct KeySpace {
    next: u64,
    /// First number and length of each free run below `next`; neighbours are one run.
    free: BTreeMap<u64, u64>,
}

impl KeySpace {
    fn take(&mut self, chunks: u64) -> Option<u64> {
        if let Some((&first, &length)) = self.free.iter().find(|(_, length)| **length >= chunks) {
            self.free.remove(&first);
            if length > chunks {
                self.free.insert(first + chunks, length - chunks);
            }
            return Some(first);
        }
        let first = self.next;
        self.next = first.checked_add(chunks).filter(|end| *end <= CHUNKS_MAX)?;
        Some(first)
    }

    /// False when it was free.
    fn give_back(&mut self, chunk: u64) -> bool {
        let before = self.free.range(..=chunk).next_back().map(|(first, length)| (*first, *length));
        if before.is_some_and(|(first, length)| chunk < first + length) {
            return false;
        }
        let mut run = (chunk, 1);
        if let Some((first, length)) = before.filter(|(first, length)| first + length == chunk) {
            self.free.remove(&first);
            run = (first, length + 1);
        }
        if let Some(length) = self.free.remove(&(chunk + 1)) {
            run.1 += length;
        }
        self.free.insert(run.0, run.1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn keys_are_aligned_like_addresses() {
        let mut extents = Extents::default();
        let extent = extents.add(&(5 * MIB..9 * MIB)).unwrap();
        assert_eq!(extent.key % CHUNK_PAGES, 256);
        assert_eq!(extents.find(8 * MIB).unwrap().key_at(8 * MIB), extent.key + 768);
        assert_eq!(extents.find(9 * MIB), None);
        let chunks: Vec<_> = extents.of_chunk(1).collect();
        assert_eq!(chunks, [Extent { start: 6 * MIB, pages: 512, key: 512 }]);
    }

    #[test]
    fn a_move_keeps_keys_and_an_unmap_gives_them_back() {
        let mut extents = Extents::default();
        extents.add(&(4 * MIB..12 * MIB)).unwrap();
        let parts = extents.cut(&(6 * MIB..8 * MIB));
        extents.put_back(&parts, 6 * MIB, 100 * MIB);
        assert_eq!(extents.find(101 * MIB).unwrap().key_at(101 * MIB), 768);
        assert_eq!(extents.find(7 * MIB), None);
        assert_eq!(extents.within(0..200 * MIB).count(), 3);
        let parts = extents.cut(&(0..12 * MIB));
        assert_eq!(extents.forget(&parts), [0, 2, 3]);
        assert_eq!(extents.pages(), 512);
        // Two neighbours that came back serve an extent of two; the lone one does not.
        assert_eq!(extents.add(&(20 * MIB..24 * MIB)).unwrap().key, 1024);
    }

    #[test]
    fn parts_of_a_range_are_clipped() {
        let mut extents = Extents::default();
        extents.add(&(4 * MIB..6 * MIB)).unwrap();
        extents.add(&(8 * MIB..10 * MIB)).unwrap();
        let parts: Vec<_> = extents.within(5 * MIB..9 * MIB).map(|part| (part.start, part.pages)).collect();
        assert_eq!(parts, [(5 * MIB, 256), (8 * MIB, 256)]);
        assert_eq!(extents.within(6 * MIB..8 * MIB).count(), 0);
    }
}
