"""`frontswap run` before a program starts, and programs that run unmanaged: statuses, refusals, figures.

What managing needs of a machine is asked for by the tests of managed programs; here nothing depends on it. A program
inside a tree that another supervisor made runs unmanaged with `--best-effort` wherever the tests run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from frontswap import _frontswap, machine
from frontswap.cli import _output
from frontswap.errors import KernelUnfitError, UserfaultfdDeniedError
from frontswap.programs import launch, report
from frontswap.programs.launch import BEST_EFFORT_CODES, managed_environment, prepare
from frontswap.programs.settings import RunSettings, Swap
from frontswap.programs.supervisor import Ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Outcome

PROGRAM = [sys.executable, "-c", "from frontswap.cli import main; main()"]
UNMANAGED = [*PROGRAM, "run", "--ram", "64M", "--best-effort"]
WARNING = "frontswap: warning: the program runs within the outer `frontswap run`\n"


def unmanaged(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FRONTSWAP_TREE": "/proc/1/fd/99;99", **options.pop("env", {})}
    return subprocess.run([*UNMANAGED, *words], env=environment, text=True, capture_output=True, check=False, **options)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["run"], 125),
        (["run", "--ram", "lots", "true"], 125),
        (["run", "--frobnicate"], 125),
        (["run", "--ram", "64M", "no-such-program"], 127),
        (["run", "--ram", "64M", "/nothing/here"], 127),
        (["run", "--ram", "64M", "/"], 126),
        (["run", "--ram", "64M", "/proc/meminfo"], 126),
        (["run", "--help"], 0),
    ],
)
def test_the_status_when_nothing_starts(run: Callable[..., Outcome], words: list[str], status: int) -> None:
    assert run(*words).status == status


def test_a_bug_before_the_start_is_not_the_programs_status(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        message = "it broke"
        raise RuntimeError(message)

    monkeypatch.setattr(launch, "prepare", fail)
    outcome = run("run", "--ram", "64M", "true")
    assert outcome.status == 125
    assert "this is a bug in frontswap" in outcome.stderr


def test_the_status_and_the_streams_are_the_programs() -> None:
    result = unmanaged("sh", "-c", "cat; echo err >&2; exit 7", input="in\n")
    assert (result.returncode, result.stdout, result.stderr) == (7, "in\n", WARNING + "err\n")
    assert unmanaged("sh", "-c", "kill -9 $$").returncode == 137


def test_options_stop_at_the_program() -> None:
    result = unmanaged("--quiet", "--", "sh", "-c", 'echo "$@"', "sh", "--ram", "1", "--", "--quiet")
    assert (result.stdout, result.stderr) == ("--ram 1 -- --quiet\n", "")
    assert "--ram" not in unmanaged("--quiet", "sh", "--help").stdout


def test_nothing_is_said_about_a_closed_stdout(tmp_path: Path) -> None:
    words = f"exec {sys.executable} -c 'from frontswap.cli import main; main()' run --ram 64M --best-effort"
    script = f"{words} sh -c 'echo x >{tmp_path}/out' >&-"
    environment = {**os.environ, "FRONTSWAP_TREE": "there"}
    result = subprocess.run(["/bin/sh", "-c", script], env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, WARNING)
    assert (tmp_path / "out").read_text() == "x\n"


def test_a_run_inside_another_is_refused(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_TREE", "/proc/7/fd/3;3")
    outcome = run("run", "--ram", "64M", "true")
    assert outcome.status == 125
    assert "cannot start `frontswap run` inside another: `FRONTSWAP_TREE` is `/proc/7/fd/3;3`" in outcome.stderr
    # Whatever else is wrong, a program that there is not is that.
    assert run("run", "--ram", "64M", "no-such-program").status == 127


def test_settings_come_from_the_environment_too(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_RAM", "1MiB")
    assert "cannot run a program in `1MiB` of RAM" in run("run", "true").stderr
    monkeypatch.setenv("FRONTSWAP_RAM", "64MiB")
    monkeypatch.setenv("FRONTSWAP_BACKEND", "zpool ram")
    assert "cannot use backend `ram`" in run("run", "true").stderr
    # The command line is stronger: its chain replaces the other.
    assert "cannot use backend `ram`" not in run("run", "--backend", "zpool", "no-such-program").stderr
    monkeypatch.setenv("FRONTSWAP_CODEC", "lz4")
    assert "the environment names the whole chain" in run("run", "true").stderr


def test_settings_come_from_a_file_too(run: Callable[..., Outcome], tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('ram = "1MiB"\n')
    assert "cannot run a program in `1MiB` of RAM" in run("run", "--config", str(path), "true").stderr
    assert run("run", "--config", str(path), "--ram", "64M", "no-such-program").status == 127


@pytest.fixture
def denied(monkeypatch: pytest.MonkeyPatch) -> None:
    found = machine.Userfaultfd("/dev/userfaultfd", "`/dev/userfaultfd`: permission denied (EACCES)", 13, 0)
    monkeypatch.setattr(machine, "open_userfaultfd", lambda **_: found)
    monkeypatch.setattr(machine, "grant_command", lambda: "the command")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("FRONTSWAP_TREE", raising=False)


@pytest.mark.usefixtures("denied")
def test_without_permission_it_stops(run: Callable[..., Outcome]) -> None:
    outcome = run("run", "--ram", "64M", "true")
    assert outcome.status == 125
    assert outcome.stderr == (
        "frontswap: error: cannot open a full userfaultfd: `/dev/userfaultfd`: permission denied (EACCES)\n\n"
        "hint: run `frontswap doctor`, or grant access with `the command`\n"
    )


@pytest.mark.usefixtures("denied")
def test_with_best_effort_it_runs_unmanaged(run: Callable[..., Outcome], tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    outcome = run("run", "--ram", "64M", "--best-effort", "--stats", str(figures), "sh", "-c", "exit 3")
    assert outcome.status == 3
    assert outcome.stderr == (
        "frontswap: warning: the program runs unmanaged: cannot open a full userfaultfd: "
        "`/dev/userfaultfd`: permission denied (EACCES)\n"
    )
    document = json.loads(figures.read_text())
    assert (document["schema"], document["exit_status"], document["is_managed"]) == ("frontswap.run/1", 3, False)
    assert document["command"] == ["sh", "-c", "exit 3"]
    assert document["duration_ns"] > 0
    for key in report.COUNTERS:
        assert document[key] == 0
    quiet = run("run", "--ram", "64M", "--best-effort", "--quiet", "sh", "-c", "exit 3")
    assert (quiet.status, quiet.stderr) == (3, "")


@pytest.mark.parametrize(
    "words", [("no-such-program",), ("/",), ("--stats", "-", "true"), ("--swap-size", "x", "true")]
)
def test_best_effort_is_for_managing_only(run: Callable[..., Outcome], words: tuple[str, ...]) -> None:
    outcome = run("run", "--ram", "64M", "--best-effort", *words)
    assert outcome.status in {125, 126, 127}
    assert outcome.stderr.startswith("frontswap: error: ")


def test_every_kind_that_best_effort_covers_exists() -> None:
    assert {code for code, *_ in _frontswap.error_kinds()} >= BEST_EFFORT_CODES


def test_a_kernel_without_a_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    old = machine.Userfaultfd("system call", None, None, 0x7FFF)
    monkeypatch.setattr(machine, "open_userfaultfd", lambda **_: old)
    monkeypatch.delenv("FRONTSWAP_TREE", raising=False)
    with pytest.raises(KernelUnfitError, match=r"has no UFFDIO_MOVE, which came with 6\.8"):
        prepare("true", RunSettings(ram_limit_bytes=2**26))
    none = machine.Userfaultfd("system call", "function not implemented (ENOSYS)", 38, 0)
    monkeypatch.setattr(machine, "open_userfaultfd", lambda **_: none)
    with pytest.raises(KernelUnfitError, match=r"userfaultfd: function not implemented \(ENOSYS\)"):
        prepare("true", RunSettings(ram_limit_bytes=2**26))


def test_root_that_is_denied_gets_another_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    found = machine.Userfaultfd("system call", "operation not permitted (EPERM)", 1, 0)
    monkeypatch.setattr(machine, "open_userfaultfd", lambda **_: found)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "is_in_container", lambda: False)
    with pytest.raises(UserfaultfdDeniedError) as caught:
        machine.check_managing()
    assert "a seccomp filter or a security module" in caught.value.hint


def test_a_static_program_is_refused(run: Callable[..., Outcome], tmp_path: Path) -> None:
    path = tmp_path / "static"
    words = ["cc", "-x", "c", "-", "-o", str(path), "-static"]
    subprocess.run(words, input=b"int main(void) { return 5; }", check=True)
    outcome = run("run", "--ram", "64M", str(path))
    assert outcome.status == 125
    assert f"cannot manage the memory of `{path}`: it is statically linked, so that nothing" in outcome.stderr
    assert "`--best-effort` runs it all the same" in outcome.stderr
    outcome = run("run", "--ram", "64M", "--best-effort", str(path))
    assert outcome.status == 5
    assert "frontswap: warning: the program runs unmanaged: cannot manage the memory of" in outcome.stderr


@pytest.mark.parametrize(
    ("place", "words"),
    [("/nothing/here", "no such file or directory (ENOENT)"), ("/proc/meminfo", "not a directory (ENOTDIR)")],
)
def test_a_swap_place_that_is_none(monkeypatch: pytest.MonkeyPatch, place: str, words: str) -> None:
    monkeypatch.setattr(machine, "check_managing", lambda: None)
    monkeypatch.setattr(machine, "check_preload", lambda: "/ours.so")
    monkeypatch.delenv("FRONTSWAP_TREE", raising=False)
    with pytest.raises(OSError, match="cannot open a swap file in") as caught:
        prepare("true", RunSettings(ram_limit_bytes=2**26, swap=Swap(place)))
    assert words in str(caught.value)


def test_libraries_of_the_user_are_kept() -> None:
    environment = {"LD_PRELOAD": "/a.so:/b.so", "MALLOC_ARENA_MAX": "2"}
    ours = managed_environment(environment, "/ours.so", "/proc/1/fd/3;3")
    assert ours == {
        "LD_PRELOAD": "/ours.so:/a.so:/b.so",
        "MALLOC_ARENA_MAX": "2",
        "FRONTSWAP_TREE": "/proc/1/fd/3;3",
    }
    assert managed_environment({"LD_PRELOAD": ""}, "/ours.so", "x")["LD_PRELOAD"] == "/ours.so"
    assert environment["LD_PRELOAD"] == "/a.so:/b.so"


def test_figures_are_not_overwritten(run: Callable[..., Outcome], tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("mine")
    outcome = run("run", "--ram", "64M", "--stats", str(path), "true")
    assert outcome.status == 125
    assert outcome.stderr == (
        f"frontswap: error: cannot write the figures to `{path}`: it exists\n\nhint: `--force` overwrites it\n"
    )
    assert path.read_text() == "mine"
    assert unmanaged("--stats", str(path), "--force", "true").returncode == 0
    assert json.loads(path.read_text())["exit_status"] == 0


def test_figures_that_cannot_go_anywhere(run: Callable[..., Outcome], tmp_path: Path) -> None:
    assert "it is a directory" in run("run", "--ram", "64M", "--stats", str(tmp_path), "true").stderr
    (tmp_path / "file").touch()
    assert "is not a directory" in run("run", "--ram", "64M", "--stats", f"{tmp_path}/file/x", "true").stderr


def test_figures_are_written_where_we_were_started(tmp_path: Path) -> None:
    result = unmanaged("--stats", "figures.json", "sh", "-c", "cd /; exit 2", cwd=tmp_path)
    assert result.returncode == 2
    assert json.loads((tmp_path / "figures.json").read_text())["exit_status"] == 2


def test_figures_can_go_to_a_descriptor_or_a_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    result = unmanaged("--stats", f"/dev/fd/{writing}", "true", pass_fds=[writing])
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert json.loads(pipe.read())["command"] == ["true"]
    assert result.returncode == 0


def test_the_status_stays_when_the_figures_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    result = unmanaged("--stats", str(path), "sh", "-c", f"echo theirs >{path}; exit 6")
    assert result.returncode == 6
    assert f"cannot write the figures to `{path}`: file exists (EEXIST)" in result.stderr
    assert path.read_text() == "theirs\n"
    result = unmanaged("--stats", "/dev/full", "sh", "-c", "exit 6")
    assert result.returncode == 6
    assert "no space left on device (ENOSPC)" in result.stderr


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    name = os.fsdecode(b"caf\xe9")
    result = unmanaged("--stats", str(path), "sh", "-c", 'printf %s "$1" | od -An -tx1', "sh", name)
    assert result.stdout.split() == ["63", "61", "66", "e9"]
    assert json.loads(path.read_text())["command"][-1] == r"caf\xe9"
    result = subprocess.run([*PROGRAM, "run", "--ram", "64M", name], capture_output=True, text=True, check=False)
    assert result.returncode == 127
    assert r"cannot find the program `caf\xe9`" in result.stderr


def counters(**values: int) -> dict[str, int]:
    return {**dict.fromkeys(report.COUNTERS, 0), "processes": 1, **values}


def test_the_last_line() -> None:
    mib = 2**20
    fitted = counters(managed_peak_bytes=100 * mib, ram_limit_bytes=512 * mib)
    assert report.summary(fitted) == (
        "peak need 100.00 MiB in 512.00 MiB of RAM: all of it fitted, nothing had to be moved"
    )
    moved = counters(
        managed_peak_bytes=2000 * mib,
        ram_limit_bytes=512 * mib,
        orig_data_size_peak=1536 * mib,
        mem_used_total_peak=402 * mib,
        evicted_pages=500_000,
        faults=412_034,
        fault_ns_total=3_120_000_000,
        fault_ns_p99=18_000,
    )
    assert report.summary(moved) == (
        "peak need 1.95 GiB in 512.00 MiB of RAM: 1.50 GiB held in 402.00 MiB (3.8x); "
        "412,034 faults took 3.1 s (p99 18 us)"
    )
    assert "and 1.00 GiB of the swap file; " in report.summary({**moved, "disk_used_total_peak": 1024 * mib})
    assert "; 1 fault took" in report.summary({**moved, "faults": 1})


def test_what_did_not_go_as_it_should_is_said() -> None:
    assert report.troubles(counters()) == []
    assert "its memory was not managed" in report.troubles(counters(processes=0))[0]
    (page,) = report.troubles(counters(page_errors=2))
    assert page == "2 pages could not be given back; who touched one got SIGBUS"
    (over,) = report.troubles(counters(over_limit=1))
    assert over.startswith("the RAM was exceeded 1 time, ")
    assert report.troubles(counters(processes_live=1)) == ["1 process of it still runs, within the same RAM"]
    assert report.troubles(counters(processes_live=2)) == ["2 processes of it still run, within the same RAM"]


def test_the_figures_have_what_is_promised() -> None:
    document = report.document(counters(loads=5), ["sort", "-u"], Ended(0, 7), ("/var/tmp", 2**30))
    promised = (
        "schema ram_limit_bytes ram_peak_bytes managed_peak_bytes stored_pages_peak orig_data_size_peak "
        "mem_used_total_peak loads succ_stores failed_stores fault_ns_p50 fault_ns_p99 exit_status processes"
    )
    assert set(promised.split()) <= set(document)
    assert (document["loads"], document["is_managed"]) == (5, True)
    assert (document["swap_place"], document["swap_bytes"]) == ("/var/tmp", 2**30)


def test_a_warning_has_a_form(capsys: pytest.CaptureFixture[str]) -> None:
    _output.print_warning("something is odd")
    assert capsys.readouterr().err == "frontswap: warning: something is odd\n"


def test_a_process_that_is_not_ours(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert "it has ended" in run("stats", str(ended.pid)).stderr
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    outcome = run("set", str(os.getpid()), "--ram", "64M")
    assert outcome.status == 1
    assert f"cannot reach the budget of process `{os.getpid()}`: it belongs to user" in outcome.stderr
    assert "not to user 54321" in outcome.stderr


def test_help_of_run_says_nothing_about_options_of_programs() -> None:
    result = subprocess.run([*PROGRAM, "run", "-h"], capture_output=True, text=True, check=True)
    assert "Our options end where the program's name begins." in result.stdout


def test_the_library_is_beside_the_package() -> None:
    assert Path(_frontswap.__file__).parent == machine.PRELOAD.parent
