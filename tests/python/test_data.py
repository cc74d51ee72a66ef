"""The data of `check` and `codecs` are what they say: this memory, and even samples of these files."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from frontswap.cli._data import own_memory, read_sample
from frontswap.cli._output import CommandError

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096


def test_the_memory_is_this_process_own() -> None:
    # Repeated so that it is found whatever its place in a page is.
    secret = os.urandom(32) * (4 * PAGE // 32)
    sample = own_memory(2**30)
    assert secret[: 2 * PAGE] in sample.pages
    assert len(sample.pages) % PAGE == 0
    assert sample.in_words() is None


def test_the_memory_is_bounded() -> None:
    assert len(own_memory(10 * PAGE).pages) == 10 * PAGE


def numbered(pages: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") * (PAGE // 4) for number in range(pages))


@pytest.mark.parametrize("limit_pages", [1, 7, 64, 65, 200, 999])
def test_a_sample_is_spread_evenly_over_the_file(tmp_path: Path, limit_pages: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(numbered(1000))
    sample = read_sample(str(path), limit_pages * PAGE + 5)
    starts = range(0, len(sample.pages), PAGE)
    numbers = [int.from_bytes(sample.pages[start : start + 4], "little") for start in starts]
    assert sample.pages == b"".join(numbered(1000)[number * PAGE : (number + 1) * PAGE] for number in numbers)
    assert numbers == sorted(set(numbers)), "no page twice"
    assert limit_pages // 64 * 64 <= len(numbers) <= limit_pages
    assert numbers[0] == 0
    if limit_pages >= 128:
        assert numbers[-1] > 990
    assert (sample.taken_bytes, sample.total_bytes) == (len(numbers) * PAGE, 1000 * PAGE)
    assert "evenly spread" in str(sample.in_words())


def test_a_file_is_filled_up_to_whole_pages(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    sample = read_sample(str(path), 10 * PAGE)
    assert sample.pages == b"x" * 5000 + bytes(2 * PAGE - 5000)
    assert (sample.taken_bytes, sample.total_bytes, sample.in_words()) == (5000, 5000, None)


def test_a_file_that_says_it_is_empty_is_read_all_the_same() -> None:
    assert b"MemTotal" in read_sample("/proc/meminfo", PAGE * 100).pages


def test_an_endless_file_is_cut() -> None:
    sample = read_sample("/dev/zero", 3 * PAGE)
    assert (len(sample.pages), sample.total_bytes) == (3 * PAGE, None)


def test_standard_input_of_exactly_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for length, total in ((PAGE, PAGE), (PAGE + 1, None)):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(bytes(length))))
        assert read_sample("-", PAGE).total_bytes == total


def test_a_file_without_permission_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(CommandError, match=r"cannot read `.*`: permission denied \(EACCES\)") as caught:
        read_sample(str(tmp_path), PAGE)
    assert "permission" in caught.value.hint
