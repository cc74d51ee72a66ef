"""A redis server: loaded by its own benchmark, then with known values, saved by a forked child, read back whole."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import time
from pathlib import Path

KEYS = 60_000
BATCH = 500
SOCKET = "redis.sock"


def value(number: int, turn: int) -> bytes:
    seed = hashlib.sha256(f"{number} {turn}".encode()).hexdigest()
    return (seed + f" value of {number} " * 300 + seed)[: 3000 + number % 2000].encode()


class Client:
    """As much of the protocol as this job speaks."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(SOCKET)
        self.answers = self.socket.makefile("rb")

    def send(self, *words: bytes) -> None:
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        self.socket.sendall(b"".join(parts))

    def answer(self) -> bytes | list[bytes]:
        line = self.answers.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"*":
            return [self.bulk() for _ in range(int(rest))]
        if kind == b"$":
            return self.answers.read(int(rest) + 2)[:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        return rest

    def bulk(self) -> bytes:
        answer = self.answer()
        assert isinstance(answer, bytes)
        return answer

    def ask(self, *words: bytes) -> bytes | list[bytes]:
        self.send(*words)
        return self.answer()


def fill(client: Client, turn: int, step: int) -> None:
    for start in range(0, KEYS, BATCH * step):
        pairs = [(b"key:%d" % n, value(n, turn)) for n in range(start, min(KEYS, start + BATCH * step), step)]
        assert client.ask(b"MSET", *(word for pair in pairs for word in pair)) == b"OK"


def digest(client: Client) -> str:
    seen = hashlib.sha256()
    for start in range(0, KEYS, BATCH):
        answers = client.ask(b"MGET", *(b"key:%d" % n for n in range(start, start + BATCH)))
        for n, answer in enumerate(answers, start):
            assert answer == value(n, int(n % 3 == 0)), n
            seen.update(bytes(answer))
    return seen.hexdigest()[:16]


def work() -> None:
    benchmark = ["redis-benchmark", "-s", SOCKET, "-n", "100000", "-r", "50000", "-d", "400", "-P", "32", "-q"]
    subprocess.run([*benchmark, "-t", "set,get,lpush,lrange_100"], check=True, stdout=subprocess.DEVNULL)
    client = Client()
    print("flushed", client.ask(b"FLUSHALL"))
    fill(client, 0, 1)
    # The child writes what was; meanwhile a third is changed, page after page.
    client.ask(b"BGSAVE")
    fill(client, 1, 3)
    while b"rdb_bgsave_in_progress:0" not in client.ask(b"INFO", b"persistence"):
        time.sleep(0.1)
    print("saved", b"rdb_last_bgsave_status:ok" in client.ask(b"INFO", b"persistence"))
    print("keys", client.ask(b"DBSIZE"), digest(client))
    client.send(b"SHUTDOWN", b"NOSAVE")


def main() -> None:
    options = ["--port", "0", "--unixsocket", SOCKET, "--save", "", "--logfile", "redis.log"]
    server = subprocess.Popen(["redis-server", *options])
    while not Path(SOCKET).exists():
        assert server.poll() is None
        time.sleep(0.05)
    try:
        work()
        print("ended", server.wait(60))
    finally:
        server.kill()


if __name__ == "__main__":
    main()
