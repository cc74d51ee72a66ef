"""Starts a program in the foreground and waits for it: same terminal, same streams, same process group.

What the keyboard sends (Ctrl-C, Ctrl-Z) reaches the whole process group, and so the program, without us; what
is sent to us alone goes on to it. When job control stops the program, we stop too, so that a shell sees a stopped job.
We wait for the program that was named and not for what it leaves behind.

The signals that we pass on are blocked here and waited for, one at a time: no handler ever runs. The program starts
with the mask and the dispositions that we were started with.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frontswap import _frontswap
from frontswap.errors import FrontswapError, reason_of
from frontswap.programs.executable import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PASSED_ON = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
)
"""What goes on to the program when it is sent to us."""

BLOCKED = (*PASSED_ON, signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU)

JOB_CONTROL = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""The ways to stop that a shell expects of a job. Who is stopped by SIGSTOP is stopped alone."""

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these for itself; a program expects them to end it."""

SI_KERNEL = 0x80
"""The kernel itself sent a signal: it came from the terminal, and to the whole process group."""

KILLED = 128
"""A program that signal N ended gives this plus N, as in a shell."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    Attributes:
        exit_status: Its own status; 128 + N after signal N.
        duration_ns: How long it ran.

    Example:
        >>> Ended(130, 10**9).exit_status - KILLED
        2
    """

    exit_status: int
    duration_ns: int


class Program:
    """A program that is being started, runs, and is waited for. Only one at a time, in the main thread.

    Args:
        path: The file.
        words: Its arguments, the name that it is given first.
        environment: Its environment.

    Raises:
        ProgramNotExecutableError: The system refuses to start it.

    Example:
        >>> Program("/bin/sh", ["sh", "-c", "exit 3"], {}).wait().exit_status
        3
    """

    def __init__(self, path: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
        keep_streams_apart()
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            # Whoever started us does not wait for children; we do.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        self._started_ns = time.monotonic_ns()
        try:
            self.pid = os.posix_spawn(
                path,
                list(words),
                environment,
                setsigmask=self._mask_before,
                setsigdef=IGNORED_BY_PYTHON,
            )
        except (OSError, ValueError) as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before)
            raise _refused(words[0], error) from error

    def wait(self) -> Ended:
        """Wait until it ends, and pass signals on meanwhile.

        Example:
            >>> Program("/bin/sh", ["sh", "-c", "kill -9 $$"], {}).wait().exit_status
            137
        """
        while True:
            status = self._poll()
            if status is not None:
                duration_ns = time.monotonic_ns() - self._started_ns
                code = os.waitstatus_to_exitcode(status)
                signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before)
                return Ended(code if code >= 0 else KILLED - code, duration_ns)
            self._pass_on(signal.sigwaitinfo(BLOCKED))

    def _poll(self) -> int | None:
        """Return the program's status if it ended; stop with it if it was stopped."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return None
            if not os.WIFSTOPPED(status):
                return status
            if os.WSTOPSIG(status) in JOB_CONTROL and _has_terminal():
                # The shell that started us takes the terminal back now, and wakes us all with `fg`.
                os.kill(os.getpid(), signal.SIGSTOP)

    def _pass_on(self, received: signal.struct_siginfo) -> None:
        """Give the program a signal that it has not been given already."""
        if received.si_signo in PASSED_ON and received.si_code != SI_KERNEL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # It is not reaped yet, so the number is its own. A setuid program may not be ours to signal.
                os.kill(self.pid, received.si_signo)


def keep_streams_apart() -> None:
    """See to it that no file of ours takes the number of a standard stream that was closed.

    The program would write into it. What fills the gap is closed when the program starts, so that it finds the stream
    as closed as it was.

    Example:
        >>> keep_streams_apart()
    """
    while True:
        # The lowest free number is given, and it is not inherited.
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return


def _has_terminal() -> bool:
    """Return whether there is a terminal, and so a shell that controls jobs by it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _refused(program: str, error: OSError | ValueError) -> FrontswapError:
    """Return the error for a program that the system does not start."""
    reason, errno = (reason_of(error), error.errno) if isinstance(error, OSError) else (str(error), None)
    code = "program-not-found" if isinstance(error, FileNotFoundError) and not Path(program).exists() else ""
    return _frontswap.make_error(code or "program-not-executable", program=shown(program), reason=reason, errno=errno)
