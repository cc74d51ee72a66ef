"""The layer as a program uses it: a chain of backends that pages are offered to, in order.

The work is done in Rust (`crates/frontswap`); this file checks what a person wrote, and keeps the Python
objects of the backends beside the native ones.
"""

from __future__ import annotations

import contextlib
import threading
from operator import index
from typing import TYPE_CHECKING, Self

from frontswap import _frontswap
from frontswap.backends import Backend, check_backend, not_copied
from frontswap.errors import ClosedError, ForkedError
from frontswap.options import Options, with_hint
from frontswap.units import parse_size

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from typing_extensions import Buffer

    from frontswap._frontswap import Answer
    from frontswap.stats import ChainStats


PROMOTE_LIMIT = "64MiB"
"""Bytes per second that may come up the chain unless told otherwise: hot pages come back within seconds, and a
disk that gives 200 MB/s keeps most of itself for loads."""


class Frontswap:
    """A chain of backends: a page is offered to each in order until one accepts it.

    Args:
        backends: In order, the fastest first; only the last may be slow. None at all is fine: then every page is
            rejected, at the cost of one compare (rule F12). They belong to the chain and are closed with it.
        writethrough: Every accepted page is also written to the slow swap; needed for volatile backends (rule F6).
        exclusive_loads: A load also forgets the page, so that it exists once (rule F7).
        demote_limit: Most bytes per second that go down the chain by themselves, as a number or text such as
            `200MiB`; None is without limit.
        promote_limit: The same for pages that come up again.

    Raises:
        TypeError: One of them is not a `Backend`.
        ChainOrderError: A slow backend is not the last.
        BackendInChainError: A backend already belongs to a chain.
        VolatileNeedsWritethroughError: A backend can lose pages and the chain does not write through.
        WritethroughNeedsSlowError: There is no slow swap to write through to.

    Threads: may be used from any; calls on different pages run in parallel.

    Example:
        >>> from frontswap import CompressedRam, Frontswap, SwapFile
        >>> page, out = b"twelve bytes" * 341 + b"four", bytearray(4096)
        >>> with Frontswap([CompressedRam("16MiB"), SwapFile("/var/tmp", size="16MiB", direct=False)]) as fs:
        ...     fs.init(0, pages=1_000_000)
        ...     answer = fs.store(0, 17, page)
        ...     fs.load(0, 17, out), answer.backend, bytes(out) == page
        (True, 'zpool', True)
    """

    def __init__(
        self,
        backends: Iterable[Backend] = (),
        *,
        writethrough: bool = False,
        exclusive_loads: bool = False,
        demote_limit: int | str | None = None,
        promote_limit: int | str | None = PROMOTE_LIMIT,
    ) -> None:
        if isinstance(backends, Backend):
            message = "`backends` is a list, also of one: `Frontswap([backend])`"
            raise TypeError(message)
        self._backends = tuple(check_backend(backend) for backend in backends)
        self._lock = threading.Lock()
        self._chain = _frontswap.Chain(
            [backend.native for backend in self._backends],
            writethrough=writethrough,
            exclusive_loads=exclusive_loads,
            demote_bytes_per_s=None if demote_limit is None else parse_size(demote_limit),
            promote_bytes_per_s=None if promote_limit is None else parse_size(promote_limit),
        )

    @classmethod
    def from_config(cls, path: str | os.PathLike[str]) -> Frontswap:
        r"""Create a chain from a TOML file; `docs/configuration.md` shows one.

        Args:
            path: The file.

        Raises:
            FrontswapError: The file cannot be read, or asks for something impossible.

        Example:
            >>> import pathlib, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = pathlib.Path(folder, "chain.toml")
            ...     size = path.write_text('[[backend]]\nkind = "ram"\ncapacity = "1MiB"\n')
            ...     Frontswap.from_config(path).backends[0].name
            'ram'
        """
        from frontswap.config import read_config

        return read_config(path).build()

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends, in order."""
        return self._backends

    def init(self, area: int, pages: int) -> None:
        """Begin an area; one that was invalidated may begin again.

        Args:
            area: Swap area number, 0 to 65535.
            pages: Its length in pages.

        Raises:
            AreaInvalidError: A number or a length outside the limits.
            AreaInUseError: It was initialised before.

        Example:
            >>> fs = Frontswap()
            >>> fs.init(0, pages=1000)
        """
        self._chain.init(area, pages)

    def store(self, area: int, offset: int, page: Buffer) -> Answer:
        """Offer one page to the backends, in order, until one accepts it.

        Args:
            area: Swap area number.
            offset: Page index inside the area; pages, not bytes.
            page: 4096 bytes, C-contiguous. It has been copied when this returns (rule B1).

        Returns:
            An answer that is true when the page was accepted, with the backend's name; else with the reason.
            After a rejection nothing is held for the key, and the caller keeps its page (rules B4, F4).

        Raises:
            AreaNotInitialisedError: The area was never initialised.
            OffsetPastEndError: The offset is not inside the area.
            PageLengthError: The page is not 4096 bytes.

        Threads: may be called from several at once.
        Source: Linux Documentation/vm/frontswap.rst, `store`.

        Example:
            >>> fs = Frontswap()
            >>> fs.init(0, pages=1)
            >>> fs.store(0, 0, bytes(range(256)) * 16).reason
            'no_backend'
        """
        return self._chain.store(area, offset, page)

    def load(self, area: int, offset: int, out: Buffer, *, exclusive: bool | None = None) -> bool:
        """Copy one page out.

        Args:
            area: Swap area number.
            offset: Page index inside the area.
            out: A writable buffer of 4096 bytes.
            exclusive: Whether to forget the page too; None does what the chain was told.

        Returns:
            True when `out` holds the page, bit for bit. False when it is missing; `out` is then as it was.

        Raises:
            PageUnreadableError: The page is held and cannot be given back; `out` is as it was.
            PageCorruptError: The page came back damaged, and was not returned.
            PageLostError: A backend that accepted the page says that it is missing.
            AreaNotInitialisedError: The area was never initialised.
            OffsetPastEndError: The offset is not inside the area.
            PageLengthError: The buffer is not 4096 bytes.

        Threads: may be called from several at once.
        Source: Linux Documentation/vm/frontswap.rst, `load`.

        Example:
            >>> fs = Frontswap()
            >>> fs.init(0, pages=1)
            >>> fs.load(0, 0, bytearray(4096))
            False
        """
        return self._chain.load(area, offset, out, exclusive)

    def invalidate_page(self, area: int, offset: int) -> None:
        """Forget one page; it cannot fail, and forgetting what is not held is fine (rule B6).

        Args:
            area: Swap area number.
            offset: Page index inside the area.

        Example:
            >>> Frontswap().invalidate_page(0, 17)
        """
        self._chain.invalidate_page(area, offset)

    def invalidate_area(self, area: int) -> None:
        """Forget a whole area; stores to it are rejected until `init` (rule B6).

        Args:
            area: Swap area number.

        Example:
            >>> Frontswap().invalidate_area(0)
        """
        self._chain.invalidate_area(area)

    def add_backend(self, backend: Backend, position: int | None = None) -> None:
        """Add a backend, also while pages are held (rule F10).

        Args:
            backend: One that belongs to no chain.
            position: Its index in `backends`; before the slow swap, or at the end, when None.

        Raises:
            ChainOrderError: It cannot be there.
            BackendInChainError: It already belongs to a chain.
            VolatileNeedsWritethroughError: It can lose pages and the chain does not write through.

        Example:
            >>> from frontswap import PlainRam
            >>> with Frontswap() as fs:
            ...     fs.add_backend(PlainRam("1MiB"))
            ...     len(fs.backends)
            1
        """
        check_backend(backend)
        with self._changing():
            before = self._backends
            if position is None:
                ends_slow = bool(before) and before[-1].slow
                position = len(before) - (ends_slow and not backend.slow)
            elif not 0 <= position <= len(before):
                reason = f"the chain has {len(before)} backends"
                error = _frontswap.make_error("chain-order", backend=backend.name, position=position, reason=reason)
                raise with_hint(error, f"a position is from 0 to {len(before)}")
            self._chain.add_backend(backend.native, position)
            self._backends = (*before[:position], backend, *before[position:])

    def remove_backend(self, backend: Backend) -> None:
        """Take a backend out of the chain; its pages go to the others first (rule F10).

        Args:
            backend: One of `backends`. It is yours again afterwards, empty.

        Raises:
            BackendNotInChainError: It is not one of them.
            DrainIncompleteError: Its pages fit nowhere else; nothing was lost and it goes on.

        Example:
            >>> from frontswap import PlainRam
            >>> with Frontswap([PlainRam("1MiB")]) as fs:
            ...     fs.remove_backend(fs.backends[0])
            ...     fs.backends
            ()
        """
        check_backend(backend)
        with self._changing():
            self._chain.remove_backend(backend.native)
            self._backends = tuple(other for other in self._backends if other is not backend)

    def shrink(self, target_pages: int, pull: Callable[[int, int, bytes], bool] | None = None) -> int:
        """Hold fewer pages, best effort (rule F8).

        Args:
            target_pages: Hold at most so many: in the whole chain with `pull`, above the slow swap without.
            pull: Called with area, offset and the page's bytes; when it returns True it took the page, which is
                then forgotten. Without it pages go down into the slow swap.

        Returns:
            The pages that are held now, counted like the target. Call again to go on.

        Raises:
            OptionInvalidError: The target is below zero.

        Example:
            >>> from frontswap import PlainRam
            >>> with Frontswap([PlainRam("1MiB")]) as fs:
            ...     fs.init(0, pages=1)
            ...     answer = fs.store(0, 0, bytes(range(256)) * 16)
            ...     fs.shrink(0, pull=lambda area, offset, page: True)
            0
        """
        target = index(target_pages)
        if target < 0:
            raise Options("shrink", {}).invalid("target_pages", target, "it is below zero", "0 pulls every page")
        function: object = pull
        if function is not None and not callable(function):
            message = f"`pull` is a function of area, offset and page, not {type(function).__name__}"
            raise TypeError(message)
        # More than 64 bits can count is more than any chain holds.
        return self._chain.shrink(min(target, 2**64 - 1), pull)

    def curr_pages(self) -> int:
        """Return the pages held in the whole chain; exact at any time (rule F9).

        Example:
            >>> Frontswap().curr_pages()
            0
        """
        return self._chain.curr_pages()

    def stats(self) -> ChainStats:
        """Return the counters of the chain, of every area and of every backend.

        Example:
            >>> Frontswap().stats().succ_stores
            0
        """
        from frontswap.stats import AreaStats, ChainStats

        raw = self._chain.stats()
        areas = {number: AreaStats.from_native(counts) for number, counts in raw["areas"].items()}
        backends = tuple(backend.stats() for backend in self._backends)
        return ChainStats.from_native({**raw, "areas": areas, "backends": backends})

    def close(self) -> None:
        """Forget every page and close the backends; nothing is left behind.

        Raises:
            ClosedError: It is closed already.
            ForkedError: It belongs to the parent of this process.

        Example:
            >>> fs = Frontswap()
            >>> fs.close()
        """
        self._chain.close()
        for backend in self._backends:
            # The chain closed its handle; this is for what a backend written in Python has besides.
            with contextlib.suppress(ClosedError):
                backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Closed already is what is wanted here; in a forked child there is nothing of ours to give back.
        with contextlib.suppress(ClosedError, ForkedError):
            self.close()

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError(not_copied(self))

    def __repr__(self) -> str:
        return f"<Frontswap {' -> '.join(backend.name for backend in self._backends) or 'without backends'}>"

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock of the list of backends.

        It first asks the chain, which knows the child of a fork: another thread of the parent may have held the
        lock at that moment, and nobody would ever give it back here. Without the lock the change then says, in its
        own words, why it cannot be.
        """
        lock: contextlib.AbstractContextManager[object] = self._lock
        try:
            self._chain.curr_pages()
        except (ClosedError, ForkedError):
            lock = contextlib.nullcontext()
        with lock:
            yield
