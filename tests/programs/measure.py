"""One run of a program in a folder of its own: what it leaves behind, how long it takes, and its memory's peak.

The peak is that of the whole process tree. While there is one process the kernel knows it exactly; several are looked
at a few times a second, and a page that they share is counted once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from table import Program

LOOK_EVERY_S = 0.25

STDERR_SHOWN_BYTES = 4000


@dataclass(frozen=True)
class Outcome:
    """What a run left. What must be the same in both runs is in `result`; the rest is measured."""

    exit_status: int
    stdout: bytes
    outputs: dict[str, str]
    stderr: str = field(compare=False)
    seconds: float = field(compare=False)
    peak_bytes: int = field(compare=False)
    processes_peak: int = field(compare=False)


class TimeLimitError(Exception):
    """A run took too long and was ended."""


def descendants(pid: int) -> list[int]:
    """List the processes below one, as far as they still know their parents."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The name stands in brackets, and may hold anything.
                parent = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def proportional_bytes(pid: int) -> int:
    """Return a process's resident memory, with its share of what it shares."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class TreeWatch(threading.Thread):
    """Looks at a process tree until it is told to stop, and ends it when its time is up.

    `without_first` leaves out the first process, which is our own supervisor in a managed run.
    """

    def __init__(self, pid: int, limit_s: float, *, without_first: bool, tell: Callable[[float], None]) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.limit_s = limit_s
        self.tell = tell
        self.without_first = without_first
        self.peak_bytes = 0
        self.processes_peak = 0
        self.is_too_late = False
        self.is_over = threading.Event()

    def run(self) -> None:
        started_s = time.monotonic()
        while not self.is_over.wait(LOOK_EVERY_S):
            tree = descendants(self.pid) if self.without_first else [self.pid, *descendants(self.pid)]
            self.processes_peak = max(self.processes_peak, len(tree))
            if len(tree) > 1:
                self.peak_bytes = max(self.peak_bytes, sum(map(proportional_bytes, tree)))
            seconds = time.monotonic() - started_s
            self.tell(seconds)
            if seconds > self.limit_s and not self.is_too_late:
                self.is_too_late = True
                end_all([self.pid, *descendants(self.pid)])


def end_all(pids: Iterable[int]) -> None:
    """Kill processes that we started."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def link_tree(source: Path, target: Path) -> None:
    """Put an input into a folder without copying it."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link)
    else:
        os.link(source, target)


def file_digest(path: Path) -> str:
    """Return a digest of a file, or say that it is not there."""
    if not path.exists():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(
    program: Program,
    folder: Path,
    inputs: Sequence[Path],
    *,
    before: Sequence[str] = (),
    limit_s: float,
    tell: Callable[[float], None] = lambda _: None,
) -> Outcome:
    """Run a program in a new folder.

    Args:
        program: The program.
        folder: Where it runs; made here.
        inputs: What it reads there.
        before: Words before its command, such as `frontswap run`.
        limit_s: The longest that it may take.
        tell: Is told the seconds now and then.

    Raises:
        TimeLimitError: It took longer, and was ended.
    """
    folder.mkdir()
    for source in inputs:
        link_tree(source, folder / source.name)
    environment = os.environ | {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"} | program.environment
    stdout, stderr = folder / "stdout", folder / "stderr"
    started_s = time.monotonic()
    with (program.stdin or Path(os.devnull)).open("rb") as read, stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [*before, *program.command],
            cwd=folder,
            env=environment,
            stdin=read,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        watch = TreeWatch(process.pid, limit_s, without_first=bool(before), tell=tell)
        watch.start()
        try:
            # The peak of one process, exactly; Popen itself does not tell it.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            end_all([process.pid, *descendants(process.pid)])
            raise
        finally:
            watch.is_over.set()
            watch.join()
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started_s
    said = stderr.read_bytes()[-STDERR_SHOWN_BYTES:].decode(errors="replace")
    if watch.is_too_late:
        raise TimeLimitError(f"ended after {seconds:.0f} s; it said:\n{said}")
    return Outcome(
        exit_status=process.returncode,
        stdout=stdout.read_bytes(),
        outputs={name: file_digest(folder / name) for name in program.outputs},
        stderr=said,
        seconds=seconds,
        peak_bytes=max(watch.peak_bytes, usage.ru_maxrss * 1024),
        processes_peak=max(1, watch.processes_peak),
    )
