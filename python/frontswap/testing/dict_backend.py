"""The smallest right backend: a dictionary that says what was asked of it.

The rules of the chain are checked with it, because it shows which backend was offered which page, in which order,
and what each holds. It can be told to reject and to break.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from frontswap import ACCEPTED, Answer, Backend, rejected

if TYPE_CHECKING:
    from typing_extensions import Buffer

Key = tuple[int, int]
"""Area and offset: the name of a page."""


class DictBackend(Backend):
    """A backend for tests that keeps pages in a dictionary and writes down every call.

    Args:
        place: A word that tells it from others of its kind; its name becomes `dict:PLACE`.
        volatile: It says that it can lose pages (rule B2).
        slow: It says that it is on a disk.
        calls: Where calls are written down: one (place, operation, area, offset) each, where `init` has the area's
            length as offset and `invalidate_area` has 0. One list for several backends shows their order.

    Attributes:
        pages: What it holds: bytes by (area, offset).
        areas: The areas that it was asked to begin and not to forget.
        reject_reason: When not None, every page is rejected for this reason.
        store_error: When not None, `store` raises it.
        load_error: When not None, `load` of a page that is held raises it.

    Threads: as any backend: calls on different keys may come at once.

    Example:
        >>> from frontswap import Frontswap
        >>> calls = []
        >>> backend = DictBackend("left", calls=calls)
        >>> with Frontswap([backend]) as fs:
        ...     fs.init(0, pages=10)
        ...     answer = fs.store(0, 7, bytes(range(256)) * 16)
        ...     answer.backend, calls
        ('dict:left', [('left', 'init', 0, 10), ('left', 'store', 0, 7)])
    """

    kind = "dict"

    def __init__(
        self,
        place: str = "",
        *,
        volatile: bool = False,
        slow: bool = False,
        calls: list[tuple[str, str, int, int]] | None = None,
    ) -> None:
        self.place = place
        self.volatile = volatile
        self.slow = slow
        self.pages: dict[Key, bytes] = {}
        self.areas: set[int] = set()
        self._calls = calls
        self.reject_reason: str | None = None
        self.store_error: Exception | None = None
        self.load_error: Exception | None = None

    def init(self, area: int, pages: int) -> None:
        """Begin an area; see `Backend.init`."""
        self._note("init", area, pages)
        self.areas.add(area)

    def store(self, area: int, offset: int, page: Buffer) -> Answer:
        """Keep a copy of the page, unless told otherwise; see `Backend.store`."""
        self._note("store", area, offset)
        # Rule B4: whatever the answer, the old copy is gone.
        self.pages.pop((area, offset), None)
        if self.store_error is not None:
            raise self.store_error
        if area not in self.areas:
            return rejected("no_area")
        if self.reject_reason is not None:
            return rejected(self.reject_reason)
        self.pages[area, offset] = bytes(page)
        return ACCEPTED

    def load(self, area: int, offset: int, out: Buffer) -> bool:
        """Copy the page out; see `Backend.load`."""
        self._note("load", area, offset)
        page = self.pages.get((area, offset))
        if page is None:
            return False
        if self.load_error is not None:
            raise self.load_error
        memoryview(out)[:] = page
        return True

    def invalidate_page(self, area: int, offset: int) -> None:
        """Forget the page; see `Backend.invalidate_page`."""
        self._note("invalidate_page", area, offset)
        self.pages.pop((area, offset), None)

    def invalidate_area(self, area: int) -> None:
        """Forget the area; see `Backend.invalidate_area`."""
        self._note("invalidate_area", area, 0)
        self.areas.discard(area)
        # A copy of the keys, taken in one step: another thread may be at another area.
        for key in list(self.pages):
            if key[0] == area:
                self.pages.pop(key, None)

    def _note(self, operation: str, area: int, offset: int) -> None:
        if self._calls is not None:
            self._calls.append((self.place, operation, area, offset))
