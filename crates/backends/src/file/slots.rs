//! Which slots of the swap file are taken. A slot is one page of the file, a cluster is 256 of them.
//!
//! It counts and chooses and never does I/O; `State` owns it, under its mutex. Slots are handed out
//! below the *ceiling* only. Pages may remain above it after the file was made smaller; what becomes
//! free there is remembered, so that its space can be given back to the disk.

use std::ops::Range;

use frontswap::PAGE_SIZE;

/// Slots in a cluster: 1 MiB, the block of `dd` that we are measured against. Larger writes gained
/// nothing on the disks that we tried.
pub(super) const CLUSTER_SLOTS: usize = 256;

/// The longest file, 1 TiB: a slot's number has 28 bits in the index.
pub(super) const SLOTS_MAX: u64 = 1 << 28;

/// Words of one bit for each slot of a cluster.
pub(super) const CLUSTER_WORDS: usize = CLUSTER_SLOTS / 64;

/// The slots of one file.
///
/// Invariants: `free[c]` = slots of cluster `c` below the ceiling that are not taken;
/// `available` = sum of `free`; `tail` = slots taken at or above the ceiling;
/// `available` + slots taken below the ceiling = `ceiling`; no cluster below `first_empty` is empty.
pub(super) struct SlotMap {
    taken: Vec<[u64; CLUSTER_WORDS]>,
    free: Vec<u16>,
    /// Clusters with free slots at or above the ceiling whose space the file may still take.
    stale: Vec<bool>,
    ceiling: u32,
    available: u32,
    tail: u32,
    first_empty: usize,
}

impl SlotMap {
    /// A map in which `ceiling` slots are free.
    pub(super) fn new(ceiling: u32) -> Self {
        let mut map = SlotMap {
            taken: Vec::new(),
            free: Vec::new(),
            stale: Vec::new(),
            ceiling: 0,
            available: 0,
            tail: 0,
            first_empty: 0,
        };
        map.set_ceiling(ceiling);
        map
    }

    /// Slots below this number are handed out.
    pub(super) fn ceiling(&self) -> u32 {
        self.ceiling
    }

    /// Slots that can be handed out now.
    pub(super) fn available(&self) -> u32 {
        self.available
    }

    /// Slots taken at or above the ceiling.
    pub(super) fn tail(&self) -> u32 {
        self.tail
    }

    /// What [`SlotMap::available`] would be with a lower ceiling.
    pub(super) fn available_below(&self, ceiling: u32) -> u32 {
        let taken: u32 = self.taken.iter().enumerate().map(|(c, words)| count_below(words, c, ceiling)).sum();
        ceiling - taken
    }

    /// Moves the ceiling. The caller sees to it that the file has space below it.
    ///
    /// # Cost
    /// One look at every cluster.
    pub(super) fn set_ceiling(&mut self, ceiling: u32) {
        let clusters = (ceiling as usize).div_ceil(CLUSTER_SLOTS).max(self.taken.len());
        self.taken.resize(clusters, [0; CLUSTER_WORDS]);
        self.free.resize(clusters, 0);
        self.stale.resize(clusters, false);
        let boundary = ceiling as usize / CLUSTER_SLOTS;
        for (cluster, stale) in self.stale.iter_mut().enumerate() {
            *stale = cluster >= boundary && (*stale || ceiling < self.ceiling);
        }
        self.ceiling = ceiling;
        self.available = 0;
        self.tail = 0;
        for (cluster, words) in self.taken.iter().enumerate() {
            let below = count_below(words, cluster, ceiling);
            let slots = slots_below(cluster, ceiling);
            self.free[cluster] = (slots - below) as u16;
            self.available += slots - below;
            self.tail += words.iter().map(|word| word.count_ones()).sum::<u32>() - below;
        }
        self.first_empty = 0;
    }

    /// Takes `count` slots and appends them to `slots`: empty clusters first, then those with the
    /// most free slots, so that the writes are long. The caller has seen that so many are available.
    ///
    /// # Cost
    /// One linear look at the counts per cluster that it takes from.
    pub(super) fn take(&mut self, count: usize, slots: &mut Vec<u32>) {
        debug_assert!(count <= self.available as usize);
        let mut missing = count;
        while missing > 0 {
            let cluster = self.roomiest();
            let from = missing.min(usize::from(self.free[cluster]));
            assert_ne!(from, 0, "more slots were promised than the file has");
            self.take_in(cluster, from, slots);
            missing -= from;
        }
    }

    fn roomiest(&mut self) -> usize {
        let beyond = &self.free[self.first_empty..];
        match beyond.iter().position(|free| usize::from(*free) == CLUSTER_SLOTS) {
            Some(distance) => {
                self.first_empty += distance;
                self.first_empty
            }
            None => {
                self.first_empty = self.free.len();
                let most = self.free.iter().copied().max().unwrap_or(0);
                self.free.iter().position(|free| *free == most).unwrap_or(0)
            }
        }
    }

    fn take_in(&mut self, cluster: usize, count: usize, slots: &mut Vec<u32>) {
        take_bits(&mut self.taken[cluster], cluster * CLUSTER_SLOTS, count, slots);
        self.free[cluster] -= count as u16;
        self.available -= count as u32;
    }

    /// Makes a taken slot free again.
    pub(super) fn release(&mut self, slot: u32) {
        let cluster = slot as usize / CLUSTER_SLOTS;
        let word = &mut self.taken[cluster][slot as usize % CLUSTER_SLOTS / 64];
        let bit = 1 << (slot % 64);
        debug_assert_ne!(*word & bit, 0, "slot {slot} was freed twice");
        *word &= !bit;
        if slot >= self.ceiling {
            self.tail -= 1;
            self.stale[cluster] = true;
            return;
        }
        self.available += 1;
        self.free[cluster] += 1;
        if usize::from(self.free[cluster]) == CLUSTER_SLOTS {
            self.first_empty = self.first_empty.min(cluster);
        }
    }

    /// Clusters from the one of the ceiling on may again take space that nothing uses.
    pub(super) fn mark_tail_stale(&mut self) {
        let boundary = self.ceiling as usize / CLUSTER_SLOTS;
        self.stale.iter_mut().skip(boundary).for_each(|stale| *stale = true);
    }

    /// Runs of free slots at or above the ceiling whose space was not given back yet, from at most
    /// `clusters_max` neighbouring clusters. They count as given back from now on.
    pub(super) fn take_stale(&mut self, clusters_max: usize) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        let Some(first) = self.stale.iter().position(|stale| *stale) else { return runs };
        let end = self.stale.len().min(first + clusters_max);
        for cluster in (first..end).filter(|cluster| std::mem::take(&mut self.stale[*cluster])) {
            for index in 0..CLUSTER_SLOTS {
                let slot = (cluster * CLUSTER_SLOTS + index) as u32;
                if slot < self.ceiling || self.taken[cluster][index / 64] >> (index % 64) & 1 != 0 {
                    continue;
                }
                match runs.last_mut() {
                    Some(run) if run.end == slot => run.end += 1,
                    _ => runs.push(slot..slot + 1),
                }
            }
        }
        runs
    }

    /// True while [`SlotMap::take_stale`] has something.
    pub(super) fn has_stale(&self) -> bool {
        self.stale.contains(&true)
    }

    /// Bytes that the map takes.
    pub(super) fn bytes(&self) -> u64 {
        let cluster = size_of::<[u64; CLUSTER_WORDS]>() + size_of::<u16>() + size_of::<bool>();
        (self.taken.capacity() * cluster) as u64
    }
}

/// Takes the first `count` free slots of a cluster that begins with slot `base`.
pub(super) fn take_bits(taken: &mut [u64; CLUSTER_WORDS], base: usize, count: usize, slots: &mut Vec<u32>) {
    let before = slots.len();
    for (number, word) in taken.iter_mut().enumerate() {
        while *word != u64::MAX && slots.len() - before < count {
            let bit = word.trailing_ones();
            *word |= 1 << bit;
            slots.push((base + number * 64) as u32 + bit);
        }
    }
}

/// Slots of `cluster` that are below `ceiling`.
fn slots_below(cluster: usize, ceiling: u32) -> u32 {
    (ceiling as usize).saturating_sub(cluster * CLUSTER_SLOTS).min(CLUSTER_SLOTS) as u32
}

/// Bits set in `words`, the slots of `cluster`, below `ceiling`.
fn count_below(words: &[u64; CLUSTER_WORDS], cluster: usize, ceiling: u32) -> u32 {
    let mut slots = slots_below(cluster, ceiling);
    let mut count = 0;
    for word in words {
        let bits = slots.min(64);
        let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        count += (word & mask).count_ones();
        slots -= bits;
    }
    count
}

/// Where a slot begins in the file, in bytes.
pub(super) fn byte_offset(slot: u32) -> u64 {
    u64::from(slot) * PAGE_SIZE as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn an_empty_cluster_is_preferred_and_then_the_roomiest() {
        let mut map = SlotMap::new(3 * 256);
        let mut slots = Vec::new();
        map.take(3 * 256, &mut slots);
        assert_eq!(slots, (0..768).collect::<Vec<_>>());
        (0..10).for_each(|slot| map.release(slot));
        (300..320).for_each(|slot| map.release(slot));
        (512..768).for_each(|slot| map.release(slot));
        slots.clear();
        map.take(256 + 25, &mut slots);
        assert_eq!(slots, (512..768).chain(300..320).chain(0..5).collect::<Vec<_>>());
    }

    #[test]
    fn a_lower_ceiling_gives_back_what_is_free_above_it_once() {
        let mut map = SlotMap::new(1000);
        let mut slots = Vec::new();
        map.take(600, &mut slots);
        assert_eq!(map.available_below(300), 0);
        map.set_ceiling(300);
        assert_eq!((map.available(), map.tail()), (0, 300));
        assert!(map.take_stale(1).is_empty(), "cluster 1 is full");
        assert_eq!(map.take_stale(100).as_slice(), std::slice::from_ref(&(600..1024)));
        assert!(!map.has_stale());
        map.release(310);
        map.release(311);
        map.release(299);
        assert_eq!((map.available(), map.tail()), (1, 298));
        assert_eq!(map.take_stale(100).as_slice(), std::slice::from_ref(&(310..312)));
        map.set_ceiling(700);
        assert_eq!((map.available(), map.tail()), (700 - 597, 0));
    }

    proptest! {
        #[test]
        fn counts_and_slots_agree_with_a_set(
            steps in prop::collection::vec((0u8..4, 0usize..1100), 1..60),
        ) {
            let mut map = SlotMap::new(700);
            let mut taken = BTreeSet::new();
            for (action, value) in steps {
                match action {
                    0 => map.set_ceiling(value as u32),
                    1 => {
                        let mut slots = Vec::new();
                        map.take(value.min(map.available() as usize), &mut slots);
                        for slot in slots {
                            prop_assert!(slot < map.ceiling() && taken.insert(slot), "{slot} was taken");
                        }
                    }
                    2 => {
                        let some: Vec<u32> = taken.iter().copied().filter(|s| *s as usize % 7 == value % 7).collect();
                        some.iter().for_each(|slot| { taken.remove(slot); map.release(*slot); });
                    }
                    _ => for run in map.take_stale(value % 5) {
                        prop_assert!(run.start >= map.ceiling() && taken.range(run).next().is_none());
                    }
                }
                let below = taken.range(..map.ceiling()).count() as u32;
                prop_assert_eq!(map.available(), map.ceiling() - below);
                prop_assert_eq!(map.available_below(map.ceiling()), map.available());
                prop_assert_eq!(map.tail(), taken.len() as u32 - below);
                prop_assert_eq!(map.free.iter().map(|f| u32::from(*f)).sum::<u32>(), map.available());
            }
        }
    }
}
