"""Rules B1 to B11 of the contract, each as a test that any backend can be put through.

A test compares what the backend says with a dictionary. It needs nothing but the five methods; what a backend
promises beyond them is said in the attributes of the class. `docs/contract.md` has the rules in full.
"""

from __future__ import annotations

import contextlib
import gc
import random
import struct
import time
import tracemalloc
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import pytest

from frontswap import PAGE_SIZE, Backend, Frontswap, FrontswapError
from frontswap.errors import ClosedError
from frontswap.testing.checks import (
    check_answer,
    check_held,
    check_load_fails,
    eventually,
    hammer,
    offer,
    read,
    rss_bytes,
)
from frontswap.testing.dict_backend import DictBackend
from frontswap.testing.machines import BackendMachine, run_machine
from frontswap.testing.pages import make_page, sample_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from frontswap.testing.dict_backend import Key

AREA_PAGES = 1 << 20
AREA_PAGES_MAX = 1 << 36
CAPACITY_SECONDS_MAX = 10.0
"""Bounded time (rule B7) for a few hundred pages; a disk needs a fraction of a second."""
LEAK_BYTES_MAX = 8 << 20
PYTHON_LEAK_BYTES_MAX = 256 << 10


class BackendTests:
    """The rules of a backend, B1 to B11. Inherit it and give it one fixture.

    The fixture `backend` returns a fresh backend with room for `room_pages` pages; it is closed in the end. What
    your backend promises is said by overriding the attributes.

    Attributes:
        volatile: It can lose pages; then a load may say missing where a page was accepted, but never gives another
            page. Must be what the backend says of itself.
        has_capacity: It has a capacity that can be set (rule B7), as all built-in backends do.
        accepted_share_min: The least share of ordinary pages that a fresh backend accepts. Rule B3 allows 0, but a
            backend that takes nothing passes everything.
        room_pages: Pages of any kind that a fresh backend has room for.
        filler_kind: The kind of page, one of `PAGE_KINDS`, that fills it fastest.

    Example:
        What stands in a test file, and one of its tests run by hand:

        >>> import pytest
        >>> from frontswap import PlainRam
        >>> class TestPlainRam(BackendTests):
        ...     has_capacity = True
        ...
        ...     @pytest.fixture
        ...     def backend(self):
        ...         return PlainRam("8MiB")
        >>> TestPlainRam().test_b4_no_stale_data(PlainRam("8MiB"))
    """

    volatile: ClassVar[bool] = False
    has_capacity: ClassVar[bool] = False
    accepted_share_min: ClassVar[float] = 1.0
    room_pages: ClassVar[int] = 256
    filler_kind: ClassVar[str] = "random"

    @pytest.fixture(autouse=True)
    def close_in_the_end(self, backend: Backend) -> Iterator[None]:
        """Close the backend, unless the test did."""
        yield
        with contextlib.suppress(ClosedError):
            backend.close()

    def damage(self, backend: Backend, area: int, offset: int) -> bool:
        """Spoil what the backend keeps of one page, behind its back. Override it if you can reach it.

        Returns:
            Whether it did; then a load of the page must be an error (rule B10).
        """
        del backend, area, offset
        return False

    def test_describes_itself(self, backend: Backend) -> None:
        """A backend says what it is: `kind` in lower case, and whether it can lose pages."""
        assert backend.kind, "set `kind`, the word of `--backend`"
        assert backend.kind == backend.kind.lower()
        assert backend.name == (f"{backend.kind}:{backend.place}" if backend.place else backend.kind)
        assert backend.volatile == self.volatile, "`volatile` of the test class is what the backend says of itself"
        assert backend.state == "ready"

    def test_b1_copy(self, backend: Backend) -> None:
        """B1 copy: an accepted page was copied before `store` returned; the caller may reuse its buffer at once."""
        backend.init(0, AREA_PAGES)
        accepted = 0
        for offset, page in enumerate(sample_pages(44)):
            # A window of a larger buffer, as a front end passes it.
            memory = bytearray(b"\x5a" * 64 + page + b"\x5a" * 64)
            with memoryview(memory) as view, view[64:-64] as window:
                answer = backend.store(0, offset, window)
            check_answer(answer)
            memory[:] = b"\xa5" * len(memory)
            # Resizing fails while anybody still has a view of the buffer.
            memory.clear()
            if answer:
                accepted += 1
                self.check_loads(backend, (0, offset), page)
        assert accepted or not self.accepted_share_min

    def test_b2_keep(self, backend: Backend) -> None:
        """B2 keep: an accepted page loads bit for bit until it is overwritten or invalidated; nothing is evicted."""
        backend.init(0, AREA_PAGES)
        backend.init(1, AREA_PAGES)
        held: dict[Key, bytes] = {}
        for index, page in enumerate(sample_pages(self.room_pages)):
            # Neighbours, far offsets, and the same offset in two areas.
            key = (index % 2, index // 2 * (1 if index % 3 else 4001))
            held.pop(key, None)
            if offer(backend, key, page):
                held[key] = page
        keys = list(held)
        random.Random(2).shuffle(keys)  # noqa: S311 - an order, not a secret
        for _ in range(2):
            check_held(backend, {key: held[key] for key in keys}, may_miss=self.volatile)

    def test_b3_reject_freely(
        self, backend: Backend, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """B3 reject freely: a rejection is an answer with a reason, never an error, and nothing is logged for it."""
        backend.init(0, AREA_PAGES)
        pages = sample_pages(self.room_pages)
        accepted = sum(bool(offer(backend, (0, offset), page)) for offset, page in enumerate(pages))
        assert accepted >= self.accepted_share_min * len(pages), (
            f"a fresh backend accepted {accepted} of {len(pages)} pages; `accepted_share_min` promises more"
        )
        if self.has_capacity:
            backend.capacity = PAGE_SIZE
        else:
            backend.invalidate_area(0)
        # Keys that are not held: a page may be replaced in place without taking more room.
        answers = [offer(backend, (0, AREA_PAGES - 1 - number), make_page("random", number)) for number in range(100)]
        assert sum(bool(answer) for answer in answers) <= 1, "without room or area, pages are rejected"
        assert not caplog.records, f"a log record for a rejection: {caplog.records[0].getMessage()}"
        assert capfd.readouterr() == ("", ""), "a rejection was printed"

    def test_b4_no_stale_data(self, backend: Backend) -> None:
        """B4 no stale data: a store replaces the old copy, or is rejected and the old copy is gone."""
        backend.init(0, AREA_PAGES)
        keys = [(0, number * 131) for number in range(7)]
        for step, page in enumerate(sample_pages(40 * len(keys), seed=4)):
            self.check_overwrite(backend, keys[step % len(keys)], page)
        if self.has_capacity:
            backend.capacity = PAGE_SIZE
            for step in range(3 * len(keys)):
                self.check_overwrite(backend, keys[step % len(keys)], make_page("random", step))

    def test_b5_load_leaves_it(self, backend: Backend) -> None:
        """B5 load leaves it: a page can be loaded any number of times."""
        backend.init(0, AREA_PAGES)
        held = {(0, offset): page for offset, page in enumerate(sample_pages(33)) if offer(backend, (0, offset), page)}
        for _ in range(3):
            check_held(backend, held, may_miss=self.volatile)

    def test_b6_invalidate_is_final(self, backend: Backend) -> None:
        """B6 invalidate is final: a load then says missing, a closed area rejects until `init`; it cannot fail."""
        for area in (0, 1):
            backend.init(area, AREA_PAGES)
        held: dict[Key, bytes] = {}
        for offset, page in enumerate(sample_pages(64)):
            for area in (0, 1):
                if offer(backend, (area, offset), page):
                    held[area, offset] = page
        for offset in range(0, 64, 3):
            backend.invalidate_page(0, offset)
            assert read(backend, (0, offset)) is None, f"page (0, {offset}) loads after invalidate_page"
            held.pop((0, offset), None)
        check_held(backend, held, may_miss=self.volatile)
        # What is not held, an offset past the end, an area that never was: all fine.
        for area, offset in ((0, 0), (0, 0), (0, AREA_PAGES + 1), (77, 3)):
            backend.invalidate_page(area, offset)
        backend.invalidate_area(78)

        backend.invalidate_area(0)
        backend.invalidate_area(0)
        held = {key: page for key, page in held.items() if key[0] == 1}
        assert [o for o in range(64) if read(backend, (0, o)) is not None] == [], "pages load after invalidate_area"
        assert not any(offer(backend, (0, o), make_page("text", o)) for o in range(8)), "stored to an invalidated area"
        backend.init(0, AREA_PAGES)
        assert [o for o in range(64) if read(backend, (0, o)) is not None] == [], "old pages came back with `init`"
        held |= {(0, o): make_page("heap", o) for o in range(32) if offer(backend, (0, o), make_page("heap", o))}
        check_held(backend, held, may_miss=self.volatile)

    def test_b7_size_moves(self, backend: Backend) -> None:
        """B7 size moves: capacity goes to any value, and pages can be handed on to others; none is lost, in time."""
        if self.has_capacity:
            self.check_capacity_alone(backend)
            if not backend.slow:
                self.check_capacity_in_chain(backend)
        self.check_removal(backend)

    def test_b8_exact_counts(self, backend: Backend) -> None:
        """B8 exact counts: each event is counted once, and `stored_pages` is the number of keys that load."""
        rng = random.Random(8)  # noqa: S311 - a schedule, not a secret
        expected = dict.fromkeys(("succ_stores", "failed_stores", "loads"), 0)
        invalidated = overwritten = 0
        held: dict[Key, bytes] = {}
        kinds = ("text", "random", "heap", "counters")  # not same-filled: those never reach a backend (rule F5)
        before = backend.stats()
        with self.chain_of(backend, DictBackend("slow", slow=True)) as fs:
            fs.init(0, AREA_PAGES)
            for step in range(600):
                key, action = (0, rng.randrange(40)), rng.random()
                if action < 0.5:
                    page = make_page(kinds[step % len(kinds)], step)
                    overwritten += key in held
                    held.pop(key, None)
                    answer = offer(fs, key, page)
                    is_here = answer.backend == backend.name
                    expected["succ_stores" if is_here else "failed_stores"] += 1
                    held |= {key: page} if is_here else {}
                elif action < 0.8 and key in held:
                    if self.volatile:
                        continue
                    expected["loads"] += 1
                    self.check_loads(fs, key, held[key])
                elif key in held:
                    invalidated += 1
                    del held[key]
                    fs.invalidate_page(*key)
                now = backend.stats()
                assert now.stored_pages == len(held)
                assert {name: getattr(now, name) - getattr(before, name) for name in expected} == expected
                # An overwritten page counts when the backend was told to forget it, and not when it did by itself.
                assert invalidated <= now.invalidates - before.invalidates <= invalidated + overwritten
            rejects = sum(getattr(now, field.name) for field in fields(now) if field.name.startswith("reject_"))
            assert rejects - before.failed_stores == expected["failed_stores"]
            # A volatile backend may have lost pages that its slow swap still gives.
            assert self.volatile or sum(read(fs, (0, offset)) is not None for offset in range(40)) == now.stored_pages

    def test_b9_concurrency(self, backend: Backend) -> None:
        """B9 concurrency: calls on different keys from several threads at once, each verified."""
        backend.init(0, AREA_PAGES)
        threads, keys = 4, max(1, min(self.room_pages, 256) // 4)
        held = hammer(backend, 0, threads=threads, steps=500, keys=keys, may_miss=self.volatile)
        check_held(backend, held, may_miss=self.volatile)
        stray = [o for o in range(threads * keys) if (0, o) not in held and read(backend, (0, o)) is not None]
        assert not stray, f"pages {stray[:5]} are not held and load (rule B9)"

    def test_b10_wrong_data_is_worse_than_none(self, backend: Backend) -> None:
        """B10 wrong data is worse than none: a load gives the whole page, or writes nothing, or raises."""
        backend.init(0, AREA_PAGES)
        pages = sample_pages(33, seed=10)
        held = {(0, 2 * index): page for index, page in enumerate(pages) if offer(backend, (0, 2 * index), page)}
        for offset in range(2 * len(pages)):
            found = read(backend, (0, offset))
            assert found == held.get((0, offset)) or (self.volatile and found is None)
        assert read(backend, (9, 0)) is None, "a page of an area that never was"
        backend.invalidate_area(0)
        with self.chain_of(backend, DictBackend("slow", slow=True)) as fs:
            fs.init(0, AREA_PAGES)
            for offset, page in enumerate(pages):
                if offer(fs, (0, offset), page).backend == backend.name and self.damage(backend, 0, offset):
                    self.check_damaged(fs, backend, offset, page)

    def test_b11_bounded(self, backend: Backend) -> None:
        """B11 bounded: an area costs what is in it, what is forgotten costs nothing, and what is used is counted."""
        base = make_page("random", 11)
        rss_before = rss_bytes()
        tracemalloc.start()
        try:
            backend.init(0, AREA_PAGES_MAX)
            for index in range(32):
                far = (0, AREA_PAGES_MAX - 1 - index * (AREA_PAGES_MAX // 32))
                if offer(backend, far, base):
                    self.check_loads(backend, far, base)
                backend.invalidate_page(*far)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for offset in range(4000):
                backend.store(0, 7 * offset, struct.pack("<q", offset) + base[8:])
                backend.invalidate_page(0, 7 * offset)
            gc.collect()
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < LEAK_BYTES_MAX, "one call took memory without limit"
        assert after - before < PYTHON_LEAK_BYTES_MAX, "pages that were invalidated still take memory"
        counted = backend.stats().mem_used_total
        assert rss_bytes() - rss_before < counted + LEAK_BYTES_MAX, (
            f"more RAM is taken than the {counted} bytes counted"
        )
        if self.has_capacity:
            self.check_counted(backend)

    def test_random_operations_agree_with_a_dictionary(self, backend: Backend) -> None:
        """B2 to B8 over random operations: see `BackendMachine`."""
        run_machine(lambda: BackendMachine(backend, volatile=self.volatile, has_capacity=self.has_capacity))

    # What the tests above share.

    def check_loads(self, target: Backend | Frontswap, key: Key, page: bytes) -> None:
        """Check that one page loads (rule B2)."""
        check_held(target, {key: page}, may_miss=self.volatile)

    def check_overwrite(self, backend: Backend, key: Key, page: bytes) -> None:
        """Store over whatever is held for the key and check rule B4."""
        answer = offer(backend, key, page)
        if answer:
            self.check_loads(backend, key, page)
        else:
            assert read(backend, key) is None, f"a store of {key} was rejected and an old copy loads (rule B4)"

    def chain_of(self, backend: Backend, slow: Backend) -> Frontswap:
        """Put a backend into a chain of its own; a volatile one needs a slow swap behind it (rule F6)."""
        return Frontswap([backend, slow], writethrough=True) if self.volatile else Frontswap([backend])

    def used_bytes(self, backend: Backend) -> int:
        """Return what the backend takes of what its capacity limits."""
        stats = backend.stats()
        return stats.disk_used_total if backend.slow else stats.mem_used_total

    def fits(self, backend: Backend, at_most: int) -> bool:
        """Whether the backend takes at most so many bytes."""
        return self.used_bytes(backend) <= at_most

    def fill(self, target: Backend | Frontswap, area: int) -> dict[Key, bytes]:
        """Store pages that take much room; return those that were accepted."""
        pages = {(area, offset): make_page(self.filler_kind, offset) for offset in range(self.room_pages)}
        return {key: page for key, page in pages.items() if offer(target, key, page)}

    def set_capacity(self, backend: Backend, capacity: int) -> None:
        """Set a capacity, within bounded time."""
        start = time.monotonic()
        backend.capacity = capacity
        assert time.monotonic() - start < CAPACITY_SECONDS_MAX
        assert backend.capacity == capacity

    def check_capacity_alone(self, backend: Backend) -> None:
        """Lower the capacity where nobody takes the pages: all are kept, and new ones are rejected."""
        whole = backend.capacity
        backend.init(0, AREA_PAGES)
        held = self.fill(backend, 0)
        for capacity in (self.used_bytes(backend) // 2, PAGE_SIZE):
            self.set_capacity(backend, capacity)
            answers = [offer(backend, (0, AREA_PAGES - 1 - n), make_page(self.filler_kind, n)) for n in range(8)]
            assert not any(answers), "a page was accepted above the capacity"
            check_held(backend, held, may_miss=self.volatile)
        self.set_capacity(backend, whole)
        answers = [offer(backend, (0, AREA_PAGES - 1 - n), make_page(self.filler_kind, n)) for n in range(16)]
        assert any(answers) or not self.accepted_share_min, "no page was accepted after the capacity was raised"
        check_held(backend, held, may_miss=self.volatile)
        backend.invalidate_area(0)

    def check_capacity_in_chain(self, backend: Backend) -> None:
        """Lower the capacity where somebody takes the pages: they go there until it fits."""
        whole, empty = backend.capacity, self.used_bytes(backend)
        below = DictBackend("below", slow=True)
        with Frontswap([backend, below], writethrough=self.volatile) as fs:
            fs.init(0, AREA_PAGES)
            held = self.fill(fs, 0)
            for capacity in (self.used_bytes(backend) // 2, whole, PAGE_SIZE, whole):
                self.set_capacity(backend, capacity)
                # A page that the chain was moving just then follows. What is taken when it is empty stays.
                at_most = max(capacity, empty + 16 * self.room_pages)
                assert eventually(partial(self.fits, backend, at_most)), "the capacity is exceeded"
                check_held(fs, held)
                assert fs.curr_pages() == len(held)
            fs.remove_backend(backend)

    def check_removal(self, backend: Backend) -> None:
        """Take the backend out of a chain while it holds pages: they go to another, and it is empty."""
        other = DictBackend("other", slow=self.volatile)
        with self.chain_of(backend, other) as fs:
            fs.init(2, AREA_PAGES)
            held = self.fill(fs, 2)
            if not self.volatile:
                fs.add_backend(other, position=0 if backend.slow else 1)
            fs.remove_backend(backend)
            assert backend.stats().stored_pages == 0
            assert fs.curr_pages() == len(held) == len(other.pages)
            check_held(fs, held)
        assert [o for o in range(self.room_pages) if read(backend, (2, o)) is not None] == [], "pages stayed behind"

    def check_damaged(self, fs: Frontswap, backend: Backend, offset: int, page: bytes) -> None:
        """Load a page that was spoiled: an error that names area, offset and backend, or the copy of the slow swap."""
        if self.volatile:
            check_held(fs, {(0, offset): page})
        else:
            check_load_fails(fs, (0, offset), FrontswapError, backend.name)

    def check_counted(self, backend: Backend) -> None:
        """Fill a small capacity: everything that it takes is counted, and stays within it."""
        capacity = self.used_bytes(backend) + self.room_pages * PAGE_SIZE // 2
        self.set_capacity(backend, capacity)
        kept_bytes = 0
        for offset in range(self.room_pages):
            page = make_page(self.filler_kind, offset)
            if offer(backend, (0, offset), page):
                # What is not zero in a filler is random: it takes its room.
                kept_bytes += PAGE_SIZE - page.count(0)
            assert self.used_bytes(backend) <= capacity, "the capacity is exceeded"
        assert kept_bytes <= capacity, "it holds more than its capacity: something is not counted"
