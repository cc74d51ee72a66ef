"""What the tests share: pages, snapshots of texts, and the command line run in this process."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from frontswap.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.metadata import EntryPoint

SNAPSHOTS = Path(__file__).parent / "snapshots"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="write tests/python/snapshots anew")


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    stdout: str
    stderr: str

    def as_text(self) -> str:
        return f"exit {self.status}\n--- stdout\n{self.stdout}--- stderr\n{self.stderr}"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the command line in this process, 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(words)
        output = capsys.readouterr()
        assert isinstance(exited.value.code, int)
        return Outcome(exited.value.code, output.out, output.err)

    return call


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the one that was reviewed; `--update-snapshots` writes it anew."""

    def compare(name: str, text: str) -> None:
        path = SNAPSHOTS / f"{name}.txt"
        if request.config.getoption("--update-snapshots"):
            path.write_text(text, "utf-8")
        assert text == path.read_text("utf-8"), f"differs from {path.name}; if it is right, use --update-snapshots"

    return compare


@pytest.fixture
def strangers_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide backends of other packages that happen to be installed here, but for those that tests make."""
    from importlib.metadata import entry_points

    from frontswap import plugins

    def ours(*, group: str) -> list[EntryPoint]:
        points = entry_points(group=group)
        return [
            point
            for point in points
            if point.dist and (point.dist.name == "frontswap" or point.dist.name.startswith("tapes"))
        ]

    monkeypatch.setattr(plugins, "entry_points", ours)


@pytest.fixture
def make_page() -> Callable[[int], bytes]:
    """Make a page that compresses to about a half and that no other number has."""

    def make(number: int) -> bytes:
        return random.Random(number).randbytes(2048) + number.to_bytes(8, "little") * 256

    return make
