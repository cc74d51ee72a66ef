"""What the tests of real programs share: options, the inputs that are made once, and the table at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inputs import INPUTS
from report import HEADINGS, as_document, as_markdown, in_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from report import Row

ROWS = pytest.StashKey[list["Row"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("programs")
    group.addoption("--programs-json", type=Path, metavar="FILE", help="write the results as JSON")
    group.addoption("--programs-markdown", type=Path, metavar="FILE", help="write the results as a Markdown table")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: not in the quick half that `make test` runs")
    config.stash[ROWS] = []


@pytest.fixture
def rows(pytestconfig: pytest.Config) -> list[Row]:
    """Give the list that the table at the end is made of."""
    return pytestconfig.stash[ROWS]


@pytest.fixture(scope="session")
def made_input(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a function that makes an input by its name, once."""
    folder = tmp_path_factory.mktemp("inputs")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists():
            INPUTS[name](path)
        return path

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.section("programs, plain and under `frontswap run`")
    for line in in_columns([HEADINGS, *(row.cells() for row in rows)]):
        terminalreporter.write_line(line)
    for option, write in (("programs_json", _write_json), ("programs_markdown", _write_markdown)):
        path = config.getoption(option)
        if path:
            write(path, rows)
            terminalreporter.write_line(f"written: {path}")


def _write_json(path: Path, rows: list[Row]) -> None:
    path.write_text(json.dumps(as_document(rows), indent=2) + "\n", "utf-8")


def _write_markdown(path: Path, rows: list[Row]) -> None:
    path.write_text(as_markdown(rows), "utf-8")
