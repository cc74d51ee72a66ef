//! Who is in the chain, and which areas there are: a snapshot that every call takes, and that is
//! replaced whole when something changes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustc_hash::FxHashMap;

use crate::counters::Counters;
use crate::error::{Error, Kind};
use crate::key::{Area, Key, Pages};
use crate::member::Member;
use crate::place::Seat;

/// One area of the chain.
pub struct AreaState {
    /// Its length.
    pub pages: Pages,
    /// False once it was invalidated. Looked at under a key's lock.
    pub is_open: AtomicBool,
    /// What happened in it.
    pub counters: Counters,
}

impl AreaState {
    /// An area of `pages` pages.
    pub fn new(pages: Pages, is_open: bool) -> Arc<Self> {
        Arc::new(AreaState { pages, is_open: AtomicBool::new(is_open), counters: Counters::default() })
    }
}

/// A backend and its number in the chain.
#[derive(Clone)]
pub struct Seated {
    /// The number that map entries name it by.
    pub seat: Seat,
    /// The backend.
    pub member: Arc<Member>,
}

/// The chain at one moment.
#[derive(Clone, Default)]
pub struct Roster {
    /// Grows by one with every change.
    pub version: u64,
    /// The backends in the order of the chain.
    pub members: Vec<Seated>,
    /// The areas that were ever initialised. Those that are closed share one state.
    pub areas: Arc<FxHashMap<u16, Arc<AreaState>>>,
}

impl Roster {
    /// Position in the chain of the backend with that seat.
    ///
    /// # Panics
    /// When there is none: a map entry then names a backend that is gone, which is a bug of ours.
    pub fn position(&self, seat: Seat) -> usize {
        self.members
            .iter()
            .position(|seated| seated.seat == seat)
            .expect("a map entry names a seat of this roster")
    }

    /// The backend with that seat.
    pub fn member(&self, seat: Seat) -> &Arc<Member> {
        &self.members[self.position(seat)].member
    }

    /// The slow swap, if the chain has one.
    pub fn slow(&self) -> Option<&Seated> {
        self.members.last().filter(|last| last.member.description().is_slow)
    }

    /// The seat of the slow swap.
    pub fn slow_seat(&self) -> Option<Seat> {
        self.slow().map(|slow| slow.seat)
    }

    /// The area of `key`, whether open or not.
    ///
    /// # Errors
    /// The area was never initialised, or the offset is past its end.
    pub fn area(&self, key: Key) -> Result<&Arc<AreaState>, Error> {
        let area = self
            .areas
            .get(&key.area.0)
            .ok_or_else(|| Error::new(Kind::AreaNotInitialised, &[("area", &key.area)]))?;
        if key.offset.0 >= area.pages.0 {
            let fields: [(&'static str, &dyn std::fmt::Display); 3] =
                [("area", &key.area), ("offset", &key.offset), ("pages", &area.pages)];
            return Err(Error::new(Kind::OffsetPastEnd, &fields));
        }
        Ok(area)
    }

    /// The areas in use.
    pub fn open_areas(&self) -> impl Iterator<Item = (Area, &Arc<AreaState>)> {
        self.areas
            .iter()
            .filter(|(_, state)| state.is_open.load(Ordering::Acquire))
            .map(|(area, state)| (Area(*area), state))
    }

    /// The area with that number, if it is in use.
    pub fn open_area(&self, area: Area) -> Option<&Arc<AreaState>> {
        self.areas.get(&area.0).filter(|state| state.is_open.load(Ordering::Acquire))
    }
}

/// Copies of the snapshot, so that threads do not meet on one reference count.
const COPIES: usize = 16;

#[derive(Default)]
#[repr(align(128))]
struct Copy(RwLock<Arc<Roster>>);

/// The current snapshot.
#[derive(Default)]
pub struct RosterCell {
    copies: [Copy; COPIES],
    version: AtomicU64,
}

impl RosterCell {
    /// The snapshot for an operation on `key`.
    pub fn read(&self, key: Key) -> Arc<Roster> {
        self.copies[key.spread() % COPIES].0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The snapshot, for what is not about one key.
    pub fn current(&self) -> Arc<Roster> {
        self.read(Key::new(0, 0))
    }

    /// The newest snapshot, `before` or a later one. Called with a key's lock held: what a map entry
    /// under that lock names is in it, because the version changes before anybody can see the new
    /// snapshot and use a seat of it.
    pub fn fresh(&self, before: Arc<Roster>, key: Key) -> Arc<Roster> {
        let mut roster = before;
        while self.version.load(Ordering::Acquire) != roster.version {
            std::hint::spin_loop();
            roster = self.read(key);
        }
        roster
    }

    /// Makes `roster` the current one, and returns the copies of the one before. The caller serialises
    /// changes.
    pub fn replace(&self, mut roster: Roster) -> Vec<Arc<Roster>> {
        roster.version += 1;
        self.version.store(roster.version, Ordering::Release);
        let renew = |copy: &Copy| {
            let mut current = copy.0.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(roster.clone()))
        };
        self.copies.iter().map(renew).collect()
    }
}
