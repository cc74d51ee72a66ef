//! Slots of a file that several processes share: each uses the clusters that it has claimed.
//!
//! Who has which cluster is the sharing processes' affair, behind [`ClusterClaims`]. Clusters are claimed
//! when a page needs a slot and go back when they are empty. After a fork both processes read what was
//! stored before; only the parent goes on with its clusters, and it leaves what the child may read as it
//! is. Like [`super::slots`] it counts and chooses and never does I/O; `State` owns it, under its mutex.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::slots::{CLUSTER_SLOTS, CLUSTER_WORDS, SlotMap, take_bits};

/// Who may use which cluster of a file that several processes share.
///
/// Called with locks of the swap file held: an answer must not wait for long, and never call back. What a
/// process has claimed and not released when it ends is for whoever made the file to give back, once no
/// heir of that process lives.
pub trait ClusterClaims: Send + Sync {
    /// The file's length in clusters of [`CLUSTER_BYTES`].
    fn clusters(&self) -> u32;

    /// A free cluster, which is now this process's; `None` when the file is full.
    fn claim(&self) -> Option<u32>;

    /// Gives a cluster back that this process has claimed.
    fn release(&self, cluster: u32);

    /// Some process that was forked from this one, or from such a one in turn, still runs this image and
    /// may read what was stored before the fork. True from the fork on.
    fn has_heirs(&self) -> bool;
}

/// Bytes of a cluster: what one write to the file takes.
pub const CLUSTER_BYTES: u64 = CLUSTER_SLOTS as u64 * frontswap::PAGE_SIZE as u64;

/// Bytes that the tree of clusters takes for each, at most: half of a node is empty.
const CLUSTER_RECORD_BYTES: u64 = 2 * (size_of::<u32>() + size_of::<Cluster>()) as u64;

/// A cluster that is ours.
///
/// Invariants: `free` = slots that are not taken; `dead` are among `taken`, and are none unless it `is_frozen`.
struct Cluster {
    taken: [u64; CLUSTER_WORDS],
    /// Slots that were freed and are not used again while an heir may read them.
    dead: [u64; CLUSTER_WORDS],
    free: u16,
    /// It was ours at a fork whose child may live.
    is_frozen: bool,
}

impl Cluster {
    /// No page was ever stored in it that somebody may read.
    fn is_empty(&self) -> bool {
        usize::from(self.free) == CLUSTER_SLOTS
    }
}

/// The clusters of this process.
///
/// Invariants: `available` = sum of `free`; `taken` = slots taken and not dead, in all of them; `empty` =
/// clusters without a taken slot; no cluster is frozen unless `has_frozen`.
pub(super) struct ClaimedSlots {
    claims: Arc<dyn ClusterClaims>,
    clusters: BTreeMap<u32, Cluster>,
    available: u32,
    taken: u32,
    empty: u32,
    has_frozen: bool,
}

impl ClaimedSlots {
    pub(super) fn new(claims: Arc<dyn ClusterClaims>) -> Self {
        let clusters = BTreeMap::new();
        ClaimedSlots { claims, clusters, available: 0, taken: 0, empty: 0, has_frozen: false }
    }

    /// Sees to it that `count` slots are available, if the file has so many. True when they are.
    fn ensure(&mut self, count: u32) -> bool {
        if count > self.available {
            self.thaw();
        }
        while count > self.available {
            let Some(number) = self.claims.claim() else { return false };
            let cluster = Cluster {
                taken: [0; CLUSTER_WORDS],
                dead: [0; CLUSTER_WORDS],
                free: CLUSTER_SLOTS as u16,
                is_frozen: false,
            };
            let before = self.clusters.insert(number, cluster);
            debug_assert!(before.is_none(), "cluster {number} was claimed twice");
            self.available += CLUSTER_SLOTS as u32;
            self.empty += 1;
        }
        true
    }

    fn take(&mut self, count: usize, slots: &mut Vec<u32>) {
        let mut missing = count;
        while missing > 0 {
            let roomiest = self.clusters.iter_mut().max_by_key(|(_, cluster)| cluster.free);
            let (number, cluster) = roomiest.expect("more slots were promised than are claimed");
            let from = missing.min(usize::from(cluster.free));
            assert_ne!(from, 0, "more slots were promised than are claimed");
            self.empty -= u32::from(cluster.is_empty());
            take_bits(&mut cluster.taken, *number as usize * CLUSTER_SLOTS, from, slots);
            cluster.free -= from as u16;
            missing -= from;
        }
        self.available -= count as u32;
        self.taken += count as u32;
    }

    /// Frees a slot. One that the parent had is only forgotten.
    fn release(&mut self, slot: u32) {
        let (number, index) = (slot / CLUSTER_SLOTS as u32, slot as usize % CLUSTER_SLOTS);
        let Some(cluster) = self.clusters.get_mut(&number) else { return };
        let bit = 1 << (index % 64);
        debug_assert_ne!(
            cluster.taken[index / 64] & !cluster.dead[index / 64] & bit,
            0,
            "freed twice: {slot}"
        );
        self.taken -= 1;
        if cluster.is_frozen {
            cluster.dead[index / 64] |= bit;
        } else {
            cluster.taken[index / 64] &= !bit;
            cluster.free += 1;
            self.available += 1;
            self.empty += u32::from(cluster.is_empty());
        }
    }

    /// A child may read what is in our clusters from now on.
    pub(super) fn freeze(&mut self) {
        self.clusters.values_mut().for_each(|cluster| cluster.is_frozen = true);
        self.has_frozen = true;
    }

    /// None of the clusters is ours any more: they are the parent's.
    pub(super) fn leave_to_parent(&mut self) {
        self.clusters.clear();
        (self.available, self.taken, self.empty) = (0, 0, 0);
        self.has_frozen = false;
    }

    /// Uses frozen clusters again, when no heir is left.
    pub(super) fn thaw(&mut self) {
        if !self.has_frozen || self.claims.has_heirs() {
            return;
        }
        self.has_frozen = false;
        for cluster in self.clusters.values_mut() {
            cluster.is_frozen = false;
            self.empty -= u32::from(cluster.is_empty());
            for (taken, dead) in cluster.taken.iter_mut().zip(&mut cluster.dead) {
                let freed = std::mem::take(dead);
                *taken &= !freed;
                cluster.free += freed.count_ones() as u16;
                self.available += freed.count_ones();
            }
            self.empty += u32::from(cluster.is_empty());
        }
    }

    /// Gives empty clusters back, as long as `keep` slots stay available.
    pub(super) fn shed(&mut self, keep: u32) {
        let can_spare = |available: u32| available >= keep + CLUSTER_SLOTS as u32;
        if self.empty == 0 || !can_spare(self.available) {
            return;
        }
        self.clusters.retain(|number, cluster| {
            let goes = cluster.is_empty() && can_spare(self.available);
            if goes {
                self.available -= CLUSTER_SLOTS as u32;
                self.empty -= 1;
                self.claims.release(*number);
            }
            !goes
        });
    }

    /// Gives every cluster back that no heir can read.
    pub(super) fn give_up(&mut self) {
        self.thaw();
        self.clusters.retain(|number, cluster| {
            if !cluster.is_frozen {
                self.claims.release(*number);
            }
            cluster.is_frozen
        });
        (self.available, self.taken, self.empty) = (0, 0, 0);
    }

    /// Slots that hold pages of this process, in its own clusters.
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// Checks the invariants.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let count = |words: &[u64; CLUSTER_WORDS]| words.iter().map(|word| word.count_ones()).sum::<u32>();
        let all = || self.clusters.values();
        for cluster in all() {
            assert_eq!(u32::from(cluster.free), CLUSTER_SLOTS as u32 - count(&cluster.taken));
            assert!(cluster.taken.iter().zip(&cluster.dead).all(|(taken, dead)| dead & !taken == 0));
            assert!(self.has_frozen || !cluster.is_frozen && count(&cluster.dead) == 0);
        }
        assert_eq!(self.available, all().map(|cluster| u32::from(cluster.free)).sum());
        assert_eq!(self.taken, all().map(|cluster| count(&cluster.taken) - count(&cluster.dead)).sum());
        assert_eq!(self.empty as usize, all().filter(|cluster| cluster.is_empty()).count());
    }
}

/// The slots of a file: all of it is ours, or it is shared.
pub(super) enum Slots {
    Own(SlotMap),
    Shared(ClaimedSlots),
}

impl Slots {
    /// Slots that can be handed out now.
    pub(super) fn available(&self) -> u32 {
        match self {
            Slots::Own(map) => map.available(),
            Slots::Shared(claimed) => claimed.available,
        }
    }

    /// Whether `count` slots can be handed out, after claiming what is needed for that.
    pub(super) fn ensure(&mut self, count: u32) -> bool {
        match self {
            Slots::Own(map) => count <= map.available(),
            Slots::Shared(claimed) => claimed.ensure(count),
        }
    }

    /// Takes `count` slots and appends them to `slots`. The caller has seen that so many are available.
    pub(super) fn take(&mut self, count: usize, slots: &mut Vec<u32>) {
        match self {
            Slots::Own(map) => map.take(count, slots),
            Slots::Shared(claimed) => claimed.take(count, slots),
        }
    }

    /// Makes a taken slot free again.
    pub(super) fn release(&mut self, slot: u32) {
        match self {
            Slots::Own(map) => map.release(slot),
            Slots::Shared(claimed) => claimed.release(slot),
        }
    }

    /// Slots at or above this number do not belong to the file.
    pub(super) fn ceiling(&self) -> u32 {
        match self {
            Slots::Own(map) => map.ceiling(),
            Slots::Shared(claimed) => claimed.claims.clusters() * CLUSTER_SLOTS as u32,
        }
    }

    /// The map of a file that is all ours: only such a file becomes shorter and longer.
    pub(super) fn own(&mut self) -> Option<&mut SlotMap> {
        match self {
            Slots::Own(map) => Some(map),
            Slots::Shared(_) => None,
        }
    }

    /// What is ours of a file that is shared.
    pub(super) fn shared(&mut self) -> Option<&mut ClaimedSlots> {
        match self {
            Slots::Own(_) => None,
            Slots::Shared(claimed) => Some(claimed),
        }
    }

    /// Bytes that all of this takes.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Slots::Own(map) => map.bytes(),
            Slots::Shared(claimed) => claimed.clusters.len() as u64 * CLUSTER_RECORD_BYTES,
        }
    }
}
