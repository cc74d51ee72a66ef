//! The lock of one key: two bits of the entry's own word, so that a lock costs no memory.
//!
//! Who holds it may do I/O: only that key waits (rule B9). A waiter spins for a moment, then sleeps
//! on a lot that it shares with other keys. Lock order: a thread that holds a key may *try* another
//! key, never wait for one.

#[cfg(loom)]
use loom::sync::{
    Condvar, Mutex,
    atomic::{AtomicU32, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Condvar, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

/// Somebody holds the key.
const LOCKED: u32 = 1;
/// Somebody may sleep until the key is free.
const WAITERS: u32 = 2;
/// The bits of the word that belong to the lock.
pub const LOCK_BITS: u32 = LOCKED | WAITERS;

/// How often a waiter looks before it sleeps: about as long as decompressing a page takes.
const SPIN_LOOKS_MAX: u32 = if cfg!(loom) { 0 } else { 200 };

/// Where waiters of many keys sleep.
#[derive(Debug, Default)]
pub struct ParkingLot {
    sleepers: Mutex<()>,
    freed: Condvar,
}

impl ParkingLot {
    fn lock_sleepers(&self) -> impl Drop + use<'_> {
        #[cfg(loom)]
        return self.sleepers.lock().unwrap();
        #[cfg(not(loom))]
        return self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
    }
}

/// Takes the lock in `word`, waiting for it; returns the payload bits.
pub fn lock(word: &AtomicU32, lot: &ParkingLot) -> u32 {
    let mut looks = 0;
    loop {
        if let Some(payload) = try_lock(word) {
            return payload;
        }
        looks += 1;
        if looks > SPIN_LOOKS_MAX {
            return lock_asleep(word, lot);
        }
        std::hint::spin_loop();
    }
}

/// Takes the lock in `word` if it is free; returns the payload bits.
pub fn try_lock(word: &AtomicU32) -> Option<u32> {
    if word.load(Ordering::Relaxed) & LOCKED != 0 {
        return None;
    }
    let before = word.fetch_or(LOCKED, Ordering::Acquire);
    (before & LOCKED == 0).then_some(before & !LOCK_BITS)
}

/// The payload bits of `word`, unless somebody holds the lock.
pub fn peek(word: &AtomicU32) -> Option<u32> {
    let seen = word.load(Ordering::Acquire);
    (seen & LOCKED == 0).then_some(seen & !LOCK_BITS)
}

#[cold]
fn lock_asleep(word: &AtomicU32, lot: &ParkingLot) -> u32 {
    #[cfg(loom)]
    let mut sleepers = lot.sleepers.lock().unwrap();
    #[cfg(not(loom))]
    let mut sleepers = lot.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        // The WAITERS bit is set under the lot's mutex, and the one who unlocks takes that mutex
        // before it wakes: it cannot pass between our look and our sleep.
        let before = word.fetch_or(LOCKED | WAITERS, Ordering::Acquire);
        if before & LOCKED == 0 {
            return before & !LOCK_BITS;
        }
        #[cfg(loom)]
        {
            sleepers = lot.freed.wait(sleepers).unwrap();
        }
        #[cfg(not(loom))]
        {
            sleepers = lot.freed.wait(sleepers).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Frees the lock in `word` and leaves `payload`, whose lock bits must be clear, in it.
pub fn unlock(word: &AtomicU32, payload: u32, lot: &ParkingLot) {
    debug_assert_eq!(payload & LOCK_BITS, 0);
    let before = word.swap(payload, Ordering::Release);
    debug_assert_ne!(before & LOCKED, 0, "unlocked what was not locked");
    if before & WAITERS != 0 {
        drop(lot.lock_sleepers());
        lot.freed.notify_all();
    }
}

#[cfg(all(test, loom))]
mod model {
    //! Every interleaving of a few threads on one key, by loom.

    use super::*;
    use loom::{sync::Arc, thread};

    /// The word's payload and a second word that only the holder touches, as a table entry has them.
    struct Entry {
        word: AtomicU32,
        rest: AtomicU32,
        lot: ParkingLot,
    }

    fn bump(entry: &Entry) {
        let payload = lock(&entry.word, &entry.lot);
        let rest = entry.rest.load(Ordering::Relaxed);
        assert_eq!(payload >> 2, rest, "a torn entry was seen");
        entry.rest.store(rest + 1, Ordering::Relaxed);
        unlock(&entry.word, payload + 4, &entry.lot);
    }

    #[test]
    fn holders_exclude_each_other_and_nobody_sleeps_for_ever() {
        loom::model(|| {
            let entry = Arc::new(Entry {
                word: AtomicU32::new(0),
                rest: AtomicU32::new(0),
                lot: ParkingLot::default(),
            });
            let other = entry.clone();
            let thread = thread::spawn(move || bump(&other));
            bump(&entry);
            thread.join().unwrap();
            assert_eq!(entry.word.load(Ordering::Relaxed), 2 << 2);
        });
    }

    #[test]
    fn a_try_never_waits_and_never_tears() {
        loom::model(|| {
            let entry = Arc::new(Entry {
                word: AtomicU32::new(0),
                rest: AtomicU32::new(0),
                lot: ParkingLot::default(),
            });
            let other = entry.clone();
            let thread = thread::spawn(move || bump(&other));
            if let Some(payload) = try_lock(&entry.word) {
                let rest = entry.rest.load(Ordering::Relaxed);
                assert_eq!(payload >> 2, rest);
                entry.rest.store(rest + 1, Ordering::Relaxed);
                unlock(&entry.word, payload + 4, &entry.lot);
            }
            thread.join().unwrap();
            let count = entry.word.load(Ordering::Relaxed) >> 2;
            assert!(count == 1 || count == 2);
        });
    }

    #[test]
    fn three_waiters_are_all_woken() {
        loom::model(|| {
            let entry = Arc::new(Entry {
                word: AtomicU32::new(0),
                rest: AtomicU32::new(0),
                lot: ParkingLot::default(),
            });
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let other = entry.clone();
                    thread::spawn(move || bump(&other))
                })
                .collect();
            bump(&entry);
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(entry.rest.load(Ordering::Relaxed), 3);
        });
    }
}
