"""Sizes go in as people write them and come out in IEC units; the machine's memory is what the cgroup leaves of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontswap.errors import SizeInvalidError
from frontswap.units import SIZE_BYTES_MAX, format_size, machine_memory, parse_size

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
UNITS = {"K": 1024, "KiB": 1024, "KB": 1000, "M": 1024**2, "MB": 1000**2, "GiB": 1024**3, "T": 1024**4, "TB": 1000**4}


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("64K", 65536),
        ("64KiB", 65536),
        ("64kib", 65536),
        ("64KB", 64000),
        ("1.5G", 1610612736),
        ("1.5GB", 1500000000),
        ("2T", 2 * 1024**4),
        (".5M", 524288),
        (" 1.86 GiB ", 1997159792),
        ("10B", 10),
        ("50%", 500),
        ("0.1%", 1),
        ("150 %", 1500),
        (str(SIZE_BYTES_MAX), SIZE_BYTES_MAX),
    ],
)
def test_a_size_is_read(text: int | str, size_bytes: int) -> None:
    assert parse_size(text, memory_bytes=1000) == size_bytes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("MiB", "it is not a number followed by a unit"),
        ("12 parsecs", "`parsecs` is not a unit"),
        ("1 2", "it is not a number followed by a unit"),
        ("1,5G", "it is not a number followed by a unit"),
        ("1e9", "it is not a number followed by a unit"),
        ("0x10", "it is not a number followed by a unit"),
        ("١٢", "it is not a number followed by a unit"),
        ("-5MiB", "a size is not below zero"),
        (-1, "a size is not below zero"),
        ("9E", "`E` is not a unit"),
        ("9999999T", "it is more than 8 EiB"),
        (SIZE_BYTES_MAX + 1, "it is more than 8 EiB"),
        (1.5, "a size is a whole number or text, not float"),
        (True, "a size is a whole number or text, not bool"),
        (None, "a size is a whole number or text, not NoneType"),
    ],
)
def test_what_is_no_size_is_refused_with_the_reason(text: int | str, reason: str) -> None:
    with pytest.raises(SizeInvalidError) as caught:
        parse_size(text)
    assert str(caught.value) == f"cannot read `{text}` as a size: {reason}"
    assert "a percentage" in caught.value.hint


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)))
def test_a_unit_multiplies(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * UNITS[unit]
    assert parse_size(f"{number} {unit.lower()}") == number * UNITS[unit]


@given(st.decimals(0, 10**6, places=3))
def test_a_decimal_is_exact_to_the_byte(number: object) -> None:
    thousandths = int(str(number).replace(".", ""))
    assert parse_size(f"{number}M") == thousandths * MIB // 1000


@given(st.integers(0, SIZE_BYTES_MAX))
def test_what_is_shown_reads_back_within_its_rounding(size_bytes: int) -> None:
    text = format_size(size_bytes)
    if "PiB" in text:
        assert size_bytes >= 1024**5 - 1024**4
        return
    number, unit = text.split(" ")
    assert float(number) <= 1024
    assert abs(parse_size(text) - size_bytes) <= 0.006 * parse_size(f"1{unit}")


@given(st.text(max_size=8))
def test_any_text_is_a_size_or_an_error_of_ours(text: str) -> None:
    try:
        size_bytes = parse_size(text)
    except SizeInvalidError:
        return
    assert 0 <= size_bytes <= SIZE_BYTES_MAX


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (2_000_000_000, "1.86 GiB"), (1024**5, "1.00 PiB")],
)
def test_a_size_is_shown(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in {"proc/meminfo": "MemTotal:  1000 kB\nMemFree: 1 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "size_bytes"),
    [
        pytest.param({}, 1000 * 1024, id="no cgroups"),
        pytest.param(
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 1000 * 1024, id="v2 no limit"
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "500000\n"}, 500_000, id="v2 own limit"
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": "400000\n",
                "sys/fs/cgroup/a/b/memory.max": "500000\n",
            },
            400_000,
            id="v2 limit of an ancestor",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/memory.max": "300000\n"},
            300_000,
            id="v2 inside a container",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "999999999999\n"},
            1000 * 1024,
            id="v2 limit above the machine",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/c\n4:memory:/c:d\n",
                "sys/fs/cgroup/memory/c:d/memory.limit_in_bytes": "200000\n",
            },
            200_000,
            id="v1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/docker/1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            1000 * 1024,
            id="v1 no limit",
        ),
    ],
)
def test_the_memory_is_the_machines_or_the_cgroups(tmp_path: Path, files: dict[str, str], size_bytes: int) -> None:
    write(tmp_path, files)
    assert machine_memory(tmp_path) == size_bytes


def test_an_unknown_memory_is_said(tmp_path: Path) -> None:
    with pytest.raises(SizeInvalidError, match="no MemTotal"):
        machine_memory(tmp_path)


def test_this_machine_has_memory() -> None:
    assert parse_size("100%") == machine_memory() > 16 * MIB


class Whole:
    """A whole number that is no `int`, like numpy's."""

    def __index__(self) -> int:
        return 2**20


def test_a_whole_number_of_another_kind() -> None:
    assert parse_size(Whole()) == 2**20  # type: ignore[arg-type]
