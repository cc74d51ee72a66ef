"""Rules F1 to F12 of the contract, and what of B1 to B11 only a chain can keep, each as a test.

The chains here are made of dictionaries that write down every call, so that a test sees which backend was offered
which page, in which order, and what each holds. `docs/contract.md` has the rules in full.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from frontswap import PAGE_SIZE, Backend, Frontswap, PlainRam
from frontswap.errors import (
    BackendBrokenError,
    ChainOrderError,
    DrainIncompleteError,
    PageCorruptError,
    PageLostError,
    PageUnreadableError,
    VolatileNeedsWritethroughError,
    WritethroughNeedsSlowError,
)
from frontswap.testing.checks import (
    UNTOUCHED,
    check_held,
    check_load_fails,
    eventually,
    hammer,
    offer,
    read,
    run_threads,
)
from frontswap.testing.dict_backend import DictBackend
from frontswap.testing.pages import make_page, sample_pages

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from frontswap import Answer
    from frontswap.testing.dict_backend import Key

FrontswapFactory = Callable[..., Frontswap]
"""Called as `Frontswap` is: with a list of backends and options by name."""

AREA_PAGES = 1 << 20
MEETING_SECONDS_MAX = 10.0
STORE_SECONDS_MAX = 2.0
"""`Never block for ever` (rule F4), for a store that takes microseconds."""


@contextmanager
def open_chains(frontswap_factory: FrontswapFactory) -> Iterator[FrontswapFactory]:
    """Yield a factory whose chains have area 0, and close them in the end."""
    made: list[Frontswap] = []

    def make(backends: list[Backend], **options: object) -> Frontswap:
        fs = frontswap_factory(backends, **options)
        made.append(fs)
        fs.init(0, AREA_PAGES)
        return fs

    try:
        yield make
    finally:
        for fs in made:
            fs.close()


class FrontswapTests:
    """The rules of a chain, F1 to F12. Inherit it and give it one fixture.

    The fixture `frontswap_factory` returns what is called as `Frontswap` is, with a list of backends and options by
    name, and makes the chain under test: `Frontswap` itself, a subclass, or a function that builds one.

    Example:
        What stands in a test file, and one of its tests run by hand:

        >>> class TestChain(FrontswapTests):
        ...     @pytest.fixture
        ...     def frontswap_factory(self):
        ...         return Frontswap
        >>> with open_chains(Frontswap) as make:
        ...     TestChain().test_f1_order(make)
    """

    @pytest.fixture
    def make(self, frontswap_factory: FrontswapFactory) -> Iterator[FrontswapFactory]:
        """Make chains that have area 0 and are closed when the test ends."""
        with open_chains(frontswap_factory) as make:
            yield make

    def test_f1_order(self, make: FrontswapFactory) -> None:
        """F1 order: a store is offered to the backends in order until one accepts; only the last may be slow."""
        calls: list[tuple[str, str, int, int]] = []
        backends = [DictBackend(place, calls=calls) for place in ("a", "b", "c")]
        fs = make(backends)
        for first_open in (0, 1, 2):
            calls.clear()
            assert offer(fs, (0, first_open), make_page("text", first_open)).backend == backends[first_open].name
            assert calls == [(place, "store", 0, first_open) for place in "abc"[: first_open + 1]]
            # Not `full`: then its coldest pages would go down first (rule F11).
            backends[first_open].reject_reason = "compress_poor"
        fs.add_backend(DictBackend("slow", slow=True))
        assert [backend.slow for backend in fs.backends] == [False, False, False, True]
        for position in (0, 4):
            with pytest.raises(ChainOrderError):
                fs.add_backend(DictBackend("late", slow=position == 0), position=position)
        with pytest.raises(ChainOrderError):
            make([DictBackend("slow", slow=True), DictBackend("fast")])

    def test_f2_one_copy(self, make: FrontswapFactory) -> None:
        """F2 one copy: a page is in one backend; the old copy is forgotten before a duplicate is offered to anyone."""
        backends = [_KnowsTheOthers(place) for place in ("a", "b", "c")]
        for backend in backends:
            backend.others = [other for other in backends if other is not backend]
        fs = make(backends, promote_limit=None)
        rng = random.Random(2)  # noqa: S311 - a schedule, not a secret
        held: dict[Key, bytes] = {}
        for step, page in enumerate(sample_pages(400)):
            key = (0, rng.randrange(12))
            for backend in backends:
                backend.reject_reason = rng.choice([None, "frozen", "other"])
            held.pop(key, None)
            if offer(fs, key, page):
                held[key] = page
            copies = sum(key in backend.pages for backend in backends)
            is_same_filled = page == page[:8] * (PAGE_SIZE // 8)
            assert copies == (key in held and not is_same_filled), f"{copies} copies of {key} after step {step}"
        # A backend may overwrite its own copy (rule B4); whoever else had one has forgotten it by then.
        assert [backend.too_late for backend in backends] == [[], [], []], "an old copy was forgotten too late"
        check_held(fs, held)

    def test_f3_map(self, make: FrontswapFactory) -> None:
        """F3 map: the chain knows who has a page; only its holder is asked, and nobody for what is not held."""
        calls: list[tuple[str, str, int, int]] = []
        backends = [DictBackend(place, calls=calls) for place in ("a", "b")]
        fs = make(backends, promote_limit=None)
        calls.clear()
        assert all(read(fs, (0, offset)) is None for offset in range(0, 10_000, 7))
        fs.invalidate_page(0, 3)
        assert calls == []
        backends[0].reject_reason = "full"
        offer(fs, (0, 5), make_page("heap", 5))
        calls.clear()
        assert read(fs, (0, 5)) == make_page("heap", 5)
        assert read(fs, (0, 6)) is None
        assert calls == [("b", "load", 0, 5)]

    def test_f4_all_reject(self, make: FrontswapFactory) -> None:
        """F4 all reject: the front end is told so at once and keeps its page; afterwards the chain goes on."""
        backends = [DictBackend("a"), DictBackend("b")]
        fs = make(backends)
        page = make_page("random", 4)
        assert offer(fs, (0, 0), page)
        backends[0].reject_reason, backends[1].reject_reason = "compress_poor", "full"
        start = time.monotonic()
        answers = [offer(fs, (0, offset), page) for offset in range(50)]
        assert time.monotonic() - start < STORE_SECONDS_MAX
        assert {answer.reason for answer in answers} == {"full"}, "the reason of the last that was asked"
        assert fs.curr_pages() == 0, "the old copy of (0, 0) is gone"
        assert [read(fs, (0, offset)) for offset in range(50)] == [None] * 50
        assert (fs.stats().failed_stores, fs.stats().reject_full) == (50, 50)
        counts = [backend.stats() for backend in backends]
        assert [(c.failed_stores, c.reject_compress_poor, c.reject_full) for c in counts] == [(50, 50, 0), (50, 0, 50)]
        backends[0].reject_reason = None
        assert offer(fs, (0, 0), page)
        check_held(fs, {(0, 0): page})

    def test_f5_same_filled(self, make: FrontswapFactory) -> None:
        """F5 same-filled: a page of one repeated word is kept by the map; no backend sees it."""
        calls: list[tuple[str, str, int, int]] = []
        backend = DictBackend("a", calls=calls)
        fs = make([backend])
        calls.clear()
        words = [bytes(8), b"\xff" * 8, b"\x01" + bytes(7), bytes(7) + b"\x80", b"abcdefgh"]
        held = {(0, offset): word * 512 for offset, word in enumerate(words)}
        for key, page in held.items():
            answer = offer(fs, key, page)
            assert answer
            assert answer.backend is None
        check_held(fs, held)
        assert calls == []
        assert fs.stats().same_filled_pages == fs.curr_pages() == len(held)
        # One bit away is not same-filled; and a key may change from one to the other and back.
        for position in (0, 7, 8, 2048, PAGE_SIZE - 1):
            changed = bytearray(held[0, 4])
            changed[position] ^= 1
            assert offer(fs, (0, 4), bytes(changed)).backend == backend.name
            check_held(fs, {(0, 4): bytes(changed)})
        assert fs.stats().same_filled_pages == len(held) - 1
        assert offer(fs, (0, 4), held[0, 4])
        assert backend.pages == {}
        check_held(fs, held)
        for key in held:
            fs.invalidate_page(*key)
        assert fs.stats().same_filled_pages == fs.curr_pages() == 0

    def test_f6_writethrough(self, make: FrontswapFactory) -> None:
        """F6 writethrough: every accepted page is in the slow swap too, so that any other backend may be lost."""
        fast, slow = DictBackend("fast", volatile=True), DictBackend("slow", slow=True)
        fs = make([fast, slow], writethrough=True)
        held = {(0, offset): page for offset, page in enumerate(sample_pages(60)) if offer(fs, (0, offset), page)}
        assert len(held) == fs.curr_pages() == 60
        assert fast.pages == slow.pages
        # Lost, and worse: there and wrong.
        for number, key in enumerate(list(fast.pages)):
            if number % 3 == 0:
                del fast.pages[key]
            elif number % 3 == 1:
                fast.pages[key] = make_page("text", 99)
        check_held(fs, held)
        assert slow.pages == {key: page for key, page in held.items() if page != page[:8] * 512}
        # What the slow swap does not take is not accepted, and nowhere.
        slow.reject_reason = "full"
        assert offer(fs, (0, 1000), make_page("heap", 1)).reason == "full"
        assert (0, 1000) not in fast.pages
        assert read(fs, (0, 1000)) is None
        with pytest.raises(WritethroughNeedsSlowError):
            fs.remove_backend(slow)
        with pytest.raises(WritethroughNeedsSlowError):
            make([DictBackend("fast")], writethrough=True)
        with pytest.raises(VolatileNeedsWritethroughError):
            make([DictBackend("fast", volatile=True), DictBackend("slow", slow=True)])

    def test_f7_exclusive_loads(self, make: FrontswapFactory) -> None:
        """F7 exclusive loads: the load that hands a page over forgets it; one that fails does not."""
        backend = DictBackend("a")
        fs = make([backend], exclusive_loads=True)
        held = {(0, offset): page for offset, page in enumerate(sample_pages(22)) if offer(fs, (0, offset), page)}
        out = bytearray(UNTOUCHED)
        assert fs.load(0, 1, out, exclusive=False)
        assert fs.curr_pages() == len(held)
        backend.load_error = OSError("the cable is out")
        with pytest.raises(PageUnreadableError):
            fs.load(0, 1, out)
        assert fs.curr_pages() == len(held)
        backend.load_error = None
        check_held(fs, held)
        assert fs.curr_pages() == 0
        assert backend.pages == {}
        assert [read(fs, key) for key in held] == [None] * len(held)
        inclusive = make([DictBackend("b")])
        offer(inclusive, (0, 0), make_page("text", 0))
        assert inclusive.load(0, 0, out, exclusive=True)
        assert inclusive.curr_pages() == 0

    def test_f8_shrink(self, make: FrontswapFactory) -> None:
        """F8 shrink: pages are pulled back to a target, best effort, to be continued; it returns what it reached."""
        fs = make([DictBackend("fast"), DictBackend("slow", slow=True)])
        held = {(0, offset): page for offset, page in enumerate(sample_pages(60)) if offer(fs, (0, offset), page)}
        pulled: dict[Key, bytes] = {}

        def pull(area: int, offset: int, page: bytes) -> bool:
            if len(pulled) == 25:
                return False
            pulled[area, offset] = bytes(page)
            return True

        assert fs.shrink(60, pull) == 60
        assert pulled == {}, "the target was reached already"
        assert fs.shrink(40, pull) == fs.curr_pages() == 40
        assert fs.shrink(10, pull) == fs.curr_pages() == 35, "the front end took five more"
        assert pulled == {key: held[key] for key in pulled}
        check_held(fs, {key: page for key, page in held.items() if key not in pulled})
        assert all(read(fs, key) is None for key in pulled)

        def fail(*_: object) -> bool:
            raise MemoryError

        with pytest.raises(MemoryError):
            fs.shrink(0, fail)
        assert fs.curr_pages() == 35
        # Without a front end that takes them, pages go down; those of one word are in the map and cost nothing.
        same_filled = fs.stats().same_filled_pages
        assert fs.shrink(20) == 20
        assert fs.shrink(0) == same_filled
        assert fs.stats().backends[1].stored_pages == 35 - same_filled
        check_held(fs, {key: page for key, page in held.items() if key not in pulled})

    def test_f9_curr_pages_is_exact(self, make: FrontswapFactory) -> None:
        """F9 curr_pages: exact at any time, for the chain and for each backend, also while threads are at work."""
        backends = [DictBackend("a"), DictBackend("b")]
        fs = make(backends, promote_limit=None)
        limits: list[str] = []

        def watch(stop: threading.Event) -> None:
            while not stop.is_set():
                count = fs.curr_pages()
                if not 0 <= count <= 128:
                    limits.append(f"{count} pages of at most 128")

        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(stop,))
        watcher.start()
        try:
            held = hammer(fs, 0, threads=4, steps=300, keys=32)
        finally:
            stop.set()
            watcher.join()
        assert not limits, limits[0]
        assert fs.curr_pages() == len(held) == fs.stats().stored_pages == fs.stats().areas[0].stored_pages
        counts = [backend.stats().stored_pages for backend in backends]
        assert counts == [len(backend.pages) for backend in backends]
        assert sum(counts) + fs.stats().same_filled_pages == len(held)
        check_held(fs, held)

    def test_f10_come_and_go(self, make: FrontswapFactory) -> None:
        """F10 come and go: backends are added and removed while pages are held; none is lost."""
        first, second = DictBackend("first"), DictBackend("second")
        fs = make([first])
        held = {(0, offset): page for offset, page in enumerate(sample_pages(44)) if offer(fs, (0, offset), page)}
        with pytest.raises(DrainIncompleteError):
            fs.remove_backend(first)
        assert fs.backends == (first,)
        assert first.state == "ready"
        check_held(fs, held)
        fs.add_backend(second, position=1)
        assert second.areas == {0}, "an area that was begun before is begun in a backend that comes"
        second.reject_reason = "full"
        with pytest.raises(DrainIncompleteError):
            fs.remove_backend(first)
        second.reject_reason = None
        fs.remove_backend(first)
        assert fs.backends == (second,)
        assert first.pages == {}
        assert first.stats().stored_pages == 0
        assert second.stats().stored_pages == len(second.pages)
        check_held(fs, held)
        other = make([first])
        assert offer(other, (0, 0), make_page("text", 0)).backend == first.name, "it may serve another chain"

    def test_f11_demotion_and_promotion(self, make: FrontswapFactory) -> None:
        """F11 demotion and promotion: the coldest go down for a new page, and what is loaded often comes up again."""
        fast, slow = PlainRam("256KiB"), DictBackend("slow", slow=True)
        fs = make([fast, slow])
        held = {(0, offset): make_page("random", offset) for offset in range(200)}
        answers = [offer(fs, key, page) for key, page in held.items()]
        assert [answer.backend for answer in answers] == ["ram"] * 200, "a new page was sent past the fast backend"
        assert fast.stats().mem_used_total <= 256 << 10
        stats = fs.stats()
        assert stats.written_back_pages == len(slow.pages) >= 200 - (256 << 10) // PAGE_SIZE
        assert sum(key[1] < 100 for key in slow.pages) > sum(key[1] >= 100 for key in slow.pages), "the coldest first"
        check_held(fs, held)
        fast.capacity = "8MiB"
        for _ in range(200):
            if len(slow.pages) == 0:
                break
            check_held(fs, {key: held[key] for key in list(slow.pages)})
        assert len(slow.pages) == 0, "pages that are loaded all the time stayed below"
        assert fs.stats().promoted_pages > 0
        check_held(fs, held)

    def test_f11_budget_of_promotion(self, make: FrontswapFactory) -> None:
        """F11 budget: no more comes up than the limit lets."""
        fast, slow = PlainRam("8MiB"), DictBackend("slow", slow=True)
        fs = make([fast, slow], promote_limit=20 * PAGE_SIZE)
        held = {(0, offset): make_page("random", offset) for offset in range(300)}
        assert all(offer(fs, key, page) for key, page in held.items())
        fs.shrink(0)
        start = time.monotonic()
        for _ in range(4):
            check_held(fs, held)
        seconds = time.monotonic() - start
        assert fs.stats().promoted_pages <= 20 * (seconds + 1)
        assert len(slow.pages) == 300 - fs.stats().promoted_pages

    def test_f11_budget_of_demotion(self, make: FrontswapFactory) -> None:
        """F11 budget: no more goes down ahead of need than the limit lets."""
        start = time.monotonic()
        limited, free = (
            make([PlainRam("4MiB"), DictBackend("slow", slow=True)], demote_limit=limit) for limit in (PAGE_SIZE, None)
        )
        for fs in (limited, free):
            fast = fs.backends[0]
            # Nearly full: pages go down to have room ready, and no store has to wait for that.
            for offset in range(1024):
                if fast.capacity - fast.stats().mem_used_total < 4 * PAGE_SIZE:
                    break
                offer(fs, (0, offset), make_page("random", offset))
            assert fast.stats().pool_limit_hit == 0
        assert eventually(lambda: free.stats().written_back_pages >= 5)
        assert limited.stats().written_back_pages <= 1 + (time.monotonic() - start)

    def test_f12_off_is_free(self, make: FrontswapFactory) -> None:
        """F12 off is free: with no backend nothing is kept, not even for a page of one word, and nothing is used."""
        fs = make([])
        before = fs.stats().map_bytes
        pages = sample_pages(22)
        answers = [offer(fs, (0, offset), pages[offset % len(pages)]) for offset in range(5000)]
        assert {answer.reason for answer in answers} == {"no_backend"}
        assert read(fs, (0, 17)) is None
        stats = fs.stats()
        assert (stats.map_bytes, stats.stored_pages, stats.reject_no_backend) == (before, 0, 5000)
        fs.add_backend(DictBackend("late"))
        assert offer(fs, (0, 17), pages[1])
        check_held(fs, {(0, 17): pages[1]})

    def test_b2_volatile_needs_writethrough(self, make: FrontswapFactory) -> None:
        """B2, F6: a backend that can lose pages is refused where no copy would be left."""
        fs = make([DictBackend("a")])
        with pytest.raises(VolatileNeedsWritethroughError):
            fs.add_backend(DictBackend("b", volatile=True), position=0)
        assert len(fs.backends) == 1

    def test_b3_rejections_are_counted_by_reason(self, make: FrontswapFactory) -> None:
        """B3: each rejection is counted by its reason, in the backend, in the area and in the chain."""
        backend = DictBackend("a")
        fs = make([backend])
        reasons = ["full", "quota", "compress_poor", "frozen", "unreachable", "other"]
        for times, reason in enumerate(reasons, start=1):
            backend.reject_reason = reason
            assert {offer(fs, (0, offset), make_page("text", 3)).reason for offset in range(times)} == {reason}
        fs.init(1, 10)
        fs.invalidate_area(1)
        assert offer(fs, (1, 0), make_page("text", 3)).reason == "no_area"
        expected = {f"reject_{reason}": times for times, reason in enumerate(reasons, start=1)}
        for stats in (backend.stats(), fs.stats(), fs.stats().areas[0]):
            assert {name: getattr(stats, name) for name in expected} == expected
        assert fs.stats().reject_no_area == 1

    def test_b9_calls_on_one_key_never_interleave(self, make: FrontswapFactory) -> None:
        """B9: two calls on one key never overlap in a backend, whatever threads do."""
        backend = _OneAtATime()
        fs = make([backend])
        page = {number: make_page("heap", number) for number in range(4)}

        def work(number: int) -> None:
            out = bytearray(PAGE_SIZE)
            for step in range(60):
                key = (0, step % 2)
                fs.store(*key, page[number])
                if fs.load(*key, out):
                    assert bytes(out) in page.values()
                if step % 5 == number:
                    fs.invalidate_page(*key)

        run_threads([partial(work, number) for number in page])
        assert not backend.overlaps, f"two calls at once on {backend.overlaps[0]}"
        assert fs.curr_pages() == len(backend.pages)

    def test_b9_calls_on_different_keys_run_in_parallel(self, make: FrontswapFactory) -> None:
        """B9: calls on different keys are in a backend at the same time, also when they are neighbours."""
        for offsets in ((0, 1), (5, 70_000)):
            meeting = threading.Barrier(2, timeout=MEETING_SECONDS_MAX)
            fs = make([_Meets(meeting)])
            jobs = [partial(fs.store, 0, offset, make_page("heap", offset)) for offset in offsets]
            run_threads(jobs)
            assert not meeting.broken, "a call waited for another on a different key"
            assert fs.curr_pages() == 2

    def test_b10_damage_is_found(self, make: FrontswapFactory) -> None:
        """B10: one changed bit, zeroes, an old copy: an error that names area, offset and backend, and no bytes."""
        backend = DictBackend("a")
        fs = make([backend])
        old, page = make_page("text", 1), make_page("heap", 1)
        for wrong in (bytes([page[0] ^ 1]) + page[1:], page[:-1] + bytes([page[-1] ^ 128]), bytes(PAGE_SIZE), old):
            offer(fs, (0, 17), page)
            backend.pages[0, 17] = wrong
            check_load_fails(fs, (0, 17), PageCorruptError, backend.name)
            # The page is still held, and an owner who no longer wants it can say so.
            assert fs.curr_pages() == 1
            fs.invalidate_page(0, 17)
            assert read(fs, (0, 17)) is None
        offer(fs, (0, 17), page)
        backend.pages.clear()
        check_load_fails(fs, (0, 17), PageLostError, backend.name)
        assert fs.stats().load_errors == 5

    def test_b10_unreadable(self, make: FrontswapFactory) -> None:
        """B10: a page that cannot be given back is an error; once it can be, it loads."""
        backend = DictBackend("a")
        fs = make([backend])
        page = make_page("heap", 1)
        offer(fs, (0, 17), page)
        backend.load_error = OSError("the cable is out")
        check_load_fails(fs, (0, 17), PageUnreadableError, backend.name)
        backend.load_error = None
        check_held(fs, {(0, 17): page})

    def test_broken_backend_is_asked_for_loads_only(self, make: FrontswapFactory) -> None:
        """A backend that breaks takes no more pages, still gives back what it has, and says why it broke."""
        calls: list[tuple[str, str, int, int]] = []
        first, second = DictBackend("first", calls=calls), DictBackend("second", calls=calls)
        fs = make([first, second])
        pages = sample_pages(22)
        held = {(0, offset): page for offset, page in enumerate(pages) if offer(fs, (0, offset), page)}
        first.store_error = BackendBrokenError("the disk is gone", hint="buy one")
        for offset in (1, 100, 101):
            held[0, offset] = make_page("heap", offset)
            assert offer(fs, (0, offset), held[0, offset]).backend == second.name
        assert first.state == "broken"
        assert "the disk is gone" in (first.native.broken_reason or "")
        assert ("first", "store", 0, 101) not in calls, "a broken backend was offered a page"
        check_held(fs, held)
        fs.remove_backend(first)
        check_held(fs, held)


class _KnowsTheOthers(DictBackend):
    """Notes pages that are offered to it while another backend still holds an old copy."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.others: list[DictBackend] = []
        self.too_late: list[Key] = []

    def store(self, area: int, offset: int, page: Buffer) -> Answer:
        self.too_late += [(area, offset) for other in self.others if (area, offset) in other.pages]
        return super().store(area, offset, page)


class _Meets(DictBackend):
    """Its store waits until another store is there too."""

    def __init__(self, meeting: threading.Barrier) -> None:
        super().__init__("meets")
        self.meeting = meeting

    def store(self, area: int, offset: int, page: Buffer) -> Answer:
        self.meeting.wait()
        return super().store(area, offset, page)


class _OneAtATime(DictBackend):
    """Notes keys for which two calls are inside at once."""

    def __init__(self) -> None:
        super().__init__("one")
        self.inside: set[Key] = set()
        self.overlaps: list[Key] = []

    def _enter(self, key: Key) -> None:
        if key in self.inside:
            self.overlaps.append(key)
        self.inside.add(key)
        # Long enough for another thread to come in, if it can.
        time.sleep(0.0002)
        self.inside.discard(key)

    def store(self, area: int, offset: int, page: Buffer) -> Answer:
        self._enter((area, offset))
        return super().store(area, offset, page)

    def load(self, area: int, offset: int, out: Buffer) -> bool:
        self._enter((area, offset))
        return super().load(area, offset, out)

    def invalidate_page(self, area: int, offset: int) -> None:
        self._enter((area, offset))
        super().invalidate_page(area, offset)
