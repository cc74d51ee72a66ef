//! A backend written in Python, as the chain sees it.
//!
//! It is slow and for experiments: every call takes the interpreter's lock. It never runs where a
//! faulting thread waits. The adapter knows which keys it accepted, so that counting, capacity and
//! draining work for a class of five methods.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use frontswap::backend::{Answer, Backend, Description, Loaded, Reject, Usage};
use frontswap::error::{Error, Kind};
use frontswap::key::{Area, Bytes, Key, Pages};
use frontswap::page::{PAGE_SIZE, Page};
use frontswap::table::PageTable;
use frontswap_backends::clock::{AGE_LOADED, AGE_STORED, Clock};
use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyWeakrefMethods, PyWeakrefReference};

/// Says in an entry that the key is held.
const HELD: u32 = 16;

/// Why a call of an object failed.
struct Failure {
    reason: String,
    /// What was raised is no `Exception` but, say, a `KeyboardInterrupt`.
    is_interrupt: bool,
}

impl Failure {
    fn new(reason: &str) -> Self {
        Failure { reason: reason.to_owned(), is_interrupt: false }
    }

    fn from_error(py: Python<'_>, error: PyErr) -> Self {
        let is_interrupt = !error.is_instance_of::<PyException>(py);
        let reason = error.to_string();
        if is_interrupt {
            INTERRUPT.with_borrow_mut(|interrupt| *interrupt = Some(error));
        }
        Failure { reason, is_interrupt }
    }
}

thread_local! {
    /// An interrupt that a backend of this thread's call raised.
    static INTERRUPT: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// The interrupt that came during the call that is over now, if one did.
pub fn take_interrupt() -> Option<PyErr> {
    INTERRUPT.with_borrow_mut(Option::take)
}

/// Calls of Python objects that wait for the interpreter's lock or have it. The interpreter ends threads
/// that ask for its lock while it shuts down, and they cannot be ended in the middle of our code: so no
/// call begins from then on, and the shutdown waits for those that have begun.
static CALLS: AtomicUsize = AtomicUsize::new(0);
static IS_SHUTTING_DOWN: AtomicBool = AtomicBool::new(false);

/// How long a shutdown waits for one call at most, and how often it looks.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);
const SHUTDOWN_POLL: Duration = Duration::from_millis(1);

struct Call;

thread_local! {
    /// Calls of Python objects that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// An error when this thread is inside the code of a backend: what waits for all calls to end, as a
/// change of a chain does, would wait for itself. A signal handler that closes a chain can come there.
pub fn refuse_reentry(operation: &str) -> Result<(), Error> {
    if DEPTH.get() == 0 {
        return Ok(());
    }
    Err(Error::new(Kind::Reentered, &[("operation", &operation)]))
}

impl Call {
    fn begin() -> Option<Self> {
        CALLS.fetch_add(1, Ordering::SeqCst);
        DEPTH.set(DEPTH.get() + 1);
        let call = Call;
        (!IS_SHUTTING_DOWN.load(Ordering::SeqCst)).then_some(call)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        CALLS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Has the interpreter say when it shuts down.
pub fn watch_shutdown(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let shut_down = wrap_pyfunction!(shut_down, module)?;
    module.py().import("atexit")?.call_method1("register", (shut_down,)).map(drop)
}

#[pyfunction]
fn shut_down(py: Python<'_>) {
    IS_SHUTTING_DOWN.store(true, Ordering::SeqCst);
    py.detach(|| {
        let start = Instant::now();
        while CALLS.load(Ordering::SeqCst) > 0 && start.elapsed() < SHUTDOWN_WAIT {
            std::thread::sleep(SHUTDOWN_POLL);
        }
    });
}

/// An object with the five methods.
pub struct PythonBackend {
    /// Weak: the object holds the handle that holds us. A chain's owner keeps the object itself.
    implementation: Py<PyWeakrefReference>,
    description: Description,
    held: PageTable<1>,
    clock: Clock<1>,
    capacity: AtomicU64,
    pool_limit_hit: AtomicU64,
}

impl PythonBackend {
    /// Wraps an object.
    pub fn new(implementation: &Bound<'_, PyAny>) -> PyResult<Self> {
        let description = Description {
            kind: implementation.getattr("kind")?.extract()?,
            place: implementation.getattr("place")?.extract()?,
            is_volatile: implementation.getattr("volatile")?.extract()?,
            is_slow: implementation.getattr("slow")?.extract()?,
        };
        Ok(PythonBackend {
            implementation: PyWeakrefReference::new(implementation)?.unbind(),
            description,
            held: PageTable::default(),
            clock: Clock::default(),
            capacity: AtomicU64::new(u64::MAX),
            pool_limit_hit: AtomicU64::new(0),
        })
    }

    /// Calls the object.
    fn call<T>(&self, work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Result<T, Failure> {
        let _call = Call::begin().ok_or_else(|| Failure::new("the interpreter is shutting down"))?;
        Python::attach(|py| match self.implementation.bind(py).upgrade() {
            Some(implementation) => work(&implementation).map_err(|error| Failure::from_error(py, error)),
            None => Err(Failure::new("its Python object is gone")),
        })
    }

    fn failed(&self, operation: &str, reason: &str) -> Error {
        let fields: [(&'static str, &dyn std::fmt::Display); 3] =
            [("backend", &self.description.name()), ("operation", &operation), ("reason", &reason)];
        Error::new(Kind::BackendFailed, &fields)
    }

    fn unreadable(&self, key: Key, reason: &str) -> Error {
        let fields: [(&'static str, &dyn std::fmt::Display); 4] = [
            ("backend", &self.description.name()),
            ("area", &key.area),
            ("offset", &key.offset),
            ("reason", &reason),
        ];
        Error::new(Kind::PageUnreadable, &fields)
    }

    fn forget(&self, key: Key) {
        if let Some(mut entry) = self.held.lock_existing(key) {
            entry.clear();
        }
    }
}

impl Backend for PythonBackend {
    fn init(&self, area: Area, pages: Pages) -> Result<(), Error> {
        self.call(|object| object.call_method1("init", (area.0, pages.0)).map(drop))
            .map_err(|failure| self.failed("init", &failure.reason))
    }

    fn store(&self, key: Key, page: &Page) -> Result<Answer, Error> {
        self.forget(key);
        let is_full = (self.held.live() + 1) * PAGE_SIZE as u64 > self.capacity.load(Ordering::Relaxed);
        if is_full {
            self.pool_limit_hit.fetch_add(1, Ordering::Relaxed);
            self.invalidate_page(key);
            return Ok(Answer::Rejected(Reject::Full));
        }
        let answer = self.call(|object| {
            let page = PyBytes::new(object.py(), &page.0);
            let answer = object.call_method1("store", (key.area.0, key.offset.0, page))?;
            if let Ok(answer) = answer.extract::<crate::Answer>() {
                let reason = answer.reason.unwrap_or(Reject::Other);
                return Ok(if answer.accepted { Answer::Accepted } else { Answer::Rejected(reason) });
            }
            match answer.extract::<bool>() {
                Ok(true) => Ok(Answer::Accepted),
                Ok(false) => Ok(Answer::Rejected(Reject::Other)),
                Err(_) => {
                    let class = answer.get_type().name()?;
                    Err(PyTypeError::new_err(format!("it returned `{class}`, which is no answer")))
                }
            }
        });
        let answer = match answer {
            Ok(answer) => answer,
            // An interrupt says nothing about the backend. It is raised when the call is over.
            Err(failure) if failure.is_interrupt => Answer::Rejected(Reject::Other),
            Err(failure) => return Err(self.failed("store", &failure.reason)),
        };
        if answer == Answer::Accepted {
            self.held.lock(key).set([HELD | AGE_STORED]);
        }
        Ok(answer)
    }

    fn load(&self, key: Key, out: &mut Page) -> Result<Loaded, Error> {
        let loaded = self.call(|object| {
            let buffer = PyByteArray::new(object.py(), &out.0);
            let is_loaded = object.call_method1("load", (key.area.0, key.offset.0, &buffer))?.is_truthy()?;
            Ok(is_loaded.then(|| buffer.to_vec()))
        });
        let Some(bytes) = loaded.map_err(|failure| self.unreadable(key, &failure.reason))? else {
            return Ok(Loaded::Missing);
        };
        let Ok(bytes) = <[u8; PAGE_SIZE]>::try_from(bytes) else {
            return Err(self.unreadable(key, "it changed the length of the buffer"));
        };
        out.0 = bytes;
        if let Some(mut entry) = self.held.lock_existing(key).filter(|entry| !entry.is_vacant()) {
            entry.set_first(HELD | AGE_LOADED);
        }
        Ok(Loaded::Loaded)
    }

    fn invalidate_page(&self, key: Key) {
        self.forget(key);
        // It cannot fail (rule B6): what it raises breaks nothing here, since it is not asked again for
        // this key before it is stored anew.
        let _ =
            self.call(|object| object.call_method1("invalidate_page", (key.area.0, key.offset.0)).map(drop));
    }

    fn invalidate_area(&self, area: Area) {
        self.held.for_each_in_area(area, |_, entry| entry.clear());
        self.clock.rest();
        self.held.trim();
        let _ = self.call(|object| object.call_method1("invalidate_area", (area.0,)).map(drop));
    }

    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn usage(&self) -> Usage {
        let capacity = self.capacity.load(Ordering::Relaxed);
        let stored = Pages(self.held.live());
        let excess = Bytes(stored.bytes().0.saturating_sub(capacity));
        let in_ram = if self.description.is_slow { Bytes(0) } else { stored.bytes() };
        Usage {
            stored_pages: stored,
            compr_data_size: stored.bytes(),
            mem_used_total: Bytes(in_ram.0 + self.held.bytes()),
            disk_used_total: Bytes(stored.bytes().0 - in_ram.0),
            mem_limit: Bytes(capacity),
            pool_limit_hit: self.pool_limit_hit.load(Ordering::Relaxed),
            pressure: excess,
            excess,
        }
    }

    fn set_capacity(&self, capacity: Bytes) -> Result<(), Error> {
        self.capacity.store(capacity.0, Ordering::Relaxed);
        Ok(())
    }

    fn coldest(&self, want: usize, victims: &mut Vec<Key>) {
        self.clock.coldest(&self.held, want, victims);
    }

    fn maintain(&self) -> bool {
        self.held.trim_when_sparse();
        false
    }
}
