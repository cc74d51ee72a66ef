"""Which file a program's name means, and whether our library can be loaded into it.

The answers are those of the kernel and of glibc's loader, found by reading the file as they do: the ELF header, the
`#!` line, the bits that make the loader ignore `LD_PRELOAD`. Nothing is executed.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from frontswap import _frontswap
from frontswap.errors import FrontswapError, reason_of
from frontswap.options import with_hint

ELF_MAGIC = b"\x7fELF"

LOADER_BYTES_MAX = 4096
"""No path is longer."""

SHEBANG_BYTES_MAX = 256
"""What the kernel reads of a `#!` line (BINPRM_BUF_SIZE)."""

SCRIPTS_MAX = 5
"""So many scripts may interpret each other before the kernel says ELOOP."""

PT_INTERP = 3
ELFCLASS64 = 2
ET_EXEC, ET_DYN = 2, 3

MACHINES = {3: "x86", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86-64", 183: "aarch64", 243: "riscv", 258: "loongarch"}
"""The processors of ELF files by their number, as people call them."""

GLIBC_LOADER = re.compile(r"ld-linux[\w-]*\.so\.\d+|ld64\.so\.\d+")


@dataclass(frozen=True, slots=True)
class Elf:
    """What matters of an ELF file.

    Attributes:
        is_64_bit: Its pointers have 64 bits.
        machine: Its processor, as a number of ELF.
        is_program: It can be executed.
        loader: The path of its loader; None in a static one.

    Example:
        >>> read_elf("/proc/self/exe").is_64_bit
        True
    """

    is_64_bit: bool
    machine: int
    is_program: bool
    loader: str | None


def find_program(program: str, search: str | None = None) -> str:
    """Return the path of a program, found as a shell finds it.

    Args:
        program: A name that is looked up, or a path, which has a slash.
        search: Directories with colons between them; those of `PATH` when None.

    Raises:
        ProgramNotFoundError: There is no such file.
        ProgramNotExecutableError: There is, and it may not be executed.

    Example:
        >>> find_program("sh", "/bin:/usr/bin")
        '/bin/sh'
    """
    if "/" in program:
        _check_file(program, program)
        return program
    if not program:
        raise _not_found(program, "its name is empty")
    if search is None:
        search = os.environ.get("PATH", os.defpath)
    refused: FrontswapError | None = None
    for folder in search.split(":"):
        # An empty entry is the current directory.
        path = str(Path(folder or ".") / program)
        try:
            _check_file(path, program)
        except FrontswapError as error:
            refused = refused if error.code == "program-not-found" else refused or error
        else:
            return path
    raise refused or _not_found(program, "it is in no directory of `PATH`")


def why_unmanageable(path: str, *, search: str | None = None) -> str | None:
    """Return why our library cannot be loaded into a program; None when it can.

    A script is what its interpreter is, and `#!/usr/bin/env NAME` is what NAME is.

    Args:
        path: The program.
        search: Where `env` looks; `PATH` when None.

    Raises:
        ProgramNotExecutableError: The kernel cannot execute it at all.

    Example:
        >>> why_unmanageable("/bin/sh") is None
        True
    """
    chain = [path]
    for _ in range(SCRIPTS_MAX + 1):
        head = _read_head(chain[-1], path)
        if head[:4] == ELF_MAGIC:
            reason = _why_unmanageable_elf(chain[-1], path)
            return reason if reason is None or len(chain) == 1 else f"its interpreter `{shown(chain[-1])}` {reason}"
        line = _shebang(chain[-1], head, path)
        chain += _interpreters(*line, search, path)
    raise _not_executable(path, f"its `#!` lines lead through more than {SCRIPTS_MAX} scripts")


def read_elf(path: str) -> Elf:
    """Read what matters of an ELF file; its tables may be anywhere in it.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no ELF file, is cut short, or is damaged.

    Example:
        >>> read_elf("/proc/self/exe").is_program
        True
    """
    with Path(path).open("rb", buffering=0) as file:
        head = os.pread(file.fileno(), 64, 0)
        try:
            if head[:4] != ELF_MAGIC:
                return _damaged()
            is_64_bit, order = head[4] == ELFCLASS64, "<" if head[5] == 1 else ">"
            kind, machine = struct.unpack_from(f"{order}HH", head, 16)
            loader = None
            if is_64_bit:
                (at,) = struct.unpack_from(f"{order}Q", head, 32)
                entry_bytes, entries = struct.unpack_from(f"{order}HH", head, 54)
                table = os.pread(file.fileno(), entry_bytes * entries, at)
                for number in range(entries):
                    what, _, offset, _, _, length = struct.unpack_from(f"{order}IIQQQQ", table, number * entry_bytes)
                    if what == PT_INTERP:
                        name = os.pread(file.fileno(), min(length, LOADER_BYTES_MAX), offset)
                        loader = os.fsdecode(name.rstrip(b"\0")) if len(name) == length > 1 else _damaged()
        except (struct.error, IndexError, OverflowError, OSError):
            return _damaged()
    return Elf(is_64_bit, machine, kind in {ET_EXEC, ET_DYN}, loader)


def shown(path: str) -> str:
    r"""Return a path as a message can show it: a name need not be UTF-8.

    Args:
        path: As Python has it.

    Example:
        >>> shown(os.fsdecode(b"/tmp/\xff"))
        '/tmp/\\xff'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _check_file(path: str, program: str) -> None:
    """Complain about what is not a file that we may execute."""
    try:
        status = Path(path).stat()
    except PermissionError as error:
        raise _not_executable(program, reason_of(error), error.errno) from None
    except OSError as error:
        raise _not_found(program, reason_of(error), error.errno) from None
    if stat.S_ISDIR(status.st_mode):
        raise _not_executable(program, "it is a directory")
    if not os.access(path, os.X_OK, effective_ids=True):
        hint = f"`chmod +x {shlex.quote(shown(path))}` makes it executable"
        if status.st_mode & 0o111:
            hint = "ask for permission to execute it; on a file system that is mounted `noexec` nobody may"
        raise with_hint(_not_executable(program, "permission denied (EACCES)", 13), hint)


def _read_head(path: str, program: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(SHEBANG_BYTES_MAX)
    except PermissionError:
        # The kernel may execute what we may not read, but then we cannot know what it is.
        raise _unmanageable(program, f"`{shown(path)}` may be executed but not read") from None
    except OSError as error:
        reason = reason_of(error) if path == program else f"its interpreter `{shown(path)}`: {reason_of(error)}"
        raise _not_executable(program, reason, error.errno) from None


def _why_unmanageable_elf(path: str, program: str) -> str | None:
    """Return why our library cannot be loaded into a file of ELF; None when it can."""
    try:
        elf = read_elf(path)
    except ValueError as error:
        raise _not_executable(program, f"it is {error}") from None
    ours = read_elf("/proc/self/exe")
    if not elf.is_program:
        raise _not_executable(program, "it is an ELF file, but not a program")
    if not elf.is_64_bit:
        return "is a 32-bit program"
    if elf.machine != ours.machine:
        theirs = MACHINES.get(elf.machine, f"processor {elf.machine} of ELF")
        return f"is a program for {theirs}, and this is {MACHINES.get(ours.machine, 'another processor')}"
    if elf.loader is None:
        return "is statically linked, so that nothing can be loaded into it"
    if not Path(elf.loader).exists():
        raise _not_executable(program, f"its loader `{shown(elf.loader)}` does not exist")
    name = Path(elf.loader).name
    if name.startswith("ld-musl"):
        return "is linked with musl, and our library with glibc"
    if not GLIBC_LOADER.fullmatch(name):
        return f"is loaded by `{shown(elf.loader)}`, which is not glibc's loader"
    return _why_secure(path)


def _damaged() -> NoReturn:
    message = "an ELF file that is cut short or damaged"
    raise ValueError(message)


def _why_secure(path: str) -> str | None:
    """Return why the loader would ignore LD_PRELOAD: the program runs with other rights than ours."""
    status = Path(path).stat()
    if os.statvfs(path).f_flag & os.ST_NOSUID or _has_no_new_privileges():
        return None
    if status.st_mode & stat.S_ISUID and status.st_uid != os.getuid():
        return "is setuid, and the loader lets nothing be loaded into such a program"
    # Without permission to execute for its group, the bit means mandatory locking.
    is_setgid = status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IXGRP
    if is_setgid and status.st_gid != os.getgid():
        return "is setgid, and the loader lets nothing be loaded into such a program"
    if os.getuid() != 0 and _has_capabilities(path):
        return "has file capabilities, and the loader lets nothing be loaded into such a program"
    return None


def _has_no_new_privileges() -> bool:
    """Return whether this process gave up gaining rights by executing something."""
    return re.search(r"^NoNewPrivs:\t1$", Path("/proc/self/status").read_text("utf-8"), re.MULTILINE) is not None


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _shebang(path: str, head: bytes, program: str) -> tuple[str, str]:
    """Return the interpreter of a script and its one argument, as the kernel splits the line."""
    if not head.startswith(b"#!"):
        what = "it is empty" if not head else "it is neither an ELF program nor a script with a `#!` line"
        hint = f"begin it with a line such as `#!/bin/sh`, or run `sh {shlex.quote(shown(path))}`"
        raise with_hint(_not_executable(program, f"{what} (ENOEXEC)", 8), hint)
    line = head[2:SHEBANG_BYTES_MAX].split(b"\n", 1)[0].strip(b" \t")
    interpreter, _, argument = line.replace(b"\t", b" ").partition(b" ")
    if not interpreter:
        raise _not_executable(program, "its `#!` line names no interpreter (ENOEXEC)", 8)
    return os.fsdecode(interpreter), os.fsdecode(argument.strip())


def _interpreters(interpreter: str, argument: str, search: str | None, program: str) -> list[str]:
    """Return whom a `#!` line names: the interpreter, or through `env` also the program that it looks up."""
    try:
        _check_file(interpreter, interpreter)
        if Path(interpreter).name != "env":
            return [interpreter]
        words = shlex.split(argument.removeprefix("-S").removeprefix("--split-string="))
        names = [word for word in words if not word.startswith("-") and "=" not in word]
        return [find_program(names[0], search)] if names else [interpreter]
    except FrontswapError as error:
        raise _not_executable(program, f"its interpreter cannot be executed: {error}", error.errno) from None
    except ValueError:
        return [interpreter]


def _not_found(program: str, reason: str, errno: int | None = None) -> FrontswapError:
    return _frontswap.make_error("program-not-found", program=shown(program), reason=reason, errno=errno)


def _not_executable(program: str, reason: str, errno: int | None = None) -> FrontswapError:
    return _frontswap.make_error("program-not-executable", program=shown(program), reason=reason, errno=errno)


def _unmanageable(program: str, reason: str) -> FrontswapError:
    return _frontswap.make_error("program-unmanageable", program=shown(program), reason=reason)
