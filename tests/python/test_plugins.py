"""Backends of other packages are found by their entry points; what is wrong with one is said, with its package."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from frontswap import plugins
from frontswap.config import parse_backend
from frontswap.errors import BackendFailedError, BackendUnknownError, PluginClashError, PluginInvalidError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("strangers_hidden")

BACKEND = """
from frontswap import ACCEPTED, Backend

class Tape(Backend):
    kind = "tape"
    def __init__(self): self.held = {}
    def init(self, area, pages): pass
    def store(self, area, offset, page):
        self.held[area, offset] = bytes(page)
        return ACCEPTED
    def load(self, area, offset, out):
        if (area, offset) not in self.held:
            return False
        memoryview(out)[:] = self.held[area, offset]
        return True
    def invalidate_page(self, area, offset): self.held.pop((area, offset), None)
    def invalidate_area(self, area): self.held.clear()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a package onto the path as an installer would, with an entry point `tape`."""

    def put(package: str, code: str, *, version: str = "1.0", name: str = "tape", target: str = "Tape") -> None:
        folder = tmp_path / package
        info = folder / f"{package}-{version}.dist-info"
        info.mkdir(parents=True)
        (folder / f"{package}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[frontswap.backends]\n{name} = {package}:{target}\n")
        monkeypatch.syspath_prepend(folder)

    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return put


@pytest.fixture(autouse=True)
def forget_modules() -> object:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("tapes"):
            del sys.modules[name]


def state_of(name: str) -> dict[str, str]:
    return {plugin.package: plugin.state for plugin in plugins.available() if plugin.name == name}


def test_our_own_backends_are_plugins() -> None:
    ours = [plugin for plugin in plugins.available() if plugin.package == "frontswap"]
    assert [plugin.name for plugin in ours] == ["fault_inject", "file", "ram", "zpool"]
    assert {plugin.state for plugin in ours} == {"ready"}


def test_a_stranger_is_found_and_used(install: Callable[..., None]) -> None:
    install("tapes", BACKEND)
    assert state_of("tape") == {"tapes": "ready"}
    with parse_backend("tape").build() as backend:
        assert backend.kind == "tape"


def test_a_stranger_is_imported_on_first_use_only(install: Callable[..., None]) -> None:
    install("tapes", BACKEND)
    plugins.load("ram")
    assert "tapes" not in sys.modules
    plugins.load("tape")
    assert "tapes" in sys.modules


def test_a_clash_names_both_packages(install: Callable[..., None]) -> None:
    install("tapes", BACKEND)
    install("tapes_too", BACKEND, version="2.5")
    with pytest.raises(PluginClashError) as caught:
        plugins.load("tape")
    assert str(caught.value) == "two packages offer a backend named `tape`: `tapes 1.0`, `tapes_too 2.5`"
    assert state_of("tape") == {
        "tapes": "clash: `tapes_too 2.5` offers that name too",
        "tapes_too": "clash: `tapes 1.0` offers that name too",
    }


def test_a_stranger_cannot_take_one_of_our_names(install: Callable[..., None]) -> None:
    install("tapes", BACKEND, name="zpool")
    with pytest.raises(PluginClashError, match=r"two packages offer a backend named `zpool`: `frontswap .*`, `tapes 1"):
        plugins.load("zpool")


@pytest.mark.parametrize(
    ("code", "name", "target", "reason"),
    [
        ("import nothing_of_that_name", "tape", "Tape", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("1 / 0", "tape", "Tape", "ZeroDivisionError: division by zero"),
        (BACKEND, "tape", "Reel", "AttributeError: module 'tapes' has no attribute 'Reel'"),
        ("Tape = 3", "tape", "Tape", "`tapes:Tape` is not a subclass of `frontswap.Backend`"),
        (BACKEND + "    api_version = 2", "tape", "Tape", "it is for version 2 of the contract, and this is version 1"),
        (BACKEND, "reel", "Tape", "its `kind` is `tape`"),
        (
            "from frontswap import Backend\nclass Tape(Backend):\n    kind = 'tape'\n    def init(self, a, p): pass",
            "tape",
            "Tape",
            "it lacks `invalidate_area`, `invalidate_page`, `load`, `store`",
        ),
    ],
)
def test_what_is_wrong_with_a_stranger_is_said(
    install: Callable[..., None], code: str, name: str, target: str, reason: str
) -> None:
    install("tapes", code, name=name, target=target)
    assert state_of(name) == {"tapes": reason}
    with pytest.raises(PluginInvalidError) as caught:
        plugins.load(name)
    assert str(caught.value) == f"cannot use the backend `{name}` of package `tapes 1.0`: {reason}"
    assert caught.value.hint


def test_a_stranger_that_fails_is_named(install: Callable[..., None]) -> None:
    install("tapes", BACKEND.replace("self.held = {}", "raise OSError('no drive')"))
    with pytest.raises(BackendFailedError, match="backend `tape` failed in `from_spec`: OSError: no drive"):
        parse_backend("tape").build()


def test_a_backend_that_nobody_offers_is_unknown() -> None:
    with pytest.raises(BackendUnknownError):
        plugins.load("tape")
