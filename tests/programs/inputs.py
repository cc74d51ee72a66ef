"""The files that the programs read, made from a seed: the same on every machine."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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

MIB = 1024 * 1024


def _phrases(chance: random.Random, count: int) -> list[str]:
    words = ["".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(20_000)]
    return [" ".join(chance.choices(words, k=4)) for _ in range(count)]


def _lines(path: Path) -> None:
    """Write 300 MB as of logs that were put together: in order but for some minutes."""
    chance = random.Random(path.name)
    phrases = _phrases(chance, 20_000)
    with path.open("w", encoding="ascii") as file:
        for number in range(2_300_000):
            moment = number * 7 + chance.randrange(20_000)
            file.write(f"{moment:012} {chance.choice(phrases)} {chance.choice(phrases)} {chance.choice(phrases)}\n")


def _log(path: Path) -> None:
    """Write 200 MB of lines that come again soon, as in a log: what a long window is for."""
    chance = random.Random(path.name)
    phrases = _phrases(chance, 300_000)
    written = 0
    with path.open("w", encoding="ascii") as file:
        while written < 200_000_000:
            recent = chance.choices(phrases, k=800)
            for _ in range(20):
                written += file.write("\n".join(chance.choices(recent, k=800)))


def _image(path: Path) -> None:
    """Write 64 MiB as of a disk that is a tenth full: text here and there, zeroes between."""
    chance = random.Random(path.name)
    phrases = _phrases(chance, 30_000)
    with path.open("wb") as file:
        for _ in range(64):
            recent = chance.choices(phrases, k=800)
            file.write("\n".join(chance.choices(recent, k=3000)).encode()[:100_000].ljust(MIB, b"\0"))


def _c_source(path: Path, functions: int, table: int) -> None:
    """Write a C file with a table of constants and functions that call each other."""
    chance = random.Random(path.name)
    with path.open("w", encoding="ascii") as file:
        file.write("static const unsigned long table[] = {\n")
        file.writelines(f"{chance.getrandbits(50)}ul,\n" for _ in range(table))
        file.write("};\n")
        file.writelines(_functions(path.stem, functions, table, chance))


def _functions(name: str, functions: int, table: int, chance: random.Random) -> Iterator[str]:
    for number in range(functions):
        called = f"{name}_{chance.randrange(number)}(b, a % 7)" if number else "a + b"
        yield (
            f"unsigned long {name}_{number}(unsigned long a, unsigned long b) {{\n"
            f"  unsigned long c = a * {chance.randrange(1, 1 << 20)} + b, d[8];\n"
            f"  for (unsigned long i = 0; i < 8; i++) d[i] = (c ^ (a << i)) % (b + {number + 1});\n"
            f"  if (c % {chance.randrange(2, 99)} == 1) c += {called};\n"
            f"  switch (d[c % 8] % 5) {{\n"
            f"    case 0: c += table[d[3] % {table}]; break;\n"
            f"    case 1: for (int i = 0; i < 8; i++) c += d[i] * {chance.randrange(1, 1 << 20)}; break;\n"
            f"    case 3: c -= d[1] / (d[2] + 1); break;\n"
            f"    default: c ^= d[4]; }}\n"
            f"  return c + d[a % 8];\n}}\n"
        )


def _units(folder: Path) -> None:
    """Write a program of six large and twenty small C files, and its makefile."""
    folder.mkdir()
    names = [f"unit{number}" for number in range(26)]
    for number, name in enumerate(names):
        _c_source(folder / f"{name}.c", *((180, 500_000) if number < 6 else (20, 100)))
    (folder / "main.c").write_text(
        "#include <stdio.h>\n"
        + "".join(f"unsigned long {name}_7(unsigned long, unsigned long);\n" for name in names)
        + "int main(void) {\n"
        + "".join(f'  printf("%lu\\n", {name}_7(1, 2));\n' for name in names)
        + "}\n",
        "ascii",
    )
    objects = " ".join(f"{name}.o" for name in [*names, "main"])
    (folder / "Makefile").write_text(f"CFLAGS = -O2\nrun: program\n\t./program\nprogram: {objects}\n\tcc -o $@ $^\n")


INPUTS: dict[str, Callable[[Path], None]] = {
    "lines.txt": _lines,
    "log.txt": _log,
    "disk.img": _image,
    "large.c": lambda path: _c_source(path, 600, 900_000),
    "units": _units,
}
"""How each file or folder is made, by its name."""
