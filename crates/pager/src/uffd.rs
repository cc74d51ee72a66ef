//! The calls of userfaultfd, and nothing else: this is the one file that makes them.
//!
//! Missing faults alone are asked for. Pages go out by `UFFDIO_MOVE` (Linux 6.8), which takes them
//! away atomically and refuses those that a device holds or a fork shares, and come in by
//! `UFFDIO_COPY`, which needs no TLB shootdown. Source: Linux `Documentation/admin-guide/mm/userfaultfd.rst`.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use frontswap::page::{PAGE_SIZE, Page};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Updater, opcode};
use rustix::mm::UserfaultfdFlags;

use crate::options::Mode;

const API: u64 = 0xaa;
const USER_MODE_ONLY: u32 = 1;
const REGISTER_MODE_MISSING: u64 = 1;
const MOVE_ALLOW_SRC_HOLES: u64 = 2;
const DEVICE: &str = "/dev/userfaultfd";

/// Features, by their bits in `struct uffdio_api`.
const EVENT_REMAP: u64 = 1 << 2;
const EVENT_REMOVE: u64 = 1 << 3;
const EVENT_UNMAP: u64 = 1 << 6;
const SIGBUS: u64 = 1 << 7;
const THREAD_ID: u64 = 1 << 8;
const EXACT_ADDRESS: u64 = 1 << 11;
const POISON: u64 = 1 << 14;
const MOVE: u64 = 1 << 16;

const SIGNAL_FEATURES: u64 = SIGBUS | MOVE;
const HANDLER_FEATURES: u64 =
    EVENT_REMAP | EVENT_REMOVE | EVENT_UNMAP | THREAD_ID | EXACT_ADDRESS | POISON | MOVE;

#[repr(C)]
struct ApiCall {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct RangeCall {
    start: u64,
    length: u64,
}

#[repr(C)]
struct RegisterCall {
    range: RangeCall,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct TransferCall {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    done: i64,
}

#[repr(C)]
struct FillCall {
    range: RangeCall,
    mode: u64,
    done: i64,
}

/// `struct uffd_msg`; the union's words are read by the event's kind.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    words: [u64; 3],
}

const MESSAGE_BYTES: usize = size_of::<Message>();
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMAP_MESSAGE: u8 = 0x14;
const EVENT_REMOVE_MESSAGE: u8 = 0x15;
const EVENT_UNMAP_MESSAGE: u8 = 0x16;
const PAGEFAULT_FLAG_WRITE: u64 = 1;

/// Messages that one read takes at most.
pub const EVENTS_MAX: usize = 16;

/// What the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A thread waits for the page at `address`.
    Fault {
        /// The page's address.
        address: usize,
        /// It was a write.
        is_write: bool,
        /// Who waits.
        thread: u32,
    },
    /// A range has moved, with its pages.
    Remap {
        /// Where it was.
        from: usize,
        /// Where it is.
        to: usize,
        /// Its new length in bytes.
        length: usize,
    },
    /// The contents of a range are about to be thrown away: `madvise` with DONTNEED, FREE and the like.
    Remove(Range<usize>),
    /// A range is gone.
    Unmap(Range<usize>),
    /// Nothing of ours.
    Other,
}

impl Message {
    const EMPTY: Message = Message { event: 0, reserved: [0; 7], words: [0; 3] };

    fn read(self) -> Event {
        let [first, second, third] = self.words.map(|word| word as usize);
        match self.event {
            EVENT_PAGEFAULT => Event::Fault {
                address: second & !(PAGE_SIZE - 1),
                is_write: self.words[0] & PAGEFAULT_FLAG_WRITE != 0,
                thread: self.words[2] as u32,
            },
            EVENT_REMAP_MESSAGE => Event::Remap { from: first, to: second, length: third },
            EVENT_REMOVE_MESSAGE => Event::Remove(first..second),
            EVENT_UNMAP_MESSAGE => Event::Unmap(first..second),
            _ => Event::Other,
        }
    }
}

/// Why pages could not be moved or filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The page is there already, or the place to move it to is taken.
    Exists,
    /// Nothing is mapped there, or it is not registered.
    Gone,
    /// A device holds it, or a fork shares it.
    Busy,
    /// The map is being changed; an event waits to be read.
    Again,
    /// The mapping is of a kind that pages cannot leave: locked, read-only, not anonymous.
    Unmovable,
    /// The system has no memory for it.
    NoMemory,
}

impl Refusal {
    fn of(errno: Errno) -> Refusal {
        match errno {
            Errno::EXIST => Refusal::Exists,
            Errno::BUSY => Refusal::Busy,
            Errno::AGAIN | Errno::INTR => Refusal::Again,
            Errno::NOENT | Errno::SRCH | Errno::FAULT => Refusal::Gone,
            Errno::NOMEM => Refusal::NoMemory,
            _ => Refusal::Unmovable,
        }
    }
}

/// An open userfaultfd of this process.
pub struct Uffd {
    file: OwnedFd,
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Uffd {
    /// Opens one for `mode`.
    ///
    /// # Errors
    /// `ACCESS` or `PERM`: not permitted; `NOSYS`: not in this kernel, or blocked by a seccomp filter;
    /// `INVAL`: the kernel lacks a feature.
    pub fn open(mode: Mode) -> Result<Self, Errno> {
        let file = match mode {
            Mode::Signal => open_file(USER_MODE_ONLY)?,
            Mode::Handler => open_file(0)?,
        };
        let features = match mode {
            Mode::Signal => SIGNAL_FEATURES,
            Mode::Handler => HANDLER_FEATURES,
        };
        let mut call = ApiCall { api: API, features, ioctls: 0 };
        // SAFETY: the structure is that of the call, which writes nothing else.
        unsafe {
            rustix::ioctl::ioctl(
                &file,
                Updater::<{ opcode::read_write::<ApiCall>(0xaa, 0x3f) }, _>::new(&mut call),
            )
        }?;
        Ok(Uffd { file })
    }

    /// Sends missing faults in `range` here from now on. Pages that are there stay.
    ///
    /// # Errors
    /// Some of it is not mapped, not anonymous, or belongs to another userfaultfd: nothing changed.
    ///
    /// # Safety
    /// Somebody answers the faults: the range must be known to the pager.
    pub unsafe fn register(&self, range: &Range<usize>) -> Result<(), Errno> {
        let mut call = RegisterCall { range: of(range), mode: REGISTER_MODE_MISSING, ioctls: 0 };
        // SAFETY: the structure is that of the call; what the caller promises makes it harmless.
        unsafe {
            rustix::ioctl::ioctl(
                &self.file,
                Updater::<{ opcode::read_write::<RegisterCall>(0xaa, 0x00) }, _>::new(&mut call),
            )
        }
    }

    /// Leaves `range` to the kernel again.
    ///
    /// # Errors
    /// Some of it is not mapped.
    ///
    /// # Safety
    /// No page of it is out: a missing one would be read as zeroes from now on.
    pub unsafe fn unregister(&self, range: &Range<usize>) -> Result<(), Errno> {
        let mut call = of(range);
        // SAFETY: the structure is that of the call; the caller vouches for the pages.
        unsafe {
            rustix::ioctl::ioctl(
                &self.file,
                Updater::<{ opcode::read::<RangeCall>(0xaa, 0x01) }, _>::new(&mut call),
            )
        }
    }

    /// Lets the threads that wait in `range` look again.
    pub fn wake(&self, range: &Range<usize>) {
        let mut call = of(range);
        // SAFETY: the structure is that of the call; a thread that is woken early faults again.
        let woken = unsafe {
            rustix::ioctl::ioctl(
                &self.file,
                Updater::<{ opcode::read::<RangeCall>(0xaa, 0x02) }, _>::new(&mut call),
            )
        };
        debug_assert!(woken.is_ok() || !range.is_empty());
    }

    /// Puts copies of `pages` at `address`, where nothing is, and wakes who waits. Returns how many
    /// were put before the first that could not be, and why that one could not.
    ///
    /// # Safety
    /// The contents are right for that address, now: the caller holds whatever decides that.
    pub unsafe fn copy(&self, address: usize, pages: &[Page]) -> (usize, Option<Refusal>) {
        let mut call = TransferCall {
            to: address as u64,
            from: pages.as_ptr() as u64,
            length: size_of_val(pages) as u64,
            mode: 0,
            done: 0,
        };
        // SAFETY: the structure is that of the call; it reads `pages` and fills what is missing only.
        let answer = unsafe {
            rustix::ioctl::ioctl(
                &self.file,
                Updater::<{ opcode::read_write::<TransferCall>(0xaa, 0x03) }, _>::new(&mut call),
            )
        };
        progress(answer, call.done)
    }

    /// Maps zeroes into `range`, where nothing is, and wakes who waits. As [`Uffd::copy`].
    ///
    /// # Safety
    /// As for [`Uffd::copy`]: those pages are zeroes.
    pub unsafe fn zero(&self, range: &Range<usize>) -> (usize, Option<Refusal>) {
        let mut call = FillCall { range: of(range), mode: 0, done: 0 };
        // SAFETY: the structure is that of the call; it fills what is missing only.
        let answer = unsafe {
            rustix::ioctl::ioctl(
                &self.file,
                Updater::<{ opcode::read_write::<FillCall>(0xaa, 0x04) }, _>::new(&mut call),
            )
        };
        progress(answer, call.done)
    }

    /// Makes an access to the page at `address`, where nothing is, end in SIGBUS, and wakes who waits.
    pub fn poison(&self, address: usize) -> Result<(), Errno> {
        let mut call = FillCall { range: of(&(address..address + PAGE_SIZE)), mode: 0, done: 0 };
        // SAFETY: the structure is that of the call; it marks what is missing only.
        unsafe {
            rustix::ioctl::ioctl(
                &self.file,
                Updater::<{ opcode::read_write::<FillCall>(0xaa, 0x08) }, _>::new(&mut call),
            )
        }
    }

    /// Takes the pages in `from` away, holes left out, and puts them at `to`, where nothing may be.
    /// Returns how many bytes were gone over before the first that could not be moved, and why.
    ///
    /// # Safety
    /// `to` is registered here and ours; from now on the caller answers for the pages.
    pub unsafe fn move_pages(&self, from: &Range<usize>, to: usize) -> (usize, Option<Refusal>) {
        let mut call = TransferCall {
            to: to as u64,
            from: from.start as u64,
            length: from.len() as u64,
            mode: MOVE_ALLOW_SRC_HOLES,
            done: 0,
        };
        // SAFETY: the structure is that of the call; the caller owns both ends of it.
        let answer = unsafe {
            rustix::ioctl::ioctl(
                &self.file,
                Updater::<{ opcode::read_write::<TransferCall>(0xaa, 0x05) }, _>::new(&mut call),
            )
        };
        let (pages, refusal) = progress(answer, call.done);
        (pages * PAGE_SIZE, refusal)
    }

    /// Reads what has happened, without waiting. Appends to `events`, which must have room for
    /// [`EVENTS_MAX`]; returns how many.
    pub fn read(&self, events: &mut Vec<Event>) -> usize {
        let mut messages = [Message::EMPTY; EVENTS_MAX];
        // SAFETY: plain words: every pattern of bits is a message.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(messages.as_mut_ptr().cast::<u8>(), size_of_val(&messages))
        };
        let length = rustix::io::read(&self.file, bytes).unwrap_or(0);
        let count = length / MESSAGE_BYTES;
        events.extend(messages[..count].iter().map(|message| message.read()));
        count
    }
}

fn of(range: &Range<usize>) -> RangeCall {
    RangeCall { start: range.start as u64, length: range.len() as u64 }
}

/// The kernel counts what it did, or puts an error into the same word when that is nothing.
fn progress(answer: Result<(), Errno>, done: i64) -> (usize, Option<Refusal>) {
    let pages = if done > 0 { done as usize / PAGE_SIZE } else { 0 };
    match answer {
        Ok(()) => (pages, None),
        // A call that was cut short says AGAIN, and the reason only when it is tried again.
        Err(errno) => (pages, Some(Refusal::of(errno))),
    }
}

fn open_file(flags: u32) -> Result<OwnedFd, Errno> {
    let all =
        UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK | UserfaultfdFlags::from_bits_retain(flags);
    // SAFETY: a new descriptor changes nothing until memory is registered with it.
    match unsafe { rustix::mm::userfaultfd(all) } {
        Err(Errno::PERM | Errno::ACCESS) => open_device(all),
        answer => answer,
    }
}

/// The way in for users to whom the device was given.
fn open_device(flags: UserfaultfdFlags) -> Result<OwnedFd, Errno> {
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty())?;
    let request = opcode::none(0xaa, 0x00);
    // SAFETY: the call takes flags by value and returns a descriptor that nobody else owns.
    unsafe {
        let fd = libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&device),
            request as _,
            flags.bits() as libc::c_ulong,
        );
        if fd < 0 {
            return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::PERM));
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
