"""Every public name has an example, and every example runs: in docstrings and in the documentation."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    "",
    "backends",
    "config",
    "errors",
    "frontswap",
    "options",
    "plugins",
    "stats",
    "units",
    "doctor",
    "machine",
    "programs.attach",
    "programs.executable",
    "programs.launch",
    "programs.report",
    "programs.settings",
    "programs.supervisor",
    "_docs",
    "cli",
]
PAGES = ["backends.md", "configuration.md", "errors.md"]


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module("frontswap" + (f".{name}" if name else "")) for name in MODULES]
    found = {test.name: test for module in modules for test in finder.find(module, module.__name__)}
    return [test for test in found.values() if test.examples]


@pytest.mark.parametrize("test", examples(), ids=lambda test: test.name)
def test_an_example_in_a_docstring_runs(test: doctest.DocTest) -> None:
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)


def public_names() -> list[tuple[str, Any]]:
    names: list[tuple[str, Any]] = []
    for name in MODULES[1:-2]:
        module = importlib.import_module(f"frontswap.{name}")
        for key, value in vars(module).items():
            is_ours = getattr(value, "__module__", "") == module.__name__
            if is_ours and not key.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
                names.append((f"{name}.{key}", value))
    return names


@pytest.mark.parametrize(("name", "value"), public_names(), ids=[name for name, _ in public_names()])
def test_a_public_name_is_documented_with_an_example(name: str, value: Any) -> None:
    assert value.__doc__, name
    is_row_of_the_table = name.startswith("errors.") and name.endswith("Error") and name != "errors.FrontswapError"
    if not is_row_of_the_table:
        assert ">>>" in value.__doc__, f"{name} has no example"


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)):
        # The swap file of the example is large: a smaller one says the same.
        Path("chain.toml" if number == 0 else f"chain{number}.toml").write_text(block.replace("4GiB", "16MiB"))
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    names: dict[str, Any] = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_the_backend_of_the_page_works() -> None:
    from frontswap import Frontswap

    text = (ROOT / "docs/backends.md").read_text("utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:3]:
        exec(compile(block, "backends.md", "exec"), names)
    with Frontswap([names["RowShelf"].from_spec("/here", {"rows": "10"})]) as fs:
        assert fs.backends[0].name == "rowshelf:/here"
        fs.init(0, 10)
        page, out = bytes(range(256)) * 16, bytearray(4096)
        assert fs.store(0, 3, page).backend == "rowshelf:/here"
        assert fs.load(0, 3, out)
        assert out == page
