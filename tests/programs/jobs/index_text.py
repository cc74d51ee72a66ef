"""An index of real text: every word with the places where it stands. `index_text.py WORDS FOLDER...`

It stops after so many words, and begins again when the folders' files do not have as many. On stderr it says how far it
is, `PERCENT WHAT`; on stdout it answers some questions from the index.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WORD = re.compile(r"[A-Za-z]{2,}")

FREQUENT = 300
"""So many words are asked about."""

Index = dict[str, list[tuple[int, int]]]


def text_files(folders: Iterable[str]) -> Iterator[Path]:
    """Yield the files, over and over, each time in the same order."""
    suffixes = {".py", ".txt", ".h", ".rst", ".md", ".c"}
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*")) if path.suffix in suffixes]
    while True:
        yield from files


def build(words_max: int, folders: Iterable[str]) -> Index:
    index: Index = {}
    words = text_bytes = told = 0
    for number, path in enumerate(text_files(folders)):
        text = path.read_text("utf-8", "replace")
        text_bytes += len(text)
        found = WORD.findall(text)
        for at, word in enumerate(found):
            index.setdefault(word, []).append((number, at))
        words += len(found)
        if words * 100 // words_max > told:
            told = words * 100 // words_max
            print(min(told, 99), f"{text_bytes / 1e6:.0f} MB of text read", file=sys.stderr, flush=True)
        if words >= words_max:
            print(f"{number + 1:,} files, {text_bytes:,} characters, {words:,} words, {len(index):,} different")
            return index
    return index


def main() -> None:
    index = build(int(sys.argv[1]), sys.argv[2:])
    frequent = sorted(index, key=lambda word: (-len(index[word]), word))[:FREQUENT]
    print("most frequent:", *frequent[:8])
    answers = hashlib.sha256()
    for word in frequent:
        answers.update(repr((word, index[word])).encode())
    after_is = {(number, at - 1) for number, at in index["not"]}
    print(f"`is not`: {sum(place in after_is for place in index['is']):,} times")
    print("answers:", answers.hexdigest()[:32])


if __name__ == "__main__":
    main()
