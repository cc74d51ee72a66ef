"""From a PID to the budget that it runs within."""

from __future__ import annotations

import os
import re
from pathlib import Path

from frontswap import _frontswap


def attach(pid: int) -> _frontswap.Tree:
    """Return the tree of a `frontswap run`, or of a program in it.

    Args:
        pid: The supervisor's process number, or that of any process that it manages.

    Raises:
        ProcessNotManagedError: There is no such process, it is another user's, or nothing of it is managed.

    Example:
        >>> attach(2**22 + 1)
        Traceback (most recent call last):
        frontswap.errors.ProcessNotManagedError: cannot reach the budget of process `4194305`: there is no such process
    """
    folder = Path("/proc", str(pid))
    try:
        owner, status = folder.stat().st_uid, (folder / "status").read_text("utf-8", "replace")
    except OSError:
        raise _not_managed(pid, "there is no such process") from None
    state = re.search(r"^State:\s+(\w)", status, re.MULTILINE)
    if state and state[1] in "ZX":
        raise _not_managed(pid, "it has ended")
    # A program that gained rights belongs to root here, whoever started it.
    if os.geteuid() not in {0, owner}:
        raise _not_managed(pid, f"it belongs to {_user(owner)}, not to {_user(os.geteuid())}")
    return _frontswap.Tree.attach(pid)


def _user(number: int) -> str:
    """Return what a person calls a user."""
    import pwd

    try:
        return f"user `{pwd.getpwuid(number).pw_name}`"
    except KeyError:
        return f"user {number}"


def _not_managed(pid: int, reason: str) -> Exception:
    return _frontswap.make_error("process-not-managed", pid=pid, reason=reason)
