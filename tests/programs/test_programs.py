"""Each real program runs plain and then within a quarter of the memory that it took: what it leaves is the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import measure
from frontswap.cli._output import Progress
from report import MIB, Row, mebibytes
from table import PACKAGES, PROGRAMS, Program, commands_that_install, is_installed

if TYPE_CHECKING:
    from collections.abc import Callable

RAM_MIN = 64 * MIB
"""The least that `--ram` takes: a job whose quarter is below it is too small."""

OVERHEAD_PER_PROCESS = 96 * MIB
"""What a process may hold beyond the budget: its code, its stacks, files that it maps, and the pager itself."""

PLAIN_LIMIT_S = 300

SLOWER_MAX = 60
"""Times as long as the plain run: then a managed run is ended. It is a limit on hanging, not a promise of speed."""

NEEDS = Path(__file__).parents[2] / "tools/needs"

FRONTSWAP = Path(sys.executable).with_name("frontswap")


def under_run(ram_bytes: int, stats: Path) -> list[str]:
    """Return the words that go before a program's own."""
    return [str(FRONTSWAP), "run", "--ram", str(ram_bytes), "--stats", str(stats), "--"]


def difference(plain: measure.Outcome, managed: measure.Outcome) -> str:
    """Say where two outcomes differ, or nothing when they do not."""
    if plain.exit_status != managed.exit_status:
        return f"exit status {managed.exit_status}, plain {plain.exit_status}"
    if plain.stdout != managed.stdout:
        pairs = zip(plain.stdout.splitlines(), managed.stdout.splitlines(), strict=False)
        differing = next((pair for pair in pairs if pair[0] != pair[1]), (b"its length", b""))
        return f"stdout differs: {differing[1]!r}, plain {differing[0]!r}"
    differing_files = [name for name in plain.outputs if plain.outputs[name] != managed.outputs[name]]
    return f"files differ: {differing_files}" if differing_files else ""


def row(program: Program, plain: measure.Outcome, managed: measure.Outcome, stats: dict[str, Any]) -> Row:
    return Row(
        program=program.name,
        result=difference(plain, managed) or "identical",
        plain_peak_bytes=plain.peak_bytes,
        ram_limit_bytes=stats["ram_limit_bytes"],
        ram_peak_bytes=stats["ram_peak_bytes"],
        plain_seconds=plain.seconds,
        managed_seconds=managed.seconds,
        held_bytes=stats["orig_data_size_peak"],
        holds_bytes=stats["mem_used_total_peak"] + stats.get("disk_used_total", 0),
        faults=stats["faults"],
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "program",
    [pytest.param(each, marks=() if each.is_quick else pytest.mark.full, id=each.name) for each in PROGRAMS],
)
def test_a_program_leaves_the_same(
    program: Program,
    tmp_path: Path,
    made_input: Callable[[str], Path],
    rows: list[Row],
    capfd: pytest.CaptureFixture[str],
) -> None:
    commands = commands_that_install(program.needs)
    assert not commands, f"{program.name} is not all here; run: {' && '.join(commands)}"
    with capfd.disabled(), Progress() as progress:

        def telling(words: str) -> Callable[[float], None]:
            return lambda seconds: progress.update(f"{program.name} {words}: {seconds:.0f} s")

        progress.update(f"{program.name}: making what it reads")
        inputs = [made_input(name) for name in program.inputs]
        plain = measure.run(program, tmp_path / "plain", inputs, limit_s=PLAIN_LIMIT_S, tell=telling("plain"))
        assert plain.exit_status == 0, plain.stderr
        ram = plain.peak_bytes // 4
        assert ram >= RAM_MIN, f"{program.name} takes {mebibytes(plain.peak_bytes)} only: give it more to do"
        progress.note(f"{program.name} plain: {plain.seconds:.1f} s, peak {mebibytes(plain.peak_bytes)}")
        managed = measure.run(
            program,
            tmp_path / "managed",
            inputs,
            before=under_run(ram, tmp_path / "stats.json"),
            limit_s=PLAIN_LIMIT_S + SLOWER_MAX * plain.seconds,
            tell=telling(f"within {mebibytes(ram)}, plain {plain.seconds:.0f} s"),
        )
        assert not difference(plain, managed), f"{difference(plain, managed)}\n{managed.stderr}"
        stats = json.loads((tmp_path / "stats.json").read_text("utf-8"))
        rows.append(row(program, plain, managed, stats))
        progress.note(f"{program.name} within {mebibytes(ram)}: {', '.join(rows[-1].cells()[4:])}")
    check_stats(stats, ram)
    allowed = ram + OVERHEAD_PER_PROCESS * managed.processes_peak
    assert managed.peak_bytes <= allowed, f"{mebibytes(managed.peak_bytes)} seen, {mebibytes(allowed)} allowed"
    for folder in ("plain", "managed"):
        shutil.rmtree(tmp_path / folder)


def check_stats(stats: dict[str, Any], ram: int) -> None:
    """Check that the program was managed at all, and that its budget held by our own count."""
    assert stats["schema"] == "frontswap.run/1"
    assert stats["exit_status"] == 0
    assert stats["processes"] >= 1
    assert stats["succ_stores"] > 0
    assert stats["loads"] > 0
    assert stats["ram_limit_bytes"] == ram
    assert stats["page_errors"] == 0


def test_a_difference_is_seen() -> None:
    same = measure.Outcome(0, b"a\nb\n", {"f": "1"}, "", seconds=1, peak_bytes=1, processes_peak=1)
    assert difference(same, measure.Outcome(0, b"a\nb\n", {"f": "1"}, "x", 2, 2, 2)) == ""
    assert "exit status 3" in difference(same, measure.Outcome(3, b"a\nb\n", {"f": "1"}, "", 1, 1, 1))
    assert "b'c'" in difference(same, measure.Outcome(0, b"a\nc\n", {"f": "1"}, "", 1, 1, 1))
    assert "length" in difference(same, measure.Outcome(0, b"a\n", {"f": "1"}, "", 1, 1, 1))
    assert "['f']" in difference(same, measure.Outcome(0, b"a\nb\n", {"f": "2"}, "", 1, 1, 1))


def test_a_run_is_measured(tmp_path: Path) -> None:
    code = "import os; a = b'x' * (300 << 20); print(len(a)); open('f', 'w').write('y'); os._exit(7)"
    program = Program("x", "", (sys.executable, "-c", code), outputs=("f", "g"))
    outcome = measure.run(program, tmp_path / "x", [], limit_s=60)
    assert (outcome.exit_status, outcome.stdout, outcome.outputs["g"]) == (7, b"314572800\n", "missing")
    assert 300 * MIB < outcome.peak_bytes < 340 * MIB


def test_a_tree_is_measured_and_ended(tmp_path: Path) -> None:
    code = "import os, time; a = b'x' * (100 << 20); os.fork(); b = b'y' * (100 << 20); time.sleep(60)"
    ended = Program("x", "", (sys.executable, "-c", code))
    seen: list[float] = []
    with pytest.raises(measure.TimeLimitError):
        measure.run(ended, tmp_path / "x", [], limit_s=2, tell=seen.append)
    assert seen
    assert not [pid for pid in measure.descendants(os.getpid()) if measure.proportional_bytes(pid) > 50 * MIB]


def test_what_is_missing_is_an_install_command() -> None:
    assert commands_that_install(("gcc", "make")) == []


def test_programs_have_names_of_their_own() -> None:
    names = [program.name for program in PROGRAMS]
    assert len(names) == len(set(names))
    assert any(program.is_quick for program in PROGRAMS)


@pytest.mark.parametrize("level", ["programs-quick", "programs"])
def test_tools_needs_asks_for_the_same_packages(level: str, tmp_path: Path) -> None:
    # Only what the script itself calls: everything else is missing.
    for name in ("bash", "cut", "dirname", "env", "head", "sed"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    words = [str(NEEDS), level, "--packages"]
    asked = subprocess.run(words, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    programs = [program for program in PROGRAMS if program.is_quick or level == "programs"]
    wanted = {need for program in programs for need in program.needs if need in PACKAGES}
    # What is known by a file and not by a command is only asked for where the file is missing.
    wanted -= {need for need in wanted if PACKAGES[need].startswith("/") and is_installed(need)}
    assert wanted <= set(asked.stdout.split())
