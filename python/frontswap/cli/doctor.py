"""`frontswap doctor`: what this machine allows, and the one command that allows more."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from frontswap.cli._output import print_error, print_json, print_line
from frontswap.cli._settings import json_setting, setting

if TYPE_CHECKING:
    from frontswap.doctor import Check

SCHEMA = "frontswap.doctor/1"

NAME_COLUMNS = 24
WIDTH_MAX = 100

WORDS = {True: "ok", False: "not", None: "-"}
"""The first column; what is only worth knowing has a dash."""


@click.command()
@setting("--swap", default="/var/tmp", metavar="DIR", help="The place for swap files to look at.")  # noqa: S108
@json_setting
def command(*, swap: str, as_json: bool) -> int:
    """Say what this machine allows, and how to get more.

    Ends with 0 when whole programs can be run here, and with 1 when not, with the reason.
    """
    from frontswap.doctor import checks, verdict

    found = checks(swap)
    obstacle = verdict(found)
    if as_json:
        reason = None if obstacle is None else f"{obstacle.name}: {obstacle.value}"
        rows = [asdict(check) for check in found]
        print_json({"schema": SCHEMA, "can_run_programs": obstacle is None, "reason": reason, "checks": rows})
        return 0 if obstacle is None else 1
    width = min(shutil.get_terminal_size().columns, WIDTH_MAX)
    for check in found:
        print_line(_shown(check, width))
    print_line()
    if obstacle is None:
        print_line("whole programs can be run: `frontswap run --ram 512M -- PROGRAM ARGS...`")
        return 0
    print_error(f"cannot run whole programs here: {obstacle.name}: {obstacle.value}", obstacle.hint)
    return 1


def _shown(check: Check, width: int) -> str:
    """Return a check as lines of a table."""
    indent = " " * (5 + NAME_COLUMNS + 1)
    name = check.name if len(check.name) <= NAME_COLUMNS else f"{check.name}\n{indent[:-1]}"
    head = f"{WORDS[check.is_ok]:<5}{name:<{NAME_COLUMNS}} "
    text = f"{check.value}; {check.hint}" if check.hint else check.value
    lines = textwrap.wrap(text, max(20, width - len(indent)), break_long_words=False, break_on_hyphens=False)
    return head + f"\n{indent}".join(lines or [""])
