"""Readings of the counters: of a chain, of one of its areas, of one backend.

The names are the kernel's wherever it has one (`Documentation/vm/frontswap.rst`, `mm/zswap.c`, zram's
`mm_stat`); sizes under those names are in bytes. A reading is a plain value and does not change afterwards.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = "frontswap.stats/1"


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
