//! What the supervisor says, as lines of `key=value`, and the chain that is made from it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use frontswap::backend::Backend;
use frontswap::error::Error;
use frontswap::{Bytes, Chain, ChainOptions, Member};
use frontswap_backends::{CodecChoice, FaultInject, Faults, Incompressible, SwapFile, Zpool, ZpoolOptions};
use frontswap_pager::{Membership, growth};

use crate::swap;

/// Without a swap file the pool may take nearly all; with one, pages that are cold for long go there.
const POOL_PART_ALONE: u64 = 80;
const POOL_PART_BEFORE_SWAP: u64 = 60;

/// What this process was told.
#[derive(Clone, Debug)]
pub struct Settings {
    codec: CodecChoice,
    level: i32,
    /// Most RAM of all pools; 0: a part of the limit.
    pool_limit_bytes: u64,
    keeps_incompressible: Option<bool>,
    has_swap: bool,
    inject: Option<Inject>,
}

/// Which backend misbehaves, and how: for tests of programs.
#[derive(Clone, Debug)]
struct Inject {
    backend: String,
    faults: Faults,
}

impl Inject {
    /// Reads `backend,key=value,...`.
    fn read(text: &str) -> Self {
        let value = |key: &str| text.split(',').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let likelihood = |key: &str| value(key).and_then(|word| word.parse().ok()).unwrap_or(0.0);
        let number = |key: &str| value(key).and_then(|word| word.parse().ok()).unwrap_or(0);
        Inject {
            backend: text.split(',').next().unwrap_or_default().to_owned(),
            faults: Faults {
                seed: number("seed"),
                reject: likelihood("reject"),
                delay: Duration::from_micros(number("delay_us")),
                store_error: likelihood("store_error"),
                load_error: likelihood("load_error"),
                corrupt: likelihood("corrupt"),
            },
        }
    }

    /// Wraps `backend` if it is the one.
    fn wrap(this: Option<&Self>, name: &str, backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
        match this.filter(|inject| inject.backend == name) {
            Some(inject) => Arc::new(FaultInject::new(backend, inject.faults)),
            None => backend,
        }
    }
}

impl Settings {
    /// Reads them. What is not known, or cannot be read, is as if it were not there: the supervisor has
    /// checked what the user wrote.
    pub fn read(text: &str) -> Self {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .filter(|value| !value.is_empty())
        };
        fn number<T: FromStr>(value: Option<&str>) -> Option<T> {
            value?.parse().ok()
        }
        Settings {
            codec: value("codec")
                .and_then(|name| CodecChoice::from_name(name).ok())
                .unwrap_or(CodecChoice::Auto),
            level: number(value("level")).unwrap_or(1),
            pool_limit_bytes: number(value("pool_limit_bytes")).unwrap_or(0),
            keeps_incompressible: value("incompressible").map(|word| word == "keep"),
            has_swap: value("swap") == Some("file"),
            inject: value("inject").map(Inject::read),
        }
    }

    /// Most RAM of all pools of a tree with that limit.
    pub fn pool_bytes_max(&self, limit_bytes: u64) -> u64 {
        let part = if self.has_swap { POOL_PART_BEFORE_SWAP } else { POOL_PART_ALONE };
        match self.pool_limit_bytes {
            0 => limit_bytes / 100 * part,
            bytes => bytes.min(limit_bytes),
        }
    }

    /// Makes the chain: compressed RAM, then the tree's swap file.
    ///
    /// # Errors
    /// There is no memory for it, or the swap file cannot be opened.
    pub fn chain(&self, membership: &'static Membership) -> Result<Arc<Chain>, Error> {
        let limit_bytes = membership.tree().limit().load(std::sync::atomic::Ordering::Relaxed);
        // Raw pages in a pool inside the budget would gain nothing.
        let keeps = self.keeps_incompressible.unwrap_or(false);
        let pool = Zpool::new(ZpoolOptions {
            capacity: Bytes(self.pool_bytes_max(limit_bytes)),
            codec: self.codec,
            level: self.level,
            incompressible: if keeps { Incompressible::Keep } else { Incompressible::Reject },
            inherit: true,
        })?;
        growth::keep_apart(&pool.addresses());
        let inject = self.inject.as_ref();
        let mut members = vec![Arc::new(Member::new(Inject::wrap(inject, "zpool", Arc::new(pool))))];
        if let Some((process, fd)) = membership.tree().swap_place() {
            let file = swap::open(membership.tree(), process, fd)?;
            let file = SwapFile::shared(file, Arc::new(swap::Clusters(membership)))?;
            members.push(Arc::new(Member::new(Inject::wrap(inject, "file", Arc::new(file)))));
        }
        Chain::new(members, ChainOptions { own_worker: false, ..ChainOptions::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_a_default() {
        let settings = Settings::read("codec=zstd\nlevel=5\nswap=file\nfuture=1\n");
        assert_eq!(settings.level, 5);
        assert_eq!(settings.pool_bytes_max(1000), 600);
        assert_eq!(Settings::read("").pool_bytes_max(1000), 800);
        assert_eq!(Settings::read("pool_limit_bytes=700").pool_bytes_max(500), 500);
    }
}
