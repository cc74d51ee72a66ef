"""What is asked for in three places is put together: the command line over the environment over a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from frontswap import errors, units
from frontswap.config import parse_backend
from frontswap.programs import settings as module
from frontswap.programs.settings import Layer, RunSettings, Swap, check_ram_limit, read_layer, resolve

if TYPE_CHECKING:
    from pathlib import Path

MIB = 2**20


@pytest.fixture(autouse=True)
def machine_of_one_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (module, units):
        monkeypatch.setattr(owner, "machine_memory", lambda: 1024 * MIB)


def one(*backends: str, **values: str | int) -> RunSettings:
    values.setdefault("ram", "512MiB")
    found = resolve([Layer("the command line", values, tuple(map(parse_backend, backends)))])
    assert found is not None
    return found


def test_only_the_ram_has_to_be_said() -> None:
    assert resolve([]) is None
    assert resolve([Layer("the command line", {"codec": "lz4"})]) is None
    assert one() == RunSettings(ram_limit_bytes=512 * MIB, swap=Swap("/var/tmp", None, None))


def test_single_settings() -> None:
    assert one(swap="none").swap is None
    assert one(swap="/disk", swap_size="1GiB").swap == Swap("/disk", 1024 * MIB)
    assert one(swap_size="1GiB").swap == Swap("/var/tmp", 1024 * MIB)
    assert one(codec="zstd", pool_limit="64MiB").to_text().splitlines() == [
        "codec=zstd",
        "level=1",
        f"pool_limit_bytes={64 * MIB}",
        "swap=file",
    ]


def test_a_chain() -> None:
    assert one("zpool").swap is None
    chain = one("zpool,codec=zstd,level=3,capacity=100MiB,incompressible=reject", "file:/nvme,size=64GiB,direct=no")
    assert chain == RunSettings(
        ram_limit_bytes=512 * MIB,
        pool_limit_bytes=100 * MIB,
        codec="zstd",
        level=3,
        incompressible="reject",
        swap=Swap("/nvme", 64 * 1024 * MIB, direct=False),
    )
    assert one("zpool", "file").swap == Swap("/var/tmp", None, None)


def test_faults_for_tests() -> None:
    chain = one("fault_inject:zpool,reject=0.1,seed=7,codec=lz4", "file:/disk")
    assert chain.codec == "lz4"
    assert {"inject_seed=7", "inject_reject=0.1", "inject_delay_us=0"} <= set(chain.to_text().splitlines())
    assert "inject" not in one("zpool").to_text()


@pytest.mark.parametrize(
    ("backends", "error", "words"),
    [
        (["ram"], errors.BackendUnfitError, "plain RAM would hold a page where it is already"),
        (["file"], errors.BackendUnfitError, "the first backend is compressed RAM"),
        (["file", "zpool"], errors.BackendUnfitError, "the first backend is compressed RAM"),
        (["zpool", "zpool"], errors.BackendUnfitError, "it is in the chain twice"),
        (["zpool", "file", "file"], errors.BackendUnfitError, "it is in the chain twice"),
        (["zpool", "fault_inject:file,reject=1"], errors.BackendUnfitError, "it wraps `zpool` only"),
        (["fault_inject:fault_inject:zpool"], errors.BackendUnfitError, "only `zpool` and `file` can"),
        (["zpol"], errors.BackendUnknownError, "no backend named `zpol`"),
        (["fault_inject"], errors.OptionInvalidError, "it wraps another backend"),
        (["zpool,capcity=1M"], errors.OptionUnknownError, "no setting named `capcity`; known: `capacity`, `codec`"),
        (["zpool:/place"], errors.OptionInvalidError, "it has none"),
        (["zpool,codec=zsdt"], errors.CodecUnknownError, "no codec named `zsdt`"),
        (["zpool,level=99"], errors.OptionInvalidError, "it is not from -7 to 22"),
        (["zpool,capacity=1"], errors.OptionInvalidError, "below the least, 1.00 MiB"),
        (["zpool,capacity=0"], errors.CapacityInvalidError, "a capacity is above zero"),
        (["zpool,capacity=600MiB"], errors.OptionInvalidError, "more than all the RAM that there is"),
        (["zpool", "file,size=0"], errors.CapacityInvalidError, "a capacity is above zero"),
        (["zpool", "file,size=much"], errors.SizeInvalidError, "cannot read `much`"),
        (["zpool", "file,direct=perhaps"], errors.OptionInvalidError, "write `yes` or `no`"),
    ],
)
def test_a_chain_that_cannot_be(backends: list[str], error: type[errors.FrontswapError], words: str) -> None:
    with pytest.raises(error) as caught:
        one(*backends)
    assert words in f"{caught.value}; {caught.value.hint}"


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"codec": "zsdt"}, errors.CodecUnknownError, "no codec named `zsdt`"),
        ({"swap": ""}, errors.OptionInvalidError, "that is no path"),
        ({"swap": "a\0b"}, errors.OptionInvalidError, "that is no path"),
        ({"swap": 5}, errors.OptionInvalidError, "it is not text"),
        ({"swap": "none", "swap_size": "1G"}, errors.OptionInvalidError, "there is no swap file"),
        ({"swap_size": "0"}, errors.CapacityInvalidError, "a capacity is above zero"),
        ({"swap_size": 1.5}, errors.OptionInvalidError, "a size is a whole number"),
        ({"pool_limit": "600M"}, errors.OptionInvalidError, "more than all the RAM that there is"),
        ({"ram": "0"}, errors.RamLimitInvalidError, "no program runs without any"),
        ({"ram": "0%"}, errors.RamLimitInvalidError, "no program runs without any"),
        ({"ram": "31MiB"}, errors.RamLimitInvalidError, "31.00 MiB (32505856 bytes) is below the least, 32.00 MiB"),
        ({"ram": "2GiB"}, errors.RamLimitInvalidError, "is more than this machine has, 1.00 GiB (1073741824 bytes)"),
        ({"ram": "-1"}, errors.SizeInvalidError, "a size is not below zero"),
    ],
)
def test_a_setting_that_cannot_be(values: dict[str, str | int], error: type[errors.FrontswapError], words: str) -> None:
    with pytest.raises(error) as caught:
        one(**values)
    assert words in str(caught.value)


def test_the_limits_of_ram_themselves_can_be() -> None:
    assert check_ram_limit("32MiB") == 32 * MIB
    assert check_ram_limit("1GiB") == 1024 * MIB
    assert check_ram_limit("50%") == 512 * MIB


def test_what_is_stronger_wins() -> None:
    file = Layer("run.toml", {"ram": "1GiB", "swap": "/file", "codec": "lz4"})
    environment = Layer("the environment", {"ram": "256MiB", "swap": "/environment"})
    line = Layer("the command line", {"ram": "64MiB"})
    found = resolve([file, environment, line])
    assert found is not None
    assert (found.ram_limit_bytes, found.swap, found.codec) == (64 * MIB, Swap("/environment"), "lz4")


def test_a_chain_and_single_settings_from_different_places() -> None:
    chain = Layer("run.toml", {"ram": "1GiB"}, (parse_backend("zpool,codec=lz4,level=3"), parse_backend("file:/disk")))
    found = resolve([chain, Layer("the command line", {"codec": "zstd", "swap": "none"})])
    assert found is not None
    assert (found.codec, found.level, found.swap) == ("zstd", 3, None)
    single = Layer("the environment", {"ram": "1GiB", "codec": "zstd", "swap": "/disk"})
    found = resolve([single, Layer("the command line", {}, (parse_backend("zpool,level=3"),))])
    assert found is not None
    assert (found.codec, found.level, found.swap) == ("auto", 3, None)


def test_a_chain_and_a_single_setting_from_one_place_say_it_twice() -> None:
    with pytest.raises(errors.OptionInvalidError) as caught:
        one("zpool", swap="/disk")
    words = "cannot set `swap` of `run` to `/disk`: the command line names the whole chain by `backend`, "
    assert str(caught.value) == f"{words}which says it already"


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('ram = "64MiB"\n[[backend]]\nkind = "zpool"\ncodec = "zstd"\n')
    found = resolve([read_layer(str(path))])
    assert found == RunSettings(ram_limit_bytes=64 * MIB, codec="zstd", swap=None)
    path.write_text('ram = "64MiB"\nswap_sise = "1G"\n')
    with pytest.raises(errors.OptionUnknownError) as caught:
        read_layer(str(path))
    assert caught.value.hint == "did you mean `swap_size`?"
    assert "known: `codec`, `pool_limit`, `ram`, `swap`, `swap_size`" in str(caught.value)
    with pytest.raises(errors.ConfigInvalidError):
        read_layer(str(tmp_path))
