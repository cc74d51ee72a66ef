"""The conformance kit on everything that we ship: each backend, with and without faults, and chains of them.

Small capacities, so that demotion, promotion and rejection happen all the time. `FRONTSWAP_HYPOTHESIS_PROFILE=long`
lets the state machines run for longer.
"""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from frontswap import Backend, CompressedRam, FaultInject, Frontswap, FrontswapError, PlainRam, SwapFile
from frontswap.errors import BackendBrokenError, PageCorruptError, PageUnreadableError
from frontswap.testing import (
    BackendTests,
    DictBackend,
    FrontswapMachine,
    FrontswapTests,
    make_page,
    run_machine,
    sample_pages,
)
from frontswap.testing.checks import check_held, check_load_fails, hammer, offer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCS = Path(__file__).parents[2] / "docs"
REJECT_SHARES = [0.0, 1 / 9, 0.5, 1.0]
CODECS = ["auto", "lz4", "zstd", "shuffle2", "shuffle4", "shuffle8", "raw"]


class TestPlainRam(BackendTests):
    has_capacity = True

    @pytest.fixture
    def backend(self) -> PlainRam:
        return PlainRam("8MiB")


class TestCompressedRam(BackendTests):
    has_capacity = True

    @pytest.fixture(params=CODECS)
    def backend(self, request: pytest.FixtureRequest) -> CompressedRam:
        return CompressedRam("8MiB", codec=request.param)


class TestCompressedRamThatRejects(BackendTests):
    has_capacity = True
    accepted_share_min = 0.5  # the kinds that are mostly random bytes do not compress
    filler_kind = "half_random"

    @pytest.fixture
    def backend(self) -> CompressedRam:
        return CompressedRam("8MiB", incompressible="reject")


class TestSwapFile(BackendTests):
    has_capacity = True

    @pytest.fixture
    def backend(self, tmp_path: Path) -> SwapFile:
        return SwapFile(tmp_path, size="8MiB", direct=False)


class TestSwapFileWithDirectIo(BackendTests):
    has_capacity = True

    @pytest.fixture
    def backend(self) -> Iterator[SwapFile]:
        # Temporary directories are often in RAM, where there may be no direct I/O.
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            yield SwapFile(folder, size="8MiB")


class TestFaultInjectThatRejects(BackendTests):
    has_capacity = True
    accepted_share_min = 0.0

    @pytest.fixture(params=REJECT_SHARES)
    def backend(self, request: pytest.FixtureRequest) -> FaultInject:
        return FaultInject(PlainRam("8MiB"), seed=3, reject=request.param)


class TestFaultInjectThatDelays(BackendTests):
    has_capacity = True

    @pytest.fixture
    def backend(self) -> FaultInject:
        return FaultInject(CompressedRam("8MiB"), delay_us=50)


class TestDictBackend(BackendTests):
    @pytest.fixture
    def backend(self) -> DictBackend:
        return DictBackend("a")

    def damage(self, backend: Backend, area: int, offset: int) -> bool:
        assert isinstance(backend, DictBackend)
        backend.pages[area, offset] = make_page("text", 999)
        return True


class TestVolatileDictBackend(TestDictBackend):
    volatile = True

    @pytest.fixture
    def backend(self) -> DictBackend:
        return DictBackend("a", volatile=True)


class TestFrontswap(FrontswapTests):
    @pytest.fixture
    def frontswap_factory(self) -> Callable[..., Frontswap]:
        return Frontswap


def swap_file() -> SwapFile:
    return SwapFile("/var/tmp", size="1MiB")


def faulty(inner: Backend, fault: str, chance: float) -> FaultInject:
    return FaultInject(inner, load_error=chance) if fault == "load_error" else FaultInject(inner, corrupt=chance)


CHAINS: dict[str, Callable[[float], list[Backend]]] = {
    "ram": lambda reject: [FaultInject(PlainRam("128KiB"), reject=reject)],
    "zpool": lambda reject: [FaultInject(CompressedRam("128KiB"), reject=reject)],
    "file": lambda reject: [FaultInject(swap_file(), reject=reject)],
    "zpool-file": lambda reject: [FaultInject(CompressedRam("128KiB"), reject=reject), swap_file()],
    "ram-zpool": lambda reject: [PlainRam("128KiB"), FaultInject(CompressedRam("128KiB"), reject=reject)],
    "zpool-ram-file": lambda reject: [
        FaultInject(CompressedRam("128KiB", incompressible="reject"), seed=1, reject=reject),
        FaultInject(PlainRam("64KiB"), seed=2, reject=reject),
        FaultInject(swap_file(), seed=3, reject=reject),
    ],
    "dict-dict": lambda reject: [FaultInject(DictBackend("a"), reject=reject), DictBackend("b", slow=True)],
}


def spare() -> Backend:
    return CompressedRam("128KiB")


@pytest.mark.parametrize("reject", REJECT_SHARES, ids=["takes-all", "rejects-1-in-9", "rejects-half", "takes-nothing"])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_agrees_with_a_dictionary(chain: str, reject: float) -> None:
    run_machine(lambda: FrontswapMachine(lambda: Frontswap(CHAINS[chain](reject)), make_backend=spare))


@pytest.mark.parametrize("reject", REJECT_SHARES[:3])
def test_writethrough_agrees_with_a_dictionary(reject: float) -> None:
    def make() -> Frontswap:
        fast = FaultInject(CompressedRam("128KiB"), reject=reject)
        return Frontswap([fast, PlainRam("64KiB"), swap_file()], writethrough=True)

    run_machine(lambda: FrontswapMachine(make, make_backend=spare, is_writethrough=True))


@pytest.mark.parametrize("is_writethrough", [False, True])
def test_exclusive_loads_agree_with_a_dictionary(is_writethrough: bool) -> None:
    def make() -> Frontswap:
        backends = [CompressedRam("128KiB"), swap_file()]
        return Frontswap(backends, exclusive_loads=True, writethrough=is_writethrough)

    run_machine(
        lambda: FrontswapMachine(make, make_backend=spare, is_writethrough=is_writethrough, exclusive_loads=True)
    )


def test_a_chain_without_backends_agrees_with_a_dictionary() -> None:
    run_machine(lambda: FrontswapMachine(Frontswap, make_backend=lambda: PlainRam("64KiB")))


@pytest.mark.parametrize("exclusive_loads", [False, True])
@pytest.mark.parametrize("fault", ["load_error", "corrupt"])
def test_a_chain_with_faults_never_gives_wrong_bytes(fault: str, exclusive_loads: bool) -> None:
    def make() -> Frontswap:
        backends = [faulty(CompressedRam("128KiB"), fault, 0.1), swap_file()]
        return Frontswap(backends, exclusive_loads=exclusive_loads)

    run_machine(lambda: FrontswapMachine(make, make_backend=spare, exclusive_loads=exclusive_loads, has_faults=True))


@pytest.mark.parametrize("fault", ["load_error", "corrupt"])
def test_writethrough_hides_the_faults_of_a_fast_backend(fault: str) -> None:
    with Frontswap([faulty(PlainRam("1MiB"), fault, 0.5), swap_file()], writethrough=True) as fs:
        fs.init(0, 1000)
        held = {(0, offset): page for offset, page in enumerate(sample_pages(100)) if offer(fs, (0, offset), page)}
        for _ in range(3):
            check_held(fs, held)


@pytest.mark.parametrize(("fault", "kind"), [("load_error", PageUnreadableError), ("corrupt", PageCorruptError)])
@pytest.mark.parametrize("make", [lambda: PlainRam("1MiB"), lambda: CompressedRam("1MiB"), swap_file])
def test_a_page_that_cannot_be_given_back_is_an_error_that_names_it(
    make: Callable[[], Backend], fault: str, kind: type[FrontswapError]
) -> None:
    with Frontswap([faulty(make(), fault, 1.0)]) as fs:
        fs.init(7, 1000)
        assert offer(fs, (7, 123), make_page("heap", 1))
        check_load_fails(fs, (7, 123), kind, fs.backends[0].name)
        assert (fs.curr_pages(), fs.stats().load_errors, fs.stats().loads) == (1, 1, 0)


def test_a_backend_that_breaks_is_taken_out_of_storing_and_still_gives_its_pages() -> None:
    breaking = FaultInject(CompressedRam("1MiB"), seed=5, store_error=0.05)
    with Frontswap([breaking, swap_file()]) as fs:
        fs.init(0, 1000)
        held = {(0, offset): make_page("text", offset) for offset in range(200)}
        answers = [offer(fs, key, page) for key, page in held.items()]
        assert all(answers)
        assert breaking.state == "broken"
        assert breaking.native.broken_reason
        first = [answer.backend for answer in answers].index(fs.backends[1].name)
        assert {answer.backend for answer in answers[:first]} == {breaking.name}
        assert {answer.backend for answer in answers[first:]} == {fs.backends[1].name}
        assert breaking.stats().stored_pages == first > 0
        check_held(fs, held)
        fs.remove_backend(breaking)
        check_held(fs, held)


def test_a_lone_backend_that_breaks_says_so() -> None:
    with FaultInject(PlainRam("1MiB"), store_error=1.0) as backend:
        backend.init(0, 10)
        with pytest.raises(BackendBrokenError, match=re.escape(backend.name)):
            backend.store(0, 0, make_page("text", 0))
        assert backend.state == "broken"
        assert backend.store(0, 0, make_page("text", 0)).reason == "closing"


def test_threads_on_a_chain_under_pressure_lose_nothing() -> None:
    """Demotion, promotion, capacity changes, and backends that come and go, while four threads check every byte."""
    with Frontswap([CompressedRam("256KiB"), PlainRam("256KiB"), SwapFile("/var/tmp", size="8MiB")]) as fs:
        fs.init(0, 1 << 20)
        held: dict[tuple[int, int], bytes] = {}
        for round_number in range(4):
            area = round_number + 1
            fs.init(area, 1 << 20)
            held |= hammer(fs, area, threads=4, steps=400, keys=64)
            fs.backends[0].capacity = ("64KiB", "1MiB")[round_number % 2]
            if round_number % 2:
                gone = fs.backends[1]
                fs.remove_backend(gone)
                gone.close()
            else:
                fs.add_backend(PlainRam("128KiB"), position=1)
            check_held(fs, held)
            assert fs.curr_pages() == len(held)


@pytest.mark.parametrize(
    "name", ["backend_tests", "dict_backend", "frontswap_tests", "machines", "pages"], ids=lambda name: name
)
def test_the_examples_of_the_kit_run(name: str) -> None:
    module: Any = importlib.import_module(f"frontswap.testing.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


def test_the_contract_names_every_rule_and_its_test() -> None:
    text = (DOCS / "contract.md").read_text("utf-8")
    rules = [f"B{number}" for number in range(1, 12)] + [f"F{number}" for number in range(1, 13)]
    assert re.findall(r"^\| \*\*([BF]\d+) ", text, re.MULTILINE) == rules
    kit = {name for cls in (BackendTests, FrontswapTests) for name in dir(cls) if name.startswith("test_")}
    assert set(re.findall(r"`(test_\w+)`", text)) == kit - {"test_describes_itself"}
    for line in re.findall(r"^\| \*\*[BF].*", text, re.MULTILINE):
        rule = line.split("**")[1].split()[0].lower()
        assert all(name.startswith(f"test_{rule}_") for name in re.findall(r"`(test_\w+)`", line)), line


def test_the_page_about_testing_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "testing.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "testing.md", "exec"), names)
    names["TestDict"]().test_b10_wrong_data_is_worse_than_none(names["DictBackend"]())
    with names["Shelf"](tmp_path) as shelf:
        names["TestShelf"]().test_b4_no_stale_data(shelf)
    names["test_a_chain_agrees_with_a_dictionary"](tmp_path)
    text = (DOCS / "testing.md").read_text("utf-8")
    for name in ("volatile", "has_capacity", "accepted_share_min", "room_pages", "filler_kind"):
        default = getattr(BackendTests, name)
        assert f"| `{name}` | `{default!r}` |".replace("'", '"') in text


@pytest.mark.parametrize("missing", ["pytest", "hypothesis"])
def test_the_kit_says_what_it_needs(missing: str) -> None:
    program = f"import sys; sys.modules['{missing}'] = None; import frontswap.testing"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    last = outcome.stderr.splitlines()[-1]
    assert last == (f'ImportError: frontswap.testing needs `{missing}`; hint: pip install "frontswap[testing]"')


def test_an_unknown_profile_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_HYPOTHESIS_PROFILE", "eternal")
    with pytest.raises(ValueError, match="known: `default`, `long`"):
        run_machine(lambda: FrontswapMachine(Frontswap))
