//! Which addresses of a space are in use, and which are free: numbers only, no memory is touched.
//!
//! Small blocks are carved out of shared regions, each large one has a mapping of its own. All of this
//! is kept in ordinary memory, outside what it describes, so that looking for room never faults.
//!
//! A block that is given back stays *warm* for a while, with whatever it holds: programs that make one
//! temporary array after the other get the same pages again, which are in the process already. What is
//! neither used nor warm is *clean*: nothing is held for it, and it reads as zeroes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use frontswap::page::PAGE_SIZE;

/// The largest block that shares a region: two chunks of the pager's.
pub const SHARED_BYTES_MAX: usize = 4 << 20;

/// A region that blocks are carved out of: the largest block is a sixteenth of it, so little is left over.
pub const REGION_BYTES: usize = 64 << 20;

/// A block in use.
#[derive(Clone, Debug)]
pub struct Used {
    /// Its length, whole pages.
    pub bytes: usize,
    /// What messages call it; `None` when only its size is known.
    pub label: Option<String>,
}

/// Where room was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// At this address, all zeroes.
    Clean(usize),
    /// At this address, with what was there before.
    Warm(usize),
    /// Nowhere: more has to be mapped first, so many bytes.
    Nowhere(usize),
}

/// A range that nobody needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its address.
    pub at: usize,
    /// Its length, whole pages.
    pub bytes: usize,
}

impl Extent {
    /// Whether it is a mapping of its own.
    pub fn is_own(self) -> bool {
        self.bytes > SHARED_BYTES_MAX
    }
}

/// The table. Every page of a region is in exactly one of `used`, `warm`, `free`, or in the hands of
/// whoever is about to forget it; `by_bytes` has the entries of `free`, turned round; `warm_bytes` and
/// `used_bytes` are sums.
#[derive(Default)]
pub struct Blocks {
    used: BTreeMap<usize, Used>,
    used_bytes: usize,
    free: BTreeMap<usize, usize>,
    by_bytes: BTreeSet<(usize, usize)>,
    regions: BTreeMap<usize, usize>,
    /// The latest last.
    warm: VecDeque<Extent>,
    warm_bytes: usize,
}

impl Blocks {
    /// Looks for `bytes`, whole pages, and marks what it finds as used. A warm block is taken for one
    /// that has to be zeroes too: forgetting what it holds is cheaper than more memory.
    pub fn take(&mut self, bytes: usize, label: &Option<String>) -> Room {
        debug_assert!(bytes.is_multiple_of(PAGE_SIZE) && bytes > 0);
        // The latest is the likeliest to be in the process still.
        if let Some(index) = self.warm.iter().rposition(|extent| extent.bytes == bytes) {
            let extent = self.warm.remove(index).expect("it was just seen there");
            self.warm_bytes -= bytes;
            self.use_extent(extent, label);
            return Room::Warm(extent.at);
        }
        if bytes > SHARED_BYTES_MAX {
            return Room::Nowhere(bytes);
        }
        let Some(&(length, at)) = self.by_bytes.range((bytes, 0)..).next() else {
            return Room::Nowhere(REGION_BYTES);
        };
        self.remove_free(at, length);
        if length > bytes {
            self.insert_free(at + bytes, length - bytes);
        }
        self.use_extent(Extent { at, bytes }, label);
        Room::Clean(at)
    }

    /// A mapping was made for a block of its own.
    pub fn use_extent(&mut self, extent: Extent, label: &Option<String>) {
        self.used_bytes += extent.bytes;
        let before = self.used.insert(extent.at, Used { bytes: extent.bytes, label: label.clone() });
        debug_assert!(before.is_none(), "{:#x} is used twice", extent.at);
    }

    /// A region was mapped for blocks to share.
    pub fn add_region(&mut self, at: usize) {
        self.regions.insert(at, REGION_BYTES);
        self.insert_free(at, REGION_BYTES);
    }

    /// The block that begins at `at` is no longer used. Returns what is not to stay warm, the oldest
    /// first; `None` when no block begins there.
    pub fn release(&mut self, at: usize, warm_bytes_max: usize) -> Option<Vec<Extent>> {
        let used = self.used.remove(&at)?;
        self.used_bytes -= used.bytes;
        self.warm.push_back(Extent { at, bytes: used.bytes });
        self.warm_bytes += used.bytes;
        Some(self.cool(warm_bytes_max))
    }

    /// Takes out warm blocks, the oldest first, until at most `warm_bytes_max` are left.
    pub fn cool(&mut self, warm_bytes_max: usize) -> Vec<Extent> {
        let mut cooled = Vec::new();
        while self.warm_bytes > warm_bytes_max
            && let Some(extent) = self.warm.pop_front()
        {
            self.warm_bytes -= extent.bytes;
            cooled.push(extent);
        }
        cooled
    }

    /// A part of a region has been forgotten and is clean. Returns the region when it is empty now and
    /// not the only one.
    pub fn give_back(&mut self, extent: Extent) -> Option<Extent> {
        let (&region, &length) = self.regions.range(..=extent.at).next_back().expect("it lies in a region");
        let mut whole = extent;
        // Neighbours are joined within the region only: regions come and go one by one.
        if let Some((&before, &bytes)) = self.free.range(region..extent.at).next_back()
            && before + bytes == extent.at
        {
            self.remove_free(before, bytes);
            whole = Extent { at: before, bytes: bytes + whole.bytes };
        }
        let after = extent.at + extent.bytes;
        if after < region + length
            && let Some(&bytes) = self.free.get(&after)
        {
            self.remove_free(after, bytes);
            whole.bytes += bytes;
        }
        if whole.bytes == length && self.regions.len() > 1 {
            self.regions.remove(&region);
            return Some(whole);
        }
        self.insert_free(whole.at, whole.bytes);
        None
    }

    /// Takes out everything that is mapped, when nothing is used.
    pub fn clear(&mut self) -> Vec<Extent> {
        debug_assert!(self.used.is_empty());
        let own: Vec<Extent> = self.cool(0).into_iter().filter(|extent| extent.is_own()).collect();
        self.free.clear();
        self.by_bytes.clear();
        let regions = std::mem::take(&mut self.regions);
        own.into_iter().chain(regions.into_iter().map(|(at, bytes)| Extent { at, bytes })).collect()
    }

    /// The blocks in use, by address.
    pub fn used(&self) -> &BTreeMap<usize, Used> {
        &self.used
    }

    /// Bytes in use, whole pages.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Whether all of `bytes` from `at` is in one block in use.
    pub fn holds(&self, at: usize, bytes: usize) -> bool {
        let Some((&start, used)) = self.used.range(..=at).next_back() else { return false };
        at - start <= used.bytes && bytes <= used.bytes - (at - start)
    }

    /// The length of the block that begins at `at`.
    pub fn length(&self, at: usize) -> Option<usize> {
        self.used.get(&at).map(|used| used.bytes)
    }

    fn insert_free(&mut self, at: usize, bytes: usize) {
        self.free.insert(at, bytes);
        self.by_bytes.insert((bytes, at));
    }

    fn remove_free(&mut self, at: usize, bytes: usize) {
        self.free.remove(&at);
        self.by_bytes.remove(&(bytes, at));
    }
}
