//! The frontswap layer: decides where a page goes, knows where it is, and never loses it.
//!
//! Front ends call [`Chain::store`], [`Chain::load`] and the invalidations (`operations`); pages move
//! between backends without their owners in `moves`; this file sets the chain up and changes it while
//! pages are held. Rules F1 to F12 are named where they are kept.
//!
//! Lock order: `changes` (who is in the chain), then the key of one page, then whatever a backend
//! locks inside. With a key held, another key is only ever tried. No lock but the key's own is held
//! while a backend works.

mod moves;
mod operations;
mod roster;
mod shrink;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backend::{ForkSide, Reject};
use crate::budget::IoBudget;
use crate::counters::{Counters, Counts};
use crate::error::{Error, Kind};
use crate::key::{AREA_PAGES_MAX, Area, Bytes, Pages};
use crate::member::Member;
use crate::place::{RECORD_WORDS, Seat};
use crate::table::PageTable;
use crate::worker::Worker;

use roster::{AreaState, Roster, RosterCell, Seated};

/// How often a removal looks whether old snapshots are gone: about as long as a call takes.
const OLD_SNAPSHOT_POLL: Duration = Duration::from_micros(20);

/// Bytes of an area's number and reference in the map of areas.
const AREA_RECORD_BYTES: usize = 32;

/// Backends in one chain: every store may ask each of them.
pub const CHAIN_BACKENDS_MAX: usize = 16;

/// How a chain behaves; fixed when it is made.
#[derive(Clone, Debug)]
pub struct ChainOptions {
    /// Every accepted page is also written to the slow swap (rule F6).
    pub writethrough: bool,
    /// Limit of demotion ahead of need, in bytes of pages per second. Demotion that a store or a
    /// lowered capacity waits for is not limited.
    pub demote_bytes_per_s: Option<Bytes>,
    /// Limit of promotion, in bytes of pages per second.
    pub promote_bytes_per_s: Option<Bytes>,
    /// The chain starts a thread that keeps house. Without it the owner calls
    /// [`crate::Housekeeping::maintain`] again and again, and [`crate::Housekeeping::tidy`] at rest.
    pub own_worker: bool,
}

impl Default for ChainOptions {
    /// No writethrough, no limits, and a worker.
    fn default() -> Self {
        ChainOptions {
            writethrough: false,
            demote_bytes_per_s: None,
            promote_bytes_per_s: None,
            own_worker: true,
        }
    }
}

/// The answer of a chain to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A backend took the page.
    In(Seat),
    /// The map took it: a page of one repeated word.
    SameFilled,
    /// Nobody took it; the front end keeps it (rule F4).
    Rejected(Reject),
}

/// The answer of a chain to a store of a page that it may hold as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The page that is held has these very bytes: nothing was done.
    Unchanged,
    /// It was stored like any other.
    Stored(Stored),
}

/// Where a page is, as far as the time that a load takes depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Nowhere: a load finds nothing.
    Missing,
    /// In the map itself.
    SameFilled,
    /// In a backend in RAM.
    Fast,
    /// In the slow swap, or in the hands of another thread, which may be waiting for it.
    Slow,
}

/// An ordered list of backends, and the map of the pages in them.
pub struct Chain {
    map: PageTable<RECORD_WORDS>,
    roster: RosterCell,
    /// Held by whoever changes the roster.
    changes: Mutex<()>,
    counters: Counters,
    options: ChainOptions,
    demote_budget: IoBudget,
    promote_budget: IoBudget,
    /// The clock of promotion: epochs, and the loads from below the top since the last one began.
    epoch: AtomicU64,
    epoch_loads: AtomicU64,
    /// Numbers the calls of `shrink`.
    shrinks: AtomicU64,
    worker: Worker,
    is_open: AtomicBool,
    /// The process that may close it.
    process: AtomicU32,
    /// The state of every area that was invalidated: of any length, and closed.
    closed_area: Arc<AreaState>,
}

/// A reading of one area's counters.
pub struct AreaCounts {
    /// Which area.
    pub area: Area,
    /// Its length.
    pub pages: Pages,
    /// Its counters.
    pub counts: Counts,
}

impl Chain {
    /// A chain of `backends`, first to last. The last may be a slow swap.
    ///
    /// # Errors
    /// A backend is in another chain, a slow one is not last, or writethrough lacks a slow swap.
    pub fn new(backends: Vec<Arc<Member>>, options: ChainOptions) -> Result<Arc<Self>, Error> {
        let chain = Arc::new(Chain {
            map: PageTable::default(),
            roster: RosterCell::default(),
            changes: Mutex::new(()),
            counters: Counters::default(),
            demote_budget: IoBudget::per_second(options.demote_bytes_per_s),
            promote_budget: IoBudget::per_second(options.promote_bytes_per_s),
            options,
            epoch: AtomicU64::new(0),
            epoch_loads: AtomicU64::new(0),
            shrinks: AtomicU64::new(0),
            worker: Worker::default(),
            is_open: AtomicBool::new(true),
            process: AtomicU32::new(std::process::id()),
            closed_area: AreaState::new(AREA_PAGES_MAX, false),
        });
        // From the back, so that every backend goes in before the slow swap.
        for member in backends.into_iter().rev() {
            chain.add_backend(member, 0)?;
        }
        if chain.options.writethrough && chain.roster.current().slow().is_none() {
            return Err(Error::new(Kind::WritethroughNeedsSlow, &[]));
        }
        if chain.options.own_worker {
            let house = Arc::downgrade(&chain);
            chain.worker.start(house)?;
        }
        Ok(chain)
    }

    /// Begins an area in every backend.
    ///
    /// # Errors
    /// Number or length out of range, area in use, or a backend that cannot; then nothing changed.
    pub fn init(&self, area: Area, pages: Pages) -> Result<(), Error> {
        let _changes = self.lock_open("initialise an area")?;
        if pages.0 == 0 || pages > AREA_PAGES_MAX {
            let fields: [(&'static str, &dyn Display); 2] = [("area", &area), ("pages", &pages)];
            return Err(Error::new(Kind::AreaInvalid, &fields));
        }
        let mut roster = Roster::clone(&self.roster.current());
        if let Some(open) = roster.open_area(area) {
            let fields: [(&'static str, &dyn Display); 2] = [("area", &area), ("pages", &open.pages)];
            return Err(Error::new(Kind::AreaInUse, &fields));
        }
        for (index, seated) in roster.members.iter().enumerate() {
            if let Err(error) = seated.member.backend().init(area, pages) {
                for begun in &roster.members[..index] {
                    begun.member.backend().invalidate_area(area);
                }
                return Err(error);
            }
        }
        Arc::make_mut(&mut roster.areas).insert(area.0, AreaState::new(pages, true));
        self.roster.replace(roster);
        Ok(())
    }

    /// Puts a backend at `position`, while pages are held (rule F10).
    ///
    /// # Errors
    /// It is in a chain, it holds pages, it would stand behind the slow swap, or it can lose pages and
    /// this chain does not write through. Nothing changed.
    pub fn add_backend(&self, member: Arc<Member>, position: usize) -> Result<(), Error> {
        let _changes = self.lock_open("add a backend")?;
        let mut roster = Roster::clone(&self.roster.current());
        self.check_order(&roster, &member, position)?;
        if !member.take_seat() {
            return Err(Error::new(Kind::BackendInChain, &[("backend", &member.name())]));
        }
        let held = member.backend().usage().stored_pages;
        if held.0 > 0 {
            member.leave_seat();
            let fields: [(&'static str, &dyn Display); 2] = [("backend", &member.name()), ("pages", &held)];
            return Err(Error::new(Kind::BackendNotEmpty, &fields));
        }
        let mut begun = Vec::new();
        for (area, state) in roster.open_areas() {
            if let Err(error) = member.backend().init(area, state.pages) {
                for area in begun {
                    member.backend().invalidate_area(area);
                }
                member.leave_seat();
                return Err(error);
            }
            begun.push(area);
        }
        let seat = (0..=u8::MAX)
            .map(Seat)
            .find(|seat| roster.members.iter().all(|seated| seated.seat != *seat))
            .expect("there are more numbers than backends in a chain");
        roster.members.insert(position, Seated { seat, member });
        self.roster.replace(roster);
        Ok(())
    }

    fn check_order(&self, roster: &Roster, member: &Member, position: usize) -> Result<(), Error> {
        let refuse = |reason: &str| {
            let fields: [(&'static str, &dyn Display); 3] =
                [("backend", &member.name()), ("position", &position), ("reason", &reason)];
            Err(Error::new(Kind::ChainOrder, &fields))
        };
        let length = roster.members.len();
        if length == CHAIN_BACKENDS_MAX {
            let fields: [(&'static str, &dyn Display); 2] =
                [("backend", &member.name()), ("limit", &CHAIN_BACKENDS_MAX)];
            return Err(Error::new(Kind::ChainLimit, &fields));
        }
        if position > length {
            return refuse(&format!("the chain has {length} backends"));
        }
        if roster.slow().is_some() && position == length {
            return refuse("the slow swap is the last of a chain");
        }
        if member.description().is_slow && (position != length || roster.slow().is_some()) {
            return refuse("a slow swap can only be the last of a chain, and the only one");
        }
        if member.description().is_volatile && !self.options.writethrough {
            return Err(Error::new(Kind::VolatileNeedsWritethrough, &[("backend", &member.name())]));
        }
        Ok(())
    }

    /// Takes a backend out of the chain after its pages have gone to others (rule F10).
    ///
    /// # Errors
    /// It is not in this chain, writethrough needs it, or some of its pages fit nowhere else: then it
    /// goes on as before, and nothing was lost.
    pub fn remove_backend(&self, member: &Arc<Member>) -> Result<(), Error> {
        let _changes = self.lock_open("remove a backend")?;
        let roster = Roster::clone(&self.roster.current());
        let Some(position) = roster.members.iter().position(|seated| Arc::ptr_eq(&seated.member, member))
        else {
            return Err(Error::new(Kind::BackendNotInChain, &[("backend", &member.name())]));
        };
        let seated = &roster.members[position];
        if self.options.writethrough && roster.slow_seat() == Some(seated.seat) {
            return Err(Error::new(Kind::WritethroughNeedsSlow, &[]));
        }
        member.set_draining(true);
        let left = self.drain(&roster, seated);
        if left > 0 {
            member.set_draining(false);
            let fields: [(&'static str, &dyn Display); 2] = [("backend", &member.name()), ("pages", &left)];
            return Err(Error::new(Kind::DrainIncomplete, &fields));
        }
        let mut smaller = Roster::clone(&roster);
        smaller.members.remove(position);
        Self::wait_for_calls(&self.roster.replace(smaller));
        for (area, _) in roster.open_areas() {
            member.backend().invalidate_area(area);
        }
        member.set_draining(false);
        member.leave_seat();
        Ok(())
    }

    /// Pages held in the whole chain; exact at any time (rule F9).
    pub fn curr_pages(&self) -> Pages {
        Pages(self.counters.stored_pages())
    }

    /// The chain's counters.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// The counters of the areas in use, in the order of their numbers.
    pub fn area_counts(&self) -> Vec<AreaCounts> {
        let roster = self.roster.current();
        let mut areas: Vec<_> = roster
            .open_areas()
            .map(|(area, state)| AreaCounts { area, pages: state.pages, counts: state.counters.read() })
            .collect();
        areas.sort_unstable_by_key(|counts| counts.area);
        areas
    }

    /// The backends, first to last.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.roster.current().members.iter().map(|seated| seated.member.clone()).collect()
    }

    /// The backend that an answer names; `None` once it was removed.
    pub fn member(&self, seat: Seat) -> Option<Arc<Member>> {
        let roster = self.roster.current();
        roster.members.iter().find(|seated| seated.seat == seat).map(|seated| seated.member.clone())
    }

    /// Bytes of the map, and of what is known of every area.
    pub fn map_bytes(&self) -> Bytes {
        let roster = self.roster.current();
        let areas = roster.areas.len() * AREA_RECORD_BYTES
            + roster.open_areas().count() * std::mem::size_of::<AreaState>();
        Bytes(self.map.bytes() + areas as u64)
    }

    /// Stops the worker and releases the backends. Pages that are held are forgotten with them.
    ///
    /// In a child of fork that was not told so ([`Chain::forked`]) it does nothing: a lock may be held for
    /// ever by a thread that is not there, and the worker is not there either.
    pub fn close(&self) {
        if self.process.load(Ordering::Relaxed) != std::process::id()
            || !self.is_open.swap(false, Ordering::AcqRel)
        {
            return;
        }
        self.worker.stop();
        let _changes = self.lock_changes();
        let open: Vec<Area> = self.roster.current().open_areas().map(|(area, _)| area).collect();
        for area in open {
            self.invalidate_area_in(area);
        }
        let roster = Roster::clone(&self.roster.current());
        let nobody = Roster { version: roster.version, ..Roster::default() };
        Self::wait_for_calls(&self.roster.replace(nobody));
        for seated in &roster.members {
            seated.member.leave_seat();
        }
    }

    /// Goes on after a fork, in the parent and in the child, each with a chain of its own from there on.
    /// No thread may have been inside a call of this chain or of its backends when the process forked, and
    /// none may be now. For the child, the backends in RAM were made to be inherited, and a swap file is
    /// one that processes share.
    ///
    /// # Panics
    /// In the child of a chain with a worker, which did not survive the fork.
    pub fn forked(&self, side: ForkSide) {
        if side == ForkSide::Child {
            assert!(!self.options.own_worker, "a worker does not survive a fork");
            self.process.store(std::process::id(), Ordering::Relaxed);
        }
        for seated in &self.roster.current().members {
            seated.member.backend().forked(side);
        }
    }

    /// Waits for the calls that began with an old snapshot: they may still offer a page to a backend
    /// that is in it, and that backend may go to another chain next.
    fn wait_for_calls(snapshots: &[Arc<Roster>]) {
        for snapshot in snapshots {
            while Arc::strong_count(snapshot) > 1 {
                std::thread::sleep(OLD_SNAPSHOT_POLL);
            }
        }
        // What those calls did is seen by what follows.
        fence(Ordering::Acquire);
    }

    /// Lets the worker look at once. Does nothing when there is none.
    pub fn kick(&self) {
        self.worker.kick();
    }

    /// Takes the right to change the chain.
    ///
    /// # Errors
    /// It is closed.
    fn lock_open(&self, operation: &str) -> Result<MutexGuard<'_, ()>, Error> {
        let changes = self.lock_changes();
        if self.is_open.load(Ordering::Acquire) {
            return Ok(changes);
        }
        Err(Self::closed(operation))
    }

    fn closed(operation: &str) -> Error {
        Error::new(Kind::Closed, &[("operation", &operation), ("object", &"Frontswap")])
    }

    fn lock_changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.close();
    }
}
