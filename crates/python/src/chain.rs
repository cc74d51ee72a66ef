//! A handle of one chain.

use std::sync::{Arc, PoisonError};

use frontswap::chain::{Chain as Layer, ChainOptions, Stored};
use frontswap::error::Error;
use frontswap::key::{Area, Bytes, Key, Offset, Pages};
use frontswap::page::Page;
use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::Answer;
use crate::backend::{Backend, Seat, set_counts};
use crate::buffers::{copy_in, writable};
use crate::errors::{detached, raise};
use crate::lifetime::Closable;
use crate::python_backend::refuse_reentry;

/// An ordered list of backends, and the map of the pages in them.
#[pyclass(frozen, module = "frontswap._frontswap")]
pub struct Chain {
    layer: Closable<Layer>,
    has_exclusive_loads: bool,
}

impl Chain {
    fn open(&self, py: Python<'_>, operation: &str) -> PyResult<Arc<Layer>> {
        self.layer.get(operation).map_err(|error| raise(py, &error))
    }

    /// Lets a backend know which chain it is in.
    pub fn join(seat: &Seat, layer: &Arc<Layer>) {
        *seat.chain.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(layer);
    }
}

#[pymethods]
impl Chain {
    #[new]
    #[pyo3(signature = (backends, *, writethrough, exclusive_loads, demote_bytes_per_s, promote_bytes_per_s))]
    fn new(
        py: Python<'_>,
        backends: Vec<Bound<'_, Backend>>,
        writethrough: bool,
        exclusive_loads: bool,
        demote_bytes_per_s: Option<u64>,
        promote_bytes_per_s: Option<u64>,
    ) -> PyResult<Self> {
        let seats: Result<Vec<_>, Error> =
            backends.iter().map(|backend| backend.get().seat("add to a chain")).collect();
        let seats = seats.map_err(|error| raise(py, &error))?;
        let options = ChainOptions {
            writethrough,
            demote_bytes_per_s: demote_bytes_per_s.map(Bytes),
            promote_bytes_per_s: promote_bytes_per_s.map(Bytes),
            ..ChainOptions::default()
        };
        let layer = detached(py, "create a chain", || {
            let layer = Layer::new(seats.iter().map(|seat| seat.member.clone()).collect(), options)?;
            for seat in &seats {
                Self::join(seat, &layer);
            }
            Ok(layer)
        })?;
        Ok(Chain {
            layer: Closable::new(layer, "Frontswap".to_owned()),
            has_exclusive_loads: exclusive_loads,
        })
    }

    fn init(&self, py: Python<'_>, area: &Bound<'_, PyAny>, pages: &Bound<'_, PyAny>) -> PyResult<()> {
        refuse_reentry("initialise an area").map_err(|error| raise(py, &error))?;
        let layer = self.open(py, "initialise an area")?;
        let (Some(number), Some(length)) = (number(area)?, number(pages)?) else {
            let fields: [(&'static str, &dyn std::fmt::Display); 2] = [("area", area), ("pages", pages)];
            return Err(raise(py, &Error::new(frontswap::Kind::AreaInvalid, &fields)));
        };
        detached(py, "init", || layer.init(Area(number), Pages(length)))
    }

    fn store(
        &self,
        py: Python<'_>,
        area: &Bound<'_, PyAny>,
        offset: &Bound<'_, PyAny>,
        page: &Bound<'_, PyAny>,
    ) -> PyResult<Answer> {
        let layer = self.open(py, "store a page")?;
        let mut copy = Page::ZERO;
        copy_in(page, &mut copy)?;
        let key = key_from(area, offset)?;
        let stored = detached(py, "store", || layer.store(key, &copy))?;
        Ok(match stored {
            Stored::In(seat) => {
                let backend = layer.member(seat).map(|member| member.name().to_owned());
                Answer { accepted: true, backend, reason: None }
            }
            Stored::SameFilled => Answer { accepted: true, backend: None, reason: None },
            Stored::Rejected(reason) => Answer { accepted: false, backend: None, reason: Some(reason) },
        })
    }

    #[pyo3(signature = (area, offset, out, exclusive=None))]
    fn load(
        &self,
        py: Python<'_>,
        area: &Bound<'_, PyAny>,
        offset: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        exclusive: Option<bool>,
    ) -> PyResult<bool> {
        let layer = self.open(py, "load a page")?;
        let view = writable(out)?;
        let key = key_from(area, offset)?;
        let exclusive = exclusive.unwrap_or(self.has_exclusive_loads);
        let mut page = Page::ZERO;
        let is_loaded = detached(py, "load", || layer.load(key, &mut page, exclusive))?;
        if is_loaded {
            view.copy_from_slice(py, &page.0)?;
        }
        Ok(is_loaded)
    }

    fn invalidate_page(
        &self,
        py: Python<'_>,
        area: &Bound<'_, PyAny>,
        offset: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let layer = self.open(py, "invalidate a page")?;
        let Some(key) = unless_impossible(py, key_from(area, offset))? else { return Ok(()) };
        detached(py, "invalidate", || {
            layer.invalidate_page(key);
            Ok(())
        })
    }

    fn invalidate_area(&self, py: Python<'_>, area: &Bound<'_, PyAny>) -> PyResult<()> {
        refuse_reentry("invalidate an area").map_err(|error| raise(py, &error))?;
        let layer = self.open(py, "invalidate an area")?;
        let Some(area) = unless_impossible(py, area_from(area))? else { return Ok(()) };
        detached(py, "invalidate", || {
            layer.invalidate_area(area);
            Ok(())
        })
    }

    fn add_backend(&self, py: Python<'_>, backend: &Bound<'_, Backend>, position: usize) -> PyResult<()> {
        refuse_reentry("add a backend").map_err(|error| raise(py, &error))?;
        let layer = self.open(py, "add a backend")?;
        let seat = backend.get().seat("add to a chain").map_err(|error| raise(py, &error))?;
        detached(py, "add a backend", || {
            layer.add_backend(seat.member.clone(), position)?;
            Self::join(&seat, &layer);
            Ok(())
        })
    }

    fn remove_backend(&self, py: Python<'_>, backend: &Bound<'_, Backend>) -> PyResult<()> {
        refuse_reentry("remove a backend").map_err(|error| raise(py, &error))?;
        let layer = self.open(py, "remove a backend")?;
        let seat = backend.get().seat("remove from a chain").map_err(|error| raise(py, &error))?;
        detached(py, "remove a backend", || layer.remove_backend(&seat.member))
    }

    #[pyo3(signature = (target_pages, pull=None))]
    fn shrink(&self, py: Python<'_>, target_pages: u64, pull: Option<Py<PyAny>>) -> PyResult<u64> {
        let layer = self.open(py, "shrink")?;
        let target = Pages(target_pages);
        let Some(pull) = pull else {
            return detached(py, "shrink", || Ok(layer.shrink_to_slow(target).0));
        };
        let mut raised = None;
        let reached = detached(py, "shrink", || {
            layer.shrink(target, &mut |key, page| {
                let taken = Python::attach(|py| {
                    let page = PyBytes::new(py, &page.0);
                    pull.call1(py, (key.area.0, key.offset.0, page))?.is_truthy(py)
                });
                Ok(taken.unwrap_or_else(|error| {
                    raised = Some(error);
                    false
                }))
            })
        });
        match raised {
            Some(error) => Err(error),
            None => Ok(reached?.0),
        }
    }

    fn curr_pages(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.open(py, "count pages")?.curr_pages().0)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let layer = self.open(py, "read counters")?;
        let stats = PyDict::new(py);
        let counts = layer.counts();
        set_counts(&stats, &counts)?;
        let mut totals = [0u64; 5];
        for member in layer.members() {
            let usage = py.detach(|| member.backend().usage());
            let part = [
                usage.compr_data_size.0,
                usage.mem_used_total.0,
                usage.mem_limit.0,
                usage.disk_used_total.0,
                usage.pool_limit_hit,
            ];
            for (total, part) in totals.iter_mut().zip(part) {
                *total = total.saturating_add(part);
            }
        }
        let map_bytes = layer.map_bytes().0;
        stats.set_item("orig_data_size", Pages(counts.stored_pages).bytes().0)?;
        stats.set_item("compr_data_size", totals[0])?;
        stats.set_item("mem_used_total", totals[1] + map_bytes)?;
        stats.set_item("mem_limit", totals[2])?;
        stats.set_item("disk_used_total", totals[3])?;
        stats.set_item("pool_limit_hit", totals[4])?;
        stats.set_item("map_bytes", map_bytes)?;
        let areas = PyDict::new(py);
        for area in layer.area_counts() {
            let counts = PyDict::new(py);
            counts.set_item("pages", area.pages.0)?;
            set_counts(&counts, &area.counts)?;
            areas.set_item(area.area.0, counts)?;
        }
        stats.set_item("areas", areas)?;
        Ok(stats)
    }

    /// Stops the worker and forgets every page. The backends are free for another chain, and empty.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        refuse_reentry("close a chain").map_err(|error| raise(py, &error))?;
        let layer = self.layer.close().map_err(|error| raise(py, &error))?;
        detached(py, "close", || {
            layer.close();
            drop(layer);
            Ok(())
        })
    }
}

/// A number from Python; `None` when there is no such number of that type.
///
/// # Errors
/// It is not a whole number.
fn number<'py, T: FromPyObjectOwned<'py>>(value: &Bound<'py, PyAny>) -> PyResult<Option<T>> {
    match value.extract::<T>().map_err(Into::into) {
        Ok(number) => Ok(Some(number)),
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An area from Python's number.
///
/// # Errors
/// It is not a whole number, or none that an area can have.
pub fn area_from(area: &Bound<'_, PyAny>) -> PyResult<Area> {
    let missing = || raise(area.py(), &Error::new(frontswap::Kind::AreaNumber, &[("area", area)]));
    number(area)?.map(Area).ok_or_else(missing)
}

/// A key from Python's numbers.
///
/// # Errors
/// One of them is not a whole number, or none that an area or an offset can have.
pub fn key_from(area: &Bound<'_, PyAny>, offset: &Bound<'_, PyAny>) -> PyResult<Key> {
    let number = number(offset)?;
    let area = area_from(area)?;
    let fields: [(&'static str, &dyn std::fmt::Display); 2] = [("area", &area), ("offset", offset)];
    let missing = || raise(offset.py(), &Error::new(frontswap::Kind::OffsetInvalid, &fields));
    Ok(Key { area, offset: number.map(Offset).ok_or_else(missing)? })
}

/// What cannot be a key holds no page, and to forget nothing cannot fail (rule B6). What is no number
/// at all is the caller's mistake.
///
/// # Errors
/// It is not a whole number.
pub fn unless_impossible<T>(py: Python<'_>, found: PyResult<T>) -> PyResult<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_instance_of::<PyTypeError>(py) => Err(error),
        Err(_) => Ok(None),
    }
}
