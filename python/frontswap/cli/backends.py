"""`frontswap backends`: what is installed, and whether it works."""

from __future__ import annotations

from dataclasses import asdict

import click

from frontswap.cli._output import print_json, print_table
from frontswap.cli._settings import json_setting

SCHEMA = "frontswap.backends/1"


@click.command()
@json_setting
def command(*, as_json: bool) -> None:
    """List the backends of all installed packages.

    The state is `ready`, or says why a backend cannot be used.
    """
    from frontswap import plugins

    found = plugins.available()
    if as_json:
        rows = [{**asdict(plugin), "is_ready": plugin.why_not is None} for plugin in found]
        print_json({"schema": SCHEMA, "backends": rows})
    else:
        cells = [(plugin.name, plugin.package, plugin.version, plugin.state) for plugin in found]
        print_table(("name", "package", "version", "state"), cells, left=4)
