"""A memory cgroup of our own, of either version: the kernel kills what takes more than its limit."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RELEASE_S = 5.0
"""The longest that the kernel takes to let go of a group whose processes have ended."""


class NoCgroupError(Exception):
    """There can be no memory cgroup here, and why."""


@dataclass(frozen=True)
class MemoryBudget:
    """A group and its limit. No swap of the kernel's helps what is in it."""

    folder: Path
    is_v1: bool

    def limit(self, limit_bytes: int) -> None:
        if self.is_v1:
            self._write("memory.limit_in_bytes", limit_bytes)
            # Memory and swap together; without swap accounting there is no such file.
            if (self.folder / "memory.memsw.limit_in_bytes").exists():
                self._write("memory.memsw.limit_in_bytes", limit_bytes)
        else:
            self._write("memory.max", limit_bytes)
            if (self.folder / "memory.swap.max").exists():
                self._write("memory.swap.max", 0)

    @property
    def used_bytes(self) -> int:
        """What is charged to it now, page cache and the kernel's own for its processes included."""
        return int(self._read("memory.usage_in_bytes" if self.is_v1 else "memory.current"))

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed here for want of memory."""
        text = self._read("memory.oom_control" if self.is_v1 else "memory.events")
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        assert found, text
        return int(found[1])

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return a command that puts itself into the group and then becomes `command`."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *command]

    def _read(self, name: str) -> str:
        return (self.folder / name).read_text("ascii")

    def _write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(f"{value}\n", "ascii")


@contextlib.contextmanager
def memory_budget(limit_bytes: int) -> Iterator[MemoryBudget]:
    """Make a group with a limit, and remove it at the end.

    Raises:
        NoCgroupError: There can be none here.
    """
    place, is_v1 = _find_hierarchy()
    folder = place / f"frontswap-{os.getpid()}"
    try:
        folder.mkdir()
        budget = MemoryBudget(folder, is_v1)
        budget.limit(limit_bytes)
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise NoCgroupError(f"cannot make the memory cgroup `{folder}`: {error.strerror}") from error
    try:
        yield budget
    finally:
        _remove(folder)


def _find_hierarchy() -> tuple[Path, bool]:
    """Return where memory cgroups are made, and whether they are of version 1."""
    version_2 = None
    for line in Path("/proc/self/mounts").read_text("utf-8").splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(place), True
        if kind == "cgroup2":
            version_2 = Path(place)
    if version_2 is None:
        raise NoCgroupError("no memory cgroup is mounted")
    if "memory" not in (version_2 / "cgroup.subtree_control").read_text("ascii").split():
        try:
            (version_2 / "cgroup.subtree_control").write_text("+memory", "ascii")
        except OSError as error:
            raise NoCgroupError(f"`{version_2}` does not hand on its memory controller: {error.strerror}") from error
    return version_2, False


def _remove(folder: Path) -> None:
    deadline_s = time.monotonic() + RELEASE_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.05)
    folder.rmdir()
