"""What the test classes share: storing and loading with every byte verified, and threads that check themselves.

Everything takes whatever has the five operations: a backend or a whole chain.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest

from frontswap import PAGE_SIZE, Answer
from frontswap._frontswap import REJECT_REASONS
from frontswap.testing.pages import PAGE_KINDS, make_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from typing_extensions import Buffer

    from frontswap import Frontswap, FrontswapError
    from frontswap.testing.dict_backend import Key

UNTOUCHED: Final = bytes(range(255, -1, -1)) * (PAGE_SIZE // 256)
"""What an out buffer holds before a load, to see whether the load wrote to it. No maker makes this page."""


class Store(Protocol):
    """Whatever has the operations of a backend."""

    def init(self, area: int, pages: int) -> None:
        """See `Backend.init`."""

    def store(self, area: int, offset: int, page: Buffer, /) -> Answer:
        """See `Backend.store`."""

    def load(self, area: int, offset: int, out: Buffer, /) -> bool:
        """See `Backend.load`."""

    def invalidate_page(self, area: int, offset: int) -> None:
        """See `Backend.invalidate_page`."""

    def invalidate_area(self, area: int) -> None:
        """See `Backend.invalidate_area`."""


def offer(target: Store, key: Key, page: bytes) -> Answer:
    """Store a page from a buffer that is wiped at once (rule B1), and check the form of the answer (rule B3)."""
    buffer = bytearray(page)
    answer = target.store(*key, buffer)
    buffer[:] = b"\xa5" * PAGE_SIZE
    check_answer(answer)
    return answer


def check_answer(answer: object) -> None:
    """Rule B3: an answer is accepted, or rejected with a reason that has a counter."""
    assert isinstance(answer, Answer), f"store returned {answer!r}; return ACCEPTED or rejected(reason) (rule B3)"
    assert bool(answer) == answer.accepted
    if answer:
        assert answer.reason is None
    else:
        assert answer.reason in REJECT_REASONS, f"no counter for the reason {answer.reason!r} (rule B3)"


def read(target: Store, key: Key) -> bytes | None:
    """Load a page; None when it is missing. A missing page leaves the buffer as it was (rule B10)."""
    out = bytearray(UNTOUCHED)
    loaded = target.load(*key, out)
    assert loaded is True or loaded is False, f"load of {key} returned {loaded!r}; return True or False"
    if not loaded:
        assert out == UNTOUCHED, f"load of {key} said missing and wrote to the buffer (rule B10)"
        return None
    return bytes(out)


def check_held(target: Store, held: Mapping[Key, bytes], *, may_miss: bool = False) -> None:
    """Rule B2: every page of `held` loads bit for bit; `may_miss` is for volatile backends."""
    for key, page in held.items():
        found = read(target, key)
        assert found == page or (may_miss and found is None), describe_difference(key, page, found)


def describe_difference(key: Key, expected: bytes, found: bytes | None) -> str:
    """Say in one line how a page differs from what was stored."""
    if found is None:
        return f"page {key} was accepted and is missing (rule B2)"
    first = next((index for index in range(PAGE_SIZE) if found[index] != expected[index]), None)
    what = "zeroes" if found == bytes(PAGE_SIZE) else "nothing but the buffer" if found == UNTOUCHED else "other bytes"
    return f"page {key} came back as {what}, first different at byte {first} (rules B2, B10)"


def check_error_names(error: FrontswapError, key: Key, backends: list[str]) -> None:
    """Rule B10: an error of a load names area, offset and backend, and says what to do."""
    text = str(error)
    assert f"area `{key[0]}`" in text, text
    assert f"page `{key[1]}`" in text, text
    assert any(f"`{name}`" in text for name in backends), text
    assert error.hint


def check_load_fails(fs: Frontswap, key: Key, kind: type[FrontswapError], backend: str) -> None:
    """Rule B10: a load of `key` is an error of that kind, and nothing is in the buffer."""
    out = bytearray(UNTOUCHED)
    with pytest.raises(kind) as caught:
        fs.load(*key, out)
    check_error_names(caught.value, key, [backend])
    assert out == UNTOUCHED, "bytes were returned together with an error (rule B10)"


def rss_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE_SIZE


def eventually(condition: Callable[[], bool], *, seconds: float = 5.0) -> bool:
    """Whether a condition comes true within `seconds`: for counts of several backends, read one after the other."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


@contextmanager
def frequent_switches() -> Iterator[None]:
    """Let the interpreter change threads every few microseconds, so that races in Python code show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def hammer(
    target: Store, area: int, *, threads: int, steps: int, keys: int, may_miss: bool = False
) -> dict[Key, bytes]:
    """Work on interleaved keys from several threads, each with a dictionary of its own (rule B9).

    Every load is verified at once. Returns what must be held in the end.
    """
    held: list[dict[Key, bytes]] = [{} for _ in range(threads)]
    problems: list[str] = []
    start = threading.Barrier(threads)
    # Made before the threads start, so that they spend their time in the target.
    stock = [make_page(kind, seed) for seed in range(6) for kind in PAGE_KINDS]

    def work(number: int) -> None:
        rng = random.Random(number)  # noqa: S311 - a schedule, not a secret
        own = held[number]
        start.wait()
        for _ in range(steps):
            key = (area, rng.randrange(keys) * threads + number)
            action = rng.random()
            if action < 0.5:
                page = rng.choice(stock)
                own.pop(key, None)
                if offer(target, key, page):
                    own[key] = page
            elif action < 0.9:
                found, expected = read(target, key), own.get(key)
                if found != expected and not (may_miss and found is None):
                    problems.append(f"thread {number}: " + _what_was_wrong(key, expected, found))
            else:
                target.invalidate_page(*key)
                own.pop(key, None)

    run_threads([partial(work, number) for number in range(threads)])
    assert not problems, f"{problems[0]} (and {len(problems) - 1} more; rule B9)"
    return {key: page for own in held for key, page in own.items()}


def _what_was_wrong(key: Key, expected: bytes | None, found: bytes | None) -> str:
    if expected is None:
        return f"page {key} is not held and loads"
    return describe_difference(key, expected, found)


def run_threads(jobs: Sequence[Callable[[], object]], *, seconds: float = 60.0) -> None:
    """Run each job on a thread of its own; what one of them raises is raised here."""
    errors: list[BaseException] = []

    def guard(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - it is handed to the caller's thread
            errors.append(error)

    workers = [threading.Thread(target=guard, args=(job,), daemon=True) for job in jobs]
    with frequent_switches():
        for worker in workers:
            worker.start()
        end = time.monotonic() + seconds
        for worker in workers:
            worker.join(max(0.0, end - time.monotonic()))
    assert not any(worker.is_alive() for worker in workers), f"a call did not return within {seconds} s (rule B9)"
    if errors:
        raise errors[0]
