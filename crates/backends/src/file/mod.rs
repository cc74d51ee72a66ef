//! `file`, the slow swap: pages in a file without a name, on a disk.
//!
//! A store copies the page into a batch in RAM and returns; two writer threads write full batches, a
//! cluster at a time. Loads read one page, directly into memory of ours. The disk space is reserved
//! when the backend is created, so that an accepted page always finds room. The chain calls it, as
//! its last backend.
//!
//! In a process that must have no threads of ours, whoever calls writes: `maintain`, and a store that
//! finds no spare batch. Processes of a tree may share one file: see `claims.rs`.
//!
//! It keeps nothing beyond the process, evicts nothing, and puts no shared lock across I/O.
//! Lock order: housekeeping, an entry of the table, `State`, a buffer; each may be skipped. A thread
//! that waits for a batch to become spare holds none of them.

mod claims;
mod io;
mod shared;
mod slots;
mod staging;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use frontswap::{
    Answer, Area, Backend, Bytes, Description, Error, ForkSide, Key, Kind, Loaded, Page, Pages, Reject, Usage,
};
use rustix::fd::OwnedFd;

pub use claims::{CLUSTER_BYTES, ClusterClaims};

use claims::{ClaimedSlots, Slots};
use io::{AlignedPage, Fault, PageFile, place_error};
use shared::{Location, Shared};
use slots::{SLOTS_MAX, SlotMap};
use staging::{Admission, Position};
use writer::{WRITERS, await_spare, write_batches, write_queued};

/// The slow swap.
///
/// ```
/// use frontswap::{Answer, Area, Backend, Bytes, Key, Loaded, Page, Pages};
/// use frontswap_backends::SwapFile;
///
/// let file = SwapFile::create(&std::env::temp_dir(), Bytes(8 << 20), false)?;
/// file.init(Area(0), Pages(1000))?;
/// assert_eq!(file.store(Key::new(0, 17), &Page::filled_with(7))?, Answer::Accepted);
/// let mut out = Page::ZERO;
/// assert_eq!(file.load(Key::new(0, 17), &mut out)?, Loaded::Loaded);
/// assert_eq!(out, Page::filled_with(7));
/// # Ok::<(), frontswap::Error>(())
/// ```
pub struct SwapFile {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
    /// Threads do not survive a fork: only this process can join them.
    creator: AtomicU32,
}

impl SwapFile {
    /// Creates a swap file of `size` bytes, rounded down to whole pages, in `directory`, and starts
    /// its writers. With `direct` it bypasses the page cache.
    ///
    /// # Errors
    /// `CapacityInvalid` for less than a page or more than 1 TiB; `SwapFileOpen`, `SwapFileSpace` or
    /// `SwapFileDirect` for a place that cannot hold it. Nothing is left behind.
    pub fn create(directory: &Path, size: Bytes, direct: bool) -> Result<SwapFile, Error> {
        let mut swap = SwapFile::create_with(directory, size, direct, true)?;
        for _ in 0..WRITERS {
            let shared = Arc::clone(&swap.shared);
            let thread = std::thread::Builder::new().name("frontswap-file".to_owned());
            let thread = thread.spawn(move || write_batches(&shared)).map_err(|error| {
                let reason = format!("cannot start a writer thread: {error}");
                place_error(Kind::SwapFileOpen, directory, &reason).with_errno(error.raw_os_error())
            })?;
            swap.writers.push(thread);
        }
        Ok(swap)
    }

    /// Like [`SwapFile::create`], but starts no threads: [`Backend::maintain`] writes one batch whenever
    /// it is called, and a store writes one itself when none is spare.
    ///
    /// # Errors
    /// Those of [`SwapFile::create`].
    pub fn create_without_writers(directory: &Path, size: Bytes, direct: bool) -> Result<SwapFile, Error> {
        SwapFile::create_with(directory, size, direct, false)
    }

    /// A file that several processes share: somebody has opened it and reserved its space, and `claims`
    /// says which clusters are for whom. Starts no threads, as [`SwapFile::create_without_writers`].
    ///
    /// # Errors
    /// `CapacityInvalid` for a file without a cluster, or above 1 TiB.
    pub fn shared(file: OwnedFd, claims: Arc<dyn ClusterClaims>) -> Result<SwapFile, Error> {
        let name = "file".to_owned();
        slots_of(&name, Bytes(u64::from(claims.clusters()) * CLUSTER_BYTES))?;
        let slots = Slots::Shared(ClaimedSlots::new(claims));
        Ok(SwapFile::new(Shared::new(PageFile::shared(file), name, slots, false)))
    }

    fn create_with(directory: &Path, size: Bytes, direct: bool, has_writers: bool) -> Result<Self, Error> {
        let name = format!("file:{}", directory.display());
        let slots = slots_of(&name, size)?;
        let file = PageFile::create(directory, slots, direct)?;
        Ok(SwapFile::new(Shared::new(file, name, Slots::Own(SlotMap::new(slots)), has_writers)))
    }

    fn new(shared: Shared) -> Self {
        let creator = AtomicU32::new(std::process::id());
        SwapFile { shared: Arc::new(shared), writers: Vec::new(), creator }
    }
}

/// Opens a file without a name in `directory` and reserves `size` bytes for it: for [`SwapFile::shared`],
/// in this process and in others.
///
/// # Errors
/// Those of [`SwapFile::create`].
pub fn create_file(directory: &Path, size: Bytes, direct: bool) -> Result<OwnedFd, Error> {
    let name = format!("file:{}", directory.display());
    Ok(PageFile::create(directory, slots_of(&name, size)?, direct)?.into_file())
}

impl Drop for SwapFile {
    /// Stops the writers. What is staged need not be written: the file goes with us. In the child of
    /// a fork there are no writers, and a lock may be held for ever by a thread that is not there:
    /// then everything is left as it is.
    fn drop(&mut self) {
        if std::process::id() != *self.creator.get_mut() {
            self.writers.drain(..).for_each(std::mem::forget);
            return;
        }
        self.shared.lock_state().is_stopping = true;
        self.shared.work.notify_all();
        for writer in self.writers.drain(..) {
            // A writer that panicked has said so already, and has broken the backend.
            let _ = writer.join();
        }
        if let Some(claimed) = self.shared.lock_state().slots.shared() {
            claimed.give_up();
        }
    }
}

/// The whole pages in `size`, as a number of slots.
fn slots_of(name: &str, size: Bytes) -> Result<u32, Error> {
    let reason = match size.pages().0 {
        0 => "it must be at least one page of 4096 bytes".to_owned(),
        1..=SLOTS_MAX => return Ok(size.pages().0 as u32),
        _ => format!("a swap file has at most {}", Pages(SLOTS_MAX).bytes()),
    };
    Err(capacity_error(name, size, &reason))
}

fn capacity_error(name: &str, capacity: Bytes, reason: &str) -> Error {
    let fields: [(&'static str, &dyn std::fmt::Display); 3] =
        [("backend", &name), ("capacity", &capacity), ("reason", &reason)];
    Error::new(Kind::CapacityInvalid, &fields)
}

impl Backend for SwapFile {
    fn init(&self, area: Area, _pages: Pages) -> Result<(), Error> {
        self.shared.areas.insert(area);
        Ok(())
    }

    /// # Cost
    /// One copy and one short mutex. Waits for the disk when every batch is queued or being written;
    /// without writers, that is to write one.
    fn store(&self, key: Key, page: &Page) -> Result<Answer, Error> {
        let shared = &*self.shared;
        loop {
            let known = shared.table.lock_existing(key);
            if known.is_none() {
                // So that the table does not grow by pages that are not taken.
                if let Some(refusal) = shared.refusal(key.area) {
                    return Ok(refusal);
                }
            }
            let mut entry = known.unwrap_or_else(|| shared.table.lock(key));
            shared.forget(&mut entry);
            if !shared.areas.contains(key.area) {
                return Ok(Answer::Rejected(Reject::NoArea));
            }
            let mut state = shared.lock_state();
            match state.admit() {
                Admission::Room => {
                    shared.stage(state, &mut entry, &page.0);
                    return Ok(Answer::Accepted);
                }
                Admission::Full => return Ok(shared.reject_full()),
                Admission::Broken => return Err(shared.broken_error(&state)),
                Admission::Later => {
                    // A writer may need this entry to finish what is waited for.
                    drop(entry);
                    await_spare(shared, state);
                }
            }
        }
    }

    /// # Cost
    /// One read of the disk, or one copy while the page is staged.
    ///
    /// # Locks
    /// The entry is held across the read: only this key waits, and housekeeping cannot move the page.
    fn load(&self, key: Key, out: &mut Page) -> Result<Loaded, Error> {
        let Some(entry) = self.shared.table.lock_existing(key) else { return Ok(Loaded::Missing) };
        match Location::of(&entry) {
            None => return Ok(Loaded::Missing),
            Some(Location::Staged(Position { batch, index })) => {
                let buffer = self.shared.buffer(batch);
                out.0.copy_from_slice(buffer.pages(index..index + 1));
            }
            Some(Location::Slot(slot)) => {
                let mut page = AlignedPage::ZERO;
                self.shared.read(slot, &mut page).map_err(|fault| {
                    let reason = format!("cannot read slot `{slot}`: {}", fault.reason);
                    Error::new(
                        Kind::PageUnreadable,
                        &[
                            ("backend", &self.shared.name),
                            ("area", &key.area),
                            ("offset", &key.offset),
                            ("reason", &reason),
                        ],
                    )
                    .with_errno(fault.errno)
                })?;
                out.0.copy_from_slice(&page.0);
            }
        }
        Ok(Loaded::Loaded)
    }

    fn invalidate_page(&self, key: Key) {
        if let Some(mut entry) = self.shared.table.lock_existing(key) {
            self.shared.forget(&mut entry);
        }
    }

    fn invalidate_area(&self, area: Area) {
        // First the bit, then every entry: a store looks at the bit while it holds its entry, so that
        // it is either refused or waited for.
        self.shared.areas.remove(area);
        self.shared.table.for_each_in_area(area, |_, entry| self.shared.forget(entry));
    }

    fn describe(&self) -> Description {
        Description {
            kind: "file".to_owned(),
            place: self.shared.file.place().display().to_string(),
            is_volatile: false,
            is_slow: true,
        }
    }

    fn usage(&self) -> Usage {
        let shared = &*self.shared;
        let stored = Pages(shared.table.live()).bytes();
        let (capacity, claimed) = {
            let mut state = shared.lock_state();
            let claimed = state.slots.shared().map(|claimed| Pages(u64::from(claimed.taken())).bytes());
            (Pages(u64::from(state.capacity)).bytes(), claimed)
        };
        let excess = Bytes(stored.0.saturating_sub(capacity.0));
        Usage {
            stored_pages: stored.pages(),
            compr_data_size: stored,
            mem_used_total: Bytes(shared.memory_bytes()),
            // In a file that is shared, every process counts what is its own.
            disk_used_total: claimed.unwrap_or(stored),
            mem_limit: capacity,
            pool_limit_hit: shared.counts.pool_limit_hit.load(Ordering::Relaxed),
            pressure: excess,
            excess,
        }
    }

    /// A larger capacity is reserved on the disk first. A smaller one counts at once; `maintain` then
    /// moves pages down in the file and gives the rest of it back.
    fn set_capacity(&self, capacity: Bytes) -> Result<(), Error> {
        let shared = &*self.shared;
        let slots = slots_of(&shared.name, capacity)?;
        let _space = shared.housekeeping.lock().unwrap_or_else(PoisonError::into_inner);
        if slots <= shared.lock_state().slots.ceiling() {
            shared.lock_state().capacity = slots;
            shared.lower_ceiling();
            return Ok(());
        }
        if shared.lock_state().slots.own().is_none() {
            return Err(capacity_error(&shared.name, capacity, "the file belongs to several processes"));
        }
        let reserved = shared.file.reserve(slots);
        let mut state = shared.lock_state();
        let map = state.slots.own().expect("a file stays what it is");
        if reserved.is_ok() {
            map.set_ceiling(slots);
            state.capacity = slots;
            shared.space.notify_all();
        } else {
            map.mark_tail_stale();
        }
        reserved
    }

    /// Any keys: what is here is cold already, and the next call goes on where this one stopped.
    fn coldest(&self, want: usize, victims: &mut Vec<Key>) {
        if want == 0 {
            return;
        }
        let enough = victims.len() + want;
        let mut hand = self.shared.coldest.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.walk(&mut hand, |entry| {
            victims.push(entry.key());
            victims.len() < enough
        });
    }

    fn maintain(&self) -> bool {
        let shared = &*self.shared;
        let mut hand = shared.housekeeping.lock().unwrap_or_else(PoisonError::into_inner);
        shared.lower_ceiling();
        let has_written = !shared.has_writers && write_queued(shared);
        let moved = shared.move_tail(&mut hand);
        let has_stale = shared.give_back();
        shared.trim();
        if has_written || moved > 0 || has_stale {
            return true;
        }
        shared.give_back_spare();
        false
    }

    /// After it, a file that is shared is used on both sides. Any other is the parent's alone: the child
    /// stores nothing there, and what it loads may have been overwritten, which its checksum tells.
    fn forked(&self, side: ForkSide) {
        if !self.writers.is_empty() {
            // The child has none of the threads, and perhaps a lock that one of them held.
            return;
        }
        let mut state = self.shared.lock_state();
        let claimed = state.slots.shared();
        if side == ForkSide::Parent {
            claimed.into_iter().for_each(ClaimedSlots::freeze);
            return;
        }
        self.creator.store(std::process::id(), Ordering::Relaxed);
        if let Some(claimed) = claimed {
            claimed.leave_to_parent();
            return;
        }
        drop(state);
        let reason = "the file belongs to the process that forked".to_owned();
        self.shared.break_down(Fault { reason, errno: None });
    }

    fn details(&self) -> Vec<(&'static str, u64)> {
        let counts = &self.shared.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        vec![
            ("staged_pages", self.shared.lock_state().staged_pages()),
            ("clusters_written", read(&counts.clusters_written)),
            ("runs_written", read(&counts.runs_written)),
            ("pages_written", read(&counts.pages_written)),
            ("pages_read", read(&counts.pages_read)),
            ("pages_moved", read(&counts.pages_moved)),
        ]
    }
}
