"""The chain against its peers, side by side in one run: the bare codec, zram, and dd.

Prints ratios, not times: they hold on a machine that is shared with others. `--json FILE` keeps every
reading; `--plot FILE` draws what BENCHMARKS.md shows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import zram

REPOSITORY = Path(__file__).resolve().parent.parent
CHURN_STORES = 4_000_000  # an hour at 1,100 evictions a second, which is a program that thrashes


def main() -> None:
    """Run every part, print a table for each, and say which aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=16_384, help="pages of each kind (default: 64 MiB)")
    parser.add_argument("--churn", type=int, default=CHURN_STORES, help="stores and invalidations of the churn")
    parser.add_argument("--swap", type=Path, default=Path("/var/tmp"), help="where the swap file and dd write")
    parser.add_argument("--json", type=Path, help="write every reading there")
    parser.add_argument("--plot", type=Path, help="draw the result there (PNG or SVG)")
    options = parser.parse_args()
    rates = build()
    with tempfile.TemporaryDirectory(dir=options.swap) as folder:
        files = datasets.make(Path(folder), options.pages)
        results = {
            "speed": speed(rates, files),
            "space": space(rates, files, options.churn),
            "zram": against_zram(rates, files["int64 counters"]),
            "demote": demote(rates, files["python heap"], options.swap),
        }
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.plot:
        from plots import draw_chain

        draw_chain(results, options.plot)


def build() -> Path:
    """Build the loops that Python could not run fast enough."""
    command = ["cargo", "build", "--release", "--quiet", "--package", "frontswap-benchmarks"]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return target / "release" / "rates"


def run(rates: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run the native part and read its lines."""
    lines = subprocess.run([rates, *arguments], check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def speed(rates: Path, files: dict[str, Path]) -> dict[str, Any]:
    """Store and load through the chain against the bare codec in a loop on the same pages."""
    print("\nspeed: bare codec's time / chain's time for a store and a load, median (aim: >= 0.75)")
    print("       x2: one thread's time / two threads' time for the same pages (aim: >= 1.7)")
    row = "{:24} {:9} {:>6} {:>8} {:>8} {:>8} {:>6} {:>8}"
    print(row.format("", "codec", "both", "1st fill", "store", "load", "x2", "bare x2"))
    results = {}
    for name, path in files.items():
        rounds = run(rates, "speed", str(path))
        result: dict[str, Any] = {"codec": rounds[0]["codec"], "rounds": rounds}
        for figure, of_round in FIGURES.items():
            result[figure] = statistics.median(of_round(each) for each in rounds)
        print(row.format(name, result["codec"], *(f"{result[figure]:.2f}" for figure in FIGURES)))
        results[name] = result
    return results


FIGURES = {
    "both": lambda r: (r["bare_store_us"] + r["bare_load_us"]) / (r["store_us"] + r["load_us"]),
    "first_fill": lambda r: (r["bare_store_us"] + r["bare_load_us"]) / (r["fill_us"] + r["load_us"]),
    "store": lambda r: r["bare_store_us"] / r["store_us"],
    "load": lambda r: r["bare_load_us"] / r["load_us"],
    "two_threads": lambda r: (r["store_us"] + r["load_us"]) / (r["store_two_us"] + r["load_two_us"]),
    "bare_two_threads": lambda r: r["bare_two_speedup"],
}
"""What one round of `rates speed` says. The first fill takes new memory from the system, which the bare
codec never does; `both` is a chain that has its memory."""


def space(rates: Path, files: dict[str, Path], churn: int) -> dict[str, Any]:
    """RAM for compressed bytes, after a fill and after churn in which kinds come and go."""
    print("\nspace: RAM used / compressed bytes (aim: <= 1.05 after fill, <= 1.12 after churn)")
    row = "{:24} {:>8} {:>10} {:>10} {:>8} {:>12}"
    print(row.format("", "fill", "with map", "four times", "churn", "map B/page"))
    results = {}
    for name, paths in {
        "all five, mixed": list(files.values()),
        **{kind: [path] for kind, path in files.items()},
    }.items():
        is_mixed = len(paths) > 1
        lines = run(rates, "space", str(churn if is_mixed else 0), *map(str, paths))
        phases = {line["phase"]: line for line in lines}
        larger = run(rates, "space", "0", *map(str, paths * 4))[0]
        fill = phases["fill"]
        result = {
            "fill": fill["mem_used_total"] / fill["compr_data_size"],
            "fill_with_map": (fill["mem_used_total"] + fill["map_bytes"]) / fill["compr_data_size"],
            "fill_four_times": larger["mem_used_total"] / larger["compr_data_size"],
            "churn": phases["churn"]["mem_used_total"] / phases["churn"]["compr_data_size"],
            "map_bytes_per_page": fill["map_bytes"] / fill["curr_pages"],
            "phases": phases,
        }
        churned = f"{result['churn']:.3f}" if is_mixed else ""
        figures = [f"{result[key]:.3f}" for key in ("fill", "fill_with_map", "fill_four_times")]
        print(row.format(name, *figures, churned, f"{result['map_bytes_per_page']:.1f}"))
        results[name] = result
    return results


def against_zram(rates: Path, path: Path) -> dict[str, Any]:
    """Pages of int64 data in the same bytes of RAM, ours with the map, zram's with its pool."""
    print("\nzram with lz4, int64 counters: pages in the same RAM, ours / zram's (aim: >= 2)")
    if reason := zram.why_not():
        print(f"  not measured: {reason}")
        return {"skipped": reason}
    held = zram.hold(path.read_bytes())
    ours = run(rates, "space", "0", str(path))[0]
    per_page_ours = (ours["mem_used_total"] + ours["map_bytes"]) / ours["stored_pages"]
    per_page_zram = held.mem_used_total / (held.orig_data_size / datasets.PAGE_SIZE)
    ratio = per_page_zram / per_page_ours
    print(f"  {ratio:.2f}   ({per_page_ours:.0f} bytes a page, zram {per_page_zram:.0f})")
    return {"ratio": ratio, "bytes_per_page": per_page_ours, "zram_bytes_per_page": per_page_zram}


def demote(rates: Path, path: Path, directory: Path) -> dict[str, Any]:
    """Demotion out of a pool whose capacity is lowered, against dd with direct I/O and 1 MiB blocks."""
    print("\ndemotion to the swap file / dd oflag=direct bs=1M, same disk, in turn (aim: >= 0.8)")
    ratios = []
    large = path.with_name("demote.pages")
    data = path.read_bytes()
    large.write_bytes(data * max(1, (512 << 20) // len(data)))
    try:
        for _ in range(5):
            line = run(rates, "demote", str(large), str(directory))[0]
            ours = line["demoted_bytes"] / line["seconds"]
            ratios.append(ours / dd(directory, line["demoted_bytes"] >> 20))
    finally:
        large.unlink()
    middle = statistics.median(ratios)
    print(f"  {middle:.2f}   ({', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))})")
    return {"ratio": middle, "ratios": ratios}


def dd(directory: Path, mebibytes: int) -> float:
    """Bytes a second that dd writes into a new file whose space is reserved, as ours is."""
    with tempfile.NamedTemporaryFile(dir=directory) as target:
        os.posix_fallocate(target.fileno(), 0, mebibytes << 20)
        command = ["dd", "if=/dev/zero", f"of={target.name}", "bs=1M", f"count={mebibytes}"]
        done = subprocess.run(
            [*command, "oflag=direct", "conv=notrunc"],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    seconds = float(done.stderr.splitlines()[-1].split(",")[-2].split()[0])
    return (mebibytes << 20) / seconds


if __name__ == "__main__":
    sys.exit(main())
