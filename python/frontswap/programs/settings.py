"""What was asked for: how much RAM a program gets, and where its pages go then.

A setting can be written in three places, one stronger than the other: a TOML file, the environment, the command line.
Each place is a `Layer`. A layer that names the whole chain by `backend` replaces what weaker ones said of it; single
settings change a part. Within one layer both would say the same thing twice, and that is an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from frontswap import _frontswap
from frontswap.backends import check_capacity, check_ram_capacity
from frontswap.config import BackendSpec, read_toml
from frontswap.errors import FrontswapError, SizeInvalidError
from frontswap.machine import SWAP_PLACE
from frontswap.options import Options, Value, quoted, suggest, with_hint
from frontswap.units import both_readings, machine_memory, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RAM_BYTES_MIN = 32 * 1024 * 1024
"""The least RAM of a program. Memory leaves in pieces of 2 MiB; with some of those on their way, a reserve for what is
touched meanwhile, the pool's first spans and the tables, half of this is in use before the program has any."""

POOL_BYTES_MIN = 1024 * 1024
"""Less compressed RAM than this would be all beginnings of size classes."""

KEYS = ("ram", "swap", "swap_size", "pool_limit", "codec")
"""The single settings; `backend` is the chain as a whole."""

_PARTS_OF_CHAIN = KEYS[1:]


@dataclass(frozen=True, slots=True)
class Layer:
    """The settings of one place.

    Attributes:
        name: The place, for error texts.
        values: What it sets, by `KEYS`.
        backends: The chain that it names, if it does.

    Example:
        >>> Layer("the command line", {"ram": "512M"}).backends
        ()
    """

    name: str
    values: Mapping[str, Value] = field(default_factory=dict)
    backends: tuple[BackendSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Swap:
    """A swap file that was asked for.

    Attributes:
        place: Its directory.
        size_bytes: Its size; None leaves it to the free space.
        direct: Whether it goes past the page cache; None when that is left to the place.

    Example:
        >>> Swap().place
        '/var/tmp'
    """

    place: str = SWAP_PLACE
    size_bytes: int | None = None
    direct: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """All settings of one run.

    Attributes:
        ram_limit_bytes: RAM for the program and all that it starts, compressed pages included.
        pool_limit_bytes: The part of it that compressed pages may take at most; 0 leaves it to the pager.
        codec: As of `CompressedRam`.
        level: As of `CompressedRam`.
        incompressible: As of `CompressedRam`; empty leaves it to the pager.
        swap: The swap file; None for compressed RAM only.
        faults: What goes wrong with compressed RAM, for tests: the settings of `FaultInject`.

    Example:
        >>> print(RunSettings(ram_limit_bytes=2**29, swap=None).to_text())
        codec=auto
        level=1
        pool_limit_bytes=0
        swap=none
    """

    ram_limit_bytes: int
    pool_limit_bytes: int = 0
    codec: str = "auto"
    level: int = 1
    incompressible: str = ""
    swap: Swap | None = field(default_factory=Swap)
    faults: Mapping[str, float] = field(default_factory=dict)

    def to_text(self) -> str:
        """Return the settings as the library in the program reads them: one `key=value` a line.

        Example:
            >>> RunSettings(ram_limit_bytes=2**29).to_text().splitlines()[-1]
            'swap=file'
        """
        values = {
            "codec": self.codec,
            "level": self.level,
            "incompressible": self.incompressible,
            "pool_limit_bytes": self.pool_limit_bytes,
            "swap": "none" if self.swap is None else "file",
            **{f"inject_{key}": value for key, value in self.faults.items()},
        }
        return "\n".join(f"{key}={value}" for key, value in values.items() if value != "")


def resolve(layers: Sequence[Layer]) -> RunSettings | None:
    """Return what all places together ask for.

    Args:
        layers: The weakest first.

    Returns:
        The settings; None when no place says how much RAM there is, which has no default.

    Raises:
        FrontswapError: Something was written wrong.

    Example:
        >>> file = Layer("chain.toml", {"ram": "1GiB", "swap": "/disk"})
        >>> resolve([file, Layer("the command line", {"ram": "64MiB", "swap": "none"})]).swap is None
        True
    """
    ram = next((layer.values["ram"] for layer in reversed(layers) if "ram" in layer.values), None)
    settings = RunSettings(ram_limit_bytes=0 if ram is None else check_ram_limit(ram))
    for layer in layers:
        settings = _applied(settings, layer)
    if ram is None:
        return None
    if settings.pool_limit_bytes > settings.ram_limit_bytes:
        pool, whole = both_readings(settings.pool_limit_bytes), both_readings(settings.ram_limit_bytes)
        reason = f"{pool} is more than all the RAM that there is, {whole}"
        raise Options("run", {}).invalid("pool_limit", settings.pool_limit_bytes, reason)
    return settings


def check_ram_limit(ram: Value) -> int:
    """Return an amount of RAM in bytes, if a program can be run in it.

    Args:
        ram: Bytes, or text such as `512MiB` or `25%`.

    Raises:
        SizeInvalidError: It is not a size.
        RamLimitInvalidError: It is zero, below the least, or more than this machine or its control group has.

    Example:
        >>> check_ram_limit("64MiB")
        67108864
    """
    size = _size("ram", ram)
    memory = machine_memory()
    if size == 0:
        reason = f"no program runs without any; the least is {both_readings(RAM_BYTES_MIN)}"
    elif size < RAM_BYTES_MIN:
        reason = f"{both_readings(size)} is below the least, {both_readings(RAM_BYTES_MIN)}"
    elif size > memory:
        reason = f"{both_readings(size)} is more than this machine has, {both_readings(memory)}"
    else:
        return size
    raise _frontswap.make_error("ram-limit-invalid", ram=ram, reason=reason)


def read_layer(path: str) -> Layer:
    r"""Read the settings of a TOML file.

    Args:
        path: The file.

    Raises:
        ConfigInvalidError: It cannot be read, is not TOML, or has another shape.
        OptionUnknownError: It has a setting that does not exist.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "run.toml")
        ...     size = path.write_text('ram = "512MiB"\nswap = "none"\n')
        ...     read_layer(str(path)).values["swap"]
        'none'
    """
    backends, values = read_toml(path)
    options = Options(path, values)
    for key in KEYS:
        options.get(key, "")
    options.finish()
    return Layer(path, values, backends)


def _applied(settings: RunSettings, layer: Layer) -> RunSettings:
    """Return settings changed by a stronger layer."""
    twice = [key for key in _PARTS_OF_CHAIN if key in layer.values]
    if layer.backends:
        if twice:
            reason = f"{layer.name} names the whole chain by `backend`, which says it already"
            raise Options("run", {}).invalid(twice[0], layer.values[twice[0]], reason, "say it in one of both")
        return _with_chain(settings, layer.backends)
    options = Options("run", layer.values)
    changes: dict[str, Any] = {}
    if "codec" in layer.values:
        changes["codec"] = _codec(options.text("codec", "auto"))
    if "pool_limit" in layer.values:
        changes["pool_limit_bytes"] = _pool_limit(options, "pool_limit")
    if "swap" in layer.values or "swap_size" in layer.values:
        changes["swap"] = _swap(settings.swap, options, layer)
    return replace(settings, **changes)


def _swap(before: Swap | None, options: Options, layer: Layer) -> Swap | None:
    """Return the swap file after a layer that says something of it."""
    swap = before or Swap()
    if "swap" in layer.values:
        place = options.text("swap", SWAP_PLACE)
        if place == "none":
            if "swap_size" in layer.values:
                reason = "there is no swap file: `swap` is `none`"
                raise options.invalid("swap_size", layer.values["swap_size"], reason, "leave one of both out")
            return None
        if not place or "\0" in place:
            raise options.invalid("swap", ascii(place), "that is no path", "name a directory, or `none`")
        swap = Swap(place)
    if "swap_size" in layer.values:
        swap = replace(swap, size_bytes=_swap_size(swap.place, layer.values["swap_size"]))
    return swap


def _with_chain(settings: RunSettings, backends: tuple[BackendSpec, ...]) -> RunSettings:
    """Return settings with the chain that was named."""
    settings = RunSettings(ram_limit_bytes=settings.ram_limit_bytes, swap=None)
    seats: list[str] = []
    for spec in backends:
        inner, faults = _without_faults(spec)
        _check_seat(inner.kind, seats)
        seats.append(inner.kind)
        settings = (_with_pool if inner.kind == "zpool" else _with_file)(settings, inner)
        if faults and inner.kind != "zpool":
            raise _unfit(spec.kind, "in a whole program it wraps `zpool` only")
        settings = replace(settings, faults=faults or settings.faults)
    if seats[0] != "zpool":
        raise _unfit(seats[0], "the first backend is compressed RAM, where a page is found within microseconds")
    return settings


def _check_seat(kind: str, seats: Sequence[str]) -> None:
    """Complain about a backend that cannot be, or cannot be here."""
    if kind == "ram":
        raise _unfit(kind, "plain RAM would hold a page where it is already, in the program's RAM")
    if kind not in {"zpool", "file"}:
        from frontswap import plugins

        plugins.load(kind)
        raise _unfit(kind, "its code would run inside the program, and only `zpool` and `file` can")
    if kind in seats:
        raise _unfit(kind, "it is in the chain twice")


def _without_faults(spec: BackendSpec) -> tuple[BackendSpec, dict[str, float]]:
    """Return the backend inside a `fault_inject`, and what goes wrong with it."""
    if spec.kind != "fault_inject":
        return spec, {}
    options = Options(spec.kind, spec.options)
    kind, _, place = spec.place.partition(":")
    if not kind:
        raise options.invalid("place", spec.place, "it wraps another backend", "write `fault_inject:zpool`")
    faults: dict[str, float] = {
        "seed": options.integer("seed", 0),
        "delay_us": options.integer("delay_us", 0, most=60_000_000),
    }
    faults |= {key: options.probability(key) for key in ("reject", "store_error", "load_error", "corrupt")}
    return BackendSpec(kind, place, options.rest()), faults


def _with_pool(settings: RunSettings, spec: BackendSpec) -> RunSettings:
    options = Options(spec.kind, spec.options)
    if spec.place:
        raise options.invalid("place", spec.place, "it has none", "write `zpool,key=value`")
    settings = replace(
        settings,
        pool_limit_bytes=_pool_limit(options, "capacity") if "capacity" in spec.options else 0,
        codec=_codec(options.text("codec", "auto")),
        level=options.integer("level", 1, least=-7, most=22),
        incompressible=options.text(
            "incompressible", "", choices=("keep", "reject") if "incompressible" in spec.options else ()
        ),
    )
    options.get("capacity", 0)
    options.finish()
    return settings


def _with_file(settings: RunSettings, spec: BackendSpec) -> RunSettings:
    options = Options(spec.kind, spec.options)
    place = spec.place or SWAP_PLACE
    size = _swap_size(place, spec.options["size"]) if "size" in spec.options else None
    options.get("size", 0)
    direct = options.flag("direct", default=True) if "direct" in spec.options else None
    options.get("direct", default=True)
    options.finish()
    return replace(settings, swap=Swap(place, size, direct))


def _codec(name: str) -> str:
    if name not in _frontswap.CODECS:
        error = _frontswap.make_error("codec-unknown", codec=name, known=quoted(_frontswap.CODECS))
        raise with_hint(error, suggest(name, _frontswap.CODECS))
    return name


def _pool_limit(options: Options, key: str) -> int:
    """Return the most RAM that compressed pages may take."""
    size = check_ram_capacity("zpool", _size(key, options.get(key, 0)))
    if size < POOL_BYTES_MIN:
        reason = f"{both_readings(size)} is below the least, {both_readings(POOL_BYTES_MIN)}"
        raise options.invalid(key, options.get(key, 0), reason)
    return size


def _swap_size(place: str, value: Value) -> int:
    return check_capacity(f"file:{_shown(place)}", _size("swap_size", value))


def _size(key: str, value: Value) -> int:
    """Read a size; what is wrong names its setting."""
    if isinstance(value, float):
        reason = "a size is a whole number of bytes, or text with a unit"
        raise Options("run", {}).invalid(key, value, reason)
    try:
        return parse_size(value)
    except SizeInvalidError as error:
        error.add_note(f"this is `{key}`")
        raise


def _shown(place: str) -> str:
    return os.fsencode(place).decode("utf-8", "backslashreplace")


def _unfit(kind: str, reason: str) -> FrontswapError:
    return _frontswap.make_error("backend-unfit", backend=kind, reason=reason)
