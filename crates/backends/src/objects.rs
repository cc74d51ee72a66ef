//! Where compressed pages lie: slots of size classes in spans of an arena.
//!
//! A span belongs to one class, and all its slots are of that size. A class with little in it has
//! spans of 16 KiB, one with more has spans of 64 KiB, so that a small pool is not all beginnings;
//! one with a lot in it has two lanes, so that processors do not take each other's slots. Classes are
//! 3 % apart, or as close as whole slots in 64 KiB allow. A store takes the last opened span, so that
//! nearly full spans fill up and emptier ones drain; what fragmentation stays, [`Objects::evacuees`]
//! finds and the owner moves. Empty spans go back to the system.
//!
//! Invariants: slots free + slots used = slots, in every span, and no span in a class is empty;
//! `lane.slots` and `lane.used` are the sums over its spans.
//! Lock order: one lane, then the spans that are in none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use frontswap::error::Error;
use frontswap::page::PAGE_SIZE;
use rustc_hash::FxHashMap;

use crate::spans::{LARGE_BYTES, LARGE_UNITS, RECORD_BYTES, Spans, UNIT_BYTES};

/// A class with this much in it grows by large spans: a beginning is then at most an eighth of it.
const LARGE_FROM_BYTES: u64 = 512 << 10;
/// A class with this much in it has two lanes: another beginning is then at most 2 % of it.
const LANES_FROM_BYTES: u64 = 4 << 20;
const LANES: usize = 2;
/// The smallest slot. lz4 makes no page shorter than 30 bytes.
const SLOT_BYTES_MIN: usize = 64;
/// Classes are at least this far apart, in percent.
const CLASS_STEP_PERCENT: usize = 3;
/// How many larger classes a store looks at when its own is full and there is no new span.
const CLASS_OVERSHOOT_MAX: usize = 12;

/// Where an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The first unit of its span.
    pub span: u32,
    /// Which slot of the span.
    pub slot: u16,
    /// The lane that the span is in: twice the number of the class, and which of its two.
    pub lane: u8,
}

/// Spans to be emptied, with their class.
pub type Evacuees = FxHashMap<u32, u8>;

struct Span {
    /// One bit for every free slot.
    free: Box<[u64]>,
    slots: u32,
    used: u32,
    units: u32,
    /// Where it is in its class's list of open spans.
    open_at: Option<u32>,
    is_evacuating: bool,
}

const _: () =
    assert!(size_of::<(u32, Span)>() + 16 <= RECORD_BYTES, "a record, and a bitmap of mostly one word");

/// One lane of one class.
#[derive(Default)]
struct Lane {
    spans: FxHashMap<u32, Span>,
    /// Spans with a free slot, the one to take from last.
    open: Vec<u32>,
    slots: usize,
    used: usize,
}

/// The slots.
pub struct Objects {
    /// The memory.
    pub spans: Spans,
    sizes: Vec<usize>,
    /// Class by object length, in steps of 8 bytes.
    class_of: Vec<u8>,
    /// Two lanes for every class.
    lanes: Box<[Mutex<Lane>]>,
    /// Bytes of the spans of every class, which change seldom.
    class_bytes: Box<[AtomicU64]>,
    /// Bytes of the objects in every lane.
    object_bytes: Box<[AtomicU64]>,
}

impl Objects {
    /// Room for objects in at most `bytes` of memory, none of which is taken yet; `inherit` as for
    /// [`crate::arena::Arena::reserve`].
    ///
    /// # Errors
    /// The address space cannot be reserved.
    pub fn new(backend: &str, bytes: u64, inherit: bool) -> Result<Self, Error> {
        let sizes = class_sizes();
        let class_of =
            (0..=PAGE_SIZE / 8).map(|step| sizes.partition_point(|size| *size < step * 8) as u8).collect();
        // Small spans are cut from large ones, and stay small: room for those that lie idle.
        let idle = sizes.len() * LANES * LARGE_FROM_BYTES as usize;
        Ok(Objects {
            spans: Spans::new(backend, bytes as usize + idle, inherit)?,
            lanes: (0..sizes.len() * LANES).map(|_| Mutex::default()).collect(),
            class_bytes: sizes.iter().map(|_| AtomicU64::new(0)).collect(),
            object_bytes: (0..sizes.len() * LANES).map(|_| AtomicU64::new(0)).collect(),
            sizes,
            class_of,
        })
    }

    /// Bytes of slots in use, and of the objects themselves.
    ///
    /// # Cost
    /// A look at every class, 3 us.
    pub fn slot_and_object_bytes(&self) -> (u64, u64) {
        (0..self.lanes.len() as u8).fold((0, 0), |(slot_bytes, object_bytes), number| {
            let slots = self.lane(number).used * self.size(number);
            let objects = self.object_bytes[usize::from(number)].load(Ordering::Relaxed);
            (slot_bytes + slots as u64, object_bytes + objects)
        })
    }

    /// Copies `object` into a slot. `None` when there is none and no span may be added without
    /// `memory_bytes` going above `memory_bytes_max`.
    pub fn insert(&self, object: &[u8], memory_bytes_max: u64) -> Option<Handle> {
        // When what is in use does not fit, nothing comes in, whatever slots are free. When only free slots
        // are too many, they may be used: compaction brings the rest down.
        if self.spans.memory_bytes() > memory_bytes_max && self.slot_and_object_bytes().0 > memory_bytes_max {
            return None;
        }
        let class = self.class_of[object.len().div_ceil(8)];
        let has_lanes = self.class_bytes[usize::from(class)].load(Ordering::Relaxed) >= LANES_FROM_BYTES;
        let lane = if has_lanes { rustix::thread::sched_getcpu() % LANES } else { 0 };
        let number = class * LANES as u8 + lane as u8;
        let handle = self
            .slot(number)
            .or_else(|| self.slot_of_new_span(number, memory_bytes_max))
            .or_else(|| self.slot_of_larger(number))?;
        self.object_bytes[usize::from(handle.lane)].fetch_add(object.len() as u64, Ordering::Relaxed);
        // SAFETY: the slot was free, so nobody refers to it but this call.
        unsafe { self.spans.arena().write(self.place(handle), object) };
        Some(handle)
    }

    /// Overwrites an object of `length` bytes where it is. False when the new one is of another class.
    ///
    /// # Safety
    /// As for [`Objects::get`], and nobody reads the object meanwhile.
    pub unsafe fn overwrite(&self, handle: Handle, length: usize, object: &[u8]) -> bool {
        if self.class_of[object.len().div_ceil(8)] != handle.lane / LANES as u8 {
            return false;
        }
        if object.len() != length {
            // Wraps around for a shorter one, as it should.
            let grown = (object.len() as u64).wrapping_sub(length as u64);
            self.object_bytes[usize::from(handle.lane)].fetch_add(grown, Ordering::Relaxed);
        }
        // SAFETY: the slot holds any object of its class; the caller vouches that it is in use.
        unsafe { self.spans.arena().write(self.place(handle), object) };
        true
    }

    /// The `length` bytes of an object.
    ///
    /// # Safety
    /// The handle came from [`Objects::insert`] with that length, and is not removed meanwhile.
    pub unsafe fn get(&self, handle: Handle, length: usize) -> &[u8] {
        // SAFETY: the slot is committed while it is in use; the caller vouches that it is.
        unsafe { self.spans.arena().bytes(self.place(handle), length) }
    }

    /// Frees the slot of an object of `length` bytes.
    pub fn remove(&self, handle: Handle, length: usize) {
        self.object_bytes[usize::from(handle.lane)].fetch_sub(length as u64, Ordering::Relaxed);
        let mut lane = self.lane(handle.lane);
        lane.used -= 1;
        let span = lane.spans.get_mut(&handle.span).expect("the span of an object is in its class");
        span.used -= 1;
        span.free[usize::from(handle.slot) / 64] |= 1 << (handle.slot % 64);
        let is_empty = span.used == 0;
        let is_shut = span.open_at.is_none() && !span.is_evacuating;
        if is_empty {
            lane.close(handle.span);
            let span = lane.spans.remove(&handle.span).expect("it was just looked up");
            lane.slots -= span.slots as usize;
            drop(lane);
            let bytes = u64::from(span.units) * UNIT_BYTES as u64;
            self.class_bytes[usize::from(handle.lane) / LANES].fetch_sub(bytes, Ordering::Relaxed);
            self.spans.put_back(handle.span, span.units);
        } else if is_shut {
            lane.open(handle.span);
        }
    }

    /// Moves an object out of an evacuating span into another of its class that is open already.
    /// `None` when there is no slot.
    ///
    /// # Safety
    /// As for [`Objects::get`].
    pub unsafe fn relocate(&self, handle: Handle, length: usize) -> Option<Handle> {
        let to = self.slot(handle.lane)?;
        self.object_bytes[usize::from(to.lane)].fetch_add(length as u64, Ordering::Relaxed);
        // SAFETY: source and destination are different slots, one in use and one just taken.
        unsafe { self.spans.arena().write(self.place(to), self.get(handle, length)) };
        self.remove(handle, length);
        Some(to)
    }

    /// Chooses the emptiest spans whose objects fit into the other spans of their class, and closes
    /// them for new objects. Nothing when fewer than `units_min` could be freed.
    pub fn evacuees(&self, units_min: u64) -> Evacuees {
        let all = 0..self.lanes.len() as u8;
        let free_bytes = |number| {
            let lane = self.lane(number);
            ((lane.slots - lane.used) * self.size(number)) as u64
        };
        // Less than a unit in a class frees none.
        let freeable: u64 = all.clone().map(|number| free_bytes(number) / UNIT_BYTES as u64).sum();
        let mut chosen = Evacuees::default();
        if freeable < units_min.max(1) {
            return chosen;
        }
        for number in all {
            let mut lane = self.lane(number);
            for id in lane.emptiest() {
                lane.close(id);
                lane.spans.get_mut(&id).expect("it was just listed").is_evacuating = true;
                chosen.insert(id, number);
            }
        }
        chosen
    }

    /// Opens again what is left of the spans that were chosen.
    pub fn reopen(&self, evacuees: &Evacuees) {
        for (id, number) in evacuees {
            let mut lane = self.lane(*number);
            // It may have been emptied, given back, and have come to this class anew.
            let Some(span) = lane.spans.get_mut(id).filter(|span| span.is_evacuating) else { continue };
            span.is_evacuating = false;
            if span.used < span.slots {
                lane.open(*id);
            }
        }
    }

    fn slot(&self, number: u8) -> Option<Handle> {
        self.lane(number).take_slot(number)
    }

    /// A slot in the other lane of the class, or in one of the next larger classes.
    fn slot_of_larger(&self, number: u8) -> Option<Handle> {
        let first = number - number % LANES as u8;
        let last = (self.lanes.len() - 1).min(usize::from(first) + CLASS_OVERSHOOT_MAX * LANES);
        (first..=last as u8).filter(|other| *other != number).find_map(|other| self.slot(other))
    }

    /// A slot of a span that nobody else has taken from yet: no span in a class is ever empty.
    fn slot_of_new_span(&self, number: u8, memory_bytes_max: u64) -> Option<Handle> {
        let class_bytes = &self.class_bytes[usize::from(number) / LANES];
        let is_large = class_bytes.load(Ordering::Relaxed) >= LARGE_FROM_BYTES;
        let take = |units| Some((self.spans.take(units, memory_bytes_max)?, units));
        let (id, units) = if is_large { take(LARGE_UNITS).or_else(|| take(1)) } else { take(1) }?;
        class_bytes.fetch_add(u64::from(units) * UNIT_BYTES as u64, Ordering::Relaxed);
        let slots = units as usize * UNIT_BYTES / self.size(number);
        let mut free = vec![u64::MAX; slots.div_ceil(64)].into_boxed_slice();
        if !slots.is_multiple_of(64) {
            free[slots / 64] = (1 << (slots % 64)) - 1;
        }
        let span = Span { free, slots: slots as u32, used: 0, units, open_at: None, is_evacuating: false };
        let mut lane = self.lane(number);
        lane.slots += slots;
        lane.spans.insert(id, span);
        lane.open(id);
        lane.take_slot(number)
    }

    fn place(&self, handle: Handle) -> usize {
        handle.span as usize * UNIT_BYTES + usize::from(handle.slot) * self.size(handle.lane)
    }

    fn size(&self, number: u8) -> usize {
        self.sizes[usize::from(number) / LANES]
    }

    fn lane(&self, number: u8) -> MutexGuard<'_, Lane> {
        self.lanes[usize::from(number)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// A free slot of the span that was opened last.
    fn take_slot(&mut self, number: u8) -> Option<Handle> {
        let id = *self.open.last()?;
        let span = self.spans.get_mut(&id).expect("an open span is in its class");
        let (word, bits) = span
            .free
            .iter_mut()
            .enumerate()
            .find(|(_, bits)| **bits != 0)
            .expect("an open span has a free slot");
        let slot = word * 64 + bits.trailing_zeros() as usize;
        *bits &= *bits - 1;
        span.used += 1;
        let is_full = span.used == span.slots;
        self.used += 1;
        if is_full {
            self.close(id);
        }
        Some(Handle { span: id, slot: slot as u16, lane: number })
    }

    /// The emptiest spans, as many as have their objects fit into the others.
    fn emptiest(&self) -> Vec<u32> {
        let mut room = self.slots - self.used;
        let mut by_use: Vec<_> =
            self.spans.iter().map(|(id, span)| (span.used * 64 / span.slots, *id)).collect();
        by_use.sort_unstable();
        let fits = |(_, id): &(u32, u32)| {
            // Its own free slots are gone with it, and its objects take as many as they are.
            let rest = room.checked_sub(self.spans[id].slots as usize);
            room = rest.unwrap_or(room);
            rest.is_some()
        };
        by_use.into_iter().take_while(fits).map(|(_, id)| id).collect()
    }

    fn open(&mut self, id: u32) {
        let at = self.open.len() as u32;
        self.open.push(id);
        self.spans.get_mut(&id).expect("a span is opened in its class").open_at = Some(at);
    }

    fn close(&mut self, id: u32) {
        let span = self.spans.get_mut(&id).expect("a span is closed in its class");
        let Some(at) = span.open_at.take() else { return };
        self.open.swap_remove(at as usize);
        if let Some(moved) = self.open.get(at as usize) {
            self.spans.get_mut(moved).expect("an open span is in its class").open_at = Some(at);
        }
    }
}

/// Slot sizes, smallest first: whole slots fill a large span, and each size is at least 3 % above the
/// last.
fn class_sizes() -> Vec<usize> {
    let mut sizes = vec![PAGE_SIZE];
    for slots in LARGE_BYTES / PAGE_SIZE + 1..=LARGE_BYTES / SLOT_BYTES_MIN {
        let size = LARGE_BYTES / slots / 8 * 8;
        let last = sizes[sizes.len() - 1];
        let is_apart = last * 100 >= size * (100 + CLASS_STEP_PERCENT);
        if is_apart || size == SLOT_BYTES_MIN && last != size {
            sizes.push(size);
        }
    }
    sizes.reverse();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLENTY: u64 = 64 << 20;

    fn objects() -> Objects {
        Objects::new("test", PLENTY, false).unwrap()
    }

    #[test]
    fn classes_are_close_and_waste_little() {
        let sizes = class_sizes();
        assert_eq!((sizes[0], sizes[sizes.len() - 1]), (SLOT_BYTES_MIN, PAGE_SIZE));
        assert!(sizes.len() * LANES <= 256, "a handle has 8 bits for {} classes", sizes.len());
        for pair in sizes.windows(2) {
            assert!(pair[0] < pair[1] && pair[0] % 8 == 0);
            assert!(pair[1] - pair[0] <= (pair[1] / 15).max(8), "{pair:?}");
        }
        for size in sizes {
            assert!(LARGE_BYTES % size * 100 <= LARGE_BYTES * 3, "{size} wastes {}", LARGE_BYTES % size);
        }
    }

    #[test]
    fn a_full_pool_uses_larger_slots_before_it_says_no() {
        let objects = objects();
        let one_unit = Spans::bytes_of(1);
        let first = objects.insert(&[1; 2000], one_unit).unwrap();
        let second = objects.insert(&[2; 1900], one_unit).unwrap();
        assert_eq!(first.span, second.span);
        assert!(objects.insert(&[3; 3000], one_unit).is_none());
        assert!(objects.insert(&[3; 100], one_unit).is_none(), "a slot of 20 times the size is no answer");
        assert_eq!(objects.spans.memory_bytes(), one_unit);
    }

    #[test]
    fn a_class_grows_by_small_spans_first() {
        let objects = objects();
        let handles: Vec<_> = (0..3000).map(|_| objects.insert(&[1; 4096], PLENTY).unwrap()).collect();
        let units = |from: usize| {
            let lane = objects.lane(handles[from].lane);
            lane.spans[&handles[from].span].units
        };
        assert_eq!((units(0), units(60), units(200)), (1, 1, LARGE_UNITS));
        assert!(objects.spans.memory_bytes() < 3000 * 4096 * 103 / 100, "{}", objects.spans.memory_bytes());
    }

    #[test]
    fn fragmentation_is_found_and_moved_away() {
        let objects = objects();
        let handles: Vec<_> = (0..3200u32)
            .map(|number| objects.insert(&number.to_le_bytes().repeat(250), PLENTY).unwrap())
            .collect();
        let (kept, gone): (Vec<_>, Vec<_>) = (0..3200).partition(|number| number % 10 == 0);
        for number in gone {
            objects.remove(handles[number], 1000);
        }
        let before = objects.spans.memory_bytes();
        let evacuees = objects.evacuees(1);
        let mut moved = 0;
        for number in kept {
            let mut handle = handles[number];
            if evacuees.contains_key(&handle.span) {
                // SAFETY: the handle is in use and this test is alone.
                handle = unsafe { objects.relocate(handle, 1000) }.expect("the others have room");
                moved += 1;
            }
            // SAFETY: as above.
            assert_eq!(unsafe { objects.get(handle, 4) }, (number as u32).to_le_bytes());
        }
        objects.reopen(&evacuees);
        objects.spans.release_ready();
        assert!(
            moved > 200 && objects.spans.memory_bytes() * 8 < before,
            "{moved}, {}",
            objects.spans.memory_bytes()
        );
        assert!(objects.evacuees(LARGE_UNITS.into()).is_empty());
    }

    proptest! {
        #[test]
        fn slots_keep_their_bytes(steps in prop::collection::vec((any::<u8>(), 1usize..=PAGE_SIZE, any::<bool>()), 1..300)) {
            let objects = objects();
            let mut held: Vec<(Handle, Vec<u8>)> = Vec::new();
            for (byte, length, takes) in steps {
                if takes || held.is_empty() {
                    let bytes = vec![byte; length];
                    held.push((objects.insert(&bytes, PLENTY).unwrap(), bytes));
                } else {
                    let (handle, bytes) = held.swap_remove(usize::from(byte) % held.len());
                    objects.remove(handle, bytes.len());
                }
                prop_assert_eq!(objects.slot_and_object_bytes().1, held.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
            }
            for (handle, bytes) in &held {
                // SAFETY: the handle is in use and this test is alone.
                prop_assert_eq!(unsafe { objects.get(*handle, bytes.len()) }, &bytes[..]);
            }
            for (handle, bytes) in held {
                objects.remove(handle, bytes.len());
            }
            objects.spans.release_ready();
            prop_assert_eq!(objects.spans.memory_bytes(), 0);
            prop_assert_eq!(objects.slot_and_object_bytes(), (0, 0));
        }
    }
}
