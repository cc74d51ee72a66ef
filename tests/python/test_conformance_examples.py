"""The programs and the package in `examples/` do what they say. The package's own tests are beside it.

`frontswap-shelf` must be installed, as a stranger's package would be; `make test` does that with
`pip install ./examples/frontswap-shelf`.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import frontswap_shelf
import pytest

from frontswap import CompressedRam, Frontswap, plugins
from frontswap.config import BackendSpec
from frontswap.errors import OptionUnknownError
from frontswap.testing import FrontswapMachine, run_machine, sample_pages
from frontswap.testing.checks import check_held, offer

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_test_class_of_the_example_has_four_lines() -> None:
    text = (EXAMPLES / "frontswap-shelf/tests/test_shelf.py").read_text("utf-8")
    assert len(text.partition("class ")[2].splitlines()) == 4


def test_the_entry_point_of_the_example_has_three_lines() -> None:
    text = (EXAMPLES / "frontswap-shelf/pyproject.toml").read_text("utf-8")
    assert text.partition("\n\n[project.entry-points")[2].strip().count("\n") == 1


def test_the_example_is_found_by_name() -> None:
    assert plugins.load("shelf") is frontswap_shelf.Shelf
    listed = {plugin.name: plugin for plugin in plugins.available()}["shelf"]
    assert (listed.package, listed.version, listed.state) == ("frontswap-shelf", version("frontswap-shelf"), "ready")


def test_the_example_is_built_from_words(tmp_path: Path) -> None:
    with BackendSpec("shelf", str(tmp_path), {}).build() as backend:
        assert backend.name == f"shelf:{tmp_path}"
        assert backend.slow
    with pytest.raises(OptionUnknownError):
        BackendSpec("shelf", str(tmp_path), {"colour": "red"}).build()


def test_the_example_is_a_slow_swap_and_leaves_nothing(tmp_path: Path) -> None:
    with Frontswap([CompressedRam("128KiB"), frontswap_shelf.Shelf(tmp_path)]) as fs:
        fs.init(0, pages=1000)
        held = {(0, offset): page for offset, page in enumerate(sample_pages(300)) if offer(fs, (0, offset), page)}
        assert len(held) == 300
        assert fs.stats().backends[1].stored_pages > 0
        check_held(fs, held)
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_chain_with_the_example_agrees_with_a_dictionary(tmp_path: Path) -> None:
    def make() -> Frontswap:
        return Frontswap([CompressedRam("64KiB"), frontswap_shelf.Shelf(tmp_path)])

    run_machine(lambda: FrontswapMachine(make, make_backend=lambda: CompressedRam("64KiB")))


def test_the_first_steps_run() -> None:
    command = [sys.executable, str(EXAMPLES / "quickstart.py")]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.stderr == ""
    assert outcome.returncode == 0
    assert outcome.stdout.splitlines() == [
        "page 17: accepted=True by zpool",
        "loaded: True, the same bytes: True",
        "after invalidate_page it loads: False",
        "512 of 512 accepted; file.stats().stored_pages > 0=True",
        "zpool.stats().mem_used_total <= 256 * 1024=True, fs.curr_pages()=512",
        "fs.shrink(target_pages=20) <= 20=True",
        "chain: ['ram', 'file:/var/tmp']",
        "all 512 pages came back, bit for bit; 513 loads",
    ]
