"""The kernel's own compressed RAM, for comparison: what zram makes of the same pages. Needs root."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTROL = Path("/sys/class/zram-control")


@dataclass(frozen=True)
class Held:
    """What a zram device holds, from its `mm_stat`."""

    orig_data_size: int
    compr_data_size: int
    mem_used_total: int


def why_not() -> str | None:
    """Say why zram cannot be measured here; None when it can."""
    if os.geteuid() != 0:
        return "zram needs root"
    if not CONTROL.is_dir():
        return "this kernel has no zram"
    return None


def hold(data: bytes, algorithm: str = "lz4") -> Held:
    """Write `data` to a zram device of our own and read back what that took."""
    with _device(algorithm, len(data)) as (device, sysfs):
        buffer = mmap.mmap(-1, len(data))
        buffer.write(data)
        descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT)
        try:
            view = memoryview(buffer)
            written = 0
            while written < len(data):
                written += os.write(descriptor, view[written : written + (1 << 20)])
            view.release()
        finally:
            os.close(descriptor)
            buffer.close()
        return _held(sysfs)


@dataclass(frozen=True)
class Swap:
    """A zram device that this machine swaps to."""

    device: str
    sysfs: Path

    def held(self) -> Held:
        """What it holds now."""
        return _held(self.sysfs)


@contextlib.contextmanager
def swap(size: int, algorithm: str = "lz4") -> Iterator[Swap]:
    """Let this machine swap to a zram device of our own. Whoever has pages there must be gone at the end.

    The device comes before all others, so that what is measured is what was meant.
    """
    with _device(algorithm, size) as (device, sysfs):
        subprocess.run(["mkswap", device], check=True, capture_output=True)
        subprocess.run(["swapon", "--priority", "32767", device], check=True)
        try:
            yield Swap(device, sysfs)
        finally:
            subprocess.run(["swapoff", device], check=True)


def _held(sysfs: Path) -> Held:
    fields = [int(field) for field in (sysfs / "mm_stat").read_text().split()]
    return Held(*fields[:3])


@contextlib.contextmanager
def _device(algorithm: str, size: int) -> Iterator[tuple[str, Path]]:
    number = (CONTROL / "hot_add").read_text().strip()
    sysfs = Path(f"/sys/block/zram{number}")
    try:
        (sysfs / "comp_algorithm").write_text(algorithm)
        (sysfs / "disksize").write_text(str(size))
        yield f"/dev/zram{number}", sysfs
    finally:
        (sysfs / "reset").write_text("1")
        (CONTROL / "hot_remove").write_text(number)
