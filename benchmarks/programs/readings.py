"""An ordinary NumPy job: readings of 256 sensors, a part of the rows at a time. `readings.py ARRAY MIB [RAM]`.

ARRAY says where the readings live, the rest is the same for all: `numpy` in memory, `space` in a
`frontswap.Space` of RAM bytes, `memmap` in a file, `blosc2` and `zarr` in compressed chunks in memory.
"""

from __future__ import annotations

import sys
import tempfile
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SENSORS = 256
PART_ROWS = 1024


class Readings(Protocol):
    """What all those arrays can do."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice | int, /) -> NDArray[np.float64]: ...

    def __setitem__(self, rows: slice, values: NDArray[np.float64], /) -> None: ...


def main() -> None:
    """Make the array, do the job, print what came of it."""
    kind, mebibytes, *ram = sys.argv[1:]
    rows = (int(mebibytes) << 20) // (8 * SENSORS) // PART_ROWS * PART_ROWS
    print(*work(ARRAYS[kind]((rows, SENSORS), *map(int, ram))))


def work(readings: Readings) -> list[str]:
    """Fill, describe, correlate, find the oddest rows and look at them, cap what is out of range."""
    count = readings.shape[0]
    rng = np.random.default_rng(2010)
    mixing = rng.normal(size=(SENSORS, SENSORS)) / 16
    parts = [slice(first, first + PART_ROWS) for first in range(0, count, PART_ROWS)]
    for part in parts:
        readings[part] = np.round(rng.normal(size=(PART_ROWS, SENSORS)) @ mixing * 10 + 200, 2)

    mean = sum(readings[part].sum(axis=0) for part in parts) / count
    deviation = np.sqrt(sum(((readings[part] - mean) ** 2).sum(axis=0) for part in parts) / count)
    correlation = np.zeros((SENSORS, SENSORS))
    oddness = []
    for part in parts:
        scaled = (readings[part] - mean) / deviation
        correlation += scaled.T @ scaled
        oddness.append(np.abs(scaled - np.median(scaled, axis=1, keepdims=True)).max(axis=1))
    strength, axes = np.linalg.eigh(correlation / count)

    oddest = np.argsort(np.concatenate(oddness))[-2000:]
    looked_at = np.array([readings[int(row)] for row in oddest])
    for part in parts:
        readings[part] = np.round(np.clip(readings[part], mean - 4 * deviation, mean + 4 * deviation), 2)
    spread = np.zeros(8)
    for part in parts:
        spread += (((readings[part] - mean) @ axes[:, -8:]) ** 2).sum(axis=0)
    figures = [mean.mean(), deviation.mean(), strength[-1], looked_at.mean(), (spread / count).sum()]
    return [f"{figure:.6g}" for figure in figures]


def in_space(shape: tuple[int, int], ram_bytes: int) -> Readings:
    """Hold the array in a space; it lives as long as the program, which is what a script does."""
    import frontswap

    return frontswap.Space(ram=ram_bytes).empty(shape, dtype="f8")


def in_file(shape: tuple[int, int]) -> Readings:
    """Hold the array in a file that has no name any more."""
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        return np.memmap(file, dtype="f8", mode="w+", shape=shape)


def in_blosc2(shape: tuple[int, int]) -> Readings:
    """Hold the array in chunks, compressed as blosc2 does by itself."""
    import blosc2

    return blosc2.empty(shape, dtype=np.float64, chunks=(PART_ROWS, SENSORS))


def in_zarr(shape: tuple[int, int]) -> Readings:
    """Hold the array in chunks, compressed as zarr does by itself."""
    import zarr

    return zarr.create_array(store={}, shape=shape, dtype="f8", chunks=(PART_ROWS, SENSORS))


ARRAYS = {
    "numpy": np.empty,
    "space": in_space,
    "memmap": in_file,
    "blosc2": in_blosc2,
    "zarr": in_zarr,
}


if __name__ == "__main__":
    main()
