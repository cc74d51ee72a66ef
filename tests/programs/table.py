"""The programs: what runs, on what, what it must leave, and what has to be installed for it.

A program is one more row. Its job takes 2 to 15 s plain and 300 MiB to 1.2 GiB at its peak, and everything that it
prints on stdout or writes into its outputs is the same each time.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

JOBS = Path(__file__).parent / "jobs"

DEBIAN_PYTHON = "/usr/bin/python3"

PACKAGES = {
    "coreutils": "sort",
    "default-jdk-headless": "javac",
    "gcc": "gcc",
    "make": "make",
    "nodejs": "node",
    "postgresql": "/usr/lib/postgresql/*/bin/postgres",
    "python3-torch": "/usr/lib/python3/dist-packages/torch",
    "redis-server": "redis-server",
    "sqlite3": "sqlite3",
    "xz-utils": "xz",
    "zstd": "zstd",
}
"""Debian packages, and the command or the file by which one knows that each is installed."""

WHEELS = {"duckdb": "duckdb", "numpy": "numpy", "pandas": "pandas", "scikit-learn": "sklearn"}
"""Wheels, and the module that each brings. `pyproject.toml` lists them too, as an extra."""


@dataclass(frozen=True)
class Program:
    """A real program with a job to do.

    `needs` names keys of PACKAGES and WHEELS; `inputs` are keys of `inputs.INPUTS`, put into the folder it runs in;
    `outputs` are the files that it writes there.
    """

    name: str
    does: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    stdin: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    is_quick: bool = False


def _python(job: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, str(JOBS / job), *words)


PROGRAMS = (
    Program("cpython-objects", "dicts, lists and sets of records", _python("cpython.py", "objects")),
    Program("cpython-json", "JSON, written and read back", _python("cpython.py", "json"), is_quick=True),
    Program("cpython-re", "regular expressions over a text", _python("cpython.py", "text")),
    Program("cpython-pool", "a pool of forked processes", _python("pool.py")),
    Program(
        "numpy",
        "sort, sums, choice by a mask, a matrix product",
        _python("numpy_arrays.py"),
        needs=("numpy",),
    ),
    Program("pandas", "group-by, join, sort", _python("pandas_frames.py"), needs=("numpy", "pandas")),
    Program(
        "scikit-learn",
        "random forest, k-means, PCA",
        _python("sklearn_fit.py"),
        needs=("numpy", "scikit-learn"),
        # With several threads the order of a sum is a matter of chance.
        environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ),
    Program(
        "pytorch",
        "training on the CPU",
        (DEBIAN_PYTHON, str(JOBS / "torch_train.py")),
        needs=("python3-torch",),
    ),
    Program("duckdb", "group-by, join, window, order in memory", _python("duckdb_query.py"), needs=("duckdb",)),
    Program(
        "sqlite",
        "tables, indexes, joins and updates in `:memory:`",
        ("sqlite3", ":memory:"),
        needs=("sqlite3",),
        stdin=JOBS / "memory.sql",
    ),
    Program(
        "postgresql", "sort, join and group within a large `work_mem`", _python("postgres_query.py"), ("postgresql",)
    ),
    Program(
        "redis",
        "a server loaded by its own benchmark, then with known values, saved by a fork",
        _python("redis_load.py"),
        needs=("redis-server",),
        is_quick=True,
    ),
    Program(
        "sort",
        "GNU sort on two threads",
        ("sort", "--buffer-size=2G", "--parallel=2", "--output=sorted.txt", "lines.txt"),
        needs=("coreutils",),
        inputs=("lines.txt",),
        outputs=("sorted.txt",),
    ),
    Program(
        "gcc",
        "`gcc -O2` on a large file",
        ("gcc", "-O2", "-c", "large.c"),
        needs=("gcc",),
        inputs=("large.c",),
        outputs=("large.o",),
    ),
    Program(
        "make",
        "`make -j2` over many C files",
        ("make", "-j2", "--silent", "--directory=units"),
        needs=("make", "gcc"),
        inputs=("units",),
        outputs=("units/program",),
    ),
    Program(
        "xz",
        "`xz -9`",
        ("xz", "-9", "--threads=1", "--keep", "disk.img"),
        needs=("xz-utils",),
        inputs=("disk.img",),
        outputs=("disk.img.xz",),
    ),
    Program(
        "zstd",
        "`zstd --long=27`, with chains as long as its window",
        ("zstd", "-q", "-5", "--long=27", "--no-row-match-finder", "--zstd=clog=26", "log.txt"),
        needs=("zstd",),
        inputs=("log.txt",),
        outputs=("log.txt.zst",),
    ),
    Program("node", "objects, JSON, typed arrays", ("node", str(JOBS / "node_objects.js")), ("nodejs",)),
    Program(
        "java",
        "maps, streams on two threads, garbage to collect",
        ("java", "-Xmx768m", str(JOBS / "Objects.java")),
        needs=("default-jdk-headless",),
    ),
)


def is_installed(need: str) -> bool:
    """Whether a package or a wheel is here, by what it brings."""
    if need in WHEELS:
        return importlib.util.find_spec(WHEELS[need]) is not None
    sign = PACKAGES[need]
    if sign.startswith("/"):
        return next(Path("/").glob(sign.removeprefix("/")), None) is not None
    return shutil.which(sign) is not None


def commands_that_install(needs: tuple[str, ...]) -> list[str]:
    """Return what to run so that everything is here: nothing when it is."""
    lacks = [need for need in needs if not is_installed(need)]
    wheels = [need for need in lacks if need in WHEELS]
    packages = [need for need in lacks if need not in WHEELS]
    commands = [f"{sys.executable} -m pip install {' '.join(wheels)}"] if wheels else []
    if packages:
        commands.append(f"apt-get update && apt-get install --no-install-recommends {' '.join(packages)}")
    return commands
