"""Everything that has to be right before a program starts: found, fit to be managed, and given a tree.

A tree is the memory that all processes of a run share; it holds their budget, settings and counters. We make it and
keep it open; the library in each process finds it by `FRONTSWAP_TREE`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frontswap import _frontswap, machine
from frontswap.errors import FrontswapError, SwapFileDirectError
from frontswap.programs.executable import find_program, shown, why_unmanageable
from frontswap.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from frontswap.programs.settings import RunSettings, Swap

TREE_VARIABLE = "FRONTSWAP_TREE"

BEST_EFFORT_CODES = frozenset(
    {
        "kernel-unfit",
        "preload-unfit",
        "program-unmanageable",
        "run-nested",
        "swap-file-direct",
        "swap-file-open",
        "swap-file-space",
        "userfaultfd-denied",
    }
)
"""Kinds of error that say that managing is impossible, not that the program is."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A program that can start.

    Attributes:
        path: Its file.
        environment: Its environment.
        tree: What its processes share; None when it runs unmanaged.
        swap: The directory and the size of the swap file, if there is one.
        warnings: What a person should know beforehand.

    Example:
        >>> Launch("/bin/true", {}).warnings
        ()
    """

    path: str
    environment: Mapping[str, str]
    tree: _frontswap.Tree | None = None
    swap: tuple[str, int] | None = None
    warnings: tuple[str, ...] = ()


def prepare(program: str, settings: RunSettings, *, best_effort: bool = False) -> Launch:
    """See to it that a program can be started under management.

    Args:
        program: Its name or path.
        settings: What was asked for.
        best_effort: Where it cannot be managed, let it run unmanaged, with a warning.

    Raises:
        FrontswapError: It cannot be run; or, without `best_effort`, not managed.

    Example:
        >>> from frontswap.errors import ProgramNotFoundError
        >>> from frontswap.programs.settings import RunSettings
        >>> try:
        ...     prepare("no-such-program", RunSettings(ram_limit_bytes=2**26))
        ... except ProgramNotFoundError as error:
        ...     print(error)
        cannot find the program `no-such-program`: it is in no directory of `PATH`
    """
    path = find_program(program)
    environment = dict(os.environ)
    try:
        return _prepare_managed(program, path, environment, settings)
    except FrontswapError as error:
        if not best_effort or error.code not in BEST_EFFORT_CODES:
            raise
        if error.code == "run-nested":
            return Launch(path, environment, warnings=("the program runs within the outer `frontswap run`",))
        return Launch(path, environment, warnings=(f"the program runs unmanaged: {error}",))


def managed_environment(environment: Mapping[str, str], preload: str, tree: str) -> dict[str, str]:
    """Return an environment in which our library is loaded first, before those that the user loads.

    Args:
        environment: The user's.
        preload: The path of our library.
        tree: Where the library finds the tree.

    Example:
        >>> managed_environment({"LD_PRELOAD": "theirs.so"}, "/ours.so", "/proc/1/fd/3;3")["LD_PRELOAD"]
        '/ours.so:theirs.so'
    """
    preloads = [preload, *filter(None, [environment.get("LD_PRELOAD")])]
    return {**environment, "LD_PRELOAD": ":".join(preloads), TREE_VARIABLE: tree}


def _prepare_managed(program: str, path: str, environment: dict[str, str], settings: RunSettings) -> Launch:
    # Before the environment is looked at: a program that cannot be executed is that, wherever it is started.
    reason = why_unmanageable(path)
    if TREE_VARIABLE in environment:
        raise _frontswap.make_error("run-nested", tree=environment[TREE_VARIABLE])
    if reason is not None:
        raise _frontswap.make_error("program-unmanageable", program=shown(program), reason=_with_it(reason))
    machine.check_managing()
    preload = machine.check_preload()
    descriptor: int | None = None
    size, swap, warnings = 0, None, list[str]()
    if settings.swap is not None:
        descriptor, size, warnings = _open_swap(settings.swap, settings.ram_limit_bytes)
        # Who may not look into /proc for it, having changed its user, finds it under its number.
        os.set_inheritable(descriptor, True)  # noqa: FBT003
        swap = (settings.swap.place, size)
    tree = _frontswap.Tree.create(settings.ram_limit_bytes, settings.to_text(), descriptor, size)
    where = f"/proc/{os.getpid()}/fd/{tree.fd};{tree.fd}"
    return Launch(path, managed_environment(environment, preload, where), tree, swap, tuple(warnings))


def _open_swap(swap: Swap, ram_bytes: int) -> tuple[int, int, list[str]]:
    """Return a swap file that is open, its size, and what should be said of it."""
    place = machine.look_at_place(swap.place)
    size = machine.default_swap_bytes(place, ram_bytes) if swap.size_bytes is None else swap.size_bytes
    warnings = []
    if place.is_ram:
        warnings.append(
            f"the swap place `{shown(place.path)}` is `{place.file_system}`, which is RAM: "
            f"what goes there saves none, and `--ram` does not count it"
        )
    try:
        descriptor = _frontswap.swap_file_fd(swap.place, size, swap.direct is not False)
    except SwapFileDirectError:
        if swap.direct is not None:
            raise
        descriptor = _frontswap.swap_file_fd(swap.place, size, False)  # noqa: FBT003 - as the stub has it
        if not place.is_ram:
            warnings.append(
                f"the swap place `{shown(place.path)}` has no direct I/O: of the {format_size(size)} there, "
                "the page cache may keep some in RAM"
            )
    return descriptor, size, warnings


def _with_it(reason: str) -> str:
    return reason if reason.startswith("its ") else f"it {reason}"
