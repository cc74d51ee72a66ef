"""Whole programs with more memory than RAM, against kernel zram with lz4, in turn in one run.

Prints ratios, not times: they hold on a machine that is shared with others. Both sides have the same bytes
of RAM: zram's program a cgroup of its own beside zram's store, ours the sum of the two for everything.
`--json FILE` keeps every reading; `--plot FILE` draws what BENCHMARKS.md shows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cgroup
import contest
import datasets
import timings
import zram
from timings import judged

REPOSITORY = Path(__file__).resolve().parent.parent
MIB = 1 << 20


@dataclass(frozen=True)
class Pattern:
    """An order of touches, how many threads make them, and what rate is aimed at, in zram's."""

    name: str
    threads: int
    aim_signal: float
    aim_handler: float

    @property
    def label(self) -> str:
        """What a table calls it."""
        return NAMES[self.name] + (f", {self.threads} threads" if self.threads > 1 else "")


NAMES = {
    "random": "random read",
    "sequential": "sequential read",
    "zipf": "zipf 0.99 read",
    "random-writes": "random, half writes",
    "zipf-writes": "zipf, half writes",
}

# Readers first: a copy that was kept for a reader is not there after a writer.
PATTERNS = {
    "python heap": [
        Pattern("random", 1, 1.5, 1.0),
        Pattern("random", 2, 1.0, 1.0),
        Pattern("sequential", 1, 4.0, 4.0),
        Pattern("sequential", 2, 1.0, 1.0),
        Pattern("zipf", 1, 1.2, 1.2),
        Pattern("zipf", 2, 1.0, 1.0),
        Pattern("zipf-writes", 1, 0.95, 0.95),
        Pattern("random-writes", 1, 0.95, 0.95),
    ],
    "int64 counters": [
        Pattern("random", 1, 1.5, 1.0),
        Pattern("sequential", 1, 4.0, 4.0),
        Pattern("zipf", 1, 1.2, 1.2),
        Pattern("random-writes", 1, 0.95, 0.95),
    ],
}

MISS_AIM = 0.2
"""The slowest hundredth of our misses, in zram's."""

STORE_AIM = 0.55
"""Bytes of store a page of int64, in zram's."""


@dataclass(frozen=True)
class Effort:
    """How much is touched before and while it is measured."""

    rounds: int
    seconds: float
    warm_seconds: float


FULL = Effort(rounds=5, seconds=1.0, warm_seconds=5.0)
QUICK = Effort(rounds=3, seconds=0.25, warm_seconds=0.8)


PARTS = ("touch", "fits", "half")
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Run every part, print a table for each, and say which aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--touched", type=int, default=2048, help="MiB that are touched (default: 2048)")
    parser.add_argument("--resident", type=int, default=512, help="MiB of RAM beside zram's store (default: 512)")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone; may repeat")
    parser.add_argument("--quick", action="store_true", help="some three minutes instead of ten, less certain")
    parser.add_argument("--json", type=Path, help="write every reading there")
    parser.add_argument("--plot", type=Path, help="draw the result there (PNG or SVG)")
    options = parser.parse_args()
    for number in ENDINGS:
        signal.signal(number, end)
    if os.getloadavg()[0] > 1:
        print("others are at work on this machine: times are longer than they need be")
    print("aims in brackets, ! where missed")
    effort = QUICK if options.quick else FULL
    parts = options.only or PARTS
    results: dict[str, Any] = {"machine": machine()}
    if "touch" in parts:
        results["touch"] = touch_all(options.touched * MIB, options.resident * MIB, effort)
    if "fits" in parts:
        results["fits"] = timings.fits(effort.rounds, is_quick=options.quick)
    if "half" in parts:
        results["half"] = timings.half(1 if options.quick else 3, is_quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.plot and not is_whole(results):
        print("no plot: not everything was measured")
    elif options.plot:
        from plots import draw_process

        draw_process(results, options.plot)


def is_whole(results: dict[str, Any]) -> bool:
    """Whether there is all that the plot shows."""
    return "python heap" in results.get("touch", {}) and "ways" in results.get("half", {})


def end(number: int, _: object) -> None:
    """Whatever ends this, the swap device and the groups go, and nothing interrupts that."""
    for other in ENDINGS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def machine() -> dict[str, Any]:
    """What the kernel's side depends on."""
    cluster = Path("/proc/sys/vm/page-cluster")
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "kernel": os.uname().release,
        "processors": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "page_cluster": int(cluster.read_text()),
        "transparent_hugepage": huge.read_text().strip() if huge.is_file() else "none",
    }


def build() -> Path:
    """Build the loops that Python could not run fast enough."""
    command = ["cargo", "build", "--release", "--quiet", "--package", "frontswap-benchmarks"]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return target / "release" / "frontswap-touch"


def touch_all(touched_bytes: int, resident_bytes: int, effort: Effort) -> dict[str, Any]:
    """Both kinds of data."""
    print("touches a second, in zram's, all sides in the same RAM")
    if reason := zram.why_not() or cgroup.why_not():
        print(f"  not measured: {reason}")
        return {"skipped": reason}
    program = build()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        files = datasets.make(Path(folder), 96 * MIB // datasets.PAGE_SIZE, PATTERNS)
        works = {kind: contest.Workload(program, file, touched_bytes) for kind, file in files.items()}
        return {kind: touch(kind, work, resident_bytes, effort) for kind, work in works.items()}


def touch(kind: str, work: contest.Workload, resident_bytes: int, effort: Effort) -> dict[str, Any]:
    """One kind of data: every pattern, all sides in turn."""
    print(f"\n{kind}, {work.bytes // MIB} MiB touched")
    pages = work.bytes // datasets.PAGE_SIZE
    row = "{:26} {:>7} {:>15} {:>15} {:>22} {:>22} {:>15}"
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(contest.under_zram(work, resident_bytes))
        peer.touch("random", 1, pages, effort.warm_seconds)
        store = peer.memory()["zram_store_bytes"]
        total = resident_bytes + store
        print(f"  zram: {resident_bytes // MIB} MiB and a store of {store // MIB} MiB; ours: {total // MIB} MiB in all")
        sides = [stack.enter_context(contest.with_pager(work, total)), peer]
        no_run = timings.why_no_run()
        if no_run:
            print(f"  handler mode is not measured: {no_run}")
        else:
            sides.insert(1, stack.enter_context(contest.under_run(work, total)))
        print(row.format("", "zram k/s", "signal", "handler", "miss p50, us", "miss p99, us", f"p99 (<= {MISS_AIM})"))
        patterns = {}
        for pattern in PATTERNS[kind]:
            patterns[pattern.label] = result = in_turn(pattern, sides, pages, effort)
            print(row.format(pattern.label, *cells(result)))
        stores = {side.name: side.store_bytes_per_page() for side in sides}
    for side in sides:
        peak = max(reading["total_bytes"] for each in patterns.values() for reading in each["rounds"][side.name])
        per_page = stores[side.name]
        ratio = per_page / stores["zram"]
        is_aimed = kind == "int64 counters" and side is not peer
        share = judged(ratio, "<=", STORE_AIM) if is_aimed else f"{ratio:.2f}"
        print(
            f"  {side.name}: at most {peak // MIB} MiB of RAM; {per_page:.0f} bytes of store a page, {share} of zram's"
        )
    return {
        "resident_bytes": resident_bytes,
        "zram_store_bytes": store,
        "ours_bytes": total,
        "no_run": no_run,
        "patterns": patterns,
        "store_bytes_per_page": stores,
    }


def in_turn(pattern: Pattern, sides: list[contest.Side], pages: int, effort: Effort) -> dict[str, Any]:
    """Warm everybody up, then measure them in turn; a ratio is of two neighbours in time."""
    for side in sides:
        side.touch(pattern.name, pattern.threads, pages, effort.warm_seconds)
    rounds: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for _ in range(effort.rounds):
        for side in sides:
            rounds[side.name].append(side.touch(pattern.name, pattern.threads, 1 << 62, effort.seconds))
    aims = {"signal": pattern.aim_signal, "handler": pattern.aim_handler}
    result: dict[str, Any] = {"aims": aims, "rounds": rounds, "medians": {}, "rate_ratio": {}, "p99_ratio": {}}
    for name, readings in rounds.items():
        result["medians"][name] = {key: statistics.median(each[key] for each in readings) for key in FIGURES}
        pairs = list(zip(readings, rounds["zram"], strict=True))
        for ratio, key in (("rate_ratio", "accesses_per_second"), ("p99_ratio", "miss_ns_p99")):
            result[ratio][name] = statistics.median(ours[key] / max(zrams[key], 1) for ours, zrams in pairs)
    return result


FIGURES = ["accesses_per_second", "misses", "accesses", "miss_ns_p50", "miss_ns_p99", "charged_bytes", "total_bytes"]


def cells(result: dict[str, Any]) -> list[str]:
    """Put one pattern's figures into words."""
    medians = result["medians"]
    names = [name for name in ("zram", "signal", "handler") if name in medians]
    rates = [
        judged(result["rate_ratio"][name], ">=", aim) if name in medians else "-"
        for name, aim in result["aims"].items()
    ]
    tail_ratios = [result["p99_ratio"][name] for name in names[1:]]
    halves, slow = (
        " / ".join(f"{medians[name][key] / 1000:.1f}" for name in names) for key in ("miss_ns_p50", "miss_ns_p99")
    )
    tails = " / ".join(f"{ratio:.2f}{'!' if ratio > MISS_AIM else ''}" for ratio in tail_ratios)
    return [f"{medians['zram']['accesses_per_second'] / 1000:.0f}", *rates, halves, slow, tails]


if __name__ == "__main__":
    sys.exit(main())
