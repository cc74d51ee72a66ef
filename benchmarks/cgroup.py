"""Memory cgroups of our own, of either version: what limits a program, and what counts what it takes."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/sys/fs/cgroup")
V1 = ROOT / "memory"


@dataclass(frozen=True)
class Group:
    """One memory cgroup."""

    folder: Path
    is_v1: bool

    @property
    def usage_bytes(self) -> int:
        """Every page that is charged to it, the kernel's own for its processes included."""
        return int((self.folder / ("memory.usage_in_bytes" if self.is_v1 else "memory.current")).read_text())

    @property
    def peak_bytes(self) -> int:
        """The most that was charged to it at one time."""
        return int((self.folder / ("memory.max_usage_in_bytes" if self.is_v1 else "memory.peak")).read_text())

    def limit(self, limit_bytes: int | None) -> None:
        """Set how much memory it may have, apart from swap; None is without a limit."""
        if self.is_v1:
            value = -1 if limit_bytes is None else limit_bytes
            (self.folder / "memory.limit_in_bytes").write_text(str(value))
        else:
            (self.folder / "memory.max").write_text("max" if limit_bytes is None else str(limit_bytes))

    def command(self, command: list[str]) -> list[str]:
        """Put `command` into the group before its first instruction, without code of ours after a fork."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *command]


def why_not() -> str | None:
    """Say why there can be no cgroup of our own here; None when there can."""
    if os.geteuid() != 0:
        return "a memory cgroup of our own needs root"
    if _is_v1():
        return None
    controllers = ROOT / "cgroup.controllers"
    if not controllers.is_file() or "memory" not in controllers.read_text().split():
        return "there is no memory cgroup controller at /sys/fs/cgroup"
    return None


@contextlib.contextmanager
def group(name: str) -> Iterator[Group]:
    """Make a group without a limit; at the end it goes, when its processes are gone."""
    is_v1 = _is_v1()
    if not is_v1:
        control = ROOT / "cgroup.subtree_control"
        if "memory" not in control.read_text().split():
            control.write_text("+memory")
    folder = (V1 if is_v1 else ROOT) / f"frontswap-bench-{os.getpid()}-{name}"
    folder.mkdir()
    try:
        yield Group(folder, is_v1)
    finally:
        _remove(folder)


def _is_v1() -> bool:
    return (V1 / "memory.limit_in_bytes").is_file()


def _remove(folder: Path) -> None:
    """Remove a group; the kernel takes a moment to let go of a process that has just ended."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.05)
    folder.rmdir()
