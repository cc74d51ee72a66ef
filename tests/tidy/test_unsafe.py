"""`unsafe` is in the files on this list, each use says why it is sound, and the core has none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tree import ROOT, files, name, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALLOWED = {
    "crates/backends/src/arena.rs",
    "crates/backends/src/objects.rs",
    "crates/backends/src/ram.rs",
    "crates/backends/src/zpool.rs",
    # Only a child of fork can tell what a child of fork sees.
    "crates/backends/tests/fork.rs",
    "crates/python/src/lifetime.rs",
}

REASON_LINES_MAX = 12
"""How far above a use its reason may begin."""


def uses(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the line of each `unsafe` in code."""
    for number, line in enumerate(text.splitlines()):
        if re.search(r"\bunsafe\b", re.sub(r"//.*|\"[^\"]*\"", "", line)):
            yield number, line


def unexplained(text: str) -> list[str]:
    """Return the uses that no `SAFETY:` comment or, for a function, `# Safety` section precedes."""
    lines = text.splitlines()
    missing = []
    for number, line in uses(text):
        reason = "# Safety" if re.search(r"\bunsafe fn\b", line) else "// SAFETY: "
        if not any(reason in above for above in lines[max(0, number - REASON_LINES_MAX) : number]):
            missing.append(line)
    return missing


def test_unsafe_is_where_it_may_be_and_nowhere_else() -> None:
    found = {name(path) for path in files(".rs") if list(uses(read(path)))}
    assert found == ALLOWED


@pytest.mark.parametrize("path", [ROOT / path for path in sorted(ALLOWED)], ids=name)
def test_every_use_says_why_it_is_sound(path: Path) -> None:
    assert unexplained(read(path)) == []


def test_the_core_forbids_it() -> None:
    assert "#![forbid(unsafe_code)]" in read(ROOT / "crates/frontswap/src/lib.rs")


def test_uses_are_seen() -> None:
    assert list(uses("// unsafe\nlet a = unsafe { b() };\n")) == [(1, "let a = unsafe { b() };")]
    assert unexplained("unsafe { b() }\n") == ["unsafe { b() }"]
    assert unexplained("// SAFETY: it is.\nunsafe { b() }\nunsafe fn c() {}") == ["unsafe fn c() {}"]
