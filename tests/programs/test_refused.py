"""What `frontswap run` cannot manage is refused before it starts, with the reason that docs/programs.md gives."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from table import PROGRAMS
from test_programs import FRONTSWAP

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT = Path(__file__).parents[2] / "docs/programs.md"

GREETING = 'int puts(const char *); int main(void) { puts("ran"); return 3; }\n'

# Without a C library of the other kind there is only a shell of a program, but it is one by its header.
BARE = "void _start(void) { for (;;); }\n"


def compile_c(code: str, path: Path, *options: str) -> Path:
    source = path.with_suffix(".c")
    source.write_text(code, "ascii")
    subprocess.run(["gcc", *options, "-o", path, source], check=True)
    return path


def static(folder: Path) -> Path:
    return compile_c(GREETING, folder / "static", "-static")


def musl(folder: Path) -> Path:
    """Make what is linked as with musl; the loader that it names is ours, by a link of that name."""
    loader = folder / "ld-musl-x86_64.so.1"
    loader.symlink_to("/lib64/ld-linux-x86-64.so.2")
    return compile_c(GREETING, folder / "musl", f"-Wl,--dynamic-linker={loader}")


def of_32_bits(folder: Path) -> Path:
    return compile_c(BARE, folder / "small", "-m32", "-nostdlib", "-static")


def setuid(folder: Path) -> Path:
    program = compile_c(GREETING, folder / "setuid")
    shutil.chown(program, "nobody")
    program.chmod(0o4755)
    return program


@dataclass(frozen=True)
class Refused:
    """A kind of program: its row in the document, how one is made, and a word of the refusal."""

    kind: str
    make: Callable[[Path], Path]
    word: str


KINDS = (
    Refused("static", static, "statically linked"),
    Refused("musl", musl, "musl"),
    Refused("32-bit", of_32_bits, "32-bit"),
    Refused("setuid", setuid, "setuid"),
)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FRONTSWAP, "run", "--ram", "256M", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("refused", KINDS, ids=lambda refused: refused.kind)
def test_it_is_refused_with_the_reason(refused: Refused, tmp_path: Path) -> None:
    program = refused.make(tmp_path)
    result = run("--", program)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith("frontswap: error: ")
    assert str(program) in result.stderr
    assert refused.word in result.stderr
    assert "hint: " in result.stderr


def test_best_effort_runs_it_as_it_is(tmp_path: Path) -> None:
    result = run("--best-effort", "--", static(tmp_path))
    assert (result.returncode, result.stdout) == (3, "ran\n")
    assert "statically linked" in result.stderr


def test_what_can_be_managed_is_not_refused(tmp_path: Path) -> None:
    result = run("--", compile_c(GREETING, tmp_path / "dynamic"))
    assert (result.returncode, result.stdout) == (3, "ran\n")


def rows(heading: str) -> list[str]:
    """Return the first cells of the table below a heading of the document."""
    text = DOCUMENT.read_text("utf-8")
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, heading
    return re.findall(r"^\| ([^|]+?) \|", section[1], re.MULTILINE)[1:]  # Without the heading.


def test_the_document_names_what_is_tested() -> None:
    names = [program.name for program in PROGRAMS]
    assert rows("Programs that are tested") == names
    assert {refused.kind for refused in KINDS} <= {row.split(",")[0] for row in rows("Programs that are refused")}
