//! NumPy's arrays in a space: the table of functions that NumPy calls for the data of new arrays.
//!
//! NumPy keeps the handler in a context variable and notes in each array which one made it, so an array
//! is freed by the handler that it came from, whenever that is. The handler is a capsule that holds the
//! space. Data below [`MANAGED_BYTES_MIN`] comes from the C library: a managed block is whole pages.
//! Source: NEP 49, and `PyDataMem_Handler` in NumPy's `ndarraytypes.h`, the same in 1.22 and later.

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use frontswap::error::{Error, Kind};
use frontswap::page::PAGE_SIZE;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::errors::raise;
use crate::heap::Heap;

/// Smaller data is not worth a page fault, or the unused end of its last page: below 6 % of this size.
pub const MANAGED_BYTES_MIN: usize = 64 << 10;

const CAPSULE: &CStr = c"mem_handler";

/// Places in NumPy's table of functions; they never change.
const GET_FEATURE_VERSION: usize = 211;
const SET_HANDLER: usize = 304;

/// NumPy 1.22, the first with handlers.
const FEATURE_VERSION_MIN: c_uint = 0x0f;

/// Where the table is: NumPy 2, NumPy 1.
const MODULES: [&str; 2] = ["numpy._core._multiarray_umath", "numpy.core._multiarray_umath"];

type Malloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type Calloc = unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, *mut c_void, usize);

/// `PyDataMem_Handler`, with its `PyDataMemAllocator` in place.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    context: *mut c_void,
    malloc: Malloc,
    calloc: Calloc,
    realloc: Realloc,
    free: Free,
}

/// What a capsule points to: the table, and what keeps its context alive.
#[repr(C)]
struct Held {
    handler: Handler,
    heap: Arc<Heap>,
}

/// The handler for arrays in `heap`, as NumPy wants it.
pub fn handler(py: Python<'_>, heap: &Arc<Heap>) -> PyResult<Py<PyAny>> {
    let mut name = [0; 127];
    for (to, from) in name.iter_mut().zip(b"frontswap") {
        *to = *from as c_char;
    }
    let context = Arc::as_ptr(heap).cast_mut().cast();
    let handler = Handler { name, version: 1, context, malloc, calloc, realloc, free };
    let held = Box::into_raw(Box::new(Held { handler, heap: heap.clone() }));
    // SAFETY: the pointer is valid until the destructor frees it; the name is static.
    let capsule = unsafe { ffi::PyCapsule_New(held.cast(), CAPSULE.as_ptr(), Some(drop_held)) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, capsule) }.map(Bound::unbind).inspect_err(|_| {
        // SAFETY: no capsule took it over.
        drop(unsafe { Box::from_raw(held) });
    })
}

unsafe extern "C" fn drop_held(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this once for a capsule of `handler`, when nobody has it any more: no array
    // either, since each holds the handler that made it.
    let held = unsafe { Box::from_raw(ffi::PyCapsule_GetPointer(capsule, CAPSULE.as_ptr()).cast::<Held>()) };
    drop(held);
}

/// Makes `handler` the one for new arrays of this context; returns the one before.
pub fn set_handler(py: Python<'_>, handler: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let table = functions(py)?;
    // SAFETY: the table has this function at this place since version 1.22, which `functions` checked.
    let set = unsafe {
        std::mem::transmute::<*const c_void, unsafe extern "C" fn(*mut ffi::PyObject) -> *mut ffi::PyObject>(
            *table.add(SET_HANDLER),
        )
    };
    // SAFETY: it takes a borrowed capsule, and returns a new reference or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, set(handler.as_ptr())) }.map(Bound::unbind)
}

/// NumPy's table of functions.
fn functions(py: Python<'_>) -> PyResult<*const *const c_void> {
    let find = |module: &str| py.import(module)?.getattr("_ARRAY_API");
    let capsule = find(MODULES[0]).or_else(|_| find(MODULES[1])).map_err(|error| unfit(py, &error))?;
    // SAFETY: a borrowed object; this answers null with an exception for what is no capsule.
    let table = unsafe { ffi::PyCapsule_GetPointer(capsule.as_ptr(), std::ptr::null()) };
    if table.is_null() {
        return Err(unfit(py, &PyErr::fetch(py)));
    }
    let table = table.cast_const().cast::<*const c_void>();
    // SAFETY: the function stands at this place in every version, and takes nothing.
    let version = unsafe {
        std::mem::transmute::<*const c_void, unsafe extern "C" fn() -> c_uint>(
            *table.add(GET_FEATURE_VERSION),
        )()
    };
    if version < FEATURE_VERSION_MIN {
        return Err(unfit(py, &"it is older than 1.22"));
    }
    Ok(table)
}

fn unfit(py: Python<'_>, reason: &dyn std::fmt::Display) -> PyErr {
    raise(py, &Error::new(Kind::NumpyUnfit, &[("reason", reason)]))
}

/// Calls `work` with the heap of a context.
///
/// # Safety
/// The context is one of `handler`, whose capsule is alive: NumPy holds it with the array.
unsafe fn with_heap<T>(context: *mut c_void, default: T, work: impl FnOnce(&Heap) -> T) -> T {
    // SAFETY: as the caller says.
    let heap = unsafe { &*context.cast::<Heap>() };
    // A panic cannot go through NumPy's code.
    catch_unwind(AssertUnwindSafe(|| work(heap))).unwrap_or(default)
}

fn block(heap: &Heap, bytes: usize, is_zeroed: bool) -> *mut c_void {
    match heap.allocate(bytes, is_zeroed, None) {
        Ok(at) => at.as_ptr().cast(),
        Err(error) => {
            Heap::refuse(error);
            null_mut()
        }
    }
}

// SAFETY: NumPy passes the context that it was given, and sizes; so for the others below.
unsafe extern "C" fn malloc(context: *mut c_void, bytes: usize) -> *mut c_void {
    if bytes < MANAGED_BYTES_MIN {
        // SAFETY: any size can be asked for; NumPy expects a pointer also for none.
        return unsafe { libc::malloc(bytes.max(1)) };
    }
    // SAFETY: NumPy passes the context of the table that this function is in.
    unsafe { with_heap(context, null_mut(), |heap| block(heap, bytes, false)) }
}

unsafe extern "C" fn calloc(context: *mut c_void, count: usize, each: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(each) else { return null_mut() };
    if bytes < MANAGED_BYTES_MIN {
        // SAFETY: any size can be asked for; NumPy expects a pointer also for none.
        return unsafe { libc::calloc(bytes.max(1), 1) };
    }
    // SAFETY: NumPy passes the context of the table that this function is in.
    unsafe { with_heap(context, null_mut(), |heap| block(heap, bytes, true)) }
}

unsafe extern "C" fn realloc(context: *mut c_void, at: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: NumPy passes the context of the table that this function is in.
    let length = unsafe { with_heap(context, None, |heap| heap.length(at as usize)) };
    match length {
        // SAFETY: a block that is not the heap's came from the C library, and small stays there.
        None if bytes < MANAGED_BYTES_MIN => unsafe { libc::realloc(at, bytes.max(1)) },
        Some(length) if bytes <= length && bytes > length / 2 => at,
        // SAFETY: as for this function; both blocks are at least as long as what is copied.
        _ => unsafe { move_block(context, at, length, bytes) },
    }
}

/// Moves what is at `at`, in the heap if it has a `length`, into a new block of `bytes`.
unsafe fn move_block(
    context: *mut c_void,
    at: *mut c_void,
    length: Option<usize>,
    bytes: usize,
) -> *mut c_void {
    // SAFETY: NumPy passes the context of the table that this function is in.
    let moved = unsafe { malloc(context, bytes) };
    if moved.is_null() || at.is_null() {
        return moved;
    }
    // SAFETY: a block that is not the heap's came from the C library, which knows its length.
    let length = length.unwrap_or_else(|| unsafe { libc::malloc_usable_size(at) });
    // SAFETY: the blocks are different ones, and each is at least so long.
    unsafe { std::ptr::copy_nonoverlapping(at.cast::<u8>(), moved.cast::<u8>(), length.min(bytes)) };
    // SAFETY: NumPy gave up the old block with its call.
    unsafe { free(context, at, length) };
    moved
}

unsafe extern "C" fn free(context: *mut c_void, at: *mut c_void, _bytes: usize) {
    let Some(at) = NonNull::new(at) else { return };
    // The length that NumPy passes is not always the one that it asked for; the table knows, and what is
    // not at the beginning of a page it need not be asked about.
    let is_ours = (at.as_ptr() as usize).is_multiple_of(PAGE_SIZE)
        // SAFETY: NumPy passes the context of the table that this function is in.
        && unsafe { with_heap(context, true, |heap| heap.release(at.as_ptr() as usize)) };
    if !is_ours {
        // SAFETY: what is not the heap's came from the C library, by the functions above.
        unsafe { libc::free(at.as_ptr()) };
    }
}
