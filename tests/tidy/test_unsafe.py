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
    "crates/backends/tests/common/sharing.rs",
    # Stands in for the allocator of the C library.
    "crates/backends/tests/no_malloc.rs",
    "crates/python/src/lifetime.rs",
    "crates/pager/src/evict.rs",
    "crates/pager/src/fault.rs",
    "crates/pager/src/fork.rs",
    "crates/pager/src/growth.rs",
    "crates/pager/src/handler.rs",
    "crates/pager/src/pagemap.rs",
    "crates/pager/src/pager.rs",
    "crates/pager/src/signal.rs",
    "crates/pager/src/staging.rs",
    "crates/pager/src/threads.rs",
    "crates/pager/src/tree.rs",
    "crates/pager/src/uffd.rs",
    "crates/pager/tests/common/mod.rs",
    "crates/preload/src/calls.rs",
    "crates/preload/src/heap.rs",
    "crates/preload/src/lib.rs",
    "crates/preload/src/swap.rs",
    "crates/preload/src/watch.rs",
    "crates/python/src/heap.rs",
    "crates/python/src/numpy_memory.rs",
    "crates/python/src/space.rs",
    "crates/python/src/space_swap.rs",
    "benchmarks/native/src/touch/managed.rs",
}

REASON_LINES_MAX = 12
"""How far above a use its reason may begin."""


def uses(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the line of each `unsafe` in code."""
    for number, line in enumerate(text.splitlines()):
        code = re.sub(r"//.*|\"[^\"]*\"", "", line)
        # A function's exported name, and a function's type, make nothing happen.
        code = re.sub(r"#\[unsafe\(no_mangle\)\]|unsafe extern\s+fn\(", "", code)
        if re.search(r"\bunsafe\b", code):
            yield number, line


def unexplained(text: str) -> list[str]:
    """Return the uses that no `SAFETY:` comment or, for a function, `# Safety` section precedes."""
    lines = text.splitlines()
    missing = []
    for number, line in uses(text):
        # The promises of a function that a trait asks for are the trait's.
        is_function = re.search(r"\bunsafe (extern \"C\" )?fn\b", line)
        reasons = ("# Safety", "// SAFETY: ") if is_function else ("// SAFETY: ",)
        above = lines[max(0, number - REASON_LINES_MAX) : number]
        if not any(reason in text for reason in reasons for text in above):
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
    assert unexplained("// SAFETY: it is.\nunsafe { b() }\n" + 12 * "\n" + "unsafe fn c() {}") == ["unsafe fn c() {}"]


def test_nothing_is_kept_for_each_thread() -> None:
    """A chain may run on threads that the standard library does not know, and that have no memory of their own."""
    sources = [path for path in files(".rs") if re.match(r"crates/(frontswap|backends)/src/", name(path))]
    words = re.compile(r"thread_local!|thread::(current|park)")
    found = {name(path) for path in sources if words.search(re.sub(r"//.*", "", read(path)))}
    # Only where there is a thread of ours to be stopped.
    assert found == {"crates/frontswap/src/worker.rs"}
