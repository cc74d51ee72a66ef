//! The writer threads: they take full batches, write them to the disk, and make the entries of their
//! pages name slots. They hold no lock that anybody waits for while the disk works.

use std::io::IoSlice;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::io::Fault;
use super::shared::{Location, Shared};
use super::staging::{BATCH_PAGES, Flushed, Position};

/// Writes in flight. With one the disk idles between two writes and takes a third less; three are no
/// faster than two.
pub(super) const WRITERS: usize = 2;

/// Breaks the backend when a writer panics, so that nobody waits for it.
struct BreakOnPanic<'a>(&'a Shared);

impl Drop for BreakOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.break_down(Fault { reason: "a writer thread panicked".to_owned(), errno: None });
        }
    }
}

/// The life of a writer thread. After a failed write the pages of its batch stay staged: they load.
pub(super) fn write_batches(shared: &Shared) {
    let _guard = BreakOnPanic(shared);
    let mut pages = Vec::with_capacity(BATCH_PAGES);
    let mut slots = Vec::with_capacity(BATCH_PAGES);
    while let Some(batch) = next_batch(shared, &mut pages, &mut slots) {
        if let Err(fault) = write_batch(shared, batch, &pages) {
            let reason = format!("cannot write to the swap file: {}", fault.reason);
            return shared.break_down(Fault { reason, ..fault });
        }
        settle(shared, batch, &mut pages);
    }
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
