//! What the kernel says of this process's memory: which pages are present, which mappings there are,
//! how much is resident. The one file that reads `/proc`.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::opcode;

use crate::chunks::PageSet;
use frontswap::page::PAGE_SIZE;

/// `PAGE_IS_*` of `PAGEMAP_SCAN`.
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_PFNZERO: u64 = 1 << 5;
const IS_HUGE: u64 = 1 << 6;

/// `struct pm_scan_arg`.
#[repr(C)]
struct ScanCall {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// A chunk has at most this many runs of present pages.
const REGIONS_MAX: usize = 257;

/// Asks the kernel which pages are present.
pub struct Pagemap {
    file: OwnedFd,
}

/// Which pages to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that have memory of their own.
    Written,
    /// Those, and those that show the kernel's page of zeroes.
    Present,
    /// All that are not missing. A page that the kernel moves to another place in memory at this moment, or
    /// has swapped out itself, is not present, but it is not missing either.
    Any,
}

/// What is present in a range of at most one chunk.
pub struct Present {
    /// Which pages, counted from the start of the range.
    pub pages: PageSet,
    /// It is one huge page.
    pub is_huge: bool,
}

impl Pagemap {
    /// Opens the map of this process. A child of fork needs its own.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn open() -> Result<Self, Errno> {
        let file = rustix::fs::open("/proc/self/pagemap", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Pagemap { file })
    }

    /// The pages of `range` that `which` asks for.
    ///
    /// # Errors
    /// The kernel knows no `PAGEMAP_SCAN` (before Linux 6.7).
    pub fn present(&self, range: &Range<usize>, which: Which) -> Result<Present, Errno> {
        let mut regions = [Region { start: 0, end: 0, categories: 0 }; REGIONS_MAX];
        let mut call = ScanCall {
            size: size_of::<ScanCall>() as u64,
            flags: 0,
            start: range.start as u64,
            end: range.end as u64,
            walk_end: 0,
            regions: regions.as_mut_ptr() as u64,
            regions_length: REGIONS_MAX as u64,
            max_pages: 0,
            category_inverted: if which == Which::Written { IS_PFNZERO } else { 0 },
            category_mask: if which == Which::Written { IS_PFNZERO } else { 0 },
            category_anyof_mask: if which == Which::Any { IS_PRESENT | IS_SWAPPED } else { IS_PRESENT },
            return_mask: IS_HUGE,
        };
        // SAFETY: the structure is that of the call, and it names a buffer of the length that it says.
        let count = unsafe { rustix::ioctl::ioctl(&self.file, Scan(&mut call)) }?;
        let mut present = Present { pages: PageSet::default(), is_huge: false };
        for region in &regions[..count] {
            present.is_huge =
                region.categories & IS_HUGE != 0 && (region.end - region.start) as usize == range.len();
            let first = (region.start as usize - range.start) / PAGE_SIZE;
            let last = (region.end as usize - range.start) / PAGE_SIZE;
            (first..last).for_each(|index| present.pages.insert(index));
        }
        Ok(present)
    }
}

/// The call answers with a number, which rustix's own wrappers drop.
struct Scan<'a>(&'a mut ScanCall);

// SAFETY: the opcode is that of `PAGEMAP_SCAN`, whose argument is the structure.
unsafe impl rustix::ioctl::Ioctl for Scan<'_> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        opcode::read_write::<ScanCall>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::from_mut(self.0).cast()
    }

    // SAFETY: looks at no pointer.
    unsafe fn output_from_ptr(
        count: rustix::ioctl::IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<usize> {
        Ok(count as usize)
    }
}

/// One mapping of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: usize,
    /// The first address behind it.
    pub end: usize,
    /// It is private and anonymous, and can be written.
    pub is_movable: bool,
    /// It is one page that nobody may touch, as below a thread's stack.
    pub is_guard: bool,
    /// It is what `brk` has made.
    pub is_heap: bool,
    /// It is a stack, or something of the kernel's: `[stack]`, `[vvar]`, ...
    pub is_special: bool,
}

/// How much anonymous memory this process has, as the kernel counts.
///
/// Memory that a fork shares is counted in parts, as far as processes are related: otherwise every child
/// would count its parent's all over again. That count costs the kernel a walk, so it is made now and then
/// and what came since is added.
pub struct Meter {
    statm: OwnedFd,
    rollup: OwnedFd,
    /// What a relative shares, in bytes, by the last walk.
    shared_bytes: AtomicU64,
    /// When to walk again, in microseconds of `started`.
    next_us: AtomicU64,
    started: Instant,
}

/// A walk takes at most one part in this many of the time.
const WALK_PART: u64 = 50;
const WALK_PAUSE_US_MIN: u64 = 20_000;

impl Meter {
    /// Opens the counts of this process. A child of fork needs its own.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn open() -> Result<Self, Errno> {
        let open = |path: &str| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(Meter {
            statm: open("/proc/self/statm")?,
            rollup: open("/proc/self/smaps_rollup")?,
            shared_bytes: AtomicU64::new(0),
            next_us: AtomicU64::new(0),
            started: Instant::now(),
        })
    }

    /// Bytes of anonymous memory that are resident now, less what a relative shares.
    pub fn bytes(&self, has_relatives: bool) -> u64 {
        let resident = self.resident_bytes().unwrap_or_default();
        if !has_relatives {
            return resident;
        }
        let begun_us = self.started.elapsed().as_micros() as u64;
        if begun_us >= self.next_us.load(Ordering::Relaxed)
            && let Some(proportional) = self.proportional_bytes()
        {
            self.shared_bytes.store(resident.saturating_sub(proportional), Ordering::Relaxed);
            let took_us = self.started.elapsed().as_micros() as u64 - begun_us;
            let pause_us = (took_us * WALK_PART).max(WALK_PAUSE_US_MIN);
            self.next_us.store(begun_us + took_us + pause_us, Ordering::Relaxed);
        }
        resident.saturating_sub(self.shared_bytes.load(Ordering::Relaxed))
    }

    fn resident_bytes(&self) -> Option<u64> {
        let [_, resident, shared, ..] = self.pages()?;
        // Shared is what is not anonymous.
        Some(resident.saturating_sub(shared) * PAGE_SIZE as u64)
    }

    /// Bytes of private writable memory, touched or not, stacks included.
    pub(crate) fn data_bytes(&self) -> Option<u64> {
        Some(self.pages()?[5] * PAGE_SIZE as u64)
    }

    /// Size, resident, shared, text, library and data, in pages.
    fn pages(&self) -> Option<[u64; 6]> {
        let mut text = [0u8; 128];
        let length = rustix::io::pread(&self.statm, &mut text, 0).ok()?;
        let words = std::str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace();
        let mut pages = [0; 6];
        for (page, word) in pages.iter_mut().zip(words) {
            *page = word.parse().ok()?;
        }
        Some(pages)
    }

    fn proportional_bytes(&self) -> Option<u64> {
        let mut text = [0u8; 2048];
        let length = rustix::io::pread(&self.rollup, &mut text, 0).ok()?;
        let line =
            std::str::from_utf8(&text[..length]).ok()?.lines().find(|line| line.starts_with("Pss_Anon:"))?;
        let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(kib << 10)
    }
}

/// The processor that a thread of this process runs on, or ran on last.
pub fn processor_of(thread: u32) -> Option<usize> {
    let path = format!("/proc/self/task/{thread}/stat");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = [0u8; 1024];
    let length = rustix::io::read(&file, &mut text).ok()?;
    // The name may have any characters; the third field follows its closing bracket.
    let after = text[..length].iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(&text[after..length]).ok()?;
    fields.split_ascii_whitespace().nth(36)?.parse().ok()
}

/// Whether a thread of this process sleeps in `futex(2)`, as one that waits for a lock does.
pub(crate) fn waits_for_lock(thread: u32) -> bool {
    let path = format!("/proc/self/task/{thread}/syscall");
    let Ok(file) = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let mut text = [0u8; 256];
    let length = rustix::io::read(&file, &mut text).unwrap_or(0);
    let number =
        std::str::from_utf8(&text[..length]).ok().and_then(|text| text.split_ascii_whitespace().next());
    number.and_then(|word| word.parse().ok()) == Some(libc::SYS_futex)
}

/// Calls `visit` for each mapping, in the order of addresses.
///
/// # Errors
/// `/proc` is not there.
pub fn each_mapping(mut visit: impl FnMut(Mapping)) -> Result<(), Errno> {
    let file = rustix::fs::open("/proc/self/maps", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // A line has at most a path's length and some; the rest of a read waits for the next one.
    let mut buffer = vec![0u8; 32 << 10];
    let mut filled = 0;
    loop {
        let length = rustix::io::read(&file, &mut buffer[filled..])?;
        filled += length;
        let mut done = 0;
        while let Some(at) = buffer[done..filled].iter().position(|byte| *byte == b'\n') {
            if let Some(mapping) = parse(&buffer[done..done + at]) {
                visit(mapping);
            }
            done += at + 1;
        }
        if length == 0 {
            return Ok(());
        }
        buffer.copy_within(done..filled, 0);
        filled -= done;
    }
}

/// Reads `start-end perms offset device inode path`.
fn parse(line: &[u8]) -> Option<Mapping> {
    let text = std::str::from_utf8(line).unwrap_or_else(|error| {
        // A path of strange bytes: what stands before it is plain.
        std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default()
    });
    let mut words = text.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let inode = words.nth(2)?;
    let path = words.next().unwrap_or_default();
    let is_anonymous = inode == "0" && (path.is_empty() || path == "[heap]" || path.starts_with("[anon:"));
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some(Mapping {
        start,
        end,
        is_guard: is_anonymous && permissions == "---p" && end - start == PAGE_SIZE,
        is_movable: is_anonymous && permissions.starts_with("rw") && permissions.ends_with('p'),
        is_heap: path == "[heap]",
        is_special: path.starts_with('[') && !is_anonymous,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_read() {
        let heap = parse(b"55d0-55f0 rw-p 00000000 00:00 0                          [heap]").unwrap();
        assert_eq!(
            heap,
            Mapping {
                start: 0x55d0,
                end: 0x55f0,
                is_movable: true,
                is_guard: false,
                is_heap: true,
                is_special: false
            }
        );
        assert!(parse(b"7f00-7f10 rw-p 00000000 00:00 0 ").unwrap().is_movable);
        assert!(
            parse(b"7f00-7f10 rw-p 00000000 00:00 0 [anon: glibc: malloc]").is_some_and(|m| m.is_movable)
        );
        for other in [
            "7f00-7f10 rw-p 00000000 00:00 0 [stack]",
            "7f00-7f10 rw-s 00000000 00:01 77 /dev/zero (deleted)",
            "7f00-7f10 r--p 00000000 00:00 0 [vvar]",
            "7f00-7f10 rw-p 00010000 08:01 1234 /usr/lib/libc.so.6",
            "7f00-7f10 ---p 00000000 00:00 0",
        ] {
            assert!(!parse(other.as_bytes()).unwrap().is_movable, "{other}");
        }
    }

    #[test]
    fn this_process_has_a_stack_and_a_heap() {
        let mut stacks = 0;
        let mut movable = 0;
        each_mapping(|mapping| {
            stacks += u32::from(mapping.is_special);
            movable += usize::from(mapping.is_movable);
        })
        .unwrap();
        assert!(stacks > 0 && movable > 0);
        let meter = Meter::open().unwrap();
        let (alone, shared) = (meter.bytes(false), meter.bytes(true));
        assert!(shared > 0 && alone >= shared, "{alone} {shared}");
    }
}
