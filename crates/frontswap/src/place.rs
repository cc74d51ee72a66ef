//! Every state that a page can be in, as one table with its legal moves, and the map entry that
//! records it.
//!
//! | from          | may become                        | by                                          |
//! |---------------|-----------------------------------|---------------------------------------------|
//! | `Vacant`      | `SameFilled`, `In`, `InBoth`      | store                                       |
//! | `SameFilled`  | `Vacant`                          | invalidate, exclusive load, pull, overwrite |
//! | `In(a)`       | `Vacant`                          | the same                                    |
//! | `In(a)`       | `In(b)`, b other than a           | demotion, promotion, drain                  |
//! | `In(slow)`    | `InBoth(b)`, b other than slow    | promotion under writethrough                |
//! | `InBoth(a)`   | `Vacant`                          | invalidate, exclusive load, pull, overwrite |
//! | `InBoth(a)`   | `InBoth(b)`, b other than a       | demotion, promotion, drain                  |
//! | `InBoth(a)`   | `In(slow)`                        | demotion, drain or loss of the fast copy    |
//!
//! A move is made under the key's lock, so nobody sees a page on its way.

use crate::page::Checksum;

/// A backend's number in its chain. Numbers of removed backends are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seat(pub u8);

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: frontswap does not hold it.
    Vacant,
    /// In the map itself: one repeated word (rule F5).
    SameFilled,
    /// In exactly one backend (rule F2).
    In(Seat),
    /// In a fast backend, and a copy in the slow swap (rule F6).
    InBoth(Seat),
}

impl Place {
    /// The seats that have the page: one, two under writethrough, or none.
    pub fn seats(self, slow: Option<Seat>) -> [Option<Seat>; 2] {
        match self {
            Place::Vacant | Place::SameFilled => [None, None],
            Place::In(seat) => [Some(seat), None],
            Place::InBoth(seat) => [Some(seat), slow],
        }
    }

    /// Whether `seat` has the page.
    pub fn is_in(self, seat: Seat, slow: Option<Seat>) -> bool {
        self.seats(slow).contains(&Some(seat))
    }

    /// The table above. `slow` is the seat of the slow swap, if the chain has one.
    pub fn may_become(self, next: Place, slow: Option<Seat>) -> bool {
        match (self, next) {
            (Place::Vacant, Place::Vacant) => false,
            (Place::Vacant, _) | (_, Place::Vacant) => true,
            (Place::In(from), Place::In(to)) => from != to,
            (Place::In(from), Place::InBoth(to)) => Some(from) == slow && from != to,
            (Place::InBoth(from), Place::InBoth(to)) => from != to,
            (Place::InBoth(_), Place::In(to)) => Some(to) == slow,
            (Place::SameFilled, _) | (_, Place::SameFilled) => false,
        }
    }
}

/// One entry of the chain's map: five words, of which two bits belong to the key's lock.
///
/// First word: bits 2 and 3 the place, 4 to 11 the seat, 12 to 19 the epoch of the last load from
/// below the top, 20 to 27 the ticket of an offer to the front end. The other four: the page's
/// checksum, or the repeated word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the page is.
    pub place: Place,
    /// Epoch in which it was last loaded from below the top of the chain; 0 for never.
    pub loaded_epoch: u8,
    /// Which [`crate::Chain::shrink`] has handed it to the front end last; 0 for none. A store writes
    /// a fresh entry, without it.
    pub ticket: u8,
    /// Checksum, or the repeated word in the first two.
    pub rest: [u32; 4],
}

/// Words of an entry.
pub const RECORD_WORDS: usize = 5;

impl Record {
    /// No page.
    pub const VACANT: Record = Record { place: Place::Vacant, loaded_epoch: 0, ticket: 0, rest: [0; 4] };

    /// A page in `place` with that checksum.
    pub fn held(place: Place, checksum: Checksum) -> Self {
        Record { place, loaded_epoch: 0, ticket: 0, rest: checksum.to_words() }
    }

    /// A page of one repeated word.
    pub fn same_filled(word: u64) -> Self {
        let rest = [word as u32, (word >> 32) as u32, 0, 0];
        Record { place: Place::SameFilled, loaded_epoch: 0, ticket: 0, rest }
    }

    /// The checksum of a page that is in a backend.
    pub fn checksum(&self) -> Checksum {
        Checksum::from_words(self.rest)
    }

    /// The word of a same-filled page.
    pub fn word(&self) -> u64 {
        u64::from(self.rest[0]) | u64::from(self.rest[1]) << 32
    }

    /// As the table keeps it.
    pub fn to_words(self) -> [u32; RECORD_WORDS] {
        let (kind, seat) = match self.place {
            Place::Vacant => return [0; RECORD_WORDS],
            Place::SameFilled => (1, 0),
            Place::In(seat) => (2, seat.0),
            Place::InBoth(seat) => (3, seat.0),
        };
        let first = kind << 2
            | u32::from(seat) << 4
            | u32::from(self.loaded_epoch) << 12
            | u32::from(self.ticket) << 20;
        [first, self.rest[0], self.rest[1], self.rest[2], self.rest[3]]
    }

    /// The place that the first word of an entry names.
    pub fn place_of(first: u32) -> Place {
        let seat = Seat((first >> 4) as u8);
        match first >> 2 & 3 {
            0 => Place::Vacant,
            1 => Place::SameFilled,
            2 => Place::In(seat),
            _ => Place::InBoth(seat),
        }
    }

    /// The reverse of [`Record::to_words`].
    pub fn from_words(words: [u32; RECORD_WORDS]) -> Self {
        Record {
            place: Record::place_of(words[0]),
            loaded_epoch: (words[0] >> 12) as u8,
            ticket: (words[0] >> 20) as u8,
            rest: [words[1], words[2], words[3], words[4]],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_of_moves() {
        let (zpool, ram, file) = (Seat(0), Seat(1), Seat(2));
        let slow = Some(file);
        let states = [Place::Vacant, Place::SameFilled]
            .into_iter()
            .chain([zpool, ram, file].map(Place::In))
            .chain([zpool, ram].map(Place::InBoth));
        for from in states.clone() {
            assert!(!from.may_become(from, slow), "{from:?} to itself is no move");
            assert_eq!(from.may_become(Place::Vacant, slow), from != Place::Vacant);
            assert_eq!(from.may_become(Place::SameFilled, slow), from == Place::Vacant);
        }
        assert!(Place::In(zpool).may_become(Place::In(file), slow));
        assert!(Place::In(file).may_become(Place::InBoth(zpool), slow));
        assert!(
            !Place::In(ram).may_become(Place::InBoth(zpool), slow),
            "the slow copy is not made on a move"
        );
        assert!(Place::InBoth(zpool).may_become(Place::In(file), slow));
        assert!(!Place::InBoth(zpool).may_become(Place::In(ram), slow), "the slow copy would be leaked");
    }

    proptest! {
        #[test]
        fn a_record_survives_its_words(kind in 1u8..4, seat: u8, loaded_epoch: u8, ticket: u8, rest: [u32; 4]) {
            let place = match kind {
                1 => Place::SameFilled,
                2 => Place::In(Seat(seat)),
                _ => Place::InBoth(Seat(seat)),
            };
            let record = Record { place, loaded_epoch, ticket, rest };
            let words = record.to_words();
            prop_assert_eq!(words[0] & crate::key_lock::LOCK_BITS, 0);
            prop_assert_eq!(Record::from_words(words), record);
        }
    }
}
