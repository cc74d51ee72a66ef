"""Whole jobs, timed: what `frontswap run` costs where everything fits, and NumPy with half the memory it needs."""

from __future__ import annotations

import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cgroup
from contest import FRONTSWAP, ahead

PROGRAMS = Path(__file__).resolve().parent / "programs"
MIB = 1 << 20

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""BLAS threads that wait for each other spin, which on a shared machine measures the others."""

FITS_AIM = 1.03
HALF_AIM = 2.0

SLOW_SECONDS = 25.0


@dataclass(frozen=True)
class Ran:
    """How one job went."""

    seconds: float
    processor_seconds: float
    peak_bytes: int
    output: str


def why_no_run() -> str | None:
    """Say why `frontswap run` cannot be measured here; None when it can."""
    if not FRONTSWAP.is_file():
        return "frontswap is not installed beside this Python"
    tried = subprocess.run([FRONTSWAP, "run", "--ram", "1G", "--", "true"], capture_output=True, text=True, check=False)
    return f"frontswap run fails: {tried.stderr.strip()}" if tried.returncode else None


def ran(command: list[str], *, limit_bytes: int | None = None, counted: bool = False) -> Ran:
    """Run a job to its end, in a memory cgroup of its own if it is limited or its memory is counted."""
    if not counted:
        return _ran(command)
    with cgroup.group("job") as group:
        group.limit(limit_bytes)
        result = _ran(group.command(command))
        return Ran(result.seconds, result.processor_seconds, group.peak_bytes, result.output)


def _ran(command: list[str]) -> Ran:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.monotonic()
        process = subprocess.Popen(
            ahead(command),
            stdout=output,
            stderr=errors,
            env={**os.environ, **ONE_THREAD},
            start_new_session=True,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            sys.stderr.write(errors.read().decode())
            raise subprocess.CalledProcessError(process.returncode, command)
        return Ran(seconds, usage.ru_utime + usage.ru_stime, 0, output.read().decode())


def judged(figure: float, relation: str, aim: float, digits: int = 2) -> str:
    """Put a figure beside its aim, with a mark if it is missed."""
    is_met = figure >= aim if relation == ">=" else figure <= aim
    return f"{figure:.{digits}f} ({relation} {aim:g}){' ' if is_met else '!'}"


def under_run(ram_bytes: int, command: list[str], *settings: str) -> list[str]:
    """Put `command` under `frontswap run`."""
    return [str(FRONTSWAP), "run", "--ram", str(ram_bytes), *settings, "--", *command]


def fits(rounds: int, *, is_quick: bool) -> dict[str, Any]:
    """CPython and NumPy jobs under a budget larger than their need, against the same jobs alone."""
    print("\neverything fits: time under `frontswap run` / plain, start-up included")
    if reason := why_no_run():
        print(f"  not measured: {reason}")
        return {"skipped": reason}
    row = "{:24} {:>17} {:>8} {:>10} {:>10}"
    print(row.format("", "time", "CPU", "plain s", "added ms"))
    results = {}
    for name, job in {
        "CPython, records": [sys.executable, str(PROGRAMS / "records.py"), "150000" if is_quick else "300000"],
        "NumPy, readings": [sys.executable, str(PROGRAMS / "readings.py"), "numpy", "192" if is_quick else "512"],
        "start-up alone": ["/bin/true"],
    }.items():
        pairs = [(ran(job), ran(under_run(8 << 30, job))) for _ in range(rounds)]
        if any(peer.output != each.output for peer, each in pairs):
            message = f"{name} says something else under `frontswap run`"
            raise ValueError(message)
        plain, ours = ([pair[side] for pair in pairs] for side in (0, 1))
        # What interferes only adds, and more than the few percent that are looked for: so the quickest of each.
        fastest = min(run.seconds for run in plain)
        result = {
            "time": min(run.seconds for run in ours) / fastest,
            "processor_time": min(run.processor_seconds for run in ours)
            / max(min(run.processor_seconds for run in plain), 0.001),
            "plain_seconds": fastest,
            "added_ms": statistics.median((each.seconds - peer.seconds) * 1000 for peer, each in pairs),
            "rounds": [[peer.seconds, each.seconds] for peer, each in pairs],
        }
        is_job = len(job) > 1
        ratios = [judged(result["time"], "<=", FITS_AIM, 3), f"{result['processor_time']:.3f}"] if is_job else ["", ""]
        print(row.format(name, *ratios, f"{result['plain_seconds']:.2f}", f"{result['added_ms']:.0f}"))
        results[name] = result
    return results


def half(rounds: int, *, is_quick: bool) -> dict[str, Any]:
    """A NumPy job in half the memory that it needs, by each of several ways."""
    print("\na NumPy job in half of its memory: time / plain time with all of it")
    if reason := cgroup.why_not():
        print(f"  not measured: {reason}")
        return {"skipped": reason}
    mebibytes = 320 if is_quick else 512

    def job(kind: str, *ram: int) -> list[str]:
        return [sys.executable, str(PROGRAMS / "readings.py"), kind, str(mebibytes), *map(str, ram)]

    # Once before it counts, so that the files of the interpreter are in the page cache and nobody is charged for them.
    ran([sys.executable, str(PROGRAMS / "readings.py"), "numpy", "4"])
    need = ran(job("numpy"), counted=True).peak_bytes
    # A space limits the array alone; what else the program has counts too.
    for_array = need // 2 - (need - mebibytes * MIB)
    print(f"  it needs {need / MIB:.0f} MiB; an array of {mebibytes} MiB is most of it")
    ways: dict[str, tuple[list[str], int | None]] = {
        "plain, all of it": (job("numpy"), None),
        "frontswap run": (under_run(need // 2, job("numpy")), None),
        "Space": (job("space", for_array), None),
        "numpy.memmap": (job("memmap"), need // 2),
        "blosc2": (job("blosc2"), None),
        "zarr": (job("zarr"), None),
    }
    readings: dict[str, list[Ran]] = {way: [] for way in ways}
    no_run = why_no_run()
    skipped = {way: "not installed" for way in ("blosc2", "zarr") if not importlib.util.find_spec(way)}
    if no_run:
        skipped["frontswap run"] = no_run
    for _ in range(rounds):
        for way, (command, limit_bytes) in ways.items():
            # What is as slow as that needs no second reading to be told from the rest.
            if way in skipped or (readings[way] and readings[way][0].seconds > SLOW_SECONDS):
                continue
            try:
                readings[way].append(ran(command, limit_bytes=limit_bytes, counted=True))
            except subprocess.CalledProcessError as error:
                skipped[way] = f"ends with status {error.returncode}"
    return {"need_bytes": need, "skipped": skipped, "ways": _table(readings, skipped)}


def _table(readings: dict[str, list[Ran]], skipped: dict[str, str]) -> dict[str, Any]:
    """Print how the ways compare, and check that they agree."""
    row = "  {:20} {:>14} {:>10} {:>10}"
    print(row.format("", "time", "seconds", "peak MiB"))
    plain = readings["plain, all of it"]
    results = {}
    for way, runs in readings.items():
        if not runs:
            print(row.format(way, "-", "-", "-"), skipped[way])
            continue
        if {run.output for run in runs} != {plain[0].output}:
            message = f"{way} computes something else"
            raise ValueError(message)
        result = {
            "time": statistics.median(run.seconds / peer.seconds for run, peer in zip(runs, plain, strict=False)),
            "seconds": statistics.median(run.seconds for run in runs),
            "peak_bytes": max(run.peak_bytes for run in runs),
            "rounds": [run.seconds for run in runs],
        }
        is_ours = way in ("frontswap run", "Space")
        time = judged(result["time"], "<=", HALF_AIM) if is_ours else f"{result['time']:.2f} "
        print(row.format(way, time, f"{result['seconds']:.1f}", f"{result['peak_bytes'] / MIB:.0f}"))
        results[way] = result
    return results
