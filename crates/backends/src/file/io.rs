//! The system calls of the swap file: open, reserve, read, write, give back. Nothing else in this
//! backend calls the system.
//!
//! The file has no name, so that nothing is left of it however the process ends. Offsets and lengths
//! are whole pages and memory is page-aligned, as direct I/O wants it. No locks.

use std::hash::{BuildHasher, RandomState};
use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};

use frontswap::{Bytes, Error, Kind, PAGE_SIZE};
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::slots::byte_offset;

/// One page of memory that direct I/O accepts.
#[derive(Clone)]
#[repr(C, align(4096))]
pub(super) struct AlignedPage(pub [u8; PAGE_SIZE]);

/// Page-aligned memory of a fixed number of pages.
pub(super) struct AlignedPages {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

/// Why an I/O failed, in words, with the system's number where it gave one.
#[derive(Debug)]
pub(super) struct Fault {
    pub reason: String,
    pub errno: Option<i32>,
}

/// The file.
pub(super) struct PageFile {
    file: OwnedFd,
    place: PathBuf,
}

impl AlignedPage {
    /// A page of zeroes, for use as a buffer.
    pub(super) const ZERO: AlignedPage = AlignedPage([0; PAGE_SIZE]);
}

impl AlignedPages {
    /// Zeroed memory for `pages` pages. The system backs it when it is first touched.
    pub(super) fn new(pages: usize) -> Self {
        // The vector is never resized, so the page-aligned part of it stays where it is.
        let bytes = vec![0; if pages == 0 { 0 } else { (pages + 1) * PAGE_SIZE }];
        let start = if pages == 0 { 0 } else { bytes.as_ptr().align_offset(PAGE_SIZE) };
        AlignedPages { bytes, start, len: pages * PAGE_SIZE }
    }

    /// The pages `range`, end to end.
    pub(super) fn pages(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[self.start..][..self.len][range.start * PAGE_SIZE..range.end * PAGE_SIZE]
    }

    /// Page number `index`, to write to.
    pub(super) fn page_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len][index * PAGE_SIZE..][..PAGE_SIZE]
    }

    /// Bytes that they take, alignment included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl PageFile {
    /// Opens a file without a name in `directory` and reserves `slots` pages of disk for it.
    ///
    /// # Errors
    /// `SwapFileOpen`, `SwapFileDirect` or `SwapFileSpace`; nothing is left behind.
    pub(super) fn create(directory: &Path, slots: u32, direct: bool) -> Result<Self, Error> {
        let place = directory.to_path_buf();
        let file = open_nameless(directory).map_err(|errno| {
            place_error(Kind::SwapFileOpen, directory, &words(errno)).with_errno(Some(errno.raw_os_error()))
        })?;
        let file = PageFile { file, place };
        file.reserve(slots)?;
        if direct {
            file.be_direct(slots)?;
        }
        Ok(file)
    }

    /// A file that somebody else has opened and reserved.
    pub(super) fn shared(file: OwnedFd) -> Self {
        PageFile { file, place: PathBuf::new() }
    }

    /// The directory that it was created in; empty when that was somebody else.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// The file itself.
    pub(super) fn into_file(self) -> OwnedFd {
        self.file
    }

    /// Bypasses the page cache from now on. Some file systems agree and then fail at the first I/O, so
    /// one page is written and read. The last page tells more than the first: it is aligned to a page
    /// and to nothing more.
    fn be_direct(&self, slots: u32) -> Result<(), Error> {
        let flags = fs::fcntl_getfl(&self.file).map_err(Fault::from);
        flags
            .and_then(|flags| Ok(fs::fcntl_setfl(&self.file, flags | OFlags::DIRECT)?))
            .and_then(|()| self.try_out(slots - 1))
            .map_err(|fault| {
                place_error(Kind::SwapFileDirect, &self.place, &fault.reason).with_errno(fault.errno)
            })
    }

    fn try_out(&self, slot: u32) -> Result<(), Fault> {
        let sent = AlignedPage([0xa5; PAGE_SIZE]);
        let mut got = AlignedPage::ZERO;
        self.write(slot, &mut [IoSlice::new(&sent.0)])?;
        self.read(slot, &mut got)?;
        if sent.0 != got.0 {
            return Err(Fault { reason: "a test page came back changed".to_owned(), errno: None });
        }
        Ok(())
    }

    /// Reserves disk space for slots 0 to `slots`, also where it was given back before.
    ///
    /// # Errors
    /// `SwapFileSpace`; the length of the file and the pages in it are what they were.
    pub(super) fn reserve(&self, slots: u32) -> Result<(), Error> {
        let length = byte_offset(slots);
        let fail = |fault: Fault| {
            let size = Bytes(length);
            let place = self.place.display();
            Error::new(Kind::SwapFileSpace, &[("size", &size), ("place", &place), ("reason", &fault.reason)])
                .with_errno(fault.errno)
        };
        let before = fs::fstat(&self.file).map_err(|errno| fail(errno.into()))?;
        let disk = fs::fstatvfs(&self.file).map_err(|errno| fail(errno.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        // Asked first, because a reservation that must fail would fill the disk for everybody else
        // until it does.
        if length.saturating_sub(before.st_blocks as u64 * 512) > free {
            let reason = format!("{}, {} are free", words(Errno::NOSPC), Bytes(free));
            return Err(fail(Fault { reason, errno: Some(Errno::NOSPC.raw_os_error()) }));
        }
        let reserved = retry_on_intr(|| fs::fallocate(&self.file, FallocateFlags::empty(), 0, length));
        reserved.map_err(|errno| {
            // What was reserved on the way goes back; an error here would not change the answer.
            let _ = fs::ftruncate(&self.file, before.st_size as u64);
            fail(errno.into())
        })
    }

    /// Reads the page in `slot`.
    ///
    /// # Errors
    /// It cannot be read, or not all of it; `page` is then undefined.
    pub(super) fn read(&self, slot: u32, page: &mut AlignedPage) -> Result<(), Fault> {
        let length = retry_on_intr(|| rustix::io::pread(&self.file, &mut page.0[..], byte_offset(slot)))?;
        if length != PAGE_SIZE {
            let reason = format!("the swap file ended after `{length}` of 4096 bytes");
            return Err(Fault { reason, errno: None });
        }
        Ok(())
    }

    /// Writes `parts`, one after the other, to the slots from `slot` on.
    ///
    /// # Errors
    /// Not everything could be written.
    pub(super) fn write(&self, slot: u32, mut parts: &mut [IoSlice<'_>]) -> Result<(), Fault> {
        let mut offset = byte_offset(slot);
        while !parts.is_empty() {
            let length = retry_on_intr(|| rustix::io::pwritev(&self.file, parts, offset))?;
            if length == 0 {
                return Err(Errno::IO.into());
            }
            offset += length as u64;
            IoSlice::advance_slices(&mut parts, length);
        }
        Ok(())
    }

    /// Gives the space of these slots back to the disk. A file system that cannot do so keeps it
    /// until the file goes, which harms nothing.
    pub(super) fn give_back(&self, slots: Range<u32>) {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = byte_offset(slots.end - slots.start);
        let _ = retry_on_intr(|| fs::fallocate(&self.file, mode, byte_offset(slots.start), length));
    }

    /// Bytes of disk that the file takes, and its length.
    #[cfg(test)]
    pub(super) fn disk_bytes(&self) -> (u64, u64) {
        let stat = fs::fstat(&self.file).unwrap();
        (stat.st_blocks as u64 * 512, stat.st_size as u64)
    }

    /// Cuts the file off, as a damaged disk would lose its end.
    #[cfg(test)]
    pub(super) fn cut(&self, length: u64) {
        fs::ftruncate(&self.file, length).unwrap();
    }
}

fn open_nameless(directory: &Path) -> Result<OwnedFd, Errno> {
    // EXCL: the file can never be given a name either.
    let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    match retry_on_intr(|| fs::open(directory, flags, Mode::RUSR | Mode::WUSR)) {
        // EISDIR is how a kernel or file system answers that does not know the flag.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => open_unlinked(directory),
        answer => answer,
    }
}

/// For file systems without nameless files: the name lives for one system call.
fn open_unlinked(directory: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let parent = retry_on_intr(|| fs::open(directory, flags, Mode::empty()))?;
    let name = format!(".frontswap-{:016x}", RandomState::new().hash_one(std::process::id()));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match retry_on_intr(|| fs::openat(&parent, &name, flags, Mode::RUSR | Mode::WUSR)) {
        // The directory is there: it is one, like `/proc`, in which nobody can create a file.
        Err(Errno::NOENT) => return Err(Errno::OPNOTSUPP),
        answer => answer?,
    };
    fs::unlinkat(&parent, &name, AtFlags::empty())?;
    Ok(file)
}

/// An error of a kind whose template has `{place}` and `{reason}`.
pub(super) fn place_error(kind: Kind, place: &Path, reason: &str) -> Error {
    Error::new(kind, &[("place", &place.display()), ("reason", &reason)])
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Fault { reason: words(errno), errno: Some(errno.raw_os_error()) }
    }
}

/// An error number as people read it: `permission denied (EACCES)`. The C library's texts are not asked
/// for: it may take memory to translate them, and there are processes in which we must not let it.
pub(super) fn words(errno: Errno) -> String {
    match known(errno) {
        Some((name, text)) => format!("{text} ({name})"),
        None => format!("system error {}", errno.raw_os_error()),
    }
}

/// The numbers that opening, reserving, reading and writing a file give: name and text.
fn known(errno: Errno) -> Option<(&'static str, &'static str)> {
    Some(match errno {
        Errno::ACCESS => ("EACCES", "permission denied"),
        Errno::AGAIN => ("EAGAIN", "resource temporarily unavailable"),
        Errno::BADF => ("EBADF", "bad file descriptor"),
        Errno::DQUOT => ("EDQUOT", "disk quota exceeded"),
        Errno::FBIG => ("EFBIG", "file too large"),
        Errno::INVAL => ("EINVAL", "invalid argument"),
        Errno::IO => ("EIO", "input/output error"),
        Errno::LOOP => ("ELOOP", "too many levels of symbolic links"),
        Errno::MFILE => ("EMFILE", "too many open files"),
        Errno::NAMETOOLONG => ("ENAMETOOLONG", "file name too long"),
        Errno::NFILE => ("ENFILE", "too many open files in system"),
        Errno::NODEV => ("ENODEV", "no such device"),
        Errno::NOENT => ("ENOENT", "no such file or directory"),
        Errno::NOMEM => ("ENOMEM", "cannot allocate memory"),
        Errno::NOSPC => ("ENOSPC", "no space left on device"),
        Errno::NOTDIR => ("ENOTDIR", "not a directory"),
        Errno::NXIO => ("ENXIO", "no such device or address"),
        Errno::OPNOTSUPP => ("EOPNOTSUPP", "operation not supported"),
        Errno::PERM => ("EPERM", "operation not permitted"),
        Errno::ROFS => ("EROFS", "read-only file system"),
        Errno::STALE => ("ESTALE", "stale file handle"),
        Errno::TIMEDOUT => ("ETIMEDOUT", "connection timed out"),
        Errno::TXTBSY => ("ETXTBSY", "text file busy"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_named_as_people_read_them() {
        assert_eq!(words(Errno::ACCESS), "permission denied (EACCES)");
        assert_eq!(words(Errno::IO), "input/output error (EIO)");
        assert_eq!(words(Errno::UNATCH), "system error 49");
    }

    #[test]
    fn aligned_pages_are_aligned_and_apart() {
        let mut pages = AlignedPages::new(3);
        for index in 0..3 {
            pages.page_mut(index).fill(index as u8 + 1);
        }
        assert_eq!(pages.pages(0..3).as_ptr() as usize % PAGE_SIZE, 0);
        for index in 0..3 {
            assert!(pages.pages(index..index + 1).iter().all(|byte| usize::from(*byte) == index + 1));
        }
    }

    #[test]
    fn direct_io_that_is_refused_is_an_error() {
        let place = PathBuf::from("/proc/self");
        let file = fs::open("/proc/self/stat", OFlags::RDONLY, Mode::empty()).unwrap();
        let error = PageFile { file, place }.be_direct(1).unwrap_err();
        assert_eq!(error.kind(), Kind::SwapFileDirect);
        assert_eq!(error.errno(), Some(Errno::INVAL.raw_os_error()));
        assert_eq!(
            error.message(),
            "cannot use direct I/O on a swap file in `/proc/self`: invalid argument (EINVAL)"
        );
    }

    #[test]
    fn a_file_system_without_nameless_files_leaves_nothing_either() {
        let directory = std::env::temp_dir().join(format!("frontswap-unlinked-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let file = open_unlinked(&directory).unwrap();
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        let file = PageFile { file, place: directory.clone() };
        file.reserve(1).unwrap();
        file.try_out(0).unwrap();
        std::fs::remove_dir(&directory).unwrap();
    }
}
