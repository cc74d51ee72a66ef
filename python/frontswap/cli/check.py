"""`frontswap check`: real data goes through a chain while its first backend shrinks and grows; every byte is compared.

It is both a demonstration and a test of this machine: memory, disk and codecs take part as they would in use.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from frontswap.backends import PAGE_SIZE, UNLIMITED
from frontswap.cli._output import Progress, print_error, print_json, print_line, print_table
from frontswap.cli._settings import chain_config, chain_options, json_setting, setting
from frontswap.errors import PageCorruptError, PageLostError, PageUnreadableError
from frontswap.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from frontswap.cli._data import Sample
    from frontswap.config import ChainConfig
    from frontswap.frontswap import Frontswap
    from frontswap.stats import ChainStats

SCHEMA = "frontswap.check/1"

STEPS_EIGHTHS = (8, 6, 4, 2, 1, 2, 4, 8)
"""The capacities of the first backend in one pass, in eighths of what it began with: down in steps, then up."""

REWRITE_EVERY = 8
"""At every step one page in so many is overwritten with another's bytes."""

PROGRESS_PAGES = 4096
"""Pages between two words of progress."""

WRONG_TOLD_MAX = 10
"""Wrong pages that are told one by one; the others are counted."""

MIB = 1024 * 1024

HEADINGS = ("backend", "pages", "data", "memory used", "disk used", "ratio", "loads", "demoted", "errors")


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@chain_options
@setting(
    "--passes",
    default=1,
    type=click.IntRange(min=1),
    metavar="N",
    help="Go through it so many times.",
)
@setting(
    "--sample",
    default="64MiB",
    metavar="SIZE",
    help="Use no more than this of each file.",
)
@json_setting
def command(*, files: tuple[str, ...], passes: int, sample: str, as_json: bool, **chain: Any) -> int:  # noqa: ANN401
    """Pass real data through a chain and compare every byte.

    The data are this program's own memory and each FILE, or the Python interpreter when no FILE is named. The
    capacity of the first backend shrinks in steps and grows again meanwhile. Without --backend or --config the chain
    is compressed RAM for half of the data, above a swap file in /var/tmp.
    """
    from frontswap.cli._data import own_memory, read_sample, sample_limit

    limit_bytes = sample_limit(sample)
    config = chain_config(**chain)
    with Progress() as progress:
        samples = [own_memory(limit_bytes), *(read_sample(path, limit_bytes) for path in files or (sys.executable,))]
        for words in filter(None, (taken.in_words() for taken in samples)):
            progress.note(words)
        with _with_backends(config, samples).build() as fs:
            for backend in fs.backends:
                progress.note(f"{backend.name} has {_capacity_in_words(backend.capacity)}")
            check = Check(fs, [SourceData(taken) for taken in samples], progress, config.exclusive_loads)
            stats = check.run(passes)
    if as_json:
        print_json(_as_json(check, stats, passes))
    else:
        _print(check, stats)
    return _verdict(check)


@dataclass(slots=True)
class SourceData:
    """One source: an area of its own, and what each of its pages should hold.

    Attributes:
        sample: The data.
        expected: For each offset, the index of the page of `sample` that was stored there last.
        is_held: For each offset, whether the chain accepted it; otherwise the front end, which is us, has it.
    """

    sample: Sample
    expected: list[int] = field(init=False)
    is_held: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was stored."""
        pages = len(self.sample.pages) // PAGE_SIZE
        self.expected = list(range(pages))
        self.is_held = [False] * pages

    def page(self, offset: int) -> memoryview:
        """Return the bytes that the page at `offset` should have."""
        start = self.expected[offset] * PAGE_SIZE
        return memoryview(self.sample.pages)[start : start + PAGE_SIZE]


@dataclass(slots=True)
class Check:
    """One run over all sources.

    Attributes:
        compared_pages: Pages that were loaded and compared.
        stored_pages: Pages that the chain accepted.
        wrong_pages: Pages that came back wrong, or not at all.
        wrong: What was wrong with the first of them, one line each.
        broken: Why a backend can no longer take pages, one line for each that broke.
    """

    fs: Frontswap
    sources: list[SourceData]
    progress: Progress
    is_exclusive: bool
    compared_pages: int = 0
    stored_pages: int = 0
    wrong_pages: int = 0
    wrong: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def run(self, passes: int) -> ChainStats:
        """Go through everything; return the counters as they are while the last pass still holds its pages."""
        stats = self.fs.stats()
        for number in range(1, passes + 1):
            for area, source in enumerate(self.sources):
                source.reset()
                self.fs.init(area, len(source.expected))
            self._one_pass(f"pass {number} of {passes}")
            stats = self.fs.stats()
            for area in range(len(self.sources)):
                self.fs.invalidate_area(area)
            if self.fs.curr_pages():
                self._found_wrong(f"{self.fs.curr_pages()} pages are held after every area was invalidated")
        self.broken = [backend.broken_reason for backend in self.fs.backends if backend.broken_reason]
        return stats

    @property
    def pages(self) -> int:
        """Pages of data."""
        return sum(len(source.expected) for source in self.sources)

    @property
    def kept_pages(self) -> int:
        """Pages that every backend rejected, so that they stayed here."""
        return sum(source.is_held.count(False) for source in self.sources)

    def _one_pass(self, title: str) -> None:
        first = self.fs.backends[0]
        # A backend written in Python may have no limit: then what it could ever hold is its whole.
        whole_bytes = min(first.capacity, self.pages * PAGE_SIZE)
        for area, offset in self._keys(f"{title}, storing"):
            self._store(area, offset)
        for step, eighths in enumerate(STEPS_EIGHTHS):
            first.capacity = max(PAGE_SIZE, whole_bytes * eighths // 8)
            self._rewrite(step)
            for area, offset in self._keys(f"{title}, {first.name} at {format_size(first.capacity)}, comparing"):
                self._compare(area, offset)
            held = ", ".join(f"{backend.stats().stored_pages} in {backend.name}" for backend in self.fs.backends)
            self.progress.note(f"{title}: {first.name} at {format_size(first.capacity)}: pages {held}")

    def _keys(self, title: str) -> Iterator[tuple[int, int]]:
        """Go through every page, and say where we are."""
        done, pages = 0, self.pages
        for area, source in enumerate(self.sources):
            for offset in range(len(source.expected)):
                if done % PROGRESS_PAGES == 0:
                    self.progress.update(f"{title}: {done * 100 // pages} %")
                done += 1
                yield area, offset

    def _store(self, area: int, offset: int) -> None:
        source = self.sources[area]
        source.is_held[offset] = bool(self.fs.store(area, offset, source.page(offset)))
        self.stored_pages += source.is_held[offset]

    def _rewrite(self, step: int) -> None:
        """Overwrite some pages with the bytes of their neighbours: an old copy must not come back (rule B4)."""
        for area, source in enumerate(self.sources):
            pages = len(source.expected)
            for offset in range(step % REWRITE_EVERY, pages, REWRITE_EVERY):
                source.expected[offset] = (source.expected[offset] + 1) % pages
                self._store(area, offset)

    def _compare(self, area: int, offset: int) -> None:
        source = self.sources[area]
        out = bytearray(PAGE_SIZE)
        where = f"page {offset} of area {area} ({source.sample.name})"
        self.compared_pages += source.is_held[offset]
        try:
            is_loaded = self.fs.load(area, offset, out)
        except (PageCorruptError, PageLostError, PageUnreadableError) as error:
            self._found_wrong(f"{where}: {error}")
            return
        if is_loaded != source.is_held[offset]:
            self._found_wrong(f"{where}: {'held although it was rejected' if is_loaded else 'lost'}")
        elif is_loaded and out != source.page(offset):
            self._found_wrong(f"{where}: other bytes than were stored")
        if is_loaded and self.is_exclusive:
            # The load handed the page over to us: it is ours to store again.
            self._store(area, offset)

    def _found_wrong(self, text: str) -> None:
        self.wrong_pages += 1
        if len(self.wrong) < WRONG_TOLD_MAX:
            self.wrong.append(text)


def _with_backends(config: ChainConfig, samples: list[Sample]) -> ChainConfig:
    """Return the chain that was asked for, or one that fits the data."""
    from frontswap.config import BackendSpec

    if config.backends:
        return config
    data_bytes = sum(len(sample.pages) for sample in samples)
    zpool = BackendSpec("zpool", "", {"capacity": max(MIB, data_bytes // 2)})
    # A quarter more than everything, and some: the file never has to reject.
    file = BackendSpec("file", "/var/tmp", {"size": data_bytes * 5 // 4 + 16 * MIB})  # noqa: S108
    return replace(config, backends=(zpool, file))


def _capacity_in_words(capacity_bytes: int) -> str:
    return "no limit" if capacity_bytes == UNLIMITED else f"a capacity of {format_size(capacity_bytes)}"


def _print(check: Check, stats: ChainStats) -> None:
    """Print the table."""
    rows = [
        (
            backend.name,
            str(backend.stored_pages),
            format_size(backend.orig_data_size),
            format_size(backend.mem_used_total),
            format_size(backend.disk_used_total),
            f"{backend.ratio:.2f}" if backend.mem_used_total and not backend.disk_used_total else "-",
            str(backend.loads),
            str(backend.written_back_pages),
            str(backend.load_errors),
        )
        for backend in stats.backends
    ]
    print_table(HEADINGS, rows)
    pages = f"{check.pages} pages ({format_size(check.pages * PAGE_SIZE)}) of real data"
    if check.kept_pages and not check.wrong:
        rest = f"{check.kept_pages} pages were rejected by every backend at the end and stayed with this program"
        print_line(f"\n{pages} were offered, every byte that was accepted is verified; {rest}")
    elif not check.wrong:
        print_line(f"\n{pages} went through, every byte verified")


def _as_json(check: Check, stats: ChainStats, passes: int) -> dict[str, Any]:
    """Return the result for programs."""
    return {
        "schema": SCHEMA,
        "data": [
            {"name": source.sample.name, "pages": len(source.expected), "bytes": source.sample.taken_bytes}
            for source in check.sources
        ],
        "passes": passes,
        "pages": check.pages,
        "stored_pages": check.stored_pages,
        "compared_pages": check.compared_pages,
        "kept_pages": check.kept_pages,
        "wrong_pages": check.wrong_pages,
        "wrong": check.wrong,
        "broken": check.broken,
        "stats": stats.to_json(),
    }


def _verdict(check: Check) -> int:
    """Say what was wrong; return the exit status."""
    if check.broken and not check.wrong:
        print_error(
            check.broken[0], "no page that it had accepted is wrong; mend it, and check again", check.broken[1:]
        )
        return 1
    if not check.wrong:
        return 0
    print_error(
        f"{check.wrong_pages} of {check.compared_pages} pages that were loaded are wrong: {check.wrong[0]}",
        "check the memory and the disk of this machine, then the backend",
        [*check.wrong[1:], *check.broken],
    )
    return 1
