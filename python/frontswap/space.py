"""Arrays and buffers that are larger than RAM: their cold pages are compressed, or wait in a swap file.

A `Space` is memory of this process with a limit on the RAM that it takes. Arrays in it are ordinary NumPy arrays,
buffers ordinary memoryviews; whoever touches a page that is out waits some microseconds while the pager brings it
back, in Rust, without the interpreter's lock. `docs/space.md` says what to know about system calls, threads and forks.

NumPy is imported when the first array is made; buffers do without it.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import warnings
from operator import index
from typing import TYPE_CHECKING, Any, Self

from frontswap import _frontswap
from frontswap.backends import CompressedRam, FaultInject, PlainRam, SwapFile, check_backend, not_copied
from frontswap.errors import BackendInUseError, BufferEvictedError, ClosedError, ForkedError, SwapFileDirectError
from frontswap.options import Options
from frontswap.space_file import NUMPY_SPACE, SpaceFile, watch_fromfile
from frontswap.units import both_readings, format_size, machine_memory, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import ModuleType, TracebackType

    from numpy.typing import ArrayLike, DTypeLike, NDArray
    from typing_extensions import Buffer

    from frontswap.backends import Backend
    from frontswap.stats import SpaceStats

RAM_MIN = "16MiB"
"""The least RAM of a space: the pager moves pages by chunks of 2 MiB, and needs some at a time."""

SWAP_PLACE = "/var/tmp"  # noqa: S108 - a file without a name cannot be guessed
"""Where the swap file is unless told otherwise: on a disk, by the rules of Linux systems."""

SWAP_PER_RAM = 4
"""The swap file is so many times the RAM unless told otherwise, but at most half of what is free on the disk."""

POOL_PERCENT_MAX = 75
"""Most of `ram` that backends in RAM may take; the rest is for pages in use, without which nothing runs."""

NAMED_MAX = 5
"""Arrays that a message names one by one."""

_WRITTEN_SHORT = re.compile(r"\d+ requested and \d+ written")

MODES = ("signal", "handler", "auto")


class Space:
    """Memory for arrays and buffers that takes at most so much RAM, however large they are.

    What does not fit is compressed; what does not fit compressed goes to a swap file. A space is left like a file:
    by `close()`, or at the end of a `with`. Arrays and their views keep the memory alive, so that none of them is
    ever left without: after a `with` whose arrays are alive no new ones are made, and the memory goes with the last
    of them; `close()` is then an error that names them.

    Args:
        ram: Most RAM that it takes, everything counted: pages in use, compressed pages, tables. A number of bytes,
            or text such as `2GiB`, `25%`. It can be changed at any moment.
        backends: Where pages go, instead of compressed RAM and a swap file: backends that come with frontswap, the
            fastest first. They belong to the space from now on. One that is written in Python cannot be among them: it would run
            while a thread waits that may hold the interpreter's lock.
        swap: The directory of the swap file; None is without one.
        swap_size: The size of the swap file; four times `ram`, or half of what is free there if that is less, when None.
        mode: `signal` needs no permission; a system call on memory that is out fails, see `pinned`. `handler` lets
            system calls work as ever and needs permission for full userfaultfd. `auto` is `handler` where that is
            permitted, else `signal`.
        pool_limit: Most of `ram` that compressed pages take; at most three quarters, and half when None.
        codec: That of the compressed RAM, as in `CompressedRam`.

    Raises:
        OptionInvalidError: A setting cannot have that value; `ram` is above this machine's memory, say.
        SizeInvalidError: A size cannot be read.
        FrontswapError: The kernel does not let us, or the swap file cannot be made; the text says why.

    Threads: may be used from any. Threads that wait for pages wait side by side; none of them needs the
    interpreter's lock for that. A thread that blocks SIGBUS must not touch the memory in signal mode: the kernel
    would end the process.

    Example:
        >>> with Space(ram="16MiB", swap=None) as space:
        ...     a = space.zeros((1000, 1000), dtype="f4")
        ...     a[7] = 1
        ...     float(a.sum())
        ...     del a
        1000.0
    """

    def __init__(
        self,
        ram: int | str,
        *,
        backends: Iterable[Backend] | None = None,
        swap: str | os.PathLike[str] | None = SWAP_PLACE,
        swap_size: int | str | None = None,
        mode: str = "signal",
        pool_limit: int | str | None = None,
        codec: str = "auto",
    ) -> None:
        options = Options("Space", {"mode": mode, "codec": codec})
        options.text("mode", "signal", MODES)
        size = _check_ram(ram)
        self._pool_limit: int | None = None
        if backends is None:
            self._pool_limit = size // 2 if pool_limit is None else _check_pool_limit(pool_limit, size)
            pool = CompressedRam(self._pool_bytes(size), codec=codec)
            self._backends: tuple[Backend, ...] = (pool, *_swap_files(swap, swap_size, size))
        elif (swap, swap_size, pool_limit, codec) != (SWAP_PLACE, None, None, "auto"):
            reason = "`swap`, `swap_size`, `pool_limit` and `codec` are settings of the default chain"
            raise options.invalid("backends", "[...]", reason, "give either the backends or those settings")
        else:
            self._backends = _check_chain(backends, size)
        self._native = _frontswap.Space(size, [backend.native for backend in self._backends], mode=mode)

    @property
    def ram(self) -> int:
        """Most bytes of RAM that it takes.

        Set it to a number or to text such as `1GiB` at any moment. Less than is in use now is fine: the pager makes
        room, and threads that need pages meanwhile wait for it.
        """
        return self._native.ram

    @ram.setter
    def ram(self, ram: int | str) -> None:
        size = _check_ram(ram)
        if self._pool_limit is None:
            _check_capacities(self._backends, size)
            self._native.resize(size, None)
        else:
            self._native.resize(size, self._pool_bytes(size))

    @property
    def mode(self) -> str:
        """`signal` or `handler`."""
        return self._native.mode

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Where its pages go, in order."""
        return self._backends

    @property
    def is_closed(self) -> bool:
        """Whether its memory is gone."""
        return self._native.stage == "closed"

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = float, order: str = "C") -> NDArray[Any]:
        """Make an array without setting its elements.

        Args:
            shape: Its length, or its length in each dimension.
            dtype: The type of an element; any but references to objects.
            order: `C` or `F`: which index changes slowest in memory.

        Raises:
            NoMemoryError: Nothing has room for it; it is a `MemoryError`.
            ClosedError: The space is closed, or was left.
            NumpyUnfitError: NumPy is not installed.

        Example:
            >>> with Space(ram="16MiB", swap=None) as space:
            ...     space.empty((2, 3)).shape
            (2, 3)
        """
        return self._make(shape, dtype, order, zeroed=False)

    def zeros(self, shape: int | Sequence[int], dtype: DTypeLike = float, order: str = "C") -> NDArray[Any]:
        """Make an array of zeroes. It takes no RAM before it is written to.

        Args:
            shape: Its length, or its length in each dimension.
            dtype: The type of an element; any but references to objects.
            order: `C` or `F`: which index changes slowest in memory.

        Raises:
            NoMemoryError: Nothing has room for it; it is a `MemoryError`.
            ClosedError: The space is closed, or was left.
            NumpyUnfitError: NumPy is not installed.

        Example:
            >>> with Space(ram="16MiB", swap=None) as space:
            ...     int(space.zeros(1000, dtype="i8").sum())
            0
        """
        return self._make(shape, dtype, order, zeroed=True)

    def full(
        self, shape: int | Sequence[int], fill_value: ArrayLike, dtype: DTypeLike | None = None, order: str = "C"
    ) -> NDArray[Any]:
        """Make an array of one value.

        Args:
            shape: Its length, or its length in each dimension.
            fill_value: The value, or values that broadcast to the shape.
            dtype: The type of an element; that of `fill_value` when None.
            order: `C` or `F`: which index changes slowest in memory.

        Raises:
            NoMemoryError: Nothing has room for it; it is a `MemoryError`.
            ClosedError: The space is closed, or was left.
            NumpyUnfitError: NumPy is not installed.

        Example:
            >>> with Space(ram="16MiB", swap=None) as space:
            ...     space.full(3, 7).tolist()
            [7, 7, 7]
        """
        value = _numpy().asarray(fill_value)
        array = self._make(shape, value.dtype if dtype is None else dtype, order, zeroed=False)
        array[...] = value
        return array

    def array(self, source: ArrayLike, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Copy an array, or what makes one, into the space.

        Args:
            source: An array, a list, a number.
            dtype: The type of an element; that of `source` when None.

        Raises:
            NoMemoryError: Nothing has room for it; it is a `MemoryError`.
            ClosedError: The space is closed, or was left.
            NumpyUnfitError: NumPy is not installed.

        Example:
            >>> with Space(ram="16MiB", swap=None) as space:
            ...     space.array([[1, 2], [3, 4]]).sum(axis=0).tolist()
            [4, 6]
        """
        np = _numpy()
        # A type without a length, such as that of strings, gets it from what is in the source.
        lacks_length = dtype is not None and np.dtype(dtype).itemsize == 0
        values = np.asarray(source, dtype=dtype if lacks_length or not isinstance(source, np.ndarray) else None)
        kind = values.dtype if dtype is None or lacks_length else np.dtype(dtype)
        order = "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"
        array = self._make(values.shape, kind, order, zeroed=False)
        np.copyto(array, values, casting="unsafe")
        return array

    def buffer(self, nbytes: int | str) -> memoryview[int]:
        r"""Make a buffer of zeroes, to be used like a `bytearray` whose length stays.

        Args:
            nbytes: Its length: a number of bytes, or text such as `64MiB`.

        Raises:
            NoMemoryError: Nothing has room for it; it is a `MemoryError`.
            ClosedError: The space is closed, or was left.

        Example:
            >>> with Space(ram="16MiB", swap=None) as space:
            ...     buffer = space.buffer("1MiB")
            ...     buffer[1000:1005] = b"hello"
            ...     bytes(buffer[998:1007])
            ...     buffer.release()
            ...     del buffer
            b'\\x00\\x00hello\\x00\\x00'
        """
        size = parse_size(nbytes)
        # A buffer to mypy from Python 3.12 on.
        block: Any = self._native.block(size, "a buffer", zeroed=True)
        return memoryview(block)

    @contextlib.contextmanager
    def numpy(self) -> Iterator[None]:
        """Let NumPy's own functions make their arrays in this space, within the `with` (NEP 49).

        That is what `a @ w`, `np.zeros(...)` or `np.concatenate(...)` return, and the temporary arrays of an
        expression, when their data is 64 KiB or more; smaller arrays stay in ordinary memory. Arrays that were made
        before stay where they are. NumPy keeps this in a context variable: it holds for this thread, or for this
        task of asyncio, and not for threads that are started meanwhile.

        Raises:
            NoMemoryError: On leaving, when NumPy raised a `MemoryError` because nothing had room; NumPy's own is
                its cause.
            BufferEvictedError: On leaving, when a system call met memory that was out; see `pinned`.
            NumpyUnfitError: NumPy is not installed, or older than 1.22.

        Example:
            >>> import numpy as np
            >>> with Space(ram="16MiB", swap=None) as space:
            ...     with space.numpy():
            ...         a = np.arange(100_000) * 2
            ...     space.stats().arrays
            ...     del a
            1
        """
        np = _numpy()
        if self.mode == "signal":
            watch_fromfile(np)
        before = self._native.enter_numpy()
        token = NUMPY_SPACE.set(self if self.mode == "signal" else None)
        refused: BaseException | None = None
        try:
            yield
        except MemoryError as error:
            refused = error
            raise
        except OSError as error:
            self._explain(error)
            raise
        finally:
            NUMPY_SPACE.reset(token)
            reason = _frontswap.Space.exit_numpy(before)
            if refused is not None and reason is not None:
                raise reason from refused

    @contextlib.contextmanager
    def pinned(self, *buffers: Buffer) -> Iterator[None]:
        """Hold arrays or buffers in RAM within the `with`, so that system calls can use them.

        In signal mode the kernel does not fetch a page that is out: `f.readinto(a)` would fail with EFAULT. What is
        pinned is brought in first and stays. Pins count: an array may be pinned several times, by several threads,
        and stays until the last pin is gone. Memory that is in no space is in RAM anyway, and is left alone.

        Args:
            *buffers: Arrays, views of arrays, memoryviews; of a view, what lies between its first and last byte.

        Raises:
            FrontswapError: They do not fit in `ram`; nothing is pinned then. `file` goes piece by piece.
            SpaceForeignError: They are in another space.

        Example:
            >>> import tempfile
            >>> with Space(ram="16MiB", swap=None) as space, tempfile.TemporaryFile() as f:
            ...     a = space.full(100_000, 7)
            ...     with space.pinned(a):
            ...         f.write(a)
            ...     del a
            800000
        """
        spans = [_frontswap.span(buffer) for buffer in buffers]
        with contextlib.ExitStack() as pins:
            for address, nbytes in spans:
                if self._native.pin(address, nbytes):
                    pins.callback(self._native.unpin, address, nbytes)
            yield

    def file(self, file: Any) -> SpaceFile:  # noqa: ANN401 - whatever reads or writes
        """Wrap a file so that it reads into and writes from memory of this space, however large.

        Args:
            file: An open binary file, or anything with `readinto`, `read` or `write`.

        Example:
            >>> import numpy as np, tempfile
            >>> with Space(ram="16MiB", swap=None) as space, tempfile.TemporaryFile() as f:
            ...     a = space.full(100_000, 7)
            ...     np.save(space.file(f), a)
            ...     f.tell()
            ...     del a
            800128
        """
        return SpaceFile(self, file)

    def stats(self) -> SpaceStats:
        """Return the counters; `print` shows them in words.

        Raises:
            ClosedError: The space is closed.

        Example:
            >>> with Space(ram="16MiB", swap=None) as space:
            ...     space.stats().ram_limit_bytes
            16777216
        """
        from frontswap.stats import SpaceStats

        return SpaceStats.from_native(self._native.stats())

    def close(self, *, later: bool = False) -> None:
        """Give all memory back.

        Args:
            later: Make no new arrays, and give everything back with the last one that is alive. Without it, arrays
                that are alive are an error.

        Raises:
            SpaceInUseError: Arrays are alive; the text names them, and nothing changed.
            ClosedError: It is closed already.

        Example:
            >>> space = Space(ram="16MiB", swap=None)
            >>> a = space.zeros((3, 4))
            >>> try:
            ...     space.close()
            ... except RuntimeError as error:
            ...     print(error)
            cannot close a `Space` while arrays of it are alive, 1 of 4.00 KiB in all: `float64` (3, 4) of 4.00 KiB
            >>> del a
            >>> space.close()
        """
        if not self._native.close(later):
            raise _frontswap.make_error("space-in-use", arrays=_describe(self._native.blocks()))
        for backend in self._backends:
            # While arrays are alive it is in use still; in a child of fork it belongs to the parent.
            with contextlib.suppress(BackendInUseError, ClosedError, ForkedError):
                backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        blocks = [] if error is not None or self.is_closed else self._native.blocks()
        if blocks:
            # Nothing is wrong yet, but memory that should be free may never be: as with a file that nobody closes.
            message = f"left a `Space` while arrays of it are alive, which keep its memory: {_describe(blocks)}"
            warnings.warn(message, ResourceWarning, stacklevel=2)
        with contextlib.suppress(ClosedError):
            self.close(later=True)
        if isinstance(error, OSError):
            self._explain(error)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError(not_copied(self))

    def __repr__(self) -> str:
        if self.is_closed:
            return "<Space, closed>"
        blocks = self._native.blocks()
        total = format_size(sum(nbytes for _, nbytes in blocks))
        return f"<Space of {format_size(self.ram)} of RAM, {self.mode} mode, {len(blocks)} arrays of {total}>"

    def _pool_bytes(self, ram: int) -> int:
        """Return the capacity of the compressed RAM of the default chain."""
        return min(self._pool_limit or 0, ram * POOL_PERCENT_MAX // 100)

    def _make(self, shape: int | Sequence[int], dtype: DTypeLike, order: str, *, zeroed: bool) -> NDArray[Any]:
        np = _numpy()
        kind = np.dtype(dtype)
        if kind.hasobject:
            message = f"an array of `{kind}` holds references, which stay in ordinary memory: choose another `dtype`"
            raise TypeError(message)
        lengths = _lengths(shape)
        block = self._native.block(math.prod(lengths) * kind.itemsize, f"`{kind}` {lengths}", zeroed=zeroed)
        array: NDArray[Any] = np.ndarray(lengths, kind, buffer=block, order=order)
        return array

    def _explain(self, error: OSError) -> None:
        """Raise a clear error in place of the kernel's, if it is about memory that was out."""
        if self.mode != "signal" or isinstance(error, BufferEvictedError):
            return
        evicted = _frontswap.make_error("buffer-evicted", errno=errno.EFAULT)
        if error.errno == errno.EFAULT:
            raise evicted from error
        if _WRITTEN_SHORT.fullmatch(str(error)):
            # What NumPy says when it could not write an array, whatever the reason: a full disk, or this.
            error.add_note(f"if that array is in a `Space`: {evicted.hint}")


def _numpy() -> ModuleType:
    """Import NumPy, which is not among what the package requires."""
    try:
        import numpy as np
    except ImportError as error:
        raise _frontswap.make_error("numpy-unfit", reason="it is not installed") from error
    return np


def _describe(blocks: Sequence[tuple[str | None, int]]) -> str:
    """Name arrays for a message: how many, how large, and the first few one by one."""
    named = [f"{label or 'made in `numpy()`'} of {format_size(size)}" for label, size in blocks[:NAMED_MAX]]
    if len(blocks) > NAMED_MAX:
        named.append(f"and {len(blocks) - NAMED_MAX} more")
    total = format_size(sum(size for _, size in blocks))
    return f"{len(blocks)} of {total} in all: {', '.join(named)}"


def _lengths(shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return a shape as NumPy has it."""
    lone: Any = shape
    if isinstance(shape, int) or not hasattr(shape, "__len__"):
        lengths: tuple[int, ...] = (index(lone),)
    else:
        lengths = tuple(index(length) for length in shape)
    if any(length < 0 for length in lengths):
        message = f"a length is zero or more, not {min(lengths)}"
        raise ValueError(message)
    return lengths


def _check_ram(ram: int | str) -> int:
    """Return the RAM of a space in bytes, if a space can live with it and the machine has it."""
    options = Options("Space", {})
    size = 0 if isinstance(ram, int) and ram < 0 else parse_size(ram)
    least, memory = parse_size(RAM_MIN), machine_memory()
    if size < least:
        reason = f"{both_readings(size)} is less than a space needs, {both_readings(least)}"
        raise options.invalid("ram", ram, reason, f"give at least `{RAM_MIN}`")
    if size > memory:
        reason = f"{both_readings(size)} is more than this machine has, {both_readings(memory)}"
        raise options.invalid("ram", ram, reason, "give a size within the machine, such as `25%`")
    return size


def _check_pool_limit(limit: int | str, ram: int) -> int:
    size = parse_size(limit, memory_bytes=ram)
    if not 0 < size <= ram:
        reason = f"{both_readings(size)} is not a part of `ram`, {both_readings(ram)}"
        raise Options("Space", {}).invalid("pool_limit", limit, reason, "give a part of `ram`, such as `50%`")
    return size


def _check_chain(backends: Iterable[Backend], ram: int) -> tuple[Backend, ...]:
    """Return the backends, if each is one of those in Rust and they leave RAM for pages in use."""
    chain = tuple(check_backend(backend) for backend in backends)
    for backend in chain:
        inner = backend
        while isinstance(inner, FaultInject):
            inner = inner.inner
        if not isinstance(inner, CompressedRam | PlainRam | SwapFile):
            reason = "it is written in Python, and would run while a thread waits that may hold the interpreter's lock"
            hint = "use those that come with frontswap: `CompressedRam`, `PlainRam`, `SwapFile`"
            raise Options("Space", {}).invalid("backends", backend.name, reason, hint)
    _check_capacities(chain, ram)
    return chain


def _check_capacities(backends: Iterable[Backend], ram: int) -> None:
    size, most = sum(backend.capacity for backend in backends if not backend.slow), ram * POOL_PERCENT_MAX // 100
    if size > most:
        reason = f"the backends in RAM may take {both_readings(size)} of it, and {both_readings(most)} is the most"
        hint = "raise `ram`, or lower the `capacity` of a backend"
        raise Options("Space", {}).invalid("ram", ram, reason, hint)


def _swap_files(place: str | os.PathLike[str] | None, size: int | str | None, ram: int) -> list[SwapFile]:
    """Return the swap file of the default chain, if there is to be one."""
    if place is None:
        if size is not None:
            raise Options("Space", {}).invalid("swap_size", size, "there is no swap file", "name its place with `swap`")
        return []
    if size is None:
        size = SWAP_PER_RAM * ram
        # What is wrong with the place is said by whoever opens it.
        with contextlib.suppress(OSError):
            disk = os.statvfs(place)
            size = min(size, disk.f_bavail * disk.f_frsize // 2)
    try:
        return [SwapFile(place, size)]
    except SwapFileDirectError:
        # A file system without direct I/O keeps a part of the file in the page cache, which is not ours.
        return [SwapFile(place, size, direct=False)]
