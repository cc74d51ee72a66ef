//! Which faults follow each other: a page read ahead for a stream saves a fault, one read ahead at random
//! costs a load and evicts something else, so nothing is read ahead until a second fault fits.

use std::sync::Mutex;

use frontswap::page::PAGE_SIZE;

use crate::threads::lock;

/// Streams that are followed at a time.
const STREAMS: usize = 8;
/// Pages that are brought at once, at first and at most. 32 pages make the call's own cost small.
const WINDOW_FIRST: usize = 4;
/// As above.
pub const WINDOW_MAX: usize = 32;
/// Zeroes cost nothing to bring: a program that fills new memory gets it by the chunk.
const ZERO_WINDOW_MAX: usize = 512;

#[derive(Clone, Copy, Default)]
struct Stream {
    /// The address whose fault would go on with it.
    next: usize,
    pages: usize,
    zero_pages: usize,
}

/// The streams of one pager.
#[derive(Default)]
pub struct Streams(Mutex<(usize, [Stream; STREAMS])>);

/// How far a fault may bring pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Pages that have contents.
    pub pages: usize,
    /// Pages that are zeroes.
    pub zero_pages: usize,
}

impl Streams {
    /// The window of a fault at `address`.
    pub fn window(&self, address: usize) -> Window {
        let mut guard = lock(&self.0);
        let (oldest, streams) = &mut *guard;
        if let Some(stream) = streams.iter_mut().find(|stream| stream.next == address && address != 0) {
            stream.pages = (stream.pages * 2).clamp(WINDOW_FIRST, WINDOW_MAX);
            stream.zero_pages = (stream.zero_pages * 4).clamp(WINDOW_FIRST, ZERO_WINDOW_MAX);
            return Window { pages: stream.pages, zero_pages: stream.zero_pages };
        }
        *oldest = (*oldest + 1) % STREAMS;
        streams[*oldest] = Stream { next: address + PAGE_SIZE, pages: 1, zero_pages: 1 };
        Window { pages: 1, zero_pages: 1 }
    }

    /// Tells that the fault at `address` was answered with `pages` pages.
    pub fn advance(&self, address: usize, pages: usize) {
        let mut guard = lock(&self.0);
        let next = address + pages * PAGE_SIZE;
        if let Some(stream) = guard.1.iter_mut().find(|stream| stream.next == address) {
            stream.next = next;
        } else if let Some(stream) = guard.1.iter_mut().find(|stream| stream.next == address + PAGE_SIZE) {
            stream.next = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_followed_and_a_lone_fault_is_not() {
        let streams = Streams::default();
        assert_eq!(streams.window(0x10000).pages, 1);
        streams.advance(0x10000, 1);
        assert_eq!(streams.window(0x80000).pages, 1);
        assert_eq!(streams.window(0x11000).pages, WINDOW_FIRST);
        streams.advance(0x11000, WINDOW_FIRST);
        assert_eq!(streams.window(0x15000).pages, 2 * WINDOW_FIRST);
        assert_eq!(streams.window(0x12000).pages, 1);
    }
}
