//! A handle of one space, and the blocks in it.
//!
//! A block is a buffer of Python's: whatever is built on it (an array, a view of one, a memoryview) holds
//! it, and it holds the space. So there is no way to be left with memory that is gone.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use frontswap::chain::{Chain as Layer, ChainOptions};
use frontswap::error::{Error, Kind};
use frontswap::key::{Bytes, Pages};
use frontswap_pager::counters::Counters;
use frontswap_pager::{Accounting, Budget, Mode, Own, Pager, PagerOptions, Threads};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::backend::{Backend, set_counts};
use crate::chain::Chain;
use crate::errors::{detached, raise};
use crate::heap::{Heap, Stage};
use crate::numpy_memory::{handler, set_handler};

/// From this size on, giving a block back takes long enough for others to use the interpreter.
const DETACHED_BYTES_MIN: usize = 16 << 20;

/// RAM that is kept free for what is touched while the evictor sleeps.
const RESERVE_BYTES: u64 = 16 << 20;

/// Memory larger than RAM.
#[pyclass(frozen, module = "frontswap._frontswap")]
pub struct Space {
    heap: Arc<Heap>,
    handler: PyOnceLock<Py<PyAny>>,
}

/// A pager of the first of `modes` that we are permitted.
fn open_pager(ram: u64, modes: &[Mode], chain: &Arc<Layer>) -> Result<Arc<Pager>, Error> {
    let share = Arc::new(Own::new(ram));
    let budget = Budget { share, accounting: Accounting::Counted, reserve_bytes: RESERVE_BYTES };
    let open = |mode| {
        let (threads, chain, budget) = (Threads::Ordinary, chain.clone(), budget.clone());
        Pager::new(PagerOptions { mode, threads, chain, budget, reopen: None })
    };
    let (&first, others) = modes.split_first().expect("there is a mode");
    others.iter().fold(open(first), |opened, &mode| {
        opened.or_else(|error| if error.kind() == Kind::PagerPermission { open(mode) } else { Err(error) })
    })
}

#[pymethods]
impl Space {
    #[new]
    #[pyo3(signature = (ram, backends, *, mode))]
    fn new(py: Python<'_>, ram: u64, backends: Vec<Bound<'_, Backend>>, mode: &str) -> PyResult<Self> {
        let modes: &'static [Mode] = match mode {
            "signal" => &[Mode::Signal],
            "handler" => &[Mode::Handler],
            "auto" => &[Mode::Handler, Mode::Signal],
            other => return Err(PyValueError::new_err(format!("no mode named `{other}`"))),
        };
        let backends: Vec<Py<Backend>> = backends.into_iter().map(Bound::unbind).collect();
        let heap = detached(py, "create a space", || {
            let seats = backends.iter().map(|backend| backend.get().move_to_space());
            let seats = seats.collect::<Result<Vec<_>, Error>>()?;
            let members = seats.iter().map(|seat| seat.member.clone()).collect();
            // The pager does the chain's housekeeping.
            let chain = Layer::new(members, ChainOptions { own_worker: false, ..ChainOptions::default() })?;
            for seat in &seats {
                Chain::join(seat, &chain);
            }
            Ok(Heap::new(open_pager(ram, modes, &chain)?, chain))
        })?;
        Ok(Space { heap, handler: PyOnceLock::new() })
    }

    /// `signal` or `handler`.
    #[getter]
    fn mode(&self) -> &'static str {
        match self.heap.mode() {
            Mode::Signal => "signal",
            Mode::Handler => "handler",
        }
    }

    /// `open`, `leaving` or `closed`.
    #[getter]
    fn stage(&self) -> &'static str {
        match self.heap.stage() {
            Stage::Open => "open",
            Stage::Leaving => "leaving",
            Stage::Closed => "closed",
        }
    }

    #[getter]
    fn ram(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.heap.pager("read the RAM").map_err(|error| raise(py, &error))?.ram().0)
    }

    /// Sets the RAM, and the capacity of the first backend, if one is given.
    fn resize(&self, py: Python<'_>, ram: u64, pool_capacity: Option<u64>) -> PyResult<()> {
        detached(py, "set the RAM", || self.heap.resize(Bytes(ram), pool_capacity.map(Bytes)))
    }

    /// A new block; `label` is what messages call it.
    #[pyo3(signature = (nbytes, label, *, zeroed))]
    fn block(
        &self,
        py: Python<'_>,
        nbytes: &Bound<'_, PyAny>,
        label: String,
        zeroed: bool,
    ) -> PyResult<Block> {
        let Ok(bytes) = nbytes.extract::<usize>() else {
            let fields: [(&'static str, &dyn std::fmt::Display); 3] =
                [("size", nbytes), ("backend", &"a space"), ("reason", &"no address space is so large")];
            return Err(raise(py, &Error::new(Kind::NoMemory, &fields)));
        };
        let at = detached(py, "create an array", || {
            Ok(Address(self.heap.allocate(bytes, zeroed, Some(label))?))
        })?;
        Ok(Block { heap: self.heap.clone(), at, bytes })
    }

    /// Pages memory in and holds it; false when it is in no space, so that there is nothing to hold.
    fn pin(&self, py: Python<'_>, address: usize, nbytes: usize) -> PyResult<bool> {
        detached(py, "pin memory", || self.heap.pin(address, nbytes))
    }

    /// The reverse of a `pin` that returned true.
    fn unpin(&self, py: Python<'_>, address: usize, nbytes: usize) {
        py.detach(|| self.heap.unpin(address, nbytes));
    }

    /// The label, where there is one, and the length of each block in use.
    fn blocks(&self) -> Vec<(Option<String>, usize)> {
        self.heap.blocks().into_iter().map(|used| (used.label, used.bytes)).collect()
    }

    /// Makes this space the place of NumPy's new arrays in this context; returns what was before.
    fn enter_numpy(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let handler = self.handler.get_or_try_init(py, || handler(py, &self.heap))?;
        Heap::take_refusal();
        set_handler(py, handler.bind(py))
    }

    /// The reverse of `enter_numpy`; returns why NumPy was refused memory last, if it was.
    #[staticmethod]
    fn exit_numpy(py: Python<'_>, before: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        set_handler(py, before)?;
        Ok(Heap::take_refusal().map(|error| raise(py, &error).into_value(py).into_any()))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let pager = self.heap.pager("read counters").map_err(|error| raise(py, &error))?;
        let (counts, read) = py.detach(|| (self.heap.chain().counts(), pager.stats()));
        let stats = PyDict::new(py);
        set_counts(&stats, &counts)?;
        for (name, value) in Counters::NAMES.iter().zip(read.counters) {
            stats.set_item(name, value)?;
        }
        let (usage, (arrays, managed_bytes)) = (read.usage, self.heap.used());
        stats.set_item("arrays", arrays)?;
        for (name, value) in [
            ("managed_bytes", managed_bytes as u64),
            ("ram_limit_bytes", read.ram_limit_bytes),
            ("ram_used_bytes", usage.used_bytes),
            ("resident_bytes", usage.resident_bytes),
            ("stored_pages", usage.stored_pages),
            ("orig_data_size", Pages(usage.stored_pages).bytes().0),
            ("mem_used_total", usage.mem_used_total),
            ("disk_used_total", usage.disk_used_total),
            ("fault_ns_p50", read.fault_ns_p50),
            ("fault_ns_p99", read.fault_ns_p99),
        ] {
            stats.set_item(name, value)?;
        }
        Ok(stats)
    }

    /// Ends it, at once or with the last block; false, and nothing changed, when blocks are in use.
    fn close(&self, py: Python<'_>, later: bool) -> PyResult<bool> {
        detached(py, "close", || self.heap.close(later))
    }
}

/// The address and the length of what lies between the first and the last byte of a buffer.
#[pyfunction]
pub fn span(buffer: &Bound<'_, PyAny>) -> PyResult<(usize, usize)> {
    let view = PyUntypedBuffer::get(buffer).or_else(|error| {
        // NumPy's arrays of dates are no buffers; seen as bytes of that size they are.
        let Ok(size) = buffer.getattr("itemsize").and_then(|size| size.extract::<usize>()) else {
            return Err(error);
        };
        PyUntypedBuffer::get(&buffer.call_method1("view", (format!("V{size}"),))?)
    })?;
    let (mut first, mut last) = (view.buf_ptr() as usize, view.buf_ptr() as usize);
    if view.len_bytes() == 0 {
        return Ok((first, 0));
    }
    for (&length, &stride) in view.shape().iter().zip(view.strides()) {
        let reach = stride * (length as isize - 1);
        if reach < 0 {
            first = first.wrapping_add_signed(reach);
        } else {
            last = last.wrapping_add_signed(reach);
        }
    }
    Ok((first, last - first + view.item_size()))
}

/// An address that may go from thread to thread, as the block does.
#[derive(Clone, Copy)]
struct Address(NonNull<u8>);

// SAFETY: it is a number; what is done with the memory is the business of whoever has the block.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

/// Memory in a space: a writable buffer.
#[pyclass(frozen, module = "frontswap._frontswap")]
pub struct Block {
    heap: Arc<Heap>,
    at: Address,
    bytes: usize,
}

#[pymethods]
impl Block {
    fn __len__(&self) -> usize {
        self.bytes
    }

    // SAFETY: the interpreter passes a view to fill, as its buffer protocol says.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let block = slf.get();
        let (at, bytes) = (block.at.0.as_ptr().cast::<c_void>(), block.bytes as ffi::Py_ssize_t);
        // SAFETY: Python passes a view to be filled. It takes a reference to the block, so the memory
        // lives as long as the view, and is as long as is said.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), at, bytes, 0, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let at = self.at.0.as_ptr() as usize;
        let heap = &self.heap;
        if self.bytes < DETACHED_BYTES_MIN {
            heap.release(at);
            return;
        }
        let is_done = Python::try_attach(|py| py.detach(|| heap.release(at)));
        // The interpreter is gone, or cannot be asked: then nobody waits for it either.
        if is_done.is_none() {
            heap.release(at);
        }
    }
}
