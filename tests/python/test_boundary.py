"""What crosses from Python into the native module and back: buffers, numbers, interrupts, the interpreter's end."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from frontswap import CompressedRam, FaultInject, Frontswap, PlainRam, errors
from frontswap.testing import DictBackend, make_page

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = make_page("counters", 1)


@pytest.fixture
def fs() -> Any:
    with Frontswap([PlainRam("1MiB")]) as chain:
        chain.init(0, pages=100)
        yield chain


def test_arrays_of_numbers_are_pages(fs: Frontswap) -> None:
    page: Any = np.arange(512, dtype="i8").reshape(16, 32)
    out: Any = np.zeros((8, 64), dtype="f8")
    assert fs.store(0, 1, page)
    assert fs.load(0, 1, out)
    assert out.tobytes() == page.tobytes()


def test_references_to_objects_are_no_page(fs: Frontswap) -> None:
    objects: Any = np.array([object() for _ in range(512)], dtype=object)
    fs.store(0, 1, PAGE)
    for call in (lambda: fs.store(0, 2, objects), lambda: fs.load(0, 1, objects)):
        with pytest.raises(errors.PageBufferError, match="`ndarray` holds references to objects") as caught:
            call()
        assert caught.value.hint
    assert all(type(item) is object for item in objects)


@pytest.mark.parametrize(
    ("buffer", "reason"),
    [
        (np.zeros((512, 2), dtype="i8")[:, 0], "does not lie in one piece"),
        (np.zeros((64, 8), dtype="f8", order="F"), "does not lie in one piece"),
        (np.zeros(8192, dtype="u1")[::2], "does not lie in one piece"),
        (7, "`int` is not a buffer"),
        ("x" * 4096, "`str` is not a buffer"),
    ],
)
def test_what_is_no_page_says_why(fs: Frontswap, buffer: Any, reason: str) -> None:
    with pytest.raises(errors.PageBufferError, match=reason):
        fs.store(0, 1, buffer)
    with pytest.raises(TypeError, match=reason):
        fs.load(0, 1, buffer)


def test_a_buffer_that_cannot_be_written(fs: Frontswap) -> None:
    with pytest.raises(errors.PageBufferError, match="cannot load a page: `bytes` cannot be written"):
        fs.load(0, 1, bytes(4096))


@pytest.mark.parametrize("area", [-1, 65536, 2**130])
def test_areas_that_there_cannot_be(fs: Frontswap, area: int) -> None:
    with pytest.raises(errors.AreaNumberError, match=f"`{area}`"):
        fs.store(area, 0, PAGE)
    fs.invalidate_page(area, 0)
    fs.invalidate_area(area)
    with PlainRam("1MiB") as alone, pytest.raises(errors.AreaNumberError):
        alone.init(area, 1)


@pytest.mark.parametrize("offset", [-1, 2**64, 2**130])
def test_offsets_that_there_cannot_be(fs: Frontswap, offset: int) -> None:
    with pytest.raises(errors.OffsetInvalidError, match=f"`{offset}`"):
        fs.load(0, offset, bytearray(4096))
    fs.invalidate_page(0, offset)
    with PlainRam("1MiB") as alone, pytest.raises(errors.OffsetInvalidError):
        alone.store(0, offset, PAGE)


@pytest.mark.parametrize("wrong", [17.0, "17", None])
def test_what_is_no_whole_number_is_a_mistake_everywhere(fs: Frontswap, wrong: Any) -> None:
    fs.store(0, 17, PAGE)
    calls: list[Callable[[], object]] = [
        lambda: fs.init(1, wrong),
        lambda: fs.store(0, wrong, PAGE),
        lambda: fs.load(wrong, 17, bytearray(4096)),
        lambda: fs.invalidate_page(0, wrong),
        lambda: fs.invalidate_area(wrong),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    assert fs.curr_pages() == 1


def test_a_backend_that_holds_pages_does_not_join() -> None:
    with CompressedRam("1MiB") as backend:
        backend.init(0, 5)
        backend.store(0, 1, PAGE)
        with pytest.raises(errors.BackendNotEmptyError, match="holds `1` pages"):
            Frontswap([backend])
        out = bytearray(4096)
        assert backend.load(0, 1, out)
        assert out == PAGE
        backend.invalidate_area(0)
        with Frontswap([backend]) as chain:
            assert chain.curr_pages() == 0


def test_an_answer_is_hashable(fs: Frontswap) -> None:
    assert len({fs.store(0, 1, PAGE), fs.store(0, 2, PAGE)}) == 1


class Interrupted(DictBackend):
    """Somebody presses Ctrl-C while its code runs."""

    kind = "interrupted"
    is_armed = False

    def store(self, area: int, offset: int, page: Any) -> Any:
        if self.is_armed:
            raise KeyboardInterrupt
        return super().store(area, offset, page)

    def load(self, area: int, offset: int, out: Any) -> bool:
        if self.is_armed:
            raise KeyboardInterrupt
        return super().load(area, offset, out)


def test_an_interrupt_reaches_the_caller_and_breaks_nothing() -> None:
    backend = Interrupted()
    with Frontswap([backend]) as chain:
        chain.init(0, pages=10)
        chain.store(0, 1, PAGE)
        backend.is_armed = True
        with pytest.raises(KeyboardInterrupt):
            chain.store(0, 2, PAGE)
        out = bytearray(4096)
        with pytest.raises(KeyboardInterrupt):
            chain.load(0, 1, out)
        backend.is_armed = False
        assert backend.state == "ready"
        assert chain.load(0, 1, out)
        assert out == PAGE
        assert not chain.load(0, 2, out)
        assert chain.store(0, 2, PAGE)


class Meddler(DictBackend):
    """Closes its own chain while it is asked, as a signal handler may."""

    kind = "meddler"
    chain: Frontswap | None = None
    refused: list[BaseException]

    def store(self, area: int, offset: int, page: Any) -> Any:
        assert self.chain is not None
        changes: list[Callable[[], None]] = [self.chain.close, functools.partial(self.chain.invalidate_area, 0)]
        for change in changes:
            with pytest.raises(errors.ReenteredError) as caught:
                change()
            self.refused.append(caught.value)
        return super().store(area, offset, page)


def test_a_chain_is_not_changed_from_within() -> None:
    backend = Meddler()
    backend.refused = []
    with Frontswap([backend]) as chain:
        backend.chain = chain
        chain.init(0, pages=10)
        assert chain.store(0, 1, PAGE)
        assert len(backend.refused) == 2
        assert "close a chain from within" in str(backend.refused[0])
        backend.chain = None


class Silent(DictBackend):
    """Forgets to answer."""

    kind = "silent"

    def store(self, area: int, offset: int, page: Any) -> Any:
        super().store(area, offset, page)


def test_no_answer_is_a_fault_of_the_backend() -> None:
    backend = Silent()
    with Frontswap([backend]) as chain:
        chain.init(0, pages=10)
        assert chain.store(0, 1, PAGE).reason == "closing"
        stats = backend.stats()
        assert stats.state == "broken"
        assert stats.broken_reason is not None
        assert "it returned `NoneType`, which is no answer" in stats.broken_reason


def test_a_wrapped_backend_is_free_again_when_its_wrapper_closes() -> None:
    inner = PlainRam("1MiB")
    wrapper = FaultInject(inner)
    with pytest.raises(errors.BackendInUseError, match="belongs to a chain or to another backend"):
        inner.store(0, 0, PAGE)
    wrapper.close()
    assert inner.state == "closed"


AT_THE_END = """
import threading, time
from frontswap import Frontswap
from frontswap.testing import DictBackend, make_page
fs = Frontswap([DictBackend()])
fs.init(0, pages=1000)
page = make_page("counters", 1)
def work():
    offset = 0
    while True:
        fs.store(0, offset % 1000, page)
        offset += 1
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
"""


def test_the_interpreter_ends_while_threads_are_inside() -> None:
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", AT_THE_END], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
