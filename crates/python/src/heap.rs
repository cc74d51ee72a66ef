//! The memory of one space: blocks on request, out of what its pager maps.
//!
//! `blocks` knows which addresses are taken; this file asks the pager for more, gives back what nobody
//! needs, and decides when a space may end. It never takes the interpreter's lock, and no lock of its own
//! is held while the pager works, so a block can be asked for by a thread that holds anything.
//!
//! Lock order: the gate of forks, then the table. Both are held for a few instructions.

use std::cell::RefCell;
use std::fmt::Display;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use frontswap::chain::Chain;
use frontswap::error::{Error, Kind};
use frontswap::key::Bytes;
use frontswap::page::PAGE_SIZE;
use frontswap_pager::{Mode, Pager};

use crate::blocks::{Blocks, Extent, Room, SHARED_BYTES_MAX, Used};
use crate::lifetime::{forks, gate};

/// Blocks that wait for the next one of their size take at most this part of the space's RAM: enough for
/// the few temporary arrays of one expression, not enough to be missed.
const WARM_SHARE: u64 = 16;

/// Every space of this process, to tell memory of one from memory of another.
static HEAPS: Mutex<Vec<Weak<Heap>>> = Mutex::new(Vec::new());

thread_local! {
    /// Why the last block that this thread asked for through NumPy was refused.
    static REFUSAL: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// How far a space is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It gives blocks.
    Open,
    /// It gives no more, and ends with the last one in use.
    Leaving,
    /// Its memory is gone.
    Closed,
}

struct State {
    blocks: Blocks,
    stage: Stage,
    /// Calls that have taken something out of the table and not come back yet.
    running: usize,
    /// The value of [`forks`] that `running` was counted under: threads do not survive a fork.
    forks: u64,
}

/// The memory of one space.
pub struct Heap {
    pager: Arc<Pager>,
    chain: Arc<Chain>,
    state: Mutex<State>,
}

impl Heap {
    /// An empty one.
    pub fn new(pager: Arc<Pager>, chain: Arc<Chain>) -> Arc<Self> {
        let state = State { blocks: Blocks::default(), stage: Stage::Open, running: 0, forks: forks() };
        let heap = Arc::new(Heap { pager, chain, state: Mutex::new(state) });
        let _gate = gate();
        let mut heaps = HEAPS.lock().unwrap_or_else(PoisonError::into_inner);
        heaps.retain(|heap| heap.strong_count() > 0);
        heaps.push(Arc::downgrade(&heap));
        drop(heaps);
        heap
    }

    /// The pager, for `operation`.
    ///
    /// # Errors
    /// The space is closed.
    pub fn pager(&self, operation: &str) -> Result<&Arc<Pager>, Error> {
        if self.stage() == Stage::Closed { Err(closed(operation)) } else { Ok(&self.pager) }
    }

    /// Where its pages go.
    pub fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// How far it is on its way out.
    pub fn stage(&self) -> Stage {
        self.with(|state| state.stage)
    }

    /// A block of at least `bytes`; zeroes, if `is_zeroed`.
    ///
    /// # Errors
    /// The space is closed, or there is no room.
    pub fn allocate(
        &self,
        bytes: usize,
        is_zeroed: bool,
        label: Option<String>,
    ) -> Result<NonNull<u8>, Error> {
        let Some(bytes) = bytes.max(1).checked_next_multiple_of(PAGE_SIZE) else {
            let fields: [(&'static str, &dyn Display); 3] =
                [("size", &bytes), ("backend", &"a space"), ("reason", &"no address space is so large")];
            return Err(Error::new(Kind::NoMemory, &fields));
        };
        let _running = self.begin("create an array")?;
        // Most blocks are carved out of what is mapped already; so it is asked for each of them.
        self.pager.admit(bytes)?;
        let at = match self.with(|state| state.blocks.take(bytes, &label)) {
            Room::Clean(at) => at,
            Room::Warm(at) => {
                if is_zeroed {
                    self.forget(Extent { at, bytes });
                }
                at
            }
            Room::Nowhere(wanted) => self.grow(wanted, bytes, &label)?,
        };
        Ok(NonNull::new(at as *mut u8).expect("nothing is mapped at zero"))
    }

    /// Maps `wanted` bytes and takes a block of `bytes` out of them.
    fn grow(&self, wanted: usize, bytes: usize, label: &Option<String>) -> Result<usize, Error> {
        let mapped = self.pager.map(wanted).or_else(|error| {
            // What only waits to be used again may be just what is missing.
            self.let_go(self.with(|state| state.blocks.cool(0)));
            self.pager.map(wanted).map_err(|_| error)
        })?;
        let at = mapped.as_ptr() as usize;
        if bytes > SHARED_BYTES_MAX {
            self.with(|state| state.blocks.use_extent(Extent { at, bytes }, label));
            return Ok(at);
        }
        let room = self.with(|state| {
            state.blocks.add_region(at);
            state.blocks.take(bytes, label)
        });
        match room {
            Room::Clean(at) => Ok(at),
            // Another thread gave back a block of this size meanwhile. Nobody minds that it is warm when
            // nothing is said about zeroes; to be sure, it is made clean.
            Room::Warm(at) => {
                self.forget(Extent { at, bytes });
                Ok(at)
            }
            Room::Nowhere(_) => unreachable!("a region has room for any block that shares one"),
        }
    }

    /// Takes the block back that begins at `at`; false when none does.
    pub fn release(&self, at: usize) -> bool {
        let _running = self.begin_anyway();
        let warm_bytes_max = self.warm_bytes_max();
        let Some(cooled) = self.with(|state| {
            // A space that is leaving will not use it again.
            let warm_bytes_max = if state.stage == Stage::Open { warm_bytes_max } else { 0 };
            state.blocks.release(at, warm_bytes_max)
        }) else {
            return false;
        };
        self.let_go(cooled);
        true
    }

    /// The length of the block that begins at `at`; `None` when none does.
    pub fn length(&self, at: usize) -> Option<usize> {
        self.with(|state| state.blocks.length(at))
    }

    /// Sets the RAM that the space takes, and what of it the first backend may take, if that is given.
    ///
    /// # Errors
    /// The space is closed, or the backend cannot have that capacity.
    pub fn resize(&self, ram: Bytes, pool_capacity: Option<Bytes>) -> Result<(), Error> {
        self.pager("set the RAM")?.set_ram(ram);
        let members = self.chain.members();
        if let (Some(capacity), Some(pool)) = (pool_capacity, members.first()) {
            pool.backend().set_capacity(capacity)?;
            self.chain.fit(pool);
        }
        let _running = self.begin_anyway();
        let warm_bytes_max = self.warm_bytes_max();
        self.let_go(self.with(|state| state.blocks.cool(warm_bytes_max)));
        Ok(())
    }

    /// Who answers faults.
    pub fn mode(&self) -> Mode {
        self.pager.mode()
    }

    /// Pages in and holds `bytes` from `at`. Returns false, and does nothing, when they are in no space.
    ///
    /// # Errors
    /// They are in another space, or do not fit into its RAM.
    pub fn pin(&self, at: usize, bytes: usize) -> Result<bool, Error> {
        let pager = self.pager("pin memory")?;
        if !self.with(|state| state.blocks.holds(at, bytes)) {
            return if is_in_a_space(at, bytes) {
                Err(Error::new(Kind::SpaceForeign, &[]))
            } else {
                Ok(false)
            };
        }
        pager.pin(at as *const u8, bytes)?;
        Ok(true)
    }

    /// The reverse of a [`Heap::pin`] that returned true.
    pub fn unpin(&self, at: usize, bytes: usize) {
        self.pager.unpin(at as *const u8, bytes);
    }

    /// Blocks and bytes in use.
    pub fn used(&self) -> (usize, usize) {
        self.with(|state| (state.blocks.used().len(), state.blocks.used_bytes()))
    }

    /// What is in use: the label, where there is one, and the length of each block.
    pub fn blocks(&self) -> Vec<Used> {
        self.with(|state| state.blocks.used().values().cloned().collect())
    }

    /// Ends the space: at once, or, if `is_later`, with the last block in use. Returns false, and changes
    /// nothing, when blocks are in use and it is to end at once.
    ///
    /// # Errors
    /// It is closed already.
    pub fn close(&self, is_later: bool) -> Result<bool, Error> {
        let _running = self.begin_anyway();
        self.with(|state| {
            if state.stage == Stage::Closed || (is_later && state.stage == Stage::Leaving) {
                return Err(closed("close"));
            }
            if !is_later && !state.blocks.used().is_empty() {
                return Ok(false);
            }
            state.stage = Stage::Leaving;
            Ok(true)
        })
    }

    /// Remembers, for this thread, why a block was refused.
    pub fn refuse(error: Error) {
        REFUSAL.with_borrow_mut(|refusal| *refusal = Some(error));
    }

    /// Why a block was refused to this thread since this was asked last.
    pub fn take_refusal() -> Option<Error> {
        REFUSAL.with_borrow_mut(Option::take)
    }

    fn warm_bytes_max(&self) -> usize {
        (self.pager.ram().0 / WARM_SHARE) as usize
    }

    fn forget(&self, extent: Extent) {
        let at = NonNull::new(extent.at as *mut u8).expect("nothing is mapped at zero");
        // SAFETY: the extent is a part of what the pager mapped, and nobody uses it: whoever had it gave
        // it back, or has just been given it and expects zeroes.
        unsafe { self.pager.discard(at, extent.bytes) };
    }

    fn unmap(&self, extent: Extent) {
        let at = NonNull::new(extent.at as *mut u8).expect("nothing is mapped at zero");
        // SAFETY: the extent is one whole mapping of the pager's; nobody uses any of it, and it is in no
        // list from which it could be used again.
        unsafe { self.pager.unmap(at, extent.bytes) };
    }

    /// Gives back what nobody needs.
    fn let_go(&self, extents: Vec<Extent>) {
        for extent in extents {
            if extent.is_own() {
                self.unmap(extent);
                continue;
            }
            self.forget(extent);
            if let Some(region) = self.with(|state| state.blocks.give_back(extent)) {
                self.unmap(region);
            }
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let _gate = gate();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.forks != forks() {
            state.forks = forks();
            state.running = 0;
        }
        work(&mut state)
    }

    fn begin(&self, operation: &str) -> Result<Running<'_>, Error> {
        let running = self.begin_anyway();
        if self.stage() == Stage::Open { Ok(running) } else { Err(closed(operation)) }
    }

    fn begin_anyway(&self) -> Running<'_> {
        self.with(|state| state.running += 1);
        Running(self)
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // Whoever uses a block holds the heap: so none is in use now.
        let is_closed = self.close(true).is_err();
        debug_assert!(is_closed || self.stage() == Stage::Closed);
    }
}

/// A call that is under way. The last one out of a space that is leaving ends it.
struct Running<'a>(&'a Heap);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let heap = self.0;
        let is_last = heap.with(|state| {
            state.running -= 1;
            let is_last =
                state.stage == Stage::Leaving && state.running == 0 && state.blocks.used().is_empty();
            if is_last {
                state.stage = Stage::Closed;
            }
            is_last
        });
        if is_last {
            for extent in heap.with(|state| state.blocks.clear()) {
                heap.unmap(extent);
            }
            heap.pager.close();
            heap.chain.close();
        }
    }
}

fn closed(operation: &str) -> Error {
    Error::new(Kind::Closed, &[("operation", &operation), ("object", &"Space")])
}

fn is_in_a_space(at: usize, bytes: usize) -> bool {
    let heaps: Vec<Arc<Heap>> = {
        let _gate = gate();
        let heaps = HEAPS.lock().unwrap_or_else(PoisonError::into_inner);
        heaps.iter().filter_map(Weak::upgrade).collect()
    };
    heaps.iter().any(|heap| heap.with(|state| state.blocks.holds(at, bytes)))
}
