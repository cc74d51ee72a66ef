//! Pages in and out of Python's buffers. A page is copied while the interpreter's lock is held, so
//! that no thread of Python changes it while it is hashed and encoded.

use frontswap::error::{Error, Kind};
use frontswap::page::{PAGE_SIZE, Page};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use crate::errors::raise;

/// Copies the page in `buffer` into `page`.
pub fn copy_in(buffer: &Bound<'_, PyAny>, page: &mut Page) -> PyResult<()> {
    checked(buffer, "store")?.copy_to_slice(buffer.py(), &mut page.0)
}

/// A writable view of 4096 bytes.
pub fn writable(buffer: &Bound<'_, PyAny>) -> PyResult<PyBuffer<u8>> {
    let view = checked(buffer, "load")?;
    if view.readonly() {
        return Err(pyo3::exceptions::PyTypeError::new_err("cannot load a page into a read-only buffer"));
    }
    Ok(view)
}

fn checked(buffer: &Bound<'_, PyAny>, operation: &str) -> PyResult<PyBuffer<u8>> {
    let view = bytes_of(buffer)?;
    if view.len_bytes() != PAGE_SIZE || !view.is_c_contiguous() {
        let fields: [(&'static str, &dyn std::fmt::Display); 2] =
            [("operation", &operation), ("length", &view.len_bytes())];
        return Err(raise(buffer.py(), &Error::new(Kind::PageLength, &fields)));
    }
    Ok(view)
}

/// The buffer as bytes, whatever its items are.
fn bytes_of(buffer: &Bound<'_, PyAny>) -> PyResult<PyBuffer<u8>> {
    if let Ok(view) = PyBuffer::<u8>::get(buffer) {
        return Ok(view);
    }
    let view = buffer.py().import("builtins")?.getattr("memoryview")?.call1((buffer,))?;
    let is_contiguous: bool = view.getattr("c_contiguous")?.extract()?;
    if !is_contiguous {
        let length: usize = view.getattr("nbytes")?.extract()?;
        let fields: [(&'static str, &dyn std::fmt::Display); 2] =
            [("operation", &"use"), ("length", &format!("{length} scattered"))];
        return Err(raise(buffer.py(), &Error::new(Kind::PageLength, &fields)));
    }
    PyBuffer::get(&view.call_method1("cast", ("B",))?)
}
