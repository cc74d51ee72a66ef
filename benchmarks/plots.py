"""The plots of BENCHMARKS.md, drawn from what a benchmark measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

OURS, PEER, AIM = "#0b6e99", "#b8c4ca", "#c0392b"


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
