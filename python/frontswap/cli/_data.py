"""Real data for commands that need some: files, standard input, and the memory of this process."""

from __future__ import annotations

import errno
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from frontswap.backends import PAGE_SIZE
from frontswap.cli._output import CommandError
from frontswap.errors import reason_of
from frontswap.units import format_size, parse_size

RUN_BYTES = 256 * 1024
"""A sample of a large file is taken in runs of this length, evenly spread: long enough that neighbouring pages stay
neighbours, short enough that a sample of 64 MiB looks at 256 places."""

MEMORY_NAME = "memory of this process"

_HINTS = {
    errno.ENOENT: "check the name",
    errno.EACCES: "ask for permission to read it, or name another file",
    errno.EISDIR: "name the files in it",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Some data in whole pages.

    Attributes:
        name: What a person calls it.
        pages: The bytes; the last page is filled up with zeroes.
        taken_bytes: Bytes of data in it.
        total_bytes: Bytes of data that there are; None when that is not known.
    """

    name: str
    pages: bytes
    taken_bytes: int
    total_bytes: int | None

    def in_words(self) -> str | None:
        """Say how much was left out; None when nothing was."""
        if self.total_bytes == self.taken_bytes:
            return None
        if self.total_bytes is None:
            return f"`{self.name}` is longer than the sample: its first {format_size(self.taken_bytes)} are used"
        total = format_size(self.total_bytes)
        return f"`{self.name}` is {total}: a sample of {format_size(self.taken_bytes)}, evenly spread, is used"


def sample_limit(text: str) -> int:
    """Read the value of `--sample`, in bytes.

    Raises:
        SizeInvalidError: It is not a size.
        CommandError: It is less than a page.
    """
    limit_bytes = parse_size(text)
    if limit_bytes < PAGE_SIZE:
        message = f"cannot use a sample of `{text}`: a page is {PAGE_SIZE} bytes"
        raise CommandError(message, "ask for more", exit_code=2)
    return limit_bytes


def read_sample(path: str, limit_bytes: int) -> Sample:
    """Read a file, or an even sample of it; `-` is standard input.

    Args:
        path: The file.
        limit_bytes: Read at most so much; at least a page.

    Raises:
        CommandError: It cannot be read, or is empty.
    """
    try:
        if path == "-":
            return _read_stream("standard input", sys.stdin.buffer, limit_bytes)
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size > limit_bytes:
                return _read_spread(path, file, status.st_size, limit_bytes)
            return _read_stream(path, file, limit_bytes)
    except OSError as error:
        message = f"cannot read `{path}`: {reason_of(error)}"
        raise CommandError(message, _HINTS.get(error.errno or 0, "name another file")) from error


def own_memory(limit_bytes: int) -> Sample:
    """Read this process's own writable anonymous memory, as far as it is in RAM.

    Args:
        limit_bytes: Read at most so much.
    """
    taken = bytearray()
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for address in _resident_pages():
            if len(taken) >= limit_bytes:
                break
            try:
                taken += os.pread(memory.fileno(), PAGE_SIZE, address)
            except OSError:
                # The interpreter gave this memory back since its map was read.
                continue
    return Sample(MEMORY_NAME, bytes(taken), len(taken), len(taken))


def _resident_pages() -> list[int]:
    """Return the addresses of this process's writable anonymous pages that are in RAM."""
    addresses: list[int] = []
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
            extent, permissions, _, _, inode = line.split(maxsplit=5)[:5]
            if permissions != "rw-p" or inode != "0":
                continue
            start, end = (int(address, 16) for address in extent.split("-"))
            # One 8-byte word per page; bit 63, the top bit of the last byte, says that the page is in RAM.
            words = os.pread(pagemap.fileno(), (end - start) // PAGE_SIZE * 8, start // PAGE_SIZE * 8)
            addresses += [start + index * PAGE_SIZE for index, top in enumerate(words[7::8]) if top & 0x80]
    return addresses


def _read_stream(name: str, file: BinaryIO, limit_bytes: int) -> Sample:
    """Read from the beginning until the end or the limit, and see whether there is more."""
    data = file.read(limit_bytes + 1)
    if not data:
        message = f"cannot use `{name}`: it is empty"
        raise CommandError(message, "name a file with data in it")
    taken = data[:limit_bytes]
    return Sample(name, _whole_pages(taken), len(taken), len(data) if len(data) == len(taken) else None)


def _read_spread(name: str, file: BinaryIO, size_bytes: int, limit_bytes: int) -> Sample:
    """Read runs that are evenly spread over a file that is larger than the limit."""
    run_bytes = min(RUN_BYTES, limit_bytes // PAGE_SIZE * PAGE_SIZE)
    runs = limit_bytes // run_bytes
    step = (size_bytes - run_bytes) // max(1, runs - 1)
    taken = b"".join(os.pread(file.fileno(), run_bytes, index * step // PAGE_SIZE * PAGE_SIZE) for index in range(runs))
    return Sample(name, _whole_pages(taken), len(taken), size_bytes)


def _whole_pages(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // PAGE_SIZE) * PAGE_SIZE, b"\0")
