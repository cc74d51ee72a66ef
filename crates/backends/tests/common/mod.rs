//! What the tests over a chain share: pages of known kinds, small backends, and a watchdog.

#![allow(dead_code, reason = "every test file uses a part of it")]

pub mod moody;
pub mod sharing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use frontswap::{Area, Bytes, Chain, ChainOptions, Key, Member, Page, Pages};
use frontswap_backends::{
    CodecChoice, FaultInject, Faults, Incompressible, Ram, SwapFile, Zpool, ZpoolOptions,
};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// What a page looks like to a codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Word,
    Text,
    Counters,
    Noise,
}

impl Look {
    pub const ALL: [Look; 4] = [Look::Word, Look::Text, Look::Counters, Look::Noise];

    /// The page of this look and `seed`. Different seeds make different pages.
    pub fn page(self, seed: u64) -> Page {
        let mut page = Page::ZERO;
        match self {
            Look::Word => page.fill(seed),
            Look::Counters => {
                fill_words(&mut page, |index| seed.wrapping_mul(1024).wrapping_add(1_000_000 + 3 * index))
            }
            Look::Noise => fill_words(&mut page, |index| mix(seed ^ mix(index))),
            Look::Text => write_text(&mut page, seed),
        }
        page
    }
}

fn fill_words(page: &mut Page, mut word: impl FnMut(u64) -> u64) {
    for (index, bytes) in (0u64..).zip(page.0.as_chunks_mut::<8>().0) {
        *bytes = word(index).to_le_bytes();
    }
}

fn write_text(page: &mut Page, seed: u64) {
    let words = ["page ", "swap ", "frontswap ", "memory ", "reclaim ", "the ", "a ", "store\n"];
    page.0[..8].copy_from_slice(&seed.to_le_bytes());
    let (mut at, mut state) = (8, seed);
    loop {
        state = mix(state);
        let word = words[state as usize % words.len()].as_bytes();
        let Some(room) = page.0.get_mut(at..at + word.len()) else { break };
        room.copy_from_slice(word);
        at += word.len();
    }
}

/// The finaliser of SplitMix64.
pub fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// A sequence of numbers that a seed decides.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % end
    }
}

pub fn zpool(capacity: u64) -> Arc<Zpool> {
    let options = ZpoolOptions {
        capacity: Bytes(capacity),
        codec: CodecChoice::Auto,
        level: 1,
        incompressible: Incompressible::Keep,
        inherit: false,
    };
    Arc::new(Zpool::new(options).expect("address space for a pool"))
}

pub fn ram(capacity: u64) -> Arc<Ram> {
    Arc::new(Ram::new(Bytes(capacity)).expect("address space for pages"))
}

/// A swap file without a name in the system's temporary directory: nothing is left of it.
pub fn file(capacity: u64) -> Arc<SwapFile> {
    Arc::new(SwapFile::create(&std::env::temp_dir(), Bytes(capacity), false).expect("a swap file"))
}

/// The same, without threads of its own.
pub fn quiet_file(capacity: u64) -> Arc<SwapFile> {
    let file = SwapFile::create_without_writers(&std::env::temp_dir(), Bytes(capacity), false);
    Arc::new(file.expect("a swap file"))
}

pub fn faulty(inner: Arc<dyn frontswap::Backend>, faults: Faults) -> Arc<FaultInject> {
    Arc::new(FaultInject::new(inner, faults))
}

pub fn member(backend: Arc<dyn frontswap::Backend>) -> Arc<Member> {
    Arc::new(Member::new(backend))
}

/// A chain of `members` in which area 0 has `pages` pages.
pub fn chain(members: &[&Arc<Member>], options: ChainOptions, pages: u64) -> Arc<Chain> {
    let members = members.iter().map(|member| Arc::clone(member)).collect();
    let chain = Chain::new(members, options).expect("a chain");
    chain.init(Area(0), Pages(pages)).expect("an area");
    chain
}

pub fn writethrough() -> ChainOptions {
    ChainOptions { writethrough: true, ..ChainOptions::default() }
}

/// A chain whose owner keeps house.
pub fn without_worker() -> ChainOptions {
    ChainOptions { own_worker: false, ..ChainOptions::default() }
}

/// Loads a page that must be held, and compares it.
#[track_caller]
pub fn assert_holds(chain: &Chain, key: Key, expected: &Page) {
    let mut out = Page::ZERO;
    match chain.load(key, &mut out, false) {
        Ok(true) => assert!(out == *expected, "{key:?} came back changed"),
        Ok(false) => panic!("{key:?} is missing"),
        Err(error) => panic!("{key:?}: {error}"),
    }
}

#[track_caller]
pub fn assert_missing(chain: &Chain, key: Key) {
    assert_eq!(chain.load(key, &mut Page::default(), false), Ok(false), "{key:?}");
}

/// Waits until `holds` is true; the worker may be in the middle of moving a page.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(5), "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Ends the process, with a word about why, when `guarded` does not return within `limit`: a
/// deadlock cannot be left in another way.
pub fn within<T>(limit: Duration, what: &str, guarded: impl FnOnce() -> T) -> T {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watchdog = scope.spawn(|| {
            let start = Instant::now();
            while !is_done.load(Ordering::Acquire) {
                if start.elapsed() > limit {
                    eprintln!("{what} did not end within {limit:?}");
                    std::process::abort();
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(guarded));
        is_done.store(true, Ordering::Release);
        watchdog.thread().unpark();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// How long a stress test runs.
pub fn stress_time() -> Duration {
    Duration::from_millis(if cfg!(debug_assertions) { 800 } else { 2500 })
}

/// A number that only grows, for progress.
pub type Count = AtomicU64;
