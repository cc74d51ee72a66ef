"""A file and a function fit into a reader's head: 800 and 70 lines at most."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest
from tree import files, name, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70

RUST_FUNCTION = re.compile(r"^( *)(?:pub(?:\([a-z]+\))? )?(?:const |unsafe |extern \"C\" )*fn (\w+)")


def rust_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield each function's name and lines. Formatted code closes a function in the column where it began."""
    lines = text.splitlines()
    for start, line in enumerate(lines):
        match = RUST_FUNCTION.match(line)
        if not match:
            continue
        last = re.compile(rf"^{match[1]}(?!\s|where|\)).*[}};]$")
        end = next(end for end in range(start, len(lines)) if last.match(lines[end]))
        yield match[2], end - start + 1


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield each function's name and lines, without its docstring, which is as long as it has to be."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            yield node.name, lines


@pytest.mark.parametrize("path", files(".rs", ".py", ".pyi"), ids=name)
def test_a_file_and_its_functions_are_short(path: Path) -> None:
    text = read(path)
    assert text.count("\n") <= FILE_LINES_MAX
    functions = rust_functions(text) if path.suffix == ".rs" else python_functions(text)
    assert [function for function in functions if function[1] > FUNCTION_LINES_MAX] == []


def test_lengths_are_counted() -> None:
    rust = "impl A {\n    fn one(&self) -> u8 { 1 }\n    pub fn three(\n    ) -> u8 {\n    }\n    fn none(&self);\n}\n"
    assert list(rust_functions(rust)) == [("one", 1), ("three", 3), ("none", 1)]
    python = 'class A:\n    def three(self):\n        """A docstring."""\n        a = 1\n        return a\n'
    assert list(python_functions(python)) == [("three", 3)]
