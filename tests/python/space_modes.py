"""The modes of spaces that this machine permits whoever runs the tests."""

from __future__ import annotations

from frontswap import Space
from frontswap.errors import PagerPermissionError


def permitted_modes() -> list[str]:
    """Return `signal`, and `handler` where that is permitted."""
    try:
        Space("16MiB", swap=None, mode="handler").close()
    except PagerPermissionError:
        return ["signal"]
    return ["signal", "handler"]


MODES = permitted_modes()
