//! Memory of our own: never from the program's allocator, whose lock a faulting thread may hold, and
//! never managed, because whoever brings pages in must not need one.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::{Allocator, Dlmalloc};
use frontswap_pager::growth;
use rustix::mm::{MapFlags, ProtFlags};

/// Mappings are as long as that, so that there are few. What is not touched costs nothing.
const MAPPING_BYTES: usize = 4 << 20;

/// Where the allocator gets its memory: mappings that no pager may manage.
struct Mappings;

/// The allocator behind all of this object's Rust code. Its lock is the standard library's futex: the C
/// library's mutex does without atomic operations while it believes that there is one thread.
struct Heap(Mutex<Dlmalloc<Mappings>>);

#[global_allocator]
static HEAP: Heap = Heap(Mutex::new(Dlmalloc::new_with_allocator(Mappings)));

impl Heap {
    fn lock(&self) -> MutexGuard<'_, Dlmalloc<Mappings>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: dlmalloc keeps the contract of an allocator, one caller at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that dlmalloc wants.
        unsafe { self.lock().malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.lock().free(pointer, layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above. Memory that is new from the system is not touched.
        unsafe { self.lock().calloc(layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.lock().realloc(pointer, layout.size(), layout.align(), size) }
    }
}

// SAFETY: hands out whole mappings, each once.
unsafe impl Allocator for Mappings {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let size = size.next_multiple_of(MAPPING_BYTES);
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        match unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), size, protection, flags) } {
            Ok(base) if growth::keep_apart(&(base as usize..base as usize + size)) => (base.cast(), size, 0),
            _ => (std::ptr::null_mut(), 0, 0),
        }
    }

    fn remap(&self, _pointer: *mut u8, _old: usize, _new: usize, _can_move: bool) -> *mut u8 {
        std::ptr::null_mut()
    }

    fn free_part(&self, _pointer: *mut u8, _old: usize, _new: usize) -> bool {
        false
    }

    fn free(&self, pointer: *mut u8, size: usize) -> bool {
        growth::give_up(&(pointer as usize..pointer as usize + size));
        // SAFETY: dlmalloc gives up what `alloc` handed out.
        unsafe { rustix::mm::munmap(pointer.cast(), size) }.is_ok()
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        4096
    }
}
