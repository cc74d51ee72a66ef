//! A chain inside a process whose own heap it moves away: the C library's allocator is never called, by us
//! or by the C code that is linked in. Alone in its file, because it counts the calls of the whole process.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use common::sharing::Claims;
use common::{Look, MIB, chain, faulty, member, without_worker};
use frontswap::{Bytes, Chain, Housekeeping, Key, Page, Pages};
use frontswap_backends::{
    CodecChoice, CodecName, Faults, Incompressible, Ram, SwapFile, Zpool, ZpoolOptions,
};
use rustix::mm::{MapFlags, ProtFlags};

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if IS_COUNTING.load(Ordering::Relaxed) {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: these are what the C library itself calls, with its types.
unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
}

// SAFETY: it answers what the C library's own would.
#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: the caller's arguments are handed on.
    unsafe { __libc_malloc(size) }
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn calloc(count_of: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: as above.
    unsafe { __libc_calloc(count_of, size) }
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: as above.
    unsafe { __libc_realloc(old, size) }
}

/// Memory of our own for everything in Rust: handed out one after the other, and never freed.
struct Bump {
    base: AtomicUsize,
    used: AtomicUsize,
}

const ROOM_BYTES: usize = 16 << 30;

// SAFETY: every answer is a range of a mapping that stays, and no byte is in two of them.
unsafe impl GlobalAlloc for Bump {
    /// # Safety
    /// None is needed: nobody else gets these bytes.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = match self.base.load(Ordering::Acquire) {
            0 => self.begin(),
            base => base,
        };
        let at = self.used.fetch_add(layout.size() + layout.align(), Ordering::Relaxed);
        assert!(at + layout.size() + layout.align() <= ROOM_BYTES);
        (base + at).next_multiple_of(layout.align()) as *mut u8
    }

    /// What was never used is zeroed.
    ///
    /// # Safety
    /// As above.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's argument is handed on.
        unsafe { self.alloc(layout) }
    }

    /// # Safety
    /// As above: it does nothing.
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

impl Bump {
    fn begin(&self) -> usize {
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), ROOM_BYTES, protection, flags) };
        let base = base.map_or(0, |base| base as usize);
        // Another thread may have been first; then this mapping is left unused.
        self.base
            .compare_exchange(0, base, Ordering::AcqRel, Ordering::Acquire)
            .unwrap_or_else(|first| first);
        self.base.load(Ordering::Acquire)
    }
}

#[global_allocator]
static MEMORY: Bump = Bump { base: AtomicUsize::new(0), used: AtomicUsize::new(0) };

fn pool(codec: CodecChoice, incompressible: Incompressible) -> Arc<Zpool> {
    let options = ZpoolOptions { capacity: Bytes(2 * MIB), codec, level: 3, incompressible, inherit: true };
    Arc::new(Zpool::new(options).unwrap())
}

/// Stores, loads, keeps house and forgets, on a chain that is short of room everywhere.
fn work(chain: &Chain) {
    let mut out = Page::ZERO;
    for round in 0..2 {
        for offset in 0..5000u64 {
            let page = Look::ALL[offset as usize % 4].page(offset ^ round);
            let _ = chain.store_changed(Key::new(0, offset), &page);
            if offset % 500 == 0 {
                while chain.maintain() {}
            }
        }
        for offset in 0..5200 {
            let key = Key::new(0, offset);
            chain.whereabouts(key);
            let _ = chain.load(key, &mut out, offset % 7 == 0);
        }
        chain.tidy();
    }
    chain.shrink_to_slow(Pages(100));
    let _ = chain.shrink(Pages(10), &mut |_, _| Ok(true));
    chain.close();
}

#[test]
fn the_allocator_of_the_c_library_is_left_alone() {
    IS_COUNTING.store(true, Ordering::Relaxed);
    let zstd = CodecChoice::Fixed(CodecName::Zstd);
    let faults = Faults {
        seed: 3,
        load_error: 0.01,
        corrupt: 0.01,
        reject: 0.05,
        store_error: 0.0002,
        ..Faults::default()
    };
    let plain = || Arc::new(Ram::with_inherit(Bytes(MIB), true).unwrap());
    let nameless = SwapFile::create_without_writers(&std::env::temp_dir(), Bytes(8 * MIB), false).unwrap();
    let chains = [
        [member(pool(zstd, Incompressible::Keep)), member(plain()), member(Claims::new(16).swap_file())],
        [
            member(pool(CodecChoice::Auto, Incompressible::Reject)),
            member(faulty(plain(), faults)),
            member(Arc::new(nameless)),
        ],
    ]
    .map(|members| chain(&members.each_ref(), without_worker(), 10_000));
    chains.iter().for_each(|chain| work(chain));
    IS_COUNTING.store(false, Ordering::Relaxed);
    assert_eq!(CALLS.load(Ordering::Relaxed), 0);
    // It does see such calls.
    IS_COUNTING.store(true, Ordering::Relaxed);
    // SAFETY: it only takes memory.
    let taken = std::hint::black_box(malloc(std::hint::black_box(100)));
    IS_COUNTING.store(false, Ordering::Relaxed);
    assert!(!taken.is_null() && CALLS.load(Ordering::Relaxed) == 1);
}
