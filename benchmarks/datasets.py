"""Data for the benchmarks: five kinds of pages that real programs have, made anew with a fixed seed."""

from __future__ import annotations

import random
import subprocess
import sys
import sysconfig
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

PAGE_SIZE = 4096

_HEAP = """
import re, sys
def person(i):
    return {"id": i, "name": f"user{i}", "tags": [str(j) for j in range(i % 7)], "score": i * 0.5}
people = [person(i) for i in range(150_000)]
index = {row["name"]: row for row in people}
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        bounds, access, _, _, inode, *name = line.split()
        first, last = (int(bound, 16) for bound in bounds.split("-"))
        if access == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            memory.seek(first)
            sys.stdout.buffer.write(memory.read(last - first))
"""


def make(folder: Path, pages: int, kinds: Collection[str] | None = None) -> dict[str, Path]:
    """Write one file a kind into `folder`, of `pages` pages each, and return them by name; all kinds, or these."""
    rng = random.Random(2010)
    words = pages * PAGE_SIZE // 8
    makers: dict[str, Callable[[], bytes]] = {
        "python heap": _heap,
        "text": _text,
        "int64 counters": lambda: _counters(rng, words),
        "float64, two decimals": lambda: array("d", (round(rng.uniform(0, 1000), 2) for _ in range(words))).tobytes(),
        "random bytes": lambda: rng.randbytes(pages * PAGE_SIZE),
    }
    paths = {}
    for name in makers if kinds is None else kinds:
        whole = _without_same_filled(makers[name]())
        repeated = whole * (pages * PAGE_SIZE // len(whole) + 1)
        paths[name] = folder / f"{name.split()[0].strip(',')}.pages"
        paths[name].write_bytes(repeated[: pages * PAGE_SIZE])
    return paths


def _heap() -> bytes:
    """Dump the writable memory of an interpreter that holds a list of records and an index of it."""
    return subprocess.run([sys.executable, "-c", _HEAP], check=True, capture_output=True).stdout


def _text() -> bytes:
    library = Path(sysconfig.get_path("stdlib"))
    return b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))


def _counters(rng: random.Random, words: int) -> bytes:
    """Half ids that grow by small steps, half counts below a thousand, a page at a time."""
    out = array("q")
    serial = 1_700_000_000
    while len(out) < words:
        for _ in range(512):
            serial += rng.randrange(4)
            out.append(serial)
        out.extend(rng.randrange(1000) for _ in range(512))
    return out[:words].tobytes()


def _without_same_filled(data: bytes) -> bytes:
    """Leave out pages of one repeated word: frontswap keeps those for nothing, which would flatter us."""
    pages = (data[at : at + PAGE_SIZE] for at in range(0, len(data) - PAGE_SIZE + 1, PAGE_SIZE))
    return b"".join(page for page in pages if page[:8] * 512 != page)
