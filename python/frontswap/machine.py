"""What this machine allows: the kernel's part of managing memory, our library, and places for a swap file.

Everything is found out by trying, not by version numbers: a feature may be missing from a kernel that is new enough,
or kept from us by permissions or a seccomp filter. Nothing here changes the machine. `frontswap doctor` shows the
whole, `frontswap run` asks for what it needs.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from frontswap import _frontswap
from frontswap.errors import reason_of
from frontswap.options import with_hint
from frontswap.units import format_size, machine_memory

DEVICE = Path("/dev/userfaultfd")
PRELOAD = Path(__file__).with_name("_preload.so")
"""The library that is loaded into programs; the package carries it next to the native module."""

PRELOAD_MARK = f"frontswap-preload {_frontswap.__version__}"
"""The library says which build it is by this text in it."""

SWAP_PLACE = "/var/tmp"  # noqa: S108 - a file without a name cannot be guessed
SWAP_BYTES_MIN = 64 * 1024 * 1024
"""A default swap file that is smaller than this would not be worth its name."""
SWAP_BYTES_MAX = 2**40
MIB = 1024 * 1024

IN_RAM = frozenset({"tmpfs", "ramfs", "devtmpfs"})
"""File systems that keep files in RAM, so that a swap file there saves none."""

# Numbers of the kernel's interface: include/uapi/linux/userfaultfd.h and fs.h.
_SYSCALLS = {"x86_64": 323}
_SYSCALL_GENERIC = 282
_USER_MODE_ONLY = 1
_USERFAULTFD_IOC_NEW = 0xAA00
_UFFDIO_API = 0xC018AA3F
_UFFD_API = 0xAA
_PAGEMAP_SCAN = 0xC0606610

FEATURES = {
    "events of unmap, remap and remove": (1 << 2 | 1 << 3 | 1 << 6, "4.11"),
    "THREAD_ID": (1 << 8, "4.14"),
    "EXACT_ADDRESS": (1 << 11, "5.18"),
    "UFFDIO_POISON": (1 << 14, "6.6"),
    "UFFDIO_MOVE": (1 << 16, "6.8"),
}
"""What managing a whole program needs of userfaultfd: bits of `struct uffdio_api`, and the first Linux with them."""

SIGBUS_FEATURE = 1 << 7
MOVE_FEATURE = 1 << 16


@dataclass(frozen=True, slots=True)
class Userfaultfd:
    """What came of opening a userfaultfd.

    Attributes:
        way: `system call` or the device's path.
        reason: Why it cannot be opened; None when it can.
        errno: The system's number for that.
        features: The bits that the kernel offers.

    Example:
        >>> Userfaultfd("system call", None, None, MOVE_FEATURE).missing()[0]
        'events of unmap, remap and remove'
    """

    way: str
    reason: str | None
    errno: int | None
    features: int

    def missing(self) -> list[str]:
        """Return what managing a whole program needs and this kernel lacks.

        Example:
            >>> Userfaultfd("system call", None, None, -1).missing()
            []
        """
        return [name for name, (bits, _) in FEATURES.items() if self.features & bits != bits]


def open_userfaultfd(*, user_mode_only: bool) -> Userfaultfd:
    """Open a userfaultfd, ask for its features, and close it again.

    Args:
        user_mode_only: Ask for the kind that any user gets, which does not see what the kernel itself touches.

    Example:
        >>> isinstance(open_userfaultfd(user_mode_only=True).features, int)
        True
    """
    import ctypes

    flags = os.O_CLOEXEC | os.O_NONBLOCK | (_USER_MODE_ONLY if user_mode_only else 0)
    libc = ctypes.CDLL(None, use_errno=True)
    way, descriptor = "system call", libc.syscall(_SYSCALLS.get(platform.machine(), _SYSCALL_GENERIC), flags)
    number = ctypes.get_errno()
    if descriptor < 0 and number in {errno.EPERM, errno.EACCES} and not user_mode_only and DEVICE.exists():
        way = str(DEVICE)
        try:
            descriptor, number = _open_device(flags), 0
        except OSError as error:
            return Userfaultfd(way, f"`{DEVICE}`: {reason_of(error)}", error.errno, 0)
    if descriptor < 0:
        return Userfaultfd(way, reason_of(OSError(number, os.strerror(number))), number, 0)
    try:
        return Userfaultfd(way, None, None, _features(descriptor))
    except OSError as error:
        return Userfaultfd(way, reason_of(error), error.errno, 0)
    finally:
        os.close(descriptor)


def check_managing() -> None:
    """See to it that whole programs can be managed here.

    Raises:
        UserfaultfdDeniedError: This user may not open a full userfaultfd.
        KernelUnfitError: The kernel lacks something.

    Example:
        >>> from frontswap import FrontswapError
        >>> try:
        ...     check_managing()
        ... except FrontswapError as error:
        ...     print(error.code in {"userfaultfd-denied", "kernel-unfit"})
        ... else:
        ...     print(True)
        True
    """
    opened = open_userfaultfd(user_mode_only=False)
    if opened.errno in {errno.EPERM, errno.EACCES}:
        error = _frontswap.make_error(
            "userfaultfd-denied", reason=opened.reason, command=grant_command(), errno=opened.errno
        )
        raise with_hint(error, None if os.geteuid() else f"run `frontswap doctor`; {_root_denied()}")
    if opened.reason is not None:
        reason = f"userfaultfd: {opened.reason}"
        raise _frontswap.make_error("kernel-unfit", reason=reason, errno=opened.errno)
    if missing := opened.missing():
        reason = f"Linux `{platform.release()}` has no {missing[-1]}, which came with {FEATURES[missing[-1]][1]}"
        raise _frontswap.make_error("kernel-unfit", reason=reason)


def grant_command() -> str:
    """Return the one command that lets this user open a full userfaultfd.

    Example:
        >>> "userfaultfd" in grant_command()
        True
    """
    if is_in_container() and (has_seccomp_filter() or not DEVICE.exists()):
        return f"docker run --device {DEVICE} ..."
    if DEVICE.exists() and shutil.which("setfacl"):
        return f"sudo setfacl -m u:$USER:rw {DEVICE}"
    return "sudo sysctl vm.unprivileged_userfaultfd=1"


def has_seccomp_filter() -> bool:
    """Return whether system calls of this process are filtered, as container engines do by default.

    Example:
        >>> has_seccomp_filter() in {True, False}
        True
    """
    status = Path("/proc/self/status").read_text("utf-8", "replace")
    return re.search(r"^Seccomp:\s+[12]$", status, re.MULTILINE) is not None


def is_in_container() -> bool:
    """Return whether this is the inside of a container, as Docker and Podman mark it.

    Example:
        >>> is_in_container() in {True, False}
        True
    """
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


def can_scan_pagemap() -> bool:
    """Return whether PAGEMAP_SCAN works (Linux 6.7), by which cold pages are found cheaply.

    Example:
        >>> can_scan_pagemap() in {True, False}
        True
    """
    import ctypes
    import fcntl
    import mmap
    import struct

    with mmap.mmap(-1, mmap.PAGESIZE) as page, Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        window = ctypes.c_char.from_buffer(page)
        start = ctypes.addressof(window)
        # size, flags, start, end, walk_end, vec, vec_len, max_pages, then four masks: any page that is present.
        request = struct.pack("12Q", 96, 0, start, start + mmap.PAGESIZE, 0, 0, 0, 0, 0, 0, 8, 8)
        try:
            fcntl.ioctl(pagemap, _PAGEMAP_SCAN, bytearray(request))
        except OSError:
            return False
        finally:
            del window
    return True


def check_preload(path: Path = PRELOAD) -> str:
    """Return the path of the library that is loaded into programs.

    Args:
        path: Where it is.

    Raises:
        PreloadUnfitError: It is not there, is not of this build, or its path cannot stand in `LD_PRELOAD`.

    Example:
        >>> from frontswap.errors import PreloadUnfitError
        >>> try:
        ...     check_preload(Path("/nothing/here.so"))
        ... except PreloadUnfitError as error:
        ...     print(error)
        cannot load frontswap into a program: `/nothing/here.so`: no such file or directory (ENOENT)
    """
    try:
        library = path.read_bytes()
    except OSError as error:
        raise _frontswap.make_error(
            "preload-unfit", reason=f"`{path}`: {reason_of(error)}", errno=error.errno
        ) from None
    if PRELOAD_MARK.encode() not in library:
        raise _frontswap.make_error("preload-unfit", reason=f"`{path}` is not of this build, `{PRELOAD_MARK}`")
    if re.search(r"[\s:;$]", str(path)):
        unnameable = _frontswap.make_error("preload-unfit", reason=f"`LD_PRELOAD` cannot name `{path}`")
        raise with_hint(unnameable, "install frontswap in a folder whose path has no space, colon, semicolon or `$`")
    return str(path)


@dataclass(frozen=True, slots=True)
class Place:
    """A directory for a swap file.

    Attributes:
        path: The directory.
        file_system: Its type, `ext4`; empty when that cannot be known.
        free_bytes: What an ordinary user may still take.

    Example:
        >>> Place("/x", "tmpfs", 0).is_ram
        True
    """

    path: str
    file_system: str
    free_bytes: int

    @property
    def is_ram(self) -> bool:
        """Whether what is written there stays in RAM."""
        return self.file_system in IN_RAM


def look_at_place(path: str) -> Place:
    """Look at a directory for a swap file.

    Args:
        path: The directory.

    Raises:
        SwapFileOpenError: It is missing, no directory, read-only, or not ours to write to.

    Example:
        >>> look_at_place("/nothing")
        Traceback (most recent call last):
        frontswap.errors.SwapFileOpenError: cannot open a swap file in `/nothing`: no such file or directory (ENOENT)
    """
    try:
        disk = os.statvfs(path)
        number = _why_unwritable(path, disk)
    except OSError as error:
        number = error.errno or errno.EIO
    if number:
        reason = reason_of(OSError(number, os.strerror(number)))
        place = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise _frontswap.make_error("swap-file-open", place=place, reason=reason, errno=number)
    return Place(path, _file_system(path), disk.f_bavail * disk.f_frsize)


def default_swap_bytes(place: Place, ram_bytes: int | None = None) -> int:
    """Return how large a swap file is when nobody said: sixteen times the RAM, or half of what is free.

    Twice this machine's memory stands for the RAM's multiple when that is not known, and limits it: to reserve
    more takes time at every start, and nobody needs it.

    Args:
        place: Where it goes.
        ram_bytes: The RAM that the program gets.

    Raises:
        SwapFileSpaceError: Half of what is free there is too little.

    Example:
        >>> default_swap_bytes(Place("/disk", "ext4", 2**30)) <= 2**29
        True
    """
    wanted_bytes = 2 * machine_memory() if ram_bytes is None else min(16 * ram_bytes, 2 * machine_memory())
    size_bytes = min(wanted_bytes, place.free_bytes // 2, SWAP_BYTES_MAX) // MIB * MIB
    if size_bytes < SWAP_BYTES_MIN:
        reason = f"only {format_size(place.free_bytes)} are free, of which a default swap file takes half at most"
        size = format_size(SWAP_BYTES_MIN)
        raise _frontswap.make_error("swap-file-space", size=size, place=place.path, reason=reason, errno=errno.ENOSPC)
    return size_bytes


def _why_unwritable(path: str, disk: os.statvfs_result) -> int:
    """Return the error number for a place where no file can be made; 0 when one can."""
    if not Path(path).is_dir():
        return errno.ENOTDIR
    if disk.f_flag & os.ST_RDONLY:
        return errno.EROFS
    return 0 if os.access(path, os.W_OK | os.X_OK, effective_ids=True) else errno.EACCES


def _open_device(flags: int) -> int:
    import fcntl

    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(device, _USERFAULTFD_IOC_NEW, flags)
    finally:
        os.close(device)


def _features(descriptor: int) -> int:
    """Ask an open userfaultfd for nothing; the kernel then says all that it has."""
    import fcntl
    import struct

    answer = fcntl.ioctl(descriptor, _UFFDIO_API, struct.pack("QQQ", _UFFD_API, 0, 0))
    features: int = struct.unpack("QQQ", answer)[1]
    return features


def _root_denied() -> str:
    if is_in_container():
        return f"start the container with `{grant_command()}`"
    return "a seccomp filter or a security module keeps it even from root here"


def _file_system(path: str) -> str:
    """Return the type of the file system that a path is on."""
    device = os.stat(path).st_dev  # noqa: PTH116 - the number is all that is wanted
    number = f"{os.major(device)}:{os.minor(device)}"
    found = ""
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
        head, _, tail = line.partition(" - ")
        if head.split()[2] == number:
            found = tail.split()[0]
    return found
