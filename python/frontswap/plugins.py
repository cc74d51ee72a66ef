"""Backends of installed packages, ours included, found by the entry points `frontswap.backends`.

Finding reads metadata only; a package's code is imported when its backend is first used, or listed with its
state. Two packages that claim one name are an error that names both: none replaces the other in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from frontswap import _frontswap
from frontswap.backends import API_VERSION, Backend
from frontswap.options import quoted, suggest, with_hint

if TYPE_CHECKING:
    from frontswap.errors import FrontswapError

GROUP = "frontswap.backends"


@dataclass(frozen=True, slots=True)
class Plugin:
    """One backend that an installed package offers.

    Attributes:
        name: The word of `--backend`.
        package: The package that offers it.
        version: That package's version.
        why_not: Why it cannot be used; None when it can.

    Example:
        >>> Plugin("tape", "tapes", "1.0", why_not="no tape drive").state
        'no tape drive'
    """

    name: str
    package: str
    version: str
    why_not: str | None

    @property
    def state(self) -> str:
        """`ready`, or why not."""
        return "ready" if self.why_not is None else self.why_not


def available() -> list[Plugin]:
    """Return every backend of every installed package, by name, with its state.

    The packages' code is imported to tell the state; what goes wrong there is part of the answer.

    Example:
        >>> [plugin.state for plugin in available() if plugin.name == "zpool"]
        ['ready']
    """
    points = entry_points(group=GROUP)
    plugins = []
    for point in sorted(points, key=lambda point: (point.name, _package(point))):
        others = [_package(other) for other in points if other.name == point.name and other != point]
        why_not = f"clash: {quoted(others)} offers that name too" if others else _problem(point)
        package, version = _package(point).rsplit(" ", 1)
        plugins.append(Plugin(point.name, package, version, why_not))
    return plugins


def load(kind: str) -> type[Backend]:
    """Import the backend of that name.

    Args:
        kind: The word of `--backend`.

    Raises:
        BackendUnknownError: No package offers it; the text names those that are offered.
        PluginClashError: Two packages offer it.
        PluginInvalidError: It cannot be imported, or does not fit this version of frontswap.

    Example:
        >>> load("zpool").__name__
        'CompressedRam'
    """
    points = entry_points(group=GROUP)
    found = [point for point in points if point.name == kind]
    if not found:
        raise _unknown(kind, {point.name for point in points})
    if len(found) > 1:
        packages = quoted(_package(point) for point in found)
        raise _frontswap.make_error("plugin-clash", backend=kind, packages=packages)
    reason = _problem(found[0])
    if reason is not None:
        package = _package(found[0])
        raise _frontswap.make_error("plugin-invalid", backend=kind, package=package, reason=reason)
    return cast("type[Backend]", found[0].load())


def _problem(point: EntryPoint) -> str | None:
    """Return why this backend cannot be used, or None when it can."""
    try:
        cls = point.load()
    except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything while it is imported
        return f"{type(error).__name__}: {error}"
    if not isinstance(cls, type) or not issubclass(cls, Backend):
        return f"`{point.value}` is not a subclass of `frontswap.Backend`"
    if cls.api_version != API_VERSION:
        return f"it is for version {cls.api_version} of the contract, and this is version {API_VERSION}"
    if cls.kind != point.name:
        return f"its `kind` is `{cls.kind}`"
    missing: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
    return f"it lacks {quoted(missing)}" if missing else None


def _unknown(kind: str, known: set[str]) -> FrontswapError:
    """Build the error for a backend that nobody offers, with the nearest word that somebody does."""
    error = _frontswap.make_error("backend-unknown", backend=kind, known=quoted(known))
    codec = "codec: `--backend zpool,codec={codec}`"
    if kind in _frontswap.CODECS:
        return with_hint(error, f"`{kind}` is a {codec.format(codec=kind)}")
    hint = suggest(kind, known)
    if hint is None and (hint := suggest(kind, _frontswap.CODECS)) is not None:
        hint += f" That is a {codec.format(codec=hint.split('`')[1])}"
    return with_hint(error, hint)


def _package(point: EntryPoint) -> str:
    """Return the package and its version, `frontswap 0.1.0`."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown 0"
