//! Pulling pages back (rule F8): to the front end, or into the slow swap.

use std::sync::atomic::Ordering;

use super::Chain;
use super::operations::MapEntry;
use crate::error::Error;
use crate::key::{Key, Pages};
use crate::page::Page;
use crate::place::{Place, Record};

/// After so many pages that did not move, the slow swap is taken to be full.
const REFUSALS_MAX: u32 = 16;

/// Takes a page back: true once the front end has its own copy.
pub type Pull<'a> = dyn FnMut(Key, &Page) -> Result<bool, Error> + 'a;

impl Chain {
    /// Hands pages back to the front end until the chain holds at most `target`, or the front end
    /// takes no more. Returns the pages that are still held. May be called again to go on.
    ///
    /// No lock is held while `pull` runs: it may call this chain, and a page that is stored meanwhile
    /// is not forgotten.
    ///
    /// # Errors
    /// Those of `pull`. A page that cannot be given back is passed over, and is an error at the end if
    /// the target was not reached for it; what was pulled is gone from here.
    pub fn shrink(&self, target: Pages, pull: &mut Pull<'_>) -> Result<Pages, Error> {
        let ticket = (self.shrinks.fetch_add(1, Ordering::Relaxed) % 255) as u8 + 1;
        let mut page = Page::ZERO;
        let mut unreadable = None;
        // Pages in RAM first: to free it is what shrinking is for.
        for from_slow in [false, true] {
            for shard in 0..self.map.shard_count() {
                for leaf in self.map.leaves_of_shard(shard) {
                    for key in leaf.live_keys() {
                        if self.curr_pages() <= target {
                            return Ok(self.curr_pages());
                        }
                        match self.offer_back(key, from_slow, ticket, &mut page) {
                            Ok(false) => continue,
                            Ok(true) => {}
                            Err(error) => {
                                unreadable.get_or_insert(error);
                                continue;
                            }
                        }
                        if !pull(key, &page)? {
                            return Ok(self.curr_pages());
                        }
                        self.forget_offered(key, ticket);
                    }
                }
            }
        }
        match unreadable {
            Some(error) if self.curr_pages() > target => Err(error),
            _ => Ok(self.curr_pages()),
        }
    }

    /// Moves pages into the slow swap until at most `target` are held above it, or it takes no more.
    /// Returns the pages that are still above it; same-filled pages are, and stay where they are.
    pub fn shrink_to_slow(&self, target: Pages) -> Pages {
        let roster = self.roster.current();
        let fast = roster.members.iter().filter(|seated| Some(seated.seat) != roster.slow_seat());
        let above = || {
            let in_fast: u64 = fast.clone().map(|seated| seated.member.counters.stored_pages()).sum();
            Pages(in_fast + self.counters.same_filled_pages())
        };
        if roster.slow().is_some() && above() > target {
            let mut refusals = 0;
            self.map.for_each(|_, entry| {
                refusals += u32::from(!self.sink_one(entry));
                refusals < REFUSALS_MAX && above() > target
            });
        }
        above()
    }

    /// False when the page should move and did not.
    fn sink_one(&self, entry: &mut MapEntry<'_>) -> bool {
        let key = entry.key();
        let roster = self.roster.fresh(self.roster.read(key), key);
        let Some(slow) = roster.slow() else { return false };
        match Record::from_words(entry.get()).place {
            Place::In(seat) | Place::InBoth(seat) if seat != slow.seat => self.sink(&roster, entry),
            _ => true,
        }
    }

    /// Copies a page out and marks it with `ticket`. False when it is no longer held, or is in the
    /// slow swap and that is not asked for.
    fn offer_back(&self, key: Key, from_slow: bool, ticket: u8, page: &mut Page) -> Result<bool, Error> {
        let Some(mut entry) = self.map.lock_existing(key).filter(|entry| !entry.is_vacant()) else {
            return Ok(false);
        };
        let roster = self.roster.fresh(self.roster.read(key), key);
        let is_slow = |place| roster.slow_seat().is_some_and(|slow| place == Place::In(slow));
        if !from_slow && is_slow(Record::from_words(entry.get()).place) {
            return Ok(false);
        }
        self.copy_out(&roster, &mut entry, page)?;
        let record = Record::from_words(entry.get());
        entry.set_first(Record { ticket, ..record }.to_words()[0]);
        Ok(true)
    }

    /// Forgets a page that the front end took, unless it was stored anew meanwhile.
    fn forget_offered(&self, key: Key, ticket: u8) {
        let Some(mut entry) = self.map.lock_existing(key).filter(|entry| !entry.is_vacant()) else { return };
        if Record::from_words(entry.get()).ticket != ticket {
            return;
        }
        let roster = self.roster.fresh(self.roster.read(key), key);
        if let Ok(area) = roster.area(key) {
            self.forget(&roster, area, &mut entry);
        }
    }
}
