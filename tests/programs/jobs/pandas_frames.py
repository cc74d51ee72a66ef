"""pandas: group-by, join and sort of frames with numbers, text and dates."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

ROWS = 3_000_000


def digest(frame: pd.DataFrame) -> str:
    return hashlib.sha256(pd.util.hash_pandas_object(frame).to_numpy().tobytes()).hexdigest()[:16]


def main() -> None:
    chance = np.random.default_rng(5)
    cities = np.array([f"city-{number:04d}" for number in range(1000)], dtype=object)
    sales = pd.DataFrame(
        {
            "city": cities[chance.integers(0, len(cities), ROWS)],
            "product": chance.integers(0, 50_000, ROWS),
            "price": np.round(chance.gamma(2.0, 20.0, ROWS), 2),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(chance.integers(0, 366, ROWS), unit="D"),
        }
    )
    print("sales", sales.shape, digest(sales))
    by_city = sales.groupby(["city", "day"], sort=True)["price"].agg(["count", "min", "max"]).reset_index()
    print("by city", by_city.shape, digest(by_city))
    products = pd.DataFrame({"product": np.arange(50_000), "weight": chance.integers(1, 900, 50_000)})
    joined = sales.merge(products, on="product", how="inner")
    print("joined", joined.shape, digest(joined))
    light = joined[joined["weight"] < 90]
    ranked = light.sort_values(["weight", "price", "city", "day", "product"], kind="stable").reset_index(drop=True)
    print("ranked", ranked.shape, digest(ranked))
    print(ranked.iloc[:: len(ranked) // 5].to_string())


if __name__ == "__main__":
    main()
