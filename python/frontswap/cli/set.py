"""`frontswap set`: another amount of RAM for a program that runs."""

from __future__ import annotations

import click

from frontswap.cli._output import print_note
from frontswap.cli._settings import setting


@click.command()
@click.argument("pid", type=click.IntRange(min=1))
@setting("--ram", required=True, metavar="SIZE", help="RAM for the program and all that it starts, from now on.")
def command(*, pid: int, ram: str) -> None:
    """Change the RAM of a program that `frontswap run` started.

    PID is that of `frontswap run`, or of any process in it. When there is less RAM than before, pages leave until the
    program keeps to it; nothing is lost.
    """
    from frontswap.programs.attach import attach
    from frontswap.programs.settings import check_ram_limit
    from frontswap.units import format_size

    limit_bytes = check_ram_limit(ram)
    tree = attach(pid)
    before_bytes = tree.ram_limit_bytes
    tree.ram_limit_bytes = limit_bytes
    print_note(f"process {pid} may use {format_size(limit_bytes)} of RAM now; it was {format_size(before_bytes)}")
