//! Memory of a pager of this program's own: in signal mode, over a chain of one pool of compressed RAM.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use frontswap::{Bytes, Chain, ChainOptions, Member};
use frontswap_backends::{CodecChoice, Incompressible, Zpool, ZpoolOptions};
use frontswap_pager::{Accounting, Budget, Mode, Own, Pager, PagerOptions, Threads};

/// A pager and the one range that it manages.
pub struct Managed {
    pager: Arc<Pager>,
    at: NonNull<u8>,
    words: usize,
}

// SAFETY: the range belongs to this value until it is dropped, and is only seen as atomic words.
unsafe impl Sync for Managed {}

impl Managed {
    /// `words` words of zero, with `ram_bytes` of RAM for all that the pager has to do with them.
    pub fn new(words: usize, ram_bytes: u64) -> Managed {
        let pool = ZpoolOptions {
            capacity: Bytes(ram_bytes),
            codec: CodecChoice::Auto,
            level: 1,
            incompressible: Incompressible::Keep,
            inherit: false,
        };
        let pool = Zpool::new(pool).expect("the machine has room for a pool");
        let options = ChainOptions { own_worker: false, ..ChainOptions::default() };
        let chain =
            Chain::new(vec![Arc::new(Member::new(Arc::new(pool)))], options).expect("one is in order");
        let budget = Budget {
            share: Arc::new(Own::new(ram_bytes)),
            accounting: Accounting::Counted,
            reserve_bytes: 16 << 20,
        };
        let options =
            PagerOptions { mode: Mode::Signal, threads: Threads::Ordinary, chain, budget, reopen: None };
        let pager = Pager::new(options).unwrap_or_else(|error| panic!("{error}"));
        let at = pager.map(words * 8).unwrap_or_else(|error| panic!("{error}"));
        Managed { pager, at, words }
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the pager gave so many bytes, aligned to a page, all zero, until they are unmapped.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast(), self.words) }
    }

    /// What the pager says of itself, as JSON.
    pub fn stats(&self) -> String {
        let stats = self.pager.stats();
        let own = [
            ("ram_limit_bytes", stats.ram_limit_bytes),
            ("ram_used_bytes", stats.usage.used_bytes),
            ("resident_bytes", stats.usage.resident_bytes),
            ("stored_pages", stats.usage.stored_pages),
            ("mem_used_total", stats.usage.mem_used_total),
            ("fault_ns_p50", stats.fault_ns_p50),
            ("fault_ns_p99", stats.fault_ns_p99),
        ];
        let counters = self.pager.counters().all().map(|(name, counter)| (name, counter.load(Relaxed)));
        let all: Vec<_> =
            own.iter().chain(&counters).map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}}}", all.join(", "))
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and whoever borrowed the words is done.
        unsafe { self.pager.unmap(self.at, self.words * 8) };
        self.pager.close();
    }
}
