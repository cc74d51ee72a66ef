//! What a front end calls: store, load, and the invalidations.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::roster::{AreaState, Roster};
use super::{Chain, Refreshed, Stored, Whereabouts};
use crate::backend::{Answer, Loaded, Reject};
use crate::counters::Event;
use crate::error::{Error, Kind};
use crate::key::{Area, Key};
use crate::member::{Member, State};
use crate::page::{Checksum, Page};
use crate::place::{Place, RECORD_WORDS, Record, Seat};
use crate::table::Entry;

/// A locked entry of the map.
pub(super) type MapEntry<'a> = Entry<'a, RECORD_WORDS>;

/// A store that finds a fast backend full makes room this often before the page goes further down.
const MAKE_ROOM_ROUNDS_MAX: u32 = 8;

/// The bytes of a page, as the map tells them from others.
#[derive(Clone, Copy)]
enum Content {
    /// One repeated word.
    Word(u64),
    /// Any other.
    Bytes(Checksum),
}

impl Content {
    fn of(page: &Page) -> Self {
        page.same_filled().map_or_else(|| Content::Bytes(page.checksum()), Content::Word)
    }

    /// Whether `record` is of a page with these bytes.
    fn is_held(self, record: &Record) -> bool {
        match (self, record.place) {
            (Content::Word(word), Place::SameFilled) => record.word() == word,
            (Content::Bytes(checksum), Place::In(_) | Place::InBoth(_)) => record.checksum() == checksum,
            _ => false,
        }
    }
}

impl Chain {
    /// Offers a page to the backends in order, until one accepts (rule F1).
    ///
    /// # Errors
    /// The area is not initialised, or the offset is past its end. A backend that fails is taken out
    /// of storing and the next is asked: that is no error here.
    pub fn store(&self, key: Key, page: &Page) -> Result<Stored, Error> {
        match self.offer_anew(key, page, false)? {
            Refreshed::Stored(stored) => Ok(stored),
            Refreshed::Unchanged => unreachable!("nobody asked whether it is"),
        }
    }

    /// Like [`Chain::store`], but a page that is held with these very bytes stays as it is: for an owner
    /// that keeps the copy of a page that it has loaded, and does not know whether it was written to.
    ///
    /// # Errors
    /// Those of [`Chain::store`].
    ///
    /// # Cost
    /// One checksum; nothing else when the page is unchanged.
    pub fn store_changed(&self, key: Key, page: &Page) -> Result<Refreshed, Error> {
        self.offer_anew(key, page, true)
    }

    fn offer_anew(&self, key: Key, page: &Page, keeps_same: bool) -> Result<Refreshed, Error> {
        let before = self.roster.read(key);
        before.area(key).map_err(|error| self.or_closed(error, "store a page"))?;
        if before.members.is_empty() && self.map.is_empty() {
            return Ok(Refreshed::Stored(self.reject(before.area(key)?, key, Reject::NoBackend)));
        }
        let content = Content::of(page);
        let mut entry = self.map.lock(key);
        let roster = self.roster.fresh(before, key);
        let area = roster.area(key)?;
        let held = Record::from_words(entry.get());
        if keeps_same && area.is_open.load(Ordering::Acquire) && content.is_held(&held) {
            // A `shrink` that has handed it to the front end must not forget it: it was given back.
            entry.set_first(Record { ticket: 0, ..held }.to_words()[0]);
            self.counters.count(key, Event::Kept);
            area.counters.count(key, Event::Kept);
            return Ok(Refreshed::Unchanged);
        }
        let (record, stored) = self.place(&roster, area, &entry, page, content);
        self.write(&roster, area, &mut entry, record);
        for counters in [&self.counters, &area.counters] {
            match stored {
                Stored::Rejected(reason) => counters.reject(key, reason),
                _ => counters.count(key, Event::SuccStore),
            }
        }
        drop(entry);
        if let Stored::Rejected(_) = stored {
            // Rule B11: a rejected page leaves no empty leaf behind.
            self.map.trim_when_sparse();
        }
        Ok(Refreshed::Stored(stored))
    }

    /// Where a page is, and so whether a load may have to wait for a disk. Waits for nobody itself, and
    /// counts nothing.
    pub fn whereabouts(&self, key: Key) -> Whereabouts {
        let Some(first) = self.map.peek(key) else { return Whereabouts::Slow };
        match Record::place_of(first) {
            Place::Vacant => Whereabouts::Missing,
            Place::SameFilled => Whereabouts::SameFilled,
            Place::In(seat) if self.roster.read(key).slow_seat() == Some(seat) => Whereabouts::Slow,
            Place::In(_) | Place::InBoth(_) => Whereabouts::Fast,
        }
    }

    /// Finds a place for a page: what the map will say of it, and the answer.
    ///
    /// Rule F2: whatever becomes of it, the old copy is gone before anybody is asked. Only the first
    /// to be asked forgets its own by itself (rule B4), and may overwrite it in place.
    fn place(
        &self,
        roster: &Roster,
        area: &AreaState,
        entry: &MapEntry<'_>,
        page: &Page,
        content: Content,
    ) -> (Record, Stored) {
        let refused = match roster.members.first() {
            None => Some(Reject::NoBackend),
            Some(_) if !area.is_open.load(Ordering::Acquire) => Some(Reject::NoArea),
            Some(_) => None,
        };
        if let Some(reason) = refused {
            self.take_out(roster, entry, None);
            return (Record::VACANT, Stored::Rejected(reason));
        }
        let checksum = match content {
            Content::Bytes(checksum) => checksum,
            Content::Word(word) => {
                self.take_out(roster, entry, None);
                return (Record::same_filled(word), Stored::SameFilled);
            }
        };
        self.take_out(roster, entry, roster.members.first().map(|first| first.seat));
        match self.offer(roster, entry.key(), page) {
            Ok((seat, place)) => (Record::held(place, checksum), Stored::In(seat)),
            Err(reason) => (Record::VACANT, Stored::Rejected(reason)),
        }
    }

    /// Copies a page out, checks it, and forgets it if `exclusive` (rule F7). False when nothing is
    /// held. On an error the bytes in `out` mean nothing.
    ///
    /// # Errors
    /// The area is not initialised, the offset is past its end, or the page is held and cannot be
    /// given back: damaged, lost, or unreadable (rule B10).
    pub fn load(&self, key: Key, out: &mut Page, exclusive: bool) -> Result<bool, Error> {
        let before = self.roster.read(key);
        let area = before.area(key).map_err(|error| self.or_closed(error, "load a page"))?;
        let Some(mut entry) = self.map.lock_existing(key).filter(|entry| !entry.is_vacant()) else {
            self.counters.count(key, Event::LoadMissing);
            area.counters.count(key, Event::LoadMissing);
            return Ok(false);
        };
        let roster = self.roster.fresh(before, key);
        let area = roster.area(key)?;
        let result = self.copy_out(&roster, &mut entry, out);
        let event = if result.is_ok() { Event::Load } else { Event::LoadError };
        self.counters.count(key, event);
        area.counters.count(key, event);
        result?;
        if exclusive {
            self.forget(&roster, area, &mut entry);
        } else {
            self.consider_promotion(&roster, &mut entry, out);
        }
        Ok(true)
    }

    /// Forgets one page. Cannot fail.
    pub fn invalidate_page(&self, key: Key) {
        let Some(mut entry) = self.map.lock_existing(key).filter(|entry| !entry.is_vacant()) else { return };
        let roster = self.roster.fresh(self.roster.read(key), key);
        let Ok(area) = roster.area(key) else { return };
        self.forget(&roster, area, &mut entry);
        self.counters.count(key, Event::Invalidate);
        area.counters.count(key, Event::Invalidate);
    }

    /// Forgets a whole area; stores to it are rejected until it is initialised again. Cannot fail.
    pub fn invalidate_area(&self, area: Area) {
        let _changes = self.lock_changes();
        self.invalidate_area_in(area);
    }

    /// The caller serialises changes.
    pub(super) fn invalidate_area_in(&self, area: Area) {
        let mut roster = Roster::clone(&self.roster.current());
        let Some(state) = roster.open_area(area).cloned() else { return };
        // A store that is on its way holds its key, and the sweep waits for it; one that comes later
        // sees the area closed.
        state.is_open.store(false, Ordering::Release);
        self.map.for_each_in_area(area, |key, entry| {
            self.forget(&roster, &state, entry);
            self.counters.count(key, Event::Invalidate);
            state.counters.count(key, Event::Invalidate);
        });
        for seated in &roster.members {
            seated.member.backend().invalidate_area(area);
        }
        Arc::make_mut(&mut roster.areas).insert(area.0, self.closed_area.clone());
        self.roster.replace(roster);
        self.map.trim();
    }

    /// Asks the backends in order; who took the page, or the last reason.
    fn offer(&self, roster: &Roster, key: Key, page: &Page) -> Result<(Seat, Place), Reject> {
        let mut last = Reject::Closing;
        for (position, seated) in roster.members.iter().enumerate() {
            match self.offer_one(roster, position, key, page) {
                Answer::Accepted if !self.options.writethrough => {
                    return Ok((seated.seat, Place::In(seated.seat)));
                }
                Answer::Accepted => {
                    return Ok((seated.seat, self.write_through(roster, seated.seat, key, page)?));
                }
                Answer::Rejected(reason) => last = reason,
            }
        }
        Err(last)
    }

    /// Asks one backend. A full one hands its coldest pages down first, so that a hot page is not
    /// sent past it to the disk (rule F11); ahead of need that is the worker's job.
    fn offer_one(&self, roster: &Roster, position: usize, key: Key, page: &Page) -> Answer {
        let member = &roster.members[position].member;
        let mut answer = member.offer(key, page);
        let mut is_last = !Self::can_demote_from(roster, position);
        for round in 1.. {
            if answer != Answer::Rejected(Reject::Full) {
                break;
            }
            self.worker.kick();
            if is_last {
                break;
            }
            // When nothing could be moved, the worker may have moved it: one more try.
            is_last = !self.make_room(roster, position) || round == MAKE_ROOM_ROUNDS_MAX;
            answer = member.offer(key, page);
        }
        member.count_store(key, answer);
        answer
    }

    /// Rule F6: the page is safe once the slow swap has it too.
    fn write_through(&self, roster: &Roster, seat: Seat, key: Key, page: &Page) -> Result<Place, Reject> {
        let slow = roster.slow().ok_or(Reject::Closing)?;
        if slow.seat == seat {
            return Ok(Place::In(seat));
        }
        let answer = slow.member.offer(key, page);
        slow.member.count_store(key, answer);
        match answer {
            Answer::Accepted => Ok(Place::InBoth(seat)),
            Answer::Rejected(reason) => {
                roster.member(seat).backend().invalidate_page(key);
                Err(reason)
            }
        }
    }

    /// Loads from one backend and checks the bytes.
    pub(super) fn load_checked(
        &self,
        member: &Member,
        key: Key,
        expected: Checksum,
        out: &mut Page,
    ) -> Result<(), Error> {
        let answer = member.backend().load(key, out);
        let found = out.checksum();
        let is_right = matches!(answer, Ok(Loaded::Loaded)) && found == expected;
        member.counters.count(key, if is_right { Event::Load } else { Event::LoadError });
        let kind = match answer? {
            Loaded::Loaded if is_right => return Ok(()),
            Loaded::Loaded => Kind::PageCorrupt,
            Loaded::Missing => Kind::PageLost,
        };
        let fields: [(&'static str, &dyn std::fmt::Display); 5] = [
            ("backend", &member.name()),
            ("area", &key.area),
            ("offset", &key.offset),
            ("found", &found),
            ("expected", &expected),
        ];
        Err(Error::new(kind, &fields))
    }

    /// Copies out the page of an entry that is not vacant.
    pub(super) fn copy_out(
        &self,
        roster: &Roster,
        entry: &mut MapEntry<'_>,
        out: &mut Page,
    ) -> Result<(), Error> {
        let record = Record::from_words(entry.get());
        match record.place {
            Place::Vacant => unreachable!("the caller has looked"),
            Place::SameFilled => {
                out.fill(record.word());
                Ok(())
            }
            Place::In(seat) => self.load_checked(roster.member(seat), entry.key(), record.checksum(), out),
            Place::InBoth(seat) => self.load_either(roster, seat, entry, out),
        }
    }

    /// Loads a page that is in a fast backend and in the slow swap: whichever gives it back. When
    /// the fast copy is gone or wrong, it is forgotten.
    fn load_either(
        &self,
        roster: &Roster,
        seat: Seat,
        entry: &mut MapEntry<'_>,
        out: &mut Page,
    ) -> Result<(), Error> {
        let record = Record::from_words(entry.get());
        let fast = roster.member(seat);
        let Err(error) = self.load_checked(fast, entry.key(), record.checksum(), out) else { return Ok(()) };
        let Some(slow) = roster.slow() else { return Err(error) };
        self.load_checked(&slow.member, entry.key(), record.checksum(), out)?;
        self.fall_back(roster, entry, seat);
        Ok(())
    }

    /// Forgets a page wherever it is. Leaves the entry vacant.
    pub(super) fn forget(&self, roster: &Roster, area: &AreaState, entry: &mut MapEntry<'_>) {
        self.take_out(roster, entry, None);
        self.write(roster, area, entry, Record::VACANT);
    }

    /// Tells the backends that have a page to forget it, but for one. The entry still names them.
    fn take_out(&self, roster: &Roster, entry: &MapEntry<'_>, but: Option<Seat>) {
        let place = Record::from_words(entry.get()).place;
        for seat in place.seats(roster.slow_seat()).into_iter().flatten().filter(|seat| Some(*seat) != but) {
            roster.member(seat).invalidate_page(entry.key());
        }
    }

    /// Writes an entry and counts what changed by it: nothing, when a page is overwritten where it was.
    pub(super) fn write(&self, roster: &Roster, area: &AreaState, entry: &mut MapEntry<'_>, next: Record) {
        let from = Record::from_words(entry.get()).place;
        let to = next.place;
        if from != to {
            let slow = roster.slow_seat();
            for seat in to.seats(slow).into_iter().flatten().filter(|seat| !from.is_in(*seat, slow)) {
                roster.member(seat).counters.page_came();
            }
            for seat in from.seats(slow).into_iter().flatten().filter(|seat| !to.is_in(*seat, slow)) {
                roster.member(seat).counters.page_went();
            }
            for counters in [&self.counters, &area.counters] {
                match (from == Place::Vacant, to == Place::Vacant) {
                    (true, false) => counters.page_came(),
                    (false, true) => counters.page_went(),
                    _ => {}
                }
                match (from == Place::SameFilled, to == Place::SameFilled) {
                    (false, true) => counters.same_filled(true),
                    (true, false) => counters.same_filled(false),
                    _ => {}
                }
            }
        }
        entry.set(next.to_words());
    }

    fn reject(&self, area: &AreaState, key: Key, reason: Reject) -> Stored {
        self.counters.reject(key, reason);
        area.counters.reject(key, reason);
        Stored::Rejected(reason)
    }

    /// A chain that is closed has no areas: then that is the reason.
    fn or_closed(&self, error: Error, operation: &str) -> Error {
        if self.is_open.load(Ordering::Acquire) {
            return error;
        }
        Self::closed(operation)
    }

    /// Whether somebody after `position` may take a page.
    pub(super) fn can_demote_from(roster: &Roster, position: usize) -> bool {
        roster.members[position + 1..].iter().any(|lower| lower.member.state() == State::Ready)
    }
}
