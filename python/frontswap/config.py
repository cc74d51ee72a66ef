"""What a person writes about a chain: `--backend` on a command line, and a TOML file.

    KIND[:PLACE][,key=value...]         zpool,capacity=256MiB,codec=lz4
                                        file:/var/tmp,size=4GiB

`docs/configuration.md` shows a complete file. Reading checks the shape; each backend checks its own settings.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frontswap import _frontswap
from frontswap.errors import ClosedError, FrontswapError, reason_of
from frontswap.frontswap import PROMOTE_LIMIT, Frontswap
from frontswap.options import Options, Value, with_hint

if TYPE_CHECKING:
    import os

    from frontswap.backends import Backend

SPEC_HINT = "write `KIND[:PLACE][,key=value...]`, such as `zpool,capacity=256MiB` or `file:/var/tmp,size=4GiB`"


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One backend as it was written down.

    Attributes:
        kind: The word of `--backend`.
        place: Where it keeps pages; empty when it was not said.
        options: Its settings.

    Example:
        >>> with BackendSpec("ram", "", {"capacity": "1MiB"}).build() as backend:
        ...     backend.capacity
        1048576
    """

    kind: str
    place: str = ""
    options: dict[str, Value] = field(default_factory=dict)

    def build(self) -> Backend:
        """Create the backend.

        Raises:
            FrontswapError: No such backend, or a setting that is unknown or impossible.

        Example:
            >>> BackendSpec("ram", "", {"capacity": "1MiB"}).build().name
            'ram'
        """
        from frontswap import plugins

        cls = plugins.load(self.kind)
        try:
            return cls.from_spec(self.place, self.options)
        except FrontswapError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise _frontswap.make_error(
                "backend-failed", backend=self.kind, operation="from_spec", reason=reason
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConfig:
    """A chain as it was written down.

    Attributes:
        backends: Its backends, in order.
        writethrough: Every accepted page is also written to the slow swap.
        exclusive_loads: A load also forgets the page.
        demote_limit: Most bytes per second that go down the chain; None is without limit.
        promote_limit: Most bytes per second that come up the chain; None is without limit.

    Example:
        >>> spec = BackendSpec("ram", "", {"capacity": "1MiB"})
        >>> with ChainConfig(backends=(spec,)).build() as fs:
        ...     len(fs.backends)
        1
    """

    backends: tuple[BackendSpec, ...] = ()
    writethrough: bool = False
    exclusive_loads: bool = False
    demote_limit: int | str | None = None
    promote_limit: int | str | None = PROMOTE_LIMIT

    def build(self) -> Frontswap:
        """Create the backends and the chain; when one cannot be, those before it are closed again.

        Raises:
            FrontswapError: A backend cannot be created, or cannot be where it is.

        Example:
            >>> ChainConfig().build().curr_pages()
            0
        """
        backends: list[Backend] = []
        try:
            backends.extend(spec.build() for spec in self.backends)
            return Frontswap(
                backends,
                writethrough=self.writethrough,
                exclusive_loads=self.exclusive_loads,
                demote_limit=self.demote_limit,
                promote_limit=self.promote_limit,
            )
        except BaseException:
            for backend in backends:
                with contextlib.suppress(ClosedError):
                    backend.close()
            raise


def parse_backend(text: str) -> BackendSpec:
    """Read `KIND[:PLACE][,key=value...]`.

    Args:
        text: As on the command line.

    Raises:
        ConfigInvalidError: It has another shape.

    Example:
        >>> parse_backend("file:/var/tmp,size=4GiB")
        BackendSpec(kind='file', place='/var/tmp', options={'size': '4GiB'})
    """
    head, *settings = text.split(",")
    kind, _, place = head.partition(":")
    if not kind:
        raise _invalid(text, "it names no backend", SPEC_HINT)
    options: dict[str, Value] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise _invalid(text, f"`{setting}` is not `key=value`", SPEC_HINT)
        if key in options:
            raise _invalid(text, f"`{key}` is set twice", "remove one of them")
        options[key] = value
    return BackendSpec(kind, place, options)


def read_config(path: str | os.PathLike[str]) -> ChainConfig:
    r"""Read a chain from a TOML file.

    Args:
        path: The file.

    Raises:
        ConfigInvalidError: It cannot be read, is not TOML, or has another shape.
        OptionUnknownError: A chain setting that does not exist.
        OptionInvalidError: A chain setting with a value that it cannot have.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "chain.toml")
        ...     size = path.write_text('[[backend]]\nkind = "ram"\ncapacity = "1MiB"\n')
        ...     read_config(path).backends[0].kind
        'ram'
    """
    tables, document = read_toml(path)
    options = Options(str(Path(path)), document)
    config = ChainConfig(
        backends=tables,
        writethrough=options.flag("writethrough", default=False),
        exclusive_loads=options.flag("exclusive_loads", default=False),
        demote_limit=options.rate("demote_limit", None),
        promote_limit=options.rate("promote_limit", PROMOTE_LIMIT),
    )
    options.finish()
    return config


def read_toml(path: str | os.PathLike[str]) -> tuple[tuple[BackendSpec, ...], dict[str, Any]]:
    r"""Read a TOML file: the backends in it, and all its other settings.

    Args:
        path: The file.

    Raises:
        ConfigInvalidError: It cannot be read, is not TOML, or has another shape.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "run.toml")
        ...     size = path.write_text('ram = "1GiB"\n[[backend]]\nkind = "zpool"\n')
        ...     read_toml(path)
        ((BackendSpec(kind='zpool', place='', options={}),), {'ram': '1GiB'})
    """
    import tomllib

    path = Path(path)
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise _invalid(path, reason_of(error), errno=error.errno) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(path, str(error)[:1].lower() + str(error)[1:]) from error
    tables = document.pop("backend", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _invalid(path, "`backend` is not a list of tables", "write each backend under `[[backend]]`")
    return tuple(_read_backend(path, number, table) for number, table in enumerate(tables, start=1)), document


def _read_backend(path: Path, number: int, table: dict[str, Any]) -> BackendSpec:
    """Read one `[[backend]]` table."""
    hint = 'write `kind = "zpool"`; `frontswap backends` lists the kinds'
    match table:
        case {"kind": str(kind), **rest}:
            place = rest.pop("place", "")
        case _:
            raise _invalid(path, f"backend {number} has no `kind`", hint)
    if not isinstance(place, str):
        raise _invalid(path, f"`place` of backend {number} is not text", 'write `place = "/var/tmp"`')
    for key, value in rest.items():
        if not isinstance(value, str | int | float):
            raise _invalid(path, f"`{key}` of backend {number} is neither text nor a number nor true or false")
    return BackendSpec(kind, place, rest)


def _invalid(path: object, reason: str, hint: str | None = None, errno: int | None = None) -> FrontswapError:
    return with_hint(_frontswap.make_error("config-invalid", path=path, reason=reason, errno=errno), hint)
