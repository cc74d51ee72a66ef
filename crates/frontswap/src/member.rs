//! A backend with its state and its counters: what a chain is made of, and what a caller holds.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use crate::backend::{Answer, Backend, Description, Loaded, Reject};
use crate::counters::{Counters, Event};
use crate::error::Error;
use crate::key::Key;
use crate::page::Page;

/// Whether a backend takes pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It takes pages.
    Ready,
    /// It is being removed: it gives pages back and takes none.
    Draining,
    /// It failed: it takes none, and is still asked for those that it has.
    Broken,
}

/// One backend, wherever it is used.
pub struct Member {
    backend: Arc<dyn Backend>,
    description: Description,
    name: String,
    state: AtomicU8,
    broken_reason: OnceLock<String>,
    is_seated: AtomicBool,
    /// What happened here.
    pub counters: Counters,
}

impl Member {
    /// Wraps a backend.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        let description = backend.describe();
        Member {
            backend,
            name: description.name(),
            description,
            state: AtomicU8::new(State::Ready as u8),
            broken_reason: OnceLock::new(),
            is_seated: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    /// Its name in messages: kind, and place where it has one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The backend itself, for what is neither store nor load.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Whether it takes pages.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Ready,
            1 => State::Draining,
            _ => State::Broken,
        }
    }

    /// Why it is broken, if it is.
    pub fn broken_reason(&self) -> Option<&str> {
        self.broken_reason.get().map(String::as_str)
    }

    /// Offers it a page and counts the answer. An error breaks it: it is offered no page again.
    ///
    /// # Errors
    /// Those of [`Backend::store`].
    pub fn store(&self, key: Key, page: &Page) -> Result<Answer, Error> {
        let answer = self.try_store(key, page);
        self.count_store(key, answer.as_ref().copied().unwrap_or(Answer::Rejected(Reject::Closing)));
        answer
    }

    /// Like [`Member::store`], for the chain: it counts the answer itself, once for all its tries, and
    /// a backend that fails is one that takes no more. Nothing is held after any rejection.
    pub(crate) fn offer(&self, key: Key, page: &Page) -> Answer {
        self.try_store(key, page).unwrap_or_else(|_| {
            // It is broken now; what it says of this key no longer matters.
            self.backend.invalidate_page(key);
            Answer::Rejected(Reject::Closing)
        })
    }

    /// Counts the answer to a store.
    pub(crate) fn count_store(&self, key: Key, answer: Answer) {
        match answer {
            Answer::Accepted => self.counters.count(key, Event::SuccStore),
            Answer::Rejected(reason) => self.counters.reject(key, reason),
        }
    }

    /// Asks it for a page and counts the answer.
    ///
    /// # Errors
    /// Those of [`Backend::load`].
    pub fn load(&self, key: Key, out: &mut Page) -> Result<Loaded, Error> {
        let answer = self.backend.load(key, out);
        let event = match answer {
            Ok(Loaded::Loaded) => Event::Load,
            Ok(Loaded::Missing) => Event::LoadMissing,
            Err(_) => Event::LoadError,
        };
        self.counters.count(key, event);
        answer
    }

    /// Tells it that the page's owner no longer wants it.
    pub fn invalidate_page(&self, key: Key) {
        self.counters.count(key, Event::Invalidate);
        self.backend.invalidate_page(key);
    }

    /// Whether it belongs to a chain, or to a backend that wraps it.
    pub fn is_seated(&self) -> bool {
        self.is_seated.load(Ordering::Acquire)
    }

    /// Claims it for a chain or a wrapper; false when another has it.
    pub fn take_seat(&self) -> bool {
        !self.is_seated.swap(true, Ordering::AcqRel)
    }

    /// Gives it free for another chain or wrapper.
    pub fn leave_seat(&self) {
        self.is_seated.store(false, Ordering::Release);
    }

    /// Switches between ready and draining; a broken one stays broken.
    pub(crate) fn set_draining(&self, is_draining: bool) {
        let (from, to) =
            if is_draining { (State::Ready, State::Draining) } else { (State::Draining, State::Ready) };
        let _ = self.state.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    fn try_store(&self, key: Key, page: &Page) -> Result<Answer, Error> {
        if self.state() != State::Ready {
            self.backend.invalidate_page(key);
            return Ok(Answer::Rejected(Reject::Closing));
        }
        let answer = self.backend.store(key, page);
        if let Err(error) = &answer {
            let _ = self.broken_reason.set(error.message().to_owned());
            self.state.store(State::Broken as u8, Ordering::Release);
        }
        answer
    }
}
