//! Compressed RAM: pages as objects in an arena of spans.
//!
//! A store encodes the page by what its neighbourhood taught, and copies the object into a slot; a load
//! decodes straight from the slot. Ages in the entries tell what is cold; fragmentation is moved
//! together by [`Backend::maintain`], a shard at a time. Nothing is ever dropped to make room: a full
//! pool rejects.
//!
//! Lock order: an entry, then what [`Objects`] locks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use frontswap::backend::{Answer, Backend, Description, Loaded, Reject, Usage};
use frontswap::error::{Error, Kind};
use frontswap::key::{Area, Bytes, Key, Pages};
use frontswap::page::{PAGE_SIZE, Page};
use frontswap::table::{Entry, LEAF_PAGES, PageTable};

use crate::area_set::AreaSet;
use crate::arena::machine_bytes;
use crate::clock::{AGE_BITS, AGE_LOADED, AGE_STORED, Clock};
use crate::codec::{self, CodecChoice, CodecName, Contexts, Memory};
use crate::objects::{Evacuees, Handle, Objects};
use crate::spans::UNIT_BYTES;

/// Part of the capacity that is kept free ahead of need, and its limit: 4 MiB are a thousand stores.
const RESERVE_DIVISOR: u64 = 32;
const RESERVE_BYTES_MAX: u64 = 4 << 20;
/// Compaction starts when it would free one unit in this many.
const COMPACT_DIVISOR: u64 = 32;

/// Units have 26 bits in an entry, and some are left for what the arena adds.
const ARENA_BYTES_MAX: u64 = (UNIT_BYTES as u64) << 25;

/// What happens to a page that does not compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incompressible {
    /// It is kept raw.
    Keep,
    /// It is rejected, for a backend further down.
    Reject,
}

/// How a pool is set up.
#[derive(Clone, Copy, Debug)]
pub struct ZpoolOptions {
    /// Bytes of RAM that it may take, everything counted.
    pub capacity: Bytes,
    /// Which codec.
    pub codec: CodecChoice,
    /// zstd's level.
    pub level: i32,
    /// What happens to pages that do not compress.
    pub incompressible: Incompressible,
    /// A child of fork gets a copy of the pool. Otherwise it has none, and must not use this one.
    pub inherit: bool,
}

/// Compressed RAM.
pub struct Zpool {
    table: PageTable<2>,
    objects: Objects,
    areas: AreaSet,
    clock: Clock<2>,
    contexts: Contexts,
    memory: Memory,
    options: ZpoolOptions,
    capacity: AtomicU64,
    fixed_bytes: u64,
    pool_limit_hit: AtomicU64,
    compacted_objects: AtomicU64,
    compaction: Mutex<Compaction>,
    /// There is more memory than the capacity, and compaction finds nothing to free.
    is_packed: AtomicBool,
}

/// A sweep over the table that moves objects out of the chosen spans, and what it remembers of growth.
#[derive(Default)]
struct Compaction {
    evacuees: Evacuees,
    /// The next shard to sweep; 0 when no sweep is under way.
    shard: usize,
    /// What [`crate::spans::Spans::large_taken`] said last.
    large_taken: u64,
}

/// An object as its entry records it.
///
/// First word: bits 2 and 3 age, 4 to 11 lane, 12 to 23 length less one, 24 to 27 codec, 28 to 31 the
/// span's upper bits. Second: bits 0 to 9 slot, 10 to 31 the span's lower bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Object {
    handle: Handle,
    length: usize,
    codec: CodecName,
}

impl Object {
    fn to_words(self, age: u32) -> [u32; 2] {
        let Handle { span, slot, lane } = self.handle;
        let first = age
            | u32::from(lane) << 4
            | (self.length as u32 - 1) << 12
            | (self.codec as u32) << 24
            | (span >> 22) << 28;
        [first, u32::from(slot) | span << 10]
    }

    /// `None` for a vacant entry.
    fn from_words([first, second]: [u32; 2]) -> Option<Self> {
        Some(Object {
            handle: Handle {
                span: (first >> 28) << 22 | second >> 10,
                slot: (second & 1023) as u16,
                lane: (first >> 4) as u8,
            },
            length: (first >> 12 & 4095) as usize + 1,
            codec: CodecName::from_number(first >> 24 & 15)?,
        })
    }
}

impl Zpool {
    /// An empty pool: it takes memory as pages come.
    ///
    /// # Errors
    /// The address space cannot be reserved.
    pub fn new(options: ZpoolOptions) -> Result<Self, Error> {
        let has_zstd = options.codec == CodecChoice::Fixed(CodecName::Zstd);
        let contexts = Contexts::new(has_zstd, options.level);
        // Room to grow to the whole machine; under `ulimit -v` only to what was asked for.
        let most = machine_bytes().max(options.capacity.0).min(ARENA_BYTES_MAX);
        let objects = |bytes| Objects::new("zpool", bytes, options.inherit);
        let objects = objects(most).or_else(|_| objects(options.capacity.0))?;
        Ok(Zpool {
            table: PageTable::default(),
            objects,
            areas: AreaSet::default(),
            clock: Clock::default(),
            fixed_bytes: contexts.bytes() as u64 + Memory::BYTES + AreaSet::BYTES,
            contexts,
            memory: Memory::default(),
            options,
            capacity: AtomicU64::new(options.capacity.0),
            pool_limit_hit: AtomicU64::new(0),
            compacted_objects: AtomicU64::new(0),
            compaction: Mutex::default(),
            is_packed: AtomicBool::new(false),
        })
    }

    /// The address space of its objects, for whoever must keep its hands off.
    pub fn addresses(&self) -> std::ops::Range<usize> {
        self.objects.spans.arena().addresses()
    }

    fn overhead_bytes(&self) -> u64 {
        self.fixed_bytes + self.table.bytes()
    }

    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Makes the entry vacant and frees its object.
    fn forget(&self, entry: &mut Entry<'_, 2>) {
        if let Some(object) = Object::from_words(entry.get()) {
            entry.clear();
            self.objects.remove(object.handle, object.length);
        }
    }

    /// Answers a store that came to nothing: the old page is gone, and no empty leaf stays (rule B11).
    fn refuse(&self, mut entry: Entry<'_, 2>, reason: Reject) -> Answer {
        self.forget(&mut entry);
        drop(entry);
        self.table.trim_when_sparse();
        Answer::Rejected(reason)
    }

    /// What is above the capacity, and what is above it less the reserve, as bytes of pages.
    ///
    /// What is in use and does not fit has to go. When only free slots are too many, compaction has to
    /// bring them down first; when it cannot, a quarter of the rest goes, and it tries again.
    fn excess_and_pressure(&self) -> (u64, u64) {
        let capacity = self.capacity();
        let overhead = self.overhead_bytes();
        let (slot_bytes, _) = self.objects.slot_and_object_bytes();
        let in_use = slot_bytes + overhead;
        let memory = self.objects.spans.memory_bytes() + overhead;
        let excess = if in_use > capacity {
            in_use - capacity
        } else if memory > capacity && self.is_packed.load(Ordering::Relaxed) {
            ((memory - capacity) / 4).max(UNIT_BYTES as u64)
        } else {
            0
        };
        let reserve = (capacity / RESERVE_DIVISOR).min(RESERVE_BYTES_MAX);
        let pressure = excess.max((in_use + reserve).saturating_sub(capacity));
        let pages = self.table.live();
        let in_pages = |bytes: u64| {
            let part = (u128::from(bytes) * u128::from(pages)).div_ceil(u128::from(slot_bytes.max(1)));
            (part as u64).min(pages) * PAGE_SIZE as u64
        };
        (in_pages(excess), in_pages(pressure))
    }

    /// Makes memory ready for a pool that has grown since the last look. True when there may be more to
    /// do.
    fn prepare(&self, sweep: &mut Compaction) -> bool {
        let taken_before = std::mem::replace(&mut sweep.large_taken, self.objects.spans.large_taken());
        if sweep.large_taken == taken_before {
            self.objects.spans.forget_ready();
            return false;
        }
        self.objects.spans.make_ready(self.capacity().saturating_sub(self.overhead_bytes()))
    }

    /// Begins a sweep when it would free enough. True when one is under way.
    fn begin_compaction(&self, sweep: &mut Compaction) -> bool {
        if sweep.shard > 0 {
            return true;
        }
        let memory = self.objects.spans.memory_bytes();
        let is_over = memory + self.overhead_bytes() > self.capacity();
        let slack = memory.saturating_sub(self.objects.slot_and_object_bytes().0);
        if slack < UNIT_BYTES as u64 || !is_over && slack < memory / COMPACT_DIVISOR {
            return false;
        }
        let units_min = if is_over { 1 } else { memory / UNIT_BYTES as u64 / COMPACT_DIVISOR };
        sweep.evacuees = self.objects.evacuees(units_min);
        !sweep.evacuees.is_empty()
    }

    fn sweep_shard(&self, sweep: &mut Compaction) {
        for leaf in self.table.leaves_of_shard(sweep.shard) {
            for index in 0..LEAF_PAGES {
                let Some(mut entry) = self.table.try_lock_live(&leaf, index) else { continue };
                let words = entry.get();
                let Some(object) = Object::from_words(words) else { continue };
                if !sweep.evacuees.contains_key(&object.handle.span) {
                    continue;
                }
                // SAFETY: the entry is locked, so its object is in use and stays where it is.
                let moved = unsafe { self.objects.relocate(object.handle, object.length) };
                if let Some(handle) = moved {
                    entry.set(Object { handle, ..object }.to_words(words[0] & AGE_BITS));
                    self.compacted_objects.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        sweep.shard += 1;
        if sweep.shard == self.table.shard_count() {
            self.objects.reopen(&sweep.evacuees);
            sweep.evacuees.clear();
            sweep.shard = 0;
        }
    }
}

impl Backend for Zpool {
    fn init(&self, area: Area, _pages: Pages) -> Result<(), Error> {
        self.areas.insert(area);
        Ok(())
    }

    fn store(&self, key: Key, page: &Page) -> Result<Answer, Error> {
        let mut entry = self.table.lock(key);
        if !self.areas.contains(key.area) {
            return Ok(self.refuse(entry, Reject::NoArea));
        }
        let mut context = self.contexts.take(key);
        let (codec, object) = self.memory.encode(self.options.codec, &mut context, key, page);
        if codec == CodecName::Raw && self.options.incompressible == Incompressible::Reject {
            return Ok(self.refuse(entry, Reject::CompressPoor));
        }
        if let Some(old) = Object::from_words(entry.get()) {
            // SAFETY: the entry is locked, so its object is in use and nobody else looks at it.
            if unsafe { self.objects.overwrite(old.handle, old.length, object) } {
                entry.set(Object { length: object.len(), codec, ..old }.to_words(AGE_STORED));
                return Ok(Answer::Accepted);
            }
        }
        // Rule B4: whatever comes of the new page, the old one is gone.
        self.forget(&mut entry);
        let memory_bytes_max = self.capacity().saturating_sub(self.overhead_bytes());
        let insert = || self.objects.insert(object, memory_bytes_max);
        // Empty spans of another size may be all that is in the way.
        let handle = insert().or_else(|| self.objects.spans.release_ready().then(insert).flatten());
        let Some(handle) = handle else {
            self.pool_limit_hit.fetch_add(1, Ordering::Relaxed);
            return Ok(self.refuse(entry, Reject::Full));
        };
        entry.set(Object { handle, length: object.len(), codec }.to_words(AGE_STORED));
        Ok(Answer::Accepted)
    }

    fn load(&self, key: Key, out: &mut Page) -> Result<Loaded, Error> {
        let Some(mut entry) = self.table.lock_existing(key) else { return Ok(Loaded::Missing) };
        let words = entry.get();
        let Some(object) = Object::from_words(words) else { return Ok(Loaded::Missing) };
        // SAFETY: the entry is locked, so its object is in use and stays where it is.
        let bytes = unsafe { self.objects.get(object.handle, object.length) };
        let decoded = match object.codec {
            CodecName::Zstd => self.contexts.take(key).decode_zstd(bytes, out),
            codec => codec::decode(codec, bytes, out),
        };
        if let Err(reason) = decoded {
            let fields: [(&'static str, &dyn std::fmt::Display); 4] =
                [("backend", &"zpool"), ("area", &key.area), ("offset", &key.offset), ("reason", &reason)];
            return Err(Error::new(Kind::PageUnreadable, &fields));
        }
        entry.set_first(words[0] | AGE_LOADED);
        Ok(Loaded::Loaded)
    }

    fn invalidate_page(&self, key: Key) {
        if let Some(mut entry) = self.table.lock_existing(key) {
            self.forget(&mut entry);
        }
    }

    fn invalidate_area(&self, area: Area) {
        if self.areas.remove(area) {
            self.table.for_each_in_area(area, |_, entry| self.forget(entry));
            self.clock.rest();
            self.table.trim();
            self.objects.spans.release_ready();
        }
    }

    fn describe(&self) -> Description {
        Description { kind: "zpool".to_owned(), ..Description::default() }
    }

    fn usage(&self) -> Usage {
        let (excess, pressure) = self.excess_and_pressure();
        Usage {
            stored_pages: Pages(self.table.live()),
            compr_data_size: Bytes(self.objects.slot_and_object_bytes().1),
            mem_used_total: Bytes(self.objects.spans.memory_bytes() + self.overhead_bytes()),
            disk_used_total: Bytes(0),
            mem_limit: Bytes(self.capacity()),
            pool_limit_hit: self.pool_limit_hit.load(Ordering::Relaxed),
            pressure: Bytes(pressure),
            excess: Bytes(excess),
        }
    }

    fn set_capacity(&self, capacity: Bytes) -> Result<(), Error> {
        let reserved = Bytes(self.objects.spans.arena().length() as u64);
        if capacity > reserved {
            let reason = format!("only {reserved} of address space could be reserved");
            let fields: [(&'static str, &dyn std::fmt::Display); 3] =
                [("backend", &"zpool"), ("capacity", &capacity), ("reason", &reason)];
            return Err(Error::new(Kind::CapacityInvalid, &fields));
        }
        self.capacity.store(capacity.0, Ordering::Relaxed);
        Ok(())
    }

    fn coldest(&self, want: usize, victims: &mut Vec<Key>) {
        self.clock.coldest(&self.table, want, victims);
    }

    fn maintain(&self) -> bool {
        let mut sweep = self.compaction.lock().unwrap_or_else(PoisonError::into_inner);
        self.table.trim_when_sparse();
        let is_growing = self.prepare(&mut sweep);
        if self.begin_compaction(&mut sweep) {
            self.is_packed.store(false, Ordering::Relaxed);
            self.sweep_shard(&mut sweep);
            return true;
        }
        let is_over = || self.objects.spans.memory_bytes() + self.overhead_bytes() > self.capacity();
        if is_over() {
            self.objects.spans.release_ready();
            self.table.trim();
        }
        self.is_packed.store(is_over(), Ordering::Relaxed);
        is_growing
    }

    fn details(&self) -> Vec<(&'static str, u64)> {
        let pages = self.contexts.stores_by_codec();
        let pages = |codec: CodecName| pages[codec as usize];
        vec![
            ("lz4_stores", pages(CodecName::Lz4)),
            ("zstd_stores", pages(CodecName::Zstd)),
            ("shuffle2_stores", pages(CodecName::Shuffle2)),
            ("shuffle4_stores", pages(CodecName::Shuffle4)),
            ("shuffle8_stores", pages(CodecName::Shuffle8)),
            ("raw_stores", pages(CodecName::Raw)),
            ("objs_moved", self.compacted_objects.load(Ordering::Relaxed)),
            ("map_bytes", self.table.bytes()),
        ]
    }
}
