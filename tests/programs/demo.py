"""`make demo`: a real program on real text, in a memory cgroup that is too small for it.

It runs plain first, without a limit: that is what it needs. In the cgroup the kernel kills it. In the same cgroup
`frontswap run` lets it end, and it prints the same.
"""

from __future__ import annotations

import signal
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import measure
from budget import MemoryBudget, NoCgroupError, memory_budget
from frontswap.cli._output import Progress, print_error
from report import MIB, mebibytes
from table import JOBS, Program
from test_programs import OVERHEAD_PER_PROCESS, under_run

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = 6_000_000
"""Some 400 MiB of words."""

LIMIT_S = 300

BAR = 24


def counting() -> Program:
    """Count the words of the text that this machine has: Python's library, what is installed for it, and C headers."""
    paths = sysconfig.get_paths()
    folders = (paths["stdlib"], paths["purelib"], "/usr/include", "/usr/share")
    return Program("words", "", (sys.executable, str(JOBS / "count_words.py"), str(WORDS), *folders))


def telling(progress: Progress, words: str, stderr: Path, budget: MemoryBudget | None) -> Callable[[float], None]:
    """Return what shows how far a run is, from what it says itself."""

    def tell(seconds: float) -> None:
        said = [line.split(" ", 1) for line in stderr.read_text("utf-8", "replace").splitlines() if line[:1].isdigit()]
        percent, what = (int(said[-1][0]), said[-1][1]) if said else (0, "begins")
        bar = "#" * (percent * BAR // 100)
        used = f", {mebibytes(budget.used_bytes)} in the cgroup" if budget else ""
        progress.update(f"{words} [{bar:<{BAR}}] {percent:2} % {seconds:3.0f} s  {what}{used}")

    return tell


def show(folder: Path, progress: Progress) -> bool:
    """Run the three steps; return whether all went as it should."""
    program = counting()

    def run(name: str, words: str, before: list[str], budget: MemoryBudget | None = None) -> measure.Outcome:
        tell = telling(progress, words, folder / name / "stderr", budget)
        return measure.run(program, folder / name, [], before=before, limit_s=LIMIT_S, tell=tell)

    plain = run("plain", "1. plain", [])
    progress.note(f"1. plain, without a limit: {plain.seconds:.0f} s, {mebibytes(plain.peak_bytes)} of memory")
    ram = plain.peak_bytes // 4 // MIB * MIB
    limit = ram + OVERHEAD_PER_PROCESS
    with memory_budget(limit) as budget:
        killed = run("killed", "2. the same in a cgroup", budget.inside([]), budget)
    is_killed = killed.exit_status == -signal.SIGKILL
    how = "killed by the kernel" if is_killed else f"exit status {killed.exit_status}"
    progress.note(f"2. in a memory cgroup of {mebibytes(limit)}: {how} after {killed.seconds:.0f} s")
    with memory_budget(limit) as budget:
        before = budget.inside(under_run(ram, folder / "stats.json"))
        managed = run("managed", f"3. `frontswap run --ram {ram // MIB}M` in it", before, budget)
    is_same = managed == plain
    same = "the same output" if is_same else f"exit status {managed.exit_status}, and not the same output"
    progress.note(f"3. in the same cgroup, `frontswap run --ram {ram // MIB}M`: {managed.seconds:.0f} s, {same}")
    progress.clear()
    said = [line for line in managed.stderr.splitlines() if not line[:1].isdigit()]
    print(*said, sep="\n", file=sys.stderr)
    sys.stdout.write(managed.stdout.decode())
    return plain.exit_status == 0 and is_killed and is_same


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="frontswap-demo-", dir="/var/tmp") as folder, Progress() as progress:
        try:
            return 0 if show(Path(folder), progress) else 1
        except NoCgroupError as error:
            progress.clear()
            print_error(str(error), "run it as root, for instance `sudo make demo`")
        except measure.TimeLimitError as error:
            progress.clear()
            print_error(f"the demo took too long: {error}", "try it again when the machine has less to do")
    return 1


if __name__ == "__main__":
    sys.exit(main())
