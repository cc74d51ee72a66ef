"""Spaces and the system: users, signals, threads, memory that is full, pages that are lost."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from frontswap import CompressedRam, FaultInject, PlainRam, Space, SwapFile
from frontswap.errors import FrontswapError, NoMemoryError, PagerPermissionError
from space_modes import MODES

if TYPE_CHECKING:
    from collections.abc import Callable

RAM = 16 * 2**20
NOBODY = 65534
PR_SET_DUMPABLE = 4


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)


def as_ordinary_user(work: Callable[[], str]) -> str:
    """Return what `work` returns in a child that is not root."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "it ended early"
        try:
            if os.getuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                # Whoever changes its user loses its own files in /proc, which one who logs in as that user has.
                ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
            text = work()
        except BaseException as error:  # noqa: BLE001 - the parent says it
            text = repr(error)
        finally:
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestUsers:
    def test_signal_mode_is_for_any_user(self) -> None:
        def work() -> str:
            with Space(RAM, swap_size="64MiB") as space:
                a = space.array(np.arange(4 * RAM // 8))
                is_right = np.array_equal(a, np.arange(4 * RAM // 8))
                del a
                return f"{space.mode} {is_right}"

        assert as_ordinary_user(work) == "signal True"

    def test_handler_mode_says_what_it_needs(self) -> None:
        def work() -> str:
            try:
                Space(RAM, swap=None, mode="handler")
            except PagerPermissionError as error:
                return f"{type(error.errno).__name__} {error.hint}"
            return "permitted"

        said = as_ordinary_user(work)
        assert said == "permitted" or ("frontswap doctor" in said and said.startswith("int"))

    def test_auto_is_the_best_that_is_permitted(self) -> None:
        def work() -> str:
            with Space(RAM, swap=None, mode="auto") as space:
                return space.mode

        assert as_ordinary_user(work) in MODES
        with Space(RAM, swap=None, mode="auto") as space:
            assert space.mode == MODES[-1]


class TestSignals:
    def test_a_signal_that_is_not_ours_goes_on(self) -> None:
        result = run("""
import faulthandler, mmap, sys, tempfile
faulthandler.enable()
from frontswap import Space
space = Space(ram="16MiB", swap=None)
buffer = space.buffer(2**26)
buffer[::4096] = bytes(2**14)
with tempfile.TemporaryFile() as f:
    f.truncate(4096)
    mapped = mmap.mmap(f.fileno(), 4096)
    f.truncate(0)
    print(buffer[5], flush=True)
    print(mapped[0])
""")
        assert result.stdout == "0\n"
        assert result.returncode == -7
        assert "Fatal Python error: Bus error" in result.stderr

    def test_a_page_that_is_lost_ends_the_process_and_is_named(self) -> None:
        result = run("""
from frontswap import FaultInject, PlainRam, Space
space = Space(ram="16MiB", backends=[FaultInject(PlainRam("12MiB"), corrupt=1.0)])
buffer = space.buffer(2**24)
for start in range(0, 2**24, 4096):
    buffer[start : start + 8] = start.to_bytes(8, "little")
print("written", flush=True)
for start in range(0, 2**24, 4096):
    assert buffer[start : start + 8] == start.to_bytes(8, "little"), start
print("never")
""")
        assert (result.returncode, result.stdout) == (-7, "written\n")
        assert "frontswap: error:" in result.stderr
        assert "damaged page" in result.stderr or "lost page" in result.stderr
        assert "SIGBUS" in result.stderr


class TestFull:
    def test_when_nothing_accepts_new_arrays_are_refused(self) -> None:
        rng = np.random.default_rng(1)
        with Space(RAM, swap=None) as space:
            arrays: list[Any] = []
            with pytest.raises(MemoryError, match="no backend takes more pages") as caught:
                while len(arrays) < 64:
                    a = space.empty(2**20, "u1")
                    a[:] = rng.integers(0, 256, 2**20, dtype="u1")
                    arrays.append(a)
            assert isinstance(caught.value, NoMemoryError)
            assert len(arrays) > 8
            with pytest.raises(NoMemoryError), space.numpy():
                np.ones(2**20)
            # With room there is memory again.
            del a
            del arrays[4:]
            b = space.full(2**20, 1, "u1")
            assert b.all()
            del arrays[:], b

    def test_more_ram_is_room_too(self) -> None:
        rng = np.random.default_rng(1)
        with Space(RAM, swap=None) as space:
            arrays = []
            with pytest.raises(MemoryError):
                while len(arrays) < 64:
                    arrays.append(space.array(rng.integers(0, 2**62, 2**17)))
            space.ram = 4 * RAM
            deadline = time.monotonic() + 5
            while True:
                try:
                    arrays.append(space.zeros(2**17))
                    break
                except NoMemoryError:
                    assert time.monotonic() < deadline
            arrays.clear()


def race(works: list[Callable[[], None]], is_over: Callable[[], bool]) -> None:
    """Run each in a thread of its own, again and again, until it is over; raise what one of them raised."""
    raised: list[BaseException] = []
    deadline = time.monotonic() + 60

    def guarded(work: Callable[[], None]) -> None:
        try:
            while not (raised or is_over() or time.monotonic() > deadline):
                work()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    if raised:
        raise raised[0]


class Worker:
    """Makes, writes, reads, pins and drops arrays in a space, each with a copy in ordinary memory."""

    BYTES_MAX = 10 * 2**20

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.rng = random.Random(seed)
        self.pairs: list[tuple[Any, Any]] = []
        self.steps = 0
        while self.bytes() < self.BYTES_MAX:
            self.make()

    def bytes(self) -> int:
        return sum(a.nbytes for a, _ in self.pairs)

    def make(self) -> None:
        if self.bytes() >= self.BYTES_MAX:
            self.pairs.pop(self.rng.randrange(len(self.pairs)))
        size = self.rng.choice([10, 5000, 70_000, 300_000, 700_000])
        values = np.arange(size, dtype="i8") * self.rng.randrange(1000)
        if self.rng.random() < 0.5:
            with self.space.numpy():
                a = np.add(values, 0)
        else:
            a = self.space.array(values)
        self.pairs.append((a, values))

    def step(self) -> None:
        self.steps += 1
        if self.rng.random() < 0.1:
            self.make()
        a, shadow = self.rng.choice(self.pairs)
        start = self.rng.randrange(len(a))
        part = slice(start, start + self.rng.choice([1, 600, 20_000]), self.rng.choice([1, 1, 7, 513]))
        if self.rng.random() < 0.4:
            a[part] = shadow[part] = self.rng.randrange(2**40)
        elif self.rng.random() < 0.1:
            with self.space.pinned(a[part]):
                assert np.array_equal(a[part], shadow[part])
        else:
            assert np.array_equal(a[part], shadow[part])

    def check(self) -> None:
        assert all(np.array_equal(a, shadow) for a, shadow in self.pairs)


CHAINS: dict[str, Callable[[], Space]] = {
    "pool": lambda: Space(RAM, swap=None, pool_limit="75%"),
    "swap file": lambda: Space(RAM, pool_limit="1MiB", swap_size="256MiB"),
    "faults": lambda: Space(
        RAM,
        backends=[
            FaultInject(CompressedRam("4MiB"), reject=0.3, delay_us=20, seed=7),
            FaultInject(PlainRam("2MiB"), reject=0.5, store_error=0.00001),
            SwapFile("/var/tmp", "256MiB", direct=False),
        ],
    ),
}
if "handler" in MODES:
    CHAINS["handler"] = lambda: Space(RAM, swap=None, pool_limit="75%", mode="handler")
    CHAINS["handler, swap file"] = lambda: Space(RAM, pool_limit="1MiB", swap_size="256MiB", mode="handler")


@pytest.mark.parametrize("chain", CHAINS)
class TestThreads:
    def test_every_byte_against_a_shadow(self, chain: str) -> None:
        space = CHAINS[chain]()
        workers = [Worker(space, seed) for seed in range(3)]
        rng = random.Random(99)

        def change_budget() -> None:
            space.ram = rng.choice([RAM, RAM, 2 * RAM, RAM * 3 // 2])
            time.sleep(rng.random() / 20)

        race([*(worker.step for worker in workers), change_budget], lambda: sum(w.steps for w in workers) > 1500)
        assert all(worker.steps > 100 for worker in workers)
        for worker in workers:
            worker.check()
        stats = space.stats()
        assert stats.loads > 1000
        assert stats.page_errors == 0
        for worker in workers:
            worker.pairs.clear()
        space.close()

    def test_threads_fault_side_by_side(self, chain: str) -> None:
        """A thread that waits for pages in NumPy keeps neither other threads of Python nor of NumPy from running."""
        space = CHAINS[chain]()
        arrays = [space.array(np.arange(3 * RAM // 8))]
        sums: list[int] = []
        steps = [0]

        def add() -> None:
            # NumPy lets go of the interpreter's lock for this.
            sums.append(int(np.add.reduce(arrays[0])))

        def step() -> None:
            steps[0] += 1
            time.sleep(0)

        race([add, add, step], lambda: len(sums) >= 6)
        assert len(sums) >= 6
        assert set(sums) == {int(np.arange(3 * RAM // 8).sum())}
        assert steps[0] > 100
        arrays.clear()
        space.close()


def test_an_error_of_ours_is_a_frontswap_error() -> None:
    with pytest.raises(FrontswapError), Space(RAM, swap=None) as space:
        space.zeros(2**60)
