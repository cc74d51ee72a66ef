"""Bad input is a clear error from the table; the state is unchanged, and nothing is lost."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from frontswap import Backend, CompressedRam, FaultInject, Frontswap, FrontswapError, PlainRam, SwapFile, errors
from frontswap.units import machine_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 2**20


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[Frontswap]:
    with Frontswap([CompressedRam("4MiB"), SwapFile(tmp_path, size="4MiB", direct=False)]) as chain:
        chain.init(0, pages=100)
        yield chain


@pytest.fixture
def unchanged(fs: Frontswap, make_page: Callable[[int], bytes]) -> Iterator[Frontswap]:
    """A chain that holds pages; afterwards it holds the same, and works."""
    for offset in range(50):
        assert fs.store(0, offset, make_page(offset))
    before = fs.stats()
    yield fs
    after = fs.stats()
    assert (after.stored_pages, after.succ_stores, after.invalidates) == (50, before.succ_stores, before.invalidates)
    assert [backend.capacity for backend in fs.backends] == [backend.mem_limit for backend in before.backends]
    out = bytearray(4096)
    for offset in range(50):
        assert fs.load(0, offset, out)
        assert out == make_page(offset)
    assert fs.store(0, 99, make_page(99))


def refuse(error: type[FrontswapError], words: str, call: Callable[[], object]) -> FrontswapError:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
    assert caught.value.hint
    assert caught.value.code
    return caught.value


@pytest.mark.parametrize("length", [0, 1, 4095, 4097, 8192])
def test_a_page_of_the_wrong_length(unchanged: Frontswap, length: int) -> None:
    words = f"a page of `{length}` bytes"
    refuse(errors.PageLengthError, words, lambda: unchanged.store(0, 0, bytes(length)))
    out = bytearray(b"x" * length)
    refuse(errors.PageLengthError, words, lambda: unchanged.load(0, 0, out))
    assert out == b"x" * length


def test_what_is_no_buffer(unchanged: Frontswap) -> None:
    for wrong in ("text" * 1024, None, 4096, memoryview(bytes(8192))[::2]):
        with pytest.raises((TypeError, BufferError, errors.PageLengthError)):
            unchanged.store(0, 0, wrong)  # type: ignore[arg-type]
    with pytest.raises((TypeError, BufferError)):
        unchanged.load(0, 0, bytes(4096))


def test_an_area_that_was_not_initialised(unchanged: Frontswap) -> None:
    words = "cannot use area `7`: it was not initialised"
    error = refuse(errors.AreaNotInitialisedError, words, lambda: unchanged.store(7, 0, bytes(4096)))
    assert error.hint == "call `init(7, pages=...)` first"
    refuse(errors.AreaNotInitialisedError, words, lambda: unchanged.load(7, 0, bytearray(4096)))
    unchanged.invalidate_page(7, 0)
    unchanged.invalidate_area(7)


@pytest.mark.parametrize("offset", [100, 101, 2**35, 2**63])
def test_an_offset_past_the_end(unchanged: Frontswap, offset: int) -> None:
    words = f"cannot use offset `{offset}` of area `0`: the area has `100` pages"
    refuse(errors.OffsetPastEndError, words, lambda: unchanged.store(0, offset, bytes(4096)))
    refuse(errors.OffsetPastEndError, words, lambda: unchanged.load(0, offset, bytearray(4096)))
    unchanged.invalidate_page(0, offset)


@pytest.mark.parametrize(("area", "offset"), [(0, -1), (-1, 0), (0, 2**64), (65536, 0), (2**70, 0)])
def test_numbers_that_no_page_has(unchanged: Frontswap, area: int, offset: int) -> None:
    with pytest.raises((FrontswapError, OverflowError)):
        unchanged.store(area, offset, bytes(4096))
    with pytest.raises((FrontswapError, OverflowError)):
        unchanged.load(area, offset, bytearray(4096))


@pytest.mark.parametrize(("area", "pages"), [(1, 0), (1, 2**36 + 1)])
def test_an_area_outside_the_limits(unchanged: Frontswap, area: int, pages: int) -> None:
    refuse(errors.AreaInvalidError, f"with `{pages}` pages", lambda: unchanged.init(area, pages))
    refuse(errors.AreaNotInitialisedError, "", lambda: unchanged.store(area, 0, bytes(4096)))


def test_an_area_that_is_in_use(unchanged: Frontswap) -> None:
    refuse(errors.AreaInUseError, "in use with `100` pages", lambda: unchanged.init(0, pages=10))


CAPACITIES: list[tuple[Any, type[FrontswapError], str]] = [
    (0, errors.CapacityInvalidError, "to `0`: a capacity is above zero"),
    ("0%", errors.CapacityInvalidError, "to `0%`: a capacity is above zero"),
    (-1, errors.CapacityInvalidError, "to `-1`: a capacity is above zero"),
    ("-1MiB", errors.SizeInvalidError, "a size is not below zero"),
    ("101%", errors.CapacityInvalidError, "is more than this machine has, "),
    (machine_memory() + 1, errors.CapacityInvalidError, f"({machine_memory()} bytes)"),
    (2**62, errors.CapacityInvalidError, "4096.00 PiB (4611686018427387904 bytes) is more than this machine has"),
    ("lots", errors.SizeInvalidError, "cannot read `lots` as a size"),
]


@pytest.mark.parametrize(("capacity", "error", "words"), CAPACITIES)
def test_a_capacity_that_cannot_be(
    unchanged: Frontswap, capacity: Any, error: type[FrontswapError], words: str
) -> None:
    def change() -> None:
        unchanged.backends[0].capacity = capacity

    refuse(error, words, change)
    refuse(error, words, lambda: CompressedRam(capacity))
    refuse(error, words, lambda: PlainRam(capacity))


@pytest.mark.parametrize("size", [0, -1])
def test_a_swap_file_of_no_size(unchanged: Frontswap, tmp_path: Path, size: int) -> None:
    def change() -> None:
        unchanged.backends[1].capacity = size

    refuse(errors.CapacityInvalidError, "a capacity is above zero", lambda: SwapFile(tmp_path, size))
    refuse(errors.CapacityInvalidError, "a capacity is above zero", change)


def test_a_swap_file_in_a_missing_place(tmp_path: Path) -> None:
    error = refuse(errors.SwapFileOpenError, str(tmp_path / "none"), lambda: SwapFile(tmp_path / "none", "1MiB"))
    assert error.errno == errno.ENOENT
    assert "ENOENT" in str(error)


def test_a_swap_file_in_a_place_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = refuse(errors.SwapFileOpenError, "file", lambda: SwapFile(tmp_path / "file", "1MiB"))
    assert error.errno == errno.ENOTDIR


def test_a_swap_file_in_a_read_only_place() -> None:
    error = refuse(errors.SwapFileOpenError, "/proc", lambda: SwapFile("/proc", "1MiB", direct=False))
    assert error.errno is not None


def test_a_swap_file_on_a_full_place(tmp_path: Path) -> None:
    room = os.statvfs(tmp_path)
    size = room.f_blocks * room.f_frsize + 2**30
    error = refuse(errors.SwapFileSpaceError, str(tmp_path), lambda: SwapFile(tmp_path, size, direct=False))
    assert error.errno in {errno.ENOSPC, errno.EFBIG}
    assert list(tmp_path.iterdir()) == []


def test_a_swap_file_that_cannot_grow_stays_as_it_is(unchanged: Frontswap, tmp_path: Path) -> None:
    room = os.statvfs(tmp_path)

    def change() -> None:
        unchanged.backends[1].capacity = room.f_blocks * room.f_frsize + 2**30

    refuse(errors.SwapFileSpaceError, "", change)


def test_a_codec_that_does_not_exist() -> None:
    words = "no codec named `zsdt`; known: "
    refuse(errors.CodecUnknownError, words, lambda: CompressedRam("1MiB", codec="zsdt"))


@pytest.mark.parametrize("level", [-1000, 1000])
def test_a_level_that_does_not_exist(level: int) -> None:
    refuse(errors.OptionInvalidError, f"`{level}`", lambda: CompressedRam("1MiB", codec="zstd", level=level))


def test_a_word_for_incompressible_pages_that_does_not_exist() -> None:
    refuse(errors.OptionInvalidError, "`drop`", lambda: CompressedRam("1MiB", incompressible="drop"))


@pytest.mark.parametrize("chance", [-0.1, 1.1, float("nan")])
def test_a_chance_that_is_none(chance: float) -> None:
    inner = PlainRam("1MiB")
    calls: list[Callable[[], object]] = [
        lambda: FaultInject(inner, reject=chance),
        lambda: FaultInject(inner, store_error=chance),
        lambda: FaultInject(inner, load_error=chance),
        lambda: FaultInject(inner, corrupt=chance),
    ]
    for call in calls:
        refuse(errors.OptionInvalidError, "it is not from 0 to 1", call)
    inner.close()


@pytest.mark.parametrize(("seed", "delay_us"), [(-1, 0), (2**64, 0), (0, -1), (0, 10**9)])
def test_a_seed_or_a_delay_that_cannot_be(seed: int, delay_us: int) -> None:
    inner = PlainRam("1MiB")
    refuse(errors.OptionInvalidError, "not from 0 to", lambda: FaultInject(inner, seed=seed, delay_us=delay_us))
    inner.close()


def test_a_backend_in_two_chains(unchanged: Frontswap) -> None:
    first = unchanged.backends[0]
    refuse(errors.BackendInChainError, "`zpool`", lambda: Frontswap([first]))
    refuse(errors.BackendInChainError, "`zpool`", lambda: unchanged.add_backend(first))
    refuse(errors.BackendInUseError, "`zpool`", lambda: FaultInject(first))
    with PlainRam("1MiB") as other:
        refuse(errors.BackendInChainError, "`ram`", lambda: Frontswap([other, other]))


def test_what_is_no_backend(unchanged: Frontswap) -> None:
    wrong: Any = "zpool,capacity=1MiB"
    for call in (
        lambda: Frontswap([wrong]),
        lambda: unchanged.add_backend(wrong),
        lambda: unchanged.remove_backend(wrong),
    ):
        with pytest.raises(TypeError, match=r"subclass of `frontswap\.Backend`, not str"):
            call()


def test_a_backend_that_is_in_no_chain(unchanged: Frontswap) -> None:
    with PlainRam("1MiB") as other:
        refuse(errors.BackendNotInChainError, "`ram`", lambda: unchanged.remove_backend(other))


def test_a_slow_backend_that_is_not_the_last(unchanged: Frontswap, tmp_path: Path) -> None:
    with SwapFile(tmp_path, "1MiB", direct=False) as slow, PlainRam("1MiB") as fast:
        refuse(errors.ChainOrderError, f"`file:{tmp_path}` at position `0`", lambda: unchanged.add_backend(slow, 0))
        refuse(errors.ChainOrderError, "", lambda: unchanged.add_backend(slow))
        refuse(errors.ChainOrderError, "`ram` at position `2`", lambda: unchanged.add_backend(fast, 2))
        refuse(errors.ChainOrderError, "the chain has 2 backends", lambda: unchanged.add_backend(fast, 3))
        refuse(errors.ChainOrderError, "the chain has 2 backends", lambda: unchanged.add_backend(fast, -1))
        refuse(errors.ChainOrderError, "", lambda: Frontswap([slow, fast]))
        unchanged.add_backend(fast, 1)
        assert unchanged.backends[1] is fast
        unchanged.remove_backend(fast)


def test_writethrough_without_a_slow_swap() -> None:
    with PlainRam("1MiB") as fast:
        refuse(errors.WritethroughNeedsSlowError, "no slow swap", lambda: Frontswap([fast], writethrough=True))


class Leaky(Backend):
    kind = "leaky"
    volatile = True

    def init(self, area: int, pages: int) -> None: ...
    def store(self, area: int, offset: int, page: Any) -> Any: ...
    def load(self, area: int, offset: int, out: Any) -> bool:
        return False

    def invalidate_page(self, area: int, offset: int) -> None: ...
    def invalidate_area(self, area: int) -> None: ...


def test_a_backend_that_can_lose_pages_without_writethrough(unchanged: Frontswap) -> None:
    refuse(errors.VolatileNeedsWritethroughError, "`leaky`", lambda: unchanged.add_backend(Leaky(), 0))
    refuse(errors.VolatileNeedsWritethroughError, "`leaky`", lambda: Frontswap([Leaky()]))


def test_a_backend_whose_pages_fit_nowhere_else(make_page: Callable[[int], bytes]) -> None:
    with Frontswap([PlainRam("4MiB"), PlainRam("64KiB")]) as fs:
        fs.init(0, 500)
        held = [offset for offset in range(500) if fs.store(0, offset, make_page(offset))]
        refuse(errors.DrainIncompleteError, "fit nowhere else", lambda: fs.remove_backend(fs.backends[0]))
        assert len(fs.backends) == 2
        out = bytearray(4096)
        for offset in held:
            assert fs.load(0, offset, out)
            assert out == make_page(offset)


def test_closing_twice_and_using_after_close() -> None:
    fs = Frontswap([PlainRam("1MiB")])
    fs.init(0, 10)
    backend = fs.backends[0]
    fs.close()
    refuse(errors.ClosedError, "is closed", fs.close)
    calls: list[Callable[[], object]] = [
        lambda: fs.init(1, 1),
        lambda: fs.store(0, 0, bytes(4096)),
        lambda: fs.load(0, 0, bytearray(4096)),
        lambda: fs.invalidate_page(0, 0),
        lambda: fs.invalidate_area(0),
        lambda: fs.add_backend(PlainRam("1MiB")),
        lambda: fs.remove_backend(backend),
        lambda: fs.shrink(0),
        fs.curr_pages,
        fs.stats,
        lambda: backend.store(0, 0, bytes(4096)),
        lambda: backend.load(0, 0, bytearray(4096)),
        lambda: backend.init(0, 1),
        backend.close,
    ]
    for call in calls:
        refuse(errors.ClosedError, "is closed", call)
    assert backend.state == "closed"


def test_leaving_a_with_block_after_an_explicit_close() -> None:
    with Frontswap([PlainRam("1MiB")]) as fs:
        fs.close()
    with PlainRam("1MiB") as backend:
        backend.close()
    assert backend.state == "closed"


def test_a_backend_that_is_closed_cannot_go_into_a_chain(unchanged: Frontswap) -> None:
    backend = PlainRam("1MiB")
    backend.close()
    refuse(errors.ClosedError, "is closed", lambda: unchanged.add_backend(backend))
    refuse(errors.ClosedError, "is closed", lambda: Frontswap([backend]))


def test_a_backend_of_a_chain_cannot_be_closed_under_it(unchanged: Frontswap) -> None:
    refuse(errors.BackendInUseError, "", unchanged.backends[0].close)
    with unchanged.backends[0]:
        pass
    assert unchanged.backends[0].state == "ready"


def test_a_backend_of_a_chain_cannot_be_used_past_it(unchanged: Frontswap) -> None:
    backend = unchanged.backends[0]
    calls: list[Callable[[], object]] = [
        lambda: backend.init(1, 1),
        lambda: backend.store(0, 0, bytes(4096)),
        lambda: backend.load(0, 0, bytearray(4096)),
        lambda: backend.invalidate_page(0, 0),
        lambda: backend.invalidate_area(0),
    ]
    for call in calls:
        refuse(errors.BackendInUseError, "directly: it belongs to a chain", call)


def test_address_space_that_is_not_there() -> None:
    code = """
import resource
from frontswap import CompressedRam, PlainRam
from frontswap.errors import NoMemoryError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for kind in (PlainRam, CompressedRam):
    try:
        kind("90%")
    except NoMemoryError as error:
        print(error.code, error.hint)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("no-memory raise `ulimit -v`") == 2, result.stdout + result.stderr


def test_a_target_that_no_chain_can_hold(unchanged: Frontswap) -> None:
    error = refuse(errors.OptionInvalidError, "`target_pages` of `shrink` to `-1`", lambda: unchanged.shrink(-1))
    assert "0 pulls every page" in error.hint
    assert unchanged.shrink(2**70) <= 50
    for wrong in (1.5, "10", None):
        with pytest.raises(TypeError):
            unchanged.shrink(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`pull` is a function of area, offset and page, not int"):
        unchanged.shrink(0, pull=5)  # type: ignore[arg-type]


def test_a_position_that_there_is_not(unchanged: Frontswap) -> None:
    with PlainRam("1MiB") as backend:
        for position in (-1, 3):
            add = partial(unchanged.add_backend, backend, position)
            error = refuse(errors.ChainOrderError, f"at position `{position}`: the chain has 2 backends", add)
            assert error.hint == "a position is from 0 to 2"


def test_what_is_no_list_of_backends() -> None:
    with PlainRam("1MiB") as backend, pytest.raises(TypeError, match="`backends` is a list, also of one"):
        Frontswap(backend)  # type: ignore[arg-type]
    for wrong, words in ((None, "not NoneType"), (PlainRam, "not the class PlainRam")):
        with pytest.raises(TypeError, match=words):
            FaultInject(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=words):
            Frontswap([wrong])  # type: ignore[list-item]


def test_a_probability_that_is_no_number() -> None:
    with PlainRam("1MiB") as backend:
        words = "cannot set `reject` of `fault_inject` to `None`: it is not a number"
        refuse(errors.OptionInvalidError, words, lambda: FaultInject(backend, reject=None))  # type: ignore[arg-type]


def test_a_directory_by_its_bytes(tmp_path: Path) -> None:
    with SwapFile(os.fsencode(tmp_path), size="1MiB", direct=False) as backend:  # type: ignore[arg-type]
        assert backend.name == f"file:{tmp_path}"
    refuse(errors.SwapFileOpenError, "its name is not UTF-8", lambda: SwapFile(f"{tmp_path}/\udcff", size="1MiB"))


def test_what_holds_pages_is_not_copied(unchanged: Frontswap) -> None:
    for thing in (unchanged, unchanged.backends[0], unchanged.backends[1]):
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=f"cannot copy or pickle a `{type(thing).__name__}`"):
                attempt(thing)


def test_changing_a_closed_chain() -> None:
    fs = Frontswap()
    fs.close()
    with PlainRam("1MiB") as backend:
        refuse(errors.ClosedError, "cannot add a backend: `Frontswap` is closed", lambda: fs.add_backend(backend))
        refuse(errors.ClosedError, "cannot remove a backend: `Frontswap` is", lambda: fs.remove_backend(backend))
