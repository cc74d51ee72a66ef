//! One entry per page: the map of the chain, and the index of every backend that keeps pages by key.
//!
//! Entries live in leaves of 128 neighbours, made when one of them is first used and dropped by
//! [`PageTable::trim`] when none is. A leaf is found through one of 64 shards by a read lock that is
//! held only for the look-up. An entry is `W` words; bits 0 and 1 of the first belong to the key's
//! lock, the rest is the caller's. An entry whose payload is all zero in the first word is *vacant*.
//!
//! Invariants: `leaf.live` = entries of the leaf that are not vacant; `shard.live` = sum over its leaves.
//! Lock order: shard, then entry; never the other way.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustc_hash::FxHashMap;

pub use crate::key::LEAF_PAGES;
use crate::key::{Area, Key, Offset};
use crate::key_lock::{self, LOCK_BITS, ParkingLot};

/// Ways in which look-ups are spread, so that threads seldom meet on one lock.
const SHARDS: usize = 64;

/// Bytes of a shard's record of one leaf: 25 of key and pointer at the table's usual load, and what
/// the allocator and the reference counts add to the leaf and its entries.
const LEAF_RECORD_BYTES: usize = 40 + 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LeafId {
    area: u16,
    number: u64,
}

/// 128 neighbouring entries.
#[derive(Debug)]
pub struct Leaf<const W: usize> {
    id: LeafId,
    live: AtomicU32,
    entries: Box<[[AtomicU32; W]; LEAF_PAGES]>,
}

#[derive(Default)]
#[repr(align(64))]
struct Shard<const W: usize> {
    leaves: RwLock<FxHashMap<LeafId, Arc<Leaf<W>>>>,
    lot: ParkingLot,
    /// Entries of its leaves that are not vacant.
    live: AtomicU64,
}

/// Entries of `W` words by key.
pub struct PageTable<const W: usize> {
    shards: Box<[Shard<W>]>,
    leaves: AtomicU64,
    /// Of these, leaves in which every entry is vacant. Below zero for a moment, when a leaf that one
    /// thread has emptied is filled by another before the first has counted it.
    empty_leaves: AtomicI64,
}

/// One locked entry. Dropping it unlocks the key.
pub struct Entry<'a, const W: usize> {
    table: &'a PageTable<W>,
    shard: &'a Shard<W>,
    leaf: Arc<Leaf<W>>,
    index: usize,
    /// First word without lock bits, as it will be when the key is unlocked.
    first: u32,
}

impl<const W: usize> Default for PageTable<W> {
    fn default() -> Self {
        PageTable {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            leaves: AtomicU64::new(0),
            empty_leaves: AtomicI64::new(0),
        }
    }
}

impl<const W: usize> PageTable<W> {
    /// Entries that are not vacant; exact once calls have returned.
    pub fn live(&self) -> u64 {
        self.shards.iter().map(|shard| shard.live.load(Ordering::Relaxed)).sum()
    }

    /// Nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.leaves.load(Ordering::Relaxed) == 0 || self.live() == 0
    }

    /// Bytes that the table takes now.
    pub fn bytes(&self) -> u64 {
        let leaf = size_of::<[[AtomicU32; W]; LEAF_PAGES]>() + size_of::<Leaf<W>>() + LEAF_RECORD_BYTES;
        self.leaves.load(Ordering::Relaxed) * leaf as u64 + (SHARDS * size_of::<Shard<W>>()) as u64
    }

    /// The entry of `key`, locked; its leaf is made when there is none.
    pub fn lock(&self, key: Key) -> Entry<'_, W> {
        let (shard, id, index) = self.locate(key);
        let found = shard.read().get(&id).cloned();
        let leaf = found.unwrap_or_else(|| self.grow(shard, id));
        self.lock_in(shard, leaf, index)
    }

    /// The entry of `key`, locked, or `None` when nothing was ever kept near it.
    pub fn lock_existing(&self, key: Key) -> Option<Entry<'_, W>> {
        let (shard, id, index) = self.locate(key);
        let leaf = shard.read().get(&id).cloned()?;
        Some(self.lock_in(shard, leaf, index))
    }

    /// Like [`PageTable::lock_existing`], but `None` also when somebody holds the key.
    pub fn try_lock_existing(&self, key: Key) -> Option<Entry<'_, W>> {
        let (shard, id, index) = self.locate(key);
        let leaf = shard.read().get(&id).cloned()?;
        self.try_lock_in(shard, leaf, index)
    }

    /// The first word of the entry of `key`, without waiting for anybody: 0 when it is vacant, `None`
    /// when somebody holds the key.
    pub fn peek(&self, key: Key) -> Option<u32> {
        let (shard, id, index) = self.locate(key);
        let Some(leaf) = shard.read().get(&id).cloned() else { return Some(0) };
        key_lock::peek(&leaf.entries[index][0])
    }

    /// Visits the leaves of one shard in the order of their keys. `shard` counts from 0 and wraps.
    pub fn leaves_of_shard(&self, shard: usize) -> Vec<Arc<Leaf<W>>> {
        let mut leaves: Vec<_> = self.shards[shard % SHARDS].read().values().cloned().collect();
        leaves.sort_unstable_by_key(|leaf| (leaf.id.area, leaf.id.number));
        leaves
    }

    /// How many shards [`PageTable::leaves_of_shard`] has.
    pub fn shard_count(&self) -> usize {
        SHARDS
    }

    /// Locks the entry at `index` of `leaf`, if nobody holds it and it is not vacant.
    ///
    /// # Cost
    /// One load for a vacant entry.
    pub fn try_lock_live<'a>(&'a self, leaf: &Arc<Leaf<W>>, index: usize) -> Option<Entry<'a, W>> {
        if leaf.entries[index][0].load(Ordering::Relaxed) & !LOCK_BITS == 0 {
            return None;
        }
        let entry = self.try_lock_in(self.shard(leaf.id), leaf.clone(), index)?;
        (!entry.is_vacant()).then_some(entry)
    }

    /// Locks every entry of `area` in turn, waiting for each, and hands those that are not vacant to
    /// `visit`. Entries that are filled meanwhile may be missed: the caller keeps stores away.
    pub fn for_each_in_area(&self, area: Area, mut visit: impl FnMut(Key, &mut Entry<'_, W>)) {
        self.for_each_leaf(|leaf| {
            leaf.id.area != area.0
                || self.visit_leaf(leaf, &mut |key, entry| {
                    visit(key, entry);
                    true
                })
        });
    }

    /// Locks every entry of the table in turn, waiting for each, and hands those that are not vacant
    /// to `visit`, until it says false.
    pub fn for_each(&self, mut visit: impl FnMut(Key, &mut Entry<'_, W>) -> bool) {
        self.for_each_leaf(|leaf| self.visit_leaf(leaf, &mut visit));
    }

    /// Drops the leaves in which every entry is vacant. Returns how many went.
    pub fn trim(&self) -> u64 {
        if self.empty_leaves.load(Ordering::Relaxed) <= 0 {
            return 0;
        }
        let mut dropped = 0;
        for shard in &self.shards {
            if !shard.read().values().any(|leaf| leaf.live.load(Ordering::Relaxed) == 0) {
                continue;
            }
            let mut leaves = shard.write();
            let before = leaves.len();
            // A leaf that only the shard refers to has no locked entry, and nobody can find it while
            // the shard is write-locked. Whether it is the only one is asked first: what a thread did
            // before it let go of the leaf is seen then.
            leaves.retain(|_, leaf| Arc::get_mut(leaf).is_none_or(|leaf| *leaf.live.get_mut() != 0));
            dropped += (before - leaves.len()) as u64;
            if leaves.capacity() > 4 * leaves.len() {
                leaves.shrink_to_fit();
            }
        }
        self.leaves.fetch_sub(dropped, Ordering::Relaxed);
        self.empty_leaves.fetch_sub(dropped as i64, Ordering::Relaxed);
        dropped
    }

    /// Drops empty leaves when one in eight is empty: what is called again and again costs two looks.
    pub fn trim_when_sparse(&self) {
        if self.empty_leaves.load(Ordering::Relaxed) * 8 > self.leaves.load(Ordering::Relaxed) as i64 {
            self.trim();
        }
    }

    fn for_each_leaf(&self, mut visit: impl FnMut(&Arc<Leaf<W>>) -> bool) {
        for shard in 0..SHARDS {
            for leaf in self.leaves_of_shard(shard) {
                if !visit(&leaf) {
                    return;
                }
            }
        }
    }

    fn visit_leaf<'a>(
        &'a self,
        leaf: &Arc<Leaf<W>>,
        visit: &mut dyn FnMut(Key, &mut Entry<'a, W>) -> bool,
    ) -> bool {
        let shard = self.shard(leaf.id);
        for index in 0..LEAF_PAGES {
            let mut entry = self.lock_in(shard, leaf.clone(), index);
            if !entry.is_vacant() && !visit(entry.key(), &mut entry) {
                return false;
            }
        }
        true
    }

    fn locate(&self, key: Key) -> (&Shard<W>, LeafId, usize) {
        let id = LeafId { area: key.area.0, number: key.offset.0 / LEAF_PAGES as u64 };
        (self.shard(id), id, (key.offset.0 % LEAF_PAGES as u64) as usize)
    }

    fn shard(&self, id: LeafId) -> &Shard<W> {
        // Neighbouring leaves go to neighbouring shards; areas begin at scattered ones.
        let spread = id.number.wrapping_add(u64::from(id.area).wrapping_mul(0x9e37_79b9));
        &self.shards[(spread % SHARDS as u64) as usize]
    }

    #[cold]
    fn grow(&self, shard: &Shard<W>, id: LeafId) -> Arc<Leaf<W>> {
        let mut leaves = shard.write();
        let leaf = leaves.entry(id).or_insert_with(|| {
            self.leaves.fetch_add(1, Ordering::Relaxed);
            self.empty_leaves.fetch_add(1, Ordering::Relaxed);
            Arc::new(Leaf {
                id,
                live: AtomicU32::new(0),
                entries: Box::new([const { [const { AtomicU32::new(0) }; W] }; LEAF_PAGES]),
            })
        });
        leaf.clone()
    }

    fn lock_in<'a>(&'a self, shard: &'a Shard<W>, leaf: Arc<Leaf<W>>, index: usize) -> Entry<'a, W> {
        let first = key_lock::lock(&leaf.entries[index][0], &shard.lot);
        Entry { table: self, shard, leaf, index, first }
    }

    fn try_lock_in<'a>(
        &'a self,
        shard: &'a Shard<W>,
        leaf: Arc<Leaf<W>>,
        index: usize,
    ) -> Option<Entry<'a, W>> {
        let first = key_lock::try_lock(&leaf.entries[index][0])?;
        Some(Entry { table: self, shard, leaf, index, first })
    }
}

impl<const W: usize> Shard<W> {
    fn read(&self) -> RwLockReadGuard<'_, FxHashMap<LeafId, Arc<Leaf<W>>>> {
        self.leaves.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, FxHashMap<LeafId, Arc<Leaf<W>>>> {
        self.leaves.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const W: usize> Leaf<W> {
    /// Entries that are not vacant.
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }

    /// The names of the pages whose entries are not vacant now. Takes no lock.
    pub fn live_keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0..LEAF_PAGES)
            .filter(|index| self.entries[*index][0].load(Ordering::Relaxed) & !LOCK_BITS != 0)
            .map(|index| self.key(index))
    }

    /// The name of the page at `index`.
    pub fn key(&self, index: usize) -> Key {
        Key { area: Area(self.id.area), offset: Offset(self.id.number * LEAF_PAGES as u64 + index as u64) }
    }
}

impl<const W: usize> Entry<'_, W> {
    /// The name of this page.
    pub fn key(&self) -> Key {
        self.leaf.key(self.index)
    }

    /// Nothing is kept for this key.
    pub fn is_vacant(&self) -> bool {
        self.first == 0
    }

    /// The entry's words; the lock bits of the first are clear.
    pub fn get(&self) -> [u32; W] {
        let mut words = [self.first; W];
        for (word, stored) in words.iter_mut().zip(&self.leaf.entries[self.index]).skip(1) {
            *word = stored.load(Ordering::Relaxed);
        }
        words
    }

    /// Overwrites the entry. The lock bits of the first word must be clear; all of it zero is vacant.
    pub fn set(&mut self, words: [u32; W]) {
        for (word, stored) in words.iter().zip(&self.leaf.entries[self.index]).skip(1) {
            stored.store(*word, Ordering::Relaxed);
        }
        self.set_first(words[0]);
    }

    /// Overwrites the first word alone.
    pub fn set_first(&mut self, first: u32) {
        debug_assert_eq!(first & LOCK_BITS, 0);
        match (self.first == 0, first == 0) {
            (true, false) => {
                if self.leaf.live.fetch_add(1, Ordering::Relaxed) == 0 {
                    self.table.empty_leaves.fetch_sub(1, Ordering::Relaxed);
                }
                self.shard.live.fetch_add(1, Ordering::Relaxed);
            }
            (false, true) => {
                if self.leaf.live.fetch_sub(1, Ordering::Release) == 1 {
                    self.table.empty_leaves.fetch_add(1, Ordering::Relaxed);
                }
                self.shard.live.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.first = first;
    }

    /// Makes the entry vacant.
    pub fn clear(&mut self) {
        self.set([0; W]);
    }
}

impl<const W: usize> Drop for Entry<'_, W> {
    fn drop(&mut self) {
        key_lock::unlock(&self.leaf.entries[self.index][0], self.first, &self.shard.lot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn nothing_stored_costs_no_leaf() {
        let table = PageTable::<2>::default();
        assert!(table.lock_existing(Key::new(3, 70_000)).is_none());
        assert_eq!(table.leaves.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_leaf_in_use_is_not_trimmed() {
        let table = PageTable::<1>::default();
        let mut entry = table.lock(Key::new(0, 5));
        assert_eq!(table.trim(), 0, "an entry is locked");
        entry.set([4]);
        drop(entry);
        assert_eq!(table.trim(), 0, "an entry is live");
        table.lock(Key::new(0, 5)).clear();
        assert_eq!(table.trim(), 1);
        assert!(table.lock_existing(Key::new(0, 5)).is_none());
    }

    #[test]
    fn keys_exclude_and_lose_nothing_under_threads() {
        let table = PageTable::<2>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for step in 0..20_000u64 {
                        let mut entry = table.lock(Key::new(0, step % 300));
                        let [first, second] = entry.get();
                        assert_eq!(first >> 2, second);
                        entry.set([first + 4, second + 1]);
                        if step % 1000 == 0 {
                            drop(entry);
                            table.trim();
                        }
                    }
                });
            }
        });
        let mut sum = 0;
        table.for_each(|_, entry| {
            sum += entry.get()[1];
            true
        });
        assert_eq!(sum, 80_000);
        assert_eq!(table.live(), 300);
    }

    proptest! {
        #[test]
        fn a_table_is_a_dictionary(steps in prop::collection::vec((0u16..3, 0u64..400, 0u32..50), 0..400)) {
            let table = PageTable::<2>::default();
            let mut model = BTreeMap::new();
            for (area, offset, value) in steps {
                let key = Key::new(area, offset);
                let mut entry = table.lock(key);
                prop_assert_eq!(entry.get()[1], model.get(&key).copied().unwrap_or(0));
                if value == 0 {
                    entry.clear();
                    model.remove(&key);
                } else {
                    entry.set([value << 2, value]);
                    model.insert(key, value);
                }
                drop(entry);
                if value == 7 {
                    table.trim();
                }
                prop_assert_eq!(table.live(), model.len() as u64);
            }
            let mut seen = BTreeMap::new();
            table.for_each(|key, entry| { seen.insert(key, entry.get()[1]); true });
            prop_assert_eq!(seen, model);
        }
    }
}
