//! A chain against a dictionary: any sequence of calls, over any chain of real backends, leaves every
//! accepted page as it was, every other one missing, and every count right.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{KIB, Look, eventually, faulty, file, member, quiet_file, ram, within, zpool};
use frontswap::{
    Area, Backend, Bytes, Chain, ChainOptions, Housekeeping, Key, Kind, Member, Page, Pages, Refreshed,
    Reject, Stored,
};
use frontswap_backends::Faults;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;

const AREAS: u16 = 2;
/// Offsets lie in a few leaves of the map, some far away.
const SPAN_PAGES: u64 = 150;
const SPANS: u64 = 4;
const FAR_PAGES: u64 = 100_000;
const AREA_PAGES: u64 = SPANS * FAR_PAGES;

#[derive(Clone, Copy, Debug)]
enum BackendKind {
    Zpool,
    Ram,
    File,
    QuietFile,
}

#[derive(Clone, Copy, Debug)]
struct BackendPlan {
    kind: BackendKind,
    capacity_kib: u64,
    reject: f64,
}

#[derive(Clone, Debug)]
struct Plan {
    fast: Vec<BackendPlan>,
    slow: Option<BackendPlan>,
    writethrough: bool,
    exclusive: bool,
    own_worker: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Store { key: Key, count: u64, look: Look, seed: u64 },
    Refresh { key: Key, count: u64, look: Look, seed: u64 },
    Load { key: Key, times: u8 },
    InvalidatePage { key: Key, count: u64 },
    InvalidateArea { area: u16 },
    SetCapacity { backend: Index, capacity_kib: u64 },
    AddBackend { plan: BackendPlan, position: Index },
    RemoveBackend { backend: Index },
    Shrink { target: Index, refuses_after: Option<u64> },
    ShrinkToSlow { target: Index },
    Maintain,
}

fn backend_plan(kinds: &'static [BackendKind]) -> impl Strategy<Value = BackendPlan> {
    let reject = prop_oneof![5 => Just(0.0), 1 => Just(0.11), 1 => Just(0.5), 1 => Just(1.0)];
    (prop::sample::select(kinds), 75u64..512, reject).prop_map(|(kind, capacity_kib, reject)| BackendPlan {
        kind,
        capacity_kib,
        reject,
    })
}

const FAST: &[BackendKind] = &[BackendKind::Zpool, BackendKind::Ram];
const SLOW: &[BackendKind] = &[BackendKind::File, BackendKind::QuietFile];
const ANY: &[BackendKind] =
    &[BackendKind::Zpool, BackendKind::Ram, BackendKind::File, BackendKind::QuietFile];

fn plan() -> impl Strategy<Value = Plan> {
    let slow = prop_oneof![1 => Just(None), 3 => backend_plan(SLOW).prop_map(Some)];
    (prop::collection::vec(backend_plan(FAST), 0..3), slow, any::<[bool; 3]>()).prop_map(
        |(fast, slow, [writethrough, exclusive, own_worker])| Plan {
            writethrough: writethrough && slow.is_some(),
            fast,
            slow,
            exclusive,
            own_worker,
        },
    )
}

fn key() -> impl Strategy<Value = Key> {
    (0..AREAS, 0..SPANS, 0..SPAN_PAGES).prop_map(|(area, span, page)| Key::new(area, span * FAR_PAGES + page))
}

fn step() -> impl Strategy<Value = Step> {
    let look = || prop::sample::select(&Look::ALL[..]);
    prop_oneof![
        10 => (key(), 1u64..120, look(), any::<u32>())
            .prop_map(|(key, count, look, seed)| Step::Store { key, count, look, seed: u64::from(seed) }),
        4 => (key(), 1u64..120, look(), any::<u32>())
            .prop_map(|(key, count, look, seed)| Step::Refresh { key, count, look, seed: u64::from(seed) }),
        4 => (key(), 1u8..4).prop_map(|(key, times)| Step::Load { key, times }),
        3 => (key(), 1u64..60).prop_map(|(key, count)| Step::InvalidatePage { key, count }),
        1 => (0..AREAS).prop_map(|area| Step::InvalidateArea { area }),
        3 => (any::<Index>(), 1u64..512)
            .prop_map(|(backend, pages)| Step::SetCapacity { backend, capacity_kib: 4 * pages }),
        2 => (backend_plan(ANY), any::<Index>()).prop_map(|(plan, position)| Step::AddBackend { plan, position }),
        2 => any::<Index>().prop_map(|backend| Step::RemoveBackend { backend }),
        1 => (any::<Index>(), prop::option::of(0u64..100))
            .prop_map(|(target, refuses_after)| Step::Shrink { target, refuses_after }),
        1 => any::<Index>().prop_map(|target| Step::ShrinkToSlow { target }),
        1 => Just(Step::Maintain),
    ]
}

fn build(plan: BackendPlan, seed: u64) -> Arc<Member> {
    let inner: Arc<dyn Backend> = match plan.kind {
        BackendKind::Zpool => zpool(plan.capacity_kib * KIB),
        BackendKind::Ram => ram(plan.capacity_kib * KIB),
        BackendKind::File => file(plan.capacity_kib * KIB),
        BackendKind::QuietFile => quiet_file(plan.capacity_kib * KIB),
    };
    if plan.reject == 0.0 {
        return member(inner);
    }
    member(faulty(inner, Faults { seed, reject: plan.reject, ..Faults::default() }))
}

/// The chain, and what it should hold.
struct World {
    chain: Arc<Chain>,
    plan: Plan,
    members: Vec<Arc<Member>>,
    held: BTreeMap<Key, (Look, u64)>,
    succ_stores: u64,
    kept: u64,
    failed_stores: u64,
    invalidates: u64,
    loads: u64,
    seeds: u64,
}

impl World {
    fn new(plan: Plan) -> Self {
        let plans = plan.fast.iter().chain(&plan.slow);
        let members: Vec<_> = (0..).zip(plans).map(|(seed, plan)| build(*plan, seed)).collect();
        let Plan { writethrough, own_worker, .. } = plan;
        let options = ChainOptions { writethrough, own_worker, ..ChainOptions::default() };
        let chain = Chain::new(members.clone(), options).unwrap();
        for area in 0..AREAS {
            chain.init(Area(area), Pages(AREA_PAGES)).unwrap();
        }
        let held = BTreeMap::new();
        World {
            chain,
            plan,
            members,
            held,
            succ_stores: 0,
            kept: 0,
            failed_stores: 0,
            invalidates: 0,
            loads: 0,
            seeds: 100,
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Store { key, count, look, seed } => {
                for page in 0..*count {
                    self.store(Key::new(key.area.0, key.offset.0 + page), *look, seed + page);
                }
            }
            Step::Refresh { key, count, look, seed } => {
                for page in 0..*count {
                    self.refresh(Key::new(key.area.0, key.offset.0 + page), *look, seed + page);
                }
            }
            Step::Load { key, times } => {
                for _ in 0..*times {
                    self.load(*key, self.plan.exclusive);
                }
            }
            Step::InvalidatePage { key, count } => {
                for page in 0..*count {
                    let key = Key::new(key.area.0, key.offset.0 + page);
                    self.chain.invalidate_page(key);
                    self.invalidates += u64::from(self.held.remove(&key).is_some());
                }
            }
            Step::InvalidateArea { area } => self.invalidate_area(*area),
            Step::SetCapacity { backend, capacity_kib } => self.set_capacity(*backend, *capacity_kib),
            Step::AddBackend { plan, position } => self.add_backend(*plan, *position),
            Step::RemoveBackend { backend } => self.remove_backend(*backend),
            Step::Shrink { target, refuses_after } => self.shrink(*target, *refuses_after),
            Step::ShrinkToSlow { target } => self.shrink_to_slow(*target),
            Step::Maintain => {
                let more = (0..10_000).find(|_| !self.chain.maintain());
                assert!(more.is_some(), "there is always more to do");
            }
        }
    }

    fn store(&mut self, key: Key, look: Look, seed: u64) {
        let stored = self.chain.store(key, &look.page(seed)).unwrap();
        self.note_stored(key, look, seed, stored);
    }

    /// Offers a page anew: as it is held, or, one in three and where nothing is held, another.
    fn refresh(&mut self, key: Key, look: Look, seed: u64) {
        let held = self.held.get(&key).copied();
        let (look, seed) = held.filter(|_| !seed.is_multiple_of(3)).unwrap_or((look, seed));
        match self.chain.store_changed(key, &look.page(seed)).unwrap() {
            Refreshed::Unchanged => {
                assert_eq!(held, Some((look, seed)));
                self.kept += 1;
            }
            Refreshed::Stored(stored) => {
                assert_ne!(held, Some((look, seed)));
                self.note_stored(key, look, seed, stored);
            }
        }
    }

    fn note_stored(&mut self, key: Key, look: Look, seed: u64, stored: Stored) {
        match stored {
            Stored::Rejected(reason) => {
                assert_eq!(reason == Reject::NoBackend, self.members.is_empty());
                assert!(
                    look != Look::Word || self.members.is_empty(),
                    "the map takes every same-filled page"
                );
                self.held.remove(&key);
                self.failed_stores += 1;
            }
            taken => {
                assert_eq!(taken == Stored::SameFilled, look == Look::Word);
                self.held.insert(key, (look, seed));
                self.succ_stores += 1;
            }
        }
    }

    fn load(&mut self, key: Key, exclusive: bool) {
        let mut out = Page::default();
        let is_held = self.chain.load(key, &mut out, exclusive).unwrap();
        let expected = self.held.get(&key).map(|(look, seed)| look.page(*seed));
        assert_eq!(is_held, expected.is_some(), "{key:?}");
        if let Some(expected) = expected {
            assert!(out == expected, "{key:?} came back changed");
            self.loads += 1;
        }
        if exclusive {
            self.held.remove(&key);
        }
    }

    fn invalidate_area(&mut self, area: u16) {
        let before = self.held.len();
        self.chain.invalidate_area(Area(area));
        self.held.retain(|key, _| key.area.0 != area);
        self.invalidates += (before - self.held.len()) as u64;
        let key = Key::new(area, 3);
        assert_eq!(self.chain.load(key, &mut Page::default(), false), Ok(false));
        let reason = if self.members.is_empty() { Reject::NoBackend } else { Reject::NoArea };
        assert_eq!(self.chain.store(key, &Page::filled_with(1)), Ok(Stored::Rejected(reason)));
        self.failed_stores += 1;
        self.chain.init(Area(area), Pages(AREA_PAGES)).unwrap();
    }

    fn set_capacity(&mut self, backend: Index, capacity_kib: u64) {
        if self.members.is_empty() {
            return;
        }
        let member = &self.members[backend.index(self.members.len())];
        member.backend().set_capacity(Bytes(capacity_kib * KIB)).unwrap();
        let left = within(Duration::from_secs(20), "fit", || self.chain.fit(member));
        let usage = member.backend().usage();
        assert_eq!(usage.mem_limit, Bytes(capacity_kib * KIB));
        let is_alone = self.members.len() == 1;
        if left == Pages(0) && !member.description().is_slow && usage.stored_pages > Pages(0) {
            assert!(usage.mem_used_total <= usage.mem_limit, "{usage:?}");
        }
        assert!(!is_alone || member.counters.stored_pages() == self.held_in_backends());
    }

    fn add_backend(&mut self, plan: BackendPlan, position: Index) {
        let position = position.index(self.members.len() + 1);
        self.seeds += 1;
        let new = build(plan, self.seeds);
        let has_slow = self.members.last().is_some_and(|last| last.description().is_slow);
        let is_last = position == self.members.len();
        let is_slow = new.description().is_slow;
        let fits = if is_slow { is_last && !has_slow } else { !(is_last && has_slow) };
        match self.chain.add_backend(new.clone(), position) {
            Ok(()) => {
                assert!(fits);
                self.members.insert(position, new);
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::ChainOrder);
                assert!(!fits && !new.is_seated());
            }
        }
    }

    fn remove_backend(&mut self, backend: Index) {
        if self.members.is_empty() {
            return;
        }
        let index = backend.index(self.members.len());
        let member = self.members[index].clone();
        match self.chain.remove_backend(&member) {
            Ok(()) => {
                self.members.remove(index);
                assert_eq!((member.counters.stored_pages(), member.is_seated()), (0, false));
                assert_eq!(member.backend().usage().stored_pages, Pages(0));
            }
            Err(error) if error.kind() == Kind::DrainIncomplete => {
                assert!(member.counters.stored_pages() > 0);
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::WritethroughNeedsSlow);
                assert!(self.plan.writethrough && member.description().is_slow);
            }
        }
    }

    fn shrink(&mut self, target: Index, refuses_after: Option<u64>) {
        let target = Pages(target.index(self.held.len() + 1) as u64);
        let mut pulled = Vec::new();
        let left = self.chain.shrink(target, &mut |key, page| {
            let (look, seed) = self.held[&key];
            assert!(*page == look.page(seed));
            let takes = refuses_after.is_none_or(|most| (pulled.len() as u64) < most);
            pulled.extend(takes.then_some(key));
            Ok(takes)
        });
        let is_unwilling = refuses_after.is_some_and(|most| pulled.len() as u64 == most);
        for key in pulled {
            assert!(self.held.remove(&key).is_some(), "{key:?} was pulled twice");
        }
        let left = left.unwrap();
        assert_eq!(left.0, self.held.len() as u64);
        assert!(left <= target || is_unwilling);
    }

    fn shrink_to_slow(&mut self, target: Index) {
        let target = Pages(target.index(self.held.len() + 1) as u64);
        let left = self.chain.shrink_to_slow(target);
        let Some((slow, fast)) = self.members.split_last().filter(|(last, _)| last.description().is_slow)
        else {
            assert_eq!(left.0, self.held.len() as u64);
            return;
        };
        let same_filled = self.held.len() as u64 - self.held_in_backends();
        let in_fast: u64 = fast.iter().map(|member| member.counters.stored_pages()).sum();
        assert!(in_fast + same_filled <= left.0, "the worker may have moved some more");
        let usage = slow.backend().usage();
        let is_roomy = usage.stored_pages.bytes() < usage.mem_limit && slow.description().kind == "file";
        assert!(left <= target.max(Pages(same_filled)) || !is_roomy, "{left:?} {target:?} {usage:?}");
    }

    fn held_in_backends(&self) -> u64 {
        self.held.values().filter(|(look, _)| *look != Look::Word).count() as u64
    }

    /// Everything that must be true between two calls.
    fn check(&mut self) {
        let held = self.held.len() as u64;
        assert_eq!(self.chain.curr_pages(), Pages(held));
        let keys: Vec<_> = self.held.keys().copied().collect();
        for key in keys {
            self.load(key, false);
        }
        for area in 0..AREAS {
            for span in 0..SPANS {
                for page in (area as u64 % 2..SPAN_PAGES).step_by(7) {
                    let key = Key::new(area, span * FAR_PAGES + page);
                    if !self.held.contains_key(&key) {
                        self.load(key, false);
                    }
                }
            }
        }
        let counts = self.chain.counts();
        let same_filled = held - self.held_in_backends();
        assert_eq!((counts.stored_pages, counts.same_filled_pages), (held, same_filled));
        assert_eq!((counts.succ_stores, counts.failed_stores), (self.succ_stores, self.failed_stores));
        assert_eq!(counts.kept_pages, self.kept);
        assert_eq!((counts.invalidates, counts.loads), (self.invalidates, self.loads));
        assert_eq!(counts.load_errors, 0);
        assert_eq!(counts.rejects.iter().sum::<u64>(), self.failed_stores);
        for area in self.chain.area_counts() {
            let held = self.held.iter().filter(|(key, _)| key.area == area.area);
            let same_filled = held.clone().filter(|(_, (look, _))| *look == Look::Word).count() as u64;
            assert_eq!(area.counts.stored_pages, held.count() as u64);
            assert_eq!(area.counts.same_filled_pages, same_filled);
        }
        self.check_members();
    }

    fn check_members(&self) {
        let in_backends = self.held_in_backends();
        eventually("every page is counted where it is", || {
            let stored: Vec<_> = self.members.iter().map(|member| member.counters.stored_pages()).collect();
            let sum: u64 = stored.iter().sum();
            if self.plan.writethrough {
                let in_slow = stored[stored.len() - 1];
                return in_slow == in_backends && sum <= 2 * in_backends;
            }
            sum == in_backends
        });
        for member in &self.members {
            eventually("a backend holds what is counted", || {
                member.counters.stored_pages() == member.backend().usage().stored_pages.0
            });
        }
    }

    /// Closes the chain: every backend is empty and free.
    fn close(self) {
        self.chain.close();
        for member in &self.members {
            assert_eq!((member.counters.stored_pages(), member.is_seated()), (0, false));
            let usage = member.backend().usage();
            assert_eq!((usage.stored_pages, usage.compr_data_size), (Pages(0), Bytes(0)));
        }
        let options = ChainOptions { writethrough: self.plan.writethrough, ..ChainOptions::default() };
        Chain::new(self.members, options).unwrap();
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(debug_assertions) { 10 } else { 200 },
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_chain_is_a_dictionary(plan in plan(), steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new(plan);
        world.check();
        for step in &steps {
            world.take(step);
            world.check();
        }
        world.close();
    }
}
