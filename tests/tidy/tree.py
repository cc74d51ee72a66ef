"""The files of this repository, as the tidy tests read them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """List the files that are in the repository or would be added to it, with one of these suffixes or all."""
    words = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = (ROOT / name for name in sorted(set(names)) if name)
    return tuple(path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes))


def read(path: Path) -> str:
    return path.read_text("utf-8")


def name(path: Path) -> str:
    """Return the path as a reader of the repository knows it."""
    return path.relative_to(ROOT).as_posix()
