"""Arrays and buffers in a space: what a user does with them, how they end, and what is refused."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy._core.multiarray import get_handler_name

from frontswap import Backend, CompressedRam, FaultInject, Frontswap, PlainRam, Space, SwapFile
from frontswap.errors import (
    BackendInChainError,
    BackendNotEmptyError,
    ClosedError,
    NoMemoryError,
    OptionInvalidError,
    PinTooLargeError,
    SizeInvalidError,
    SpaceForeignError,
    SpaceInUseError,
)
from space_modes import MODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RAM = 16 * 2**20


@pytest.fixture(params=MODES)
def space(request: pytest.FixtureRequest) -> Iterator[Space]:
    space = Space(ram=RAM, swap=None, mode=request.param)
    yield space
    # The frames of a test that failed have arrays still.
    space.close(later=True)


def numbers(count: int) -> Any:
    """Return numbers of 8 bytes that are all different and compress well."""
    return np.arange(count, dtype="i8")


class TestArrays:
    def test_arrays_are_what_numpy_would_make(self, space: Space) -> None:
        made: dict[str, tuple[Any, Any]] = {
            "zeros": (space.zeros((3, 4)), np.zeros((3, 4))),
            "zeros of a length": (space.zeros(5, "i2"), np.zeros(5, "i2")),
            "zeros by column": (space.zeros((3, 4), "f4", "F"), np.zeros((3, 4), "f4", "F")),
            "of nothing": (space.zeros((0, 4)), np.zeros((0, 4))),
            "of no dimension": (space.zeros(()), np.zeros(())),
            "full": (space.full((2, 2), 7), np.full((2, 2), 7)),
            "full of another type": (space.full(3, 7, "f4"), np.full(3, 7, "f4")),
            "full by broadcast": (space.full((2, 3), [1, 2, 3]), np.full((2, 3), [1, 2, 3])),
            "from a list": (space.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]])),
            "from a number": (space.array(3.5), np.array(3.5)),
            "from an array": (space.array(numbers(10)[::-2]), numbers(10)[::-2].copy()),
            "of another type": (space.array(numbers(10), "u1"), numbers(10).astype("u1")),
            "by column": (space.array(np.ones((3, 4), order="F")), np.ones((3, 4), order="F")),
            "of text": (space.array(["a", "bcd"], "U"), np.array(["a", "bcd"], "U")),
            "of dates": (space.array(["2020-01-01"], "M8[D]"), np.array(["2020-01-01"], "M8[D]")),
            "of records": (space.zeros(3, "i4,f8"), np.zeros(3, "i4,f8")),
            "of subarrays": (space.zeros(3, "(2,)f4"), np.zeros(3, "(2,)f4")),
        }
        for name, (ours, theirs) in made.items():
            assert type(ours) is np.ndarray, name
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
            assert ours.size == 0 or ours.strides == theirs.strides, name
            assert np.array_equal(ours, theirs), name
            assert ours.flags.writeable, name

    def test_an_array_larger_than_ram_keeps_every_byte(self, space: Space) -> None:
        a = space.empty(4 * RAM // 8, "i8")
        for start in range(0, len(a), 10_000):
            a[start : start + 10_000] = numbers(len(a))[start : start + 10_000]
        assert np.array_equal(a, numbers(len(a)))
        stats = space.stats()
        assert stats.refaults > 0
        assert stats.loads >= 4 * RAM // 4096 / 2
        assert stats.ram_used_bytes <= RAM
        assert stats.stored_pages * 4096 == stats.orig_data_size > 2 * RAM

    def test_memory_that_is_used_again_is_zeroed(self, space: Space) -> None:
        for size in (1000, 2**20, 10 * 2**20):
            for _ in range(5):
                a = space.zeros(size, "u1")
                assert not a.any()
                a[:] = 255
                del a

    def test_references_stay_in_ordinary_memory(self, space: Space) -> None:
        with pytest.raises(TypeError, match="references"):
            space.zeros(3, object)
        with pytest.raises(TypeError, match="references"):
            space.array([None])

    @pytest.mark.parametrize("shape", [-1, (2, -3)])
    def test_a_length_is_not_below_zero(self, space: Space, shape: Any) -> None:
        with pytest.raises(ValueError, match="zero or more"):
            space.zeros(shape)

    @pytest.mark.parametrize("shape", [1.5, "ab", (2, 2.0), None])
    def test_a_shape_is_of_whole_numbers(self, space: Space, shape: Any) -> None:
        with pytest.raises(TypeError):
            space.zeros(shape)

    @pytest.mark.parametrize("length", [2**50, 2**62, 2**63, 2**70])
    def test_more_than_there_are_addresses_for(self, space: Space, length: int) -> None:
        with pytest.raises(MemoryError, match="address space") as caught:
            space.zeros(length)
        assert isinstance(caught.value, NoMemoryError)
        with pytest.raises(MemoryError):
            space.buffer(min(length, 2**62))

    def test_a_copy_is_an_ordinary_array(self, space: Space) -> None:
        a = space.array(numbers(100_000))
        for other in (a.copy(), copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
            assert np.array_equal(other, a)
            a[0] = 1
            assert other[0] == 0
            a[0] = 0
        assert space.stats().arrays == 1


class TestBuffers:
    def test_a_buffer_is_used_like_a_bytearray(self, space: Space) -> None:
        buffer = space.buffer("1MiB")
        assert (len(buffer), buffer.nbytes, buffer.readonly, buffer.format) == (2**20, 2**20, False, "B")
        assert bytes(buffer) == bytes(2**20)
        buffer[10:15] = b"hello"
        buffer[-1] = 255
        assert bytes(buffer[8:16]) == b"\0\0hello\0"
        words = buffer.cast("Q")
        words[1000] = 2**63
        assert buffer[8007] == 128
        assert np.frombuffer(buffer, "u1")[-1] == 255

    def test_a_buffer_larger_than_ram(self, space: Space) -> None:
        buffer = space.buffer(4 * RAM)
        for page in range(0, 4 * RAM, 4096):
            buffer[page : page + 8] = page.to_bytes(8, "little")
        assert all(int.from_bytes(buffer[page : page + 8], "little") == page for page in range(0, 4 * RAM, 4096))

    def test_a_buffer_of_nothing(self, space: Space) -> None:
        assert len(space.buffer(0)) == 0

    def test_a_view_keeps_the_memory(self, space: Space) -> None:
        buffer = space.buffer(10_000)
        part = buffer[5000:5005]
        part[:] = b"hello"
        buffer.release()
        del buffer
        assert bytes(part) == b"hello"
        assert space.stats().arrays == 1
        del part
        assert space.stats().arrays == 0

    def test_buffers_need_no_numpy(self) -> None:
        code = """
import sys
sys.modules["numpy"] = None
import frontswap
with frontswap.Space(ram="16MiB", swap=None) as space:
    buffer = space.buffer(100)
    with space.pinned(buffer):
        buffer[0] = 7
    del buffer
    try:
        space.zeros(3)
    except ImportError as error:
        print(error.code, error, error.hint, sep="; ")
"""
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
        )
        expected = "numpy-unfit; cannot use NumPy: it is not installed; `pip install 'frontswap[numpy]'`\n"
        assert (result.stdout, result.stderr) == (expected, "")


class TestNumpy:
    def test_arrays_of_numpy_live_in_the_space(self, space: Space) -> None:
        a = np.ones((1000, 1000))
        with space.numpy():
            made = {"product": a @ a, "sum": a + 1, "zeros": np.zeros(10**6), "join": np.concatenate([a, a])}
            small = np.ones(10)
        assert {name: get_handler_name(array) for name, array in made.items()} == dict.fromkeys(made, "frontswap")
        assert get_handler_name(np.ones(10**6)) == "default_allocator"
        assert space.stats().arrays == len(made)
        assert (made["product"] == 1000).all()
        assert made["sum"].sum() == 2 * 10**6
        assert not made["zeros"].any()
        assert made["join"].shape == (2000, 1000)
        assert small.sum() == 10

    def test_temporaries_larger_than_ram(self, space: Space) -> None:
        with space.numpy():
            a = np.arange(2 * RAM // 8)
            b = (a * 3 + 1) - a * 2
        assert np.array_equal(b, np.arange(2 * RAM // 8) + 1)

    def test_an_array_grows_and_shrinks(self, space: Space) -> None:
        lengths = [10, 10_000, 100_000, 2_000_000, 1_999_000, 500_000, 10, 9000, 0, 50_000]
        with space.numpy():
            a = np.arange(5)
            for length in lengths:
                before = a.copy()
                a.resize(length, refcheck=False)
                kept = min(len(before), length)
                assert np.array_equal(a[:kept], before[:kept])
                assert not a[kept:].any()
                a[:] = np.arange(length)

    def test_threads_and_contexts_have_their_own(self, space: Space) -> None:
        names: list[str] = []
        with space.numpy():
            thread = threading.Thread(target=lambda: names.append(get_handler_name(np.ones(10**5))))
            thread.start()
            thread.join()
            with space.numpy():
                names.append(get_handler_name(np.ones(10**5)))
            names.append(get_handler_name(np.ones(10**5)))
        names.append(get_handler_name(np.ones(10**5)))
        assert names == ["default_allocator", "frontswap", "frontswap", "default_allocator"]

    def test_another_space_within(self, space: Space) -> None:
        with Space(ram=RAM, swap=None) as inner:
            with space.numpy():
                with inner.numpy():
                    a = np.ones(10**5)
                b = np.ones(10**5)
            assert (inner.stats().arrays, space.stats().arrays) == (1, 1)
            del a
        del b

    def test_an_error_leaves_numpy_as_it_was(self, space: Space) -> None:
        with pytest.raises(ZeroDivisionError), space.numpy():
            raise ZeroDivisionError
        assert get_handler_name(np.ones(10**5)) == "default_allocator"

    def test_when_there_is_no_room_the_error_is_ours(self, space: Space) -> None:
        with pytest.raises(MemoryError, match="cannot reserve `1.00 PiB`") as caught, space.numpy():
            np.zeros(2**47)
        assert isinstance(caught.value, NoMemoryError)
        assert "Unable to allocate" in str(caught.value.__cause__)

    def test_an_error_of_others_is_left_alone(self, space: Space) -> None:
        with pytest.raises(MemoryError, match="of another") as caught, space.numpy():
            message = "of another"
            raise MemoryError(message)
        assert type(caught.value) is MemoryError

    def test_an_array_outlives_everything_that_made_it(self) -> None:
        space = Space(ram=RAM, swap=None)
        with space.numpy():
            a = np.arange(3 * RAM // 8)
        view = a[::1000]
        del a, space
        gc.collect()
        assert np.array_equal(view, np.arange(3 * RAM // 8)[::1000])


class TestPinned:
    def test_what_is_pinned_stays(self, space: Space) -> None:
        pinned, others = space.array(numbers(RAM // 32)), space.empty(4 * RAM, "u1")
        read, write = os.pipe()
        with space.pinned(pinned), open(read, "rb") as source, open(write, "wb") as target:  # noqa: PTH123
            others[:] = 1
            # The kernel reads it where it is, and would say EFAULT about a page that is out.
            for start in range(0, pinned.nbytes, 4096):
                part = memoryview(pinned).cast("B")[start : start + 4096]
                assert os.write(target.fileno(), part) == 4096
                assert source.read(4096) == part.tobytes()

    def test_pins_count(self, space: Space) -> None:
        a = space.array(numbers(RAM // 32))
        others = space.empty(4 * RAM, "u1")
        read, write = os.pipe()
        with open(read, "rb") as source, open(write, "wb") as target, space.pinned(a):  # noqa: PTH123
            with space.pinned(a, a[::2]):
                pass
            others[:] = 1
            assert os.write(target.fileno(), a[-512:]) == 4096
            assert source.read(4096) == a[-512:].tobytes()

    @pytest.mark.parametrize("pick", [lambda a: a[::-3], lambda a: a[7:7], lambda a: a[5:6], lambda a: a.view("M8[s]")])
    def test_any_view_can_be_pinned(self, space: Space, pick: Callable[[Any], Any]) -> None:
        a = space.array(numbers(10_000))
        with space.pinned(pick(a)):
            assert np.array_equal(a, numbers(10_000))

    def test_memory_in_no_space_is_left_alone(self, space: Space) -> None:
        with space.numpy():
            small = np.ones(10)
        with space.pinned(b"bytes", bytearray(5), np.ones(10**6), small, np.array(["2020-01-01"], "M8[D]")):
            pass

    def test_memory_of_another_space_is_an_error(self, space: Space) -> None:
        other = Space(ram=RAM, swap=None)
        a = other.zeros(10)
        with pytest.raises(SpaceForeignError), space.pinned(a):
            pass
        del a
        other.close()

    def test_more_than_ram_is_an_error(self, space: Space) -> None:
        a = space.zeros(2 * RAM, "u1")
        with pytest.raises(PinTooLargeError, match="32.00 MiB"), space.pinned(a):
            pass
        with pytest.raises(MemoryError), space.pinned(a[:100], a):
            pass

    def test_what_is_no_buffer_is_an_error(self, space: Space) -> None:
        for thing in (3, [1, 2], None, object()):
            with pytest.raises(TypeError), space.pinned(thing):  # type: ignore[arg-type]
                pass


class TestEnds:
    def test_closing_with_live_arrays_names_them(self) -> None:
        space = Space(ram=RAM, swap=None)
        arrays = [space.zeros((20, 4096)), space.array([1, 2], "u1"), space.buffer(5000)]
        with space.numpy():
            arrays.append(np.ones(10_000))
        with pytest.raises(SpaceInUseError) as caught:
            space.close()
        for part in ("4 of", "`float64` (20, 4096) of 640.00 KiB", "`uint8` (2,) of 4.00 KiB", "a buffer of 8.00 KiB"):
            assert part in str(caught.value)
        assert "made in `numpy()` of 80.00 KiB" in str(caught.value)
        # Nothing changed.
        assert space.zeros(3).sum() == 0
        arrays.clear()
        space.close()
        assert space.is_closed

    def test_many_are_named_in_part(self) -> None:
        space = Space(ram=RAM, swap=None)
        arrays = [space.zeros(10) for _ in range(20)]
        with pytest.raises(RuntimeError, match="20 of 80.00 KiB in all: .*, and 15 more"):
            space.close()
        del arrays
        space.close()

    def test_a_view_is_as_good_as_its_array(self) -> None:
        space = Space(ram=RAM, swap=None)
        view = space.array(numbers(10_000))[1:4, None].T
        with pytest.raises(SpaceInUseError):
            space.close()
        assert view.tolist() == [[1, 2, 3]]
        del view
        space.close()

    def test_leaving_with_live_arrays_ends_with_the_last_of_them(self) -> None:
        with pytest.warns(ResourceWarning, match=r"1 of 24.00 MiB in all: `float64` \(3145728,\)"):  # noqa: SIM117
            with Space(ram=RAM, swap=None) as space:
                a = space.full(3 * 2**20, 1.5)
        assert not space.is_closed
        with pytest.raises(ClosedError, match="cannot create an array: `Space` is closed"):
            space.zeros(3)
        assert a.sum() == 1.5 * 3 * 2**20
        with space.pinned(a[:10]):
            assert space.stats().arrays == 1
        space.ram = 2 * RAM
        with pytest.raises(SpaceInUseError):
            space.close()
        del a
        assert space.is_closed

    def test_an_exception_on_the_way_out_is_not_a_leak(self) -> None:
        with pytest.raises(ZeroDivisionError), Space(ram=RAM, swap=None) as space:
            a = space.zeros(10)
            raise ZeroDivisionError
        del a

    def test_closed_is_closed(self) -> None:
        space = Space(ram=RAM, swap=None)
        space.close()
        calls: dict[str, Callable[[], object]] = {
            "create an array": lambda: space.zeros(3),
            "create": lambda: space.buffer(3),
            "read the RAM": lambda: space.ram,
            "set the RAM": lambda: setattr(space, "ram", RAM),
            "read counters": space.stats,
            "pin memory": lambda: space.pinned(bytearray(3)).__enter__(),
            "close": space.close,
        }
        for name, call in calls.items():
            with pytest.raises(ClosedError, match=name):
                call()
        assert repr(space) == "<Space, closed>"

    def test_later_is_now_when_nothing_is_alive(self) -> None:
        space = Space(ram=RAM, swap=None)
        space.close(later=True)
        assert space.is_closed

    def test_the_memory_of_the_process_goes_back(self) -> None:
        def mapped() -> int:
            with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
                return int(statm.read().split()[0]) * 4096

        with Space(ram=RAM, swap=None) as space:
            space.zeros(RAM, "u1")
        before = mapped()
        for _ in range(3):
            with Space(ram=RAM, swap=None) as space:
                for size in (1000, 10**6, 4 * RAM):
                    a = space.full(size, 1, "u1")
                    del a
            del space
        assert mapped() - before < 2**20

    def test_no_reference_is_left(self) -> None:
        space = Space(ram=RAM, swap=None)
        with space.numpy():
            a = np.ones(10**6)
        seen = weakref.ref(space)
        del a, space
        gc.collect()
        assert seen() is None

    def test_a_program_that_ends_without_closing_is_silent(self) -> None:
        code = """
import numpy as np, frontswap
space = frontswap.Space(ram="16MiB")
a = space.full(5_000_000, 1.0)
with space.numpy():
    b = a + 1
print(b.sum())
"""
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stdout, result.stderr) == (0, "10000000.0\n", "")


class TestSettings:
    def test_ram_changes_while_in_use(self, space: Space) -> None:
        a = space.empty(4 * RAM // 8, "i8")
        for ram in ("16MiB", "64MiB", "20MiB", "32MiB", "16MiB"):
            space.ram = ram
            a[:] = numbers(len(a))
            assert np.array_equal(a, numbers(len(a)))
            assert space.stats().ram_used_bytes <= space.ram + 2**21
        assert space.ram == RAM

    @pytest.mark.parametrize("ram", [0, -1, "15MiB", "1000TiB", True])
    def test_ram_that_cannot_be(self, ram: Any) -> None:
        with pytest.raises((OptionInvalidError, SizeInvalidError)):
            Space(ram)
        with Space(RAM, swap=None) as space:
            with pytest.raises((OptionInvalidError, SizeInvalidError)):
                space.ram = ram
            assert space.ram == RAM

    def test_both_readings_of_ram_are_shown(self) -> None:
        with pytest.raises(OptionInvalidError, match=r"4.00 KiB \(4096 bytes\) .* 16.00 MiB \(16777216 bytes\)"):
            Space(4096)

    @pytest.mark.parametrize(
        "settings",
        [
            {"mode": "both"},
            {"swap": None, "swap_size": "1GiB"},
            {"pool_limit": 0},
            {"pool_limit": "1GiB"},
            {"pool_limit": "101%"},
            {"codec": "zpi"},
            {"swap": "/nowhere"},
            {"swap_size": 0},
            {"backends": [], "codec": "lz4"},
            {"backends": [], "swap": None},
        ],
        ids=str,
    )
    def test_settings_that_cannot_be(self, settings: dict[str, Any]) -> None:
        with pytest.raises((ValueError, OSError)) as caught:
            Space(RAM, **settings)
        assert caught.value.hint  # type: ignore[union-attr]

    def test_the_default_chain(self) -> None:
        with Space(RAM, swap_size="8MiB", codec="lz4", pool_limit="25%") as space:
            pool, file = space.backends
            assert isinstance(pool, CompressedRam)
            assert isinstance(file, SwapFile)
            assert (pool.capacity, file.capacity) == (RAM // 4, 8 * 2**20)
            space.ram = 4 * RAM
            assert pool.capacity == RAM // 4

    def test_the_pool_leaves_ram_for_pages(self) -> None:
        with Space(RAM, swap=None, pool_limit="100%") as space:
            assert space.backends[0].capacity == RAM * 3 // 4

    def test_pages_go_to_the_swap_file(self) -> None:
        rng = np.random.default_rng(1)
        with Space(RAM, swap_size="64MiB") as space:
            a = space.empty(3 * RAM, "u1")
            for start in range(0, len(a), 2**20):
                a[start : start + 2**20] = np.frombuffer(rng.bytes(2**20), "u1")
            rng = np.random.default_rng(1)
            for start in range(0, len(a), 2**20):
                assert a[start : start + 2**20].tobytes() == rng.bytes(2**20)
            assert space.stats().disk_used_total > RAM
            del a

    def test_backends_of_ones_own(self) -> None:
        chain = [
            PlainRam("2MiB"),
            CompressedRam("4MiB", codec="zstd"),
            FaultInject(SwapFile("/var/tmp", "64MiB"), reject=0.1),
        ]
        with Space(RAM, backends=chain) as space:
            assert space.backends == tuple(chain)
            a = space.array(numbers(3 * RAM // 8))
            assert np.array_equal(a, numbers(3 * RAM // 8))
            assert all(backend.stats().stored_pages for backend in chain)
            with pytest.raises(OptionInvalidError, match="backends in RAM"):
                Space(RAM, backends=[PlainRam(RAM)])
            del a

    def test_a_backend_in_python_is_refused(self) -> None:
        class Shelf(Backend):
            kind = "shelf"

            def init(self, area: int, pages: int) -> None: ...
            def store(self, area: int, offset: int, page: Any) -> Any: ...
            def load(self, area: int, offset: int, out: Any) -> bool: ...
            def invalidate_page(self, area: int, offset: int) -> None: ...
            def invalidate_area(self, area: int) -> None: ...

        for backend in (Shelf(), FaultInject(Shelf())):
            with pytest.raises(OptionInvalidError, match="interpreter's lock"):
                Space(RAM, backends=[backend])
        with pytest.raises(TypeError, match="subclass"):
            Space(RAM, backends=["zpool"])  # type: ignore[list-item]

    def test_a_backend_that_is_in_use_is_refused(self) -> None:
        taken, full = PlainRam("1MiB"), PlainRam("1MiB")
        full.init(0, 1)
        assert full.store(0, 0, bytes(4095) + b"1")
        with Frontswap([taken]), pytest.raises(BackendInChainError):
            Space(RAM, backends=[taken])
        with pytest.raises(BackendNotEmptyError):
            Space(RAM, backends=[full])
        assert full.stats().stored_pages == 1

    def test_it_is_neither_copied_nor_pickled(self, space: Space) -> None:
        for call in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot copy or pickle"):
                call(space)

    def test_words_for_people(self, space: Space) -> None:
        a = space.full(3 * RAM, 1, "u1")
        assert repr(space) == f"<Space of 16.00 MiB of RAM, {space.mode} mode, 1 arrays of 48.00 MiB>"
        words = str(space.stats())
        assert words.startswith("1 arrays of 48.00 MiB\n")
        assert "of 16.00 MiB of RAM in use" in words
        assert space.stats().to_json()["schema"] == "frontswap.space/1"
        del a
