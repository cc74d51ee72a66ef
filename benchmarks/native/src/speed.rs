//! Store and load through the whole chain, against the bare codec in a loop on the same pages.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use frontswap::{Bytes, Page};
use frontswap_backends::codec::{CodecChoice, CodecName, Context, Memory, decode};

use crate::{chain, key, zpool};

/// Fresh chains measured; the caller takes the median.
const ROUNDS: usize = 7;

/// Prints one line for every round: microseconds a page, and threads' pages a second.
pub fn run(pages: &[Page]) {
    let codec = usual_codec(pages);
    let halves = pages.split_at(pages.len() / 2);
    for _ in 0..ROUNDS {
        let (bare_store, bare_load) = bare(pages, codec);
        let [fill, store, load] = through_chain(&[pages]);
        let bare_two = together(&[halves.0, halves.1], |half| bare(half, codec));
        let [fill_two, store_two, load_two] = through_chain(&[halves.0, halves.1]);
        let line = [
            ("pages", pages.len() as f64),
            ("bare_store_us", bare_store),
            ("bare_load_us", bare_load),
            ("fill_us", fill),
            ("store_us", store),
            ("load_us", load),
            ("bare_two_speedup", (bare_store + bare_load) / bare_two),
            ("fill_two_us", fill_two),
            ("store_two_us", store_two),
            ("load_two_us", load_two),
        ];
        let figures = line.map(|(name, value)| format!("\"{name}\": {value:.4}")).join(", ");
        println!("{{\"codec\": \"{}\", {figures}}}", codec.name());
    }
}

/// The codec that `auto` takes for most of these pages; lz4 for what it gives up on, as a caller
/// without a memory would try it.
fn usual_codec(pages: &[Page]) -> CodecName {
    let memory = Memory::default();
    let mut context = Context::new(false, 1);
    let mut counts = [0usize; 8];
    for (offset, page) in pages.iter().enumerate() {
        let (codec, _) = memory.encode(CodecChoice::Auto, &mut context, key(offset), page);
        counts[codec as usize] += 1;
    }
    CodecName::ALL
        .into_iter()
        .filter(|codec| *codec != CodecName::Raw)
        .max_by_key(|codec| (counts[*codec as usize], *codec == CodecName::Lz4))
        .expect("there are codecs")
}

/// Microseconds a page to encode into a buffer, and to decode objects that lie one after the other.
fn bare(pages: &[Page], codec: CodecName) -> (f64, f64) {
    let mut context = Context::new(false, 1);
    let start = Instant::now();
    for page in pages {
        black_box(context.encode(codec, page));
    }
    let store = micros(start, pages.len());
    let mut objects = Vec::new();
    let mut spans = Vec::new();
    for page in pages {
        let (codec, bytes) = match context.encode(codec, page) {
            Some(bytes) => (codec, bytes),
            None => (CodecName::Raw, &page.0[..]),
        };
        spans.push((codec, objects.len(), bytes.len()));
        objects.extend_from_slice(bytes);
    }
    let mut out = Page::ZERO;
    let start = Instant::now();
    for (codec, at, length) in &spans {
        decode(*codec, &objects[*at..at + length], &mut out).expect("it was just encoded");
        black_box(&out);
    }
    (store, micros(start, pages.len()))
}

/// Microseconds a page through a fresh chain, one thread for every part: to fill it, to store the same
/// pages again, and to load them.
fn through_chain(parts: &[&[Page]]) -> [f64; 3] {
    let chain = chain(vec![Arc::new(zpool(Bytes(4 << 30)))]);
    let count: usize = parts.iter().map(|part| part.len()).sum();
    let first =
        |part: usize| parts[..part].iter().map(|part| part.len()).sum::<usize>().next_multiple_of(128);
    let store_all = |part: usize, pages: &[Page]| {
        for (offset, page) in pages.iter().enumerate() {
            black_box(chain.store(key(first(part) + offset), page)).expect("the area is there");
        }
    };
    let fill = timed(parts, store_all);
    let store = timed(parts, store_all);
    let load = timed(parts, |part, pages| {
        let mut out = Page::ZERO;
        for offset in 0..pages.len() {
            let is_loaded = chain.load(key(first(part) + offset), &mut out, false);
            assert!(black_box(is_loaded).expect("every page loads"));
        }
    });
    [fill, store, load].map(|micros| micros / count as f64)
}

/// Microseconds until every part is done, one thread for each.
fn timed(parts: &[&[Page]], work: impl Fn(usize, &[Page]) + Sync) -> f64 {
    if let [pages] = parts {
        let start = Instant::now();
        work(0, pages);
        return micros(start, 1);
    }
    let barrier = Barrier::new(parts.len() + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .iter()
            .enumerate()
            .map(|(number, pages)| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    work(number, pages);
                })
            })
            .collect();
        let start = Instant::now();
        barrier.wait();
        for thread in threads {
            thread.join().expect("a worker does not panic");
        }
        micros(start, 1)
    })
}

fn together(parts: &[&[Page]], work: impl Fn(&[Page]) -> (f64, f64) + Sync) -> f64 {
    let sums: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .iter()
            .map(|part| {
                let work = &work;
                scope.spawn(move || {
                    let (store, load) = work(part);
                    (store + load) * part.len() as f64
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker does not panic")).collect()
    });
    let pages: usize = parts.iter().map(|part| part.len()).sum();
    sums.into_iter().fold(0.0, f64::max) / pages as f64
}

fn micros(start: Instant, pages: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e6 / pages as f64
}
