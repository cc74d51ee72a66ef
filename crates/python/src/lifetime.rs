//! Objects that end before Python forgets them: by `close`, and by a fork.
//!
//! A child of fork has neither the threads nor the memory of what its parent made. So an object
//! remembers in which process it was made; in any other, every call is an error, and dropping it
//! leaves everything alone: no lock is taken, because a thread of the parent may have held it. What goes
//! on in the child, as a space does, takes its locks behind the gate of forks.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use frontswap::error::{Error, Kind};
use pyo3::Python;

use crate::space_swap;

/// Grows by one in every child of fork.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Whether somebody is at the gate.
static GATE: AtomicBool = AtomicBool::new(false);

extern "C" fn before_fork() {
    std::mem::forget(gate());
    space_swap::before_fork();
}

extern "C" fn in_parent() {
    GATE.store(false, Ordering::Release);
}

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    space_swap::in_child();
    GATE.store(false, Ordering::Release);
}

/// Begins to count forks; called once, when the module is imported.
pub fn watch_forks() {
    // SAFETY: the handlers change atomic numbers and look through a list that nobody holds at the gate,
    // which is allowed in a child of fork.
    let failed = unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    assert_eq!(failed, 0, "the system has no memory for a fork handler");
}

/// How often this process is a child of a fork since the module was imported by an ancestor of it.
pub fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Goes through the gate: no thread of this process forks until the answer is dropped. What is locked
/// and unlocked within is never found locked by a child. For a few instructions; nothing that can wait.
pub fn gate() -> Gate {
    while GATE.swap(true, Ordering::Acquire) {
        std::thread::yield_now();
    }
    Gate(())
}

/// Holds the gate.
pub struct Gate(());

impl Drop for Gate {
    fn drop(&mut self) {
        GATE.store(false, Ordering::Release);
    }
}

/// A value that can be closed, in the process that made it.
pub struct Closable<T: Send + Sync> {
    value: ManuallyDrop<RwLock<Option<Arc<T>>>>,
    label: String,
    forks: u64,
    process: u32,
    is_inherited: AtomicBool,
}

impl<T: Send + Sync> Closable<T> {
    /// An open one; `label` names it in messages.
    pub fn new(value: Arc<T>, label: String) -> Self {
        Closable {
            value: ManuallyDrop::new(RwLock::new(Some(value))),
            label,
            forks: FORKS.load(Ordering::Relaxed),
            process: std::process::id(),
            is_inherited: AtomicBool::new(false),
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

    /// Puts a value into one that is closed: one that a child of fork has a copy of and may use.
    pub fn reopen(&self, value: Arc<T>) {
        self.is_inherited.store(true, Ordering::Relaxed);
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    fn closed(&self, operation: &str) -> Error {
        Error::new(Kind::Closed, &[("operation", &operation), ("object", &self.label)])
    }

    fn check_process(&self, operation: &str) -> Result<(), Error> {
        if self.forks == FORKS.load(Ordering::Relaxed) || self.is_inherited.load(Ordering::Relaxed) {
            return Ok(());
        }
        let fields: [(&'static str, &dyn std::fmt::Display); 3] =
            [("operation", &operation), ("object", &self.label), ("owner", &self.process)];
        Err(Error::new(Kind::Forked, &fields))
    }
}

impl<T: Send + Sync> Drop for Closable<T> {
    fn drop(&mut self) {
        if self.check_process("close").is_err() {
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
