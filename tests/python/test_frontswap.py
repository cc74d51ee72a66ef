"""A program's view: pages go in, come back bit for bit, move when a capacity changes, and are counted."""

from __future__ import annotations

import gc
import json
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from frontswap import Backend, CompressedRam, FaultInject, Frontswap, PlainRam, SwapFile, errors
from frontswap.stats import AreaStats, BackendStats, ChainStats, PoolStats

if TYPE_CHECKING:
    from collections.abc import Callable

PAGES = 300


def fill(fs: Frontswap, make_page: Callable[[int], bytes], pages: int = PAGES) -> None:
    for offset in range(pages):
        assert fs.store(0, offset, make_page(offset))


def assert_all(fs: Frontswap, make_page: Callable[[int], bytes], pages: int = PAGES) -> None:
    out = bytearray(4096)
    for offset in range(pages):
        assert fs.load(0, offset, out), offset
        assert out == make_page(offset), offset


def test_the_whole_life_of_a_chain(tmp_path: Path, make_page: Callable[[int], bytes]) -> None:
    with Frontswap([CompressedRam("8MiB"), SwapFile(tmp_path, size="8MiB", direct=False)]) as fs:
        fs.init(0, pages=1_000_000)
        fill(fs, make_page)
        assert fs.store(0, 17, make_page(17)).backend == "zpool"
        assert fs.curr_pages() == PAGES
        fs.invalidate_page(0, 17)
        assert not fs.load(0, 17, bytearray(4096))
        fs.store(0, 17, make_page(17))

        fs.backends[0].capacity = "64KiB"
        assert fs.backends[1].stats().stored_pages > PAGES / 2
        assert fs.curr_pages() == PAGES
        assert_all(fs, make_page)

        fs.remove_backend(fs.backends[0])
        fs.add_backend(PlainRam("8MiB"), position=0)
        assert [backend.kind for backend in fs.backends] == ["ram", "file"]
        assert_all(fs, make_page)

        assert fs.shrink(target_pages=100) <= 100
        taken: dict[int, bytes] = {}
        reached = fs.shrink(10, pull=lambda area, offset, page: taken.setdefault(offset, page) == page)
        assert reached == fs.curr_pages() == PAGES - len(taken) <= 10
        assert all(page == make_page(offset) for offset, page in taken.items())

        fs.invalidate_area(0)
        assert fs.curr_pages() == 0
        assert fs.store(0, 0, make_page(0)).reason == "no_area"
        fs.init(0, pages=10)
        assert fs.store(0, 0, make_page(0))


def test_an_answer_is_true_when_the_page_was_accepted() -> None:
    with Frontswap([PlainRam("64KiB")]) as fs:
        fs.init(0, 1000)
        answers = [fs.store(0, offset, os.urandom(4096)) for offset in range(100)]
    accepted = [answer for answer in answers if answer]
    rejected = [answer for answer in answers if not answer]
    assert {(answer.accepted, answer.backend, answer.reason) for answer in accepted} == {(True, "ram", None)}
    assert {(answer.accepted, answer.backend, answer.reason) for answer in rejected} == {(False, None, "full")}


def test_a_page_of_one_word_takes_no_backend() -> None:
    with Frontswap([PlainRam("64KiB")]) as fs:
        fs.init(0, 10)
        answer = fs.store(0, 3, b"8 bytes!" * 512)
        assert (answer.accepted, answer.backend) == (True, None)
        out = bytearray(4096)
        assert fs.load(0, 3, out)
        assert out == b"8 bytes!" * 512
        assert fs.stats().same_filled_pages == 1
        assert fs.backends[0].stats().stored_pages == 0


def test_without_backends_every_page_is_rejected() -> None:
    with Frontswap() as fs:
        fs.init(0, 10)
        assert fs.store(0, 0, os.urandom(4096)).reason == "no_backend"
        assert not fs.load(0, 0, bytearray(4096))


def test_any_buffer_of_a_page_will_do(make_page: Callable[[int], bytes]) -> None:
    import array
    import mmap

    page = make_page(1)
    with Frontswap([PlainRam("1MiB")]) as fs:
        fs.init(0, 10)
        area = mmap.mmap(-1, 8192)
        area[4096:] = page
        stored: list[Any] = [page, bytearray(page), memoryview(area)[4096:], array.array("d", page)]
        for offset, buffer in enumerate(stored):
            assert fs.store(0, offset, buffer)
        outs: list[Any] = [bytearray(4096), memoryview(area)[:4096], array.array("Q", bytes(4096))]
        for out in outs:
            for offset in range(4):
                assert fs.load(0, offset, out)
                assert bytes(out) == page


def test_exclusive_loads_hand_the_page_over(make_page: Callable[[int], bytes]) -> None:
    with Frontswap([PlainRam("1MiB")], exclusive_loads=True) as fs:
        fs.init(0, 10)
        fs.store(0, 0, make_page(0))
        assert fs.load(0, 0, bytearray(4096), exclusive=False)
        assert fs.load(0, 0, bytearray(4096))
        assert not fs.load(0, 0, bytearray(4096))


def test_writethrough_writes_to_the_slow_swap_too(tmp_path: Path, make_page: Callable[[int], bytes]) -> None:
    slow = SwapFile(tmp_path, "4MiB", direct=False)
    with Frontswap([PlainRam("4MiB"), slow], writethrough=True) as fs:
        fs.init(0, 100)
        fill(fs, make_page, 100)
        assert slow.stats().stored_pages == 100
        assert fs.curr_pages() == 100
        assert_all(fs, make_page, 100)


def test_a_backend_goes_before_the_slow_swap_unless_told(tmp_path: Path) -> None:
    with Frontswap([SwapFile(tmp_path, "1MiB", direct=False)]) as fs:
        fs.add_backend(CompressedRam("1MiB"))
        fs.add_backend(PlainRam("1MiB"))
        assert [backend.kind for backend in fs.backends] == ["zpool", "ram", "file"]
        fs.add_backend(PlainRam("2MiB"), position=0)
        assert fs.backends[0].capacity == 2 * 2**20
    with Frontswap([CompressedRam("1MiB")]) as fs:
        fs.add_backend(SwapFile(tmp_path, "1MiB", direct=False))
        assert [backend.kind for backend in fs.backends] == ["zpool", "file"]
        assert repr(fs) == f"<Frontswap zpool -> file:{tmp_path}>"
    assert repr(Frontswap()) == "<Frontswap without backends>"


def test_a_backend_that_was_removed_is_free_again(make_page: Callable[[int], bytes]) -> None:
    first, second = PlainRam("4MiB"), PlainRam("4MiB")
    with Frontswap([first, second]) as fs:
        fs.init(0, 100)
        fill(fs, make_page, 100)
        fs.remove_backend(first)
        assert first.stats().stored_pages == 0
        assert_all(fs, make_page, 100)
    with Frontswap([first]) as other:
        other.init(0, 100)
        fill(other, make_page, 100)
    assert first.state == second.state == "closed"


def test_a_capacity_can_be_moved_at_any_moment(tmp_path: Path, make_page: Callable[[int], bytes]) -> None:
    with Frontswap([PlainRam("2MiB"), SwapFile(tmp_path, "4MiB", direct=False)]) as fs:
        fs.init(0, PAGES)
        fill(fs, make_page)
        for capacity in ("1MiB", 4096, "2MiB", "100KiB", 1, "4MiB"):
            fs.backends[0].capacity = capacity
            assert_all(fs, make_page)
        fs.backends[1].capacity = "8MiB"
        assert fs.backends[1].capacity == 8 * 2**20
        assert_all(fs, make_page)


def open_files(folder: Path) -> list[str]:
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [str(link) for link in links if str(link).startswith(str(folder))]


@pytest.mark.parametrize("how", ["close", "with", "garbage", "chain closed", "inside fault_inject"])
def test_nothing_is_left_behind(tmp_path: Path, how: str) -> None:
    backend: Backend = SwapFile(tmp_path, "1MiB", direct=False)
    assert list(tmp_path.iterdir()) == [], "a swap file has no name"
    assert len(open_files(tmp_path)) == 1
    if how == "close":
        backend.close()
    elif how == "with":
        with backend:
            pass
    elif how == "garbage":
        reference = weakref.ref(backend)
        del backend
        gc.collect()
        assert reference() is None
    elif how == "chain closed":
        Frontswap([backend]).close()
    else:
        outer = FaultInject(backend)
        del backend
        outer.close()
    assert open_files(tmp_path) == []


def test_threads_of_a_chain_end_with_it() -> None:
    before = len(list(Path("/proc/self/task").iterdir()))
    for _ in range(3):
        with Frontswap([PlainRam("1MiB")]) as fs:
            fs.init(0, 1)
    dropped = Frontswap([PlainRam("1MiB")])
    del dropped
    gc.collect()
    assert len(list(Path("/proc/self/task").iterdir())) == before


def test_a_damaged_page_is_an_error_and_not_returned(make_page: Callable[[int], bytes]) -> None:
    with Frontswap([FaultInject(PlainRam("1MiB"), corrupt=1.0)]) as fs:
        fs.init(0, 10)
        fs.store(0, 3, make_page(3))
        out = bytearray(b"before" + bytes(4090))
        with pytest.raises(errors.PageCorruptError, match="damaged page `3` of area `0`: checksum") as caught:
            fs.load(0, 3, out)
        assert caught.value.hint
        assert out == b"before" + bytes(4090)
        assert fs.stats().load_errors == 1


def test_a_page_that_cannot_be_read_is_an_error(make_page: Callable[[int], bytes]) -> None:
    with Frontswap([FaultInject(PlainRam("1MiB"), load_error=1.0)]) as fs:
        fs.init(0, 10)
        fs.store(0, 3, make_page(3))
        with pytest.raises(errors.PageUnreadableError, match="cannot give back page `3` of area `0`"):
            fs.load(0, 3, bytearray(4096))


def test_a_backend_that_breaks_takes_no_more_and_still_loads(make_page: Callable[[int], bytes]) -> None:
    first = FaultInject(PlainRam("1MiB"), seed=1, store_error=0.05)
    with Frontswap([first, PlainRam("4MiB")]) as fs:
        fs.init(0, 1000)
        for offset in range(500):
            assert fs.store(0, offset, make_page(offset))
            if first.state == "broken":
                break
        assert first.state == "broken"
        held = first.stats().stored_pages
        assert fs.store(0, 999, make_page(999)).backend == "ram"
        assert first.stats().stored_pages == held
        assert_all(fs, make_page, offset + 1)


def test_counters_are_attributes(make_page: Callable[[int], bytes]) -> None:
    with Frontswap([CompressedRam("1MiB"), PlainRam("64KiB")]) as fs:
        fs.init(0, 10)
        fs.init(7, 10)
        fs.store(0, 1, make_page(1))
        fs.store(7, 1, make_page(1))
        fs.load(7, 1, bytearray(4096))
        fs.load(7, 2, bytearray(4096))
        fs.invalidate_page(0, 1)
        stats = fs.stats()
        assert isinstance(stats, ChainStats)
        assert (stats.stored_pages, stats.succ_stores, stats.loads, stats.loads_missing) == (1, 2, 1, 1)
        assert (stats.areas[0].stored_pages, stats.areas[7].stored_pages) == (0, 1)
        assert (stats.areas[0].invalidates, stats.areas[7].loads) == (1, 1)
        assert stats.orig_data_size == 4096
        assert stats.mem_used_total > stats.map_bytes > 0
        first, second = stats.backends
        assert isinstance(first, BackendStats)
        assert (first.name, first.kind, first.state, first.stored_pages) == ("zpool", "zpool", "ready", 1)
        assert (first.mem_limit, second.mem_limit) == (2**20, 65536)
        assert 0 < first.compr_data_size < 4096
        assert first.ratio == pytest.approx(4096 / first.mem_used_total)
        assert sum(stores for name, stores in first.details.items() if name.endswith("_stores")) == 2
        document = json.loads(json.dumps(stats.to_json()))
    assert document["schema"] == "frontswap.stats/1"
    assert document["areas"]["7"]["loads"] == 1
    assert document["backends"][0]["compr_data_size"] == first.compr_data_size


def test_a_reading_does_not_change() -> None:
    reading = AreaStats(loads=1)
    with pytest.raises(AttributeError):
        reading.loads = 2  # type: ignore[misc]
    assert PoolStats().ratio == 0.0
