"""Pages to test with: what real memory looks like, and what is made to go wrong.

A page is made from the name of a kind and a seed, always the same bytes for the same two, so that a failing
example can be written down in one line. Nothing here stores anything; the test classes and the state machines use it.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_SIZE: Final = 4096
_WORDS: Final = b"the page of an area is held by one backend and comes back bit for bit when its owner wants it".split()


def _same_filled(rng: random.Random) -> bytes:
    # Zeroes are by far the most frequent of these in real memory.
    word = bytes(8) if rng.random() < 0.5 else rng.randbytes(8)
    return word * 512


def _text(rng: random.Random) -> bytes:
    return b" ".join(rng.choices(_WORDS, k=PAGE_SIZE))[:PAGE_SIZE]


def _counters(rng: random.Random) -> bytes:
    start, step = rng.randrange(1 << 40), rng.randrange(1, 100)
    return struct.pack("<512q", *range(start, start + 512 * step, step))


def _decimals(rng: random.Random) -> bytes:
    return struct.pack("<512d", *(round(rng.gauss(100, 15), 2) for _ in range(512)))


def _random(rng: random.Random) -> bytes:
    return rng.randbytes(PAGE_SIZE)


def _heap(rng: random.Random) -> bytes:
    """Objects as an interpreter lays them out: counts, pointers into a few arenas, short strings, gaps."""
    arenas = [rng.randrange(0x7F0000000000, 0x7FFFFFFFF000) & ~0xFFFFF for _ in range(4)]
    parts: list[bytes] = []
    size = 0
    while size < PAGE_SIZE:
        pointer = rng.choice(arenas) + rng.randrange(1 << 20) // 16 * 16
        kind = rng.randrange(4)
        if kind == 0:
            part = struct.pack("<qqq", rng.randrange(1, 5), pointer, rng.randrange(256))
        elif kind == 1:
            part = struct.pack("<qqq", 1, pointer, 8) + rng.choice(_WORDS).ljust(16, b"\0")
        elif kind == 2:
            part = bytes(8 * rng.randrange(1, 12))
        else:
            part = struct.pack("<qq", pointer, pointer + 32)
        parts.append(part)
        size += len(part)
    return b"".join(parts)[:PAGE_SIZE]


def _nearly_same_filled(rng: random.Random) -> bytes:
    """One byte away from a page of one word: the whole page must be looked at."""
    page = bytearray(_same_filled(rng))
    page[rng.choice([0, 7, 8, 2048, 4088, 4095])] ^= 1 << rng.randrange(8)
    return bytes(page)


def _nearly_full_size(rng: random.Random) -> bytes:
    """Compresses to about a page, a little above or below: where a codec's output buffer ends."""
    run = rng.choice([0, 4, 8, 12, 16, 20, 24, 32, 48, 64])
    return rng.randbytes(PAGE_SIZE - run) + b"\xff" * run


def _looks_compressed(rng: random.Random) -> bytes:
    """Begins with the header of a compressed frame, so that whoever guesses by content guesses wrong."""
    magic = rng.choice([b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\x00", b"\x00\x00\x00\x00\x10\x00"])
    return (magic + rng.randbytes(64) * 64)[:PAGE_SIZE]


def _periodic(rng: random.Random) -> bytes:
    """Repeats with a period that is no power of two: matches that overlap themselves, at the edge of the page."""
    period = rng.choice([1, 3, 5, 7, 9, 17, 63, 65, 255, 257, 1000, 2047, 4095])
    return (rng.randbytes(period) * (PAGE_SIZE // period + 1))[:PAGE_SIZE]


def _half_random(rng: random.Random) -> bytes:
    half = rng.randbytes(PAGE_SIZE // 2)
    return half + bytes(PAGE_SIZE // 2) if rng.random() < 0.5 else bytes(PAGE_SIZE // 2) + half


_MAKERS: Final[dict[str, Callable[[random.Random], bytes]]] = {
    "same_filled": _same_filled,
    "text": _text,
    "counters": _counters,
    "decimals": _decimals,
    "random": _random,
    "heap": _heap,
    "nearly_same_filled": _nearly_same_filled,
    "nearly_full_size": _nearly_full_size,
    "looks_compressed": _looks_compressed,
    "periodic": _periodic,
    "half_random": _half_random,
}

PAGE_KINDS: Final[tuple[str, ...]] = tuple(_MAKERS)
"""The names that `make_page` knows: what memory looks like first, then what is made to go wrong.

Example:
    >>> PAGE_KINDS[:3]
    ('same_filled', 'text', 'counters')
"""


def make_page(kind: str, seed: int) -> bytes:
    """Make one page.

    Args:
        kind: One of `PAGE_KINDS`.
        seed: Any number; the same kind and seed give the same bytes.

    Returns:
        4096 bytes.

    Raises:
        KeyError: There is no such kind.

    Example:
        >>> page = make_page("text", 1)
        >>> len(page), page == make_page("text", 1), page == make_page("text", 2)
        (4096, True, False)
    """
    return _MAKERS[kind](random.Random(f"{kind}/{seed}"))  # noqa: S311 - bytes to test with, not a secret


def sample_pages(count: int, *, seed: int = 0) -> list[bytes]:
    """Make pages of every kind in turn.

    Args:
        count: How many pages.
        seed: The seed of the first; each next page has the next seed.

    Returns:
        Pages of 4096 bytes; nearly all of them different.

    Example:
        >>> pages = sample_pages(20)
        >>> len(pages), pages[0] == make_page("same_filled", 0), pages[1] == make_page("text", 1)
        (20, True, True)
    """
    return [make_page(PAGE_KINDS[index % len(PAGE_KINDS)], seed + index) for index in range(count)]


def pages() -> st.SearchStrategy[bytes]:
    """Return a Hypothesis strategy for pages of every kind; it shrinks towards a page of zeroes or of one word.

    Example:
        >>> from hypothesis import given
        >>> @given(pages())
        ... def check(page):
        ...     assert len(page) == 4096
        >>> check()
    """
    return st.builds(make_page, st.sampled_from(PAGE_KINDS), st.integers(0, 255))
