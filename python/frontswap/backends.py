"""The contract of a backend, and the backends that come with frontswap.

`Backend` is the contract in five methods; whoever writes a backend of their own reads that class and
`docs/backends.md`, nothing else. The built-in backends are in Rust; the classes here check what a person
wrote (sizes, settings) and pass on. A backend written in Python is slow and meant for experiments: it never
runs where a faulting thread waits, because that thread may hold the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import os
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from frontswap import _frontswap
from frontswap._frontswap import Answer
from frontswap.errors import BackendInUseError, ClosedError, ForkedError
from frontswap.options import Options
from frontswap.units import both_readings, machine_memory, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Buffer

    from frontswap.options import Value
    from frontswap.stats import BackendStats

PAGE_SIZE = _frontswap.PAGE_SIZE
"""Bytes in a page, the unit of the contract."""

_KIND = re.compile("[a-z][a-z0-9_-]*")
"""What can be the word of `--backend`, where `:` begins the place and `,` the settings."""

_CHANCES = ("reject", "store_error", "load_error", "corrupt")

API_VERSION = 1
"""The version of the contract between frontswap and backends of other packages."""

UNLIMITED = 2**64 - 1
"""The capacity of a backend written in Python until it is set."""

ACCEPTED = Answer(True)  # noqa: FBT003 - the native class takes it by position
"""The answer of a backend that took a page."""


def rejected(reason: str = "other") -> Answer:
    """Return the answer of a backend that did not take a page.

    Args:
        reason: Why: `full`, `quota`, `compress_poor`, `frozen`, `unreachable`, `no_area`, `closing` or `other`. It
            names the counter: `full` is counted in `reject_full`.

    Raises:
        ValueError: There is no such reason.

    Example:
        >>> bool(rejected("full")), rejected("full").reason
        (False, 'full')
    """
    return Answer(accepted=False, reason=reason)


class Backend(ABC):
    """Something that may take a page: the contract of five methods.

    Everything is synchronous: when a call returns, it has happened. A backend of your own subclasses this,
    sets `kind`, and writes the five methods. Rules B1 to B11, which they name, are in `docs/contract.md`;
    `frontswap.testing.BackendTests` checks each of them.

    Attributes:
        kind: The word of `--backend`, lower case.
        place: Where pages are kept, when that is a place: a directory, an address. Empty otherwise.
        volatile: It can lose pages (rule B2), and so is used only with writethrough (rule F6).
        slow: It is on a disk: the last of a chain.
        api_version: The version of this contract that the class was written for.

    Threads: calls on different keys come from several threads at once, two calls on one key never (rule B9).

    Example:
        >>> class Shelf(Backend):
        ...     kind = "shelf"
        ...
        ...     def __init__(self):
        ...         self.areas = {}
        ...
        ...     def init(self, area, pages):
        ...         self.areas[area] = {}
        ...
        ...     def store(self, area, offset, page):
        ...         if area not in self.areas:
        ...             return rejected("no_area")
        ...         self.areas[area][offset] = bytes(page)
        ...         return ACCEPTED
        ...
        ...     def load(self, area, offset, out):
        ...         page = self.areas.get(area, {}).get(offset)
        ...         if page is None:
        ...             return False
        ...         memoryview(out)[:] = page
        ...         return True
        ...
        ...     def invalidate_page(self, area, offset):
        ...         self.areas.get(area, {}).pop(offset, None)
        ...
        ...     def invalidate_area(self, area):
        ...         self.areas.pop(area, None)
        >>> from frontswap import Frontswap
        >>> with Frontswap([Shelf()]) as fs:
        ...     fs.init(0, pages=100)
        ...     fs.store(0, 17, b"12345678abcdefgh" * 256).backend
        'shelf'
    """

    kind: ClassVar[str] = ""
    api_version: ClassVar[int] = API_VERSION
    place: str = ""
    volatile: bool = False
    slow: bool = False

    @abstractmethod
    def init(self, area: int, pages: int) -> None:
        """Begin an area; one that was invalidated may begin again.

        Args:
            area: Swap area number, 0 to 65535.
            pages: Its length in pages; offsets go from 0 to `pages - 1`.

        Raises:
            FrontswapError: This backend cannot serve the area at all; nothing has changed.

        Threads: called from several threads at once.
        Source: Linux Documentation/vm/frontswap.rst, `init`.
        """

    @abstractmethod
    def store(self, area: int, offset: int, page: Buffer) -> Answer:
        """Offer one page to this backend.

        Args:
            area: Swap area number.
            offset: Page index inside the area; pages, not bytes.
            page: 4096 bytes, C-contiguous; valid only until return, so keep a copy (rule B1).

        Returns:
            `ACCEPTED`, or `rejected(reason)`. Rejection is an answer, not an error: afterwards the backend
            holds nothing for (area, offset), even if it held an older copy (rule B4).

        Raises:
            BackendBrokenError: It can no longer answer. It takes no new pages; loads still go to it.

        Threads: called from several threads at once, never twice at once for one key.
        Source: Linux Documentation/vm/frontswap.rst, duplicate store.
        """

    @abstractmethod
    def load(self, area: int, offset: int, out: Buffer) -> bool:
        """Copy one page out and leave it where it is (rule B5).

        Args:
            area: Swap area number.
            offset: Page index inside the area.
            out: A writable buffer of 4096 bytes; valid only until return.

        Returns:
            True when `out` holds the page, bit for bit (rule B2). False when nothing is held for the key;
            `out` is then as it was.

        Raises:
            PageUnreadableError: The page is held but cannot be given back. Never give zeroes or old bytes in
                its place (rule B10).

        Threads: called from several threads at once.
        Source: Linux Documentation/vm/frontswap.rst, `load`.
        """

    @abstractmethod
    def invalidate_page(self, area: int, offset: int) -> None:
        """Forget one page; it cannot fail, and forgetting what is not held is fine (rule B6).

        Args:
            area: Swap area number.
            offset: Page index inside the area.

        Threads: called from several threads at once.
        Source: Linux Documentation/vm/frontswap.rst, `invalidate_page`.
        """

    @abstractmethod
    def invalidate_area(self, area: int) -> None:
        """Forget a whole area; it cannot fail, and stores to it are rejected until `init` (rule B6).

        Args:
            area: Swap area number.

        Threads: called from several threads at once.
        Source: Linux Documentation/vm/frontswap.rst, `invalidate_area`.
        """

    @classmethod
    def from_spec(cls, place: str, options: Mapping[str, Value]) -> Self:
        """Build a backend from `KIND[:PLACE][,key=value...]` or from a table of a TOML file.

        A backend with settings overrides this and reads them with `frontswap.options.Options`; this one
        takes neither a place nor settings.

        Args:
            place: What stood after the colon; empty when nothing did.
            options: The settings; text from a command line, values from TOML.

        Raises:
            OptionUnknownError: A setting that it does not have.
            OptionInvalidError: A value that a setting cannot have.

        Example:
            >>> PlainRam.from_spec("", {"capacity": "1MiB"}).capacity
            1048576
        """
        reader = _reader(cls.kind, place, options)
        reader.finish()
        return cls()

    @property
    def native(self) -> _frontswap.Backend:
        """The handle that a chain holds, and that counts what goes through it."""
        try:
            return self._handle
        except AttributeError:
            if not _KIND.fullmatch(str(self.kind)):
                reason = "a kind is small letters, digits, `_` and `-`"
                hint = f'write `kind = "shelf"`, say, in the class `{type(self).__name__}`'
                raise Options(type(self).__name__, {}).invalid("kind", self.kind, reason, hint) from None
            # Made on first use, so that a subclass need not call our constructor. `setdefault` is one step
            # under the interpreter's lock: of two threads that come here at once, both get the same handle.
            handle: _frontswap.Backend = self.__dict__.setdefault("_handle", _frontswap.Backend.python(self))
            return handle

    _handle: _frontswap.Backend

    @property
    def name(self) -> str:
        """The kind and, where there is one, the place: `zpool`, `file:/var/tmp`."""
        return self.native.name

    @property
    def state(self) -> str:
        """`ready`, `broken`, `draining` or `closed`."""
        return self.native.state

    @property
    def broken_reason(self) -> str | None:
        """What went wrong in a backend that is `broken`, such as the exception from its own code; None otherwise."""
        return self.native.broken_reason

    @property
    def capacity(self) -> int:
        """Most bytes that it may take: of RAM, or of disk for a slow one; `UNLIMITED` when nobody set it.

        Set it to a number or to text such as `64MiB` at any moment, also to below what is held: pages that
        no longer fit then go down the chain before the call returns, and none is lost (rule B7).
        """
        return self.native.capacity

    @capacity.setter
    def capacity(self, capacity: int | str) -> None:
        size = check_capacity(self.name, capacity) if self.slow else check_ram_capacity(self.name, capacity)
        self.native.capacity = size

    def stats(self) -> BackendStats:
        """Return the counters of what went through a chain, or through a built-in backend itself.

        Example:
            >>> with PlainRam("1MiB") as backend:
            ...     backend.stats().mem_limit
            1048576
        """
        from frontswap.stats import BackendStats

        return BackendStats.from_native(self.native.stats())

    def close(self) -> None:
        """Give everything back: memory, files, what it holds. It cannot be used afterwards.

        Raises:
            ClosedError: It is closed already.
            BackendInUseError: It is part of a chain, which closes it.
            ForkedError: It belongs to the parent of this process.

        Example:
            >>> backend = PlainRam("1MiB")
            >>> backend.close()
            >>> backend.state
            'closed'
        """
        self.native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Closed already is what is wanted here; one that went into a chain belongs to that now; and in a forked
        # child there is nothing of ours to give back.
        with contextlib.suppress(BackendInUseError, ClosedError, ForkedError):
            self.close()

    def __reduce__(self) -> str | tuple[Any, ...]:
        # `copy.copy` would otherwise make a second object with the handle, and the pages, of this one.
        raise TypeError(not_copied(self))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {self.state}>"


class _NativeBackend(Backend):
    """A backend in Rust: the five methods go straight to its handle."""

    def __init__(self, handle: _frontswap.Backend) -> None:
        self._handle = handle
        self.place = handle.place
        self.volatile = handle.is_volatile
        self.slow = handle.is_slow

    def init(self, area: int, pages: int) -> None:
        self._handle.init(area, pages)

    def store(self, area: int, offset: int, page: Buffer) -> Answer:
        return self._handle.store(area, offset, page)

    def load(self, area: int, offset: int, out: Buffer) -> bool:
        return self._handle.load(area, offset, out)

    def invalidate_page(self, area: int, offset: int) -> None:
        self._handle.invalidate_page(area, offset)

    def invalidate_area(self, area: int) -> None:
        self._handle.invalidate_area(area)


class CompressedRam(_NativeBackend):
    """Compressed RAM: pages of any compressed size, packed without gaps to speak of.

    Args:
        capacity: Most RAM that it takes, everything counted: a number of bytes, or text such as `256MiB`, `25%`.
        codec: `auto` chooses by content and remembers it per neighbourhood of offsets; or one of `lz4`, `zstd`,
            `shuffle2`, `shuffle4`, `shuffle8` (bytes of 2, 4 or 8-byte numbers sorted, then lz4), `raw`.
        level: Of zstd, -7 to 22: higher is smaller and slower.
        incompressible: What happens to a page that does not shrink: `keep` it raw, or `reject` it, so that it
            goes to the next backend.

    Raises:
        CapacityInvalidError: The capacity is zero, below zero or above this machine's memory.
        CodecUnknownError: There is no such codec.
        OptionInvalidError: `level` or `incompressible` is not one of those above.
        NoMemoryError: The address space cannot be reserved.

    Threads: may be used from any; calls on different keys run in parallel.

    Example:
        >>> with CompressedRam("16MiB", codec="zstd") as backend:
        ...     backend.init(0, pages=1000)
        ...     accepted = backend.store(0, 17, b"a page is 4096.." * 256)
        ...     out = bytearray(4096)
        ...     backend.load(0, 17, out)
        True
        >>> out[:16].decode()
        'a page is 4096..'
    """

    kind = "zpool"

    def __init__(
        self, capacity: int | str, *, codec: str = "auto", level: int = 1, incompressible: str = "keep"
    ) -> None:
        size = check_ram_capacity(self.kind, capacity)
        level = _zstd_level(Options(self.kind, {"level": level}))
        super().__init__(_frontswap.Backend.zpool(size, codec=codec, level=level, incompressible=incompressible))

    @classmethod
    def from_spec(cls, place: str, options: Mapping[str, Value]) -> Self:
        """Build one from `zpool[,capacity=25%][,codec=auto][,level=1][,incompressible=keep]`.

        Args:
            place: Must be empty.
            options: The settings, named as in the constructor.

        Raises:
            FrontswapError: A setting is unknown or impossible; see the constructor.

        Example:
            >>> CompressedRam.from_spec("", {"capacity": "16MiB", "codec": "lz4"}).name
            'zpool'
        """
        reader = _reader(cls.kind, place, options)
        capacity = reader.size("capacity", "25%")
        codec = reader.text("codec", "auto")
        level = _zstd_level(reader)
        incompressible = reader.text("incompressible", "keep", choices=("keep", "reject"))
        reader.finish()
        return cls(capacity, codec=codec, level=level, incompressible=incompressible)


class PlainRam(_NativeBackend):
    """Plain RAM: pages as they are, the fastest and the largest.

    Args:
        capacity: Most RAM that it takes, everything counted: a number of bytes, or text such as `256MiB`, `25%`.

    Raises:
        CapacityInvalidError: The capacity is zero, below zero or above this machine's memory.
        NoMemoryError: The address space cannot be reserved.

    Threads: may be used from any; calls on different keys run in parallel.

    Example:
        >>> with PlainRam("1MiB") as backend:
        ...     backend.capacity
        1048576
    """

    kind = "ram"

    def __init__(self, capacity: int | str) -> None:
        super().__init__(_frontswap.Backend.ram(check_ram_capacity(self.kind, capacity)))

    @classmethod
    def from_spec(cls, place: str, options: Mapping[str, Value]) -> Self:
        """Build one from `ram[,capacity=25%]`.

        Args:
            place: Must be empty.
            options: The settings, named as in the constructor.

        Raises:
            FrontswapError: A setting is unknown or impossible; see the constructor.

        Example:
            >>> PlainRam.from_spec("", {"capacity": "1MiB"}).kind
            'ram'
        """
        reader = _reader(cls.kind, place, options)
        capacity = reader.size("capacity", "25%")
        reader.finish()
        return cls(capacity)


class SwapFile(_NativeBackend):
    """The slow swap: a file without a name, on a disk, whose space is reserved at once.

    Nothing is left of it after `close()`, exit or kill.

    Args:
        directory: Where; on a disk, not in RAM. Its name is UTF-8.
        size: Its size: a number of bytes, or text such as `4GiB`. It can be changed through `capacity`.
        direct: Go past the page cache, which would keep in RAM what was sent out of it. Turn it off only for
            file systems that cannot do it.

    Raises:
        CapacityInvalidError: The size is zero or below zero.
        SwapFileOpenError: The directory is missing, is not one, or cannot be written to.
        SwapFileSpaceError: The disk has no room for it.
        SwapFileDirectError: The place has no direct I/O.

    Threads: may be used from any; calls on different keys run in parallel.

    Example:
        >>> with SwapFile("/var/tmp", size="4MiB", direct=False) as backend:
        ...     backend.name, backend.slow
        ('file:/var/tmp', True)
    """

    kind = "file"

    def __init__(self, directory: str | os.PathLike[str], size: int | str, *, direct: bool = True) -> None:
        place = _utf8(os.fsdecode(directory))
        size_bytes = check_capacity(f"{self.kind}:{place}", size)
        super().__init__(_frontswap.Backend.file(place, size_bytes, direct=direct))

    @classmethod
    def from_spec(cls, place: str, options: Mapping[str, Value]) -> Self:
        """Build one from `file[:/var/tmp][,size=1GiB][,direct=yes]`.

        Args:
            place: The directory; `/var/tmp` when empty.
            options: The settings, named as in the constructor.

        Raises:
            FrontswapError: A setting is unknown or impossible; see the constructor.

        Example:
            >>> SwapFile.from_spec("/var/tmp", {"size": "4MiB", "direct": "no"}).capacity
            4194304
        """
        reader = _reader(cls.kind, "", options)
        size = reader.size("size", "1GiB")
        direct = reader.flag("direct", default=True)
        reader.finish()
        return cls(place or "/var/tmp", size, direct=direct)  # noqa: S108 - a file without a name cannot be guessed


class FaultInject(_NativeBackend):
    """Another backend with faults, for tests: by a seed, so that a run can be repeated.

    Args:
        inner: The backend that does the work. It belongs to this one from now on, and is closed with it.
        seed: Which faults come when; zero or more.
        reject: Probability, 0 to 1, that a page is rejected.
        delay_us: Microseconds that every store and load takes longer, up to a minute.
        store_error: Probability that a store breaks.
        load_error: Probability that a load finds a page unreadable.
        corrupt: Probability that a load returns one bit changed, which the chain's checksum must find.

    Raises:
        OptionInvalidError: A probability is not from 0 to 1, or the delay is below zero.
        BackendInUseError: `inner` already belongs to a chain or to another backend.

    Threads: as `inner`.

    Example:
        >>> with FaultInject(PlainRam("1MiB"), reject=1.0) as backend:
        ...     backend.init(0, pages=1)
        ...     bool(backend.store(0, 0, bytes(4096)))
        False
    """

    kind = "fault_inject"

    def __init__(
        self,
        inner: Backend,
        *,
        seed: int = 0,
        reject: float = 0.0,
        delay_us: int = 0,
        store_error: float = 0.0,
        load_error: float = 0.0,
        corrupt: float = 0.0,
    ) -> None:
        chances = {"reject": reject, "store_error": store_error, "load_error": load_error, "corrupt": corrupt}
        check_backend(inner)
        faults = _faults(Options(self.kind, {"seed": seed, "delay_us": delay_us, **chances}))
        super().__init__(_frontswap.Backend.fault_inject(inner.native, **faults))
        self.inner = inner

    def close(self) -> None:
        """Close it and the backend inside.

        Raises:
            ClosedError: It is closed already.
            ForkedError: It belongs to the parent of this process.

        Example:
            >>> backend = FaultInject(PlainRam("1MiB"))
            >>> backend.close()
            >>> backend.state
            'closed'
        """
        super().close()
        self.inner.close()

    @classmethod
    def from_spec(cls, place: str, options: Mapping[str, Value]) -> Self:
        """Build one from `fault_inject:KIND[:PLACE][,seed=0][,reject=0.1]...`; other settings go to KIND.

        Args:
            place: The inner backend, `zpool` or `file:/var/tmp`.
            options: The settings, named as in the constructor, and those of the inner backend.

        Raises:
            FrontswapError: A setting is unknown or impossible; see the constructor.

        Example:
            >>> FaultInject.from_spec("ram", {"capacity": "1MiB", "reject": "0.5"}).inner.capacity
            1048576
        """
        from frontswap.config import BackendSpec

        reader = Options(cls.kind, options)
        if not place:
            raise reader.invalid("place", place, "it wraps another backend", "write `fault_inject:zpool`")
        faults = _faults(reader)
        inner_kind, _, inner_place = place.partition(":")
        inner = BackendSpec(inner_kind, inner_place, reader.rest()).build()
        return cls(inner, **faults)


def check_capacity(backend: str, capacity: int | str) -> int:
    """Return a capacity in bytes, if it is above zero.

    Args:
        backend: The backend's name, for the error text.
        capacity: What was written.

    Raises:
        SizeInvalidError: It is not a size.
        CapacityInvalidError: It is zero or below zero.

    Example:
        >>> check_capacity("ram", "1MiB")
        1048576
    """
    below = isinstance(capacity, int) and capacity < 0
    size = 0 if below else parse_size(capacity)
    if size == 0:
        raise _frontswap.make_error(
            "capacity-invalid", backend=backend, capacity=capacity, reason="a capacity is above zero"
        )
    return size


def check_ram_capacity(backend: str, capacity: int | str) -> int:
    """Return a capacity in bytes, if it is above zero and within this machine's memory.

    Args:
        backend: The backend's name, for the error text.
        capacity: What was written.

    Raises:
        SizeInvalidError: It is not a size.
        CapacityInvalidError: It is zero, below zero, or more than the machine or the cgroup has.

    Example:
        >>> check_ram_capacity("ram", "1MiB")
        1048576
    """
    size = check_capacity(backend, capacity)
    memory = machine_memory()
    if size > memory:
        reason = f"{both_readings(size)} is more than this machine has, {both_readings(memory)}"
        raise _frontswap.make_error("capacity-invalid", backend=backend, capacity=capacity, reason=reason)
    return size


def check_backend(backend: object) -> Backend:
    """Return a backend, or say that it is none.

    Args:
        backend: What was given as one.

    Raises:
        TypeError: It is no object of a subclass of `Backend`.

    Example:
        >>> with PlainRam("1MiB") as backend:
        ...     check_backend(backend) is backend
        True
    """
    if not isinstance(backend, Backend):
        what = f"the class {backend.__name__}" if isinstance(backend, type) else type(backend).__name__
        message = f"a backend is an object of a subclass of `frontswap.Backend`, not {what}"
        raise TypeError(message)
    return backend


def not_copied(thing: object) -> str:
    """Return the text of the error for whoever copies or pickles a thing that holds pages.

    Args:
        thing: A backend or a chain.

    Example:
        >>> not_copied(17)
        'cannot copy or pickle a `int`: its pages exist once, in this process; create another one instead'
    """
    return (
        f"cannot copy or pickle a `{type(thing).__name__}`: its pages exist once, in this process; "
        "create another one instead"
    )


def _utf8(place: str) -> str:
    """Return the name of a directory, if messages and JSON can show it."""
    try:
        place.encode()
    except UnicodeEncodeError:
        raise _frontswap.make_error("swap-file-open", place=ascii(place), reason="its name is not UTF-8") from None
    return place


def _zstd_level(reader: Options) -> int:
    """Read the level of zstd; its limits are zstd's, below -7 nothing is gained on a page."""
    return reader.integer("level", 1, least=-7, most=22)


def _faults(reader: Options) -> dict[str, Any]:
    """Read the settings of `FaultInject`, except those of the backend inside."""
    faults: dict[str, Any] = {key: reader.probability(key) for key in _CHANCES}
    faults["seed"] = reader.integer("seed", 0)
    faults["delay_us"] = reader.integer("delay_us", 0, most=60_000_000)
    return faults


def _reader(kind: str, place: str, options: Mapping[str, Value]) -> Options:
    """Return a reader of the settings of a backend that has no place."""
    reader = Options(kind, options)
    if place:
        raise reader.invalid("place", place, "it has none", f"write `{kind},key=value`")
    return reader
