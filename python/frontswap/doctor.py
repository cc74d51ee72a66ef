"""What this machine allows, one check after the other, each with the one command that allows more.

`checks` asks `frontswap.machine`, which tries things out; here is only what to call them and what they mean for a user.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from frontswap import machine
from frontswap.errors import FrontswapError
from frontswap.units import format_size, machine_memory

LOADER_TIMEOUT_S = 10.0

MAPS_MIN = 65530
"""What Linux allows by default. Each extent of memory that is managed is a map of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        is_ok: Whether it is as it should be; None for what is only worth knowing.
        is_needed: Whole programs cannot be run without it.
        value: What was found.
        hint: One thing to do about it; empty when there is nothing.

    Example:
        >>> Check(name="kernel", is_ok=True, value="Linux 6.8").is_needed
        False
    """

    name: str
    is_ok: bool | None
    value: str
    is_needed: bool = False
    hint: str = ""


def checks(swap_place: str = machine.SWAP_PLACE) -> list[Check]:
    """Look at this machine.

    Args:
        swap_place: The directory for swap files; `none` for compressed RAM only.

    Example:
        >>> [check.name for check in checks()][:2]
        ['kernel', 'userfaultfd, full']
    """
    return [
        *_userfaultfd(),
        _scan(),
        _device(),
        _sysctl(),
        _seccomp(),
        _preload(),
        _memory(),
        *([] if swap_place == "none" else [_swap(swap_place)]),
        _huge_pages(),
        *_limits(),
        _tools(),
    ]


def verdict(found: list[Check]) -> Check | None:
    """Return what keeps whole programs from being run; None when nothing does.

    Args:
        found: What `checks` returned.

    Example:
        >>> verdict([Check(name="kernel", is_ok=False, is_needed=True, value="Linux 5.4")]).name
        'kernel'
    """
    return next((check for check in found if check.is_needed and check.is_ok is False), None)


def _userfaultfd() -> list[Check]:
    full = machine.open_userfaultfd(user_mode_only=False)
    user = machine.open_userfaultfd(user_mode_only=True)
    features = full.features or user.features
    missing = machine.Userfaultfd("", None, None, features).missing()
    kernel = f"Linux {platform.release()}, {platform.machine()}"
    update = "run Linux 6.8 or later"
    has_sigbus = bool(features & machine.SIGBUS_FEATURE)
    has_move = bool(features & machine.MOVE_FEATURE)
    return [
        Check(
            name="kernel",
            is_ok=None if not features else not missing,
            is_needed=True,
            value=kernel if not missing or not features else f"{kernel}: has no {', no '.join(missing)}",
            hint=update if features and missing else "",
        ),
        Check(
            name="userfaultfd, full",
            is_needed=True,
            value=f"by {full.way}; for whole programs" if full.reason is None else full.reason,
            is_ok=full.reason is None,
            hint="" if full.reason is None else f"`{machine.grant_command()}`",
        ),
        Check(
            name="userfaultfd, user mode",
            is_ok=user.reason is None,
            value=f"by {user.way}; for `Space`" if user.reason is None else user.reason,
            hint="" if user.reason is None else "allow the system call `userfaultfd` in the seccomp profile",
        ),
        Check(
            name="UFFDIO_MOVE",
            is_ok=has_move,
            value="moves pages out without copying them" if has_move else "not offered",
            hint="" if has_move else update,
        ),
        Check(
            name="SIGBUS mode",
            is_ok=has_sigbus,
            value="faults of a `Space` are answered in the thread itself" if has_sigbus else "not offered",
            hint="" if has_sigbus else update,
        ),
    ]


def _scan() -> Check:
    can = machine.can_scan_pagemap()
    value = "cold pages are found cheaply" if can else "not offered; cold pages are guessed by age"
    return Check(name="PAGEMAP_SCAN", is_ok=can, value=value, hint="" if can else "run Linux 6.7 or later")


def _device() -> Check:
    path = machine.DEVICE
    try:
        status = path.stat()
    except OSError:
        return Check(name=str(path), is_ok=None, value="not there; it came with Linux 6.1")
    can = os.access(path, os.R_OK | os.W_OK)
    value = f"mode {status.st_mode & 0o777:03o}, owner {status.st_uid}:{status.st_gid}, "
    hint = "" if can else f"`{machine.grant_command()}`"
    return Check(name=str(path), is_ok=can, value=value + ("ours to open" if can else "not ours to open"), hint=hint)


def _sysctl() -> Check:
    name = "vm.unprivileged_userfaultfd"
    text = _read("/proc/sys/vm/unprivileged_userfaultfd")
    meaning = {"0": "0: root and users of the device only", "1": "1: any user may open a full one"}
    return Check(name=name, is_ok=None, value=meaning.get(text, text or "unknown to this kernel"))


def _seccomp() -> Check:
    where = ", in a container" if machine.is_in_container() else ""
    if not machine.has_seccomp_filter():
        return Check(name="seccomp", is_ok=None, value=f"no filter{where}")
    value = f"a filter is active{where}; that of Docker keeps userfaultfd from programs"
    is_denied = machine.open_userfaultfd(user_mode_only=False).reason is not None
    return Check(name="seccomp", is_ok=None, value=value, hint=f"`{machine.grant_command()}`" if is_denied else "")


def _preload() -> Check:
    name = "library for programs"
    try:
        path = machine.check_preload()
    except FrontswapError as error:
        value = str(error).removeprefix("cannot load frontswap into a program: ")
        return Check(name=name, is_ok=False, is_needed=True, value=value, hint=error.hint)
    complaint = _why_not_loaded(path)
    if complaint:
        hint = "use a system whose glibc is at least as new as the one that frontswap was built with"
        return Check(name=name, is_ok=False, is_needed=True, value=complaint, hint=hint)
    return Check(name=name, is_ok=True, is_needed=True, value=f"of this build, and it loads; {path}")


def _why_not_loaded(path: str) -> str:
    """Load the library into a program that does nothing; return what the loader says against it."""
    true = shutil.which("true")
    if true is None:
        return ""
    environment = {"LD_PRELOAD": path, "LC_ALL": "C"}
    try:
        result = subprocess.run(  # noqa: S603 - both are known
            [true], env=environment, capture_output=True, text=True, check=False, timeout=LOADER_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a program with it does not end: {error}"
    if result.returncode:
        return f"a program with it ends with {result.returncode}"
    return result.stderr.strip()


def _memory() -> Check:
    text = re.search(r"^MemTotal:\s+(\d+)", _read("/proc/meminfo"), re.MULTILINE)
    allowed = machine_memory()
    value = f"{format_size(allowed)} for `--ram` at most"
    if text and allowed < int(text[1]) * 1024:
        value += f": the limit of the control group, of {format_size(int(text[1]) * 1024)}"
    return Check(name="memory", is_ok=None, value=value)


def _swap(path: str) -> Check:
    name = f"swap place {path}"
    try:
        place = machine.look_at_place(path)
        size = machine.default_swap_bytes(place)
    except FrontswapError as error:
        return Check(name=name, is_ok=False, value=str(error), hint="name another with `--swap DIR`, or `--swap none`")
    value = f"{format_size(place.free_bytes)} free; a swap file takes {format_size(size)} unless told otherwise"
    if place.is_ram:
        return Check(name=name, is_ok=False, value=f"{place.file_system}: it is RAM", hint="name a disk: `--swap DIR`")
    return Check(name=name, is_ok=True, value=f"{place.file_system or 'a file system'}, {value}")


def _huge_pages() -> Check:
    text = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", text)
    return Check(name="transparent huge pages", is_ok=None, value=chosen[1] if chosen else "not in this kernel")


def _limits() -> list[Check]:
    found = []
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    is_free = address_space == resource.RLIM_INFINITY
    found.append(
        Check(
            name="ulimit -v",
            is_ok=is_free or None,
            value="unlimited" if is_free else f"{format_size(address_space)}; the pager's own memory counts too",
            hint="" if is_free else "`ulimit -v unlimited`",
        )
    )
    maps = _read("/proc/sys/vm/max_map_count")
    is_enough = not maps.isdigit() or int(maps) >= MAPS_MIN
    hint = "" if is_enough else f"`sudo sysctl vm.max_map_count={MAPS_MIN}`"
    found.append(Check(name="vm.max_map_count", is_ok=is_enough, value=maps or "unknown", hint=hint))
    if _read("/proc/sys/vm/overcommit_memory") == "2":
        value = "2: memory that is only reserved counts, so a program may be refused more than it touches"
        hint = "`sudo sysctl vm.overcommit_memory=0`"
        found.append(Check(name="vm.overcommit_memory", is_ok=None, value=value, hint=hint))
    return found


def _tools() -> Check:
    tools = {name: shutil.which(name) is not None for name in ("setfacl", "sysctl", "gdb")}
    missing = [name for name, is_there in tools.items() if not is_there]
    there = [name for name, is_there in tools.items() if is_there]
    value = "; ".join(
        filter(
            None, [f"here: {', '.join(there)}" if there else "", f"not here: {', '.join(missing)}" if missing else ""]
        )
    )
    return Check(name="optional programs", is_ok=None, value=value)


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return ""
