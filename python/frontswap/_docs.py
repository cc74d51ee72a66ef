"""The parts of the documentation that are made from the code: the table of errors and the `--help` texts.

`python -m frontswap._docs docs/errors.md docs/cli.md` brings those files up to date. What is made stands between
`<!-- made: NAME -->` and `<!-- end -->`; everything else in a page is written by hand. A test holds them current.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from frontswap import _frontswap
from frontswap.errors import class_for

if TYPE_CHECKING:
    from collections.abc import Sequence

_MADE = re.compile(r"(?P<begin><!-- made: (?P<name>[\w -]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)

HELP_WIDTH = 100


def refresh(page: str) -> str:
    r"""Return a page of documentation with its made parts as they should be.

    Args:
        page: Markdown.

    Raises:
        KeyError: It asks for a part that nothing makes.

    Example:
        >>> page = "<!-- made: frontswap -->\n<!-- end -->"
        >>> "Usage: frontswap" in refresh(page)
        True
    """
    return _MADE.sub(lambda match: f"{match['begin']}\n{_make(match['name'])}\n{match['end']}", page)


def _make(name: str) -> str:
    """Return one made part."""
    if name == "errors":
        return _error_table()
    return _help_text(name)


def _error_table() -> str:
    """Return one section for each kind of error, in the table's order."""
    sections = []
    for code, builtin, template, hint in _frontswap.error_kinds():
        cls = class_for(code)
        sections.append(
            f"### `{code}`\n\n"
            f"{cls.__doc__}\n\n"
            f"- class: `{cls.__module__}.{cls.__name__}`, also a `{builtin}`\n"
            f"- message: {template}\n"
            f"- hint: {hint}\n"
        )
    return "\n".join(sections)


def _help_text(name: str) -> str:
    """Return what `frontswap ... --help` prints, as a block."""
    from frontswap.cli import cli

    command: click.Command = cli
    context = click.Context(cli, info_name="frontswap", terminal_width=HELP_WIDTH, **cli.context_settings)
    for word in name.split()[1:]:
        found = cli.get_command(context, word)
        if found is None:
            raise KeyError(name)
        command = found
        context = click.Context(command, info_name=word, parent=context)
    return f"```\n{command.get_help(context)}\n```\n"


def main(paths: Sequence[str]) -> None:
    """Bring pages up to date.

    Args:
        paths: Files with made parts.

    Example:
        >>> main([])
    """
    for path in map(Path, paths):
        path.write_text(refresh(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
