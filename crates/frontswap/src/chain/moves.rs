//! Pages that move between backends without their owner: demotion, promotion, draining (rules F10,
//! F11), and the piece of housekeeping that the worker repeats.
//!
//! A move holds the key of its page from the first copy to the last, so the page is in one place for
//! everybody else. A move that fails leaves the page where it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Chain;
use super::operations::MapEntry;
use super::roster::{Roster, Seated};
use crate::backend::Answer;
use crate::counters::Event;
use crate::key::{Key, Pages};
use crate::member::{Member, State};
use crate::page::{PAGE_SIZE, Page};
use crate::place::{Place, Record, Seat};
use crate::worker::Housekeeping;

/// Pages that a store moves at most to make room for its own: about a tenth of a millisecond.
const INLINE_BATCH_PAGES: usize = 16;
/// Pages that the worker moves between two looks at the clock and the budget.
const WORKER_BATCH_PAGES: usize = 256;
/// A page is promoted when it is loaded again within this many epochs of its last load from below...
const PROMOTE_EPOCHS_MAX: u16 = 8;
/// ...where an epoch is one eighth of the pages above it in loads, and at least this many: then the
/// reuse distance is below what the faster backends hold, and it would have been found there.
const EPOCH_LOADS_MIN: u64 = 64;
/// Epochs are numbered 1 to 255, round and round; 0 in an entry is never.
const EPOCHS: u16 = 255;
/// Rounds without progress after which a lowered capacity is left to the worker, and the pause in each.
const FIT_IDLE_ROUNDS_MAX: u32 = 5;
/// Rounds for compaction, beside those for pages.
const FIT_ROUNDS_MIN: u64 = 4096;
/// After so many pages in a row that nobody takes, a backend is not drained any further.
const DRAIN_REFUSALS_MAX: u32 = 1000;
const FIT_PAUSE: Duration = Duration::from_millis(1);

impl Housekeeping for Chain {
    fn maintain(&self) -> bool {
        let roster = self.roster.current();
        let mut has_more = false;
        self.map.trim_when_sparse();
        for (position, seated) in roster.members.iter().enumerate() {
            let member = &seated.member;
            has_more |= member.backend().maintain();
            let over = Pages(member.backend().usage().pressure.0.div_ceil(PAGE_SIZE as u64));
            if over.0 == 0 || !Self::can_demote_from(&roster, position) {
                continue;
            }
            let want = self.demote_budget.take(Pages(over.0.min(WORKER_BATCH_PAGES as u64)));
            has_more |= self.demote_coldest(&roster, position, want.0 as usize) > 0;
        }
        has_more
    }

    fn tidy(&self) {
        self.map.trim();
    }
}

impl Chain {
    /// Hands pages of `member` down until it is within its capacity, or until nothing below takes
    /// more (rule B7). Returns the pages that are still too many.
    pub fn fit(&self, member: &Arc<Member>) -> Pages {
        let usage = || member.backend().usage();
        let over = || usage().excess.0.div_ceil(PAGE_SIZE as u64);
        // Nothing new comes in while it is over, so what is held now bounds the work.
        let rounds_max = FIT_ROUNDS_MIN + usage().stored_pages.0 / 16;
        let mut idle_rounds = 0;
        for _ in 0..rounds_max {
            let has_more = member.backend().maintain();
            let too_many = over();
            if too_many == 0 && !has_more || idle_rounds == FIT_IDLE_ROUNDS_MAX {
                return Pages(too_many);
            }
            if too_many == 0 {
                continue;
            }
            let roster = self.roster.current();
            let position = roster.members.iter().position(|seated| Arc::ptr_eq(&seated.member, member));
            let want = too_many.min(WORKER_BATCH_PAGES as u64) as usize;
            let moved = match position {
                Some(position) if Self::can_demote_from(&roster, position) => {
                    self.demote_coldest(&roster, position, want)
                }
                _ => 0,
            };
            if moved > 0 || has_more {
                idle_rounds = 0;
            } else {
                idle_rounds += 1;
                // The worker may have the last ones in its hands.
                std::thread::sleep(FIT_PAUSE);
            }
        }
        Pages(over())
    }

    /// Demotes a few pages of the backend at `position` for a store that waits. True when one went.
    pub(super) fn make_room(&self, roster: &Roster, position: usize) -> bool {
        self.demote_coldest(roster, position, INLINE_BATCH_PAGES) > 0
    }

    /// Demotes up to `want` of the coldest pages of the backend at `position`; returns how many went.
    fn demote_coldest(&self, roster: &Roster, position: usize, want: usize) -> usize {
        let seated = &roster.members[position];
        let mut victims = Vec::with_capacity(want);
        seated.member.backend().coldest(want, &mut victims);
        victims.iter().filter(|key| self.demote(seated, **key)).count()
    }

    /// Demotes one page, unless somebody is at it or it is no longer there.
    fn demote(&self, from: &Seated, key: Key) -> bool {
        let Some(mut entry) = self.map.try_lock_existing(key) else { return false };
        let roster = self.roster.fresh(self.roster.read(key), key);
        let place = Record::from_words(entry.get()).place;
        if place != Place::In(from.seat) && place != Place::InBoth(from.seat) {
            return false;
        }
        let below = roster.position(from.seat) + 1;
        if !self.relocate(&roster, &mut entry, roster.members[below..].iter()) {
            return false;
        }
        from.member.counters.count(key, Event::WrittenBack);
        self.counters.count(key, Event::WrittenBack);
        if let Ok(area) = roster.area(key) {
            area.counters.count(key, Event::WrittenBack);
        }
        true
    }

    /// Moves the page of `entry` to the first of `candidates` that accepts it. False when none does,
    /// or when its own backend cannot give it back: then it stays, and a load says why.
    fn relocate<'a>(
        &self,
        roster: &Roster,
        entry: &mut MapEntry<'_>,
        candidates: impl Iterator<Item = &'a Seated>,
    ) -> bool {
        let key = entry.key();
        let record = Record::from_words(entry.get());
        let slow = roster.slow_seat();
        let (from, is_in_both) = match record.place {
            Place::In(seat) => (seat, false),
            Place::InBoth(seat) => (seat, true),
            Place::Vacant | Place::SameFilled => return false,
        };
        let mut page = Page::ZERO;
        let mut is_read = false;
        for candidate in candidates.filter(|candidate| candidate.seat != from) {
            // The copy that writethrough made is already there.
            let has_it = is_in_both && Some(candidate.seat) == slow;
            if !has_it {
                if candidate.member.state() != State::Ready {
                    continue;
                }
                if !is_read
                    && self.load_checked(roster.member(from), key, record.checksum(), &mut page).is_err()
                {
                    return is_in_both && self.fall_back(roster, entry, from);
                }
                is_read = true;
                if !Self::accepts(&candidate.member, key, &page) {
                    continue;
                }
            }
            let to = candidate.seat;
            let place = if is_in_both && Some(to) != slow { Place::InBoth(to) } else { Place::In(to) };
            self.leave(roster, from, key);
            self.set_place(roster, entry, place);
            return true;
        }
        false
    }

    /// The copy in `from` is gone or wrong: what writethrough wrote is the page now.
    pub(super) fn fall_back(&self, roster: &Roster, entry: &mut MapEntry<'_>, from: Seat) -> bool {
        let Some(slow) = roster.slow_seat() else { return false };
        self.leave(roster, from, entry.key());
        self.set_place(roster, entry, Place::In(slow));
        true
    }

    /// Brings a page that is loaded often up the chain, while its bytes are at hand (rule F11).
    pub(super) fn consider_promotion(&self, roster: &Roster, entry: &mut MapEntry<'_>, page: &Page) {
        let record = Record::from_words(entry.get());
        let Place::In(seat) = record.place else { return };
        if roster.members[0].seat == seat {
            return;
        }
        let position = roster.position(seat);
        let above = &roster.members[..position];
        let epoch = self.epoch(above);
        let age = (u16::from(epoch) + EPOCHS - u16::from(record.loaded_epoch)) % EPOCHS;
        let is_hot = record.loaded_epoch != 0 && age <= PROMOTE_EPOCHS_MAX;
        if !is_hot || self.promote_budget.take(Pages(1)).0 == 0 {
            entry.set_first(Record { loaded_epoch: epoch, ..record }.to_words()[0]);
            return;
        }
        let key = entry.key();
        for candidate in above {
            if candidate.member.state() != State::Ready || !Self::accepts(&candidate.member, key, page) {
                continue;
            }
            candidate.member.counters.count(key, Event::Promoted);
            self.counters.count(key, Event::Promoted);
            let keeps_slow_copy = self.options.writethrough && roster.slow_seat() == Some(seat);
            if keeps_slow_copy {
                self.set_place(roster, entry, Place::InBoth(candidate.seat));
            } else {
                self.leave(roster, seat, key);
                self.set_place(roster, entry, Place::In(candidate.seat));
            }
            return;
        }
        // The fast ones are full: the worker makes room ahead of the next.
        self.worker.kick();
    }

    /// The clock of promotion, 1 to 255: it moves on by one for every eighth of the pages `above` in
    /// loads from below.
    fn epoch(&self, above: &[Seated]) -> u8 {
        let held: u64 = above.iter().map(|seated| seated.member.counters.stored_pages()).sum();
        let loads = self.epoch_loads.fetch_add(1, Ordering::Relaxed) + 1;
        let is_over = loads >= (held / 8).max(EPOCH_LOADS_MIN);
        if is_over
            && self.epoch_loads.compare_exchange(loads, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.epoch.fetch_add(1, Ordering::Relaxed);
        }
        (self.epoch.load(Ordering::Relaxed) % u64::from(EPOCHS)) as u8 + 1
    }

    /// Offers every page of `seated` to the others, in order. Returns how many are left.
    ///
    /// The sweep locks every key, also the vacant ones: a store that began before the backend was
    /// draining is waited for, and one that comes later sees it.
    pub(super) fn drain(&self, roster: &Roster, seated: &Seated) -> u64 {
        let mut refusals = 0;
        self.map.for_each(|_, entry| {
            let place = Record::from_words(entry.get()).place;
            if place == Place::In(seated.seat) || place == Place::InBoth(seated.seat) {
                let has_moved = self.relocate(roster, entry, roster.members.iter());
                refusals = if has_moved { 0 } else { refusals + 1 };
            }
            refusals < DRAIN_REFUSALS_MAX
        });
        seated.member.counters.stored_pages()
    }

    /// Moves one page that is above the slow swap into it. Used by `shrink`.
    pub(super) fn sink(&self, roster: &Roster, entry: &mut MapEntry<'_>) -> bool {
        self.relocate(roster, entry, roster.slow().into_iter())
    }

    fn accepts(member: &Member, key: Key, page: &Page) -> bool {
        let answer = member.offer(key, page);
        member.count_store(key, answer);
        answer == Answer::Accepted
    }

    fn leave(&self, roster: &Roster, seat: Seat, key: Key) {
        roster.member(seat).backend().invalidate_page(key);
    }

    /// Records a move; the rest of the entry stays as it is.
    pub(super) fn set_place(&self, roster: &Roster, entry: &mut MapEntry<'_>, place: Place) {
        let record = Record::from_words(entry.get());
        debug_assert!(
            record.place.may_become(place, roster.slow_seat()),
            "{:?} to {place:?} is no legal move",
            record.place
        );
        let area = roster.area(entry.key()).expect("a page that is held is in an area");
        self.write(roster, area, entry, Record { place, loaded_epoch: 0, ..record });
    }
}
