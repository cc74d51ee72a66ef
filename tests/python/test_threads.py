"""Several Python threads use one chain at once, while its capacity and its backends change."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from frontswap import CompressedRam, Frontswap, PlainRam, SwapFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THREADS = 4
PAGES_EACH = 150
ROUNDS = 6


def test_pages_come_back_while_everything_changes(tmp_path: Path, make_page: Callable[[int], bytes]) -> None:
    stop = threading.Event()
    with Frontswap([CompressedRam("1MiB"), SwapFile(tmp_path, size="16MiB", direct=False)]) as fs:
        fs.init(0, pages=THREADS * PAGES_EACH)

        def work(number: int) -> int:
            rng = random.Random(number)
            offsets = range(number * PAGES_EACH, (number + 1) * PAGES_EACH)
            expected: dict[int, bytes] = {}
            out = bytearray(4096)
            for _ in range(ROUNDS):
                for offset in rng.sample(offsets, PAGES_EACH):
                    if rng.random() < 0.2:
                        fs.invalidate_page(0, offset)
                        expected.pop(offset, None)
                    else:
                        page = make_page(rng.randrange(10**9))
                        assert fs.store(0, offset, page)
                        expected[offset] = page
                for offset in rng.sample(offsets, PAGES_EACH):
                    assert fs.load(0, offset, out) == (offset in expected)
                    assert out == expected.get(offset, out)
            return len(expected)

        def change() -> int:
            rng, changes = random.Random(0), 0
            while not stop.is_set():
                fs.backends[0].capacity = rng.choice(["16KiB", "256KiB", "1MiB"])
                extra = PlainRam("256KiB")
                fs.add_backend(extra, position=1)
                fs.stats()
                fs.remove_backend(extra)
                extra.close()
                changes += 1
                time.sleep(0.001)
            return changes

        with ThreadPoolExecutor(THREADS + 1) as threads:
            changing = threads.submit(change)
            held = sum(threads.map(work, range(THREADS)))
            stop.set()
            assert changing.result() > 0
        assert fs.curr_pages() == held == fs.stats().stored_pages
        assert [backend.kind for backend in fs.backends] == ["zpool", "file"]


def test_the_interpreter_runs_on_during_a_call(tmp_path: Path) -> None:
    """A call lets other threads of Python run: here a store that a backend delays."""
    from frontswap import FaultInject

    with Frontswap([FaultInject(PlainRam("1MiB"), delay_us=200_000)]) as fs:
        fs.init(0, 10)
        ticks = 0
        thread = threading.Thread(target=fs.store, args=(0, 0, bytes(range(256)) * 16))
        thread.start()
        while thread.is_alive():
            ticks += 1
            time.sleep(0.005)
        thread.join()
        assert ticks >= 10
        assert fs.curr_pages() == 1


def test_backends_are_added_and_removed_by_many_at_once() -> None:
    with Frontswap() as fs:

        def come_and_go(_: int) -> None:
            for _ in range(10):
                backend = PlainRam("64KiB")
                fs.add_backend(backend)
                fs.remove_backend(backend)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(come_and_go, range(THREADS)))
        assert fs.backends == ()
