"""The words of real text, file by file, and what they say together. `count_words.py WORDS FOLDER...`

It stops after so many words, and begins again when the folders' files do not have as many. On stderr it says how far it
is, `PERCENT WHAT`; on stdout it answers some questions.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WORD = re.compile(r"[A-Za-z]{2,}")

Files = list[list[str]]


def text_files(folders: Iterable[str]) -> Iterator[Path]:
    """Yield the files, over and over, each time in the same order."""
    suffixes = {".py", ".txt", ".h", ".rst", ".md", ".c"}
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*")) if path.suffix in suffixes]
    while True:
        yield from files


def read(words_max: int, folders: Iterable[str]) -> Files:
    files: Files = []
    words = text_bytes = told = 0
    for path in text_files(folders):
        text = path.read_text("utf-8", "replace")
        text_bytes += len(text)
        files.append(WORD.findall(text))
        words += len(files[-1])
        if words * 90 // words_max > told:
            told = words * 90 // words_max
            print(min(told, 90), f"{text_bytes / 1e6:.0f} MB of text read", file=sys.stderr, flush=True)
        if words >= words_max:
            break
    print(f"{len(files):,} files, {text_bytes:,} characters, {words:,} words")
    return files


def main() -> None:
    files = read(int(sys.argv[1]), sys.argv[2:])
    counts: Counter[str] = Counter()
    is_not = 0
    answers = hashlib.sha256()
    for number, words in enumerate(files):
        counts.update(words)
        is_not += sum(pair == ("is", "not") for pair in itertools.pairwise(words))
        answers.update(" ".join(words).encode())
        if number % (len(files) // 9 or 1) == 0:
            print(90 + number * 9 // len(files), "counting", file=sys.stderr, flush=True)
    print("most frequent:", *(word for word, _ in counts.most_common(8)))
    print(f"`is not`: {is_not:,} times")
    print("answers:", answers.hexdigest()[:32])


if __name__ == "__main__":
    main()
