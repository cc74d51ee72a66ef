"""`frontswap run`: a program, and all that it starts, within an amount of RAM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from frontswap.cli import _output
from frontswap.cli._settings import setting
from frontswap.errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from frontswap.errors import FrontswapError
    from frontswap.programs.launch import Launch
    from frontswap.programs.settings import Layer, RunSettings
    from frontswap.programs.supervisor import Ended

NOT_STARTED = 125
"""The status when we failed before the program started, so that it is not taken for the program's own."""

STATUS_BY_CODE = {"program-not-found": 127, "program-not-executable": 126}
"""The statuses by which a shell says that there is no such program, or that it cannot be executed."""


class _RunCommand(click.Command):
    """A command whose failures have statuses of their own."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:  # noqa: ANN401
        try:
            return super().make_context(*args, **options)
        except click.ClickException as error:
            raise _output.NotStartedError(error, NOT_STARTED) from error

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, KeyboardInterrupt):
            raise
        except Exception as error:
            exit_code = STATUS_BY_CODE.get(getattr(error, "code", ""), NOT_STARTED)
            raise _output.NotStartedError(error, exit_code) from error


@click.command(cls=_RunCommand, context_settings={"allow_interspersed_args": False})
@setting("--ram", metavar="SIZE", help="RAM for the program and all that it starts. Needed.")
@setting(
    "--swap", metavar="DIR|none", help="Where the swap file is, or none: compressed RAM only.  [default: /var/tmp]"
)
@setting(
    "--swap-size",
    metavar="SIZE",
    help="Its size.  [default: sixteen times the RAM, or half of what is free there if that is less]",
)
@setting(
    "--backend",
    "backends",
    multiple=True,
    metavar="KIND[:PLACE][,KEY=VALUE...]",
    help="Name the whole chain instead: zpool, then perhaps file; may repeat.",
)
@setting("--pool-limit", metavar="SIZE", help="Most RAM, of the whole, that compressed pages take.")
@setting("--codec", metavar="NAME", help="How pages are compressed.  [default: auto]")
@setting("--config", metavar="FILE", help="A TOML file with these settings.")
@setting("--stats", metavar="FILE", help="Write the figures there as JSON when it ends.")
@setting("--force", is_flag=True, help="Overwrite that file if it is there.")
@setting("--best-effort", is_flag=True, help="Run the program unmanaged if it cannot be managed.")
@setting("--quiet", is_flag=True, help="Say nothing unless something fails.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="PROGRAM [ARGS]...")
@click.pass_context
def command(ctx: click.Context, /, *, words: tuple[str, ...], **given: Any) -> int:  # noqa: ANN401
    """Run a program within an amount of RAM.

    Pages that it does not use are compressed, and go to a swap file when that is not enough. The RAM is for the
    program and for everything that it starts. Our options end where the program's name begins.

    The status is the program's own, 128 + N after signal N; 125 when we failed before it started, 126 when it cannot
    be executed, 127 when there is none.
    """
    from frontswap.programs.launch import prepare
    from frontswap.programs.supervisor import Program, keep_streams_apart

    settings = _settings(ctx, given)
    figures = None if given["stats"] is None else _figures_file(given["stats"], is_forced=given["force"])
    keep_streams_apart()
    launch = prepare(words[0], settings, best_effort=given["best_effort"])
    if not given["quiet"]:
        for warning in launch.warnings:
            _output.print_warning(warning)
    program = Program(launch.path, words, launch.environment)
    ended = program.wait()
    try:
        _report(launch, words, ended, figures, is_quiet=given["quiet"], is_forced=given["force"])
    except Exception as error:  # noqa: BLE001 - the program has run: its status is what counts
        _output.print_bug(error)
    return ended.exit_status


def _settings(ctx: click.Context, given: Mapping[str, Any]) -> RunSettings:
    """Put together what the file, the environment and the command line say."""
    from frontswap.programs.settings import read_layer, resolve

    layers = [] if given["config"] is None else [read_layer(given["config"])]
    layers.append(_layer(ctx, given, "the environment", {ParameterSource.ENVIRONMENT}))
    layers.append(_layer(ctx, given, "the command line", {ParameterSource.COMMANDLINE}))
    settings = resolve(layers)
    if settings is None:
        message = "missing option `--ram`: there is no amount of RAM to keep to"
        raise _output.CommandError(message, "say how much the program may take, such as `--ram 512M` or `--ram 25%`")
    return settings


def _layer(ctx: click.Context, given: Mapping[str, Any], name: str, sources: set[ParameterSource]) -> Layer:
    """Return the settings that come from one place."""
    from frontswap.config import parse_backend
    from frontswap.programs.settings import KEYS, Layer

    values = {key: given[key] for key in KEYS if given[key] is not None and ctx.get_parameter_source(key) in sources}
    is_chain = ctx.get_parameter_source("backends") in sources
    backends = tuple(parse_backend(text) for text in given["backends"]) if is_chain else ()
    return Layer(name, values, backends)


def _figures_file(path: str, *, is_forced: bool) -> Path:
    """Return where the figures go, if they can go there; the file is made when there is something to write."""
    if path == "-":
        error = _stats_error(path, "stdout belongs to the program")
        error.hint = "name a file; with `3>figures.json` after the command, `--stats /dev/fd/3` is one"
        raise error
    # The program may be given another working directory; ours stays, but a message should say where.
    file = Path(path).absolute()
    if file.is_dir():
        raise _stats_error(path, "it is a directory")
    if file.exists():
        if file.is_file() and not is_forced:
            error = _stats_error(path, "it exists")
            error.hint = "`--force` overwrites it"
            raise error
        target = file
    else:
        target = file.parent
        if not target.is_dir():
            raise _stats_error(path, f"`{target}` is not a directory")
    if not os.access(target, os.W_OK, effective_ids=True):
        raise _stats_error(path, f"`{target}` cannot be written to")
    return file


def _report(
    launch: Launch, words: tuple[str, ...], ended: Ended, figures: Path | None, *, is_quiet: bool, is_forced: bool
) -> None:
    """Say what happened, and write the figures."""
    from frontswap.programs.report import document, summary, troubles

    totals = None
    if launch.tree is not None:
        # Who was killed could not say so itself.
        launch.tree.bury()
        totals = launch.tree.totals()
    if totals is not None and not is_quiet:
        if totals["processes"]:
            _output.print_note(summary(totals))
        for trouble in troubles(totals):
            _output.print_warning(trouble)
    if figures is not None:
        _write(figures, document(totals, words, ended, launch.swap), is_forced=is_forced)


def _write(figures: Path, content: dict[str, Any], *, is_forced: bool) -> None:
    """Write the figures; what goes wrong is said, and does not change the status."""
    import json

    is_new = not figures.exists()
    try:
        # A file that came into being meanwhile is somebody's: `x` leaves it alone.
        with figures.open("x" if is_new or (figures.is_file() and not is_forced) else "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        failed = _stats_error(str(figures), reason_of(error))
        _output.print_error(str(failed), failed.hint)


def _stats_error(path: str, reason: str) -> FrontswapError:
    from frontswap import _frontswap
    from frontswap.programs.executable import shown

    return _frontswap.make_error("stats-file", path=shown(path), reason=reason)
