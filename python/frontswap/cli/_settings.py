"""The options that commands share, above all those that describe a chain.

One name for a setting in four places: `--demote-limit`, `FRONTSWAP_DEMOTE_LIMIT`, `demote_limit` in TOML and
`demote_limit=` in Python. What is given on the command line wins over the environment, and that over the file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from frontswap.config import ChainConfig

_Function = TypeVar("_Function", bound="Callable[..., Any]")


def setting(flag: str, *names: str, **attributes: Any) -> Callable[[_Function], _Function]:  # noqa: ANN401
    """Return a click option that can also be set in the environment, under its own name.

    Args:
        flag: `--demote-limit`, say, which is `FRONTSWAP_DEMOTE_LIMIT` there.
        names: The name of the function's argument, where it is another.
        attributes: As click has them.
    """
    variable = "FRONTSWAP_" + flag.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    return click.option(flag, *names, envvar=variable, show_envvar=True, show_default=True, **attributes)


json_setting = setting("--json", "as_json", is_flag=True, help="Print JSON.")

_CHAIN_SETTINGS = (
    setting(
        "--backend",
        "backends",
        multiple=True,
        metavar="KIND[:PLACE][,KEY=VALUE...]",
        help="A backend of the chain; may repeat, and the order is the chain's.",
    ),
    setting("--config", metavar="FILE", help="A TOML file that describes the chain."),
    setting("--writethrough/--no-writethrough", default=None, help="Also write every accepted page to the slow swap."),
    setting("--exclusive-loads/--no-exclusive-loads", default=None, help="Forget a page when it is loaded."),
    setting(
        "--demote-limit", metavar="SIZE", help="Most bytes per second that go down the chain; `none` is without limit."
    ),
    setting(
        "--promote-limit", metavar="SIZE", help="Most bytes per second that come up the chain; `none` is without limit."
    ),
)


def chain_options(function: _Function) -> _Function:
    """Give a command the options of a chain."""
    for option in reversed(_CHAIN_SETTINGS):
        function = option(function)
    return function


def chain_config(
    *,
    backends: tuple[str, ...],
    config: str | None,
    writethrough: bool | None,
    exclusive_loads: bool | None,
    demote_limit: str | None,
    promote_limit: str | None,
) -> ChainConfig:
    """Return the chain that was asked for; without backends when none were named.

    Raises:
        FrontswapError: Something was written wrong.
    """
    from frontswap.config import ChainConfig, parse_backend, read_config
    from frontswap.options import Options

    limits = {"demote_limit": demote_limit, "promote_limit": promote_limit}
    given = {key: value for key, value in limits.items() if value is not None}
    options = Options("the chain", given)
    changes: dict[str, Any] = {key: options.rate(key, None) for key in given}
    if backends:
        changes["backends"] = tuple(parse_backend(text) for text in backends)
    if writethrough is not None:
        changes["writethrough"] = writethrough
    if exclusive_loads is not None:
        changes["exclusive_loads"] = exclusive_loads
    return replace(ChainConfig() if config is None else read_config(config), **changes)
