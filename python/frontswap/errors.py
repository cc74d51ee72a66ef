"""Every error that frontswap raises.

The table of kinds (code, message, hint) is in the Rust core; a class here is one row of it, so that a
program can catch what it can handle. Each is a `FrontswapError` and also the built-in exception that a
caller expects: a bad size is a `ValueError`, a full disk an `OSError`. A test holds both lists equal, and
`docs/errors.md` is made from them.
"""

from __future__ import annotations

from errno import errorcode as errno_names
from typing import ClassVar


class FrontswapError(Exception):
    """The base of all our errors.

    Args:
        message: What failed, which object or value, and why.
        hint: One thing to do about it.
        errno: The system's error number, where there is one.

    Attributes:
        code: The stable name of this kind of error, for programs.
        hint: One thing to do about it; never empty for an error that frontswap raises.
        errno: The system's error number, or None.

    Example:
        >>> from frontswap import parse_size
        >>> try:
        ...     parse_size("12 parsecs")
        ... except FrontswapError as error:
        ...     print(error.code, error, sep=": ")
        size-invalid: cannot read `12 parsecs` as a size: `parsecs` is not a unit
    """

    code: ClassVar[str] = ""
    hint: str
    errno: int | None

    def __init__(self, message: str, *, hint: str = "", errno: int | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.errno = errno

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        # Pickling calls the class with `args` alone, which would lose the rest on the way to another process.
        return _rebuild, (type(self), str(self), self.hint, self.errno)


def class_for(code: str) -> type[FrontswapError]:
    """Return the class of one kind of error.

    Args:
        code: The kind's stable name.

    Raises:
        KeyError: There is no such kind.

    Example:
        >>> class_for("size-invalid").__name__
        'SizeInvalidError'
    """
    return _BY_CODE[code]


def reason_of(error: OSError) -> str:
    """Return the system's reason for an error, as our messages have it.

    Args:
        error: What a system call raised.

    Example:
        >>> reason_of(FileNotFoundError(2, "No such file or directory"))
        'no such file or directory (ENOENT)'
    """
    name = errno_names.get(error.errno or 0, "no error number")
    return f"{(error.strerror or str(error)).lower()} ({name})"


def _rebuild(cls: type[FrontswapError], message: str, hint: str, errno: int | None) -> FrontswapError:
    return cls(message, hint=hint, errno=errno)


class PageLengthError(FrontswapError, ValueError):
    """A page that is not 4096 bytes."""

    code = "page-length"


class PageBufferError(FrontswapError, TypeError):
    """A buffer that no page can be copied from or into."""

    code = "page-buffer"


class AreaNumberError(FrontswapError, LookupError):
    """A number that no area can have."""

    code = "area-number"


class AreaNotInitialisedError(FrontswapError, LookupError):
    """An area that nobody initialised."""

    code = "area-not-initialised"


class AreaInvalidError(FrontswapError, ValueError):
    """An area number or length outside the limits."""

    code = "area-invalid"


class AreaInUseError(FrontswapError, ValueError):
    """An area that was initialised before and is still in use."""

    code = "area-in-use"


class OffsetPastEndError(FrontswapError, LookupError):
    """An offset at or past the end of its area."""

    code = "offset-past-end"


class OffsetInvalidError(FrontswapError, ValueError):
    """An offset that no page can have, such as one below zero."""

    code = "offset-invalid"


class CapacityInvalidError(FrontswapError, ValueError):
    """A capacity of zero, below zero or above the machine."""

    code = "capacity-invalid"


class SizeInvalidError(FrontswapError, ValueError):
    """Text that is not a size."""

    code = "size-invalid"


class CodecUnknownError(FrontswapError, ValueError):
    """A codec that does not exist."""

    code = "codec-unknown"


class BackendUnknownError(FrontswapError, LookupError):
    """A backend that no installed package offers."""

    code = "backend-unknown"


class OptionUnknownError(FrontswapError, ValueError):
    """A setting that does not exist."""

    code = "option-unknown"


class OptionInvalidError(FrontswapError, ValueError):
    """A setting with a value that it cannot have."""

    code = "option-invalid"


class ConfigInvalidError(FrontswapError, ValueError):
    """A configuration file that cannot be read."""

    code = "config-invalid"


class PluginInvalidError(FrontswapError, RuntimeError):
    """A backend of another package that cannot be used."""

    code = "plugin-invalid"


class PluginClashError(FrontswapError, RuntimeError):
    """Two packages that offer a backend of one name."""

    code = "plugin-clash"


class SwapFileOpenError(FrontswapError, OSError):
    """A swap file that cannot be opened."""

    code = "swap-file-open"


class SwapFileSpaceError(FrontswapError, OSError):
    """A swap file whose space cannot be reserved."""

    code = "swap-file-space"


class SwapFileDirectError(FrontswapError, OSError):
    """A swap file on a place without direct I/O."""

    code = "swap-file-direct"


class NoMemoryError(FrontswapError, MemoryError):
    """Address space that cannot be reserved."""

    code = "no-memory"


class ThreadFailedError(FrontswapError, RuntimeError):
    """A worker thread that cannot be started."""

    code = "thread-failed"


class ClosedError(FrontswapError, ValueError):
    """A use after `close()`."""

    code = "closed"


class ForkedError(FrontswapError, RuntimeError):
    """A use in a child process of an object that belongs to its parent."""

    code = "forked"


class BackendBrokenError(FrontswapError, OSError):
    """A backend that can no longer take pages; what it holds still loads."""

    code = "backend-broken"


class PageUnreadableError(FrontswapError, OSError):
    """A page that is held and cannot be given back."""

    code = "page-unreadable"


class PageCorruptError(FrontswapError, OSError):
    """A page that came back with other bytes than were stored; they were not returned."""

    code = "page-corrupt"


class PageLostError(FrontswapError, OSError):
    """A page that a backend accepted and then denied."""

    code = "page-lost"


class DrainIncompleteError(FrontswapError, MemoryError):
    """A backend that cannot be removed, because its pages fit nowhere else."""

    code = "drain-incomplete"


class BackendInChainError(FrontswapError, ValueError):
    """A backend that already belongs to a chain."""

    code = "backend-in-chain"


class BackendInUseError(FrontswapError, ValueError):
    """A direct call to a backend that is part of a chain."""

    code = "backend-in-use"


class BackendNotEmptyError(FrontswapError, ValueError):
    """A backend that holds pages and should join a chain, which would not know of them."""

    code = "backend-not-empty"


class BackendNotInChainError(FrontswapError, LookupError):
    """A backend that is not part of this chain."""

    code = "backend-not-in-chain"


class ChainOrderError(FrontswapError, ValueError):
    """A position in the chain that a backend cannot have."""

    code = "chain-order"


class ChainLimitError(FrontswapError, ValueError):
    """More backends than a chain can have."""

    code = "chain-limit"


class VolatileNeedsWritethroughError(FrontswapError, ValueError):
    """A backend that can lose pages, in a chain that does not write through."""

    code = "volatile-needs-writethrough"


class WritethroughNeedsSlowError(FrontswapError, ValueError):
    """Writethrough without a slow swap to write to."""

    code = "writethrough-needs-slow"


class ReenteredError(FrontswapError, RuntimeError):
    """A chain that should be changed from within the code of one of its backends."""

    code = "reentered"


class BackendFailedError(FrontswapError, RuntimeError):
    """An exception or a wrong answer from a backend's own code."""

    code = "backend-failed"


class PagerPermissionError(FrontswapError, OSError):
    """A userfaultfd that this user may not open."""

    code = "pager-permission"


class PagerUnsupportedError(FrontswapError, OSError):
    """A kernel that cannot do what the pager needs, or a filter that blocks it."""

    code = "pager-unsupported"


class PagerFailedError(FrontswapError, OSError):
    """A pager that the system does not let work."""

    code = "pager-failed"


class PinTooLargeError(FrontswapError, MemoryError):
    """More memory to hold in RAM than may be held."""

    code = "pin-too-large"


class SpaceInUseError(FrontswapError, RuntimeError):
    """A space that should be closed while arrays of it are alive; nothing changed."""

    code = "space-in-use"


class SpaceForeignError(FrontswapError, ValueError):
    """Memory of another space than the one that was asked to pin it."""

    code = "space-foreign"


class BufferEvictedError(FrontswapError, OSError):
    """A system call on memory of a space of which some was not in RAM."""

    code = "buffer-evicted"


class NumpyUnfitError(FrontswapError, ImportError):
    """NumPy is not installed, or too old."""

    code = "numpy-unfit"


class RamLimitInvalidError(FrontswapError, ValueError):
    """An amount of RAM that no program can be run in."""

    code = "ram-limit-invalid"


class BackendUnfitError(FrontswapError, ValueError):
    """A backend that cannot serve a whole program."""

    code = "backend-unfit"


class ProgramNotFoundError(FrontswapError, OSError):
    """A program that does not exist."""

    code = "program-not-found"


class ProgramNotExecutableError(FrontswapError, OSError):
    """A file that is there and is no program that can be started."""

    code = "program-not-executable"


class ProgramUnmanageableError(FrontswapError, RuntimeError):
    """A program into which nothing can be loaded, so that its memory cannot be managed."""

    code = "program-unmanageable"


class RunNestedError(FrontswapError, RuntimeError):
    """A `frontswap run` inside another."""

    code = "run-nested"


class UserfaultfdDeniedError(FrontswapError, OSError):
    """No permission for what managing a whole program needs."""

    code = "userfaultfd-denied"


class KernelUnfitError(FrontswapError, RuntimeError):
    """A kernel that lacks what managing a whole program needs."""

    code = "kernel-unfit"


class PreloadUnfitError(FrontswapError, RuntimeError):
    """The part of frontswap that is loaded into programs is missing or cannot be loaded."""

    code = "preload-unfit"


class StatsFileError(FrontswapError, OSError):
    """A file that the figures of a run cannot be written to."""

    code = "stats-file"


class ProcessNotManagedError(FrontswapError, LookupError):
    """A process that is not there, not ours, or not under `frontswap run`."""

    code = "process-not-managed"


class InternalError(FrontswapError, RuntimeError):
    """A bug in frontswap."""

    code = "internal"


_BY_CODE: dict[str, type[FrontswapError]] = {cls.code: cls for cls in FrontswapError.__subclasses__()}
