"""Files for memory of a space: what is read and written is held in RAM, piece by piece.

In signal mode the kernel does not fetch a page that is out, so a system call on one fails. `SpaceFile` brings the
pages of each piece in and holds them for its call. `numpy.fromfile` needs more than that: it reads in C, into an array
that it has just made, and does not look whether the read failed; so it is replaced by one that reads through a `SpaceFile`.
"""

from __future__ import annotations

import contextvars
import functools
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from typing_extensions import Buffer

    from frontswap.space import Space

PIECE_BYTES_MAX = 16 * 2**20
"""Most bytes that are held in RAM for one call."""

NUMPY_SPACE: contextvars.ContextVar[Space | None] = contextvars.ContextVar("frontswap.numpy_space", default=None)
"""The space that NumPy makes its arrays in, in this context, if that needs watching."""


class SpaceFile:
    """A file that reads into and writes from memory of a space, piece by piece.

    Each piece is held in RAM for its call, so any length fits. It has what `np.save`, `np.load`, `pickle.dump` and
    `shutil.copyfileobj` ask of a file. Closing is left to the file inside.

    Args:
        space: The space.
        file: An open binary file, or anything with `readinto`, `read` or `write`.

    Threads: as the file inside.

    Example:
        >>> import io
        >>> from frontswap import Space
        >>> with Space(ram="16MiB", swap=None) as space:
        ...     buffer = space.buffer(5)
        ...     space.file(io.BytesIO(b"hello")).readinto(buffer)
        ...     bytes(buffer)
        ...     del buffer
        5
        b'hello'
    """

    def __init__(self, space: Space, file: Any) -> None:  # noqa: ANN401 - whatever reads or writes
        self._space = space
        self._file = file

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer from the file.

        Args:
            buffer: A C-contiguous array or buffer that can be written.

        Returns:
            Bytes read: fewer than its length only at the end of the file.

        Example:
            >>> import io
            >>> with Space(ram="16MiB", swap=None) as space:
            ...     space.file(io.BytesIO(b"abc")).readinto(bytearray(5))
            3
        """
        done = 0
        with _flat(buffer) as view:
            for piece in self._pieces(view):
                with self._space.pinned(piece):
                    count = _until_done(self._file.readinto, piece)
                done += count
                if count < len(piece):
                    break
        return done

    def write(self, buffer: Buffer) -> int:
        """Write a whole buffer to the file.

        Args:
            buffer: A C-contiguous array or buffer.

        Returns:
            Bytes written: its length, unless the file does not block and is full.

        Example:
            >>> import io
            >>> with Space(ram="16MiB", swap=None) as space:
            ...     space.file(io.BytesIO()).write(b"abc")
            3
        """
        done = 0
        with _flat(buffer) as view:
            for piece in self._pieces(view):
                with self._space.pinned(piece):
                    count = _until_done(self._file.write, piece)
                done += count
                if count < len(piece):
                    break
        return done

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - what the file inside has
        # What the C library or NumPy would use past this object: the file's descriptor is not handed out.
        if name in {"fileno", "getbuffer", "raw"} or name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._file, name)

    def _pieces(self, view: memoryview[int]) -> Iterator[memoryview[int]]:
        step = min(PIECE_BYTES_MAX, self._space.ram // 8)
        for start in range(0, len(view), step):
            yield view[start : start + step]


def _flat(buffer: Buffer) -> memoryview[int]:
    """Return a view of a C-contiguous buffer as bytes."""
    try:
        return memoryview(buffer).cast("B")
    except (TypeError, ValueError):
        # NumPy's records and dates: as arrays of bytes they are buffers that can be cast.
        array: Any = buffer
        if not hasattr(array, "reshape") or not array.flags.c_contiguous:
            raise
        return memoryview(array.reshape(-1).view("u1"))


def _until_done(call: Any, piece: memoryview[int]) -> int:  # noqa: ANN401 - `readinto` or `write` of any file
    """Call again for what is left, as a raw file may do less than it was asked for; return the bytes done."""
    done = 0
    while done < len(piece):
        count: int | None = call(piece[done:])
        if not count:
            break
        done += count
    return done


def watch_fromfile(np: ModuleType) -> None:
    """Replace `numpy.fromfile` by one that is right also when its array is made in a space in signal mode.

    Elsewhere it does what it did. It stays replaced: that is done once.

    Args:
        np: NumPy.

    Example:
        >>> import numpy as np
        >>> watch_fromfile(np)
        >>> np.fromfile.__doc__ is not None
        True
    """
    if not hasattr(np.fromfile, "frontswap_original"):
        module: Any = np
        module.fromfile = _watched(np, np.fromfile)


def _watched(np: ModuleType, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def fromfile(file: Any, dtype: Any = float, count: int = -1, sep: str = "", offset: int = 0, **rest: Any) -> Any:  # noqa: ANN401 - as NumPy has it
        space = NUMPY_SPACE.get()
        kind = np.dtype(dtype)
        if space is None or sep or rest or kind.hasobject:
            return original(file, dtype=dtype, count=count, sep=sep, offset=offset, **rest)
        if isinstance(file, str | os.PathLike):
            with open(file, "rb") as opened:  # noqa: PTH123 - `file` may be any path
                return _read_items(np, space, opened, kind, count, offset)
        return _read_items(np, space, file, kind, count, offset)

    fromfile.frontswap_original = original  # type: ignore[attr-defined]
    return fromfile


def _read_items(np: ModuleType, space: Space, file: Any, kind: Any, count: int, offset: int) -> Any:  # noqa: ANN401
    """Read as many items as there are, at most `count` unless that is below zero."""
    if offset:
        file.seek(offset, os.SEEK_CUR)
    if count < 0:
        count = (os.fstat(file.fileno()).st_size - file.tell()) // kind.itemsize
    array = np.empty(count, kind)
    done = SpaceFile(space, file).readinto(array) if array.nbytes else 0
    return array if done == array.nbytes else array[: done // kind.itemsize]
