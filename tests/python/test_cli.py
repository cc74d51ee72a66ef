"""The command line says what happened, in words that were reviewed, and ends with the right status."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from frontswap import Frontswap, PlainRam, _frontswap, plugins
from frontswap.cli import COMMANDS, _output

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Outcome

pytestmark = pytest.mark.usefixtures("strangers_hidden")

PROGRAM = [sys.executable, "-c", "from frontswap.cli import main; main()"]

TEXTS = {
    "nothing": (),
    "version": ("--version",),
    "help": ("--help",),
    "help_backends": ("backends", "--help"),
    "help_check": ("check", "--help"),
    "help_codecs": ("codecs", "-h"),
    "unknown_command": ("chek",),
    "unknown_command_far": ("frobnicate",),
    "unknown_option": ("--frobnicate",),
    "unknown_option_near": ("check", "--pases", "3"),
    "missing_argument": ("codecs",),
    "bad_number": ("check", "--passes", "many"),
    "bad_range": ("check", "--passes", "0"),
    "bad_level": ("codecs", "--level", "99", "/dev/null"),
    "bad_size": ("codecs", "--sample", "12 parsecs", "/dev/null"),
    "bad_sample": ("codecs", "--sample", "1K", "/dev/null"),
    "missing_file": ("codecs", "/nothing/here"),
    "file_is_directory": ("codecs", "/"),
    "empty_file": ("codecs", "/dev/null"),
    "unknown_backend": ("check", "--backend", "zsdt"),
    "unknown_backend_near": ("check", "--backend", "zpol"),
    "unknown_setting": ("check", "--backend", "zpool,capcity=1M"),
    "bad_setting": ("check", "--backend", "zpool,level=fast"),
    "bad_spec": ("check", "--backend", "zpool,256MiB"),
    "bad_capacity": ("check", "--backend", "zpool,capacity=lots"),
    "zero_capacity": ("check", "--backend", "zpool,capacity=0"),
    "unknown_codec": ("check", "--backend", "zpool,capacity=1M,codec=zsdt"),
    "missing_place": ("check", "--backend", "file:/nothing/here"),
    "missing_config": ("check", "--config", "/nothing/here.toml"),
    "bad_limit": ("check", "--demote-limit", "fast"),
    "help_doctor": ("doctor", "--help"),
    "help_run": ("run", "--help"),
    "help_set": ("set", "--help"),
    "help_stats": ("stats", "--help"),
    "run_without_program": ("run", "--ram", "64M"),
    "run_without_ram": ("run", "true"),
    "run_zero_ram": ("run", "--ram", "0", "true"),
    "run_little_ram": ("run", "--ram", "1MiB", "--", "true"),
    "run_bad_ram": ("run", "--ram", "12 parsecs", "true"),
    "run_unknown_option": ("run", "--rom", "64M", "true"),
    "run_unknown_program": ("run", "--ram", "64M", "no-such-program", "--ram"),
    "run_directory": ("run", "--ram", "64M", "/"),
    "run_no_program": ("run", "--ram", "64M", "/proc/meminfo"),
    "run_plain_ram": ("run", "--ram", "64M", "--backend", "ram", "true"),
    "run_file_first": ("run", "--ram", "64M", "--backend", "file", "true"),
    "run_said_twice": ("run", "--ram", "64M", "--backend", "zpool", "--codec", "lz4", "true"),
    "run_unknown_codec": ("run", "--ram", "64M", "--codec", "zsdt", "true"),
    "run_figures_to_stdout": ("run", "--ram", "64M", "--stats", "-", "true"),
    "run_figures_nowhere": ("run", "--ram", "64M", "--stats", "/nothing/here.json", "true"),
    "run_missing_config": ("run", "--config", "/nothing/here.toml", "true"),
    "set_little_ram": ("set", "1", "--ram", "1MiB"),
    "set_no_process": ("set", "4194305", "--ram", "64MiB"),
    "set_no_pid": ("set", "--ram", "64MiB"),
    "stats_no_process": ("stats", "4194305"),
    "stats_bad_pid": ("stats", "top"),
    "wrong_order": ("check", "--backend", "file:/var/tmp,size=1M,direct=no", "--backend", "ram,capacity=1M"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_as_it_was_reviewed(
    run: Callable[..., Outcome], snapshot: Callable[[str, str], None], name: str
) -> None:
    text = run(*TEXTS[name]).as_text().replace(_frontswap.__version__, "VERSION")
    snapshot(name, text)


def test_every_snapshot_has_its_test() -> None:
    names = {path.stem for path in (Path(__file__).parent / "snapshots").glob("*.txt")}
    assert names == {*TEXTS, "backends", "backends_not_ready", "codecs", "check", "check_wrong", "check_kept", "bug"}


@pytest.mark.parametrize("name", TEXTS)
def test_an_error_follows_the_form(run: Callable[..., Outcome], name: str) -> None:
    outcome = run(*TEXTS[name])
    if outcome.status == 0 or name == "nothing":
        return
    assert outcome.stdout == ""
    assert re.fullmatch(r"frontswap: error: [^A-Z].*[^.\n]\n(  .*\n)*\nhint: .*[^.\n]\n", outcome.stderr)


def masked(text: str) -> str:
    """Return a text without its numbers, and without the spaces that depend on them."""
    text = re.sub(r"\d+(\.\d+)? ([KMG]i)?B\b", "SIZE", text.replace(sys.executable, "PYTHON"))
    text = re.sub(r"\d+(\.\d+)*", "#", text)
    return re.sub(r" +$", "", re.sub(r"(?<=\S)  +", "  ", text), flags=re.MULTILINE)


def test_backends(run: Callable[..., Outcome], snapshot: Callable[[str, str], None]) -> None:
    outcome = run("backends")
    snapshot("backends", masked(outcome.as_text()))
    document = json.loads(run("backends", "--json").stdout)
    assert document["schema"] == "frontswap.backends/1"
    assert [row["name"] for row in document["backends"]] == ["fault_inject", "file", "ram", "zpool"]
    assert {row["version"] for row in document["backends"]} == {_frontswap.__version__}
    assert all(row["is_ready"] and row["why_not"] is None for row in document["backends"])


def test_backends_says_why_one_is_not_ready(
    run: Callable[..., Outcome], snapshot: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [plugins.Plugin("tape", "tapes", "1.0", "no [tape] drive"), plugins.Plugin("zpool", "frontswap", "1", None)]
    monkeypatch.setattr(plugins, "available", lambda: rows)
    snapshot("backends_not_ready", masked(run("backends").as_text()))
    assert json.loads(run("backends", "--json").stdout)["backends"][0]["why_not"] == "no [tape] drive"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(b"".join(f"line {number} of some text\n".encode() for number in range(20_000)) + os.urandom(9000))
    return path


def test_codecs(run: Callable[..., Outcome], snapshot: Callable[[str, str], None], data: Path) -> None:
    outcome = run("codecs", str(data))
    snapshot("codecs", masked(outcome.as_text()).replace(masked(str(data)), "FILE"))


def test_codecs_for_programs(run: Callable[..., Outcome], data: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"less than a page")
    document = json.loads(run("codecs", "--json", "--level", "3", str(data), str(small)).stdout)
    assert document["schema"] == "frontswap.codecs/1"
    first, second = document["files"]
    assert (first["file_bytes"], first["sample_bytes"]) == (data.stat().st_size,) * 2
    assert first["pages"] == -(-data.stat().st_size // 4096)
    assert (second["pages"], second["sample_bytes"]) == (1, 16)
    for file in document["files"]:
        assert [row["codec"] for row in file["codecs"]] == list(_frontswap.CODECS)
        assert sum(row["picked_pages"] for row in file["codecs"]) == file["pages"]
        for row in file["codecs"]:
            assert row["orig_data_size"] == file["pages"] * 4096
            assert 0 < row["compr_data_size"] <= row["orig_data_size"]
            assert row["compress_ns"] > 0 < row["decompress_ns"]
            assert row["ratio"] == pytest.approx(row["orig_data_size"] / row["compr_data_size"], abs=0.001)
    by_codec = {row["codec"]: row for row in first["codecs"]}
    assert by_codec["zstd"]["compr_data_size"] < by_codec["lz4"]["compr_data_size"] < by_codec["raw"]["compr_data_size"]


def test_codecs_of_standard_input_and_of_a_sample(data: Path) -> None:
    with data.open("rb") as file:
        words = [*PROGRAM, "codecs", "--json", "--sample", "64KiB", "-", str(data)]
        result = subprocess.run(words, stdin=file, capture_output=True, check=True)
    first, second = json.loads(result.stdout)["files"]
    assert (first["name"], first["pages"], first["file_bytes"]) == ("standard input", 16, None)
    assert (second["pages"], second["file_bytes"]) == (16, data.stat().st_size)
    size = f"{data.stat().st_size / 1024:.2f} KiB"
    assert result.stderr.decode() == (
        "frontswap: `standard input` is longer than the sample: its first 64.00 KiB are used\n"
        f"frontswap: `{data}` is {size}: a sample of 64.00 KiB, evenly spread, is used\n"
    )


CHECK = ("check", "--sample", "1MiB")


def test_check(run: Callable[..., Outcome], snapshot: Callable[[str, str], None], data: Path) -> None:
    outcome = run(*CHECK, str(data))
    snapshot("check", masked(outcome.as_text()).replace(masked(str(data)), "FILE"))
    pages = 256 + -(-data.stat().st_size // 4096)
    assert outcome.stdout.endswith(
        f"{pages} pages ({pages / 256:.2f} MiB) of real data went through, every byte verified\n"
    )


def test_check_for_programs(run: Callable[..., Outcome], data: Path) -> None:
    document = json.loads(run(*CHECK, "--json", "--passes", "2", str(data)).stdout)
    assert document["schema"] == "frontswap.check/1"
    assert (document["passes"], document["wrong_pages"], document["kept_pages"]) == (2, 0, 0)
    assert document["pages"] == sum(source["pages"] for source in document["data"])
    assert document["compared_pages"] == 2 * 8 * document["pages"]
    assert document["stored_pages"] == pytest.approx(2 * 2 * document["pages"], abs=32)
    assert [source["name"] for source in document["data"]] == ["memory of this process", str(data)]
    stats = document["stats"]
    assert stats["schema"] == "frontswap.stats/1"
    assert [backend["kind"] for backend in stats["backends"]] == ["zpool", "file"]
    assert stats["backends"][0]["written_back_pages"] > 0
    held = sum(backend["stored_pages"] for backend in stats["backends"])
    assert held + stats["same_filled_pages"] == stats["stored_pages"] == document["pages"]


def test_check_says_when_a_page_is_wrong(
    run: Callable[..., Outcome], snapshot: Callable[[str, str], None], data: Path
) -> None:
    backend = "fault_inject:ram,capacity=16MiB,corrupt=1"
    outcome = run(*CHECK, "--backend", backend, str(data))
    assert outcome.status == 1
    text = re.sub(r"\b[0-9a-f]{32}\b", "CHECKSUM", outcome.as_text())
    snapshot("check_wrong", masked(text))
    assert "every byte verified" not in outcome.stdout
    assert "damaged page" in outcome.stderr


def test_check_says_when_pages_were_rejected(
    run: Callable[..., Outcome], snapshot: Callable[[str, str], None], data: Path
) -> None:
    outcome = run(*CHECK, "--backend", "ram,capacity=256KiB", str(data))
    assert outcome.status == 0
    snapshot("check_kept", masked(outcome.as_text()))
    document = json.loads(run(*CHECK, "--json", "--backend", "ram,capacity=256KiB", str(data)).stdout)
    assert document["kept_pages"] > 0


@pytest.mark.parametrize(
    "more",
    [
        ("--exclusive-loads",),
        ("--writethrough",),
        ("--demote-limit", "none", "--promote-limit", "1GiB"),
    ],
)
def test_check_with_other_settings(run: Callable[..., Outcome], more: tuple[str, ...]) -> None:
    outcome = run(*CHECK, *more)
    assert outcome.status == 0
    assert outcome.stdout.endswith("every byte verified\n")


CONFIG = """
promote_limit = "none"
[[backend]]
kind = "ram"
capacity = "1MiB"
[[backend]]
kind = "file"
place = "{place}"
size = "16MiB"
direct = false
"""


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    run: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chain.toml"
    path.write_text(CONFIG.format(place=tmp_path))

    def names(*words: str) -> list[str]:
        document = json.loads(run(*CHECK, "--json", *words).stdout)
        return [backend["name"] for backend in document["stats"]["backends"]]

    assert names("--config", str(path)) == ["ram", f"file:{tmp_path}"]
    monkeypatch.setenv("FRONTSWAP_CONFIG", str(path))
    assert names() == ["ram", f"file:{tmp_path}"]
    monkeypatch.setenv("FRONTSWAP_BACKEND", "zpool,capacity=8MiB ram,capacity=8MiB")
    assert names() == ["zpool", "ram"]
    assert names("--backend", "ram,capacity=8MiB") == ["ram"]


def test_a_setting_of_the_environment_is_checked_too(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRONTSWAP_PASSES", "many")
    outcome = run("check")
    assert (outcome.status, outcome.stdout) == (2, "")
    assert "`many` is not a valid integer" in outcome.stderr
    monkeypatch.setenv("FRONTSWAP_PASSES", "1")
    monkeypatch.setenv("FRONTSWAP_JSON", "1")
    assert json.loads(run("backends").stdout)["schema"] == "frontswap.backends/1"


def test_a_bug_is_ours(
    run: Callable[..., Outcome], snapshot: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        message = "it broke"
        raise RuntimeError(message)

    monkeypatch.setattr(plugins, "available", fail)
    outcome = run("backends")
    lines = [line for line in outcome.stderr.splitlines(keepends=True) if not line.startswith("  ")]
    snapshot("bug", f"exit {outcome.status}\n{''.join(lines)}")
    error = _frontswap.make_error("internal", operation="store", reason="a panic")

    def fail_inside() -> None:
        raise error

    monkeypatch.setattr(plugins, "available", fail_inside)
    assert run("backends").status == 70


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    words = [*PROGRAM, "check", "--passes", "1000", "--backend", f"file:{tmp_path},size=64MiB,direct=no"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        while "pass 1 of 1000" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.stdout.read() == ""
        assert process.wait(30) == 130
    assert rest.splitlines()[-1] == "frontswap: interrupted; nothing is left behind"
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_bug(data: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [*PROGRAM, "codecs", str(data)]
    result = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")


def on_a_terminal(words: list[str], **environment: str) -> str:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    variables = {"TERM": "xterm-256color", "PATH": os.environ["PATH"], **environment}
    process = subprocess.Popen([*PROGRAM, *words], stdout=theirs, stderr=theirs, stdin=theirs, env=variables)
    os.close(theirs)
    text = b""
    try:
        while chunk := os.read(ours, 65536):
            text += chunk
    except OSError:
        # The terminal's other side is closed: the program ended.
        pass
    process.wait(30)
    os.close(ours)
    return text.decode()


def test_colour_is_for_terminals_and_not_with_no_color(data: Path) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*m")
    wrong = ["check", "--backend", "nothing"]
    assert colour.search(on_a_terminal(wrong))
    assert not colour.search(on_a_terminal(wrong, NO_COLOR="1"))
    assert colour.search(on_a_terminal(["backends"]))
    table = on_a_terminal(["codecs", str(data)], NO_COLOR="1", COLUMNS="100")
    assert "\r\x1b[K" in table, "progress is overwritten"
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", table)


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    with _output.Progress() as progress:
        for step in range(12):
            progress.update(f"step {step}")
            now_s[0] += 1
    assert capsys.readouterr().err == "frontswap: step 5\nfrontswap: step 10\n"


def test_help_is_quick() -> None:
    slow = ["rich", "tomllib", "importlib.metadata", "frontswap.plugins", "frontswap.config"]
    code = (
        "import sys\nfrom frontswap.cli import main\n"
        "try:\n    main(['--help'])\n"
        f"finally:\n    print([name for name in {slow} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"

    def spent_s(words: list[str]) -> float:
        """Return the processor's time, which other programs here disturb less than the clock's."""
        times = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    assert spent_s([*PROGRAM, "--help"]) - spent_s([sys.executable, "-c", ""]) < 0.1


def test_the_console_script_is_main() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="frontswap")
    loaded: Any = script.load()
    assert loaded.__module__ == "frontswap.cli"


class LyingChain(Frontswap):
    """A chain that says missing for one page, gives another's bytes for a second, and keeps a third for ever."""

    def load(self, area: int, offset: int, out: Any, *, exclusive: bool | None = None) -> bool:
        if (area, offset) == (0, 1):
            return False
        return super().load(area, 3 if (area, offset) == (0, 2) else offset, out, exclusive=exclusive)

    def curr_pages(self) -> int:
        return max(1, super().curr_pages())


def test_check_finds_what_a_chain_does_wrong(make_page: Callable[[int], bytes]) -> None:
    from frontswap.cli._data import Sample
    from frontswap.cli.check import Check, SourceData

    data = b"".join(make_page(number) for number in range(20))
    with LyingChain([PlainRam("1MiB"), PlainRam("1MiB")]) as fs, _output.Progress() as progress:
        check = Check(fs, [SourceData(Sample("lies", data, len(data), len(data)))], progress, is_exclusive=False)
        check.run(1)
    assert check.wrong[:2] == ["page 1 of area 0 (lies): lost", "page 2 of area 0 (lies): other bytes than were stored"]
    # At one step page 2 has just been overwritten with the very bytes that the lie gives for it.
    assert check.wrong_pages == 8 + 7 + 1
    assert len(check.wrong) == 10
    assert check.compared_pages == 8 * 20


@pytest.mark.parametrize("words", [("backends",), ("backends", "--json"), (*CHECK, "--json"), CHECK])
def test_a_full_disk_is_no_bug(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run([*PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 1
    text = result.stderr.decode()
    assert "frontswap: error: cannot write the result to stdout: no space left on device (ENOSPC)\n\nhint: " in text
    assert "Traceback" not in text


def test_closed_streams() -> None:
    words = f"exec {shlex.join(PROGRAM)} backends >&-"
    result = subprocess.run(["/bin/sh", "-c", words], stderr=subprocess.PIPE, check=False)
    assert (result.returncode, b"stdout is closed" in result.stderr) == (1, True)
    words = f"exec {shlex.join(PROGRAM)} backends 2>&-"
    result = subprocess.run(["/bin/sh", "-c", words], stdout=subprocess.PIPE, check=False)
    assert (result.returncode, b"zpool" in result.stdout) == (0, True)


def test_check_says_when_a_backend_broke(run: Callable[..., Outcome]) -> None:
    words = (*CHECK, "--backend", "fault_inject:ram,capacity=16MiB,store_error=0.01")
    outcome = run(*words)
    assert outcome.status == 1
    assert "frontswap: error: backend `fault_inject:ram` " in outcome.stderr
    document = json.loads(run(*words, "--json").stdout)
    assert document["wrong_pages"] == 0
    assert len(document["broken"]) == 1


def test_an_impossible_chain_was_written_wrong(run: Callable[..., Outcome]) -> None:
    assert run("check", "--writethrough", "--backend", "ram,capacity=1MiB").status == 2
    assert run("check", "--backend", "file,size=1MiB,direct=no", "--backend", "ram,capacity=1MiB").status == 2


def test_help_says_of_a_command_what_the_command_says() -> None:
    for name, words in COMMANDS.items():
        command = importlib.import_module(f"frontswap.cli.{name}").command
        assert command.get_short_help_str(limit=100) == words


def test_help_imports_no_command() -> None:
    code = (
        "import sys, frontswap.cli\n"
        "try: frontswap.cli.main(['--help'])\n"
        "except SystemExit: print(sorted(set(sys.modules) & {f'frontswap.cli.{n}' for n in frontswap.cli.COMMANDS}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
