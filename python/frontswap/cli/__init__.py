"""The command line: `frontswap`. One file per subcommand; this one finds them and turns errors into words.

Results go to stdout, progress and messages to stderr with the prefix `frontswap:`. Exit codes: 0 done, 1 failed
and the user can act, 2 wrong usage, 70 our bug, 130 interrupted. `run` has the program's own.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from frontswap._frontswap import __version__
from frontswap.cli import _output
from frontswap.errors import FrontswapError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "backends": "List the backends of all installed packages.",
    "check": "Pass real data through a chain and compare every byte.",
    "codecs": "Show what each codec would make of this data, page by page.",
    "doctor": "Say what this machine allows, and how to get more.",
    "run": "Run a program within an amount of RAM.",
    "set": "Change the RAM of a program that `frontswap run` started.",
    "stats": "Show what a program that `frontswap run` started holds where.",
}
"""Each subcommand with the first sentence of its help, so that `frontswap --help` need not import them all."""

USAGE_CODES = frozenset(
    {
        "backend-unfit",
        "backend-unknown",
        "capacity-invalid",
        "chain-limit",
        "chain-order",
        "codec-unknown",
        "config-invalid",
        "option-invalid",
        "option-unknown",
        "ram-limit-invalid",
        "size-invalid",
        "volatile-needs-writethrough",
        "writethrough-needs-slow",
    }
)
"""Kinds of error that say that something was written wrong, and so exit with 2."""


class _LazyGroup(click.Group):
    """A group that imports a subcommand's file when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"frontswap.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from frontswap.options import quoted, suggest

            message = f"no command named `{args[0]}`; known: {quoted(COMMANDS)}"
            raise _output.CommandError(message, suggest(args[0], COMMANDS) or _help_hint(ctx), exit_code=2)
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="frontswap", message="%(prog)s %(version)s")
def cli() -> None:
    """Swap to RAM in user space.

    A page goes into compressed RAM or a swap file and comes back, bit for bit.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status.

    Args:
        args: The words after `frontswap`; those of this process when None.

    Example:
        >>> try:
        ...     main(["--version"])
        ... except SystemExit as exit:
        ...     print(exit.code)  # doctest: +ELLIPSIS
        frontswap ...
        0
    """
    sys.exit(_run(args))


def _run(args: Sequence[str] | None) -> int:
    """Run the command line; return its status."""
    try:
        words = sys.argv[1:] if args is None else args
        _output.open_streams(is_stdout_needed=list(words[:1]) != ["run"])
        status = cli.main(args, prog_name="frontswap", standalone_mode=False)
        with _output.to_stdout():
            sys.stdout.flush()
    except _output.NotStartedError as error:
        _report(error.reason)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last resort: a bug of ours must not look like the user's fault
        return _report(error)
    return status if isinstance(status, int) else 0


def _report(error: Exception) -> int:
    """Say what went wrong; return the exit status."""
    match error:
        case click.Abort():
            _output.print_note("interrupted; nothing is left behind")
            return 130
        case click.ClickException():
            _report_usage(error)
            return error.exit_code
        case _output.CommandError():
            _output.print_error(str(error), error.hint)
            return error.exit_code
        case FrontswapError() if error.code != "internal":
            _output.print_error(str(error), error.hint, getattr(error, "__notes__", ()))
            return 2 if error.code in USAGE_CODES else 1
        case BrokenPipeError():
            _output.abandon_stdout()
            return 1
        case _:
            _output.print_bug(error)
            return 70


def _report_usage(error: click.ClickException) -> None:
    """Say in our words what click found wrong; a command without any words gets its help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return
    possibilities = getattr(error, "possibilities", None)
    hint = f"did you mean `{min(possibilities)}`?" if possibilities else _help_hint(getattr(error, "ctx", None))
    text = (error.message if possibilities else error.format_message()).strip().removesuffix(".")
    _output.print_error(text[:1].lower() + text[1:].replace("'", "`"), hint)


def _help_hint(ctx: click.Context | None) -> str:
    return f"`{ctx.command_path if ctx else 'frontswap'} --help` shows what it takes"
