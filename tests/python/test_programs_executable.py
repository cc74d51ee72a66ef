"""Which file a name means, and whether our library can be loaded into it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from frontswap.errors import (
    FrontswapError,
    ProgramNotExecutableError,
    ProgramNotFoundError,
    ProgramUnmanageableError,
)
from frontswap.programs import executable
from frontswap.programs.executable import find_program, read_elf, shown, why_unmanageable

GLIBC = read_elf("/proc/self/exe").loader or ""
OURS = read_elf("/proc/self/exe").machine
AARCH64, X86_64 = 183, 62


def elf(*, machine: int = OURS, bits: int = 64, kind: int = 3, loader: str | None = GLIBC, far: int = 0) -> bytes:
    """Make the header of an ELF file, as far as it is read; `far` bytes before the name of its loader."""
    name = b"" if loader is None else loader.encode() + b"\0"
    ident = b"\x7fELF" + bytes([1 if bits == 32 else 2, 1, 1]) + bytes(9)
    at = 64 + 56 + far
    header = struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, int(loader is not None), 0, 0, 0)
    table = struct.pack("<IIQQQQQQ", 3, 4, at, 0, 0, len(name), len(name), 1) if loader is not None else b""
    return (ident + header + table).ljust(at, b"\0") + name


def write(path: Path, content: bytes | str, mode: int = 0o755) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return str(path)


def why(path: str, search: str | None = None) -> str:
    return why_unmanageable(path, search=search) or ""


def test_a_name_is_looked_up_as_a_shell_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    write(first / "job", "#!/bin/sh\n", 0o644)
    write(second / "job", "#!/bin/sh\n")
    (first / "folder").mkdir()
    search = f"{first}:{second}"
    assert find_program("job", search) == str(second / "job")
    with pytest.raises(ProgramNotExecutableError, match="permission denied"):
        find_program("job", str(first))
    with pytest.raises(ProgramNotExecutableError, match="it is a directory"):
        find_program("folder", search)
    with pytest.raises(ProgramNotFoundError, match="it is in no directory of `PATH`"):
        find_program("other", search)
    with pytest.raises(ProgramNotFoundError, match="its name is empty"):
        find_program("", search)
    monkeypatch.chdir(second)
    assert find_program("job", ":/nothing") == "job"
    monkeypatch.setenv("PATH", str(second))
    assert find_program("job") == str(second / "job")


def test_a_path_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "job", "#!/bin/sh\n", 0o644)
    with pytest.raises(ProgramNotFoundError, match="no such file or directory") as missing:
        find_program(f"{path}.not")
    assert missing.value.errno == 2
    with pytest.raises(ProgramNotFoundError, match="not a directory"):
        find_program(f"{path}/inside")
    with pytest.raises(ProgramNotExecutableError) as caught:
        find_program(path)
    assert caught.value.hint == f"`chmod +x {path}` makes it executable"
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    Path(path).chmod(0o755)
    with pytest.raises(ProgramNotExecutableError) as caught:
        find_program(path)
    assert "noexec" in caught.value.hint


@pytest.mark.parametrize("program", [sys.executable, "/bin/sh", "/bin/ls", "/bin/bash", "/usr/bin/env"])
def test_programs_of_this_machine_can_be_managed(program: str) -> None:
    assert why(program) == ""


@pytest.mark.parametrize("options", [["-static"], ["-static-pie"]])
def test_a_static_program_is_refused(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "static"
    words = ["cc", "-x", "c", "-", "-o", str(path), *options]
    subprocess.run(words, input=b"int main(void) { return 0; }", check=True)
    assert why(str(path)) == "is statically linked, so that nothing can be loaded into it"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (elf(), ""),
        (elf(far=100_000), ""),
        (elf(bits=32), "is a 32-bit program"),
        (elf(machine=X86_64 if OURS == AARCH64 else AARCH64), "is a program for "),
        (elf(machine=9999), "is a program for processor 9999 of ELF, and this is "),
        (elf(loader=None), "is statically linked"),
        (elf(loader="/bin/sh"), "is loaded by `/bin/sh`, which is not glibc's loader"),
    ],
)
def test_what_kind_of_program_it_is(tmp_path: Path, content: bytes, reason: str) -> None:
    found = why(write(tmp_path / "program", content))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_musl_is_not_glibc(tmp_path: Path) -> None:
    loader = write(tmp_path / "ld-musl-x86_64.so.1", elf(loader=None))
    found = why(write(tmp_path / "program", elf(loader=loader)))
    assert found == "is linked with musl, and our library with glibc"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty (ENOEXEC)"),
        (b"echo hello\n", "it is neither an ELF program nor a script with a `#!` line (ENOEXEC)"),
        (b"#!\n", "its `#!` line names no interpreter (ENOEXEC)"),
        (b"#!  /nothing/here -x\n", "its interpreter cannot be executed: cannot find the program `/nothing/here`: "),
        (b"#!/\n", "its interpreter cannot be executed: cannot execute `/`: it is a directory"),
        (b"#!/usr/bin/env no-such-program\n", "its interpreter cannot be executed: cannot find the program `no-such"),
        (b"\x7fELF", "it is an ELF file that is cut short or damaged"),
        (elf()[:100], "it is an ELF file that is cut short or damaged"),
        (elf()[:-5], "it is an ELF file that is cut short or damaged"),
        (elf(kind=1), "it is an ELF file, but not a program"),
        (elf(loader="/nothing/ld-linux.so.2"), "its loader `/nothing/ld-linux.so.2` does not exist"),
    ],
)
def test_what_the_kernel_cannot_execute(tmp_path: Path, content: bytes, reason: str) -> None:
    path = write(tmp_path / "program", content)
    with pytest.raises(ProgramNotExecutableError) as caught:
        why(path)
    assert f"cannot execute `{path}`: {reason}" in str(caught.value)
    with pytest.raises((OSError, subprocess.CalledProcessError)):
        subprocess.run([path], check=True, capture_output=True)


def test_a_script_is_what_its_interpreter_is(tmp_path: Path) -> None:
    static = write(tmp_path / "static", elf(loader=None))
    reason = f"its interpreter `{static}` is statically linked, so that nothing can be loaded into it"
    assert why(write(tmp_path / "one", "#!/bin/sh -e\n")) == ""
    assert why(write(tmp_path / "two", f"#! {static}\targument\n")) == reason
    assert why(write(tmp_path / "three", f"#!{tmp_path}/two\n")) == reason
    for number, line in enumerate(["env static", "env -S static -u", "env -S A=1 static", "env --split-string=static"]):
        assert why(write(tmp_path / f"env{number}", f"#!/usr/bin/{line}\n"), str(tmp_path)) == reason
    assert why(write(tmp_path / "four", "#!/usr/bin/env -S 'half\n")) == ""
    assert why(write(tmp_path / "five", "#!/usr/bin/env\n")) == ""


def test_scripts_that_interpret_each_other_for_ever(tmp_path: Path) -> None:
    path = write(tmp_path / "script", f"#!{tmp_path}/script\n")
    with pytest.raises(ProgramNotExecutableError, match="more than 5 scripts"):
        why(path)


def test_a_program_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "program", elf())
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ProgramUnmanageableError, match="may be executed but not read"):
        why(path)


@pytest.fixture
def rights_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be an ordinary user on an ordinary file system, whatever the tests run as and on."""

    class Disk:
        f_flag = 0

    monkeypatch.setattr(os, "statvfs", lambda path: Disk())
    monkeypatch.setattr(executable, "_has_no_new_privileges", lambda: False)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "getgid", lambda: 12345)


@pytest.mark.usefixtures("rights_count")
def test_a_program_that_runs_with_other_rights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = "and the loader lets nothing be loaded into such a program"
    assert why(write(tmp_path / "plain", elf())) == ""
    assert why(write(tmp_path / "setuid", elf(), 0o4755)) == f"is setuid, {loads}"
    assert why(write(tmp_path / "setgid", elf(), 0o2755)) == f"is setgid, {loads}"
    assert why(write(tmp_path / "locked", elf(), 0o2745)) == ""
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"\1")
    assert why(write(tmp_path / "capable", elf())) == f"has file capabilities, {loads}"
    monkeypatch.setattr(executable, "_has_no_new_privileges", lambda: True)
    assert why(str(tmp_path / "setuid")) == ""


@pytest.mark.usefixtures("rights_count")
def test_setuid_to_oneself_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "setuid", elf(), 0o4755)
    monkeypatch.setattr(os, "getuid", lambda: Path(path).stat().st_uid)
    assert why(path) == ""


def test_a_name_that_is_not_utf8_can_be_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    assert shown(name) == r"caf\xe9"
    with pytest.raises(FrontswapError, match=r"caf\\xe9"):
        find_program(f"{tmp_path}/{name}")
