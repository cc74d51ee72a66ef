"""Swap to RAM in user space: a page goes into compressed RAM or a swap file and comes back, bit for bit.

    >>> from frontswap import CompressedRam, Frontswap, SwapFile
    >>> with Frontswap([CompressedRam("16MiB"), SwapFile("/var/tmp", size="16MiB", direct=False)]) as fs:
    ...     fs.init(0, pages=1_000_000)
    ...     bool(fs.store(0, 17, b"a page has 4096 bytes, this one too".ljust(4096)))
    True

`Space` is memory for arrays that are larger than RAM. `Frontswap` is the chain, `Backend` the contract of what stands in it, `frontswap.errors` every error,
`frontswap.testing` the tests that prove a backend of your own.
"""

from frontswap._frontswap import PAGE_SIZE, Answer, __version__
from frontswap.backends import (
    ACCEPTED,
    Backend,
    CompressedRam,
    FaultInject,
    PlainRam,
    SwapFile,
    rejected,
)
from frontswap.errors import FrontswapError
from frontswap.frontswap import Frontswap
from frontswap.space import Space
from frontswap.units import format_size, parse_size

__all__ = [
    "ACCEPTED",
    "PAGE_SIZE",
    "Answer",
    "Backend",
    "CompressedRam",
    "FaultInject",
    "Frontswap",
    "FrontswapError",
    "PlainRam",
    "Space",
    "SwapFile",
    "__version__",
    "format_size",
    "parse_size",
    "rejected",
]
