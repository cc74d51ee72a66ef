//! A handle of one backend.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use frontswap::backend::{Answer as Answered, Loaded, Reject};
use frontswap::counters::Counts;
use frontswap::error::{Error, Kind};
use frontswap::key::{Bytes, Key, Pages};
use frontswap::member::{Member, State};
use frontswap::page::Page;
use frontswap_backends::{
    CodecChoice, FaultInject, Faults, Incompressible, Ram, SwapFile, Zpool, ZpoolOptions,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::Answer;
use crate::buffers::{copy_in, writable};
use crate::chain::{area_from, key_from, unless_impossible};
use crate::errors::{detached, raise};
use crate::lifetime::Closable;
use crate::python_backend::PythonBackend;
use crate::space_swap;

/// Locks for keys of a backend that is used without a chain; a chain has better ones.
const KEY_LOCKS: usize = 64;

/// One backend, in a chain or by itself.
#[pyclass(frozen, module = "frontswap._frontswap")]
pub struct Backend {
    seat: Closable<Seat>,
    kind: String,
    place: String,
    is_volatile: bool,
    is_slow: bool,
    recipe: Recipe,
}

/// How to make a backend of that kind anew, so that a child of fork has a copy of it.
#[derive(Clone)]
enum Recipe {
    Zpool(ZpoolOptions),
    Ram(Bytes),
    File { directory: PathBuf, size: Bytes, direct: bool },
    FaultInject { inner: Box<Recipe>, faults: Faults },
    Python,
}

impl Recipe {
    fn make(&self) -> Result<Arc<dyn frontswap::Backend>, Error> {
        Ok(match self {
            Recipe::Zpool(options) => Arc::new(Zpool::new(ZpoolOptions { inherit: true, ..*options })?),
            Recipe::Ram(capacity) => Arc::new(Ram::with_inherit(*capacity, true)?),
            Recipe::File { directory, size, direct } => {
                Arc::new(space_swap::create(directory, *size, *direct)?)
            }
            Recipe::FaultInject { inner, faults } => Arc::new(FaultInject::new(inner.make()?, *faults)),
            Recipe::Python => {
                let fields: [(&'static str, &dyn std::fmt::Display); 2] =
                    [("operation", &"move to a space"), ("reason", &"a backend of Python's own")];
                return Err(Error::new(Kind::Internal, &fields));
            }
        })
    }
}

/// What a handle holds while it is open.
pub struct Seat {
    pub member: Arc<Member>,
    /// The chain that it was put into last.
    pub chain: Mutex<Weak<frontswap::Chain>>,
    /// Rule B9 for a backend without a chain: calls on one key wait for each other.
    keys: [Mutex<()>; KEY_LOCKS],
    /// The backend that this one wraps.
    inner: Option<Arc<Member>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(inner) = &self.inner {
            inner.leave_seat();
        }
    }
}

impl Backend {
    fn wrap(backend: Arc<dyn frontswap::Backend>, inner: Option<Arc<Member>>, recipe: Recipe) -> Self {
        let seat = Seat::new(backend, inner);
        let description = seat.member.description().clone();
        let label = seat.member.name().to_owned();
        Backend {
            seat: Closable::new(Arc::new(seat), label),
            kind: description.kind,
            place: description.place,
            is_volatile: description.is_volatile,
            is_slow: description.is_slow,
            recipe,
        }
    }

    /// Gives what the handle holds up for one of the same kind that a child of fork has a copy of, which
    /// the handle then holds.
    ///
    /// # Errors
    /// It belongs to a chain, holds pages, or cannot be made anew; then it is closed.
    pub fn move_to_space(&self) -> Result<Arc<Seat>, Error> {
        let before = self.seat("move to a space")?;
        let pages = before.member.backend().usage().stored_pages.0;
        if before.member.is_seated() || pages > 0 {
            let fields: [(&'static str, &dyn std::fmt::Display); 2] =
                [("backend", &before.member.name()), ("pages", &pages)];
            let kind = if pages > 0 { Kind::BackendNotEmpty } else { Kind::BackendInChain };
            return Err(Error::new(kind, &fields));
        }
        drop(before);
        // Two files of its size might not fit on the disk at once.
        drop(self.seat.close()?);
        let seat = Arc::new(Seat::new(self.recipe.make()?, None));
        self.seat.reopen(seat.clone());
        Ok(seat)
    }

    /// What the handle holds, for `operation`.
    pub fn seat(&self, operation: &str) -> Result<Arc<Seat>, Error> {
        self.seat.get(operation)
    }

    fn open(&self, py: Python<'_>, operation: &str) -> PyResult<Arc<Seat>> {
        self.seat(operation).map_err(|error| raise(py, &error))
    }

    /// The backend for a call past any chain.
    fn alone(&self, py: Python<'_>, operation: &'static str) -> PyResult<Arc<Seat>> {
        let seat = self.open(py, operation)?;
        if seat.member.is_seated() {
            let fields: [(&'static str, &dyn std::fmt::Display); 2] =
                [("operation", &operation), ("backend", &seat.member.name())];
            return Err(raise(py, &Error::new(Kind::BackendInUse, &fields)));
        }
        Ok(seat)
    }
}

impl Seat {
    fn new(backend: Arc<dyn frontswap::Backend>, inner: Option<Arc<Member>>) -> Self {
        Seat {
            member: Arc::new(Member::new(backend)),
            chain: Mutex::new(Weak::new()),
            keys: [const { Mutex::new(()) }; KEY_LOCKS],
            inner,
        }
    }

    fn with_key<T>(&self, key: Key, work: impl FnOnce(&Member) -> T) -> T {
        let lock = &self.keys[(key.offset.0 % KEY_LOCKS as u64) as usize];
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        work(&self.member)
    }

    fn chain(&self) -> Option<Arc<frontswap::Chain>> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }
}

#[pymethods]
impl Backend {
    /// Compressed RAM.
    #[staticmethod]
    #[pyo3(signature = (capacity, *, codec="auto", level=1, incompressible="keep"))]
    fn zpool(py: Python<'_>, capacity: u64, codec: &str, level: i32, incompressible: &str) -> PyResult<Self> {
        let incompressible = match incompressible {
            "keep" => Incompressible::Keep,
            "reject" => Incompressible::Reject,
            other => return Err(option_invalid(py, "incompressible", other, "it is `keep` or `reject`")),
        };
        if !(-7..=22).contains(&level) {
            return Err(option_invalid(py, "level", &level.to_string(), "zstd has levels -7 to 22"));
        }
        let codec = CodecChoice::from_name(codec).map_err(|error| raise(py, &error))?;
        let options =
            ZpoolOptions { capacity: Bytes(capacity), codec, level, incompressible, inherit: false };
        let pool = detached(py, "create a zpool", || Zpool::new(options))?;
        Ok(Self::wrap(Arc::new(pool), None, Recipe::Zpool(options)))
    }

    /// Plain RAM.
    #[staticmethod]
    fn ram(py: Python<'_>, capacity: u64) -> PyResult<Self> {
        let ram = detached(py, "create plain ram", || Ram::new(Bytes(capacity)))?;
        Ok(Self::wrap(Arc::new(ram), None, Recipe::Ram(Bytes(capacity))))
    }

    /// The slow swap.
    #[staticmethod]
    #[pyo3(signature = (directory, size, *, direct=true))]
    fn file(py: Python<'_>, directory: &str, size: u64, direct: bool) -> PyResult<Self> {
        let file = detached(py, "create a swap file", || {
            SwapFile::create(Path::new(directory), Bytes(size), direct)
        })?;
        let recipe = Recipe::File { directory: PathBuf::from(directory), size: Bytes(size), direct };
        Ok(Self::wrap(Arc::new(file), None, recipe))
    }

    /// Another backend, with faults. The inner one belongs to it from then on.
    #[staticmethod]
    #[pyo3(signature = (inner, *, seed, reject, delay_us, store_error, load_error, corrupt))]
    #[expect(clippy::too_many_arguments, reason = "each is a keyword of Python's")]
    fn fault_inject(
        py: Python<'_>,
        inner: &Bound<'_, Backend>,
        seed: u64,
        reject: f64,
        delay_us: u64,
        store_error: f64,
        load_error: f64,
        corrupt: f64,
    ) -> PyResult<Self> {
        let member = inner.get().alone(py, "wrap")?.member.clone();
        if !member.take_seat() {
            return Err(raise(py, &Error::new(Kind::BackendInChain, &[("backend", &member.name())])));
        }
        let delay = Duration::from_micros(delay_us);
        let faults = Faults { seed, reject, delay, store_error, load_error, corrupt };
        let recipe = Recipe::FaultInject { inner: Box::new(inner.get().recipe.clone()), faults };
        let outer = FaultInject::new(member.backend().clone(), faults);
        Ok(Self::wrap(Arc::new(outer), Some(member), recipe))
    }

    /// A backend written in Python: an object with the five methods.
    #[staticmethod]
    fn python(implementation: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self::wrap(Arc::new(PythonBackend::new(implementation)?), None, Recipe::Python))
    }

    #[getter]
    fn kind(&self) -> &str {
        &self.kind
    }

    #[getter]
    fn place(&self) -> &str {
        &self.place
    }

    #[getter]
    fn name(&self) -> &str {
        self.seat.label()
    }

    #[getter]
    fn is_volatile(&self) -> bool {
        self.is_volatile
    }

    #[getter]
    fn is_slow(&self) -> bool {
        self.is_slow
    }

    #[getter]
    fn state(&self) -> &'static str {
        match self.seat("read the state").map(|seat| seat.member.state()) {
            Ok(State::Ready) => "ready",
            Ok(State::Draining) => "draining",
            Ok(State::Broken) => "broken",
            Err(_) => "closed",
        }
    }

    #[getter]
    fn broken_reason(&self) -> Option<String> {
        let seat = self.seat("read the state").ok()?;
        seat.member.broken_reason().map(str::to_owned)
    }

    #[getter]
    fn capacity(&self, py: Python<'_>) -> PyResult<u64> {
        let seat = self.open(py, "read the capacity")?;
        Ok(seat.member.backend().usage().mem_limit.0)
    }

    /// Sets the capacity; pages that no longer fit go down the chain before this returns.
    #[setter]
    fn set_capacity(&self, py: Python<'_>, value: u64) -> PyResult<()> {
        let seat = self.open(py, "set the capacity")?;
        detached(py, "set the capacity", || {
            seat.member.backend().set_capacity(Bytes(value))?;
            if let Some(chain) = seat.chain() {
                chain.fit(&seat.member);
            }
            Ok(())
        })
    }

    fn init(&self, py: Python<'_>, area: &Bound<'_, PyAny>, pages: u64) -> PyResult<()> {
        let seat = self.alone(py, "initialise an area of")?;
        let area = area_from(area)?;
        detached(py, "init", || seat.member.backend().init(area, Pages(pages)))
    }

    fn store(
        &self,
        py: Python<'_>,
        area: &Bound<'_, PyAny>,
        offset: &Bound<'_, PyAny>,
        page: &Bound<'_, PyAny>,
    ) -> PyResult<Answer> {
        let seat = self.alone(py, "store into")?;
        let mut copy = Page::ZERO;
        copy_in(page, &mut copy)?;
        let key = key_from(area, offset)?;
        let answer = detached(py, "store", || seat.with_key(key, |member| member.store(key, &copy)))?;
        Ok(match answer {
            Answered::Accepted => {
                Answer { accepted: true, backend: Some(seat.member.name().to_owned()), reason: None }
            }
            Answered::Rejected(reason) => Answer { accepted: false, backend: None, reason: Some(reason) },
        })
    }

    fn load(
        &self,
        py: Python<'_>,
        area: &Bound<'_, PyAny>,
        offset: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let seat = self.alone(py, "load from")?;
        let view = writable(out)?;
        let key = key_from(area, offset)?;
        let mut page = Page::ZERO;
        let answer = detached(py, "load", || seat.with_key(key, |member| member.load(key, &mut page)))?;
        if answer == Loaded::Loaded {
            view.copy_from_slice(py, &page.0)?;
        }
        Ok(answer == Loaded::Loaded)
    }

    fn invalidate_page(
        &self,
        py: Python<'_>,
        area: &Bound<'_, PyAny>,
        offset: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let seat = self.alone(py, "invalidate a page of")?;
        let Some(key) = unless_impossible(py, key_from(area, offset))? else { return Ok(()) };
        detached(py, "invalidate", || {
            seat.with_key(key, |member| member.invalidate_page(key));
            Ok(())
        })
    }

    fn invalidate_area(&self, py: Python<'_>, area: &Bound<'_, PyAny>) -> PyResult<()> {
        let seat = self.alone(py, "invalidate an area of")?;
        let Some(area) = unless_impossible(py, area_from(area))? else { return Ok(()) };
        detached(py, "invalidate", || {
            seat.member.backend().invalidate_area(area);
            Ok(())
        })
    }

    /// Up to `want` keys that it would hand down next.
    fn coldest(&self, py: Python<'_>, want: usize) -> PyResult<Vec<(u16, u64)>> {
        let seat = self.open(py, "look for cold pages")?;
        let victims = detached(py, "look for cold pages", || {
            let mut victims = Vec::new();
            seat.member.backend().coldest(want, &mut victims);
            Ok(victims)
        })?;
        Ok(victims.into_iter().map(|key| (key.area.0, key.offset.0)).collect())
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let seat = self.open(py, "read counters")?;
        let member = &seat.member;
        let (usage, counts, details) =
            py.detach(|| (member.backend().usage(), member.counters.read(), member.backend().details()));
        let stored = if member.is_seated() { counts.stored_pages } else { usage.stored_pages.0 };
        let stats = PyDict::new(py);
        stats.set_item("kind", &self.kind)?;
        stats.set_item("name", member.name())?;
        stats.set_item("state", self.state())?;
        stats.set_item("broken_reason", member.broken_reason())?;
        set_counts(&stats, &counts)?;
        stats.set_item("stored_pages", stored)?;
        stats.set_item("orig_data_size", Pages(stored).bytes().0)?;
        stats.set_item("compr_data_size", usage.compr_data_size.0)?;
        stats.set_item("mem_used_total", usage.mem_used_total.0)?;
        stats.set_item("disk_used_total", usage.disk_used_total.0)?;
        stats.set_item("mem_limit", usage.mem_limit.0)?;
        stats.set_item("pool_limit_hit", usage.pool_limit_hit)?;
        let more = PyDict::new(py);
        for (name, value) in details {
            more.set_item(name, value)?;
        }
        stats.set_item("details", more)?;
        Ok(stats)
    }

    /// Gives everything back.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.alone(py, "close")?;
        let seat = self.seat.close().map_err(|error| raise(py, &error))?;
        py.detach(|| drop(seat));
        Ok(())
    }
}

/// Adds the counters that chains, areas and backends share.
pub fn set_counts(stats: &Bound<'_, PyDict>, counts: &Counts) -> PyResult<()> {
    for (name, value) in [
        ("loads", counts.loads),
        ("loads_missing", counts.loads_missing),
        ("load_errors", counts.load_errors),
        ("succ_stores", counts.succ_stores),
        ("failed_stores", counts.failed_stores),
        ("invalidates", counts.invalidates),
        ("stored_pages", counts.stored_pages),
        ("same_filled_pages", counts.same_filled_pages),
        ("written_back_pages", counts.written_back_pages),
        ("promoted_pages", counts.promoted_pages),
    ] {
        stats.set_item(name, value)?;
    }
    for (reason, value) in Reject::ALL.iter().zip(counts.rejects) {
        stats.set_item(reason.name(), value)?;
    }
    Ok(())
}

fn option_invalid(py: Python<'_>, key: &str, value: &str, reason: &str) -> PyErr {
    let fields: [(&'static str, &dyn std::fmt::Display); 4] =
        [("key", &key), ("object", &"zpool"), ("value", &value), ("reason", &reason)];
    raise(py, &Error::new(Kind::OptionInvalid, &fields))
}
