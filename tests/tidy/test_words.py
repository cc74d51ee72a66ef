"""What no file here says: unfinished work, paths of one machine, addresses of registries, tests that are left out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tree import ROOT, files, name, read

if TYPE_CHECKING:
    from pathlib import Path

# The brackets keep the patterns from matching themselves.
UNFINISHED = re.compile(r"TOD[O]|FIXM[E]|\bXX[X]\b|\btodo[!]\(|\bunimplemented[!]\(")
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:work|root|home/\w+|tmp/lab)\b")
SKIP = re.compile(r"\bpytest[.]skip|\bmark[.](?:skip|xfail)|\bimport[o]rskip|#\[[i]gnore")
"""Each test runs on every machine that has what `tools/needs` asks for; one that could not would show nothing."""

HOSTS = {
    "docs.kernel.org",
    "github.com",
    "keepachangelog.com",
    "semver.org",
    "www.apache.org",
}
"""The hosts that addresses in our files may name."""

REGISTRY = re.compile(r"(?<![\w/+-])(?:pypi[.]org|crates[.]io|pythonhosted[.]org|debian[.]org)\b")


def text_files() -> list[Path]:
    return [path for path in files() if b"\0" not in path.read_bytes() and "regressions" not in path.parts]


def hosts(text: str) -> set[str]:
    return {host.rstrip(".") for host in re.findall(r"https?://([\w.-]+)", text)}


@pytest.mark.parametrize("path", text_files(), ids=name)
def test_a_file_says_nothing_unfinished_or_of_one_machine(path: Path) -> None:
    text = read(path)
    for pattern in (UNFINISHED, MACHINE_PATH, SKIP, REGISTRY):
        assert pattern.findall(text) == []
    assert hosts(text) <= HOSTS


def test_a_lock_file_names_the_standard_registry_only() -> None:
    for path in files(".lock"):
        sources = set(re.findall(r'^source = "(.*)"', read(path), re.MULTILINE))
        assert sources <= {"registry+https://github.com/rust-lang/crates.io-index"}, name(path)


def test_words_are_found() -> None:
    assert UNFINISHED.search(f"# {'todo'.upper()}: more")
    assert MACHINE_PATH.search(f"'/{'work'}/main'")
    assert not MACHINE_PATH.search("target/work, ./work and $HOME/work")
    assert SKIP.search(f"@pytest.mark.{'skipif'}(True)")
    assert SKIP.search(f"#[{'ignore'}]")
    assert REGISTRY.search(f"from {'pypi'}.org")
    assert hosts("see https://github.com:80/a and http://semver.org.") == {"github.com", "semver.org"}
    assert ROOT / "Makefile" in text_files()
