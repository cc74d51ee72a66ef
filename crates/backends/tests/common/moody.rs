//! A backend that wraps a real one and changes its mood when a test says so: it fails, forgets or
//! damages from that moment on. `FaultInject` decides by chance; here the test decides.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use frontswap::backend::{Answer, Backend, Description, Loaded, Usage};
use frontswap::{Area, Bytes, Error, Key, Kind, Page, Pages};

const NO_OFFSET: u64 = u64::MAX;

pub struct Moody {
    inner: Arc<dyn Backend>,
    description: Description,
    areas: Mutex<Vec<(Area, Pages)>>,
    /// Every store fails.
    pub breaks: AtomicBool,
    /// The page at this offset comes back with one bit changed.
    damaged_offset: AtomicU64,
}

impl Moody {
    pub fn new(inner: Arc<dyn Backend>) -> Arc<Self> {
        Self::described(inner, |description| description)
    }

    /// One that says of itself that it can lose pages.
    pub fn volatile(inner: Arc<dyn Backend>) -> Arc<Self> {
        Self::described(inner, |description| Description { is_volatile: true, ..description })
    }

    fn described(inner: Arc<dyn Backend>, change: impl Fn(Description) -> Description) -> Arc<Self> {
        let kind = "moody".to_owned();
        let description = change(Description { kind, ..inner.describe() });
        Arc::new(Moody {
            inner,
            description,
            areas: Mutex::default(),
            breaks: AtomicBool::new(false),
            damaged_offset: AtomicU64::new(NO_OFFSET),
        })
    }

    /// Forgets every page without telling anybody.
    pub fn lose_everything(&self) {
        for (area, pages) in self.areas.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.inner.invalidate_area(*area);
            self.inner.init(*area, *pages).expect("it was initialised before");
        }
    }

    /// Damages the page at `offset`, in each area, from now on; `None` for no page.
    pub fn damage(&self, offset: Option<u64>) {
        self.damaged_offset.store(offset.unwrap_or(NO_OFFSET), Ordering::Relaxed);
    }
}

impl Backend for Moody {
    fn init(&self, area: Area, pages: Pages) -> Result<(), Error> {
        self.areas.lock().unwrap_or_else(PoisonError::into_inner).push((area, pages));
        self.inner.init(area, pages)
    }

    fn store(&self, key: Key, page: &Page) -> Result<Answer, Error> {
        if self.breaks.load(Ordering::Relaxed) {
            self.inner.invalidate_page(key);
            return Err(Error::new(Kind::BackendBroken, &[("backend", &"moody"), ("reason", &"a bad mood")]));
        }
        self.inner.store(key, page)
    }

    fn load(&self, key: Key, out: &mut Page) -> Result<Loaded, Error> {
        let answer = self.inner.load(key, out)?;
        if answer == Loaded::Loaded && key.offset.0 == self.damaged_offset.load(Ordering::Relaxed) {
            out.0[17] ^= 4;
        }
        Ok(answer)
    }

    fn invalidate_page(&self, key: Key) {
        self.inner.invalidate_page(key);
    }

    fn invalidate_area(&self, area: Area) {
        self.areas.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != area);
        self.inner.invalidate_area(area);
    }

    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn set_capacity(&self, capacity: Bytes) -> Result<(), Error> {
        self.inner.set_capacity(capacity)
    }

    fn coldest(&self, want: usize, victims: &mut Vec<Key>) {
        self.inner.coldest(want, victims);
    }

    fn maintain(&self) -> bool {
        self.inner.maintain()
    }
}
