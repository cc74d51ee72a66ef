"""NumPy: sort, group sums, a matrix product and fancy indexing over arrays that do not fit."""

from __future__ import annotations

import hashlib

import numpy as np

NUMBERS = 16_000_000
ORDER = 1500


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def main() -> None:
    chance = np.random.default_rng(4)
    keys = chance.integers(0, 100_000, NUMBERS)
    values = np.round(chance.normal(size=NUMBERS), 3)
    print("sums", digest(np.bincount(keys, weights=values)))
    keys.sort()
    print("sorted", digest(keys))
    steps = np.cumsum(values)
    print("walk", f"{steps.min():.3f} {steps.max():.3f}", digest(steps))
    chosen = np.flatnonzero((values > 1) & (keys % 3 == 0))
    print("chosen", len(chosen), digest(steps[chosen]), digest(steps[chance.integers(0, NUMBERS, 20_000)]))
    unique, counts = np.unique(keys // 7, return_counts=True)
    print("unique", len(unique), digest(counts))
    left = chance.integers(-8, 8, (ORDER, ORDER)).astype(float)
    print("product", digest(left @ left.T))


if __name__ == "__main__":
    main()
