//! One page of 4096 bytes, its checksum, and the test for a page of one repeated word.

use std::fmt;

/// Bytes in a page, the unit of the contract.
pub const PAGE_SIZE: usize = 4096;

/// One page. Aligned to a cache line so that copies and codecs start on one.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Page(pub [u8; PAGE_SIZE]);

/// 128 bits of XXH3 over a page's bytes. It travels with the page from store to load (rule B10).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Checksum(pub u128);

impl Page {
    /// A page of zeroes, for use as a buffer.
    pub const ZERO: Page = Page([0; PAGE_SIZE]);

    /// A page that repeats one 8-byte word.
    pub fn filled_with(word: u64) -> Page {
        let mut page = Page::ZERO;
        page.fill(word);
        page
    }

    /// Overwrites this page with one repeated 8-byte word.
    pub fn fill(&mut self, word: u64) {
        for bytes in self.0.as_chunks_mut::<8>().0 {
            *bytes = word.to_ne_bytes();
        }
    }

    /// The word that this page repeats, or `None` for any other page (rule F5).
    ///
    /// # Cost
    /// One compare for nearly every page that is not same-filled: the last word is looked at first,
    /// because many pages begin with a run of zeroes. 60 ns for a page that is.
    pub fn same_filled(&self) -> Option<u64> {
        let words = self.0.as_chunks::<8>().0;
        let first = words[0];
        // A page repeats its first word when it is itself, moved by one word.
        let is_same = words[words.len() - 1] == first && words[1..] == words[..words.len() - 1];
        is_same.then(|| u64::from_ne_bytes(first))
    }

    /// The checksum of these bytes.
    ///
    /// # Cost
    /// About 90 ns with AVX2, chosen at run time.
    pub fn checksum(&self) -> Checksum {
        Checksum(twox_hash::XxHash3_128::oneshot(&self.0))
    }
}

impl Default for Page {
    fn default() -> Self {
        Page::ZERO
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({:?})", self.checksum())
    }
}

impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Page {}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Checksum {
    /// The four 32-bit words in which a table entry keeps it.
    pub fn to_words(self) -> [u32; 4] {
        [self.0 as u32, (self.0 >> 32) as u32, (self.0 >> 64) as u32, (self.0 >> 96) as u32]
    }

    /// The reverse of [`Checksum::to_words`].
    pub fn from_words(words: [u32; 4]) -> Self {
        let part = |index: usize| u128::from(words[index]) << (32 * index);
        Checksum(part(0) | part(1) | part(2) | part(3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_filled_means_every_word() {
        let mut page = Page::filled_with(0x0102_0304_0506_0708);
        assert_eq!(page.same_filled(), Some(0x0102_0304_0506_0708));
        for at in [0, 7, 8, 2000, 4095] {
            page.0[at] ^= 1;
            assert_eq!(page.same_filled(), None, "byte {at}");
            page.0[at] ^= 1;
        }
    }

    #[test]
    fn checksum_words_round_trip() {
        let sum = Page::filled_with(7).checksum();
        assert_eq!(Checksum::from_words(sum.to_words()), sum);
        assert_ne!(sum, Page::filled_with(8).checksum());
    }
}
