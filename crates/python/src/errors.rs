//! Errors of the table as Python's exceptions.

use std::panic::{AssertUnwindSafe, catch_unwind};

use frontswap::error::{Error, Kind, fill};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::python_backend::take_interrupt;

/// Runs `work` without the interpreter's lock. A panic in it becomes an `internal` error.
pub fn detached<T: Send>(
    py: Python<'_>,
    operation: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> PyResult<T> {
    let done = py.detach(|| catch_unwind(AssertUnwindSafe(work)));
    if let Some(interrupt) = take_interrupt() {
        return Err(interrupt);
    }
    done.unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        Err(Error::new(Kind::Internal, &[("operation", &operation), ("reason", &reason)]))
    })
    .map_err(|error| raise(py, &error))
}

/// The exception for an error.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    build(py, error.kind(), error.message(), &error.hint(), error.errno()).unwrap_or_else(|failed| failed)
}

fn build(py: Python<'_>, kind: Kind, message: &str, hint: &str, errno: Option<i32>) -> PyResult<PyErr> {
    let class = py.import("frontswap.errors")?.call_method1("class_for", (kind.code(),))?;
    let keywords = PyDict::new(py);
    keywords.set_item("hint", hint)?;
    keywords.set_item("errno", errno)?;
    Ok(PyErr::from_value(class.call((message,), Some(&keywords))?))
}

/// The table: code, built-in exception, message and hint of every kind.
#[pyfunction]
pub fn error_kinds() -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    Kind::ALL.iter().map(|kind| (kind.code(), kind.builtin().name(), kind.template(), kind.hint())).collect()
}

/// Builds the exception of a kind from the values of its message.
#[pyfunction]
#[pyo3(signature = (code, **fields))]
pub fn make_error<'py>(
    py: Python<'py>,
    code: &str,
    fields: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let kind = Kind::ALL
        .iter()
        .find(|kind| kind.code() == code)
        .ok_or_else(|| PyRuntimeError::new_err(format!("no error kind `{code}`")))?;
    let mut values = Vec::new();
    let mut errno = None;
    for (name, value) in fields.into_iter().flatten() {
        if name.eq("errno")? {
            errno = value.extract()?;
        } else {
            values.push((name.to_string(), value.str()?.to_string()));
        }
    }
    let (message, hint) = (fill(kind.template(), &values), fill(kind.hint(), &values));
    Ok(build(py, *kind, &message, &hint, errno)?.into_value(py).into_bound(py).into_any())
}
