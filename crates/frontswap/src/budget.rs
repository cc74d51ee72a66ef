//! How many pages may move per second: a bucket that refills with time.

use std::sync::Mutex;
use std::time::Instant;

use crate::key::{Bytes, Pages};

/// A burst of this many milliseconds' worth may pass at once.
const BURST_MS: u64 = 100;

/// A budget of page moves. Unlimited unless a rate is set.
pub struct IoBudget {
    rate: Option<Pages>,
    bucket: Mutex<(f64, Instant)>,
}

impl IoBudget {
    /// A budget of `rate` bytes of pages per second; `None` has no limit.
    pub fn per_second(rate: Option<Bytes>) -> Self {
        let rate = rate.map(Bytes::pages);
        let burst = rate.map_or(0.0, Self::burst);
        IoBudget { rate, bucket: Mutex::new((burst, Instant::now())) }
    }

    /// Takes up to `want` pages from the budget and says how many it got.
    pub fn take(&self, want: Pages) -> Pages {
        let Some(rate) = self.rate else { return want };
        let mut bucket = self.bucket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        let refill = now.duration_since(bucket.1).as_secs_f64() * rate.0 as f64;
        bucket.0 = (bucket.0 + refill).min(Self::burst(rate));
        bucket.1 = now;
        let got = (bucket.0 as u64).min(want.0);
        bucket.0 -= got as f64;
        Pages(got)
    }

    fn burst(rate: Pages) -> f64 {
        (rate.0 * BURST_MS / 1000).max(u64::from(rate.0 > 0)) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rate_is_no_limit() {
        assert_eq!(IoBudget::per_second(None).take(Pages(1 << 40)), Pages(1 << 40));
    }

    #[test]
    fn a_rate_bounds_the_pages() {
        let budget = IoBudget::per_second(Some(Pages(1000).bytes()));
        let start = Instant::now();
        let mut got = 0;
        while start.elapsed().as_millis() < 200 {
            got += budget.take(Pages(50)).0;
        }
        let most = 100 + 1000 * start.elapsed().as_millis() as u64 / 1000 + 1;
        assert!((100..=most).contains(&got), "{got} of {most}");
    }
}
