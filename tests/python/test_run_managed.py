"""Programs that are managed: the last line, the figures, `set` and `stats` meanwhile, and what they leave behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from frontswap import _frontswap, machine
from frontswap.programs import report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = [sys.executable, "-c", "from frontswap.cli import main; main()"]
RUN = [*PROGRAM, "run", "--swap", "none"]

# It needs three times 64 MiB, and says in between how far it is.
NEEDY = """
import sys
rows = [f"row {number} of some text " * 10 for number in range(600_000)]
print(len(rows), flush=True)
line = sys.stdin.readline()
print(sum(len(row) for row in rows), line.strip(), flush=True)
"""
NEEDY_ANSWER = str(sum(len(f"row {number} of some text " * 10) for number in range(600_000)))


def managed(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FRONTSWAP_")}
    environment |= options.pop("env", {})
    return subprocess.run(
        [*RUN, *words], env=environment, text=True, capture_output=True, check=False, timeout=100, **options
    )


@pytest.fixture
def needy() -> Iterator[subprocess.Popen[str]]:
    """A program that needs more than it has, waiting for a line."""
    words = [*RUN, "--ram", "64M", "--", sys.executable, "-c", NEEDY]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "600000\n"
        yield process
        process.kill()


def test_all_fits() -> None:
    result = managed("--ram", "512M", sys.executable, "-c", "print('out'); import sys; sys.exit(4)")
    assert (result.returncode, result.stdout) == (4, "out\n")
    pattern = r"frontswap: peak need \d+\.\d\d MiB in 512\.00 MiB of RAM: all of it fitted, nothing had to be moved\n"
    assert re.fullmatch(pattern, result.stderr)
    assert managed("--ram", "512M", "--quiet", "true").stderr == ""


def test_more_is_needed_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    result = managed("--ram", "64M", "--stats", str(path), sys.executable, "-c", NEEDY, input="go\n")
    assert result.returncode == 0
    assert result.stdout == f"600000\n{NEEDY_ANSWER} go\n"
    assert re.search(
        r"^frontswap: peak need .* in 64\.00 MiB of RAM: .* held in .*; [\d,]+ faults took ", result.stderr
    )
    document = json.loads(path.read_text())
    assert document["is_managed"]
    assert (document["exit_status"], document["processes"], document["processes_live"]) == (0, 1, 0)
    assert document["managed_peak_bytes"] > document["ram_limit_bytes"] == 64 * 2**20
    assert document["orig_data_size_peak"] > document["mem_used_total_peak"] > 0
    assert document["loads"] > 0
    assert document["page_errors"] == 0


def test_set_and_stats_while_it_runs(needy: subprocess.Popen[str]) -> None:
    stats = subprocess.run([*PROGRAM, "stats", str(needy.pid), "--json"], capture_output=True, text=True, check=True)
    document = json.loads(stats.stdout)
    assert document["schema"] == "frontswap.stats.run/1"
    assert document["ram_limit_bytes"] == 64 * 2**20
    assert document["stored_pages"] > 0
    (row,) = document["process_list"]
    assert row["program"].startswith("python")
    # A program in it has the same budget as the one that started it.
    changed = subprocess.run(
        [*PROGRAM, "set", str(row["pid"]), "--ram", "256M"], capture_output=True, text=True, check=True
    )
    assert changed.stderr == (f"frontswap: process {row['pid']} may use 256.00 MiB of RAM now; it was 64.00 MiB\n")
    assert _frontswap.Tree.attach(needy.pid).ram_limit_bytes == 256 * 2**20
    table = subprocess.run([*PROGRAM, "stats", str(needy.pid)], capture_output=True, text=True, check=True)
    assert re.search(r"^[\d.]+ MiB of 256\.00 MiB in use, ", table.stdout)
    assert re.search(rf"^{row['pid']} +python", table.stdout, re.MULTILINE)
    out, err = needy.communicate("go\n", timeout=60)
    assert out == f"{NEEDY_ANSWER} go\n"
    assert " in 256.00 MiB of RAM: " in err


def test_libraries_that_the_user_loads_are_loaded_too(tmp_path: Path) -> None:
    library = tmp_path / "theirs.so"
    # It is loaded into the supervisor too, which says nothing of a tree.
    code = b"""
        #include <stdlib.h>
        #include <unistd.h>
        __attribute__((constructor)) static void say(void) {
            if (getenv("FRONTSWAP_TREE") && write(1, "theirs ", 7) != 7) _exit(1);
        }
    """
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)], input=code, check=True)
    result = managed("--ram", "64M", "sh", "-c", "echo $LD_PRELOAD", env={"LD_PRELOAD": str(library)})
    assert result.stdout == f"theirs {machine.PRELOAD}:{library}\n"


def test_a_program_that_a_script_starts_without_us_is_told_of(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/env -S LD_PRELOAD= sh\necho ran\n")
    script.chmod(0o755)
    result = managed("--ram", "64M", "env", "-i", "/bin/true")
    assert result.returncode == 0
    result = managed("--ram", "64M", str(script))
    assert (result.returncode, result.stdout) == (0, "ran\n")


def test_what_is_left_behind_keeps_its_budget(tmp_path: Path) -> None:
    result = managed("--ram", "64M", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!")
    pid = int(result.stdout)
    try:
        assert "frontswap: warning: 1 process of it still runs, within the same RAM\n" in result.stderr
        stats = subprocess.run([*PROGRAM, "stats", str(pid), "--json"], capture_output=True, text=True, check=True)
        assert [row["pid"] for row in json.loads(stats.stdout)["process_list"]] == [pid]
    finally:
        os.kill(pid, 9)


def test_who_is_killed_is_not_counted_as_alive(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    result = managed("--ram", "64M", "--stats", str(path), "sh", "-c", "kill -9 $$")
    assert result.returncode == 137
    assert json.loads(path.read_text())["processes_live"] == 0


def test_a_run_inside_another_is_refused_and_best_effort_shares() -> None:
    inner = [*PROGRAM, "run", "--ram", "64M"]
    result = managed("--quiet", "--ram", "256M", *inner, "true")
    assert (result.returncode, "cannot start `frontswap run` inside another" in result.stderr) == (125, True)
    result = managed("--quiet", "--ram", "256M", *inner, "--best-effort", "sh", "-c", "exit 5")
    assert result.returncode == 5
    assert result.stderr == "frontswap: warning: the program runs within the outer `frontswap run`\n"


def test_a_swap_place_in_ram_is_warned_of(tmp_path: Path) -> None:
    result = managed("--ram", "64M", "--swap", "/dev/shm", "--swap-size", "16M", "true")
    assert result.returncode == 0
    assert "frontswap: warning: the swap place `/dev/shm` is `tmpfs`, which is RAM: " in result.stderr
    result = managed("--ram", "64M", "--swap", "/dev/shm", "--swap-size", "900T", "true")
    assert result.returncode == 125
    assert "frontswap: error: " in result.stderr


def test_a_swap_file_leaves_nothing(tmp_path: Path) -> None:
    words = ("--ram", "64M", "--swap", str(tmp_path), "--swap-size", "512M")
    result = managed(*words, sys.executable, "-c", NEEDY, input="go\n")
    assert result.stdout == f"600000\n{NEEDY_ANSWER} go\n"
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_not_managed() -> None:
    started = time.monotonic()
    result = subprocess.run([*PROGRAM, "stats", str(os.getpid())], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"cannot reach the budget of process `{os.getpid()}`: it was not started by `frontswap run`" in result.stderr
    assert time.monotonic() - started < 10


def test_the_counters_that_the_figures_promise_are_there() -> None:
    tree = _frontswap.Tree.create(2**26, "", None, 0)
    assert set(report.COUNTERS) <= set(tree.totals())
    assert tree.processes() == []
