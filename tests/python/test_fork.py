"""A child of a fork gets a clear error and disturbs nothing; the parent's pages stay with the parent."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

from frontswap import CompressedRam, Frontswap, PlainRam, SwapFile
from frontswap.errors import ForkedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGES = 200


@pytest.fixture(autouse=True)
def _fork_with_threads() -> Iterator[None]:
    # Python warns about what is tested here: a fork while a chain's thread runs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture
def fs(tmp_path: Path, make_page: Callable[[int], bytes]) -> Iterator[Frontswap]:
    with Frontswap([CompressedRam("256KiB"), SwapFile(tmp_path, size="4MiB", direct=False)]) as chain:
        chain.init(0, PAGES)
        for offset in range(PAGES):
            assert chain.store(0, offset, make_page(offset))
        yield chain


def in_child(function: Callable[[], str]) -> str:
    """Fork, call the function in the child, and return what it returned there."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writing, function().encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def assert_intact(fs: Frontswap, make_page: Callable[[int], bytes]) -> None:
    out = bytearray(4096)
    for offset in range(PAGES):
        assert fs.load(0, offset, out)
        assert out == make_page(offset)
    assert fs.store(0, 0, make_page(0))
    assert fs.curr_pages() == PAGES


def test_every_call_in_the_child_says_forked(fs: Frontswap, make_page: Callable[[int], bytes]) -> None:
    backend = fs.backends[0]

    def grow() -> None:
        backend.capacity = "1MiB"

    calls: dict[str, Callable[[], object]] = {
        "init": lambda: fs.init(1, 1),
        "store": lambda: fs.store(0, 0, bytes(4096)),
        "load": lambda: fs.load(0, 0, bytearray(4096)),
        "invalidate_page": lambda: fs.invalidate_page(0, 0),
        "invalidate_area": lambda: fs.invalidate_area(0),
        "add_backend": lambda: fs.add_backend(PlainRam("1MiB")),
        "remove_backend": lambda: fs.remove_backend(backend),
        "shrink": lambda: fs.shrink(0),
        "curr_pages": fs.curr_pages,
        "stats": fs.stats,
        "close": fs.close,
        "backend.store": lambda: backend.store(0, 0, bytes(4096)),
        "backend.load": lambda: backend.load(0, 0, bytearray(4096)),
        "backend.capacity": grow,
    }

    def child() -> str:
        said = []
        for name, call in calls.items():
            try:
                call()
            except ForkedError as error:
                said.append(name if str(os.getppid()) in str(error) else str(error))
        return " ".join(said)

    assert in_child(child).split() == list(calls)
    assert_intact(fs, make_page)


def test_what_the_child_drops_stays_with_the_parent(tmp_path: Path, make_page: Callable[[int], bytes]) -> None:
    holder = [Frontswap([CompressedRam("256KiB"), SwapFile(tmp_path, size="4MiB", direct=False)])]
    holder[0].init(0, PAGES)
    for offset in range(PAGES):
        assert holder[0].store(0, offset, make_page(offset))

    def child() -> str:
        with holder.pop():
            pass
        gc.collect()
        return "dropped"

    assert in_child(child) == "dropped"
    with holder[0] as fs:
        assert_intact(fs, make_page)


def test_a_child_can_have_its_own(fs: Frontswap, make_page: Callable[[int], bytes], tmp_path: Path) -> None:
    def child() -> str:
        with Frontswap([CompressedRam("1MiB"), SwapFile(tmp_path, size="1MiB", direct=False)]) as own:
            own.init(0, 10)
            own.store(0, 0, make_page(7))
            out = bytearray(4096)
            return str(own.load(0, 0, out) and bytes(out) == make_page(7))

    assert in_child(child) == "True"
    assert_intact(fs, make_page)


SHARED: list[Frontswap] = []


def _use(offset: int) -> str:
    try:
        SHARED[0].load(0, offset, bytearray(4096))
    except ForkedError as error:
        return error.code
    return "loaded"


def test_multiprocessing_by_fork(fs: Frontswap, make_page: Callable[[int], bytes]) -> None:
    SHARED[:] = [fs]
    try:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(_use, range(4)) == ["forked"] * 4
    finally:
        SHARED.clear()
    assert_intact(fs, make_page)


def test_a_child_that_ends_as_programs_end_is_silent() -> None:
    code = """
import os, warnings
warnings.simplefilter("ignore")
from frontswap import CompressedRam, Frontswap, SwapFile
fs = Frontswap([CompressedRam("1MiB"), SwapFile("/var/tmp", size="1MiB", direct=False)])
fs.init(0, 10)
page = bytes(range(256)) * 16
assert fs.store(0, 3, page)
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
    out = bytearray(4096)
    assert fs.load(0, 3, out) and out == page
    print("intact")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "intact\n", "")
