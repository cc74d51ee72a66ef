"""The doctor finds out by trying, says it within 80 columns, and ends with what it means for whole programs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from frontswap import doctor, machine
from frontswap.errors import PreloadUnfitError, SwapFileOpenError, SwapFileSpaceError
from frontswap.machine import Place, Userfaultfd

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Outcome

ALL = -1
GOOD = Userfaultfd("system call", None, None, ALL)


@pytest.fixture
def good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a machine that has all."""
    monkeypatch.setattr(machine, "open_userfaultfd", lambda **_: GOOD)
    monkeypatch.setattr(machine, "check_preload", lambda: "/package/_preload.so")
    monkeypatch.setattr(doctor, "_why_not_loaded", lambda path: "")


def named(found: list[doctor.Check], name: str) -> doctor.Check:
    return next(check for check in found if check.name == name)


@pytest.mark.usefixtures("good")
def test_a_machine_that_has_all(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run("doctor", "--swap", str(tmp_path))
    assert outcome.status == 0
    assert outcome.stdout.endswith("\nwhole programs can be run: `frontswap run --ram 512M -- PROGRAM ARGS...`\n")
    assert outcome.stderr == ""
    document = json.loads(run("doctor", "--json").stdout)
    assert document["schema"] == "frontswap.doctor/1"
    assert (document["can_run_programs"], document["reason"]) == (True, None)
    assert {"kernel", "userfaultfd, full", "library for programs", "memory"} <= {
        check["name"] for check in document["checks"]
    }
    assert all(check["is_ok"] is not False or check["hint"] for check in document["checks"])


def test_it_fits_into_80_columns(run: Callable[..., Outcome]) -> None:
    outcome = run("doctor")
    assert max(map(len, outcome.stdout.splitlines())) <= 80 or "/_preload.so" in outcome.stdout
    assert {line[:5] for line in outcome.stdout.splitlines()} <= {"ok   ", "not  ", "-    ", "     ", "", "whole"}


@pytest.mark.usefixtures("good")
def test_without_permission(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    denied = Userfaultfd("/dev/userfaultfd", "`/dev/userfaultfd`: permission denied (EACCES)", errno.EACCES, 0)
    monkeypatch.setattr(machine, "open_userfaultfd", lambda *, user_mode_only: GOOD if user_mode_only else denied)
    monkeypatch.setattr(machine, "grant_command", lambda: "the command")
    outcome = run("doctor")
    assert outcome.status == 1
    assert outcome.stderr == (
        "frontswap: error: cannot run whole programs here: userfaultfd, full: "
        "`/dev/userfaultfd`: permission denied (EACCES)\n\nhint: `the command`\n"
    )
    document = json.loads(run("doctor", "--json").stdout)
    assert document["reason"] == "userfaultfd, full: `/dev/userfaultfd`: permission denied (EACCES)"
    assert named(doctor.checks(), "kernel").is_ok
    assert named(doctor.checks(), "userfaultfd, user mode").is_ok


@pytest.mark.usefixtures("good")
def test_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "open_userfaultfd", lambda **_: Userfaultfd("system call", None, None, 0x3FFF))
    found = doctor.checks()
    kernel = named(found, "kernel")
    assert doctor.verdict(found) == kernel
    assert kernel.value.endswith("has no UFFDIO_POISON, no UFFDIO_MOVE")
    assert kernel.hint == "run Linux 6.8 or later"
    assert named(found, "SIGBUS mode").is_ok
    assert named(found, "UFFDIO_MOVE").is_ok is False


@pytest.mark.usefixtures("good")
def test_a_kernel_without_userfaultfd(monkeypatch: pytest.MonkeyPatch) -> None:
    none = Userfaultfd("system call", "function not implemented (ENOSYS)", errno.ENOSYS, 0)
    monkeypatch.setattr(machine, "open_userfaultfd", lambda **_: none)
    found = doctor.checks()
    obstacle = doctor.verdict(found)
    assert obstacle is not None
    assert (obstacle.name, obstacle.value) == ("userfaultfd, full", "function not implemented (ENOSYS)")
    assert named(found, "kernel").is_ok is None


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "_preload.so"
    with pytest.raises(PreloadUnfitError, match="no such file or directory"):
        machine.check_preload(path)
    path.write_bytes(b"another build")
    with pytest.raises(PreloadUnfitError, match="is not of this build"):
        machine.check_preload(path)
    path.write_bytes(b"..." + machine.PRELOAD_MARK.encode() + b"...")
    assert machine.check_preload(path) == str(path)
    folder = tmp_path / "with space"
    folder.mkdir()
    odd = path.rename(folder / "_preload.so")
    with pytest.raises(PreloadUnfitError, match="`LD_PRELOAD` cannot name") as caught:
        machine.check_preload(odd)
    assert "no space" in caught.value.hint


@pytest.mark.usefixtures("good")
def test_a_library_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    path = tmp_path / "library.so"
    path.write_bytes(machine.PRELOAD_MARK.encode())
    monkeypatch.setattr(machine, "check_preload", lambda: str(path))
    check = named(doctor.checks(), "library for programs")
    assert check.is_ok is False
    assert "cannot be preloaded" in check.value
    words = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(words, input=b"int unused;", check=True)
    assert named(doctor.checks(), "library for programs").is_ok
    code = b"#include <unistd.h>\n__attribute__((constructor)) static void stop(void) { _exit(3); }"
    subprocess.run(words, input=code, check=True)
    assert named(doctor.checks(), "library for programs").value == "a program with it ends with 3"


def test_places_for_a_swap_file(tmp_path: Path) -> None:
    place = machine.look_at_place(str(tmp_path))
    assert place.free_bytes > 0
    assert machine.look_at_place("/dev/shm").is_ram
    for path, words in (("/nothing/here", "ENOENT"), ("/proc/meminfo", "ENOTDIR")):
        with pytest.raises(SwapFileOpenError, match=words):
            machine.look_at_place(path)


def test_a_place_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadOnly:
        f_flag, f_bavail, f_frsize = os.ST_RDONLY, 1, 4096

    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(SwapFileOpenError, match=r"permission denied \(EACCES\)"):
        machine.look_at_place(str(tmp_path))
    monkeypatch.setattr(os, "statvfs", lambda path: ReadOnly())
    with pytest.raises(SwapFileOpenError, match=r"read-only file system \(EROFS\)"):
        machine.look_at_place(str(tmp_path))


def test_the_default_size_of_a_swap_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "machine_memory", lambda: 2**30)
    assert machine.default_swap_bytes(Place("/disk", "ext4", 2**40)) == 2 * 2**30
    assert machine.default_swap_bytes(Place("/disk", "ext4", 2**30 + 12345)) == 2**29
    with pytest.raises(SwapFileSpaceError, match=r"only 100\.00 MiB are free") as caught:
        machine.default_swap_bytes(Place("/disk", "ext4", 100 * 2**20))
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(machine, "machine_memory", lambda: 2**50)
    assert machine.default_swap_bytes(Place("/disk", "ext4", 2**60)) == 2**40


@pytest.mark.usefixtures("good")
def test_a_swap_place_does_not_decide(run: Callable[..., Outcome]) -> None:
    outcome = run("doctor", "--swap", "/nothing/here")
    assert outcome.status == 0
    assert "not  swap place /nothing/here" in outcome.stdout
    assert named(doctor.checks("/dev/shm"), "swap place /dev/shm").value == "tmpfs: it is RAM"
    assert not [check for check in doctor.checks("none") if check.name.startswith("swap place")]


def test_which_command_grants_access(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state: dict[str, Any] = {"container": False, "filter": False, "setfacl": "/usr/bin/setfacl"}
    monkeypatch.setattr(machine, "is_in_container", lambda: state["container"])
    monkeypatch.setattr(machine, "has_seccomp_filter", lambda: state["filter"])
    monkeypatch.setattr("shutil.which", lambda name: state["setfacl"])
    device = tmp_path / "userfaultfd"
    monkeypatch.setattr(machine, "DEVICE", device)
    assert machine.grant_command() == "sudo sysctl vm.unprivileged_userfaultfd=1"
    device.touch()
    assert machine.grant_command() == f"sudo setfacl -m u:$USER:rw {device}"
    state.update(setfacl=None)
    assert machine.grant_command() == "sudo sysctl vm.unprivileged_userfaultfd=1"
    state.update(container=True, filter=True)
    assert machine.grant_command() == f"docker run --device {device} ..."


def test_this_machine_is_looked_at_for_real() -> None:
    user = machine.open_userfaultfd(user_mode_only=True)
    full = machine.open_userfaultfd(user_mode_only=False)
    for opened in (user, full):
        assert (opened.reason is None) == (opened.errno is None) == (opened.features != 0)
    if full.reason is None and user.reason is None:
        assert full.features == user.features
    before = len(list(Path("/proc/self/fd").iterdir()))
    doctor.checks()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_ordinary_user_is_told_the_truth() -> None:
    code = (
        # The interpreter may be where only root may look: everything is imported before.
        "import ctypes, fcntl, os, struct\n"
        "from frontswap import machine\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([])\n"
        "    os.setgid(65534)\n"
        "    os.setuid(65534)\n"
        "opened = machine.open_userfaultfd(user_mode_only=False)\n"
        "allowed = os.access('/dev/userfaultfd', os.R_OK | os.W_OK)\n"
        "allowed |= open('/proc/sys/vm/unprivileged_userfaultfd').read().strip() == '1'\n"
        "print(allowed == (opened.reason is None))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"
