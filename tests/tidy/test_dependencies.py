"""Dependencies go one way: front ends to frontswap, backends to frontswap, Python to all.

The tables are the whole of who may use whom. A room that is not in them fails, so that a new one is placed on purpose.
"""

from __future__ import annotations

import ast
import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from tree import ROOT, files, name, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CRATES = {
    "frontswap": set[str](),
    "frontswap-backends": {"frontswap"},
    # The backends are for its tests alone: it knows the chain and nothing below.
    "frontswap-pager": {"frontswap", "frontswap-backends"},
    "frontswap-preload": {"frontswap", "frontswap-backends", "frontswap-pager"},
    "frontswap-python": {"frontswap", "frontswap-backends", "frontswap-pager"},
    # Not part of the product: they look at it from outside.
    "frontswap-fuzz": {"frontswap", "frontswap-backends"},
    "frontswap-benchmarks": {"frontswap", "frontswap-backends", "frontswap-pager"},
    # One file of `frontswap`, built alone.
    "frontswap-loom": set[str](),
}

FOREIGN_TO_THE_CORE = {"libc", "rustix", "pyo3", "std::fs", "std::net", "std::os", "std::process::Command", "std::env"}
"""What would let the contract and the chain call the system, or know Python."""

PYTHON_ROOMS = {
    "frontswap._frontswap": set[str](),
    "frontswap": {"frontswap._frontswap"},
    "frontswap.testing": {"frontswap", "frontswap._frontswap"},
    "frontswap.cli": {"frontswap", "frontswap._frontswap"},
    "frontswap.__main__": {"frontswap.cli"},
    "frontswap._docs": {"frontswap", "frontswap._frontswap", "frontswap.cli"},
}
"""`frontswap` is every module that has no row of its own. The stub of the native module names the classes of errors."""

MANIFESTS = [path for path in files(".toml") if path.name == "Cargo.toml" and path.parent != ROOT]
PACKAGE = [path for path in files(".py") if path.is_relative_to(ROOT / "python")]


def dependencies(manifest: dict[str, Any]) -> set[str]:
    """Return the names of all crates that a manifest asks for: to run, to build, to test, on any system."""
    tables = [manifest, *manifest.get("target", {}).values()]
    kinds = ("dependencies", "dev-dependencies", "build-dependencies")
    return {crate for table in tables for kind in kinds for crate in table.get(kind, {})}


def crates_used(text: str) -> set[str]:
    """Return our crates that a Rust file names, without comments; `frontswap_backends::file` is a use of one."""
    code = re.sub(r"//.*", "", text)
    return {found.replace("_", "-") for found in re.findall(r"\b(frontswap(?:_\w+)?)::", code)}


def modules_imported(text: str) -> Iterator[str]:
    """Yield the full names that a Python file imports, also inside functions and for type checkers."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    """Return the room that a module is in; None for another package's."""
    if module != "frontswap" and not module.startswith("frontswap."):
        return None
    return next(room for room in sorted(PYTHON_ROOMS, key=len, reverse=True) if f"{module}.".startswith(f"{room}."))


@pytest.mark.parametrize("path", MANIFESTS, ids=name)
def test_a_crate_uses_only_what_is_below_it(path: Path) -> None:
    manifest = tomllib.loads(read(path))
    crate = manifest["package"]["name"]
    ours = {used for used in dependencies(manifest) if used in CRATES or used.startswith("frontswap")}
    assert ours <= CRATES[crate]
    for source in files(".rs"):
        if source.is_relative_to(path.parent):
            assert crates_used(read(source)) - {crate} <= CRATES[crate], name(source)


def test_the_core_makes_no_system_call_and_knows_no_python() -> None:
    core = ROOT / "crates/frontswap"
    assert dependencies(tomllib.loads(read(core / "Cargo.toml"))) & FOREIGN_TO_THE_CORE == set()
    for path in files(".rs"):
        if path.is_relative_to(core):
            code = re.sub(r"//.*", "", read(path))
            assert [word for word in FOREIGN_TO_THE_CORE if re.search(rf"\b{word}\b", code)] == [], name(path)


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_a_module_imports_only_what_is_below_it(path: Path) -> None:
    module = path.relative_to(ROOT / "python").with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    room = room_of(module)
    assert room is not None
    used = {room_of(imported) for imported in modules_imported(read(path))} - {None, room}
    assert used <= PYTHON_ROOMS[room]


@pytest.mark.parametrize("folder", ["examples", "benchmarks"])
def test_what_people_copy_uses_no_private_module(folder: str) -> None:
    for path in files(".py"):
        if path.is_relative_to(ROOT / folder):
            private = [module for module in modules_imported(read(path)) if re.search(r"frontswap\b.*\._", module)]
            assert private == [], name(path)


def test_edges_are_seen() -> None:
    manifest = {"target": {"cfg(unix)": {"dev-dependencies": {"frontswap-python": {}}}}, "dependencies": {"libc": "1"}}
    assert dependencies(manifest) == {"frontswap-python", "libc"}
    assert crates_used("use frontswap_backends::Ram; // frontswap_python::x\n") == {"frontswap-backends"}
    assert set(modules_imported("def f():\n    from frontswap import cli\n")) == {"frontswap.cli"}
    assert room_of("frontswap.cli.check") == "frontswap.cli"
    assert room_of("frontswap.units.parse_size") == "frontswap"
    assert room_of("frontswap_shelf") is None
