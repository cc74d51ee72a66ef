//! The chain's one thread: it makes room ahead of need, so that no store and no fault has to.
//!
//! It polls, because waking a thread costs a store more than the store itself (45 us across virtual
//! CPUs); while nothing happens it polls ever more rarely, and then only a full backend wakes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, Kind};

const POLL_MS_MIN: u64 = 1;
const POLL_MS_MAX: u64 = 64;

/// What the thread does.
pub trait Housekeeping: Send + Sync {
    /// Does one bounded piece; true when there is more to do.
    fn maintain(&self) -> bool;

    /// Tidies up, when there has been nothing to do for a while.
    fn tidy(&self);
}

/// The thread, and the way to wake and stop it.
#[derive(Default)]
pub struct Worker {
    thread: Mutex<Option<JoinHandle<()>>>,
    bell: std::sync::Arc<Bell>,
}

#[derive(Default)]
struct Bell {
    /// The thread sleeps long: a ring is worth its price.
    is_dozing: AtomicBool,
    must_stop: Mutex<bool>,
    rung: Condvar,
}

impl Worker {
    /// Starts the thread. It ends by itself when `house` is gone.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start(&self, house: Weak<dyn Housekeeping>) -> Result<(), Error> {
        let bell = self.bell.clone();
        let thread = std::thread::Builder::new()
            .name("frontswap".to_owned())
            .spawn(move || run(&house, &bell))
            .map_err(|error| {
                Error::new(Kind::ThreadFailed, &[("object", &"the chain"), ("reason", &error)])
                    .with_errno(error.raw_os_error())
            })?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Wakes the thread if it sleeps long.
    pub fn kick(&self) {
        if self.bell.is_dozing.load(Ordering::Relaxed) && self.bell.is_dozing.swap(false, Ordering::AcqRel) {
            self.bell.rung.notify_one();
        }
    }

    /// Stops the thread and waits for it.
    pub fn stop(&self) {
        *self.bell.must_stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.rung.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // A panic of the thread has been printed; there is nobody to hand it to.
            let _ = thread.join();
        }
    }
}

fn run(house: &Weak<dyn Housekeeping>, bell: &Bell) {
    let mut poll_ms = POLL_MS_MIN;
    loop {
        let Some(house) = house.upgrade() else { return };
        let mut has_worked = false;
        while house.maintain() {
            has_worked = true;
            if *bell.must_stop.lock().unwrap_or_else(PoisonError::into_inner) {
                return;
            }
        }
        if poll_ms == POLL_MS_MAX {
            house.tidy();
        }
        drop(house);
        poll_ms = if has_worked { POLL_MS_MIN } else { (poll_ms * 2).min(POLL_MS_MAX) };
        bell.is_dozing.store(poll_ms > POLL_MS_MIN, Ordering::Release);
        let must_stop = bell.must_stop.lock().unwrap_or_else(PoisonError::into_inner);
        let (must_stop, timed_out) = bell
            .rung
            .wait_timeout_while(must_stop, Duration::from_millis(poll_ms), |stop| {
                !*stop && (poll_ms == POLL_MS_MIN || bell.is_dozing.load(Ordering::Acquire))
            })
            .unwrap_or_else(PoisonError::into_inner);
        if *must_stop {
            return;
        }
        if !timed_out.timed_out() {
            poll_ms = POLL_MS_MIN;
        }
    }
}
