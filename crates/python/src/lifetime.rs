//! Objects that end before Python forgets them: by `close`, and by a fork.
//!
//! A child of fork has neither the threads nor the memory of what its parent made. So an object
//! remembers in which process it was made; in any other, every call is an error, and dropping it
//! leaves everything alone: no lock is taken, because a thread of the parent may have held it.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use frontswap::error::{Error, Kind};
use pyo3::Python;

/// Grows by one in every child of fork.
static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Begins to count forks; called once, when the module is imported.
pub fn watch_forks() {
    // SAFETY: the handler only adds to an atomic number, which is allowed in a child of fork.
    let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    assert_eq!(failed, 0, "the system has no memory for a fork handler");
}

/// A value that can be closed, in the process that made it.
pub struct Closable<T: Send + Sync> {
    value: ManuallyDrop<RwLock<Option<Arc<T>>>>,
    label: String,
    forks: u64,
    process: u32,
}

impl<T: Send + Sync> Closable<T> {
    /// An open one; `label` names it in messages.
    pub fn new(value: Arc<T>, label: String) -> Self {
        Closable {
            value: ManuallyDrop::new(RwLock::new(Some(value))),
            label,
            forks: FORKS.load(Ordering::Relaxed),
            process: std::process::id(),
        }
    }

    /// What messages call it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The value, for `operation`.
    ///
    /// # Errors
    /// It is closed, or belongs to another process.
    pub fn get(&self, operation: &str) -> Result<Arc<T>, Error> {
        self.check_process(operation)?;
        let value = self.value.read().unwrap_or_else(PoisonError::into_inner);
        value.clone().ok_or_else(|| self.closed(operation))
    }

    /// Takes the value out: it is closed from now on.
    ///
    /// # Errors
    /// As for [`Closable::get`].
    pub fn close(&self) -> Result<Arc<T>, Error> {
        self.check_process("close")?;
        let value = self.value.write().unwrap_or_else(PoisonError::into_inner).take();
        value.ok_or_else(|| self.closed("close"))
    }

    fn closed(&self, operation: &str) -> Error {
        Error::new(Kind::Closed, &[("operation", &operation), ("object", &self.label)])
    }

    fn check_process(&self, operation: &str) -> Result<(), Error> {
        if self.forks == FORKS.load(Ordering::Relaxed) {
            return Ok(());
        }
        let fields: [(&'static str, &dyn std::fmt::Display); 3] =
            [("operation", &operation), ("object", &self.label), ("owner", &self.process)];
        Err(Error::new(Kind::Forked, &fields))
    }
}

impl<T: Send + Sync> Drop for Closable<T> {
    fn drop(&mut self) {
        if self.forks != FORKS.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: the field is not used again, and drop runs once.
        let value: RwLock<Option<Arc<T>>> = unsafe { ManuallyDrop::take(&mut self.value) };
        // Dropping may wait for a thread of ours, and that thread may want the interpreter's lock.
        let mut value = Some(value);
        Python::try_attach(|py| py.detach(|| drop(value.take())));
        drop(value);
    }
}
