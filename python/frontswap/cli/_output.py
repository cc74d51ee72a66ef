"""How the command line speaks: errors, notes, progress, tables and JSON.

Data goes to stdout and nothing else does. There is colour only on a terminal, and none with `NO_COLOR`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from frontswap.errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PROGRESS_INTERVAL_S = 5.0
"""Seconds between two lines of progress where there is no terminal to overwrite one on."""

PLAIN_WIDTH = 500
"""Columns of a table that goes to a file or a pipe: wide enough never to cut a word."""


class CommandError(Exception):
    """Something that a command cannot do, in the words of the command line.

    Args:
        message: What failed, which object, and why.
        hint: One thing to do about it.
        exit_code: 1 when it failed, 2 when it was asked for wrongly.
    """

    def __init__(self, message: str, hint: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code


class NotStartedError(Exception):
    """The program of `frontswap run` could not be started.

    Args:
        reason: Why.
        exit_code: What we end with.
    """

    def __init__(self, reason: Exception, exit_code: int) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.exit_code = exit_code


class Progress:
    """What a long command says on stderr while it works.

    On a terminal one line is overwritten, and gone at the end; elsewhere a line is printed now and then.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._printed_at_s = time.monotonic()
        self._is_shown = False

    def update(self, text: str) -> None:
        """Say where the work is."""
        if self._is_terminal:
            click.echo(f"\r\x1b[Kfrontswap: {text}", err=True, nl=False)
            self._is_shown = True
        elif time.monotonic() - self._printed_at_s >= PROGRESS_INTERVAL_S:
            self.note(text)

    def note(self, text: str) -> None:
        """Say something that stays."""
        self.clear()
        print_note(text)
        self._printed_at_s = time.monotonic()

    def clear(self) -> None:
        """Remove the line that is overwritten."""
        if self._is_shown:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


def print_note(text: str) -> None:
    """Print a message that is not data."""
    click.echo(f"frontswap: {text}", err=True)


def print_warning(text: str) -> None:
    """Print a message about something that is not as it should be, and goes on."""
    label = click.style("warning:", fg="yellow", bold=True) if _is_coloured() else "warning:"
    click.echo(f"frontswap: {label} {text}", err=True)


def print_error(message: str, hint: str, notes: Iterable[str] = ()) -> None:
    """Print an error: what failed, then one thing to do about it."""
    label = click.style("error:", fg="red", bold=True) if _is_coloured() else "error:"
    click.echo(f"frontswap: {label} {message}", err=True)
    for note in notes:
        click.echo(f"  {note}", err=True)
    if hint:
        click.echo(f"\nhint: {hint}", err=True)


def print_bug(error: Exception) -> None:
    """Print an error that is our fault, with all that is needed to report it."""
    import traceback

    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    print_error(
        f"internal error: {type(error).__name__}: {error}",
        "this is a bug in frontswap: please report it with the lines above",
    )


def open_streams(*, is_stdout_needed: bool) -> None:
    """See to it that there are both streams: whoever starts us may have closed them.

    Args:
        is_stdout_needed: There is a result to print.

    Raises:
        CommandError: There is no stdout, and it is needed.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        if not is_stdout_needed:
            return
        message = "cannot write the result: stdout is closed"
        raise CommandError(message, "send it somewhere, also to `/dev/null`")


@contextlib.contextmanager
def to_stdout() -> Iterator[None]:
    """Say in our words that stdout takes no more: its disk is full, say.

    Raises:
        CommandError: It takes no more.
        BrokenPipeError: Its reader went away, which is no fault.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_stdout()
        message = f"cannot write the result to stdout: {reason_of(error)}"
        raise CommandError(message, "free some space there, or send it elsewhere") from error


def print_line(text: str = "") -> None:
    """Print one line of a result for people."""
    with to_stdout():
        click.echo(text)


def print_json(document: dict[str, Any]) -> None:
    """Print a result for programs."""
    import json

    print_line(json.dumps(document, indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, title: str = "") -> None:
    """Print a result for people.

    Args:
        headings: One for each column.
        rows: The cells, as text.
        left: So many columns are words and stand left; the others are numbers and stand right.
        title: A line above.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(Text(heading), justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    with to_stdout():
        if title:
            console.print(Text(title, style="bold"))
        console.print(table)


def abandon_stdout() -> None:
    """Forget what stdout has not written, after its reader went away."""
    # Python flushes stdout once more at exit and would complain there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_coloured() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
