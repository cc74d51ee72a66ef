//! Pages in and out of Python's buffers. A page is copied while the interpreter's lock is held, so
//! that no thread of Python changes it while it is hashed and encoded.

use std::fmt::Display;

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
        return Err(unfit(buffer, "load", "cannot be written"));
    }
    Ok(view)
}

fn checked(buffer: &Bound<'_, PyAny>, operation: &str) -> PyResult<PyBuffer<u8>> {
    let view = bytes_of(buffer, operation)?;
    if !view.is_c_contiguous() {
        return Err(unfit(buffer, operation, "does not lie in one piece"));
    }
    if view.len_bytes() != PAGE_SIZE {
        let fields: [(&'static str, &dyn Display); 2] =
            [("operation", &operation), ("length", &view.len_bytes())];
        return Err(raise(buffer.py(), &Error::new(Kind::PageLength, &fields)));
    }
    Ok(view)
}

/// The buffer as bytes, whatever numbers its items are.
fn bytes_of(buffer: &Bound<'_, PyAny>, operation: &str) -> PyResult<PyBuffer<u8>> {
    if let Ok(view) = PyBuffer::<u8>::get(buffer) {
        return Ok(view);
    }
    let memoryview = buffer.py().import("builtins")?.getattr("memoryview")?;
    let Ok(view) = memoryview.call1((buffer,)) else {
        return Err(unfit(buffer, operation, "is not a buffer"));
    };
    // References to objects are no bytes: to copy them, or over them, would corrupt the interpreter.
    if view.getattr("format")?.extract::<String>()?.contains('O') {
        return Err(unfit(buffer, operation, "holds references to objects"));
    }
    if !view.getattr("c_contiguous")?.extract::<bool>()? {
        return Err(unfit(buffer, operation, "does not lie in one piece"));
    }
    match view.call_method1("cast", ("B",)) {
        Ok(bytes) => PyBuffer::get(&bytes),
        Err(_) => Err(unfit(buffer, operation, "is not made of numbers")),
    }
}

fn unfit(buffer: &Bound<'_, PyAny>, operation: &str, reason: &str) -> PyErr {
    let class = buffer.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string());
    let fields: [(&'static str, &dyn Display); 3] =
        [("operation", &operation), ("buffer", &class), ("reason", &reason)];
    raise(buffer.py(), &Error::new(Kind::PageBuffer, &fields))
}
