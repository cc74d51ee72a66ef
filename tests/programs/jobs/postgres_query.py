"""PostgreSQL with a large work_mem: a cluster of its own, whose server sorts, joins and groups in memory.

The server refuses to run as root: started by root, this job runs it as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SETTINGS = {
    "shared_buffers": "16MB",
    "work_mem": "1GB",
    "hash_mem_multiplier": "1",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "fsync": "off",
    "autovacuum": "off",
    "listen_addresses": "",
    "max_wal_size": "2GB",
}

QUERIES = """
CREATE UNLOGGED TABLE item AS SELECT i AS id, (i::bigint * 7919) % 40009 AS client,
  (i::bigint * 31337) % 10007 AS amount, md5(i::text) || repeat(' note of ' || i, 40) AS note
  FROM generate_series(1, 500000) i;
SELECT count(*), md5(string_agg(client || ':' || total, ',' ORDER BY client))
  FROM (SELECT client, sum(amount) AS total FROM item GROUP BY client) totals;
SELECT md5(string_agg(place || note, ',')) FROM (SELECT note, row_number() OVER (ORDER BY note, id) AS place
  FROM item) ranked WHERE place % 1000 = 0;
SELECT count(*), sum(a.amount * b.id) FROM item a JOIN item b ON a.id = b.id + 1 AND a.note > b.note;
"""


def server_folder() -> Path:
    """Return where the newest server's programs are."""
    folder = Path("/usr/lib/postgresql")
    versions = sorted(folder.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not versions:
        sys.exit("there is no PostgreSQL server in /usr/lib/postgresql")
    return versions[-1].parent


def main() -> None:
    programs = server_folder()
    place = Path(tempfile.mkdtemp(prefix="postgres-"))
    # Its own descriptors are the server's business: what was inherited stays open.
    as_nobody: dict[str, Any] = {"cwd": place, "close_fds": False}
    if os.geteuid() == 0:
        shutil.chown(place, "nobody", "nogroup")
        as_nobody |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
    options = [word for name, setting in SETTINGS.items() for word in ("-c", f"{name}={setting}")]
    try:
        initdb = [f"{programs}/initdb", "--pgdata=data", "--username=test", "--no-sync", "--locale=C", "--auth=trust"]
        subprocess.run(initdb, **as_nobody, check=True, stdout=subprocess.DEVNULL)
        server = subprocess.Popen([f"{programs}/postgres", "-D", "data", "-k", str(place), *options], **as_nobody)
        try:
            ready = [f"{programs}/pg_isready", "--quiet", f"--host={place}", "--username=test", "--timeout=60"]
            while subprocess.run(ready, check=False).returncode:
                assert server.poll() is None
            psql = [f"{programs}/psql", "--no-psqlrc", f"--host={place}", "--username=test", "--dbname=postgres"]
            subprocess.run([*psql, "--set=ON_ERROR_STOP=1"], input=QUERIES, text=True, check=True, **as_nobody)
        finally:
            server.terminate()
            print("server", server.wait(120), flush=True)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
