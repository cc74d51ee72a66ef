//! When nobody takes pages and the budget is used up, a whole program is told as malloc tells it: what it
//! asks for anew is refused. The kernel does that, by the limit on private writable memory.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::budget::Accounting;
use crate::pager::{Pager, read};
use crate::threads::lock;

/// What may still be asked for: our own needs are refused by the same limit.
const SLACK_BYTES: u64 = 8 << 20;

/// The limit that the program had, while ours is in force.
#[derive(Debug, Default)]
pub(crate) struct Ration(Mutex<Option<Rlimit>>);

impl Pager {
    /// Begins to refuse, or ends it. Called on the evictor's clock.
    pub(crate) fn ration(&self) {
        if self.options.budget.accounting != Accounting::Process {
            return;
        }
        let must_refuse = self.is_stuck.load(Ordering::Relaxed) && !self.has_room(1);
        let mut before = lock(&self.ration.0);
        match (*before, must_refuse) {
            (None, true) => {
                let now = getrlimit(Resource::Data);
                let Some(bytes) = read(&self.files).meter.data_bytes() else { return };
                let limit = Rlimit { current: Some(bytes + SLACK_BYTES), maximum: now.maximum };
                if now.current.is_none_or(|current| current > bytes + SLACK_BYTES)
                    && setrlimit(Resource::Data, limit).is_ok()
                {
                    *before = Some(now);
                }
            }
            (Some(limit), false) => {
                // It was the program's own: it can be set again.
                let _ = setrlimit(Resource::Data, limit);
                *before = None;
            }
            _ => {}
        }
    }
}
