"""An ordinary CPython job: records, an index of them, JSON, regular expressions. `records.py COUNT`."""

from __future__ import annotations

import json
import random
import re
import sys
from collections import defaultdict
from typing import Any


def main() -> None:
    """Build, index, write, read back, search and sort; print what came of it."""
    count = int(sys.argv[1])
    rng = random.Random(2010)
    people = [person(rng, number) for number in range(count)]
    by_town: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in people:
        by_town[row["town"]].append(row)
    text = json.dumps(people)
    again = json.loads(text)
    numbers = [int(match[1]) for match in re.finditer(r'"name": "user(\d+7)"', text)]
    ranked = sorted(again, key=lambda row: (-row["score"], row["name"]))
    richest = {town: max(rows, key=lambda row: row["score"])["id"] for town, rows in by_town.items()}
    print(len(text), sum(numbers), [row["id"] for row in ranked[:5]], sorted(richest.values())[:5], again == people)


def person(rng: random.Random, number: int) -> dict[str, Any]:
    """Make one record."""
    return {
        "id": number,
        "name": f"user{number}",
        "town": f"town{rng.randrange(500)}",
        "tags": [str(rng.randrange(50)) for _ in range(number % 5)],
        "score": round(rng.uniform(0, 1000), 2),
    }


if __name__ == "__main__":
    main()
