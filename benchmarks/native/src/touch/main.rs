//! `frontswap-touch FILE BYTES [RAM_BYTES]`: an array of BYTES bytes, filled with the pages of FILE over
//! and over, that is read and written one word of a page at a time while something takes its pages away:
//! whatever pages the whole program or, with RAM_BYTES, a pager of its own.
//!
//! It then obeys lines on standard input, so that two of these, under different pagers, can be
//! measured in turn, a second each: `PATTERN THREADS ACCESSES_MAX SECONDS_MAX`. Each line is answered by
//! a JSON object: how many accesses in how many seconds, how many were slow, and how slow. The line
//! `stats` is answered by what the pager says of itself. Every page carries its number and how often it
//! was written, both are checked at each read, and a page that is wrong ends the program.

mod access;
mod array;
mod histogram;
mod managed;
mod pattern;

use std::io::{BufRead, Write};
use std::time::Instant;

use access::Order;
use array::Array;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, bytes, ram @ ..] = arguments.as_slice() else { usage() };
    let ram_bytes = match ram {
        [] => None,
        [bytes] => Some(bytes.parse().unwrap_or_else(|_| usage())),
        _ => usage(),
    };
    let start = Instant::now();
    let array = Array::filled(file, bytes.parse().unwrap_or_else(|_| usage()), ram_bytes);
    answer(&format!(
        "{{\"pages\": {}, \"fill_seconds\": {:.3}}}",
        array.pages(),
        start.elapsed().as_secs_f64()
    ));
    let (mut places, mut round) = (Vec::new(), 0);
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input is text");
        if line == "stats" {
            answer(&array.stats());
            continue;
        }
        let order: Order = line.parse().unwrap_or_else(|()| usage());
        answer(&access::run(&array, &order, round, &mut places));
        round += 1;
    }
}

fn usage() -> ! {
    eprintln!(
        "usage: frontswap-touch FILE BYTES [RAM_BYTES], then lines `PATTERN THREADS ACCESSES_MAX SECONDS_MAX`"
    );
    eprintln!("patterns: {}", pattern::Pattern::NAMES.join(", "));
    std::process::exit(2);
}

fn answer(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody reads the answers");
}
