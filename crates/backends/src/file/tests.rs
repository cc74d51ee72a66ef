//! The file backend against a dictionary, under threads, on bad places, and on a disk that fails.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use frontswap::{Offset, PAGE_SIZE};
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::shared::BATCHES;
use super::staging::BATCH_PAGES;
use super::*;

const MIB: u64 = 1 << 20;

/// A directory on a disk, so that direct I/O is really direct.
fn disk() -> &'static Path {
    Path::new("/var/tmp")
}

fn create(size: u64) -> SwapFile {
    begun(SwapFile::create(disk(), Bytes(size), true).unwrap())
}

fn begun(swap: SwapFile) -> SwapFile {
    swap.init(Area(0), Pages(1 << 20)).unwrap();
    swap.init(Area(1), Pages(1 << 20)).unwrap();
    swap
}

/// A page that no other key and no other version has.
fn page(key: Key, version: u64) -> Page {
    let mut page = Page::ZERO;
    let seed =
        (key.offset.0 << 20 ^ version << 1 ^ u64::from(key.area.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (index, bytes) in page.0.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&(seed ^ seed.rotate_left(index as u32 % 64) ^ index as u64).to_le_bytes());
    }
    page
}

fn load(swap: &SwapFile, key: Key) -> Option<Page> {
    let mut out = Page::filled_with(1);
    match swap.load(key, &mut out).unwrap() {
        Loaded::Loaded => Some(out),
        Loaded::Missing => {
            assert_eq!(out, Page::filled_with(1), "the buffer was touched");
            None
        }
    }
}

fn detail(swap: &SwapFile, name: &str) -> u64 {
    swap.details().into_iter().find(|(other, _)| *other == name).unwrap().1
}

/// Every page of `model`, and nothing else, is there.
fn check_all(swap: &SwapFile, model: &HashMap<Key, u64>) {
    check_pages(swap, model);
    assert_eq!(swap.usage().disk_used_total, Pages(model.len() as u64).bytes());
}

fn check_pages(swap: &SwapFile, model: &HashMap<Key, u64>) {
    for (key, version) in model {
        assert_eq!(load(swap, *key), Some(page(*key, *version)), "{key:?}");
    }
    let usage = swap.usage();
    let held = model.len() as u64;
    assert_eq!(usage.stored_pages, Pages(held));
    assert_eq!(usage.excess.0, (held * PAGE_SIZE as u64).saturating_sub(usage.mem_limit.0));
    let state = swap.shared.lock_state();
    state.check();
    assert_eq!(u64::from(state.held), held);
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store { area: u16, from: u64, pages: u64, every: usize },
    Invalidate { area: u16, from: u64, pages: u64, every: usize },
    InvalidateArea(u16),
    Capacity(u64),
    Maintain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0u16..2, 0u64..900, 1u64..600, 1usize..4);
    let step = prop_oneof![
        8 => range().prop_map(|(area, from, pages, every)| Step::Store { area, from, pages, every }),
        5 => range().prop_map(|(area, from, pages, every)| Step::Invalidate { area, from, pages, every }),
        1 => (0u16..2).prop_map(Step::InvalidateArea),
        3 => (1u64..900).prop_map(Step::Capacity),
        3 => Just(Step::Maintain),
    ];
    prop::collection::vec(step, 1..40)
}

/// Applies one step to the backend and to the dictionary, and compares each answer.
fn apply(swap: &SwapFile, model: &mut HashMap<Key, u64>, capacity: &mut u64, version: u64, step: &Step) {
    match *step {
        Step::Store { area, from, pages, every } => {
            for offset in (from..from + pages).step_by(every) {
                let key = Key::new(area, offset);
                model.remove(&key);
                let has_room = (model.len() as u64) < *capacity;
                let expected = if has_room { Answer::Accepted } else { Answer::Rejected(Reject::Full) };
                assert_eq!(swap.store(key, &page(key, version)).unwrap(), expected);
                if has_room {
                    model.insert(key, version);
                } else {
                    assert_eq!(load(swap, key), None, "rule B4");
                }
            }
        }
        Step::Invalidate { area, from, pages, every } => {
            for offset in (from..from + pages).step_by(every) {
                swap.invalidate_page(Key::new(area, offset));
                model.remove(&Key::new(area, offset));
            }
        }
        Step::InvalidateArea(area) => {
            swap.invalidate_area(Area(area));
            model.retain(|key, _| key.area.0 != area);
            let key = Key::new(area, 5);
            assert_eq!(swap.store(key, &page(key, 0)).unwrap(), Answer::Rejected(Reject::NoArea));
            swap.init(Area(area), Pages(1 << 20)).unwrap();
        }
        Step::Capacity(pages) => {
            swap.set_capacity(Pages(pages).bytes()).unwrap();
            *capacity = pages;
        }
        Step::Maintain => while swap.maintain() {},
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_swap_file_is_a_dictionary(size in 300u64..800, steps in steps()) {
        let swap = create(Pages(size).bytes().0);
        let (mut model, mut capacity) = (HashMap::new(), size);
        for (version, step) in steps.into_iter().enumerate() {
            apply(&swap, &mut model, &mut capacity, version as u64, &step);
            swap.shared.lock_state().check();
        }
        check_all(&swap, &model);
        // Whatever happened, the file becomes as short as what it has to hold.
        wait_until("the file is short", || { swap.maintain(); !has_long_tail(&swap, model.len() as u64) });
        check_all(&swap, &model);
    }

    #[test]
    fn a_swap_file_without_threads_is_a_dictionary(size in 300u64..800, steps in steps()) {
        let swap = SwapFile::create_without_writers(disk(), Pages(size).bytes(), true).unwrap();
        let (swap, mut model, mut capacity) = (begun(swap), HashMap::new(), size);
        for (version, step) in steps.iter().enumerate() {
            apply(&swap, &mut model, &mut capacity, version as u64, step);
            swap.shared.lock_state().check();
        }
        check_all(&swap, &model);
        while swap.maintain() {}
        prop_assert!(!has_long_tail(&swap, model.len() as u64));
        check_all(&swap, &model);
    }

    #[test]
    fn a_shared_swap_file_is_a_dictionary(clusters in 2u32..5, steps in steps(), heirs: u64) {
        let claims = Arc::new(OneHolder::new(clusters));
        let swap = begun(SwapFile::shared(tempfile(u64::from(clusters)), claims.clone()).unwrap());
        let (mut model, most) = (HashMap::new(), u64::from(clusters) * BATCH_PAGES as u64);
        let mut capacity = most;
        for (version, step) in steps.iter().enumerate() {
            // While nothing is withheld for heirs, all clusters are as good as a file of our own.
            let has_heirs = heirs >> (version % 64) & 1 != 0 && matches!(step, Step::Invalidate { .. });
            if has_heirs {
                claims.has_heirs.store(true, Ordering::Relaxed);
                swap.forked(ForkSide::Parent);
            }
            match step {
                Step::Capacity(pages) if *pages > most => {
                    let error = swap.set_capacity(Pages(*pages).bytes()).unwrap_err();
                    prop_assert_eq!(error.kind(), Kind::CapacityInvalid);
                }
                step => apply(&swap, &mut model, &mut capacity, version as u64, step),
            }
            claims.has_heirs.store(false, Ordering::Relaxed);
            swap.shared.lock_state().check();
        }
        check_pages(&swap, &model);
        while swap.maintain() {}
        check_pages(&swap, &model);
        swap.invalidate_area(Area(0));
        swap.invalidate_area(Area(1));
        while swap.maintain() {}
        prop_assert!(claims.taken.lock().unwrap().is_empty());
    }
}

/// A process that shares a file with others that want none of it.
struct OneHolder {
    clusters: u32,
    taken: Mutex<BTreeSet<u32>>,
    has_heirs: std::sync::atomic::AtomicBool,
}

impl OneHolder {
    fn new(clusters: u32) -> Self {
        OneHolder { clusters, taken: Mutex::default(), has_heirs: false.into() }
    }
}

impl ClusterClaims for OneHolder {
    fn clusters(&self) -> u32 {
        self.clusters
    }

    fn claim(&self) -> Option<u32> {
        let mut taken = self.taken.lock().unwrap();
        let free = (0..self.clusters).rev().find(|cluster| !taken.contains(cluster))?;
        taken.insert(free);
        Some(free)
    }

    fn release(&self, cluster: u32) {
        assert!(self.taken.lock().unwrap().remove(&cluster), "cluster {cluster} was not claimed");
    }

    fn has_heirs(&self) -> bool {
        self.has_heirs.load(Ordering::Relaxed)
    }
}

fn tempfile(clusters: u64) -> OwnedFd {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::DIRECT;
    let file = rustix::fs::open(disk(), flags, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::fs::ftruncate(&file, clusters * CLUSTER_BYTES).unwrap();
    file
}

/// The file takes more of the disk than its capacity, or than its pages when these are more. A file
/// with many holes needs some blocks for their list, which the system counts in.
fn has_long_tail(swap: &SwapFile, held: u64) -> bool {
    let capacity = swap.usage().mem_limit.0;
    swap.shared.file.disk_bytes().0 > capacity.max(held * PAGE_SIZE as u64) + MIB / 32
}

#[test]
fn threads_lose_nothing_while_the_capacity_moves() {
    let swap = create(8 * MIB);
    let done = std::sync::atomic::AtomicBool::new(false);
    let models: Vec<HashMap<Key, u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3u64)
            .map(|thread| {
                scope.spawn({
                    let swap = &swap;
                    move || churn(swap, thread)
                })
            })
            .collect();
        scope.spawn(|| {
            for round in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                swap.set_capacity(Bytes([3, 8, 1, 5][round % 4] * MIB)).unwrap();
                while swap.maintain() {}
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let models = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        models
    });
    let model = models.into_iter().flatten().collect();
    check_all(&swap, &model);
    wait_until("the file is short", || {
        swap.maintain();
        !has_long_tail(&swap, model.len() as u64)
    });
    check_all(&swap, &model);
}

/// Random calls on keys of one thread only, each answer checked.
fn churn(swap: &SwapFile, thread: u64) -> HashMap<Key, u64> {
    let mut model = HashMap::new();
    let mut random = thread + 1;
    for version in 0..30_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = Key::new(0, (random >> 33) % 1000 * 3 + thread);
        match random >> 60 {
            0..8 => match swap.store(key, &page(key, version)).unwrap() {
                Answer::Accepted => drop(model.insert(key, version)),
                Answer::Rejected(reason) => {
                    assert_eq!(reason, Reject::Full);
                    model.remove(&key);
                }
            },
            8..12 => {
                swap.invalidate_page(key);
                model.remove(&key);
            }
            _ => assert_eq!(load(swap, key), model.get(&key).map(|version| page(key, *version))),
        }
    }
    model
}

#[test]
fn an_area_ends_while_its_pages_come() {
    let swap = create(4 * MIB);
    for round in 0..20 {
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let swap = &swap;
                scope.spawn(move || {
                    for offset in (thread..1000).step_by(2) {
                        let key = Key::new(1, offset);
                        swap.store(key, &page(key, round)).unwrap();
                    }
                });
            }
            scope.spawn(|| swap.invalidate_area(Area(1)));
        });
        check_all(&swap, &HashMap::new());
        swap.init(Area(1), Pages(1000)).unwrap();
    }
}

#[test]
fn full_means_full_and_a_page_that_goes_makes_room() {
    let swap = create(MIB + 5 * PAGE_SIZE as u64 + 100);
    assert_eq!(swap.usage().mem_limit, Pages(261).bytes(), "whole pages");
    let mut model = HashMap::new();
    for offset in 0..261 {
        let key = Key::new(0, offset);
        assert_eq!(swap.store(key, &page(key, 1)).unwrap(), Answer::Accepted);
        model.insert(key, 1);
    }
    let leaves = swap.shared.table.bytes();
    for offset in 300..400 {
        let key = Key::new(0, offset * 1000);
        assert_eq!(swap.store(key, &page(key, 1)).unwrap(), Answer::Rejected(Reject::Full));
    }
    assert_eq!(swap.usage().pool_limit_hit, 100);
    assert_eq!(swap.shared.table.bytes(), leaves, "a rejected page costs no memory");
    for round in 2..300 {
        // The same page over and over: most copies die before they are written.
        let key = Key::new(0, 7);
        assert_eq!(swap.store(key, &page(key, round)).unwrap(), Answer::Accepted);
        model.insert(key, round);
    }
    check_all(&swap, &model);
}

#[test]
fn a_page_that_dies_before_its_write_is_not_written() {
    let swap = create(4 * MIB);
    let key = |offset| Key::new(0, offset);
    for offset in 0..200 {
        swap.store(key(offset), &page(key(offset), 1)).unwrap();
    }
    assert_eq!(detail(&swap, "staged_pages"), 200);
    (0..200).filter(|offset| offset % 2 == 0).for_each(|offset| swap.invalidate_page(key(offset)));
    assert_eq!(detail(&swap, "staged_pages"), 100);
    assert_eq!((load(&swap, key(0)), load(&swap, key(1))), (None, Some(page(key(1), 1))));
    for offset in 200..256 {
        swap.store(key(offset), &page(key(offset), 1)).unwrap();
    }
    wait_until("the batch is written", || detail(&swap, "staged_pages") == 0);
    assert_eq!(detail(&swap, "pages_written"), 156);
    assert_eq!((detail(&swap, "clusters_written"), detail(&swap, "runs_written")), (1, 1));
    check_all(
        &swap,
        &(0..256).filter(|o| *o > 200 || o % 2 == 1 || *o == 200).map(|o| (key(o), 1)).collect(),
    );
    assert_eq!(detail(&swap, "pages_read"), 156);
}

#[test]
fn a_smaller_capacity_gives_disk_back_and_a_larger_one_takes_it_again() {
    let swap = create(8 * MIB);
    let mut model = HashMap::new();
    for offset in 0..2048 {
        let key = Key::new(0, offset);
        swap.store(key, &page(key, 3)).unwrap();
        model.insert(key, 3);
    }
    wait_until("all is written", || detail(&swap, "staged_pages") == 0);
    assert!(swap.shared.file.disk_bytes().0 >= 8 * MIB);
    for offset in (0..2048).filter(|offset| offset % 16 != 0) {
        swap.invalidate_page(Key::new(0, offset));
        model.remove(&Key::new(0, offset));
    }
    swap.set_capacity(Bytes(MIB)).unwrap();
    wait_until("the space is given back", || {
        swap.maintain();
        !has_long_tail(&swap, 0)
    });
    assert_eq!(detail(&swap, "pages_moved"), 112, "those above 1 MiB");
    check_all(&swap, &model);
    swap.set_capacity(Bytes(6 * MIB)).unwrap();
    assert!(swap.shared.file.disk_bytes().0 >= 6 * MIB);
    for offset in 0..1408 {
        let key = Key::new(1, offset);
        assert_eq!(swap.store(key, &page(key, 4)).unwrap(), Answer::Accepted);
        model.insert(key, 4);
    }
    check_all(&swap, &model);
}

#[test]
fn what_is_too_much_can_be_handed_down() {
    let swap = create(4 * MIB);
    let mut model: HashMap<Key, u64> = (0..1024).map(|offset| (Key::new(0, offset * 5), 1)).collect();
    for key in model.keys() {
        swap.store(*key, &page(*key, 1)).unwrap();
    }
    swap.set_capacity(Pages(300).bytes()).unwrap();
    assert_eq!(swap.usage().excess, Pages(724).bytes());
    assert_eq!(swap.usage().pressure, Pages(724).bytes());
    let mut victims = Vec::new();
    while swap.usage().excess.0 > 0 {
        victims.clear();
        swap.coldest(50, &mut victims);
        assert_eq!(victims.len(), 50);
        for key in &victims {
            assert_eq!(load(&swap, *key), model.remove(key).map(|version| page(*key, version)));
            swap.invalidate_page(*key);
        }
    }
    wait_until("the file is short", || {
        swap.maintain();
        !has_long_tail(&swap, 0)
    });
    check_all(&swap, &model);
    // The rest can be handed on as well, and then there is none.
    while !model.is_empty() {
        victims.clear();
        swap.coldest(7, &mut victims);
        assert!(!victims.is_empty());
        victims.iter().for_each(|key| {
            swap.invalidate_page(*key);
            assert!(model.remove(key).is_some())
        });
    }
    swap.coldest(7, &mut victims);
    check_all(&swap, &model);
}

#[test]
fn coldest_goes_around_and_names_nobody_twice() {
    let swap = create(4 * MIB);
    for offset in 0..600 {
        swap.store(Key::new(0, offset * 20), &Page::ZERO).unwrap();
    }
    for want in [100, 599, 600, 1000] {
        let mut victims = Vec::new();
        // Pages whose batch is being written are busy for a moment, and left out.
        wait_until("no page is busy", || {
            victims.clear();
            swap.coldest(want, &mut victims);
            victims.len() == want.min(600)
        });
        victims.sort_unstable();
        victims.dedup();
        assert_eq!(victims.len(), want.min(600));
    }
}

#[test]
fn bad_places_are_errors_that_say_why() {
    let fail =
        |place: &str, size| SwapFile::create(Path::new(place), Bytes(size), true).map(drop).unwrap_err();
    let check = |place: &str, errno: Errno, reason: &str| {
        let error = fail(place, MIB);
        assert_eq!(error.kind(), Kind::SwapFileOpen);
        assert_eq!(error.errno(), Some(errno.raw_os_error()));
        assert_eq!(error.message(), format!("cannot open a swap file in `{place}`: {reason}"));
    };
    check("/nonexistent/swap", Errno::NOENT, "no such file or directory (ENOENT)");
    check("/etc/passwd", Errno::NOTDIR, "not a directory (ENOTDIR)");
    check("/proc", Errno::OPNOTSUPP, "operation not supported (EOPNOTSUPP)");
    for size in [0, 1, 4095, (1 << 40) + 4096, u64::MAX] {
        let error = fail("/var/tmp", size);
        assert_eq!(error.kind(), Kind::CapacityInvalid, "{size}");
    }
    assert_eq!(
        fail("/var/tmp", 100).message(),
        "cannot set the capacity of `file:/var/tmp` to `100 B`: it must be at least one page of 4096 bytes"
    );
}

#[test]
fn a_disk_without_room_is_an_error_at_start() {
    // On a file system of limited size, so that this fails on machines with any disk.
    let place = Path::new("/dev/shm");
    let disk = rustix::fs::statvfs(place).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    let error = SwapFile::create(place, Bytes(free + 64 * MIB), false).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::SwapFileSpace);
    assert_eq!(error.errno(), Some(Errno::NOSPC.raw_os_error()));
    assert!(error.message().contains("no space left on device (ENOSPC), "), "{error}");
    let swap = SwapFile::create(place, Bytes(MIB), false).unwrap();
    swap.init(Area(0), Pages(100)).unwrap();
    swap.store(Key::new(0, 1), &Page::filled_with(5)).unwrap();
    let error = swap.set_capacity(Bytes(free + 64 * MIB)).unwrap_err();
    assert_eq!(error.kind(), Kind::SwapFileSpace);
    assert_eq!(swap.usage().mem_limit, Bytes(MIB));
    check_held(&swap, Key::new(0, 1), 5);
    assert_eq!(swap.set_capacity(Bytes(0)).unwrap_err().kind(), Kind::CapacityInvalid);
    assert_eq!(swap.usage().mem_limit, Bytes(MIB));
}

fn check_held(swap: &SwapFile, key: Key, word: u64) {
    assert_eq!(load(swap, key), Some(Page::filled_with(word)));
}

#[test]
fn nothing_is_in_the_directory_at_any_time() {
    let directory = disk().join(format!("frontswap-test-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let swap = SwapFile::create(&directory, Bytes(2 * MIB), true).unwrap();
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    // The file keeps working when its directory is gone.
    std::fs::remove_dir(&directory).unwrap();
    swap.init(Area(0), Pages(1000)).unwrap();
    for offset in 0..512 {
        swap.store(Key::new(0, offset), &Page::filled_with(offset)).unwrap();
    }
    (0..512).for_each(|offset| check_held(&swap, Key::new(0, offset), offset));
}

#[test]
fn a_page_that_the_disk_lost_is_an_error_and_touches_nothing() {
    let swap = create(2 * MIB);
    for offset in 0..256 {
        swap.store(Key::new(1, offset), &Page::filled_with(offset)).unwrap();
    }
    wait_until("the batch is written", || detail(&swap, "staged_pages") == 0);
    swap.shared.file.cut(100 * PAGE_SIZE as u64);
    check_held(&swap, Key::new(1, 99), 99);
    let mut out = Page::filled_with(77);
    let error = swap.load(Key::new(1, 100), &mut out).unwrap_err();
    assert_eq!(error.kind(), Kind::PageUnreadable);
    assert_eq!(
        error.message(),
        "backend `file:/var/tmp` cannot give back page `100` of area `1`: \
         cannot read slot `100`: the swap file ended after `0` of 4096 bytes"
    );
    assert_eq!(out, Page::filled_with(77));
    swap.invalidate_page(Key::new(1, 100));
    assert_eq!(load(&swap, Key::new(1, 100)), None);
}

const FAILING_DISK: &str = "FRONTSWAP_TEST_FAILING_DISK";

/// Runs itself again in a process whose files may not grow past 2 MiB: there, writes really fail.
#[test]
fn a_failed_write_breaks_the_backend_and_loses_nothing() {
    if std::env::var_os(FAILING_DISK).is_some() {
        return fill_a_failing_disk();
    }
    let module = module_path!().split_once("::").unwrap().1;
    let name = format!("{module}::a_failed_write_breaks_the_backend_and_loses_nothing");
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(FAILING_DISK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("the disk failed as it should"), "{output:?}");
    assert_eq!(output.status.signal(), None);
}

fn fill_a_failing_disk() {
    let swap = create(16 * MIB);
    setrlimit(Resource::Fsize, Rlimit { current: Some(2 * MIB), maximum: None }).unwrap();
    let error = SwapFile::create(disk(), Bytes(4 * MIB), true).map(drop).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (Kind::SwapFileSpace, Some(Errno::FBIG.raw_os_error())));
    let models: Vec<HashMap<Key, u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3u64)
            .map(|t| {
                scope.spawn({
                    let swap = &swap;
                    move || store_until_broken(swap, t)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut model: HashMap<Key, u64> = models.into_iter().flatten().collect();
    assert!(model.len() > 512, "some batches were written before");
    check_all_broken(&swap, &model);
    let key = Key { area: Area(0), offset: Offset(3) };
    assert!(model.remove(&key).is_some());
    assert_eq!(swap.store(key, &Page::ZERO).unwrap_err().kind(), Kind::BackendBroken);
    assert_eq!(load(&swap, key), None, "rule B4");
    for key in model.keys().copied().filter(|key| key.offset.0 % 5 == 0).collect::<Vec<_>>() {
        swap.invalidate_page(key);
        model.remove(&key);
    }
    while swap.maintain() {}
    check_all_broken(&swap, &model);
    swap.set_capacity(Bytes(MIB)).unwrap();
    while swap.maintain() {}
    check_all_broken(&swap, &model);
    println!("the disk failed as it should");
}

fn check_all_broken(swap: &SwapFile, model: &HashMap<Key, u64>) {
    for (key, version) in model {
        assert_eq!(load(swap, *key), Some(page(*key, *version)), "{key:?}");
    }
    assert_eq!(swap.usage().stored_pages, Pages(model.len() as u64));
}

fn store_until_broken(swap: &SwapFile, thread: u64) -> HashMap<Key, u64> {
    let mut model = HashMap::new();
    for offset in (thread..4096).step_by(3) {
        let key = Key::new(0, offset);
        match swap.store(key, &page(key, 9)) {
            Ok(answer) => {
                assert_eq!(answer, Answer::Accepted);
                model.insert(key, 9);
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::BackendBroken);
                assert_eq!(
                    error.message(),
                    "backend `file:/var/tmp` can no longer take pages: \
                     cannot write to the swap file: file too large (EFBIG)"
                );
                assert_eq!(error.errno(), Some(Errno::FBIG.raw_os_error()));
                return model;
            }
        }
    }
    panic!("the disk did not fail");
}

#[test]
fn a_store_that_waits_for_the_disk_learns_that_it_broke() {
    let swap = create(16 * MIB);
    // Without writers every batch fills up, as on a disk that does not answer.
    swap.shared.lock_state().is_stopping = true;
    swap.shared.work.notify_all();
    wait_until("the writers have ended", || Arc::strong_count(&swap.shared) == 1);
    let staged = (BATCHES * BATCH_PAGES) as u64;
    for offset in 0..staged {
        let key = Key::new(0, offset);
        assert_eq!(swap.store(key, &page(key, 1)).unwrap(), Answer::Accepted);
    }
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| swap.store(Key::new(0, staged), &Page::ZERO));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiter.is_finished(), "it waits");
        swap.shared.break_down(io::Fault::from(Errno::IO));
        let error = waiter.join().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.errno()), (Kind::BackendBroken, Some(Errno::IO.raw_os_error())));
    });
    check_all(&swap, &(0..staged).map(|offset| (Key::new(0, offset), 1)).collect());
}

#[test]
fn dropping_in_the_child_of_a_fork_waits_for_nobody() {
    let mut swap = create(2 * MIB);
    let shared = Arc::clone(&swap.shared);
    // As in a child: another process made it, and a thread that is not there holds the lock.
    let state = shared.lock_state();
    swap.creator = AtomicU32::new(1);
    drop(swap);
    drop(state);
    shared.lock_state().is_stopping = true;
    shared.work.notify_all();
    wait_until("the writers have ended", || Arc::strong_count(&shared) == 1);
}

#[test]
fn memory_is_counted() {
    let swap = create(4 * MIB);
    let before = swap.usage().mem_used_total.0;
    assert!(before > 6 * MIB, "the batches are");
    for offset in 0..100 {
        swap.store(Key::new(0, offset * 1000), &Page::ZERO).unwrap();
    }
    assert!(swap.usage().mem_used_total.0 >= before + 100 * 512, "the index is");
    swap.invalidate_area(Area(0));
    assert!(!swap.maintain());
    assert_eq!(swap.usage().mem_used_total.0, before);
}
