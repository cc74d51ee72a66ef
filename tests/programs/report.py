"""The results of the programs: one row each, as text, Markdown and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = "frontswap.programs/1"

MIB = 1024 * 1024

HEADINGS = (
    *("program", "result", "plain peak", "--ram", "RAM used"),
    *("plain", "managed", "slower", "held", "in", "faults"),
)


@dataclass(frozen=True)
class Row:
    """What both runs of one program came to.

    `held_bytes` are the pages that were out of the process at the peak, `holds_bytes` the RAM and disk they took.
    """

    program: str
    result: str
    plain_peak_bytes: int
    ram_limit_bytes: int
    ram_peak_bytes: int
    plain_seconds: float
    managed_seconds: float
    held_bytes: int
    holds_bytes: int
    faults: int

    def cells(self) -> tuple[str, ...]:
        return (
            self.program,
            self.result,
            mebibytes(self.plain_peak_bytes),
            mebibytes(self.ram_limit_bytes),
            mebibytes(self.ram_peak_bytes),
            f"{self.plain_seconds:.1f} s",
            f"{self.managed_seconds:.1f} s",
            f"{self.managed_seconds / self.plain_seconds:.1f} x",
            mebibytes(self.held_bytes),
            mebibytes(self.holds_bytes),
            f"{self.faults:,}",
        )


def mebibytes(size: int) -> str:
    return f"{size / MIB:.0f} MiB"


def in_columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Set cells below each other: two columns of words, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


def as_markdown(rows: Sequence[Row]) -> str:
    lines = [HEADINGS, ("---", "---", *("---:" for _ in HEADINGS[2:])), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_document(rows: Sequence[Row]) -> dict[str, Any]:
    return {"schema": SCHEMA, "programs": [asdict(row) for row in rows]}
