"""The settings of one backend or chain, as they come from a command line or a TOML file.

A reader asks for the settings that it knows, each with its default; what nobody asked for is an error that
names the known ones. So the code that uses a setting is the only list of settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from frontswap import _frontswap
from frontswap.errors import SizeInvalidError
from frontswap.units import SIZE_BYTES_MAX, parse_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from frontswap.errors import FrontswapError

Value = str | int | float | bool

_FLAGS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


class Options:
    """A reader of settings.

    Args:
        owner: Whose settings these are, for error texts: a kind of backend, or a file.
        values: Setting by key; text, or a value as TOML has it.

    Example:
        >>> options = Options("zpool", {"capacity": "1MiB"})
        >>> options.size("capacity", "25%"), options.text("codec", "auto")
        (1048576, 'auto')
        >>> options.finish()
    """

    def __init__(self, owner: str, values: Mapping[str, Value]) -> None:
        self._owner = owner
        self._values = dict(values)
        self._known: list[str] = []

    def get(self, key: str, default: Value) -> Value:
        """Return the value of `key` as it was given, or `default`.

        Args:
            key: The setting's name; it becomes a known one.
            default: What holds when it was not given.

        Example:
            >>> Options("ram", {}).get("capacity", "25%")
            '25%'
        """
        if key not in self._known:
            self._known.append(key)
        return self._values.get(key, default)

    def text(self, key: str, default: str, choices: Collection[str] = ()) -> str:
        """Return a setting that is a word, one of `choices` if there are any.

        Args:
            key: The setting's name.
            default: What holds when it was not given.
            choices: The words it can be.

        Raises:
            OptionInvalidError: It is not text, or none of the choices.

        Example:
            >>> Options("zpool", {"incompressible": "keep"}).text("incompressible", "keep", ["keep", "reject"])
            'keep'
        """
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.invalid(key, value, "it is not text")
        if choices and value not in choices:
            raise self.invalid(key, value, f"known: {quoted(choices)}", suggest(value, choices))
        return value

    def size(self, key: str, default: int | str) -> int:
        """Return a setting that is a size, in bytes.

        Args:
            key: The setting's name.
            default: What holds when it was not given; anything that `parse_size` reads.

        Raises:
            SizeInvalidError: It is not a size.

        Example:
            >>> Options("file", {"size": "4KiB"}).size("size", "1GiB")
            4096
        """
        value = self.get(key, default)
        if isinstance(value, float):
            raise self.invalid(key, value, "a size is a whole number of bytes, or text with a unit")
        try:
            return parse_size(value)
        except SizeInvalidError as error:
            error.add_note(f"this is `{key}` of `{self._owner}`")
            raise

    def rate(self, key: str, default: int | str | None) -> int | None:
        """Return a setting that is bytes per second; None, or the word `none`, is without limit.

        Args:
            key: The setting's name.
            default: What holds when it was not given.

        Raises:
            SizeInvalidError: It is neither a size nor `none`.

        Example:
            >>> Options("chain", {"demote_limit": "none"}).rate("demote_limit", "64MiB") is None
            True
        """
        value = self.get(key, "none" if default is None else default)
        return None if value == "none" else self.size(key, "none" if default is None else default)

    def integer(self, key: str, default: int, *, least: int = 0, most: int = SIZE_BYTES_MAX) -> int:
        """Return a setting that is a whole number.

        Args:
            key: The setting's name.
            default: What holds when it was not given.
            least: The smallest that it can be.
            most: The largest that it can be.

        Raises:
            OptionInvalidError: It is not a whole number, or outside the limits.

        Example:
            >>> Options("zpool", {"level": "3"}).integer("level", 1, least=-7, most=22)
            3
        """
        value = self.get(key, default)
        try:
            # Text only: `int` would round 1.5 down, and take true for 1.
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = 0.5
        if isinstance(number, bool) or not isinstance(number, int):
            raise self.invalid(key, value, "it is not a whole number")
        if not least <= number <= most:
            raise self.invalid(key, value, f"it is not from {least} to {most}")
        return number

    def probability(self, key: str) -> float:
        """Return a setting from 0 to 1; it is 0 when it was not given.

        Args:
            key: The setting's name.

        Raises:
            OptionInvalidError: It is not a number from 0 to 1.

        Example:
            >>> Options("fault_inject", {"reject": "0.5"}).probability("reject")
            0.5
        """
        value = self.get(key, 0.0)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise self.invalid(key, value, "it is not a number") from None
        if not 0 <= number <= 1:
            raise self.invalid(key, value, "it is not from 0 to 1")
        return number

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a setting that is on or off.

        Args:
            key: The setting's name.
            default: What holds when it was not given.

        Raises:
            OptionInvalidError: It is neither yes nor no.

        Example:
            >>> Options("file", {"direct": "no"}).flag("direct", default=True)
            False
        """
        value = self.get(key, default)
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _FLAGS:
            return _FLAGS[value.lower()]
        raise self.invalid(key, value, "write `yes` or `no`")

    def rest(self) -> dict[str, Value]:
        """Return the settings that nobody asked for yet, for a backend that wraps another.

        Example:
            >>> Options("fault_inject", {"capacity": "1MiB"}).rest()
            {'capacity': '1MiB'}
        """
        return {key: value for key, value in self._values.items() if key not in self._known}

    def finish(self) -> None:
        """Complain about settings that nobody asked for.

        Raises:
            OptionUnknownError: There is one; the text names the known settings.

        Example:
            >>> Options("ram", {}).finish()
        """
        for key in self.rest():
            known = quoted(self._known) if self._known else "none"
            error = _frontswap.make_error("option-unknown", object=self._owner, key=key, known=known)
            raise with_hint(error, suggest(key, self._known))

    def invalid(self, key: str, value: object, reason: str, hint: str | None = None) -> FrontswapError:
        """Build (not raise) the error for a setting with an impossible value.

        Args:
            key: The setting's name.
            value: What was given.
            reason: Why that cannot be.
            hint: What to do instead, when more is known than the table's hint says.

        Example:
            >>> print(Options("zpool", {}).invalid("level", 99, "it is above 22"))
            cannot set `level` of `zpool` to `99`: it is above 22
        """
        error = _frontswap.make_error("option-invalid", object=self._owner, key=key, value=value, reason=reason)
        return with_hint(error, hint)


def quoted(names: Iterable[str]) -> str:
    """Return names in backticks for an error text, sorted.

    Args:
        names: Any words.

    Example:
        >>> quoted(["zpool", "ram"])
        '`ram`, `zpool`'
    """
    return ", ".join(f"`{name}`" for name in sorted(names))


def suggest(word: str, known: Collection[str]) -> str | None:
    """Return a hint that names the known word nearest to `word`, or None when none is near.

    Args:
        word: What was written.
        known: What could have been meant.

    Example:
        >>> suggest("zpol", ["ram", "zpool"])
        'did you mean `zpool`?'
    """
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean `{near[0]}`?" if near else None


def with_hint(error: FrontswapError, hint: str | None) -> FrontswapError:
    """Return `error` with a better hint, if there is one.

    Args:
        error: An error with the table's hint.
        hint: What is known beyond that, or None.

    Example:
        >>> from frontswap.errors import SizeInvalidError
        >>> with_hint(SizeInvalidError("bad size"), "write `1MiB`").hint
        'write `1MiB`'
    """
    if hint is not None:
        error.hint = hint
    return error
