"""Readings of the counters: of a chain, of one of its areas, of one backend, of a space.

The names are the kernel's wherever it has one (`Documentation/vm/frontswap.rst`, `mm/zswap.c`, zram's
`mm_stat`); sizes under those names are in bytes. A reading is a plain value and does not change afterwards.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from frontswap.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = "frontswap.stats/1"

SPACE_SCHEMA = "frontswap.space/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaStats:
    """What happened in one area, counted once per event (rule B8).

    Attributes:
        loads: Loads that returned a page.
        loads_missing: Loads that found nothing.
        load_errors: Loads of a page that was held and could not be given back.
        succ_stores: Stores that were accepted.
        failed_stores: Stores that were rejected; the `reject_*` counters are its parts.
        invalidates: Pages that their owner invalidated. A backend counts exclusive loads too, and pages that were
            stored again with another backend asked first.
        stored_pages: Pages held now.
        same_filled_pages: Of these, pages of one repeated word, which take no backend space.
        written_back_pages: Pages that were demoted.
        promoted_pages: Pages that were promoted.
        reject_full: Stores rejected for want of room.
        reject_quota: Stores rejected because the owner is over its quota.
        reject_compress_poor: Stores rejected because the page does not compress.
        reject_frozen: Stores rejected while a pool takes no new pages.
        reject_unreachable: Stores rejected because the other side does not answer.
        reject_no_area: Stores to an area that was invalidated.
        reject_closing: Stores to a backend that is broken or being removed.
        reject_no_backend: Stores to a chain without backends.
        reject_other: Stores rejected for a reason of the backend's own.

    Example:
        >>> from frontswap import Frontswap, PlainRam
        >>> with Frontswap([PlainRam("1MiB")]) as fs:
        ...     fs.init(0, pages=1)
        ...     answer = fs.store(0, 0, bytes(range(256)) * 16)
        ...     fs.stats().areas[0].succ_stores
        1
    """

    loads: int = 0
    loads_missing: int = 0
    load_errors: int = 0
    succ_stores: int = 0
    failed_stores: int = 0
    invalidates: int = 0
    stored_pages: int = 0
    same_filled_pages: int = 0
    written_back_pages: int = 0
    promoted_pages: int = 0
    reject_full: int = 0
    reject_quota: int = 0
    reject_compress_poor: int = 0
    reject_frozen: int = 0
    reject_unreachable: int = 0
    reject_no_area: int = 0
    reject_closing: int = 0
    reject_no_backend: int = 0
    reject_other: int = 0

    @classmethod
    def from_native(cls, raw: Mapping[str, Any]) -> Self:
        """Pick this reading's counters out of what the native module says.

        Args:
            raw: Counters by name; others than this reading's are left alone.

        Example:
            >>> AreaStats.from_native({"loads": 3}).loads
            3
        """
        return cls(**{name: raw[name] for name in (entry.name for entry in fields(cls)) if name in raw})

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `json.dumps` writes as it is.

        Example:
            >>> AreaStats(loads=3).to_json()["loads"]
            3
        """
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats(AreaStats):
    """The counters of an area, and what the pages cost; `BackendStats` and `ChainStats` are of this kind.

    Attributes:
        orig_data_size: Bytes of the pages held, as their owner sees them.
        compr_data_size: Bytes kept for them, without overhead.
        mem_used_total: Every byte of RAM taken: objects, fragmentation, tables, staging.
        mem_limit: The capacity in bytes.
        disk_used_total: Bytes of disk that pages take.
        pool_limit_hit: Stores that met the capacity.

    Example:
        >>> PoolStats(orig_data_size=8192, mem_used_total=4096).ratio
        2.0
    """

    orig_data_size: int = 0
    compr_data_size: int = 0
    mem_used_total: int = 0
    mem_limit: int = 0
    disk_used_total: int = 0
    pool_limit_hit: int = 0

    @property
    def ratio(self) -> float:
        """Bytes of data per byte of RAM used, overhead included; 0.0 when no RAM is used."""
        return self.orig_data_size / self.mem_used_total if self.mem_used_total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStats(PoolStats):
    """What one backend holds and did.

    Attributes:
        name: The kind and, where there is one, the place: `file:/var/tmp`.
        kind: The word of `--backend`.
        state: `ready`, `broken`, `draining` or `closed`.
        broken_reason: What went wrong in a backend that is `broken`.
        details: Counters that only this kind of backend has.

    Example:
        >>> from frontswap import PlainRam
        >>> with PlainRam("1MiB") as backend:
        ...     backend.stats().stored_pages
        0
    """

    name: str
    kind: str
    state: str
    broken_reason: str | None = None
    details: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainStats(PoolStats):
    """What a whole chain holds and did.

    Attributes:
        map_bytes: RAM taken by the map from pages to backends; part of `mem_used_total`.
        areas: The counters of every area, by its number.
        backends: The counters of every backend, in the chain's order.

    Example:
        >>> from frontswap import Frontswap, PlainRam
        >>> with Frontswap([PlainRam("1MiB")]) as fs:
        ...     [backend.name for backend in fs.stats().backends]
        ['ram']
    """

    map_bytes: int = 0
    areas: dict[int, AreaStats] = field(default_factory=dict)
    backends: tuple[BackendStats, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceStats:
    """What a space holds and what it cost; `print` shows it in words.

    Attributes:
        arrays: Arrays and buffers that are alive.
        managed_bytes: Their bytes, whole pages.
        ram_limit_bytes: Most RAM that the space takes.
        ram_used_bytes: RAM that it takes now: pages in use, compressed pages, tables.
        resident_bytes: Of the RAM, pages in use.
        stored_pages: Pages that are held in the chain now, those whose copy is kept while they are in use included.
        orig_data_size: Bytes of those pages, as their owner sees them.
        mem_used_total: RAM that the chain takes for them.
        disk_used_total: Bytes of disk that they take.
        succ_stores: Pages that the chain took.
        failed_stores: Pages that nobody took, so that they stayed in use.
        kept_pages: Pages that left and whose copy in the chain was still right, so that nothing was stored.
        evicted_pages: Pages that left.
        faults: Times that a thread touched a page that was out.
        refaults: Of these, pages that had left before; the others were new.
        zero_faults: Pages of zeroes that were mapped.
        loads: Pages that were brought from the chain, those ahead of need included.
        throttled: Faults that had to wait for room.
        over_limit: Faults that were answered although there was no room.
        page_errors: Pages that could not be given back.
        fault_ns_p50: Nanoseconds that a fault took, the median.
        fault_ns_p99: The same for the slowest hundredth.
        fault_ns_total: Nanoseconds that all of them took.

    Example:
        >>> from frontswap import Space
        >>> with Space(ram="16MiB", swap=None) as space:
        ...     space.stats().arrays
        0
    """

    arrays: int = 0
    managed_bytes: int = 0
    ram_limit_bytes: int = 0
    ram_used_bytes: int = 0
    resident_bytes: int = 0
    stored_pages: int = 0
    orig_data_size: int = 0
    mem_used_total: int = 0
    disk_used_total: int = 0
    succ_stores: int = 0
    failed_stores: int = 0
    kept_pages: int = 0
    evicted_pages: int = 0
    faults: int = 0
    refaults: int = 0
    zero_faults: int = 0
    loads: int = 0
    throttled: int = 0
    over_limit: int = 0
    page_errors: int = 0
    fault_ns_p50: int = 0
    fault_ns_p99: int = 0
    fault_ns_total: int = 0

    @classmethod
    def from_native(cls, raw: Mapping[str, Any]) -> Self:
        """Pick this reading's counters out of what the native module says.

        Args:
            raw: Counters by name; others than this reading's are left alone.

        Example:
            >>> SpaceStats.from_native({"faults": 3}).faults
            3
        """
        return cls(**{name: raw[name] for name in (entry.name for entry in fields(cls)) if name in raw})

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `json.dumps` writes as it is.

        Example:
            >>> SpaceStats(faults=3).to_json()["faults"]
            3
        """
        return {"schema": SPACE_SCHEMA, **asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{self.arrays} arrays of {format_size(self.managed_bytes)}",
            (
                f"{format_size(self.ram_used_bytes)} of {format_size(self.ram_limit_bytes)} of RAM in use, "
                f"{format_size(self.resident_bytes)} of it for pages as they are"
            ),
            (
                f"{format_size(self.orig_data_size)} stored in {format_size(self.mem_used_total)} of RAM and "
                f"{format_size(self.disk_used_total)} of disk"
            ),
            (
                f"{self.faults} faults, {self.refaults} of them on pages that had left: "
                f"{self.fault_ns_total / 1e9:.3f} s in all, {self.fault_ns_p50 / 1e3:.1f} us each, "
                f"{self.fault_ns_p99 / 1e3:.1f} us for the slowest hundredth"
            ),
        ]
        if self.page_errors:
            lines.append(f"{self.page_errors} pages could not be given back")
        return "\n".join(lines)
