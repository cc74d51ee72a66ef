"""What the documents say is so: links lead somewhere, commands exist, paths exist, and examples run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from tree import ROOT, files, name, read

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = files(".md")
ROOMS = ("crates", "python", "tests", "benchmarks", "examples", "docs", "fuzz", "tools")


@dataclass(frozen=True)
class Command:
    """A line after a prompt, and the first line that is shown of what it prints, if any is."""

    words: str
    first_line: str | None


def blocks(text: str, *languages: str) -> list[str]:
    """Return the fenced blocks of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def commands(block: str) -> list[Command]:
    """Return the commands of a block that shows a terminal."""
    lines = [*block.splitlines(), ""]
    return [
        Command(line[2:], None if after.startswith("$ ") or not after.strip() else after)
        for line, after in pairwise(lines)
        if line.startswith("$ ")
    ]


def links(text: str) -> list[str]:
    """Return the files that links lead to, as they are written; addresses are none."""
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]


def named_in_code(text: str, pattern: str) -> list[str]:
    """Return what matches in code, between backticks or in a block: in prose, words mean what they mean."""
    lines = "\n".join(blocks(text, "", "sh", "console")).splitlines()
    code = re.findall(r"`([^`\n]+)`", text) + lines
    return [found for words in code for found in re.findall(pattern, words)]


def run_here(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"  # noqa: PTH120  # A link stays a link.
    environment = os.environ | {"PATH": path, "COLUMNS": "80"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def check_shown(command: Command, result: subprocess.CompletedProcess[str]) -> None:
    """Compare the first line that is shown with the first of either stream."""
    firsts = [stream.splitlines()[0].rstrip() for stream in (result.stdout, result.stderr) if stream]
    assert command.first_line is None or command.first_line.rstrip() in firsts, f"{command.words}: {firsts}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_link_leads_to_a_file(path: Path) -> None:
    assert [target for target in links(read(path)) if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_path_in_code_exists(path: Path) -> None:
    paths = named_in_code(read(path), rf"^(?:\./)?((?:{'|'.join(ROOMS)})/[\w./-]*)$")
    # Files are also named from the document's own folder.
    assert [found for found in paths if not (ROOT / found).exists() and not (path.parent / found).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_make_command_is_a_target(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    assert set(named_in_code(read(path), r"^(?:\$ )?make ([a-z][a-z-]*)")) <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_the_python_of_a_document_runs(path: Path, tmp_path: Path) -> None:
    text = read(path)
    for chain in [block for block in blocks(text, "toml") if "[[backend]]" in block]:
        (tmp_path / "chain.toml").write_text(smaller(chain), "utf-8")
    (tmp_path / "document.py").write_text(smaller("\n".join(blocks(text, "python"))), "utf-8")
    result = run_here([sys.executable, "-W", "error", "document.py"], tmp_path)
    assert result.returncode == 0, result.stderr


def smaller(example: str) -> str:
    """Make a thousandth of the large sizes: disks of test machines are small, and the example says the same."""
    return example.replace("GiB", "MiB")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_the_commands_of_a_document_do_what_it_shows(path: Path, tmp_path: Path) -> None:
    shown = [command for block in blocks(read(path), "console") for command in commands(block)]
    for command in [command for command in shown if command.words.startswith("frontswap ")]:
        result = run_here(shlex.split(command.words), tmp_path)
        check_shown(command, result)
        is_error_shown = command.first_line is not None and "error:" in command.first_line
        assert result.returncode == 0 or is_error_shown, f"{command.words}: {result.stderr}"


def test_the_two_commands_of_the_readme() -> None:
    shown = "\n".join(blocks(read(ROOT / "README.md"), "", "sh", "console"))
    assert re.search(r"^(\$ )?make demo$", shown, re.MULTILINE)
    assert re.search(r"^(\$ )?make test$", shown, re.MULTILINE)


def test_every_target_is_described() -> None:
    text = read(ROOT / "Makefile")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony
    described = re.findall(r"^([a-z-]+):.* ## \w", text, re.MULTILINE)
    assert sorted(phony[1].split()) == sorted(described)


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    assert re.search(r"^## \[Unreleased\]\n\n### \w+\n\n- ", read(ROOT / "CHANGELOG.md"), re.MULTILINE)


def test_documents_are_read(tmp_path: Path) -> None:
    text = "[a](b.md#c), [d](https://github.com)\n```console\n$ frontswap x\nshown\n$ make y\n```\n`make z`\n"
    assert links(text) == ["b.md"]
    (block,) = blocks(text, "console")
    assert commands(block) == [Command("frontswap x", "shown"), Command("make y", None)]
    assert named_in_code(text, r"^(?:\$ )?make ([a-z]+)") == ["z", "y"]
    result = run_here([sys.executable, "-c", "print('another')"], tmp_path)
    with pytest.raises(AssertionError, match="another"):
        check_shown(Command("x", "shown"), result)
