//! What a page is called, and how much of something there is. Pages, bytes and offsets are types:
//! a number of one kind cannot be passed for another.

use std::fmt;

use crate::page::PAGE_SIZE;

/// One swap area: the kernel's "swap type".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Area(pub u16);

/// Index of a page inside an area, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub u64);

/// A number of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pages(pub u64);

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// The name of a page: which area, which offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The area that the page belongs to.
    pub area: Area,
    /// Where it is in that area.
    pub offset: Offset,
}

/// Neighbouring pages that share a leaf of a table, and whatever else neighbours share. A power of
/// two: a kernel frees and fills swap in clusters of 256 or 512, so leaves are mostly full.
pub const LEAF_PAGES: usize = 128;

/// The longest area: 2^36 pages are 256 TiB, more than x86-64 can map with four levels.
pub const AREA_PAGES_MAX: Pages = Pages(1 << 36);

impl Key {
    /// A key from bare numbers.
    pub fn new(area: u16, offset: u64) -> Self {
        Key { area: Area(area), offset: Offset(offset) }
    }

    /// A number for choosing one of a few copies of something that many threads use. Pages of one leaf
    /// of the map share it, because a thread works on a neighbourhood; for other neighbourhoods, also
    /// regularly spaced ones, it is as good as random.
    pub fn spread(self) -> usize {
        let leaf = (self.offset.0 / LEAF_PAGES as u64) ^ (u64::from(self.area.0) << 48);
        (leaf.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize
    }
}

impl Pages {
    /// The bytes of that many pages.
    pub fn bytes(self) -> Bytes {
        Bytes(self.0 * PAGE_SIZE as u64)
    }
}

impl Bytes {
    /// Whole pages in that many bytes, rounded down.
    pub fn pages(self) -> Pages {
        Pages(self.0 / PAGE_SIZE as u64)
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Bytes {
    /// IEC with a space, as sizes are shown everywhere: `1.86 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        if unit == "B" { write!(f, "{} B", self.0) } else { write!(f, "{value:.2} {unit}") }
    }
}
