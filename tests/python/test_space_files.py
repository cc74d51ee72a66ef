"""System calls and files: what works on memory of a space in each mode, and what is said where the kernel says EFAULT."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import socket
import threading
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pytest
from numpy._core.multiarray import get_handler_name

from frontswap import Space
from frontswap.errors import BufferEvictedError
from space_modes import MODES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RAM = 16 * 2**20
COUNT = 2 * RAM // 8


def numbers() -> Any:
    return np.arange(COUNT, dtype="i8")


@pytest.fixture(params=MODES)
def space(request: pytest.FixtureRequest) -> Iterator[Space]:
    space = Space(ram=RAM, swap_size="512MiB", mode=request.param)
    yield space
    space.close(later=True)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    with (tmp_path / "file").open("w+b") as opened:
        yield opened


@pytest.fixture
def full(file: BinaryIO) -> BinaryIO:
    """A file with numbers in it."""
    numbers().tofile(file)
    file.seek(0)
    return file


class TestSpaceFile:
    def test_an_array_larger_than_ram_is_written_and_read(self, space: Space, file: BinaryIO) -> None:
        a = space.array(numbers())
        assert space.file(file).write(a) == a.nbytes
        a[:] = 0
        file.seek(0)
        assert space.file(file).readinto(a) == a.nbytes
        assert np.array_equal(a, numbers())

    def test_raw_files_that_do_less_than_they_are_asked(self, space: Space) -> None:
        class Slow(io.RawIOBase):
            def __init__(self) -> None:
                self.held = bytearray()

            def write(self, data: Any) -> int:
                part = bytes(data[:100_000])
                self.held += part
                return len(part)

            def readinto(self, out: Any) -> int:
                part = self.held[: min(len(out), 70_000)]
                out[: len(part)] = part
                del self.held[: len(part)]
                return len(part)

        a, slow = space.array(numbers()[:500_000]), Slow()
        assert space.file(slow).write(a) == a.nbytes
        a[:] = 0
        assert space.file(slow).readinto(a) == a.nbytes
        assert np.array_equal(a, numbers()[:500_000])
        assert space.file(slow).readinto(a) == 0

    def test_the_end_of_a_file(self, space: Space) -> None:
        buffer = space.buffer(4 * RAM)
        assert space.file(io.BytesIO(b"x" * (RAM + 5))).readinto(buffer) == RAM + 5
        assert bytes(buffer[RAM + 3 : RAM + 7]) == b"xx\0\0"

    def test_a_pipe_that_does_not_block(self, space: Space) -> None:
        read, write = os.pipe()
        os.set_blocking(write, False)
        with open(read, "rb", buffering=0) as source, open(write, "wb", buffering=0) as target:  # noqa: PTH123
            count = space.file(target).write(space.array(numbers()))
            assert 0 < count < COUNT * 8
            assert len(source.read(count)) == count

    @pytest.mark.parametrize("kind", ["M8[s]", "i4,f4", "(2,)i4", "c8", "?"])
    def test_any_kind_of_number(self, space: Space, kind: str) -> None:
        a = space.zeros(1000, kind)
        a.view("u1")[...] = 1
        file = io.BytesIO()
        assert space.file(file).write(a) == a.nbytes
        assert file.getvalue() == b"\1" * a.nbytes

    def test_what_does_not_lie_in_one_piece_is_refused(self, space: Space) -> None:
        with pytest.raises((TypeError, ValueError, BufferError)):
            space.file(io.BytesIO()).write(space.zeros((4, 4))[:, ::2])

    def test_save_and_load(self, space: Space, file: BinaryIO) -> None:
        a = space.array(numbers().reshape(64, -1))
        np.save(space.file(file), a)
        file.seek(0)
        with space.numpy():
            b = np.load(space.file(file))
        assert get_handler_name(b.base) == "frontswap"
        assert np.array_equal(a, b)
        file.seek(0)
        assert np.array_equal(np.load(file), a)

    def test_pickle(self, space: Space, file: BinaryIO) -> None:
        a = space.array(numbers())
        for protocol in (4, 5):
            file.seek(0)
            file.truncate()
            pickle.dump(a, space.file(file), protocol=protocol)
            file.seek(0)
            assert np.array_equal(pickle.load(space.file(file)), a)

    def test_copyfileobj(self, space: Space, full: BinaryIO) -> None:
        target = io.BytesIO()
        shutil.copyfileobj(space.file(full), space.file(target))
        assert target.getvalue() == numbers().tobytes()

    def test_the_rest_is_that_of_the_file(self, space: Space, full: BinaryIO) -> None:
        wrapped = space.file(full)
        assert wrapped.name == full.name
        assert wrapped.seek(16) == 16
        assert wrapped.read(8) == (2).to_bytes(8, "little")
        # With its descriptor the data would be read past this object.
        assert not hasattr(wrapped, "fileno")


class TestFromFile:
    def test_it_is_right_in_a_space(self, space: Space, full: BinaryIO) -> None:
        with space.numpy():
            made = {
                "a file": np.fromfile(full, "i8"),
                "a path": np.fromfile(full.name, "i8"),
                "a part": np.fromfile(full.name, "i8", 1000, offset=80),
                "more than there is": np.fromfile(full.name, "i8", 2 * COUNT),
                "after the end": np.fromfile(full, "i8"),
                "records": np.fromfile(full.name, "i4,i4", 500_000),
                "subarrays": np.fromfile(full.name, "(2,)i8", 3),
                "nothing": np.fromfile(full.name, "i8", 0),
            }
        expected = {
            "a file": numbers(),
            "a path": numbers(),
            "a part": numbers()[10:1010],
            "more than there is": numbers(),
            "after the end": numbers()[:0],
            "records": numbers()[:500_000].view("i4,i4"),
            "subarrays": numbers()[:6].reshape(3, 2),
            "nothing": numbers()[:0],
        }
        for name, array in made.items():
            assert array.dtype == expected[name].dtype, name
            assert np.array_equal(array, expected[name]), name
        assert get_handler_name(made["a file"]) == "frontswap"

    def test_a_file_goes_on_where_it_was(self, space: Space, full: BinaryIO) -> None:
        with space.numpy():
            assert np.fromfile(full, "i8", 3).tolist() == [0, 1, 2]
            assert np.fromfile(full, "i8", 2, offset=8).tolist() == [4, 5]
        assert np.fromfile(full, "i8", 1).tolist() == [6]

    def test_load_goes_through_it(self, space: Space, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", numbers())
        with space.numpy():
            a = np.load(tmp_path / "a.npy")
        assert get_handler_name(a.base) == "frontswap"
        assert np.array_equal(a, numbers())

    def test_elsewhere_it_is_numpys_own(self, space: Space, full: BinaryIO, tmp_path: Path) -> None:
        with space.numpy():
            (tmp_path / "text").write_text("1 2 3")
            assert np.fromfile(tmp_path / "text", "i8", sep=" ").tolist() == [1, 2, 3]
        a = np.fromfile(full, "i8")
        assert get_handler_name(a) == "default_allocator"
        assert np.array_equal(a, numbers())
        assert np.fromfile.__doc__ is not None
        with pytest.raises(FileNotFoundError):
            np.fromfile(tmp_path / "missing")


class TestSystemCalls:
    def test_a_call_on_what_is_pinned_works(self, space: Space, full: BinaryIO) -> None:
        a = space.zeros(COUNT // 8, "i8")
        with space.pinned(a):
            assert full.readinto(a) == a.nbytes  # type: ignore[attr-defined]
        assert np.array_equal(a, numbers()[: COUNT // 8])

    def test_datagrams(self, space: Space) -> None:
        a = space.array(numbers())
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, other:
            for start in range(0, COUNT, COUNT // 100):
                part = a[start : start + 512]
                with space.pinned(part):
                    one.send(part)
                assert other.recv(8192) == part.tobytes()

    @pytest.mark.parametrize("mode", MODES[1:] or ["auto"])
    def test_handler_mode_needs_no_pins(self, file: BinaryIO, mode: str) -> None:
        with Space(RAM, swap=None, mode=mode) as space:
            if space.mode == "signal":
                return
            a = space.array(numbers())
            a.tofile(file)
            a[:] = 0
            file.seek(0)
            file.readinto(a)  # type: ignore[attr-defined]
            assert np.array_equal(a, numbers())
            del a

    def test_on_the_way_out_efault_is_explained(self, full: BinaryIO) -> None:
        with pytest.raises(BufferEvictedError, match="not in RAM") as caught, Space(RAM, swap=None) as space:
            a = space.array(numbers())
            full.readinto(a)  # type: ignore[attr-defined]
        assert caught.value.errno == errno.EFAULT
        assert "space.pinned" in caught.value.hint
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(BufferEvictedError), space.numpy():
            raise caught.value.__cause__
        del a

    def test_other_errors_stay_what_they_are(self) -> None:
        with pytest.raises(FileNotFoundError), Space(RAM, swap=None) as space, space.numpy():
            raise FileNotFoundError

    def test_what_numpy_says_gets_a_note(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="requested") as caught, Space(RAM, swap=None) as space:
            a = space.array(numbers())
            np.save(tmp_path / "a.npy", a)
        assert "space.file" in caught.value.__notes__[0]
        del a

    def test_threads_write_and_read_side_by_side(self, space: Space, tmp_path: Path) -> None:
        arrays = [space.array(numbers()[: COUNT // 4] + number) for number in range(4)]
        wrong: list[int] = []

        def work(number: int) -> None:
            with (tmp_path / str(number)).open("w+b") as opened:
                file = space.file(opened)
                for _ in range(3):
                    opened.seek(0)
                    file.write(arrays[number])
                    arrays[number][:] = 0
                    opened.seek(0)
                    file.readinto(arrays[number])
                    if not np.array_equal(arrays[number], numbers()[: COUNT // 4] + number):
                        wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
