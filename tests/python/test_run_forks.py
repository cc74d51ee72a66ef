"""A managed program forks: from its only thread, from among threads, and after threads have ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

DATA = """
import os, threading
data = [bytes([i % 251]) * 1000 + str(i).encode() for i in range(110_000)]
def check(first, step):
    for i in range(first, len(data), step):
        assert data[i] == bytes([i % 251]) * 1000 + str(i).encode(), i
def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
check(0, 1)
"""

JOBS = {
    "a child of a child": "child(lambda: (check(0, 7), child(lambda: check(3, 11))))\ncheck(1, 7)\n",
    "after threads have ended": """
def work():
    blocks = [bytes(1000) for _ in range(1000)]
for turn in range(4):
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    check(turn, 37)
    child(lambda: check(5, 97))
""",
    "while threads read and allocate": """
stop = threading.Event()
def churn(first):
    while not stop.is_set():
        check(first, 1009)
        blocks = [bytes(2000) for _ in range(50)]
threads = [threading.Thread(target=churn, args=(first,)) for first in range(2)]
for thread in threads: thread.start()
for turn in range(6):
    child(lambda: check(turn, 997))
stop.set()
for thread in threads: thread.join()
""",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("job", JOBS.values(), ids=list(JOBS))
def test_parent_and_child_have_what_is_theirs(job: str) -> None:
    program = [sys.executable, "-c", DATA + job + "print('right')"]
    run = [sys.executable, "-m", "frontswap", "run", "--ram", "64M", "--swap", "none", "--quiet", "--"]
    done = subprocess.run([*run, *program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
