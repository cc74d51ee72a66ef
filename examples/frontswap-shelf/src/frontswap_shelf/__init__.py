"""A slow swap that compresses: pages go through zlib into an SQLite database without a name."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Self

from frontswap import ACCEPTED, Answer, Backend, rejected
from frontswap.options import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Buffer

_SCHEMA = """
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = MEMORY;
    PRAGMA synchronous = OFF;
    CREATE TABLE page (area INTEGER, offset INTEGER, data BLOB, PRIMARY KEY (area, offset)) WITHOUT ROWID;
"""
"""Nobody reads the file after this process: no other process is kept waiting, and no write needs to be durable."""


class Shelf(Backend):
    """Keeps compressed pages on disk.

    Args:
        directory: Where the database is. Nothing is left there after `close()`, exit or kill.

    Example:
        >>> with Shelf("/var/tmp") as shelf:
        ...     shelf.init(0, pages=1000)
        ...     bool(shelf.store(0, 17, b"twelve bytes" * 341 + b"four"))
        True
    """

    kind = "shelf"
    slow = True

    def __init__(self, directory: str | os.PathLike[str] = "/var/tmp") -> None:
        self.place = os.fspath(directory)
        self._areas: dict[int, int] = {}
        self._lock = threading.Lock()
        with tempfile.TemporaryDirectory(dir=directory, prefix="frontswap-shelf-") as folder:
            self._database = sqlite3.connect(Path(folder, "pages"), isolation_level=None, check_same_thread=False)
            # Opened for good by the first write; then the name can go, and the kernel frees the space at the end.
            self._database.executescript(_SCHEMA)

    @classmethod
    def from_spec(cls, place: str, options: Mapping[str, str | int | float | bool]) -> Self:
        """Build one from `shelf[:/var/tmp]`."""
        Options(cls.kind, options).finish()
        return cls(place or "/var/tmp")

    def init(self, area: int, pages: int) -> None:
        """Begin an area; rows come when pages do."""
        self._areas[area] = pages

    def store(self, area: int, offset: int, page: Buffer) -> Answer:
        """Compress a page and keep it."""
        if area not in self._areas:
            return rejected("no_area")
        data = zlib.compress(page, level=1)
        try:
            with self._lock:
                self._database.execute("REPLACE INTO page VALUES (?, ?, ?)", (area, offset, data))
        except sqlite3.OperationalError:
            # The disk is full. Rule B4: the old copy must go all the same, and deleting needs no room.
            self.invalidate_page(area, offset)
            return rejected("full")
        return ACCEPTED

    def load(self, area: int, offset: int, out: Buffer) -> bool:
        """Expand a page into `out`."""
        with self._lock:
            query = "SELECT data FROM page WHERE area = ? AND offset = ?"
            row = self._database.execute(query, (area, offset)).fetchone()
        if row is None:
            return False
        memoryview(out)[:] = zlib.decompress(row[0])
        return True

    def invalidate_page(self, area: int, offset: int) -> None:
        """Forget a page."""
        with self._lock:
            self._database.execute("DELETE FROM page WHERE area = ? AND offset = ?", (area, offset))

    def invalidate_area(self, area: int) -> None:
        """Forget an area."""
        self._areas.pop(area, None)
        with self._lock:
            self._database.execute("DELETE FROM page WHERE area = ?", (area,))

    def close(self) -> None:
        """Give the disk space back."""
        super().close()
        self._database.close()
