"""`frontswap codecs`: what each codec would make of some data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from frontswap import _frontswap
from frontswap.backends import PAGE_SIZE
from frontswap.cli._output import Progress, print_json, print_line, print_table
from frontswap.cli._settings import json_setting, setting

if TYPE_CHECKING:
    from frontswap.cli._data import Sample

SCHEMA = "frontswap.codecs/1"

CHUNK_BYTES = 4 * 1024 * 1024
"""Measured at a time: about a third of a second with all codecs, so that progress moves and Ctrl-C is heard."""

HEADINGS = (
    "codec",
    "ratio",
    "compress MB/s",
    "decompress MB/s",
    "compress us/page",
    "decompress us/page",
    "picked by auto",
)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@setting("--sample", default="64MiB", metavar="SIZE", help="Look at no more than this of each file.")
@setting("--level", default=1, type=click.IntRange(-7, 22), metavar="N", help="Level of zstd.")
@json_setting
def command(*, files: tuple[str, ...], sample: str, level: int, as_json: bool) -> None:
    """Show what each codec would make of this data, page by page.

    FILE is any file; `-` is standard input. `auto` is what a backend does when it is left to choose, and the last
    column says which codecs it then chooses, for how many of the pages.
    """
    from frontswap.cli._data import read_sample, sample_limit

    limit_bytes = sample_limit(sample)
    results = []
    with Progress() as progress:
        for path in files:
            taken = read_sample(path, limit_bytes)
            words = taken.in_words()
            if words is not None:
                progress.note(words)
            results.append(_measure(taken, level, progress))
    if as_json:
        print_json({"schema": SCHEMA, "files": [_as_json(result) for result in results]})
    else:
        for index, result in enumerate(results):
            if index:
                print_line()
            _print(result)


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out for one file.

    Attributes:
        sample: Its data.
        rows: For each codec sums over all pages: `orig_data_size` and `compr_data_size` in bytes, `compress_ns` and
            `decompress_ns` in nanoseconds.
        picked_pages: For each codec the pages that `auto` gives to it.
    """

    sample: Sample
    rows: dict[str, Counter[str]] = field(default_factory=dict)
    picked_pages: Counter[str] = field(default_factory=Counter)

    @property
    def pages(self) -> int:
        """Pages of data."""
        return len(self.sample.pages) // PAGE_SIZE


def _measure(sample: Sample, level: int, progress: Progress) -> Measured:
    """Try every codec on all pages of a sample."""
    result = Measured(sample)
    data = memoryview(sample.pages)
    for start in range(0, len(data), CHUNK_BYTES):
        progress.update(f"{sample.name}: {start * 100 // len(data)} %")
        chunk = data[start : start + CHUNK_BYTES]
        for row in _frontswap.measure_codecs(chunk, level):
            result.rows.setdefault(row.pop("codec"), Counter()).update(row)
        result.picked_pages.update(_picks(chunk, level))
    return result


def _picks(data: memoryview, level: int) -> dict[str, int]:
    """Return how many pages `auto` gives to each codec, by asking a backend that holds them."""
    # Twice the data: room for pages that do not shrink and for the pool's own tables.
    pool = _frontswap.Backend.zpool(2 * CHUNK_BYTES, level=level)
    pool.init(0, len(data) // PAGE_SIZE)
    for offset in range(len(data) // PAGE_SIZE):
        pool.store(0, offset, data[offset * PAGE_SIZE : (offset + 1) * PAGE_SIZE])
    details = pool.stats()["details"]
    pool.close()
    return {codec: details.get(f"{codec}_stores", 0) for codec in _frontswap.CODECS}


def _print(result: Measured) -> None:
    """Print the table of one file."""
    rows = []
    for codec, row in result.rows.items():
        spent_ns = (max(1, row["compress_ns"]), max(1, row["decompress_ns"]))
        speeds = [f"{row['orig_data_size'] * 1000 / ns:.0f}" for ns in spent_ns]
        times = [f"{ns / 1000 / result.pages:.2f}" for ns in spent_ns]
        picked = f"{result.picked_pages[codec] * 100 / result.pages:.0f} %" if codec != "auto" else ""
        rows.append((codec, f"{_ratio(row):.2f}", *speeds, *times, picked))
    pages = "1 page" if result.pages == 1 else f"{result.pages} pages"
    print_table(HEADINGS, rows, title=f"{result.sample.name}: {pages}")


def _as_json(result: Measured) -> dict[str, Any]:
    """Return the result of one file for programs."""
    codecs = [
        {"codec": codec, **row, "ratio": round(_ratio(row), 3), "picked_pages": result.picked_pages[codec]}
        for codec, row in result.rows.items()
    ]
    return {
        "name": result.sample.name,
        "file_bytes": result.sample.total_bytes,
        "sample_bytes": result.sample.taken_bytes,
        "pages": result.pages,
        "codecs": codecs,
    }


def _ratio(row: Counter[str]) -> float:
    return row["orig_data_size"] / max(1, row["compr_data_size"])
