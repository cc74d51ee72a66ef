"""A multiprocessing pool by fork: children read what the parent built, change their own copy of it, and answer."""

from __future__ import annotations

import hashlib
import multiprocessing
import random

ITEMS = 600_000
PARTS = 8
CHILDREN = 3

SHARED: list[list[int]] = []


def work(part: int) -> tuple[int, str, str]:
    """Read an eighth of the items and change every ninth of those, in this process alone."""
    before = hashlib.sha256()
    after = hashlib.sha256()
    for index in range(part * len(SHARED) // PARTS, (part + 1) * len(SHARED) // PARTS):
        before.update(repr(SHARED[index]).encode())
        if index % 9 == 0:
            SHARED[index] = [value + 1 for value in SHARED[index]]
        after.update(repr(SHARED[index]).encode())
    return part, before.hexdigest()[:16], after.hexdigest()[:16]


def main() -> None:
    chance = random.Random(9)
    SHARED.extend([chance.randrange(1 << 40) for _ in range(8)] for _ in range(ITEMS))
    for turn in range(2):
        with multiprocessing.get_context("fork").Pool(CHILDREN, maxtasksperchild=2) as pool:
            for part, before, after in sorted(pool.imap_unordered(work, range(PARTS))):
                print(turn, part, before, after)
        # What the children changed is not seen here.
        print(turn, "own", hashlib.sha256(repr(SHARED[::100]).encode()).hexdigest()[:16])
        for index in range(turn, len(SHARED), 20):
            SHARED[index].append(turn)


if __name__ == "__main__":
    main()
