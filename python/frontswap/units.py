"""Sizes as people write them, and how much memory this machine lets us have.

Every size that enters (command line, environment, TOML, Python) goes through `parse_size`; every size
that is shown goes through `format_size`. Nothing else reads or writes units.
"""

from __future__ import annotations

import re
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

from frontswap import _frontswap

if TYPE_CHECKING:
    from pathlib import Path

SIZE_BYTES_MAX = 2**63 - 1
"""The largest size: what the kernel can say in a signed 64-bit file offset."""

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS[_letter] = _UNITS[_letter + "ib"] = 1024**_power
    _UNITS[_letter + "b"] = 1000**_power

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>%|[A-Za-z]*)", re.ASCII)


def parse_size(text: int | str, *, memory_bytes: int | None = None) -> int:
    """Read a size.

    Args:
        text: A whole number of bytes, or text: a bare number means bytes; `K M G T` and `KiB MiB GiB TiB`
            count in 1024, `KB MB GB TB` in 1000; `50%` is that share of `memory_bytes`. Letters may be
            small. Fractions of a byte are dropped.
        memory_bytes: What `100%` means; this machine's memory, or the cgroup's limit if smaller, when None.

    Returns:
        Bytes.

    Raises:
        SizeInvalidError: It is not a size, below zero, or above 8 EiB.

    Threads: may be called from any.

    Example:
        >>> parse_size("64MiB"), parse_size("1.5G"), parse_size("4KB"), parse_size(4096)
        (67108864, 1610612736, 4000, 4096)
        >>> parse_size("25%", memory_bytes=1000)
        250
    """
    if not isinstance(text, str):
        return _within_limits(text, _whole_number(text))
    stripped = text.strip()
    match = _SIZE.fullmatch(stripped)
    if match is None:
        raise _invalid(text, _why_unreadable(stripped))
    # Whole numbers all the way: 1.5G is 15 * 1024^3 // 10, so that no rounding of decimals enters.
    digits, _, decimals = match["number"].partition(".")
    number, divisor, unit = int(digits + decimals), 10 ** len(decimals), match["unit"].lower()
    if unit == "%":
        whole = machine_memory() if memory_bytes is None else memory_bytes
        return _within_limits(text, number * whole // (divisor * 100))
    if unit not in _UNITS:
        raise _invalid(text, f"`{match['unit']}` is not a unit")
    return _within_limits(text, number * _UNITS[unit] // divisor)


def format_size(size_bytes: int) -> str:
    """Write a size for people: IEC units with a space.

    Args:
        size_bytes: Bytes, zero or more.

    Returns:
        Text that `parse_size` reads back to within its rounding.

    Example:
        >>> format_size(2_000_000_000), format_size(512)
        ('1.86 GiB', '512 B')
    """
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size_bytes} B" if unit == "B" else f"{value:.2f} {unit}"


def both_readings(size_bytes: int) -> str:
    """Write a size for people and for programs, as messages about a limit that is crossed have it.

    Args:
        size_bytes: Bytes, zero or more.

    Example:
        >>> both_readings(2_000_000_000)
        '1.86 GiB (2000000000 bytes)'
    """
    return f"{format_size(size_bytes)} ({size_bytes} bytes)"


def format_duration(duration_ns: int) -> str:
    """Write a time for people, in the largest unit that leaves something before the point.

    Args:
        duration_ns: Nanoseconds, zero or more.

    Example:
        >>> format_duration(3_120_000_000), format_duration(18_000), format_duration(999)
        ('3.1 s', '18 us', '999 ns')
    """
    if duration_ns >= 10**9:
        return f"{duration_ns / 10**9:.1f} s"
    for unit, unit_ns in (("ms", 10**6), ("us", 10**3)):
        if duration_ns >= unit_ns:
            return f"{duration_ns // unit_ns} {unit}"
    return f"{duration_ns} ns"


def machine_memory(root: Path | None = None) -> int:
    """Return the bytes of RAM that this process may use: the machine's, or its cgroup's limit if smaller.

    Args:
        root: Where `proc` and `sys` are found; `/` when None.

    Raises:
        SizeInvalidError: `/proc/meminfo` cannot be read, so no share of the memory can be computed.

    Example:
        >>> machine_memory() > 2**20
        True
    """
    if root is None:
        from pathlib import Path

        root = Path("/")
    try:
        meminfo = (root / "proc/meminfo").read_text("ascii")
        total_kib = next(line.split()[1] for line in meminfo.splitlines() if line.startswith("MemTotal:"))
    except (OSError, StopIteration) as error:
        raise _invalid("100%", "this machine's memory is unknown: no MemTotal in /proc/meminfo") from error
    return min([int(total_kib) * 1024, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> list[int]:
    """Return the memory limits of this process's cgroups (v1 and v2) and of all their ancestors."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    limits: list[int | None] = []
    for line in lines:
        mounts: tuple[str, ...]
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts, name = ("sys/fs/cgroup", "sys/fs/cgroup/unified"), "memory.max"
        elif "memory" in controllers.split(","):
            mounts, name = ("sys/fs/cgroup/memory",), "memory.limit_in_bytes"
        else:
            continue
        # A limit anywhere above holds too. Inside a container the path may not exist below the mount, and the
        # mount itself is then the container's own group: the last of these.
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        folders = ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
        limits += [_read_limit(root / mount / folder / name) for mount in mounts for folder in folders]
    return [limit for limit in limits if limit is not None]


def _read_limit(path: Path) -> int | None:
    """Return a cgroup's limit in bytes; None when there is no such file, or no limit in it."""
    try:
        text = path.read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _whole_number(value: object) -> int:
    """Return a whole number of any kind, numpy's too, as an `int`."""
    if not isinstance(value, bool) and isinstance(value, SupportsIndex):
        return index(value)
    raise _invalid(value, f"a size is a whole number or text, not {type(value).__name__}")


def _within_limits(text: int | str, size: int) -> int:
    """Return a size, or refuse what no file and no memory can be."""
    if size < 0:
        raise _invalid(text, "a size is not below zero")
    if size > SIZE_BYTES_MAX:
        raise _invalid(text, "it is more than 8 EiB")
    return size


def _why_unreadable(text: str) -> str:
    """Say what is wrong with text that does not have the shape of a size."""
    if not text:
        return "it is empty"
    if text.startswith("-") and _SIZE.fullmatch(text[1:].strip()):
        return "a size is not below zero"
    return "it is not a number followed by a unit"


def _invalid(text: object, reason: str) -> Exception:
    return _frontswap.make_error("size-invalid", text=text, reason=reason)
