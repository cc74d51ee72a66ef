//! Late registration: a whole program's memory is left to the kernel until something has to leave.
//!
//! Then the process's own map is read, and what is anonymous, private, writable and not ours is managed
//! from there on; what grows later is found by looking again. Stacks stay out, with the records that the
//! C library keeps at their ends: a fork's child uses them before it has its pages.

use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use frontswap::page::PAGE_SIZE;

use crate::pagemap::{self, Mapping};
use crate::pager::{Files, Pager, read};
use crate::uffd::Refusal;

/// Shorter pieces are left alone: each costs the kernel a mapping.
const PIECE_BYTES_MIN: usize = 256 << 10;
/// The map is not read for longer than one part in this many of the time.
const SCAN_PART: u64 = 20;
const SCAN_PAUSE_US_MIN: u64 = 2000;

/// A thread's stack reaches this far below its record at most, when the mapping does not end before.
const STACK_BYTES_MAX: usize = 8 << 20;
/// A program with a larger limit for stacks is not left with nothing to manage.
const STACK_BYTES_LIMIT: usize = 64 << 20;
/// The record of a thread, and what lies behind it.
const THREAD_RECORD_BYTES: usize = 16 << 10;
/// Thread-local storage of the first thread lies below its record.
const FIRST_TLS_BYTES: usize = 256 << 10;

/// The C library's allocator puts the record of an arena at a multiple of this, and a fork's child uses it
/// before it has its pages.
const ARENA_ALIGN_BYTES: usize = 64 << 20;
const ARENA_HEAD_BYTES: usize = 16 << 10;

/// Memory of ours, and of the C library's own, that no pager may manage: first address and the one behind.
/// A table of fixed size, because an allocator adds to it.
static APART: [(AtomicUsize, AtomicUsize); APART_MAX] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; APART_MAX];
const APART_MAX: usize = 1024;

/// Keeps `range` out of every pager's hands. False when there are too many such ranges.
pub fn keep_apart(range: &Range<usize>) -> bool {
    APART.iter().any(|(start, end)| {
        let is_taken = start.compare_exchange(0, range.start, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if is_taken {
            end.store(range.end, Ordering::Release);
        }
        is_taken
    })
}

/// Undoes [`keep_apart`].
pub fn give_up(range: &Range<usize>) {
    let known = APART.iter().find(|(start, _)| start.load(Ordering::Acquire) == range.start);
    if let Some((start, end)) = known {
        end.store(0, Ordering::Release);
        start.store(0, Ordering::Release);
    }
}

fn apart() -> impl Iterator<Item = Range<usize>> {
    APART
        .iter()
        .map(|(start, end)| start.load(Ordering::Acquire)..end.load(Ordering::Acquire))
        .filter(|range| range.start != 0 && !range.is_empty())
}

/// When a pager looked last, and when it may again, in microseconds of its clock.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    next_us: AtomicU64,
    /// What was used beside the counted pages when the map was read last.
    base_bytes: AtomicI64,
}

/// When so much has come that nobody counted, the map is read at once: it is memory that is not managed yet,
/// and the program may be filling it as fast as it can.
const UNCOUNTED_BYTES_MAX: i64 = 4 << 20;

impl Pager {
    /// Manages what the program has got since the last look; returns how many bytes. Looks only now and
    /// then, unless `must`.
    pub(crate) fn register_growth(&self, must: bool) -> usize {
        let started = Instant::now();
        let now_us = self.clock_us();
        let base_bytes = self.used.base_bytes();
        let has_grown = base_bytes > self.growth.base_bytes.load(Ordering::Relaxed) + UNCOUNTED_BYTES_MAX;
        if !must && !has_grown && now_us < self.growth.next_us.load(Ordering::Relaxed) {
            return 0;
        }
        self.growth.base_bytes.store(base_bytes, Ordering::Relaxed);
        let mut mappings: Vec<Mapping> = Vec::with_capacity(256);
        let mut guarded: Vec<Range<usize>> = Vec::new();
        let mut guard_end = 0;
        let stack_bytes = stack_bytes();
        let _ = pagemap::each_mapping(|mapping| {
            if mapping.is_guard {
                guard_end = mapping.end;
            } else if mapping.is_movable && mapping.start == guard_end {
                guarded.push(mapping.start..mapping.end.min(mapping.start + stack_bytes));
            }
            if mapping.is_movable && mapping.end - mapping.start >= PIECE_BYTES_MIN {
                mappings.push(mapping);
            }
        });
        let mut apart: Vec<Range<usize>> = apart().collect();
        apart.push(self.staging.mapping_range());
        add_stacks(&mappings, &mut apart);
        apart.append(&mut guarded);
        let heads = mappings.iter().filter(|mapping| mapping.start % ARENA_ALIGN_BYTES == 0);
        apart.extend(heads.map(|mapping| mapping.start..mapping.start + ARENA_HEAD_BYTES));
        apart.sort_unstable_by_key(|range| range.start);
        let pieces: Vec<_> =
            mappings.iter().flat_map(|mapping| self.unmanaged(mapping.start..mapping.end, &apart)).collect();
        let bytes = self.manage_found(&pieces);
        let took_us = started.elapsed().as_micros() as u64;
        self.growth.next_us.store(now_us + (took_us * SCAN_PART).max(SCAN_PAUSE_US_MIN), Ordering::Relaxed);
        bytes
    }

    /// Manages ranges of the program that were mapped a moment ago; returns how many bytes.
    ///
    /// The program may have unmapped some meanwhile, and mapped something else. What is mapped there after
    /// the registration and answers as registered is what was registered: from then on the kernel tells of
    /// every change, and it is applied when `extents` is free again.
    pub(crate) fn manage_found(&self, pieces: &[Range<usize>]) -> usize {
        let files = read(&self.files).clone();
        let mut extents = self.extents.write().unwrap_or_else(PoisonError::into_inner);
        let registered: Vec<&Range<usize>> = pieces
            .iter()
            // SAFETY: anonymous memory of the program. A missing page that nobody knows is zeroes.
            .filter(|piece| unsafe { files.uffd.register(piece) }.is_ok())
            .collect();
        let mut bytes = 0;
        let _ = pagemap::each_mapping(|mapping| {
            for piece in &registered {
                let part = piece.start.max(mapping.start)..piece.end.min(mapping.end);
                if !part.is_empty()
                    && self.is_registered(&files, part.start)
                    && self.add_extent(&mut extents, &part)
                {
                    bytes += part.len();
                }
            }
        });
        bytes
    }

    /// Whether a page that nobody knows is registered here. If it is missing, it gets its zeroes by that.
    pub(crate) fn is_registered(&self, files: &Files, address: usize) -> bool {
        // SAFETY: the pager has never taken a page from there.
        let (done, refusal) = unsafe { files.uffd.zero(&(address..address + PAGE_SIZE)) };
        self.used.filled(done as u64);
        matches!(refusal, None | Some(Refusal::Exists))
    }

    /// The parts of a mapping that are neither managed nor kept apart.
    fn unmanaged(&self, mapping: Range<usize>, apart: &[Range<usize>]) -> Vec<Range<usize>> {
        let mut taken: Vec<Range<usize>> = apart.to_vec();
        taken.extend(read(&self.extents).within(mapping.clone()).map(|extent| extent.start..extent.end()));
        taken.sort_unstable_by_key(|range| range.start);
        let mut pieces = Vec::new();
        let mut at = mapping.start;
        for range in taken.iter().filter(|range| range.end > mapping.start && range.start < mapping.end) {
            if range.start > at {
                pieces.push(at..range.start);
            }
            at = at.max(range.end);
        }
        if at < mapping.end {
            pieces.push(at..mapping.end);
        }
        pieces.retain(|piece| piece.len() >= PIECE_BYTES_MIN);
        pieces
    }
}

/// What a thread's stack has unless the program says otherwise. The C library keeps stacks of threads that
/// have ended, and a fork's child looks at the records in them: what lies above a guard page is taken for one.
fn stack_bytes() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Stack).current;
    limit.map_or(STACK_BYTES_MAX, |bytes| bytes as usize).clamp(STACK_BYTES_MAX, STACK_BYTES_LIMIT)
}

/// Finds the stacks of the program's threads: the list of robust mutexes, of which the kernel knows the
/// head, lies in the C library's record of the thread, at the upper end of its stack.
fn add_stacks(mappings: &[Mapping], apart: &mut Vec<Range<usize>>) {
    let own = rustix::process::getpid();
    each_thread(|thread| {
        let (mut head, mut length) = (0usize, 0usize);
        // SAFETY: the call fills two words of ours.
        let answer =
            unsafe { libc::syscall(libc::SYS_get_robust_list, thread, &raw mut head, &raw mut length) };
        if answer != 0 || head == 0 {
            return;
        }
        let below = if thread == own.as_raw_nonzero().get() { FIRST_TLS_BYTES } else { STACK_BYTES_MAX };
        let lowest = mappings
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&head))
            .map_or(head, |mapping| mapping.start);
        let top = (head + THREAD_RECORD_BYTES).next_multiple_of(4096);
        apart.push(head.saturating_sub(below).max(lowest) & !4095..top);
    });
}

fn each_thread(mut visit: impl FnMut(i32)) {
    use rustix::fs::{Mode, OFlags, RawDir};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open("/proc/self/task", flags, Mode::empty()) else { return };
    let mut buffer = Vec::with_capacity(8192);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(Ok(entry)) = entries.next() {
        if let Some(thread) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
            visit(thread);
        }
    }
}
