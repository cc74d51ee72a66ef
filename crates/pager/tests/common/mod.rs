//! What the tests share: a pager over compressed RAM, and an array whose pages know their number.

#![allow(dead_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use frontswap::{Bytes, Chain, ChainOptions, Member, PAGE_SIZE};
use frontswap_backends::{CodecChoice, CodecName, FaultInject, Faults, Incompressible, Zpool, ZpoolOptions};
use frontswap_pager::{Accounting, Budget, Mode, Own, Pager, PagerOptions, Threads};

/// A chain of compressed RAM alone.
pub fn chain(pool_bytes: usize) -> Arc<Chain> {
    let pool = Zpool::new(ZpoolOptions {
        capacity: Bytes(pool_bytes as u64),
        codec: CodecChoice::Fixed(CodecName::Lz4),
        level: 1,
        incompressible: Incompressible::Keep,
        inherit: true,
    })
    .unwrap();
    let options = ChainOptions { own_worker: false, ..ChainOptions::default() };
    Chain::new(vec![Arc::new(Member::new(Arc::new(pool)))], options).unwrap()
}

/// The same behind faults.
pub fn chain_with_faults(pool_bytes: usize, faults: Faults) -> Arc<Chain> {
    let pool = Zpool::new(ZpoolOptions {
        capacity: Bytes(pool_bytes as u64),
        codec: CodecChoice::Auto,
        level: 1,
        incompressible: Incompressible::Keep,
        inherit: true,
    })
    .unwrap();
    let options = ChainOptions { own_worker: false, ..ChainOptions::default() };
    let faulty = FaultInject::new(Arc::new(pool), faults);
    Chain::new(vec![Arc::new(Member::new(Arc::new(faulty)))], options).unwrap()
}

/// A pager with `ram` bytes, of which a pool takes at most `pool_bytes`.
pub fn pager(mode: Mode, ram: usize, pool_bytes: usize) -> Arc<Pager> {
    pager_on(mode, ram, chain(pool_bytes))
}

/// A pager over `chain`.
pub fn pager_on(mode: Mode, ram: usize, chain: Arc<Chain>) -> Arc<Pager> {
    let budget = Budget {
        share: Arc::new(Own::new(ram as u64)),
        accounting: Accounting::Counted,
        reserve_bytes: (ram / 64) as u64,
    };
    Pager::new(PagerOptions { mode, threads: Threads::Ordinary, chain, budget, reopen: None }).unwrap()
}

/// Managed memory, looked at by the page: a tag at both ends of each and filling between.
pub struct Array {
    pager: Arc<Pager>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the tests that share an array use each page in one thread at a time.
unsafe impl Send for Array {}
// SAFETY: as above.
unsafe impl Sync for Array {}

impl Array {
    pub fn new(pager: &Arc<Pager>, bytes: usize) -> Self {
        Array::try_new(pager, bytes).unwrap()
    }

    /// None when there is no memory for it.
    pub fn try_new(pager: &Arc<Pager>, bytes: usize) -> Option<Self> {
        Some(Array { pager: pager.clone(), start: pager.map(bytes).ok()?, bytes })
    }

    pub fn pages(&self) -> usize {
        self.bytes / PAGE_SIZE
    }

    /// Throws pages away.
    pub fn discard(&self, first: usize, pages: usize) {
        let at = NonNull::new(self.words(first).cast()).unwrap();
        // SAFETY: the test's own thread alone uses the array.
        unsafe { self.pager.discard(at, pages * PAGE_SIZE) };
    }

    /// Holds pages until the answer is dropped.
    pub fn pin(&self, first: usize, pages: usize) -> Option<Pinned<'_>> {
        let at = self.words(first).cast::<u8>().cast_const();
        let bytes = pages * PAGE_SIZE;
        self.pager.pin(at, bytes).ok().map(|()| Pinned { pager: &self.pager, at, bytes })
    }

    fn words(&self, page: usize) -> *mut u64 {
        assert!(page < self.pages());
        // SAFETY: inside the mapping.
        unsafe { self.start.as_ptr().add(page * PAGE_SIZE).cast() }
    }

    /// Writes a page whose words follow from `tag`.
    pub fn write(&self, page: usize, tag: u64) {
        let words = self.words(page);
        for index in 0..PAGE_SIZE / 8 {
            // SAFETY: inside the page.
            unsafe { words.add(index).write_volatile(word(tag, index)) };
        }
    }

    /// Reads a page, checks that its words belong together, and returns its tag; 0 for zeroes.
    pub fn read(&self, page: usize) -> u64 {
        let words = self.words(page);
        // SAFETY: inside the page.
        let tag = unsafe { words.read_volatile() };
        for index in 0..PAGE_SIZE / 8 {
            // SAFETY: inside the page.
            let found = unsafe { words.add(index).read_volatile() };
            assert_eq!(found, word(tag, index), "page {page} word {index} of tag {tag}");
        }
        tag
    }
}

/// Repeats now and then, as memory does: about a third of a page is new.
fn word(tag: u64, index: usize) -> u64 {
    match (tag, index % 3) {
        (0, _) => 0,
        (_, 0) => tag,
        (_, 1) => tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (index as u64 / 24),
        _ => 0x0102_0304,
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: nobody uses the array any more.
        unsafe { self.pager.unmap(self.start, self.bytes) };
    }
}

/// A hold.
pub struct Pinned<'a> {
    pager: &'a Pager,
    at: *const u8,
    bytes: usize,
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.pager.unpin(self.at, self.bytes);
    }
}
