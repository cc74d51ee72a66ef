"""The plots of BENCHMARKS.md, drawn from what a benchmark measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

OURS, SECOND, PEER, AIM = "#0b6e99", "#5fb0a5", "#b8c4ca", "#c0392b"

MISS_NS = 1500
"""What the touching program counts as a miss."""


def draw_chain(results: dict[str, Any], path: Path) -> None:
    """Draw speed, threads and space side by side; the red line is the aim."""
    figure, (speed, threads, space) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    kinds = list(results["speed"])
    labels = [kind.replace(", ", ",\n").replace(" ", "\n", 1) for kind in kinds]
    at = range(len(kinds))

    speed.bar([x - 0.2 for x in at], [results["speed"][kind]["both"] for kind in kinds], 0.4, color=OURS)
    speed.bar([x + 0.2 for x in at], [results["speed"][kind]["first_fill"] for kind in kinds], 0.4, color=PEER)
    speed.set_title("store + load through the chain,\nspeed against the bare codec (1 = as fast)")
    speed.legend(["memory in hand", "first fill"], frameon=False)
    speed.axhline(0.75, color=AIM, linewidth=1)

    threads.bar([x - 0.2 for x in at], [results["speed"][kind]["two_threads"] for kind in kinds], 0.4, color=OURS)
    peers = [results["speed"][kind]["bare_two_threads"] for kind in kinds]
    threads.bar([x + 0.2 for x in at], peers, 0.4, color=PEER)
    threads.set_title("two threads against one")
    threads.legend(["chain", "bare codec"], frameon=False, ncols=2)
    threads.set_ylim(0, 2.6)
    threads.axhline(1.7, color=AIM, linewidth=1)

    mixed = results["space"]["all five, mixed"]
    parts = [results["space"][kind] for kind in kinds] + [mixed]
    space.bar(
        [x - 0.2 for x in range(len(parts))], [(part["fill_four_times"] - 1) * 100 for part in parts], 0.4, color=OURS
    )
    space.bar([x + 0.2 for x in range(len(parts))], [(part["fill"] - 1) * 100 for part in parts], 0.4, color=PEER)
    space.bar([len(parts)], [(mixed["churn"] - 1) * 100], 0.4, color=OURS)
    space.set_title("RAM above the compressed bytes, %")
    space.legend(["256 MiB of pages", "64 MiB of pages"], frameon=False)
    space.set_xticks(range(len(parts) + 1), [*labels, "mixed", "mixed,\nafter\nchurn"], fontsize=8)
    space.axhline(5, color=AIM, linewidth=1)
    for axes in (speed, threads):
        axes.set_xticks(list(at), labels, fontsize=8)
    for axes in (speed, threads, space):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def draw_process(results: dict[str, Any], path: Path) -> None:
    """Draw rates against zram's, how long misses take, and the NumPy job; the red marks are the aims."""
    figure, (rates, misses, half) = plt.subplots(
        1, 3, figsize=(14, 4.6), layout="constrained", width_ratios=[1.6, 1.1, 1]
    )
    heap = results["touch"]["python heap"]["patterns"]
    names = [name for name in ("signal", "handler") if name in next(iter(heap.values()))["rate_ratio"]]
    colours = {"signal": OURS, "handler": SECOND, "zram": PEER}
    for number, name in enumerate(names):
        at = [x + (number - (len(names) - 1) / 2) * 0.38 for x in range(len(heap))]
        rates.bar(at, [each["rate_ratio"][name] for each in heap.values()], 0.36, color=colours[name], label=name)
        aims = [each["aims"][name] for each in heap.values()]
        rates.hlines(aims, [x - 0.18 for x in at], [x + 0.18 for x in at], color=AIM, linewidth=1.5)
    rates.axhline(1, color=PEER, linewidth=1)
    rates.set_title("touches a second, in zram's (1 = as many);\nPython heap, the same RAM for all")
    rates.set_xticks(range(len(heap)), [label.replace(" ", "\n", 1).replace(", ", ",\n") for label in heap], fontsize=8)
    rates.legend(frameon=False)

    for name, readings in heap["random read"]["rounds"].items():
        misses.plot(*_slower_share(readings), color=colours[name], label=name, linewidth=2)
    misses.set_xscale("log")
    misses.set_yscale("log")
    misses.set_ylim(1e-4, 1.1)
    misses.set_xlim(2, 2000)
    misses.set_title("random read: share of the misses\nthat took longer than so many us")
    misses.legend(frameon=False)

    ways = results["half"].get("ways", {})
    labels = list(ways)
    shades = [OURS if way in ("frontswap run", "Space") else PEER for way in labels]
    half.barh(labels, [way["time"] for way in ways.values()], color=shades)
    half.invert_yaxis()
    half.axvline(2, color=AIM, linewidth=1)
    half.set_title("NumPy job in half of its memory,\ntime in the plain one's")
    for axes in (rates, misses, half):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _slower_share(readings: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Of the accesses that missed, the share that took longer than each time."""
    counts: dict[int, int] = {}
    for reading in readings:
        for nanoseconds, count in reading["latency_ns"]:
            if nanoseconds > MISS_NS:
                counts[nanoseconds] = counts.get(nanoseconds, 0) + count
    times = sorted(counts)
    left = total = sum(counts.values())
    shares = []
    for time in times:
        shares.append(left / total)
        left -= counts[time]
    return [time / 1000 for time in times], shares
