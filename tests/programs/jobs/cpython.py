"""Three jobs of plain Python: `objects` (dicts, lists, sets), `json` (write and read it back) and `text` (re)."""

from __future__ import annotations

import gc
import hashlib
import heapq
import json
import random
import re
import sys
from collections import defaultdict

RECORDS = 500_000
"""Some 400 MiB of objects."""

TEXT_LINES = 1_200_000
"""Some 90 MiB of text, which is held whole, split and counted."""

SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "qui",
    "ro",
    "su",
    "ta",
    "ve",
    "wi",
    "xo",
)


def digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def word(chance: random.Random) -> str:
    return "".join(chance.choices(SYLLABLES, k=chance.randint(1, 4)))


def objects() -> None:
    """Build an index of records, group it, change some in random order, find the best."""
    chance = random.Random(1)
    # As large programs do: the collector goes over all objects again and again while they become more.
    gc.disable()
    people = {
        number: {"name": word(chance), "tags": [word(chance) for _ in range(3)], "score": chance.random()}
        for number in range(RECORDS)
    }
    gc.freeze()
    gc.enable()
    print("built", len(people))
    by_tag: defaultdict[str, list[int]] = defaultdict(list)
    for number, person in people.items():
        by_tag[str(person["name"])[:3]].append(number)
    print("tags", len(by_tag), digest(sorted(by_tag.items())))
    for number in chance.sample(range(RECORDS), RECORDS // 50):
        people[number]["tags"] = [word(chance), str(people[number]["name"])]
    print("best", digest(heapq.nlargest(1000, people, key=lambda number: (people[number]["score"], number))))
    print("people", digest([(number, sorted(people[number].items(), key=str)) for number in range(0, RECORDS, 7)]))


def as_json() -> None:
    """Write a large document, read it back, compare, and write it again with sorted keys."""
    chance = random.Random(2)
    document = [
        {"id": number, "name": word(chance), "at": [chance.random() for _ in range(4)], "ok": chance.random() < 0.5}
        for number in range(RECORDS // 2)
    ]
    text = json.dumps(document)
    print("written", len(text), hashlib.sha256(text.encode()).hexdigest()[:16])
    again = json.loads(text)
    print("same", again == document)
    pretty = json.dumps(again, sort_keys=True, indent=1)
    print("sorted", len(pretty), hashlib.sha256(pretty.encode()).hexdigest()[:16])


def text() -> None:
    """Search, replace and count words in a text that is held whole."""
    chance = random.Random(3)
    words = [word(chance) for _ in range(5000)]
    whole = "\n".join(" ".join(chance.choices(words, k=9)) for _ in range(TEXT_LINES))
    print("text", len(whole), hashlib.sha256(whole.encode()).hexdigest()[:16])
    found = re.findall(r"\b(\w+)xo (\w{4,})\b", whole)
    print("found", len(found), digest(found[:: max(1, len(found) // 1000)]))
    replaced = re.sub(r"\b(ba|ce)(\w*)", r"\2\1", whole)
    print("replaced", len(replaced), hashlib.sha256(replaced.encode()).hexdigest()[:16])
    counts: defaultdict[str, int] = defaultdict(int)
    for found_word in replaced.split():
        counts[found_word] += 1
    print("counts", len(counts), digest(sorted(counts.items())))


if __name__ == "__main__":
    {"objects": objects, "json": as_json, "text": text}[sys.argv[1]]()
