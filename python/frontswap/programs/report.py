"""What happened in a run, in words and in numbers.

The counters come from the tree, the memory that all processes of a run share; their names are explained in
`docs/run.md`. A counter that is missing is an error: the words would be wrong without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frontswap.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from frontswap.programs.supervisor import Ended

SCHEMA = "frontswap.run/1"

COUNTERS = (
    "ram_limit_bytes",
    "ram_peak_bytes",
    "managed_peak_bytes",
    "stored_pages_peak",
    "orig_data_size_peak",
    "mem_used_total_peak",
    "loads",
    "succ_stores",
    "failed_stores",
    "kept_pages",
    "zero_faults",
    "faults",
    "refaults",
    "evicted_pages",
    "fault_ns_p50",
    "fault_ns_p99",
    "fault_ns_total",
    "throttled",
    "over_limit",
    "page_errors",
    "processes",
    "processes_live",
)
"""The counters of a whole run; those of what is held at the moment say nothing at its end."""


def summary(totals: Mapping[str, int]) -> str:
    """Return what happened in one line.

    Args:
        totals: The counters of the tree at the end.

    Example:
        >>> summary({**dict.fromkeys(COUNTERS, 0), "managed_peak_bytes": 2**20, "ram_limit_bytes": 2**26})
        'peak need 1.00 MiB in 64.00 MiB of RAM: all of it fitted, nothing had to be moved'
    """
    need, limit = format_size(totals["managed_peak_bytes"]), format_size(totals["ram_limit_bytes"])
    line = f"peak need {need} in {limit} of RAM"
    if totals["evicted_pages"] == 0:
        return f"{line}: all of it fitted, nothing had to be moved"
    return f"{line}: {_held(totals)}; {_cost(totals)}"


def troubles(totals: Mapping[str, int], *, is_best_effort: bool = False) -> list[str]:
    """Return what a person should know besides: what did not go as it should.

    Args:
        totals: The counters of the tree at the end.
        is_best_effort: It was accepted beforehand that the program may not be managed.

    Example:
        >>> troubles({**dict.fromkeys(COUNTERS, 0), "processes": 1})
        []
    """
    found = []
    if totals["processes"] == 0 and not is_best_effort:
        found.append("the program never took part: its memory was not managed, and `--ram` did not hold")
    if totals["page_errors"]:
        found.append(f"{_count(totals['page_errors'], 'page')} could not be given back; who touched one got SIGBUS")
    if totals["over_limit"]:
        times = _count(totals["over_limit"], "time")
        found.append(f"the RAM was exceeded {times}, because nothing accepted what had to leave")
    if totals["processes_live"]:
        running = _count(totals["processes_live"], "process", "processes")
        found.append(
            f"{running} of it still run, within the same RAM"
            if totals["processes_live"] > 1
            else f"{running} of it still runs, within the same RAM"
        )
    return found


def document(
    totals: Mapping[str, int] | None, words: Sequence[str], ended: Ended, swap: tuple[str, int] | None
) -> dict[str, Any]:
    """Return what happened for programs.

    Args:
        totals: The counters of the tree at the end; None when the program ran unmanaged.
        words: The program and its arguments.
        ended: How it ended.
        swap: The directory of the swap file and its size in bytes; None when there was none.

    Example:
        >>> from frontswap.programs.supervisor import Ended
        >>> document(None, ["sort"], Ended(0, 5), None)["exit_status"]
        0
    """
    counters = {key: 0 if totals is None else totals[key] for key in COUNTERS}
    return {
        "schema": SCHEMA,
        "command": [word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for word in words],
        "exit_status": ended.exit_status,
        "duration_ns": ended.duration_ns,
        "is_managed": totals is not None and totals["processes"] > 0,
        "swap_place": None if swap is None else swap[0],
        "swap_bytes": 0 if swap is None else swap[1],
        **counters,
    }


def ratio(orig_data_size: int, mem_used_total: int) -> str:
    """Return how much smaller data became, `3.8x`; `-` when there is nothing to compare.

    Args:
        orig_data_size: Bytes of the data.
        mem_used_total: Bytes that they take.

    Example:
        >>> ratio(380, 100), ratio(0, 0)
        ('3.8x', '-')
    """
    return f"{orig_data_size / mem_used_total:.1f}x" if mem_used_total else "-"


def _held(totals: Mapping[str, int]) -> str:
    """Say how much was held outside the program, and in how much."""
    data, used, disk = (
        totals["orig_data_size_peak"],
        totals["mem_used_total_peak"],
        totals.get("disk_used_total_peak", 0),
    )
    if disk:
        return f"{format_size(data)} held in {format_size(used)} and {format_size(disk)} of the swap file"
    return f"{format_size(data)} held in {format_size(used)} ({ratio(data, used)})"


def _cost(totals: Mapping[str, int]) -> str:
    """Say what it cost."""
    times = f"{format_duration(totals['fault_ns_total'])} (p99 {format_duration(totals['fault_ns_p99'])})"
    return f"{_count(totals['faults'], 'fault')} took {times}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
