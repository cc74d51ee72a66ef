//! Where compressed pages lie: slots of size classes in spans of an arena.
//!
//! A span is 64 KiB and belongs to one class; all its slots are of that size. Classes are 3 % apart
//! or as close as whole slots in a span allow. A store takes the last opened span of its class, so
//! that nearly full spans fill up and emptier ones drain; what fragmentation stays, [`Objects::evacuees`]
//! finds and the owner moves. Empty spans go back to the system.
//!
//! Invariants: slots free + slots used = slots of the class, in every span; `slot_bytes` = size of
//! class times slots used, summed; `spans` = spans in classes + spans in stock.
//! Lock order: one class, then the stock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use frontswap::error::Error;
use frontswap::page::PAGE_SIZE;
use rustc_hash::FxHashMap;

use crate::arena::Arena;

/// Bytes of a span: 16 pages, so that even slots of 4096 bytes waste nothing.
pub const SPAN_BYTES: usize = 64 << 10;
/// The smallest slot. lz4 makes no page shorter than 30 bytes.
const SLOT_BYTES_MIN: usize = 64;
/// Slots of the smallest class in a span; their numbers take 10 bits.
const SLOTS_MAX: usize = SPAN_BYTES / SLOT_BYTES_MIN;
/// Classes are at least this far apart, in percent.
const CLASS_STEP_PERCENT: usize = 3;
/// How many larger classes a store looks at when its own is full and there is no new span.
const CLASS_OVERSHOOT_MAX: usize = 12;
/// Empty spans that are kept at hand: a page that goes and another that comes cost no system call.
const STOCK_SPANS_MAX: usize = 4;

/// Where an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Which span of the arena.
    pub span: u32,
    /// Which slot of the span.
    pub slot: u16,
    /// The class of the span.
    pub class: u8,
}

/// Spans to be emptied, with their class.
pub type Evacuees = FxHashMap<u32, u8>;

struct Span {
    /// One bit for every free slot.
    free: [u64; SLOTS_MAX / 64],
    used: u32,
    /// Where it is in its class's list of open spans.
    open_at: Option<u32>,
    is_evacuating: bool,
}

#[derive(Default)]
struct Class {
    spans: FxHashMap<u32, Span>,
    /// Slots in use in all of them.
    used: usize,
    /// Spans with a free slot, the one to take from last.
    open: Vec<u32>,
}

#[derive(Default)]
struct Stock {
    /// Empty spans with memory behind them.
    ready: Vec<u32>,
    /// Spans without memory.
    bare: Vec<u32>,
    /// Spans from here on were never used.
    fresh: u32,
}

/// The slots.
pub struct Objects {
    arena: Arena,
    sizes: Vec<usize>,
    /// Class by object length, in steps of 8 bytes.
    class_of: Vec<u8>,
    classes: Box<[Mutex<Class>]>,
    stock: Mutex<Stock>,
    /// Spans with memory behind them.
    spans: AtomicU64,
    slot_bytes: AtomicU64,
    object_bytes: AtomicU64,
}

impl Objects {
    /// Room for objects in at most `bytes` of memory, none of which is taken yet.
    ///
    /// # Errors
    /// The address space cannot be reserved.
    pub fn new(backend: &str, bytes: u64) -> Result<Self, Error> {
        let length = (bytes as usize).next_multiple_of(SPAN_BYTES);
        let sizes = class_sizes();
        let class_of =
            (0..=PAGE_SIZE / 8).map(|step| sizes.partition_point(|size| *size < step * 8) as u8).collect();
        Ok(Objects {
            arena: Arena::reserve(backend, length)?,
            classes: sizes.iter().map(|_| Mutex::default()).collect(),
            sizes,
            class_of,
            stock: Mutex::default(),
            spans: AtomicU64::new(0),
            slot_bytes: AtomicU64::new(0),
            object_bytes: AtomicU64::new(0),
        })
    }

    /// Bytes of memory that there can ever be behind spans.
    pub fn reserved_bytes(&self) -> u64 {
        self.arena.length() as u64
    }

    /// Bytes of memory behind spans, and what describes them.
    pub fn memory_bytes(&self) -> u64 {
        self.spans.load(Ordering::Relaxed) * (SPAN_BYTES + size_of::<(u32, Span)>()) as u64
    }

    /// Bytes of slots in use.
    pub fn slot_bytes(&self) -> u64 {
        self.slot_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the objects themselves.
    pub fn object_bytes(&self) -> u64 {
        self.object_bytes.load(Ordering::Relaxed)
    }

    /// Copies `object` into a slot. `None` when there is none and no span may be added without
    /// `memory_bytes` going above `memory_bytes_max`.
    pub fn insert(&self, object: &[u8], memory_bytes_max: u64) -> Option<Handle> {
        // Above the limit nothing comes in, whatever slots are free: memory has to go down.
        if self.memory_bytes() > memory_bytes_max {
            return None;
        }
        let class = self.class_of[object.len().div_ceil(8)];
        let handle = self
            .slot(class)
            .or_else(|| self.slot_of_new_span(class, memory_bytes_max))
            .or_else(|| self.slot_of_larger(class))?;
        self.slot_bytes.fetch_add(self.sizes[usize::from(handle.class)] as u64, Ordering::Relaxed);
        self.object_bytes.fetch_add(object.len() as u64, Ordering::Relaxed);
        // SAFETY: the slot was free, so nobody refers to it but this call.
        unsafe { self.arena.write(self.place(handle), object) };
        Some(handle)
    }

    /// The `length` bytes of an object.
    ///
    /// # Safety
    /// The handle came from [`Objects::insert`] with that length, and is not removed meanwhile.
    pub unsafe fn get(&self, handle: Handle, length: usize) -> &[u8] {
        // SAFETY: the slot is committed while it is in use; the caller vouches that it is.
        unsafe { self.arena.bytes(self.place(handle), length) }
    }

    /// Frees the slot of an object of `length` bytes.
    pub fn remove(&self, handle: Handle, length: usize) {
        self.slot_bytes.fetch_sub(self.sizes[usize::from(handle.class)] as u64, Ordering::Relaxed);
        self.object_bytes.fetch_sub(length as u64, Ordering::Relaxed);
        let mut class = self.class(handle.class);
        let span = class.spans.get_mut(&handle.span).expect("the span of an object is in its class");
        span.used -= 1;
        let is_empty = span.used == 0;
        let is_shut = span.open_at.is_none() && !span.is_evacuating;
        span.free[usize::from(handle.slot) / 64] |= 1 << (handle.slot % 64);
        class.used -= 1;
        if is_empty {
            class.close(handle.span);
            class.spans.remove(&handle.span);
            drop(class);
            self.put_back(handle.span);
        } else if is_shut {
            class.open(handle.span);
        }
    }

    /// Moves an object out of an evacuating span into another of its class that is open already.
    /// `None` when there is no slot.
    ///
    /// # Safety
    /// As for [`Objects::get`].
    pub unsafe fn relocate(&self, handle: Handle, length: usize) -> Option<Handle> {
        let to = self.slot(handle.class)?;
        // SAFETY: source and destination are different slots, one in use and one just taken.
        unsafe { self.arena.write(self.place(to), self.get(handle, length)) };
        self.slot_bytes.fetch_add(self.sizes[usize::from(to.class)] as u64, Ordering::Relaxed);
        self.object_bytes.fetch_add(length as u64, Ordering::Relaxed);
        self.remove(handle, length);
        Some(to)
    }

    /// Chooses the emptiest spans whose objects fit into the other spans of their class, and closes
    /// them for new objects. Nothing when fewer than `spans_min` could be freed.
    pub fn evacuees(&self, spans_min: usize) -> Evacuees {
        let all = 0..self.sizes.len() as u8;
        let total: usize = all.clone().map(|class| self.class(class).freeable(self.slots(class))).sum();
        let mut chosen = Evacuees::default();
        if total < spans_min.max(1) {
            return chosen;
        }
        for number in all {
            let mut class = self.class(number);
            let count = class.freeable(self.slots(number));
            if count == 0 {
                continue;
            }
            let mut by_use: Vec<_> = class.spans.iter().map(|(id, span)| (span.used, *id)).collect();
            by_use.sort_unstable();
            for (_, id) in by_use.into_iter().take(count) {
                class.close(id);
                class.spans.get_mut(&id).expect("it was just listed").is_evacuating = true;
                chosen.insert(id, number);
            }
        }
        chosen
    }

    /// Opens again what is left of the spans that were chosen.
    pub fn reopen(&self, evacuees: &Evacuees) {
        for (id, number) in evacuees {
            let slots = self.slots(*number);
            let mut class = self.class(*number);
            // It may have been emptied, given back, and have come to this class anew.
            let Some(span) = class.spans.get_mut(id).filter(|span| span.is_evacuating) else { continue };
            span.is_evacuating = false;
            if (span.used as usize) < slots {
                class.open(*id);
            }
        }
    }

    /// Gives the empty spans that are kept at hand back to the system.
    pub fn release_stock(&self) {
        let ready = std::mem::take(&mut self.stock().ready);
        for span in ready {
            self.release(span);
        }
    }

    fn slot(&self, number: u8) -> Option<Handle> {
        self.class(number).take_slot(number, self.slots(number))
    }

    fn slot_of_larger(&self, class: u8) -> Option<Handle> {
        let last = (usize::from(class) + CLASS_OVERSHOOT_MAX).min(self.sizes.len() - 1) as u8;
        (class + 1..=last).find_map(|larger| self.slot(larger))
    }

    /// A slot of a span that nobody else has taken from yet: no span in a class is ever empty.
    fn slot_of_new_span(&self, number: u8, memory_bytes_max: u64) -> Option<Handle> {
        let id = self.take_span(memory_bytes_max)?;
        let slots = self.slots(number);
        let mut free = [0; SLOTS_MAX / 64];
        for (word, bits) in free.iter_mut().enumerate() {
            let left = slots.saturating_sub(word * 64).min(64);
            *bits = if left == 64 { u64::MAX } else { (1 << left) - 1 };
        }
        let mut class = self.class(number);
        class.spans.insert(id, Span { free, used: 0, open_at: None, is_evacuating: false });
        class.open(id);
        class.take_slot(number, slots)
    }

    fn take_span(&self, memory_bytes_max: u64) -> Option<u32> {
        let mut stock = self.stock();
        if let Some(id) = stock.ready.pop() {
            return Some(id);
        }
        let span_bytes = (SPAN_BYTES + size_of::<(u32, Span)>()) as u64;
        if self.memory_bytes() + span_bytes > memory_bytes_max {
            return None;
        }
        let id = stock.bare.pop().or_else(|| {
            let id = stock.fresh;
            let is_within = (id as usize + 1) * SPAN_BYTES <= self.arena.length();
            stock.fresh += u32::from(is_within);
            is_within.then_some(id)
        })?;
        self.spans.fetch_add(1, Ordering::Relaxed);
        drop(stock);
        if !self.arena.commit(id as usize * SPAN_BYTES, SPAN_BYTES) {
            self.spans.fetch_sub(1, Ordering::Relaxed);
            self.stock().bare.push(id);
            return None;
        }
        Some(id)
    }

    fn put_back(&self, id: u32) {
        let mut stock = self.stock();
        if stock.ready.len() < STOCK_SPANS_MAX {
            stock.ready.push(id);
            return;
        }
        drop(stock);
        self.release(id);
    }

    fn release(&self, id: u32) {
        self.arena.release(id as usize * SPAN_BYTES, SPAN_BYTES);
        self.stock().bare.push(id);
        self.spans.fetch_sub(1, Ordering::Relaxed);
    }

    fn place(&self, handle: Handle) -> usize {
        handle.span as usize * SPAN_BYTES + usize::from(handle.slot) * self.sizes[usize::from(handle.class)]
    }

    fn slots(&self, class: u8) -> usize {
        SPAN_BYTES / self.sizes[usize::from(class)]
    }

    fn class(&self, number: u8) -> MutexGuard<'_, Class> {
        self.classes[usize::from(number)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Class {
    /// A free slot of the span that was opened last. `slots` is how many a span of this class has.
    fn take_slot(&mut self, number: u8, slots: usize) -> Option<Handle> {
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
        self.used += 1;
        if span.used as usize == slots {
            self.close(id);
        }
        Some(Handle { span: id, slot: slot as u16, class: number })
    }

    /// Spans that would be empty if all objects lay together.
    fn freeable(&self, slots: usize) -> usize {
        self.spans.len() - self.used.div_ceil(slots)
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

/// Slot sizes, smallest first: whole slots fill a span, and each size is at least 3 % above the last.
fn class_sizes() -> Vec<usize> {
    let mut sizes = vec![PAGE_SIZE];
    for slots in SPAN_BYTES / PAGE_SIZE + 1..=SLOTS_MAX {
        let size = SPAN_BYTES / slots / 8 * 8;
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
        Objects::new("test", PLENTY).unwrap()
    }

    #[test]
    fn classes_are_close_and_waste_little() {
        let sizes = class_sizes();
        assert_eq!((sizes[0], sizes[sizes.len() - 1]), (SLOT_BYTES_MIN, PAGE_SIZE));
        assert!(sizes.len() <= 255, "a handle has 8 bits for {} classes", sizes.len());
        for pair in sizes.windows(2) {
            assert!(pair[0] < pair[1] && pair[0] % 8 == 0);
            assert!(pair[1] - pair[0] <= (pair[1] / 15).max(8), "{pair:?}");
        }
        for size in sizes {
            assert!(SPAN_BYTES % size * 100 <= SPAN_BYTES * 3, "{size} wastes {}", SPAN_BYTES % size);
        }
    }

    #[test]
    fn a_full_pool_uses_larger_slots_before_it_says_no() {
        let objects = objects();
        let one_span = (SPAN_BYTES + size_of::<(u32, Span)>()) as u64;
        let first = objects.insert(&[1; 2000], one_span).unwrap();
        let second = objects.insert(&[2; 1900], one_span).unwrap();
        assert_eq!(first.span, second.span);
        assert!(objects.insert(&[3; 3000], one_span).is_none());
        assert!(objects.insert(&[3; 100], one_span).is_none(), "a slot of 20 times the size is no answer");
        assert_eq!(objects.memory_bytes(), one_span);
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
        let before = objects.memory_bytes();
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
        objects.release_stock();
        assert!(moved > 200 && objects.memory_bytes() * 8 < before, "{moved}, {}", objects.memory_bytes());
        assert!(objects.evacuees(1).is_empty());
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
                prop_assert_eq!(objects.object_bytes(), held.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
            }
            for (handle, bytes) in &held {
                // SAFETY: the handle is in use and this test is alone.
                prop_assert_eq!(unsafe { objects.get(*handle, bytes.len()) }, &bytes[..]);
            }
            for (handle, bytes) in held {
                objects.remove(handle, bytes.len());
            }
            objects.release_stock();
            prop_assert_eq!(objects.memory_bytes(), 0);
            prop_assert_eq!(objects.slot_bytes(), 0);
        }
    }
}
