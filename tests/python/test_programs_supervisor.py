"""A program in the foreground: its streams, its status, the signals that reach it, and a shell's job control."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from frontswap.errors import ProgramNotExecutableError, ProgramNotFoundError
from frontswap.programs.supervisor import BLOCKED, Program

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUPERVISOR = (
    "import os, sys; from frontswap.programs.supervisor import Program; "
    "sys.exit(Program(sys.argv[1], sys.argv[1:], dict(os.environ)).wait().exit_status)"
)
SUPERVISE = [sys.executable, "-c", SUPERVISOR]
"""What `frontswap run` does once everything is prepared."""

WAIT_S = 30.0

Start = Any
"""A function that starts a program; its process is checked at each use."""


def supervised(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SUPERVISE, *words], text=True, capture_output=True, check=False, timeout=WAIT_S, **options)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a supervised program of Python that says `ready`."""
    started: list[subprocess.Popen[str]] = []

    def call(code: str, **options: Any) -> subprocess.Popen[str]:
        code = f"import os, signal, sys, time\n{code}"
        words = [*SUPERVISE, sys.executable, "-c", code]
        process: subprocess.Popen[str] = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.mark.parametrize("status", [0, 1, 77, 125, 255])
def test_the_status_is_the_programs(status: int) -> None:
    assert supervised("/bin/sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT, signal.SIGPIPE])
def test_after_a_signal_it_is_128_and_the_signal(number: signal.Signals) -> None:
    # No core file is left in the directory of the tests.
    assert supervised("/bin/sh", "-c", f"ulimit -c 0; kill -{number.value} $$").returncode == 128 + number


def test_what_the_system_refuses_to_start(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("echo\n")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(ProgramNotFoundError):
        Program(f"{tmp_path}/nothing", [f"{tmp_path}/nothing"], {})
    text.chmod(0o755)
    with pytest.raises(ProgramNotExecutableError, match=r"exec format error \(ENOEXEC\)"):
        Program(str(text), ["text"], {})
    with pytest.raises(ProgramNotExecutableError, match="null"):
        Program(str(text), ["a\0b"], {})
    with pytest.raises(ProgramNotExecutableError, match=r"\(E2BIG\)"):
        Program("/bin/true", ["true", "x" * 2**22], {})
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_streams_and_arguments_are_untouched() -> None:
    words = ("/bin/sh", "-c", 'cat; echo "$0 $*" >&2', "zero", "", "--ram", "two words")
    result = supervised(*words, input="a line\nand another")
    assert (result.stdout, result.stderr) == ("a line\nand another", "zero  --ram two words\n")


def test_a_large_output_goes_through() -> None:
    result = supervised("/bin/sh", "-c", "head -c 10000000 /dev/zero | tr '\\0' x")
    assert len(result.stdout) == 10_000_000


def test_a_descriptor_is_inherited_and_ours_are_not(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        number = file.fileno()
        result = supervised("/bin/bash", "-c", f"ls /proc/self/fd; echo there >&{number}", pass_fds=[number])
    # One is what `ls` itself reads.
    assert len({*result.stdout.split()} - {"0", "1", "2", str(number)}) == 1
    assert (tmp_path / "file").read_text() == "there\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_stream_that_is_closed_stays_closed(tmp_path: Path, closed: tuple[int, ...]) -> None:
    code = "import os, pathlib, sys\npathlib.Path(sys.argv[1]).write_text(' '.join(os.listdir('/proc/self/fd')))"
    shell = shlex.join([*SUPERVISE, sys.executable, "-c", code, str(tmp_path / "open")])
    subprocess.run(["/bin/sh", "-c", f"exec {shell} " + " ".join(f"{number}>&-" for number in closed)], check=False)
    # The directory that is listed is open too, at the lowest number that is free.
    assert len((tmp_path / "open").read_text().split()) == 3 - len(closed) + 1


def test_dispositions_are_those_that_we_found() -> None:
    # Without the two signals that glibc keeps for itself, which its `posix_spawn` leaves ignored.
    code = "print([hex(int(line[8:], 16) & ~(3 << 31)) for line in open('/proc/self/status') if line[:6] in {}])"
    code = code.format(("SigIgn", "SigBlk"))

    def masks(words: Sequence[str]) -> str:
        return subprocess.run(
            ["/bin/sh", "-c", f"trap '' HUP USR1; exec {shlex.join(words)}"], capture_output=True, text=True, check=True
        ).stdout

    python = [sys.executable, "-c", code]
    assert masks([*SUPERVISE, *python]) == masks(python)


def test_a_parent_that_does_not_wait_for_children() -> None:
    code = "import os, signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nos.execv(sys.argv[1], sys.argv[1:])"
    words = [sys.executable, "-c", code, *SUPERVISE, "/bin/sh", "-c", "exit 3"]
    assert subprocess.run(words, check=False, timeout=WAIT_S).returncode == 3


@pytest.mark.parametrize(
    "name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGINT", "SIGALRM", "SIGWINCH"]
)
def test_a_signal_to_us_goes_on_to_the_program(start: Start, name: str) -> None:
    process = start(
        f"signal.signal(signal.{name}, lambda number, frame: (print('got', number, flush=True), os._exit(9)))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(1)"
    )
    number = getattr(signal, name)
    process.send_signal(number)
    assert process.stdout.readline() == f"got {number.value}\n"
    assert process.wait(WAIT_S) == 9


def test_a_program_may_ignore_what_is_sent(start: Start) -> None:
    process = start(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\nsys.stdin.read()",
        stdin=subprocess.PIPE,
    )
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(WAIT_S) == 0


def test_a_signal_that_ends_the_program_is_its_status(start: Start) -> None:
    process = start("print('ready', flush=True)\ntime.sleep(60)")
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 128 + signal.SIGTERM


def test_what_a_program_leaves_behind_is_not_waited_for() -> None:
    started = time.monotonic()
    result = supervised("/bin/sh", "-c", "sleep 20 >/dev/null 2>&1 & echo $!")
    assert time.monotonic() - started < 10
    os.kill(int(result.stdout), signal.SIGKILL)


def test_a_program_that_is_stopped_alone_is_waited_for(start: Start) -> None:
    process = start("print('ready', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)\nsys.exit(4)")
    child = child_of(process.pid)
    wait_for_state(child, "T")
    assert state_of(process.pid) == "S"
    os.kill(child, signal.SIGCONT)
    assert process.wait(WAIT_S) == 4


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for_state(pid: int, state: str) -> None:
    limit = time.monotonic() + WAIT_S
    while state_of(pid) != state:
        assert time.monotonic() < limit, state_of(pid)
        time.sleep(0.01)


class Terminal:
    """A terminal with a shell that controls jobs."""

    def __init__(self) -> None:
        self.text = ""
        self.shell, self._ours = pty.fork()
        if self.shell == 0:
            os.environ.update(PS1="prompt> ", HISTFILE="", TERM="dumb")
            os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])
        self.expect("prompt> ")

    def send(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until something is written; forget what was written until then."""
        limit = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < limit, self.text
            if select.select([self._ours], [], [], 1)[0]:
                self.text += os.read(self._ours, 65536).decode()
        self.text = self.text[found.end() :]
        return found

    def close(self) -> None:
        os.close(self._ours)
        os.kill(self.shell, signal.SIGKILL)
        os.waitpid(self.shell, 0)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


COUNTER = """
import os, signal, sys, time
count = 0
def got(number, frame):
    global count
    count += 1
    print('interrupts', count, flush=True)
signal.signal(signal.SIGINT, got)
print('started', flush=True)
while True:
    line = sys.stdin.readline()
    if line == 'end\\n':
        sys.exit(5)
    print('read', line.strip(), flush=True)
"""


def test_the_keyboard_reaches_the_program_once(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(COUNTER)
    (tmp_path / "go").write_text(shlex.join([*SUPERVISE, sys.executable, str(tmp_path / "program.py")]))
    terminal.send(f". {tmp_path}/go\n")
    terminal.expect("started")
    terminal.send("\x03")
    terminal.expect("interrupts 1")
    terminal.send("\x03")
    terminal.expect("interrupts 2")
    terminal.send("hello\n")
    terminal.expect("read hello")
    terminal.send("\x1a")
    terminal.expect("Stopped")
    terminal.expect("prompt> ")
    terminal.send("echo shell is $((40 + 2))\n")
    terminal.expect("shell is 42")
    terminal.send("fg\n")
    terminal.send("again\n")
    terminal.expect("read again")
    terminal.send("end\n")
    terminal.expect("prompt> ")
    terminal.send("echo status $?\n")
    terminal.expect("status 5")


def test_a_program_in_the_background_stops_when_it_reads(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(COUNTER)
    (tmp_path / "go").write_text(shlex.join([*SUPERVISE, sys.executable, str(tmp_path / "program.py")]) + " &\n")
    terminal.send(f". {tmp_path}/go\n")
    terminal.expect("started")
    terminal.send("sleep 0.3; jobs\n")
    terminal.expect("Stopped")
    terminal.send("fg\n")
    terminal.send("end\n")
    terminal.expect("prompt> ")
    terminal.send("echo status $?\n")
    terminal.expect("status 5")


def test_every_signal_of_job_control_is_waited_for() -> None:
    assert {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT, signal.SIGCHLD} <= set(BLOCKED)


def test_limits_are_the_programs_too() -> None:
    code = "import json, resource\nprint(json.dumps(resource.getrlimit(resource.RLIMIT_NOFILE)))"
    result = supervised(sys.executable, "-c", code)
    assert tuple(json.loads(result.stdout)) == resource.getrlimit(resource.RLIMIT_NOFILE)
