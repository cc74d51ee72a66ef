//! Who writes: full batches are taken, written to the disk, and the entries of their pages then name
//! slots. That is the work of two threads, or, without them, of whoever calls. No lock that anybody waits
//! for is held while the disk works.

use std::io::IoSlice;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::io::Fault;
use super::shared::{Location, Shared};
use super::staging::{BATCH_PAGES, Flushed, Position, State};

/// Writes in flight. With one the disk idles between two writes and takes a third less; three are no
/// faster than two.
pub(super) const WRITERS: usize = 2;

/// Breaks the backend when a thread that writes panics, so that nobody waits for it.
struct BreakOnPanic<'a>(&'a Shared);

impl Drop for BreakOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.break_down(Fault { reason: "a thread that writes panicked".to_owned(), errno: None });
        }
    }
}

/// The life of a writer thread. After a failed write the pages of its batch stay staged: they load.
pub(super) fn write_batches(shared: &Shared) {
    let _guard = BreakOnPanic(shared);
    let mut pages = Vec::with_capacity(BATCH_PAGES);
    let mut slots = Vec::with_capacity(BATCH_PAGES);
    while let Some(batch) = next_batch(shared, &mut pages, &mut slots) {
        if !finish_batch(shared, batch, &mut pages) {
            return;
        }
    }
}

/// For the owner of a file without writers: writes one batch, if one is queued and there are slots for
/// it. True when one was written.
pub(super) fn write_queued(shared: &Shared) -> bool {
    let mut state = shared.lock_state();
    if state.broken.is_some() {
        return false;
    }
    let (mut pages, mut slots) = (Vec::new(), Vec::new());
    let Some(batch) = state.begin_flush(&mut pages, &mut slots) else { return false };
    drop(state);
    let _guard = BreakOnPanic(shared);
    finish_batch(shared, batch, &mut pages)
}

/// For a store that finds no spare batch, and holds no entry: waits for a writer, or writes one itself
/// where there are none.
pub(super) fn await_spare(shared: &Shared, mut state: MutexGuard<'_, State>) {
    if !shared.has_writers {
        let (mut pages, mut slots) = (Vec::new(), Vec::new());
        if let Some(batch) = state.begin_flush(&mut pages, &mut slots) {
            drop(state);
            let _guard = BreakOnPanic(shared);
            finish_batch(shared, batch, &mut pages);
            return;
        }
        // The store was to come later, not refused: so other threads are writing all that was queued.
    }
    drop(shared.space.wait(state).unwrap_or_else(PoisonError::into_inner));
}

/// Writes a batch whose flush has begun, and ends the flush. False when the write failed: the backend is
/// broken then.
fn finish_batch(shared: &Shared, batch: usize, pages: &mut Vec<Flushed>) -> bool {
    if let Err(fault) = write_batch(shared, batch, pages) {
        let reason = format!("cannot write to the swap file: {}", fault.reason);
        shared.break_down(Fault { reason, ..fault });
        return false;
    }
    settle(shared, batch, pages);
    true
}

/// Waits for a batch, or for the end.
fn next_batch(shared: &Shared, pages: &mut Vec<Flushed>, slots: &mut Vec<u32>) -> Option<usize> {
    let mut state = shared.lock_state();
    loop {
        if state.is_stopping || state.broken.is_some() {
            return None;
        }
        if let Some(batch) = state.begin_flush(pages, slots) {
            return Some(batch);
        }
        state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Writes each run of neighbouring slots by one call, gathering its pages from the buffer.
fn write_batch(shared: &Shared, batch: usize, pages: &[Flushed]) -> Result<(), Fault> {
    let buffer = shared.buffer(batch);
    for run in pages.chunk_by(|page, next| page.slot + 1 == next.slot) {
        let mut parts = [IoSlice::new(&[]); BATCH_PAGES];
        let mut count = 0;
        for piece in run.chunk_by(|page, next| page.index + 1 == next.index) {
            let first = piece[0].index;
            parts[count] = IoSlice::new(buffer.pages(first..first + piece.len()));
            count += 1;
        }
        shared.file.write(run[0].slot, &mut parts[..count])?;
        shared.counts.runs_written.fetch_add(1, Ordering::Relaxed);
    }
    shared.counts.pages_written.fetch_add(pages.len() as u64, Ordering::Relaxed);
    shared.counts.clusters_written.fetch_add(u64::from(!pages.is_empty()), Ordering::Relaxed);
    Ok(())
}

/// Makes the entries name the slots, and frees the slots of pages that were forgotten meanwhile. An
/// entry that still names the position is this very page: a newer copy has another position.
fn settle(shared: &Shared, batch: usize, pages: &mut Vec<Flushed>) {
    pages.retain(|page| {
        let staged = Location::Staged(Position { batch, index: page.index });
        match shared.table.lock_existing(page.key) {
            Some(mut entry) if Location::of(&entry) == Some(staged) => {
                entry.set([Location::Slot(page.slot).word()]);
                false
            }
            _ => true,
        }
    });
    shared.lock_state().finish_flush(batch, pages);
    shared.space.notify_all();
}
