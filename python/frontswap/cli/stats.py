"""`frontswap stats`: what a program that runs holds where, and what that costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from frontswap._frontswap import PAGE_SIZE
from frontswap.cli._output import print_json, print_line, print_table
from frontswap.cli._settings import json_setting, setting
from frontswap.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEMA = "frontswap.stats.run/1"

HEADINGS = ("process", "program", "resident", "stored", "data", "held in", "ratio", "faults", "faults/s", "loads")


@click.command()
@click.argument("pid", type=click.IntRange(min=1))
@setting(
    "--sample-seconds",
    default=0.5,
    type=click.FloatRange(min=0.01, max=3600),
    metavar="S",
    help="Count faults for so long.",
)
@json_setting
def command(*, pid: int, sample_seconds: float, as_json: bool) -> None:
    """Show what a program that `frontswap run` started holds where.

    PID is that of `frontswap run`, or of any process in it.
    """
    from frontswap.programs.attach import attach

    tree = attach(pid)
    tree.bury()
    earlier, started_ns = _faults_by_pid(tree.processes()), time.monotonic_ns()
    time.sleep(sample_seconds)
    seconds = (time.monotonic_ns() - started_ns) / 10**9
    totals, processes = tree.totals(), tree.processes()
    # A process that came meanwhile began with none.
    rates = {row["pid"]: (row["faults"] - earlier.get(row["pid"], 0)) / seconds for row in processes}
    if as_json:
        print_json(_as_json(totals, processes, rates, seconds))
    else:
        _print(totals, processes, rates)


def _faults_by_pid(processes: Sequence[Mapping[str, int]]) -> dict[int, int]:
    return {row["pid"]: row["faults"] for row in processes}


def _as_json(
    totals: Mapping[str, int], processes: Sequence[Mapping[str, int]], rates: Mapping[int, float], seconds: float
) -> dict[str, Any]:
    rows = [
        {**row, "program": program_name(row["pid"]), "faults_per_second": round(rates[row["pid"]])} for row in processes
    ]
    return {
        "schema": SCHEMA,
        **totals,
        "faults_per_second": round(sum(rates.values())),
        "sample_ns": round(seconds * 10**9),
        "process_list": rows,
        "backends": [
            {"kind": "zpool", "used_bytes": totals["mem_used_total"]},
            {"kind": "file", "used_bytes": totals["disk_used_total"]},
        ],
    }


def _print(totals: Mapping[str, int], processes: Sequence[Mapping[str, int]], rates: Mapping[int, float]) -> None:
    from frontswap.programs.report import ratio

    used, limit = format_size(totals["ram_used_bytes"]), format_size(totals["ram_limit_bytes"])
    print_line(f"{used} of {limit} in use, {format_size(totals['ram_peak_bytes'])} at the peak")
    data, held = totals["orig_data_size"], totals["mem_used_total"]
    line = f"{totals['stored_pages']:,} pages ({format_size(data)}) are stored: {format_size(held)} of compressed RAM"
    if totals["disk_used_total"]:
        line += f", {format_size(totals['disk_used_total'])} in the swap file"
    print_line(line)
    print_line(
        f"{totals['faults']:,} faults, {totals['refaults']:,} of them refaults, took "
        f"{format_duration(totals['fault_ns_total'])}: p50 {format_duration(totals['fault_ns_p50'])}, "
        f"p99 {format_duration(totals['fault_ns_p99'])}\n"
    )
    rows = [
        (
            str(row["pid"]),
            program_name(row["pid"]),
            format_size(row["resident_bytes"]),
            f"{row['stored_pages']:,}",
            format_size(row["stored_pages"] * PAGE_SIZE),
            format_size(row["mem_used_total"]),
            ratio(row["stored_pages"] * PAGE_SIZE, row["mem_used_total"]),
            f"{row['faults']:,}",
            f"{rates[row['pid']]:,.0f}",
            f"{row['loads']:,}",
        )
        for row in processes
    ]
    print_table(HEADINGS, rows, left=2)


def program_name(pid: int) -> str:
    """Return what the kernel calls a process; `-` when it has ended meanwhile."""
    from pathlib import Path

    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "-"
