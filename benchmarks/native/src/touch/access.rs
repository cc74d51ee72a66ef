//! One order: touch pages in a pattern, with one thread or several, and time each touch.

use std::str::FromStr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::array::Array;
use crate::histogram::Histogram;
use crate::pattern::Pattern;

/// A touch that took longer was a miss. Hits take 0.1 to 1.2 us, a miss of the translation buffer and
/// reading the clock included; the quickest fault takes 3.
const MISS: Duration = Duration::from_nanos(1500);

/// What a line on standard input asks for: it ends at the first of both limits.
pub struct Order {
    name: String,
    pattern: Pattern,
    threads: usize,
    accesses_max: u64,
    time_max: Duration,
}

impl FromStr for Order {
    type Err = ();

    fn from_str(line: &str) -> Result<Order, ()> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, threads, accesses, seconds] = fields[..] else { return Err(()) };
        let pattern = Pattern::named(name).ok_or(())?;
        let seconds: f64 = seconds.parse().map_err(drop)?;
        let time_max = Duration::try_from_secs_f64(seconds).map_err(drop)?;
        let threads = threads.parse().ok().filter(|threads| *threads > 0).ok_or(())?;
        let accesses_max = accesses.parse().map_err(drop)?;
        Ok(Order { name: name.into(), pattern, threads, accesses_max, time_max })
    }
}

/// What one thread measured, and the page that it touched last.
struct Touched {
    accesses: u64,
    took: Duration,
    latency: Histogram,
    at: usize,
}

/// Obeys an order and says what came of it. Rounds draw different pages, every program the same ones.
/// `places` has, for each thread, where it goes on when it goes in order: a round that began where the
/// last one did would find its pages still there.
pub fn run(array: &Array, order: &Order, round: u64, places: &mut Vec<usize>) -> String {
    let barrier = Barrier::new(order.threads);
    for thread in places.len()..order.threads {
        places.push(array.pages() * thread / order.threads);
    }
    let results: Vec<Touched> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..order.threads)
            .map(|thread| {
                let (barrier, at) = (&barrier, places[thread]);
                scope.spawn(move || touch(array, order, round, (thread, at), barrier))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("the pages are right")).collect()
    });
    let mut latency = Histogram::new();
    let mut accesses = 0;
    let mut rate = 0.0;
    for (touched, place) in results.iter().zip(places) {
        latency.merge(&touched.latency);
        accesses += touched.accesses;
        rate += touched.accesses as f64 / touched.took.as_secs_f64();
        *place = touched.at;
    }
    format!(
        "{{\"pattern\": \"{}\", \"threads\": {}, \"accesses\": {accesses}, \
         \"accesses_per_second\": {rate:.0}, \"misses\": {}, \"miss_ns_p50\": {}, \"miss_ns_p99\": {}, \"latency_ns\": {}}}",
        order.name,
        order.threads,
        latency.slower_than(MISS),
        latency.quantile_of_slower(MISS, 0.50),
        latency.quantile_of_slower(MISS, 0.99),
        latency.json(),
    )
}

/// One thread's part: how many touches, how long, and each one's time. The clock is read once a touch,
/// so that choosing the page is in the time too; it is the same for all.
fn touch(
    array: &Array,
    order: &Order,
    round: u64,
    (thread, at): (usize, usize),
    barrier: &Barrier,
) -> Touched {
    let threads = order.threads;
    let count = array.pages() / threads * threads;
    let mut pages = order.pattern.pages(count, (round + 1) << 8 | thread as u64, at);
    let mut latency = Histogram::new();
    let mine = |page: usize| page % threads == thread;
    let accesses_max = order.accesses_max.div_ceil(threads as u64);
    barrier.wait();
    let start = Instant::now();
    let mut before = start;
    let mut accesses = 0;
    while accesses < accesses_max && before - start < order.time_max {
        let (page, is_write) = pages.next();
        match is_write {
            // Each page has one writer, so that its count of writes is known.
            true => array.write(page - page % threads + thread),
            false => array.read(page, mine(page)),
        }
        accesses += 1;
        let now = Instant::now();
        latency.add(now - before);
        before = now;
    }
    Touched { accesses, took: before - start, latency, at: pages.at() }
}
