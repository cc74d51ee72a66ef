//! The native module `frontswap._frontswap`.
//!
//! It converts arguments, releases the interpreter's lock around every call, and turns errors into
//! the exceptions of `frontswap.errors`. It decides nothing: what a person may ask for is checked in
//! Python, what happens to pages is decided in the crates below. No panic leaves it.

mod backend;
mod blocks;
mod buffers;
mod chain;
mod codecs;
mod errors;
mod heap;
mod lifetime;
mod numpy_memory;
mod python_backend;
mod space;
mod space_swap;
mod tree;

use frontswap::backend::Reject;
use frontswap_backends::CodecChoice;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// The answer to a store: true when the page was accepted.
#[pyclass(frozen, eq, hash, from_py_object, module = "frontswap._frontswap")]
#[derive(Clone, PartialEq, Eq, Hash)]
struct Answer {
    /// Whether the page was accepted.
    #[pyo3(get)]
    accepted: bool,
    /// The name of the backend that took it; `None` for a same-filled page, or when rejected.
    #[pyo3(get)]
    backend: Option<String>,
    reason: Option<Reject>,
}

#[pymethods]
impl Answer {
    #[new]
    #[pyo3(signature = (accepted, reason=None))]
    fn new(accepted: bool, reason: Option<&str>) -> PyResult<Self> {
        let reason = match reason {
            None if accepted => None,
            None => Some(Reject::Other),
            Some(reason) => Some(reject_from_word(reason)?),
        };
        Ok(Answer { accepted, backend: None, reason: reason.filter(|_| !accepted) })
    }

    /// Why it was rejected; `None` when it was accepted.
    #[getter]
    fn reason(&self) -> Option<&'static str> {
        self.reason.map(reject_word)
    }

    fn __bool__(&self) -> bool {
        self.accepted
    }

    fn __repr__(&self) -> String {
        match (&self.backend, self.reason) {
            (_, Some(reason)) => format!("rejected({:?})", reject_word(reason)),
            (Some(backend), None) => format!("<accepted by {backend}>"),
            (None, None) => "ACCEPTED".to_owned(),
        }
    }
}

/// A reason without the `reject_` of its counter.
fn reject_word(reason: Reject) -> &'static str {
    reason.name().trim_start_matches("reject_")
}

fn reject_from_word(word: &str) -> PyResult<Reject> {
    Reject::from_name(&format!("reject_{word}")).ok_or_else(|| {
        let known = Reject::ALL.map(reject_word).join("`, `");
        pyo3::exceptions::PyValueError::new_err(format!("no reason named `{word}`; known: `{known}`"))
    })
}

#[pymodule]
fn _frontswap(module: &Bound<'_, PyModule>) -> PyResult<()> {
    lifetime::watch_forks();
    let py = module.py();
    python_backend::watch_shutdown(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("PAGE_SIZE", frontswap::PAGE_SIZE)?;
    module.add("REJECT_REASONS", PyTuple::new(py, Reject::ALL.map(reject_word))?)?;
    module.add("CODECS", PyTuple::new(py, CodecChoice::names())?)?;
    module.add_class::<Answer>()?;
    module.add_class::<backend::Backend>()?;
    module.add_class::<chain::Chain>()?;
    module.add_class::<tree::Tree>()?;
    module.add_function(wrap_pyfunction!(tree::swap_file_fd, module)?)?;
    module.add_class::<space::Space>()?;
    module.add_class::<space::Block>()?;
    module.add_function(wrap_pyfunction!(errors::error_kinds, module)?)?;
    module.add_function(wrap_pyfunction!(errors::make_error, module)?)?;
    module.add_function(wrap_pyfunction!(codecs::measure_codecs, module)?)?;
    module.add_function(wrap_pyfunction!(space::span, module)?)?;
    Ok(())
}
