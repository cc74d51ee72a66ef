"""State machines: random operations on a backend or a chain, compared with a dictionary after every step.

The dictionary is the specification. After each step every accepted page loads bit for bit, everything else is
missing, the number of pages is the dictionary's, and every counter went up by exactly what happened. A failing run is
reduced by Hypothesis to a short list of steps, which it prints.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Final, TypeVar, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from frontswap import PAGE_SIZE, Backend, Frontswap
from frontswap.errors import DrainIncompleteError, PageCorruptError, PageUnreadableError
from frontswap.testing.checks import (
    UNTOUCHED,
    check_answer,
    check_error_names,
    describe_difference,
    eventually,
    offer,
    read,
)
from frontswap.testing.pages import pages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from frontswap import Answer
    from frontswap.testing.dict_backend import Key

T = TypeVar("T")

PROFILES: Final = {
    "default": {"max_examples": 12, "stateful_step_count": 30},
    "long": {"max_examples": 300, "stateful_step_count": 100},
}
PROFILE_VARIABLE: Final = "FRONTSWAP_HYPOTHESIS_PROFILE"

AREA_PAGES: Final = 1 << 20
OFFSETS: Final = (0, 1, 127, 128, 70_000, AREA_PAGES - 1)
"""Neighbours, both sides of a boundary, and far ones: few, so that keys are met again."""

BACKENDS_MAX: Final = 4

_numbers = itertools.count()

# Hypothesis repeats and varies runs, so what it draws must not depend on answers that may differ from run to run (a
# rejection at random, a page that a thread moved): a step draws a number, and picks from what there is with it.
_which = st.integers(0, 255)


def _pick(items: Sequence[T], which: int) -> Sequence[T]:
    """Return one of the items, or none when there are none."""
    index = which % max(1, len(items))
    return items[index : index + 1]


def run_machine(machine: Callable[[], RuleBasedStateMachine], *, shortens: bool = True) -> None:
    """Run a state machine as a test.

    Args:
        machine: Makes a fresh machine; called once for every example.
        shortens: Whether a failing run is reduced to the fewest steps that fail, which may take a minute.

    Raises:
        ValueError: The environment variable `FRONTSWAP_HYPOTHESIS_PROFILE` names no profile. It can be `default`
            (a second or two) or `long`.

    Example:
        >>> from frontswap import PlainRam
        >>> run_machine(lambda: BackendMachine(PlainRam("1MiB"), has_capacity=True))
    """
    name = os.environ.get(PROFILE_VARIABLE, "default")
    if name not in PROFILES:
        message = f"{PROFILE_VARIABLE} is `{name}`; known: {', '.join(f'`{known}`' for known in PROFILES)}"
        raise ValueError(message)
    phases = [phase for phase in Phase if shortens or phase is Phase.generate]
    profile = settings(
        phases=phases,
        report_multiple_bugs=False,
        max_examples=PROFILES[name]["max_examples"],
        stateful_step_count=PROFILES[name]["stateful_step_count"],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    # It takes whatever makes a machine, as its documentation says; its annotation has only classes.
    run_state_machine_as_test(cast("type[RuleBasedStateMachine]", machine), settings=profile)


class BackendMachine(RuleBasedStateMachine):
    """Random operations on one backend (rules B1 to B8).

    Args:
        backend: The backend; it may be the same for every example, because each uses areas of its own and invalidates
            them in the end.
        volatile: It can lose pages: then a load may say missing.
        has_capacity: Its capacity may be changed.

    Example:
        >>> from frontswap import CompressedRam
        >>> run_machine(lambda: BackendMachine(CompressedRam("1MiB"), has_capacity=True))
    """

    def __init__(self, backend: Backend, *, volatile: bool = False, has_capacity: bool = False) -> None:
        super().__init__()
        self.backend = backend
        self.volatile = volatile
        self.has_capacity = has_capacity
        self.held: dict[Key, bytes] = {}
        # 16 bits of areas, two for an example.
        number = next(_numbers) % 30_000
        self.areas = (2 * number + 1, 2 * number + 2)
        self.open = set(self.areas)
        for area in self.areas:
            backend.init(area, AREA_PAGES)
        self.whole = backend.capacity

    @rule(area=st.integers(0, 1), offset=st.sampled_from(OFFSETS), page=pages())
    def store(self, area: int, offset: int, page: bytes) -> None:
        """Store a page, over another if there is one (rules B1, B3, B4)."""
        key = (self.areas[area], offset)
        self.held.pop(key, None)
        answer = offer(self.backend, key, page)
        if answer:
            assert key[0] in self.open, "a store to an invalidated area was accepted (rule B6)"
            self.held[key] = page
        else:
            assert read(self.backend, key) is None, f"a store of {key} was rejected and an old copy loads (rule B4)"

    @rule(which=_which, page=pages())
    def overwrite(self, which: int, page: bytes) -> None:
        """Store over a page that is held, if there is one (rule B4)."""
        for area, offset in _pick(sorted(self.held), which):
            self.store(self.areas.index(area), offset, page)

    @rule(area=st.integers(0, 1), offset=st.sampled_from(OFFSETS))
    def invalidate_page(self, area: int, offset: int) -> None:
        """Forget a page that may be held or not (rule B6)."""
        self.backend.invalidate_page(self.areas[area], offset)
        self.held.pop((self.areas[area], offset), None)

    @rule(which=_which)
    def invalidate_held_page(self, which: int) -> None:
        """Forget a page that is held, if there is one (rule B6)."""
        for key in _pick(sorted(self.held), which):
            self.backend.invalidate_page(*key)
            del self.held[key]

    @rule(area=st.integers(0, 1))
    def invalidate_area(self, area: int) -> None:
        """Forget an area (rule B6)."""
        self.backend.invalidate_area(self.areas[area])
        self.open.discard(self.areas[area])
        self.held = {key: page for key, page in self.held.items() if key[0] != self.areas[area]}

    @rule()
    def init_again(self) -> None:
        """Begin the areas that were invalidated again; they are empty (rule B6)."""
        for area in self.areas:
            if area not in self.open:
                self.backend.init(area, AREA_PAGES)
        self.open = set(self.areas)

    @precondition(lambda self: self.has_capacity)
    @rule(capacity=st.sampled_from([PAGE_SIZE, 5 * PAGE_SIZE, 100_000, None]))
    def set_capacity(self, capacity: int | None) -> None:
        """Change the capacity, also to below what is held, and back (rule B7)."""
        self.backend.capacity = self.whole if capacity is None else capacity

    @invariant()
    def agrees_with_the_dictionary(self) -> None:
        """Every key of the dictionary loads bit for bit, no other key loads (rules B2, B4, B5, B6, B8)."""
        for area in self.areas:
            for offset in OFFSETS:
                key = (area, offset)
                found, expected = read(self.backend, key), self.held.get(key)
                if expected is None:
                    assert found is None, f"page {key} is not held and loads"
                elif not (self.volatile and found is None):
                    assert found == expected, describe_difference(key, expected, found)

    def teardown(self) -> None:
        """Leave the backend as it was."""
        if self.has_capacity:
            self.backend.capacity = self.whole
        for area in self.areas:
            self.backend.invalidate_area(area)


class FrontswapMachine(RuleBasedStateMachine):
    """Random operations on a chain (rules F1 to F12, and B1 to B10 through it).

    Backends are added and removed, capacities go up and down, and the chain is shrunk, all while pages are held.

    Args:
        make_frontswap: Makes the chain; the machine closes it in the end.
        make_backend: Makes one more backend for the chain; it must not be slow. Without it none is added.
        is_writethrough: The chain writes through.
        exclusive_loads: The chain forgets pages that it loads.
        has_faults: Some backend gives errors on load or spoils pages: then a load may raise, but what it
            returns is right.

    Example:
        >>> from frontswap import CompressedRam, PlainRam
        >>> run_machine(
        ...     lambda: FrontswapMachine(
        ...         lambda: Frontswap([CompressedRam("64KiB"), PlainRam("1MiB")]),
        ...         make_backend=lambda: PlainRam("256KiB"),
        ...     )
        ... )
    """

    def __init__(
        self,
        make_frontswap: Callable[[], Frontswap],
        *,
        make_backend: Callable[[], Backend] | None = None,
        is_writethrough: bool = False,
        exclusive_loads: bool = False,
        has_faults: bool = False,
    ) -> None:
        super().__init__()
        self.fs = make_frontswap()
        self.make_backend = make_backend
        self.is_writethrough = is_writethrough
        self.exclusive_loads = exclusive_loads
        self.has_faults = has_faults
        self.held: dict[Key, bytes] = {}
        self.expected: Counter[str] = Counter()
        self.areas = (0, 65_535)
        self.open: set[int] = set()
        self.init_again()

    # Operations of a front end.

    @rule(area=st.sampled_from([0, 65_535]), offset=st.sampled_from(OFFSETS), page=pages())
    def store(self, area: int, offset: int, page: bytes) -> None:
        """Offer a page, over another if there is one (rules F1, F2, F4, F5, B1, B3, B4)."""
        key = (area, offset)
        self.held.pop(key, None)
        answer = offer(self.fs, key, page)
        self.expected["succ_stores" if answer else "failed_stores"] += 1
        self._check_store_answer(answer, area, is_same_filled=page == page[:8] * (PAGE_SIZE // 8))
        if answer:
            self.held[key] = page

    @rule(which=_which, page=pages())
    def overwrite(self, which: int, page: bytes) -> None:
        """Offer a page for a key that is held, if there is one (rules F2, B4)."""
        for area, offset in _pick(sorted(self.held), which):
            self.store(area, offset, page)

    def _check_store_answer(self, answer: Answer, area: int, *, is_same_filled: bool) -> None:
        check_answer(answer)
        if not answer:
            self.expected[f"reject_{answer.reason}"] += 1
            assert (answer.reason == "no_backend") == (not self.fs.backends)
            assert (answer.reason == "no_area") == (area not in self.open and bool(self.fs.backends))
            return
        assert area in self.open, "a store to an invalidated area was accepted (rule B6)"
        names = [backend.name for backend in self.fs.backends]
        assert answer.backend is None if is_same_filled else answer.backend in names

    @rule(which=_which, exclusive=st.sampled_from([None, False, True]))
    def load(self, which: int, exclusive: bool | None) -> None:  # noqa: FBT001 - drawn by Hypothesis
        """Load a page that is held, if there is one; an exclusive load forgets it (rules F7, B5)."""
        forgets = self.exclusive_loads if exclusive is None else exclusive
        for key in _pick(sorted(self.held), which):
            if self._check_load(key, exclusive=exclusive) and forgets:
                del self.held[key]

    @rule(area=st.sampled_from([0, 65_535]), offset=st.sampled_from(OFFSETS))
    def invalidate_page(self, area: int, offset: int) -> None:
        """Forget a page that may be held or not (rule B6)."""
        self.expected["invalidates"] += (area, offset) in self.held
        self.held.pop((area, offset), None)
        self.fs.invalidate_page(area, offset)

    @rule(which=_which)
    def invalidate_held_page(self, which: int) -> None:
        """Forget a page that is held, if there is one (rule B6)."""
        for key in _pick(sorted(self.held), which):
            self.expected["invalidates"] += 1
            del self.held[key]
            self.fs.invalidate_page(*key)

    @rule(area=st.sampled_from([0, 65_535]))
    def invalidate_area(self, area: int) -> None:
        """Forget an area (rule B6)."""
        self.expected["invalidates"] += sum(key[0] == area for key in self.held)
        self.held = {key: page for key, page in self.held.items() if key[0] != area}
        self.open.discard(area)
        self.fs.invalidate_area(area)

    @rule()
    def init_again(self) -> None:
        """Begin the areas that are not open; they are empty (rule B6)."""
        for area in self.areas:
            if area not in self.open:
                self.fs.init(area, AREA_PAGES)
        self.open = set(self.areas)

    @rule(target_pages=st.integers(0, 8), takes=st.integers(0, 8))
    def shrink_to_front_end(self, target_pages: int, takes: int) -> None:
        """Pull pages back; the front end takes no more than `takes` (rule F8)."""
        offered: dict[Key, bytes] = {}
        before = len(self.held)

        def pull(area: int, offset: int, page: bytes) -> bool:
            offered[area, offset] = bytes(page)
            return len(offered) <= takes

        is_whole = True
        try:
            reached = self.fs.shrink(target_pages, pull)
        except (PageUnreadableError, PageCorruptError):
            assert self.has_faults
            reached, is_whole = self.fs.curr_pages(), False
        for index, (key, page) in enumerate(offered.items()):
            assert page == self.held[key], describe_difference(key, self.held[key], page)
            if index < takes:
                del self.held[key]
        assert reached == len(self.held)
        assert not is_whole or reached == max(min(before, target_pages), before - takes)

    @rule(target_pages=st.integers(0, 8))
    def shrink_to_slow_swap(self, target_pages: int) -> None:
        """Send pages down into the slow swap, as far as it takes them (rule F8)."""
        reached = self.fs.shrink(target_pages)
        backends = self.fs.backends
        slow = backends[-1] if backends and backends[-1].slow else None
        assert reached <= len(self.held)
        if slow is None:
            assert reached == len(self.held)

    # What an operator does.

    @rule(which=_which, capacity=st.sampled_from([PAGE_SIZE, 5 * PAGE_SIZE, 100_000, 1 << 20]))
    def set_capacity(self, which: int, capacity: int) -> None:
        """Change a capacity, also to below what is held (rule B7)."""
        for backend in _pick(self.fs.backends, which):
            backend.capacity = capacity

    @precondition(lambda self: self.make_backend is not None)
    @rule(which=_which)
    def add_backend(self, which: int) -> None:
        """Add a backend somewhere above the slow swap (rule F10)."""
        backends = self.fs.backends
        if self.make_backend is None or len(backends) >= BACKENDS_MAX:
            return
        ends_slow = bool(backends) and backends[-1].slow
        self.fs.add_backend(self.make_backend(), which % (len(backends) - ends_slow + 1))

    @rule(which=_which)
    def remove_backend(self, which: int) -> None:
        """Remove a backend; when its pages fit nowhere else it stays, and nothing is lost (rule F10)."""
        before = self.fs.backends
        for victim in _pick(before, which):
            if self.is_writethrough and victim.slow:
                return
            try:
                self.fs.remove_backend(victim)
            except DrainIncompleteError:
                assert self.fs.backends == before
                assert victim.state == "ready"
            else:
                assert self.fs.backends == tuple(other for other in before if other is not victim)
                assert victim.stats().stored_pages == 0
                victim.close()

    # What holds after every step.

    @invariant()
    def every_page_loads(self) -> None:
        """Every accepted page loads bit for bit, everything else is missing (rules B2, B4, B6, F2)."""
        for area in self.areas:
            for offset in OFFSETS:
                if (area, offset) in self.held:
                    self._check_load((area, offset), exclusive=False)
                else:
                    out = bytearray(UNTOUCHED)
                    assert not self.fs.load(area, offset, out, exclusive=False), f"page {area, offset} is not held"
                    assert out == UNTOUCHED, f"load of {area, offset} said missing and wrote to the buffer (rule B10)"
                    self.expected["loads_missing"] += 1

    @invariant()
    def pages_are_counted(self) -> None:
        """`curr_pages` is exact, for the chain and for each backend (rules F2, F9, B8)."""
        assert self.fs.curr_pages() == len(self.held)
        stats = self.fs.stats()
        assert stats.stored_pages == len(self.held)
        for area, counts in stats.areas.items():
            assert counts.stored_pages == sum(key[0] == area for key in self.held)
        same_filled = sum(page == page[:8] * (PAGE_SIZE // 8) for page in self.held.values())
        assert stats.same_filled_pages == same_filled
        # The worker may move a page between two readings; when it is done, the sum is exact.
        assert eventually(lambda: self._is_each_page_somewhere(len(self.held) - same_filled)), self.fs.stats().backends

    def _is_each_page_somewhere(self, in_backends: int) -> bool:
        counts = [backend.stats().stored_pages for backend in self.fs.backends]
        if self.is_writethrough:
            return counts[-1] == in_backends and sum(counts[:-1]) <= in_backends
        return sum(counts) == in_backends

    @invariant()
    def events_are_counted_once(self) -> None:
        """Every counter went up by exactly what happened (rule B8)."""
        stats = self.fs.stats()
        names = ["loads", "loads_missing", "load_errors", "succ_stores", "failed_stores", "invalidates"]
        names += [field.name for field in fields(stats) if field.name.startswith("reject_")]
        counted = {name: getattr(stats, name) for name in names}
        assert counted == {name: self.expected[name] for name in names}

    def _check_load(self, key: Key, *, exclusive: bool | None) -> bool:
        """Load a page that is held. False when a fault was reported instead; then it is still held."""
        out = bytearray(UNTOUCHED)
        try:
            loaded = self.fs.load(*key, out, exclusive=exclusive)
        except (PageUnreadableError, PageCorruptError) as error:
            check_error_names(error, key, [backend.name for backend in self.fs.backends])
            assert self.has_faults
            assert out == UNTOUCHED, "bytes were returned together with an error (rule B10)"
            self.expected["load_errors"] += 1
            return False
        self.expected["loads"] += 1
        assert loaded, describe_difference(key, self.held[key], None)
        assert out == self.held[key], describe_difference(key, self.held[key], bytes(out))
        return True

    def teardown(self) -> None:
        """Close the chain."""
        self.fs.close()
