//! `rates speed|space|demote FILE...`: one JSON object a line for `benchmarks/chain.py`, which makes
//! the data, repeats, compares and prints. FILE holds whole pages.

mod demote;
mod space;
mod speed;

use std::sync::Arc;

use frontswap::{Area, Backend, Bytes, Chain, ChainOptions, Key, Member, PAGE_SIZE, Page, Pages};
use frontswap_backends::{CodecChoice, Incompressible, Zpool, ZpoolOptions};

/// The area that every benchmark uses.
const AREA: Area = Area(0);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((mode, rest)) = arguments.split_first() else { usage() };
    match (mode.as_str(), rest) {
        ("speed", [file]) => speed::run(&read_pages(file)),
        ("space", [churn, files @ ..]) if !files.is_empty() => {
            let data: Vec<_> = files.iter().map(|file| read_pages(file)).collect();
            space::run(&data, churn.parse().unwrap_or_else(|_| usage()));
        }
        ("demote", [file, directory]) => demote::run(&read_pages(file), directory.as_ref()),
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!("usage: rates speed FILE | rates space CHURN_STORES FILE... | rates demote FILE DIRECTORY");
    std::process::exit(2);
}

fn read_pages(file: &str) -> Vec<Page> {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("cannot read {file}: {error}"));
    bytes.as_chunks::<PAGE_SIZE>().0.iter().map(|chunk| Page(*chunk)).collect()
}

fn zpool(capacity: Bytes) -> Zpool {
    let codec = CodecChoice::Auto;
    let options =
        ZpoolOptions { capacity, codec, level: 1, incompressible: Incompressible::Keep, inherit: false };
    Zpool::new(options).expect("the machine has room for a pool")
}

fn chain(backends: Vec<Arc<dyn Backend>>) -> Arc<Chain> {
    let members = backends.into_iter().map(|backend| Arc::new(Member::new(backend))).collect();
    let chain = Chain::new(members, ChainOptions::default()).expect("the order is right");
    chain.init(AREA, Pages(1 << 24)).expect("the area is new");
    chain
}

fn key(offset: usize) -> Key {
    Key::new(AREA.0, offset as u64)
}
