"""The conformance kit can fail: for every rule there is something that breaks it, and the rule's test says so."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from frontswap import ACCEPTED, PAGE_SIZE, Answer, Backend, Frontswap, rejected
from frontswap.testing import BackendMachine, BackendTests, DictBackend, FrontswapMachine, FrontswapTests, run_machine
from frontswap.testing.frontswap_tests import open_chains

if TYPE_CHECKING:
    from collections.abc import Callable

    from frontswap.stats import BackendStats


class KeepsTheBuffer(DictBackend):
    """Breaks B1: it remembers where the page was, and copies it when asked."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        self.pages[area, offset] = memoryview(page)  # type: ignore[assignment]
        return ACCEPTED


class Evicts(DictBackend):
    """Breaks B2: a cache of 100 pages."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        answer = super().store(area, offset, page)
        if len(self.pages) > 100:
            del self.pages[next(iter(self.pages))]
        return answer


class RaisesToReject(DictBackend):
    """Breaks B3: a rejection is an exception."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        if area not in self.areas:
            raise LookupError(area)
        return super().store(area, offset, page)


class AnswersTrue(DictBackend):
    """Breaks B3: its answer has no reason."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        return bool(super().store(area, offset, page))  # type: ignore[return-value]


class LogsRejections(DictBackend):
    """Breaks B3: one line of log for every page that it does not take."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        answer = super().store(area, offset, page)
        if not answer:
            logging.getLogger("wrong").warning("rejected page %d", offset)
        return answer


class TakesNothing(DictBackend):
    """Breaks what its test class promises: it accepts nothing."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        return rejected()


class KeepsTheOldOnReject(DictBackend):
    """Breaks B4: it has a bad day now and then, and the old copy stays."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        if bytes(page[:1]) < b"\x40":
            return rejected()
        return super().store(area, offset, page)


class KeepsTheFirst(DictBackend):
    """Breaks B4: an overwrite is accepted and ignored."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        return ACCEPTED if (area, offset) in self.pages else super().store(area, offset, page)


class LoadsOnce(DictBackend):
    """Breaks B5: a load takes the page out."""

    def load(self, area: int, offset: int, out: Any) -> bool:
        loaded = super().load(area, offset, out)
        self.pages.pop((area, offset), None)
        return loaded


class ForgetsToForget(DictBackend):
    """Breaks B6: invalidate_page does nothing for every eighth page."""

    def invalidate_page(self, area: int, offset: int) -> None:
        if offset % 8:
            super().invalidate_page(area, offset)


class FailsToForget(DictBackend):
    """Breaks B6: forgetting what is not held is an error."""

    def invalidate_page(self, area: int, offset: int) -> None:
        del self.pages[area, offset]


class TakesPagesOfAClosedArea(DictBackend):
    """Breaks B6: an invalidated area takes pages without `init`."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        self.areas.add(area)
        return super().store(area, offset, page)


class RemembersAreas(DictBackend):
    """Breaks B6: the pages of an area come back with the next `init`."""

    def __init__(self) -> None:
        super().__init__()
        self.old: dict[tuple[int, int], bytes] = {}

    def init(self, area: int, pages: int) -> None:
        super().init(area, pages)
        self.pages |= {key: page for key, page in self.old.items() if key[0] == area}

    def invalidate_area(self, area: int) -> None:
        self.old |= self.pages
        super().invalidate_area(area)


class WithCapacity(DictBackend):
    """A right backend with a capacity that it keeps itself, for the wrong ones below."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 4 << 20

    @property
    def capacity(self) -> int:
        return self.limit

    @capacity.setter
    def capacity(self, capacity: int | str) -> None:
        self.limit = int(capacity)
        Backend.capacity.fset(self, capacity)  # type: ignore[attr-defined]

    def store(self, area: int, offset: int, page: Any) -> Answer:
        self.pages.pop((area, offset), None)
        if (len(self.pages) + 1) * PAGE_SIZE > self.limit:
            return rejected("full")
        return super().store(area, offset, page)

    def stats(self) -> BackendStats:
        return dataclasses.replace(super().stats(), mem_used_total=len(self.pages) * PAGE_SIZE)


class ShrinksByDropping(WithCapacity):
    """Breaks B7: pages that no longer fit are dropped."""

    @property
    def capacity(self) -> int:
        return self.limit

    @capacity.setter
    def capacity(self, capacity: int | str) -> None:
        self.limit = int(capacity)
        while len(self.pages) * PAGE_SIZE > self.limit:
            self.pages.popitem()


class IgnoresCapacity(WithCapacity):
    """Breaks B7: it goes on as if nothing had been said."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        return DictBackend.store(self, area, offset, page)


class StaysBehind(DictBackend):
    """Breaks B7: its last page cannot be handed on."""

    def load(self, area: int, offset: int, out: Any) -> bool:
        if area == 2 and offset == 5:
            raise OSError("no")
        return super().load(area, offset, out)


class CountsTwice(DictBackend):
    """Breaks B8: an overwrite counts as two stores."""

    def stats(self) -> BackendStats:
        stats = super().stats()
        return dataclasses.replace(stats, succ_stores=stats.succ_stores + stats.invalidates)


class CountsStores(DictBackend):
    """Breaks B8: `stored_pages` is the number of stores."""

    def stats(self) -> BackendStats:
        stats = super().stats()
        return dataclasses.replace(stats, stored_pages=stats.succ_stores)


class SharesABuffer(DictBackend):
    """Breaks B9: every call goes through one buffer, without a lock."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray(PAGE_SIZE)

    def store(self, area: int, offset: int, page: Any) -> Answer:
        self.buffer[:] = page
        time.sleep(0)
        return super().store(area, offset, self.buffer)


class ZeroesWhenMissing(DictBackend):
    """Breaks B10: what it does not have becomes zeroes."""

    def load(self, area: int, offset: int, out: Any) -> bool:
        memoryview(out)[:] = bytes(PAGE_SIZE)
        return super().load(area, offset, out)


class LoadsHalf(DictBackend):
    """Breaks B10: it leaves the zeroes at a page's end to whoever gave the buffer."""

    def load(self, area: int, offset: int, out: Any) -> bool:
        page = self.pages.get((area, offset))
        if page is not None:
            short = page.rstrip(b"\0")
            memoryview(out)[: len(short)] = short
        return page is not None


class KeepsEverything(DictBackend):
    """Breaks B11: what is forgotten still takes memory."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[tuple[int, int]] = []

    def store(self, area: int, offset: int, page: Any) -> Answer:
        self.history.append((area, offset))
        return super().store(area, offset, page)


class TakesRoomForAnArea(DictBackend):
    """Breaks B11: a byte for every 1024 pages that an area may have."""

    def init(self, area: int, pages: int) -> None:
        super().init(area, pages)
        self.bitmap = bytearray(pages // 1024)


class CountsHalf(WithCapacity):
    """Breaks B11: it counts half of the memory that it uses."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        self.pages.pop((area, offset), None)
        if (len(self.pages) + 1) * PAGE_SIZE // 2 > self.limit:
            return rejected("full")
        return DictBackend.store(self, area, offset, page)

    def stats(self) -> BackendStats:
        return dataclasses.replace(super().stats(), mem_used_total=len(self.pages) * PAGE_SIZE // 2)


class WrongKit(BackendTests):
    """The kit for backends without a capacity of their own."""


class WrongCapacityKit(BackendTests):
    """The kit for backends that keep a capacity."""

    has_capacity = True


WRONG_BACKENDS: list[tuple[str, type[DictBackend]]] = [
    ("test_b1_copy", KeepsTheBuffer),
    ("test_b2_keep", Evicts),
    ("test_b3_reject_freely", RaisesToReject),
    ("test_b3_reject_freely", AnswersTrue),
    ("test_b3_reject_freely", LogsRejections),
    ("test_b3_reject_freely", TakesNothing),
    ("test_b4_no_stale_data", KeepsTheOldOnReject),
    ("test_b4_no_stale_data", KeepsTheFirst),
    ("test_b5_load_leaves_it", LoadsOnce),
    ("test_b6_invalidate_is_final", ForgetsToForget),
    ("test_b6_invalidate_is_final", FailsToForget),
    ("test_b6_invalidate_is_final", TakesPagesOfAClosedArea),
    ("test_b6_invalidate_is_final", RemembersAreas),
    ("test_b7_size_moves", ShrinksByDropping),
    ("test_b7_size_moves", IgnoresCapacity),
    ("test_b7_size_moves", StaysBehind),
    ("test_b8_exact_counts", CountsTwice),
    ("test_b8_exact_counts", CountsStores),
    ("test_b9_concurrency", SharesABuffer),
    ("test_b10_wrong_data_is_worse_than_none", ZeroesWhenMissing),
    ("test_b10_wrong_data_is_worse_than_none", LoadsHalf),
    ("test_b11_bounded", KeepsEverything),
    ("test_b11_bounded", TakesRoomForAnArea),
    ("test_b11_bounded", CountsHalf),
]


def rule_tests(kit: type) -> set[str]:
    return {name for name in dir(kit) if re.match(r"test_[bf]\d+_", name)}


def run_backend_test(test: str, backend: DictBackend, caplog: object, capfd: object) -> None:
    kit = WrongCapacityKit() if isinstance(backend, WithCapacity) else WrongKit()
    arguments = (caplog, capfd) if test == "test_b3_reject_freely" else ()
    getattr(kit, test)(backend, *arguments)


def test_every_rule_of_a_backend_has_something_that_breaks_it() -> None:
    assert {test for test, _ in WRONG_BACKENDS} == rule_tests(BackendTests)
    assert {re.split("_", test)[1] for test, _ in WRONG_BACKENDS} == {f"b{number}" for number in range(1, 12)}


@pytest.mark.parametrize(("test", "wrong"), WRONG_BACKENDS, ids=[wrong.__name__ for _, wrong in WRONG_BACKENDS])
def test_a_wrong_backend_is_caught_by_the_test_of_its_rule(
    test: str, wrong: type[DictBackend], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    assert f"Breaks {test.split('_')[1].upper()}" in (wrong.__doc__ or "") or wrong is TakesNothing
    with pytest.raises((AssertionError, LookupError, BufferError, MemoryError, RuntimeError)) as caught:
        run_backend_test(test, wrong(), caplog, capfd)
    # Caught by a check of the kit or by what the wrong backend raised; not by a slip of ours.
    assert not isinstance(caught.value, (AttributeError, TypeError, NameError))


@pytest.mark.parametrize("right", [DictBackend, WithCapacity])
@pytest.mark.parametrize("test", sorted(rule_tests(BackendTests)))
def test_what_the_wrong_ones_are_made_of_is_right(
    test: str, right: type[DictBackend], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    run_backend_test(test, right(), caplog, capfd)


@pytest.mark.parametrize(
    "wrong",
    [KeepsTheOldOnReject, KeepsTheFirst, LoadsOnce, ForgetsToForget, RemembersAreas, ZeroesWhenMissing, LoadsHalf],
)
def test_the_machine_catches_a_wrong_backend(wrong: type[DictBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_HYPOTHESIS_PROFILE", "long")
    with pytest.raises(AssertionError):
        run_machine(lambda: BackendMachine(wrong()), shortens=False)


# Wrong chains: `Frontswap` with one rule broken from outside.


class OffersBackwards(Frontswap):
    """Breaks F1."""

    def __init__(self, backends: Any = (), **options: Any) -> None:
        super().__init__(
            sorted(backends, key=lambda backend: (backend.slow, "abc".find(backend.place) * -1)), **options
        )


class StoresTwice(Frontswap):
    """Breaks F2."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        answer = super().store(area, offset, page)
        for backend in self.backends:
            if isinstance(backend, DictBackend):
                backend.pages[area, offset] = bytes(page)
        return answer


class AsksEverybody(Frontswap):
    """Breaks F3."""

    def load(self, area: int, offset: int, out: Any, *, exclusive: bool | None = None) -> bool:
        for backend in self.backends:
            if isinstance(backend, DictBackend):
                backend.load(area, offset, bytearray(PAGE_SIZE))
        return super().load(area, offset, out, exclusive=exclusive)


class AlwaysSaysYes(Frontswap):
    """Breaks F4 and F12."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        return super().store(area, offset, page) or ACCEPTED


class SendsWordsDown(Frontswap):
    """Breaks F5."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        answer = super().store(area, offset, page)
        if answer.backend is None and isinstance(self.backends[0], DictBackend):
            self.backends[0].store(area, offset, page)
        return answer


class WritesNothingThrough(Frontswap):
    """Breaks F6."""

    def store(self, area: int, offset: int, page: Any) -> Answer:
        answer = super().store(area, offset, page)
        self.backends[-1].invalidate_page(area, offset)
        return answer


class NeverForgets(Frontswap):
    """Breaks F7."""

    def load(self, area: int, offset: int, out: Any, *, exclusive: bool | None = None) -> bool:
        return super().load(area, offset, out, exclusive=False)


class OnlyPromisesToShrink(Frontswap):
    """Breaks F8."""

    def shrink(self, target_pages: int, pull: Any = None) -> int:
        return min(target_pages, self.curr_pages())


class CountsWithoutCare(Frontswap):
    """Breaks F9."""

    def curr_pages(self) -> int:
        return self.stats().succ_stores


class RemovesWithoutDraining(Frontswap):
    """Breaks F10."""

    def remove_backend(self, backend: Backend) -> None:
        for area in self.stats().areas:
            for offset in range(64):
                self.invalidate_page(area, offset)
        super().remove_backend(backend)


class DiskFirst(Frontswap):
    """Breaks F11: new pages go past the fast backend."""

    def __init__(self, backends: Any = (), **options: Any) -> None:
        super().__init__([backend for backend in backends if backend.slow], **options)


class NoBudget(Frontswap):
    """Breaks the budgets of F11."""

    def __init__(self, backends: Any = (), **options: Any) -> None:
        super().__init__(backends, **(options | {"promote_limit": None, "demote_limit": None}))


WRONG_CHAINS: list[tuple[str, type[Frontswap]]] = [
    ("test_f1_order", OffersBackwards),
    ("test_f2_one_copy", StoresTwice),
    ("test_f3_map", AsksEverybody),
    ("test_f4_all_reject", AlwaysSaysYes),
    ("test_f5_same_filled", SendsWordsDown),
    ("test_f6_writethrough", WritesNothingThrough),
    ("test_f7_exclusive_loads", NeverForgets),
    ("test_f8_shrink", OnlyPromisesToShrink),
    ("test_f9_curr_pages_is_exact", CountsWithoutCare),
    ("test_f10_come_and_go", RemovesWithoutDraining),
    ("test_f11_demotion_and_promotion", DiskFirst),
    ("test_f11_budget_of_promotion", NoBudget),
    ("test_f11_budget_of_demotion", NoBudget),
    ("test_f12_off_is_free", AlwaysSaysYes),
]


def run_chain_test(test: str, factory: Callable[..., Frontswap]) -> None:
    with open_chains(factory) as make:
        getattr(FrontswapTests(), test)(make)


def test_every_rule_of_the_chain_has_something_that_breaks_it() -> None:
    assert {test for test, _ in WRONG_CHAINS} == {name for name in rule_tests(FrontswapTests) if name[5] == "f"}
    assert {test.split("_")[1] for test, _ in WRONG_CHAINS} == {f"f{number}" for number in range(1, 13)}


@pytest.mark.parametrize(
    ("test", "wrong"), WRONG_CHAINS, ids=[f"{test[5:8]}-{wrong.__name__}" for test, wrong in WRONG_CHAINS]
)
def test_a_wrong_chain_is_caught_by_the_test_of_its_rule(test: str, wrong: type[Frontswap]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_chain_test(test, wrong)


@pytest.mark.parametrize(
    "wrong", [AlwaysSaysYes, NeverForgets, OnlyPromisesToShrink, CountsWithoutCare, RemovesWithoutDraining]
)
def test_the_machine_catches_a_wrong_chain(wrong: type[Frontswap], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_HYPOTHESIS_PROFILE", "long")

    def make() -> Frontswap:
        return wrong([DictBackend("a"), DictBackend("b", slow=True)])

    with pytest.raises(AssertionError):
        run_machine(lambda: FrontswapMachine(make, make_backend=lambda: DictBackend("c")), shortens=False)
