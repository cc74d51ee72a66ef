"""The budget holds: in a memory cgroup of `--ram` and 96 MiB, a program of four times the size ends well.

The same program without us is killed there by the kernel, which shows that the cgroup is no decoration.
"""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

import measure
from budget import memory_budget
from frontswap.cli._output import Progress
from report import MIB, mebibytes
from table import PROGRAMS, Program
from test_programs import OVERHEAD_PER_PROCESS, RAM_MIN, difference, under_run

if TYPE_CHECKING:
    from pathlib import Path

CHOSEN = ("cpython-objects", "numpy", "node")
"""Small objects in an arena of their own, large arrays, and a heap that moves what it holds."""


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("program", [each for each in PROGRAMS if each.name in CHOSEN], ids=lambda each: each.name)
def test_a_cgroup_of_the_budget_is_enough(program: Program, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with capfd.disabled(), Progress() as progress:
        plain = measure.run(program, tmp_path / "plain", [], limit_s=300)
        ram = max(plain.peak_bytes // 4, RAM_MIN)
        limit = ram + OVERHEAD_PER_PROCESS
        assert plain.peak_bytes > limit
        with memory_budget(limit) as budget:
            killed = measure.run(program, tmp_path / "killed", [], before=budget.inside([]), limit_s=300)
            assert budget.kills == 1
        assert killed.exit_status == -signal.SIGKILL
        progress.note(f"{program.name} needs {mebibytes(plain.peak_bytes)}: killed in a cgroup of {mebibytes(limit)}")
        with memory_budget(limit) as budget:
            before = budget.inside(under_run(ram, tmp_path / "stats.json"))
            managed = measure.run(program, tmp_path / "managed", [], before=before, limit_s=600)
            kills = budget.kills
        progress.note(f"{program.name} in the same cgroup under `run --ram {mebibytes(ram)}`: {managed.seconds:.0f} s")
    assert (kills, difference(plain, managed)) == (0, ""), managed.stderr
    stats = json.loads((tmp_path / "stats.json").read_text("utf-8"))
    assert stats["ram_peak_bytes"] <= limit, stats


def test_a_budget_is_counted_and_removed(tmp_path: Path) -> None:
    eater = Program("x", "", ("python3", "-c", "a = b'x' * (200 << 20); print(len(a))"))
    with memory_budget(64 * MIB) as budget:
        killed = measure.run(eater, tmp_path / "killed", [], before=budget.inside([]), limit_s=60)
        assert (killed.exit_status, budget.kills) == (-signal.SIGKILL, 1)
        assert budget.used_bytes <= 64 * MIB
    assert not budget.folder.exists()
    with memory_budget(300 * MIB) as budget:
        alive = measure.run(eater, tmp_path / "alive", [], before=budget.inside([]), limit_s=60)
        assert (alive.stdout, budget.kills) == (b"209715200\n", 0)
