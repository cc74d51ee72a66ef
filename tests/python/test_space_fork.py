"""A child of fork has a copy of every space, right to the last byte, and uses it like the parent."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from frontswap import PlainRam, Space
from space_modes import MODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RAM = 16 * 2**20
COUNT = 2 * RAM // 8


@pytest.fixture(autouse=True)
def _fork_with_threads() -> Iterator[None]:
    # Python warns about what is tested here: a fork while the pager's threads run.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture(params=[*MODES, "swap file"])
def space(request: pytest.FixtureRequest) -> Iterator[Space]:
    if request.param == "swap file":
        space = Space(ram=RAM, pool_limit="2MiB", swap_size="512MiB")
    else:
        space = Space(ram=RAM, swap=None, mode=request.param)
    yield space
    space.close(later=True)


def numbers() -> Any:
    return np.arange(COUNT, dtype="i8")


def noise(space: Space, seed: int) -> Any:
    """Return numbers that do not compress, as many as there is a place for."""
    count = COUNT // 2 if len(space.backends) > 1 else COUNT // 32
    return np.random.default_rng(seed).integers(0, 2**62, count, dtype="i8")


def start(function: Callable[[], bool]) -> int:
    """Fork; the child ends with 0 when the function returns True there."""
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            status = 0 if function() else 1
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_reads_and_writes_its_own_copy(space: Space) -> None:
    first, second = noise(space, 1), noise(space, 2)
    a, b = space.array(numbers()), space.array(first)

    def child() -> bool:
        is_right = np.array_equal(a, numbers()) and np.array_equal(b, first)
        a[:] = 7
        b[:] = second
        return bool(is_right and (a == 7).all() and np.array_equal(b, second))

    pids = [start(child) for _ in range(2)]
    a += 1
    b[::2] = 0
    assert [status_of(pid) for pid in pids] == [0, 0]
    assert np.array_equal(a, numbers() + 1)
    assert np.array_equal(b[1::2], first[1::2])
    assert not b[::2].any()


def test_everything_works_in_a_child(space: Space) -> None:
    a = space.array(numbers())

    def child() -> bool:
        b = space.full(COUNT, 3)
        with space.numpy():
            c = a + b
        with space.pinned(a[:1000], c[5:1000]):
            pass
        space.ram = 2 * RAM
        names = [backend.stats().name for backend in space.backends]
        is_right = np.array_equal(c, numbers() + 3)
        del b, c
        return bool(is_right and names and space.stats().arrays == 1 and np.array_equal(a, numbers()))

    assert status_of(start(child)) == 0
    assert space.ram == RAM
    assert np.array_equal(a, numbers())


def test_what_a_child_drops_stays_with_the_parent(space: Space) -> None:
    arrays = [space.array(numbers())]

    def child() -> bool:
        arrays.clear()
        gc.collect()
        space.close()
        return space.is_closed

    assert status_of(start(child)) == 0
    assert np.array_equal(arrays[0], numbers())


def test_a_grandchild(space: Space) -> None:
    a = space.array(numbers())

    def child() -> bool:
        a[::1000] = -1

        def grandchild() -> bool:
            return bool((a[::1000] == -1).all() and np.array_equal(a[1::1000], numbers()[1::1000]))

        is_right = status_of(start(grandchild)) == 0
        return is_right and bool((a[::1000] == -1).all())

    assert status_of(start(child)) == 0
    assert np.array_equal(a, numbers())


def test_forks_while_threads_work(space: Space) -> None:
    a = space.array(numbers())
    is_over = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        rng = np.random.default_rng(threading.get_ident())
        while not is_over.is_set():
            places = rng.integers(0, COUNT, 200)
            if not np.array_equal(a[places], places):
                wrong.append("read")

    def make() -> None:
        while not is_over.is_set():
            for size in (10, 100_000, 2_000_000):
                if not (space.full(size, size) == size).all():
                    wrong.append("make")
            with space.pinned(a[:1000]):
                space.stats()

    threads = [threading.Thread(target=target) for target in (read, read, make)]
    for thread in threads:
        thread.start()

    def child() -> bool:
        b = space.full(100_000, 5)
        return bool(np.array_equal(a, numbers()) and (b == 5).all())

    try:
        assert [status_of(start(child)) for _ in range(8)] == [0] * 8
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert np.array_equal(a, numbers())


SHARED: list[Any] = []


def part_sum(number: int) -> int:
    a = SHARED[0]
    a[number * 1000] += 0
    return int(a[number::10].sum())


def test_multiprocessing(space: Space) -> None:
    SHARED[:] = [space.array(numbers())]
    try:
        expected = [int(numbers()[number::10].sum()) for number in range(10)]
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            assert pool.map(part_sum, range(10)) == expected
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            assert list(executor.map(part_sum, range(10))) == expected
            # Arrays go to another process by copying.
            part = SHARED[0][: COUNT // 4]
            assert executor.submit(np.sum, part).result() == numbers()[: COUNT // 4].sum()
    finally:
        SHARED.clear()


def test_backends_of_ones_own() -> None:
    with Space(ram=RAM, backends=[PlainRam("12MiB")]) as space:
        a = space.array(numbers()[: COUNT // 3])
        assert status_of(start(lambda: bool(np.array_equal(a, numbers()[: COUNT // 3])))) == 0
        assert np.array_equal(a, numbers()[: COUNT // 3])
        del a


def test_a_child_that_ends_as_programs_end_is_silent() -> None:
    code = """
import os, warnings
warnings.simplefilter("ignore")
import numpy as np
from frontswap import Space
space = Space(ram="16MiB")
a = space.array(np.arange(5_000_000))
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
assert (a == np.arange(5_000_000)).all()
print("intact", flush=True)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "intact\nintact\n", "")
