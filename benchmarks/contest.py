"""One program, `frontswap-touch`, run several ways at once: under zram, under `frontswap run`, with a pager of its own.

All stay alive with their arrays filled, and each is asked in turn for a second of a pattern, so that
what the machine does besides falls on all of them alike.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cgroup
import zram

if TYPE_CHECKING:
    from collections.abc import Iterator

FRONTSWAP = Path(sys.executable).with_name("frontswap")

AHEAD = 'echo -20 >/proc/self/autogroup; exec nice -n -20 "$@"'
"""Ahead of what else the machine does, for a session of its own: the kernel shares time among sessions first."""


@dataclass(frozen=True)
class Workload:
    """What is touched: an array that repeats the pages of a file."""

    program: Path
    pages: Path
    bytes: int


@dataclass
class Side:
    """One of those that are compared: a program that waits for orders, in a group that counts its memory."""

    name: str
    process: subprocess.Popen[str]
    group: cgroup.Group
    swap: zram.Swap | None = None

    def touch(self, pattern: str, threads: int, accesses_max: int, seconds_max: float) -> dict[str, Any]:
        """Have it touch pages and return what it measured, and what memory it has meanwhile."""
        return {**self._order(f"{pattern} {threads} {accesses_max} {seconds_max}"), **self.memory()}

    def memory(self) -> dict[str, int]:
        """All RAM that it takes: what is charged to its group, and for zram its store, which nobody is charged for."""
        charged = self.group.usage_bytes
        store = self.swap.held().mem_used_total if self.swap else 0
        return {"charged_bytes": charged, "zram_store_bytes": store, "total_bytes": charged + store}

    def store_bytes_per_page(self) -> float:
        """Bytes of RAM that a page takes while it is out."""
        if self.swap:
            held = self.swap.held()
            return held.mem_used_total / (held.orig_data_size / mmap.PAGESIZE)
        stats = self._order("stats") if self.name == "signal" else self._run_stats()
        return float(stats["mem_used_total"] / max(stats["stored_pages"], 1))

    def _run_stats(self) -> dict[str, Any]:
        """Ask `frontswap stats` about a program under `frontswap run`."""
        command = [str(FRONTSWAP), "stats", str(self.process.pid), "--json"]
        stats: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return stats

    def answer(self) -> dict[str, Any]:
        """Read the next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            message = f"{self.name} ended with status {self.process.wait()}"
            raise ChildProcessError(message)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _order(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer()


@contextlib.contextmanager
def under_zram(work: Workload, resident_bytes: int) -> Iterator[Side]:
    """Run it in a group of `resident_bytes`, beside a zram with lz4 that takes the rest."""
    with zram.swap(work.bytes + (1 << 30)) as swap, cgroup.group("zram") as group:
        group.limit(resident_bytes)
        try:
            with _started("zram", [str(work.program), str(work.pages), str(work.bytes)], group) as side:
                side.swap = swap
                yield side
        finally:
            group.limit(None)


@contextlib.contextmanager
def under_run(work: Workload, ram_bytes: int) -> Iterator[Side]:
    """Run it, unmodified, under `frontswap run`: a thread of ours handles its faults."""
    command = [str(FRONTSWAP), "run", "--ram", str(ram_bytes), "--swap", "none", "--"]
    with cgroup.group("run") as group:
        command += [str(work.program), str(work.pages), str(work.bytes)]
        with _started("handler", command, group) as side:
            yield side


@contextlib.contextmanager
def with_pager(work: Workload, ram_bytes: int) -> Iterator[Side]:
    """Run it with a pager of its own in signal mode: the faulting thread handles its faults."""
    with cgroup.group("signal") as group:
        command = [str(work.program), str(work.pages), str(work.bytes), str(ram_bytes)]
        with _started("signal", command, group) as side:
            yield side


def ahead(command: list[str]) -> list[str]:
    """Run `command`, which leads a session, ahead of the others where that is permitted."""
    return ["/bin/sh", "-c", AHEAD, "sh", *command] if os.geteuid() == 0 else command


@contextlib.contextmanager
def _started(name: str, command: list[str], group: cgroup.Group) -> Iterator[Side]:
    """Start a program and wait until its array is filled; at the end it is gone."""
    process = subprocess.Popen(
        group.command(ahead(command)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        side = Side(name, process, group)
        side.answer()
        yield side
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
