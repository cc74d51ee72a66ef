"""A backend written in Python stands in a chain like any other, and its faults are named with it."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from frontswap import ACCEPTED, Answer, Backend, Frontswap, PlainRam, errors, rejected
from frontswap._frontswap import REJECT_REASONS
from frontswap.backends import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable


class Shelf(Backend):
    """Pages in a dictionary; it can be told to fail."""

    kind = "shelf"
    place = "cellar"

    def __init__(self) -> None:
        self.held: dict[tuple[int, int], bytes] = {}
        self.areas: dict[int, int] = {}
        self.fails: Exception | None = None
        self.answer: Any = ACCEPTED
        self.is_closed = False

    def init(self, area: int, pages: int) -> None:
        self.areas[area] = pages

    def store(self, area: int, offset: int, page: Any) -> Answer:
        self.held.pop((area, offset), None)
        if self.fails:
            raise self.fails
        if self.answer:
            self.held[area, offset] = bytes(page)
        return self.answer  # type: ignore[no-any-return]

    def load(self, area: int, offset: int, out: Any) -> bool:
        if self.fails:
            raise self.fails
        if (area, offset) not in self.held:
            return False
        memoryview(out)[:] = self.held[area, offset]
        return True

    def invalidate_page(self, area: int, offset: int) -> None:
        self.held.pop((area, offset), None)

    def invalidate_area(self, area: int) -> None:
        self.areas.pop(area, None)
        self.held = {key: page for key, page in self.held.items() if key[0] != area}

    def close(self) -> None:
        super().close()
        self.is_closed = True


def test_it_holds_pages_in_a_chain(make_page: Callable[[int], bytes]) -> None:
    shelf = Shelf()
    assert (shelf.name, shelf.state, shelf.capacity) == ("shelf:cellar", "ready", UNLIMITED)
    with Frontswap([PlainRam("256KiB"), shelf]) as fs:
        fs.init(0, 200)
        assert shelf.areas == {0: 200}
        for offset in range(200):
            assert fs.store(0, offset, make_page(offset))
        assert 0 < len(shelf.held) == shelf.stats().stored_pages < 200
        fs.backends[0].capacity = 4096
        assert len(shelf.held) > 190
        out = bytearray(4096)
        for offset in range(200):
            assert fs.load(0, offset, out)
            assert out == make_page(offset)
        shelf.capacity = "40KiB"
        fs.backends[0].capacity = "2MiB"
        assert shelf.capacity == 40960
        assert fs.curr_pages() == 200
        fs.remove_backend(shelf)
        assert shelf.held == {}
        assert fs.curr_pages() == 200
        fs.add_backend(shelf)
        assert shelf.areas == {0: 200}
    assert shelf.is_closed
    assert shelf.state == "closed"


def test_a_rejection_is_counted_by_its_reason(make_page: Callable[[int], bytes]) -> None:
    shelf = Shelf()
    reasons = [reason for reason in REJECT_REASONS if reason != "no_backend"]
    with Frontswap([shelf]) as fs:
        fs.init(0, 10)
        for reason in reasons:
            shelf.answer = rejected(reason)
            answer = fs.store(0, 0, make_page(0))
            assert (answer.accepted, answer.reason) == (False, reason)
            assert getattr(shelf.stats(), f"reject_{reason}") == 1
        assert shelf.stats().failed_stores == fs.stats().failed_stores == len(reasons)


def test_a_reason_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="no reason named `tired`; known: `full`, "):
        rejected("tired")
    assert rejected().reason == "other"
    assert bool(ACCEPTED)
    assert ACCEPTED.reason is None


def test_what_it_raises_is_reported_with_its_name(make_page: Callable[[int], bytes]) -> None:
    shelf = Shelf()
    with Frontswap([shelf, PlainRam("1MiB")]) as fs:
        fs.init(0, 10)
        assert fs.store(0, 0, make_page(0)).backend == "shelf:cellar"
        shelf.fails = OSError("the shelf fell down")
        with pytest.raises(errors.FrontswapError) as caught:
            fs.load(0, 0, bytearray(4096))
        assert "shelf" in str(caught.value)
        assert "the shelf fell down" in str(caught.value)
        assert caught.value.hint
        assert fs.store(0, 1, make_page(1)).backend == "ram", "a page that it does not take goes to the next"
        shelf.fails = None
        out = bytearray(4096)
        assert fs.load(0, 0, out)
        assert out == make_page(0)


def test_wrong_bytes_and_lost_pages_are_found(make_page: Callable[[int], bytes]) -> None:
    shelf = Shelf()
    with Frontswap([shelf]) as fs:
        fs.init(0, 10)
        for offset in range(3):
            fs.store(0, offset, make_page(offset))
        shelf.held[0, 0] = make_page(9)
        with pytest.raises(errors.PageCorruptError, match="`shelf:cellar` damaged page `0` of area `0`"):
            fs.load(0, 0, bytearray(4096))
        del shelf.held[0, 1]
        with pytest.raises(errors.PageLostError, match="`shelf:cellar` lost page `1` of area `0`"):
            fs.load(0, 1, bytearray(4096))
        assert fs.load(0, 2, bytearray(4096))


def test_it_is_forgotten_when_nobody_holds_it() -> None:
    shelf = Shelf()
    assert shelf.stats().stored_pages == 0
    reference = weakref.ref(shelf)
    del shelf
    gc.collect()
    assert reference() is None


def test_a_chain_keeps_it_alive(make_page: Callable[[int], bytes]) -> None:
    with Frontswap([Shelf()]) as fs:
        gc.collect()
        fs.init(0, 10)
        assert fs.store(0, 0, make_page(0))
        assert fs.load(0, 0, bytearray(4096))


def test_many_threads_get_one_handle() -> None:
    for _ in range(20):
        shelf = Shelf()
        barrier = threading.Barrier(4)
        handles: list[object] = []

        def ask(shelf: Shelf = shelf, barrier: threading.Barrier = barrier, handles: list[object] = handles) -> None:
            barrier.wait()
            handles.append(shelf.native)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(handle) for handle in handles}) == 1


def test_why_it_broke_can_be_read() -> None:
    shelf = Shelf()
    with Frontswap([shelf]) as fs:
        fs.init(0, pages=1)
        assert shelf.broken_reason is None
        shelf.fails = RuntimeError("the shelf fell down")
        assert fs.store(0, 0, bytes(range(256)) * 16).reason == "closing"
        assert shelf.state == "broken"
        assert shelf.broken_reason == "backend `shelf:cellar` failed in `store`: RuntimeError: the shelf fell down"


@pytest.mark.parametrize("kind", ["", None, "Shelf", "a,b", "a:b"])
def test_a_kind_that_cannot_be_written(kind: Any) -> None:
    class Nameless(Shelf):
        pass

    Nameless.kind = kind
    with pytest.raises(errors.OptionInvalidError, match=f"cannot set `kind` of `Nameless` to `{kind}`") as caught:
        Frontswap([Nameless()])
    assert "class `Nameless`" in caught.value.hint
