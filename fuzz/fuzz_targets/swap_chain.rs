//! Any sequence of operations on a small chain, compared bit for bit with a map of pages.
//!
//! The chain is short of room everywhere, so that pages are rejected, demoted, pulled and drained. Its
//! worker runs, as it does in use, or the steps keep house.

#![no_main]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frontswap::error::Kind;
use frontswap::{
    Area, Backend, Bytes, Chain, ChainOptions, Housekeeping, Key, Member, Offset, PAGE_SIZE, Page, Pages,
    Refreshed, Reject, Stored,
};
use frontswap_backends::{CodecChoice, CodecName, Incompressible, Ram, SwapFile, Zpool, ZpoolOptions};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const AREA: Area = Area(7);
const AREA_PAGES: u64 = 96;
const PAGE_BYTES: u64 = PAGE_SIZE as u64;
/// The room of each backend at first.
const POOL_PAGES: u64 = 32;
const RAM_PAGES: u64 = 16;
const FILE_PAGES: u64 = 32;
const MOVE_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Arbitrary, Debug)]
struct Input {
    has_ram: bool,
    has_file: bool,
    writethrough: bool,
    exclusive_loads: bool,
    keeps_incompressible: bool,
    own_worker: bool,
    codec: u8,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Store { offset: u8, content: Content },
    StoreMany { first: u8, count: u8, content: Content },
    Refresh { offset: u8, content: Option<Content> },
    Maintain,
    Load { offset: u8, exclusive: bool },
    LoadOften { first: u8, count: u8, times: u8 },
    InvalidatePage { offset: u8 },
    InvalidateArea { stays_closed: u8 },
    Init,
    SetCapacity { backend: u8, pages: u8 },
    Shrink { target: u8, takes: u8 },
    ShrinkToSlow { target: u8 },
    ComeAndGo { backend: u8 },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Content {
    Word(u8),
    Counters(u8),
    Noise(u8),
}

impl Content {
    fn page(self, salt: u64) -> Page {
        let mut page = Page::ZERO;
        let mut state = salt << 16 | 1;
        for (index, bytes) in page.0.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let word = match self {
                Content::Word(word) => u64::from(word),
                Content::Counters(first) => (salt << 8 | u64::from(first)) + 3 * index as u64,
                Content::Noise(seed) => {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(seed) << 1 | 1);
                    state ^ state >> 29
                }
            };
            *bytes = word.to_le_bytes();
        }
        page
    }
}

/// The chain, and what it should hold.
struct Run {
    chain: Arc<Chain>,
    /// What an empty pool takes for itself, which depends on the machine.
    pool_bytes: u64,
    held: HashMap<u64, Page>,
    is_open: bool,
    exclusive_loads: bool,
    writethrough: bool,
}

fuzz_target!(|input: Input| {
    let mut run = Run::new(&input);
    for (number, step) in input.steps.iter().take(64).enumerate() {
        run.step(number as u64, step);
        assert_eq!(run.chain.curr_pages().0, run.held.len() as u64, "after {step:?}");
    }
    run.finish();
});

impl Run {
    fn new(input: &Input) -> Run {
        let codec = match CodecName::ALL.get(usize::from(input.codec) % (CodecName::ALL.len() + 1)) {
            Some(codec) => CodecChoice::Fixed(*codec),
            None => CodecChoice::Auto,
        };
        let incompressible =
            if input.keeps_incompressible { Incompressible::Keep } else { Incompressible::Reject };
        let options = ZpoolOptions {
            capacity: Pages(POOL_PAGES).bytes(),
            codec,
            level: 1,
            incompressible,
            inherit: false,
        };
        let pool = Zpool::new(options).expect("there is address space");
        let pool_bytes = pool.usage().mem_used_total.0;
        pool.set_capacity(Bytes(pool_bytes + POOL_PAGES * PAGE_BYTES)).expect("the machine has more");
        let mut backends: Vec<Arc<dyn Backend>> = vec![Arc::new(pool)];
        if input.has_ram {
            backends.push(Arc::new(Ram::new(Pages(RAM_PAGES).bytes()).expect("there is address space")));
        }
        if input.has_file {
            let size = Pages(FILE_PAGES).bytes();
            let create = if input.own_worker { SwapFile::create } else { SwapFile::create_without_writers };
            let file = create(&std::env::temp_dir(), size, false).expect("there is disk space");
            backends.push(Arc::new(file));
        }
        let members = backends.into_iter().map(|backend| Arc::new(Member::new(backend))).collect();
        let writethrough = input.writethrough && input.has_file;
        let own_worker = input.own_worker;
        let options = ChainOptions { writethrough, own_worker, ..ChainOptions::default() };
        let chain = Chain::new(members, options).expect("a legal chain");
        chain.init(AREA, Pages(AREA_PAGES)).expect("a fresh area");
        let exclusive_loads = input.exclusive_loads;
        Run { chain, pool_bytes, held: HashMap::new(), is_open: true, exclusive_loads, writethrough }
    }

    fn step(&mut self, number: u64, step: &Step) {
        match *step {
            Step::Store { offset, content } => self.store(offset, content, number),
            Step::StoreMany { first, count, content } => {
                for index in 0..count % 48 {
                    self.store(first.wrapping_add(index), content, number << 8 | u64::from(index));
                }
            }
            Step::Refresh { offset, content } => self.refresh(offset, content, number),
            Step::Maintain => {
                let rest = (0..10_000).find(|_| !self.chain.maintain());
                assert!(rest.is_some(), "there is always more to do");
            }
            Step::Load { offset, exclusive } => self.load(key(offset), exclusive || self.exclusive_loads),
            Step::LoadOften { first, count, times } => {
                for index in (0..count % 16).cycle().take(usize::from(times % 4) * usize::from(count % 16)) {
                    self.load(key(first.wrapping_add(index)), self.exclusive_loads);
                }
            }
            Step::InvalidatePage { offset } => {
                self.chain.invalidate_page(key(offset));
                self.held.remove(&key(offset).offset.0);
            }
            Step::InvalidateArea { stays_closed } => {
                self.chain.invalidate_area(AREA);
                self.held.clear();
                self.is_open = false;
                // Seldom, or most of a run would be rejections.
                if stays_closed > 16 {
                    self.init();
                }
            }
            Step::Init => self.init(),
            Step::SetCapacity { backend, pages } => {
                let member = self.member(backend);
                let own = if member.description().kind == "zpool" { self.pool_bytes } else { 0 };
                if member
                    .backend()
                    .set_capacity(Bytes(own + (u64::from(pages % 48) + 1) * PAGE_BYTES))
                    .is_ok()
                {
                    self.chain.fit(&member);
                }
            }
            Step::Shrink { target, takes } => self.shrink(Pages(u64::from(target)), takes),
            Step::ShrinkToSlow { target } => {
                self.chain.shrink_to_slow(Pages(u64::from(target)));
            }
            Step::ComeAndGo { backend } => self.come_and_go(backend),
        }
    }

    fn init(&mut self) {
        let answer = self.chain.init(AREA, Pages(AREA_PAGES));
        assert_eq!(answer.err().map(|error| error.kind()), self.is_open.then_some(Kind::AreaInUse));
        self.is_open = true;
    }

    fn store(&mut self, offset: u8, content: Content, salt: u64) {
        let page = content.page(salt);
        let Key { offset: Offset(offset), .. } = key(offset);
        let stored = self.chain.store(Key::new(AREA.0, offset), &page).expect("a store of a known area");
        self.note_stored(offset, page, stored);
    }

    /// Offers a page anew: other content, or what is held.
    fn refresh(&mut self, offset: u8, content: Option<Content>, salt: u64) {
        let Key { offset: Offset(offset), .. } = key(offset);
        let held = self.held.get(&offset).cloned();
        let page = content.map(|content| content.page(salt)).or(held.clone()).unwrap_or_default();
        match self.chain.store_changed(Key::new(AREA.0, offset), &page).expect("a store of a known area") {
            Refreshed::Unchanged => assert_eq!(held, Some(page)),
            Refreshed::Stored(stored) => {
                assert_ne!(held.as_ref(), Some(&page));
                self.note_stored(offset, page, stored);
            }
        }
    }

    fn note_stored(&mut self, offset: u64, page: Page, stored: Stored) {
        match stored {
            Stored::Rejected(reason) => {
                assert_eq!(reason == Reject::NoArea, !self.is_open);
                self.held.remove(&offset);
            }
            Stored::In(_) | Stored::SameFilled => {
                assert!(self.is_open);
                self.held.insert(offset, page);
            }
        }
    }

    fn load(&mut self, key: Key, exclusive: bool) {
        let mut out = Page::ZERO;
        let is_loaded = self.chain.load(key, &mut out, exclusive).expect("no backend here fails");
        match self.held.get(&key.offset.0) {
            Some(page) => assert!(is_loaded && out == *page, "page {} is not what was stored", key.offset),
            None => assert!(!is_loaded, "page {} came from nowhere", key.offset),
        }
        if exclusive {
            self.held.remove(&key.offset.0);
        }
    }

    /// Pulls pages back, and refuses after `takes` of them.
    fn shrink(&mut self, target: Pages, takes: u8) {
        let mut left = takes;
        let held = &mut self.held;
        let reached = self.chain.shrink(target, &mut |key, page| {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            assert!(held.remove(&key.offset.0).is_some_and(|expected| expected == *page));
            Ok(true)
        });
        let reached = reached.expect("no backend here fails");
        assert!(reached <= target || left == 0, "it stopped at {reached} of {target} by itself");
    }

    /// Takes a backend out while pages are held, and puts it back where it was.
    fn come_and_go(&mut self, backend: u8) {
        let position = usize::from(backend) % self.chain.members().len();
        let member = self.member(backend);
        match self.chain.remove_backend(&member) {
            Ok(()) => {
                assert_eq!(member.backend().usage().stored_pages, Pages(0));
                self.check_all();
                self.chain.add_backend(member, position).expect("its place is free");
            }
            Err(error) => {
                assert!(
                    matches!(error.kind(), Kind::DrainIncomplete | Kind::WritethroughNeedsSlow),
                    "{error}"
                );
            }
        }
    }

    fn member(&self, backend: u8) -> Arc<Member> {
        let members = self.chain.members();
        members[usize::from(backend) % members.len()].clone()
    }

    fn check_all(&mut self) {
        for offset in 0..AREA_PAGES {
            self.load(Key::new(AREA.0, offset), false);
        }
    }

    /// Rules B8, F2 and F6: every backend holds what its counter says, and together they hold each page
    /// once, or the slow swap holds all. While the worker moves a page, that may be untrue for a moment.
    fn check_copies(&self) {
        let begun = Instant::now();
        while let Err(reason) = self.copies_are_right() {
            assert!(begun.elapsed() < MOVE_TIME_MAX, "{reason}");
            std::thread::yield_now();
        }
    }

    fn copies_are_right(&self) -> Result<(), String> {
        let members = self.chain.members();
        let counted: Vec<u64> = members.iter().map(|member| member.counters.stored_pages()).collect();
        for (member, counted) in members.iter().zip(&counted) {
            let held = member.backend().usage().stored_pages;
            if held != Pages(*counted) {
                return Err(format!("{} holds {held} pages and counts {counted}", member.name()));
            }
        }
        let copies = if self.writethrough { counted[counted.len() - 1] } else { counted.iter().sum() };
        let expected = self.chain.curr_pages().0 - self.chain.counts().same_filled_pages;
        if copies == expected { Ok(()) } else { Err(format!("{copies} copies of {expected} pages")) }
    }

    fn finish(mut self) {
        self.check_all();
        self.check_copies();
        self.chain.invalidate_area(AREA);
        assert_eq!(self.chain.curr_pages(), Pages(0));
        for member in self.chain.members() {
            assert_eq!(member.backend().usage().stored_pages, Pages(0), "{} keeps pages", member.name());
        }
        self.chain.close();
    }
}

fn key(offset: u8) -> Key {
    Key::new(AREA.0, u64::from(offset) % AREA_PAGES)
}
