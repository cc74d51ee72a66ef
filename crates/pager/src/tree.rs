//! What a tree of processes shares: one limit of RAM, one swap file, and what each has counted.
//!
//! It is a memory file that `frontswap run` makes and every process of the tree maps. Whoever is killed
//! leaves a member's record behind; the next to look for one clears it up. Nothing here is locked: a
//! process that is stopped at any instruction stops nobody else.
//!
//! Sizes are fixed by the constants below and written at the head; all words are of 64 or 32 bits in the
//! machine's own order. A file with another head is refused.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use frontswap::error::{Error, Kind};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::budget::{Share, Usage};
use crate::counters::{Counters, Latencies};

/// The name of the memory file, by which it is found among a process's descriptors.
pub const NAME: &str = "frontswap-tree";
/// Names the layout: two builds that do not agree on the sizes of records refuse each other.
const MAGIC: u64 =
    u64::from_ne_bytes(*b"fswtree1") ^ ((size_of::<Head>() as u64) << 32) ^ size_of::<Member>() as u64;

/// Processes that a tree can have at a time. One more runs unmanaged.
pub const MEMBERS_MAX: usize = 1024;
const SETTINGS_BYTES: usize = 4096;

/// What is written once, and what changes for the whole tree.
#[repr(C)]
struct Head {
    magic: AtomicU64,
    bytes: AtomicU64,
    limit_bytes: AtomicU64,
    swap_clusters: AtomicU64,
    /// The number of the swap file's descriptor in the supervisor, and the supervisor.
    swap_fd: AtomicU32,
    supervisor: AtomicU32,
    /// The file's device and number there, by which it is known wherever it is opened.
    swap_identity: [AtomicU64; 2],
    /// Grows by one with every process that joins.
    joined: AtomicU32,
    settings_length: AtomicU32,
    settings: [AtomicU32; SETTINGS_BYTES / 4],
    peaks: Peaks,
    ended: Counters,
    latencies: Latencies,
}

/// The most that there ever was of something.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Peaks {
    /// Bytes of RAM used by the tree.
    pub ram_bytes: AtomicU64,
    /// Bytes in RAM and out of it.
    pub managed_bytes: AtomicU64,
    /// Pages in all chains.
    pub stored_pages: AtomicU64,
    /// Bytes of RAM that they took.
    pub mem_used_total: AtomicU64,
    /// Bytes of the swap file that they took.
    pub disk_used_total: AtomicU64,
}

/// One process. Free when `pid` is 0.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Member {
    /// The process.
    pub pid: AtomicU32,
    /// The number that it joined as.
    pub number: AtomicU32,
    /// The number of the process that it and those that it was forked from came from.
    pub lineage: AtomicU32,
    unused: AtomicU32,
    /// Bytes of RAM that it uses.
    pub used_bytes: AtomicU64,
    /// Those of them that are pages of the program.
    pub resident_bytes: AtomicU64,
    /// Bytes of address space that its pager manages.
    pub registered_bytes: AtomicU64,
    /// Pages in its chain.
    pub stored_pages: AtomicU64,
    /// Bytes of RAM that its backends take.
    pub mem_used_total: AtomicU64,
    /// Bytes of the swap file that are taken.
    pub disk_used_total: AtomicU64,
    /// What it has counted.
    pub counters: Counters,
}

/// The mapped memory of a tree.
pub struct Tree {
    file: OwnedFd,
    base: NonNull<Head>,
    length: usize,
}

// SAFETY: all of the memory is atomic words.
unsafe impl Send for Tree {}
// SAFETY: as above.
unsafe impl Sync for Tree {}

const MEMBERS_AT: usize = size_of::<Head>().next_multiple_of(4096);
const CLUSTERS_AT: usize = (MEMBERS_AT + MEMBERS_MAX * size_of::<Member>()).next_multiple_of(4096);

fn identity_of(file: impl AsFd) -> Result<[u64; 2], Errno> {
    rustix::fs::fstat(file).map(|stat| [stat.st_dev, stat.st_ino])
}

fn failed(operation: &str, errno: Errno) -> Error {
    Error::new(Kind::PagerFailed, &[("operation", &operation), ("reason", &errno)])
        .with_errno(Some(errno.raw_os_error()))
}

impl Tree {
    /// Makes a new one, with a swap file of `swap_clusters` clusters that this process has open as
    /// `swap_fd`.
    ///
    /// # Errors
    /// The system has no memory for it, or `settings` are too long.
    pub fn create(limit_bytes: u64, settings: &str, swap: Option<(u32, u32)>) -> Result<Self, Error> {
        let (swap_fd, swap_clusters) = swap.unwrap_or_default();
        if settings.len() > SETTINGS_BYTES {
            return Err(failed("share settings with a process", Errno::TOOBIG));
        }
        let length = (CLUSTERS_AT + swap_clusters as usize * 4).next_multiple_of(4096);
        let file = rustix::fs::memfd_create(NAME, MemfdFlags::ALLOW_SEALING)
            .and_then(|file| rustix::fs::ftruncate(&file, length as u64).map(|()| file))
            .map_err(|errno| failed("make the memory of a tree of processes", errno))?;
        // Nobody can make it shorter under another's feet.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)
            .map_err(|errno| failed("seal the memory of a tree of processes", errno))?;
        let tree = Self::map(file, length)?;
        let head = tree.head();
        head.bytes.store(length as u64, Ordering::Relaxed);
        head.limit_bytes.store(limit_bytes, Ordering::Relaxed);
        head.swap_clusters.store(u64::from(swap_clusters), Ordering::Relaxed);
        head.swap_fd.store(swap_fd, Ordering::Relaxed);
        head.supervisor.store(std::process::id(), Ordering::Relaxed);
        if let Some((fd, _)) = swap {
            // SAFETY: the caller has it open for as long as this process lives.
            let file = unsafe { BorrowedFd::borrow_raw(fd as i32) };
            let identity = identity_of(file).map_err(|errno| failed("look at the swap file", errno))?;
            for (word, part) in head.swap_identity.iter().zip(identity) {
                word.store(part, Ordering::Relaxed);
            }
        }
        for (word, bytes) in head.settings.iter().zip(settings.as_bytes().chunks(4)) {
            let mut four = [0; 4];
            four[..bytes.len()].copy_from_slice(bytes);
            word.store(u32::from_ne_bytes(four), Ordering::Relaxed);
        }
        head.settings_length.store(settings.len() as u32, Ordering::Relaxed);
        head.magic.store(MAGIC, Ordering::Release);
        Ok(tree)
    }

    /// Maps one that another process made.
    ///
    /// # Errors
    /// `file` is none, or one of another version.
    pub fn open(file: OwnedFd) -> Result<Self, Error> {
        let length =
            rustix::fs::fstat(&file).map_err(|errno| failed("look at a tree's memory", errno))?.st_size;
        if (length as usize) < CLUSTERS_AT {
            return Err(failed("join a tree of processes", Errno::INVAL));
        }
        let tree = Self::map(file, length as usize)?;
        let head = tree.head();
        if head.magic.load(Ordering::Acquire) != MAGIC || head.bytes.load(Ordering::Relaxed) != length as u64
        {
            return Err(failed("join a tree of processes", Errno::INVAL));
        }
        Ok(tree)
    }

    fn map(file: OwnedFd, length: usize) -> Result<Self, Error> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of ours; the file is
        // sealed against becoming shorter.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, &file, 0) }
                .map_err(|errno| failed("map the memory of a tree of processes", errno))?;
        let base = NonNull::new(base.cast()).expect("mmap returns no null");
        Ok(Tree { file, base, length })
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping is as long as that, aligned to a page, and all atomic words.
        unsafe { self.base.as_ref() }
    }

    fn part<T>(&self, at: usize, count: usize) -> &[T] {
        debug_assert!(at + count * size_of::<T>() <= self.length);
        // SAFETY: inside the mapping and aligned to a page; only used for structures of atomic words.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast::<u8>().add(at).cast(), count) }
    }

    /// The records of members.
    pub fn members(&self) -> &[Member] {
        self.part(MEMBERS_AT, MEMBERS_MAX)
    }

    /// For each cluster of the swap file the lineage that has it; 0: nobody.
    pub fn clusters(&self) -> &[AtomicU32] {
        self.part(CLUSTERS_AT, self.head().swap_clusters.load(Ordering::Relaxed) as usize)
    }

    /// The memory file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The limit of RAM of the whole tree, in bytes.
    pub fn limit(&self) -> &AtomicU64 {
        &self.head().limit_bytes
    }

    /// What the processes were told, as lines of `key=value`.
    pub fn settings(&self) -> String {
        let head = self.head();
        let length = (head.settings_length.load(Ordering::Relaxed) as usize).min(SETTINGS_BYTES);
        let bytes: Vec<u8> =
            head.settings.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// The process that made it, and the number of the swap file's descriptor there, if there is one.
    pub fn swap_place(&self) -> Option<(u32, u32)> {
        let head = self.head();
        (head.swap_clusters.load(Ordering::Relaxed) > 0)
            .then(|| (head.supervisor.load(Ordering::Relaxed), head.swap_fd.load(Ordering::Relaxed)))
    }

    /// Whether `file` is the tree's swap file. The number of a process that has ended may be another's.
    pub fn is_swap_file(&self, file: impl AsFd) -> bool {
        let known = self.head().swap_identity.each_ref().map(|word| word.load(Ordering::Relaxed));
        identity_of(file) == Ok(known)
    }

    /// The process that made it.
    pub fn supervisor(&self) -> u32 {
        self.head().supervisor.load(Ordering::Relaxed)
    }

    /// Processes that have ever joined.
    pub fn joined(&self) -> u32 {
        self.head().joined.load(Ordering::Relaxed)
    }

    /// The most that there was.
    pub fn peaks(&self) -> &Peaks {
        &self.head().peaks
    }

    /// What processes that have ended had counted.
    pub fn ended(&self) -> &Counters {
        &self.head().ended
    }

    /// How long faults took, in all processes.
    pub fn latencies(&self) -> &Latencies {
        &self.head().latencies
    }

    /// Members that are there: not free.
    pub fn live(&self) -> impl Iterator<Item = &Member> {
        let most = (self.joined() as usize).min(MEMBERS_MAX);
        self.members()[..most].iter().filter(|member| member.pid.load(Ordering::Relaxed) != 0)
    }

    /// Clears up after processes that no longer are.
    pub fn bury(&self) {
        for member in self.live() {
            let pid = member.pid.load(Ordering::Relaxed);
            // One that is joining at this moment has no number of its own yet.
            if pid != u32::MAX && !is_running(pid) {
                self.end(member, pid);
            }
        }
        let taken: Vec<u32> = self.live().map(|member| member.lineage.load(Ordering::Relaxed)).collect();
        for cluster in self.clusters() {
            let lineage = cluster.load(Ordering::Relaxed);
            if lineage != 0 && !taken.contains(&lineage) {
                let _ = cluster.compare_exchange(lineage, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Adds a member's counts to those of the ended, and frees its record, once.
    pub fn end(&self, member: &Member, pid: u32) {
        if member.pid.compare_exchange(pid, u32::MAX, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        for ((_, sum), (_, part)) in self.ended().all().into_iter().zip(member.counters.all()) {
            sum.fetch_add(part.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
        for word in [
            &member.used_bytes,
            &member.resident_bytes,
            &member.registered_bytes,
            &member.stored_pages,
            &member.mem_used_total,
            &member.disk_used_total,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        member.lineage.store(0, Ordering::Relaxed);
        member.pid.store(0, Ordering::Release);
    }

    /// Joins as process `pid`: a new program, or a child of fork of `lineage`. None when there are too many.
    pub fn join(&self, pid: u32, lineage: Option<u32>) -> Option<usize> {
        // The program that this process ran before has been replaced.
        for member in self.live().filter(|member| member.pid.load(Ordering::Relaxed) == pid) {
            self.end(member, pid);
        }
        let number = self.head().joined.fetch_add(1, Ordering::AcqRel) + 1;
        let take = |member: &Member| {
            member.pid.compare_exchange(0, u32::MAX, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let index = self.members().iter().position(take).or_else(|| {
            self.bury();
            self.members().iter().position(take)
        })?;
        let member = &self.members()[index];
        member.number.store(number, Ordering::Relaxed);
        member.lineage.store(lineage.unwrap_or(number), Ordering::Relaxed);
        member.pid.store(pid, Ordering::Release);
        Some(index)
    }

    /// Notes peaks; called now and then by every member.
    pub fn note_peaks(&self) {
        let mut sums = [0; 5];
        for member in self.live() {
            let stored = member.stored_pages.load(Ordering::Relaxed);
            let resident = member.resident_bytes.load(Ordering::Relaxed);
            sums[0] += member.used_bytes.load(Ordering::Relaxed);
            sums[1] += resident + stored * frontswap::page::PAGE_SIZE as u64;
            sums[2] += stored;
            sums[3] += member.mem_used_total.load(Ordering::Relaxed);
            sums[4] += member.disk_used_total.load(Ordering::Relaxed);
        }
        let peaks = self.peaks();
        let words = [
            &peaks.ram_bytes,
            &peaks.managed_bytes,
            &peaks.stored_pages,
            &peaks.mem_used_total,
            &peaks.disk_used_total,
        ];
        for (peak, sum) in words.into_iter().zip(sums) {
            peak.fetch_max(sum, Ordering::Relaxed);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and with `self` its last user goes.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Whether a process is there and has its memory: one that has ended and was not waited for is not.
pub fn is_running(pid: u32) -> bool {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(format!("/proc/{pid}/stat"), flags, rustix::fs::Mode::empty()) else {
        return false;
    };
    let mut text = [0u8; 512];
    let length = rustix::io::read(&file, &mut text).unwrap_or(0);
    // The name may have any characters; the state follows its closing bracket.
    let state = text[..length].iter().rposition(|byte| *byte == b')').and_then(|at| text.get(at + 2));
    !matches!(state, None | Some(b'Z' | b'X'))
}

/// This process's place in a tree: its share of the limit, and its clusters of the swap file.
pub struct Membership {
    tree: Tree,
    index: AtomicU32,
    started: Instant,
    /// Milliseconds from `started` to the last fork, and one more; 0: there was none.
    forked_ms: AtomicU64,
    has_left: AtomicBool,
    buried_ms: AtomicU64,
}

/// A child joins by itself, as soon as it runs. Until then it is counted on.
const CHILD_JOINS_MS: u64 = 10_000;
/// How often a member looks whether the others are still there.
const BURY_MS: u64 = 100;

impl Membership {
    /// Joins `tree`. None when it is full.
    pub fn join(tree: Tree) -> Option<Self> {
        let index = tree.join(std::process::id(), None)?;
        Some(Membership {
            tree,
            index: AtomicU32::new(index as u32),
            started: Instant::now(),
            forked_ms: AtomicU64::new(0),
            has_left: AtomicBool::new(false),
            buried_ms: AtomicU64::new(0),
        })
    }

    /// Joins anew in a child of fork.
    pub fn join_in_child(&self) -> bool {
        let lineage = self.lineage();
        match self.tree.join(std::process::id(), Some(lineage)) {
            Some(index) => {
                self.index.store(index as u32, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }

    /// This process is about to fork.
    pub fn note_fork(&self) {
        self.forked_ms.store(self.clock_ms() + 1, Ordering::Relaxed);
    }

    fn clock_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// This process's record.
    pub fn record(&self) -> &Member {
        &self.tree.members()[self.index.load(Ordering::Relaxed) as usize]
    }

    fn lineage(&self) -> u32 {
        self.record().lineage.load(Ordering::Relaxed)
    }

    /// Leaves the tree: this process ends.
    pub fn leave(&self) {
        // A child of vfork that ends is in the memory of its parent, which goes on.
        if self.record().pid.load(Ordering::Relaxed) != std::process::id() {
            return;
        }
        self.tree.note_peaks();
        // The record may be another's in a moment.
        self.has_left.store(true, Ordering::Relaxed);
        self.tree.end(self.record(), std::process::id());
    }

    /// What a process used that no longer is must not weigh on the others for long.
    fn bury_now_and_then(&self) {
        let now_ms = self.clock_ms();
        let last_ms = self.buried_ms.load(Ordering::Relaxed);
        if now_ms >= last_ms + BURY_MS
            && self.buried_ms.compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.tree.bury();
        }
    }

    /// Takes a cluster of the swap file that nobody has.
    pub fn claim_cluster(&self) -> Option<u32> {
        let lineage = self.lineage();
        let take = || {
            self.tree.clusters().iter().position(|cluster| {
                cluster.compare_exchange(0, lineage, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            })
        };
        let index = take().or_else(|| {
            self.tree.bury();
            take()
        })?;
        Some(index as u32)
    }

    /// Gives a cluster back.
    pub fn release_cluster(&self, cluster: u32) {
        if let Some(word) = self.tree.clusters().get(cluster as usize) {
            let _ = word.compare_exchange(self.lineage(), 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Bytes of RAM that the chains of the others take.
    pub fn others_pool_bytes(&self) -> u64 {
        let mine: *const Member = self.record();
        let others = self.tree.live().filter(|member| !std::ptr::eq(*member, mine));
        others.map(|member| member.mem_used_total.load(Ordering::Relaxed)).sum()
    }

    /// Whether a process lives that was forked from this one, or from one that was.
    pub fn has_heirs(&self) -> bool {
        let forked_ms = self.forked_ms.load(Ordering::Relaxed);
        if forked_ms > 0 && self.clock_ms() < forked_ms + CHILD_JOINS_MS {
            return true;
        }
        let (lineage, number) = (self.lineage(), self.record().number.load(Ordering::Relaxed));
        self.tree.live().any(|member| {
            member.lineage.load(Ordering::Relaxed) == lineage
                && member.number.load(Ordering::Relaxed) > number
                && is_running(member.pid.load(Ordering::Relaxed))
        })
    }
}

impl Share for Membership {
    fn limit_bytes(&self) -> u64 {
        self.tree.limit().load(Ordering::Relaxed)
    }

    fn set_limit_bytes(&self, bytes: u64) {
        self.tree.limit().store(bytes, Ordering::Relaxed);
    }

    fn others_bytes(&self) -> u64 {
        self.bury_now_and_then();
        let mine: *const Member = self.record();
        self.tree
            .live()
            .filter(|member| !std::ptr::eq(*member, mine))
            .map(|member| member.used_bytes.load(Ordering::Relaxed))
            .sum()
    }

    fn has_relatives(&self) -> bool {
        let (mine, lineage): (*const Member, u32) = (self.record(), self.lineage());
        self.tree
            .live()
            .any(|member| !std::ptr::eq(member, mine) && member.lineage.load(Ordering::Relaxed) == lineage)
    }

    fn publish(&self, usage: &Usage) {
        if self.has_left.load(Ordering::Relaxed) {
            return;
        }
        let record = self.record();
        for (word, value) in [
            (&record.used_bytes, usage.used_bytes),
            (&record.resident_bytes, usage.resident_bytes),
            (&record.registered_bytes, usage.registered_bytes),
            (&record.stored_pages, usage.stored_pages),
            (&record.mem_used_total, usage.mem_used_total),
            (&record.disk_used_total, usage.disk_used_total),
        ] {
            word.store(value, Ordering::Relaxed);
        }
        self.tree.note_peaks();
    }

    fn counters(&self) -> &Counters {
        &self.record().counters
    }

    fn latencies(&self) -> &Latencies {
        self.tree.latencies()
    }

    fn pool_limit_bytes(&self) -> Option<u64> {
        None
    }

    fn part_1024(&self) -> u64 {
        let all: u64 = self.tree.live().map(|member| member.resident_bytes.load(Ordering::Relaxed)).sum();
        let mine = self.record().resident_bytes.load(Ordering::Relaxed);
        if all == 0 { 1024 } else { (mine * 1024).div_ceil(all) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let file = rustix::fs::memfd_create("swap", MemfdFlags::CLOEXEC).unwrap();
        let fd = std::os::fd::IntoRawFd::into_raw_fd(file) as u32;
        Tree::create(1 << 30, "codec=lz4\nlevel=3\n", Some((fd, 4))).unwrap()
    }

    #[test]
    fn another_mapping_sees_the_same() {
        let tree = tree();
        let other = Tree::open(tree.file().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(other.settings(), "codec=lz4\nlevel=3\n");
        tree.limit().store(5 << 20, Ordering::Relaxed);
        assert_eq!(other.limit().load(Ordering::Relaxed), 5 << 20);
        let (process, fd) = other.swap_place().unwrap();
        assert_eq!(process, std::process::id());
        let swap = rustix::fs::open(
            format!("/proc/self/fd/{fd}"),
            rustix::fs::OFlags::RDWR,
            rustix::fs::Mode::empty(),
        );
        assert!(other.is_swap_file(swap.unwrap()) && !other.is_swap_file(tree.file()));
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        let file = rustix::fs::memfd_create("other", MemfdFlags::empty()).unwrap();
        rustix::fs::ftruncate(&file, 1 << 20).unwrap();
        assert!(Tree::open(file).is_err());
        let short = rustix::fs::memfd_create("short", MemfdFlags::empty()).unwrap();
        assert!(Tree::open(short).is_err());
    }

    #[test]
    fn a_member_counts_and_what_it_counted_stays() {
        let membership = Membership::join(tree()).unwrap();
        membership.record().counters.faults.store(7, Ordering::Relaxed);
        membership.publish(&Usage { used_bytes: 100 << 20, resident_bytes: 60 << 20, ..Usage::default() });
        membership.leave();
        assert_eq!(membership.tree().ended().faults.load(Ordering::Relaxed), 7);
        assert_eq!(membership.tree().peaks().ram_bytes.load(Ordering::Relaxed), 100 << 20);
        assert_eq!(membership.tree().live().count(), 0);
        assert_eq!(membership.tree().joined(), 1);
    }

    #[test]
    fn clusters_are_had_by_one_and_come_back() {
        let membership = Membership::join(tree()).unwrap();
        let mut taken: Vec<u32> = std::iter::from_fn(|| membership.claim_cluster()).collect();
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2, 3]);
        membership.release_cluster(2);
        assert_eq!(membership.claim_cluster(), Some(2));
        membership.leave();
        membership.tree().bury();
        assert!(membership.tree().clusters().iter().all(|cluster| cluster.load(Ordering::Relaxed) == 0));
    }
}
