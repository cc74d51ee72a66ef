"""What a person writes about a chain is read to the letter; what does not exist is named with what does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from frontswap import Frontswap
from frontswap.config import BackendSpec, ChainConfig, parse_backend, read_config
from frontswap.errors import (
    BackendUnknownError,
    CodecUnknownError,
    ConfigInvalidError,
    FrontswapError,
    OptionInvalidError,
    OptionUnknownError,
    SizeInvalidError,
)
from frontswap.options import Options

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("strangers_hidden")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("zpool", BackendSpec("zpool")),
        ("zpool,capacity=1MiB,codec=lz4", BackendSpec("zpool", "", {"capacity": "1MiB", "codec": "lz4"})),
        ("file:/var/tmp", BackendSpec("file", "/var/tmp")),
        ("file:/a:b,size=4GiB", BackendSpec("file", "/a:b", {"size": "4GiB"})),
        ("ram,note=a=b", BackendSpec("ram", "", {"note": "a=b"})),
    ],
)
def test_a_backend_is_read(text: str, spec: BackendSpec) -> None:
    assert parse_backend(text) == spec


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it names no backend"),
        (":/var/tmp", "it names no backend"),
        ("zpool,256MiB", "`256MiB` is not `key=value`"),
        ("zpool,", "`` is not `key=value`"),
        ("zpool,=1", "`=1` is not `key=value`"),
        ("zpool,level=1,level=2", "`level` is set twice"),
    ],
)
def test_a_backend_of_another_shape_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        parse_backend(text)
    assert reason in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "error", "words", "hint"),
    [
        (
            "zsdt",
            BackendUnknownError,
            "no backend named `zsdt`; known: `fault_inject`, `file`, `ram`, `zpool`",
            "did you mean `zstd`? That is a codec: `--backend zpool,codec=zstd`",
        ),
        ("zstd", BackendUnknownError, "no backend named `zstd`", "`zstd` is a codec: `--backend zpool,codec=zstd`"),
        ("zpol", BackendUnknownError, "no backend named `zpol`", "did you mean `zpool`?"),
        ("qqq", BackendUnknownError, "no backend named `qqq`", "`frontswap backends` lists those that are installed"),
        ("zpool:here", OptionInvalidError, "cannot set `place` of `zpool` to `here`: it has none", "write `zpool,"),
        (
            "zpool,capcity=1M",
            OptionUnknownError,
            "`zpool` has no setting named `capcity`; known: `capacity`, `codec`, `incompressible`, `level`",
            "did you mean `capacity`?",
        ),
        ("ram,x=1", OptionUnknownError, "`ram` has no setting named `x`; known: `capacity`", "remove it"),
        ("zpool,level=fast", OptionInvalidError, "to `fast`: it is not a whole number", "correct the value"),
        (
            "zpool,capacity=1M,level=1000",
            OptionInvalidError,
            "cannot set `level` of `zpool` to `1000`: it is not from -7 to 22",
            "correct",
        ),
        ("zpool,capacity=1M,codec=zsdt", CodecUnknownError, "no codec named `zsdt`; known: ", "frontswap codecs"),
        ("zpool,incompressible=drop", OptionInvalidError, "known: `keep`, `reject`", "correct the value"),
        ("zpool,incompressible=rejekt", OptionInvalidError, "known: `keep`, `reject`", "did you mean `reject`?"),
        ("zpool,capacity=lots", SizeInvalidError, "cannot read `lots` as a size", "write a number of bytes"),
        ("file:/var/tmp,direct=maybe", OptionInvalidError, "`maybe`: write `yes` or `no`", "correct the value"),
        ("fault_inject", OptionInvalidError, "it wraps another backend", "write `fault_inject:zpool`"),
        ("fault_inject:ram,reject=2", OptionInvalidError, "it is not from 0 to 1", "correct the value"),
        ("fault_inject:ram,reject=x", OptionInvalidError, "it is not a number", "correct the value"),
        ("fault_inject:ram,x=2", OptionUnknownError, "`ram` has no setting named `x`", "remove it"),
        ("fault_inject:zpol", BackendUnknownError, "no backend named `zpol`", "did you mean `zpool`?"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(
    text: str, error: type[FrontswapError], words: str, hint: str
) -> None:
    with pytest.raises(error) as caught:
        parse_backend(text).build()
    assert words in str(caught.value)
    assert hint in caught.value.hint


def test_a_wrong_size_says_whose_it_is() -> None:
    with pytest.raises(SizeInvalidError) as caught:
        parse_backend("zpool,capacity=lots").build()
    assert caught.value.__notes__ == ["this is `capacity` of `zpool`"]


def test_settings_reach_the_backend(tmp_path: Path) -> None:
    text = f"fault_inject:file:{tmp_path},size=8MiB,direct=no,reject=1,seed=7,delay_us=1"
    with parse_backend(text).build() as backend:
        assert backend.capacity == 8 * 2**20
        backend.init(0, 1)
        assert backend.store(0, 0, bytes(4096)).reason == "other"


COMPLETE = """
writethrough = false
exclusive_loads = true
demote_limit = "none"
promote_limit = "32MiB"

[[backend]]
kind = "zpool"
capacity = "16MiB"
codec = "zstd"
level = 3

[[backend]]
kind = "file"
place = "{place}"
size = 16777216
direct = false
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "chain.toml"
    path.write_text(text)
    return path


def test_a_complete_file_becomes_a_chain(tmp_path: Path) -> None:
    path = write(tmp_path, COMPLETE.format(place=tmp_path))
    config = read_config(path)
    assert (config.exclusive_loads, config.demote_limit, config.promote_limit) == (True, None, 32 * 2**20)
    with Frontswap.from_config(path) as fs:
        assert [backend.name for backend in fs.backends] == ["zpool", f"file:{tmp_path}"]
        assert [backend.capacity for backend in fs.backends] == [16 * 2**20, 16 * 2**20]
        fs.init(0, 1)
        assert fs.store(0, 0, bytes(range(256)) * 16)
        assert fs.load(0, 0, bytearray(4096))
        assert not fs.load(0, 0, bytearray(4096)), "the load was exclusive"


def test_an_empty_file_is_a_chain_without_backends(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, "")) == ChainConfig(promote_limit=64 * 2**20)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("writethrough = maybe", ConfigInvalidError, "invalid value"),
        ("backend = 3", ConfigInvalidError, "`backend` is not a list of tables"),
        ("[backend]\nkind = 'ram'", ConfigInvalidError, "`backend` is not a list of tables"),
        ("[[backend]]\ncapacity = '1MiB'", ConfigInvalidError, "backend 1 has no `kind`"),
        ("[[backend]]\nkind = 3", ConfigInvalidError, "backend 1 has no `kind`"),
        ("[[backend]]\nkind = 'file'\nplace = 3", ConfigInvalidError, "`place` of backend 1 is not text"),
        ("[[backend]]\nkind = 'ram'\ncapacity = [1]", ConfigInvalidError, "`capacity` of backend 1 is neither"),
        ("writethru = true", OptionUnknownError, "has no setting named `writethru`; known: `demote_limit`, "),
        ("writethrough = 3", OptionInvalidError, "cannot set `writethrough` of"),
        ("promote_limit = 'quick'", SizeInvalidError, "cannot read `quick` as a size"),
        ("promote_limit = 1.5", OptionInvalidError, "a size is a whole number of bytes"),
        ("promote_limit = true", SizeInvalidError, "not bool"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, error: type[FrontswapError], words: str) -> None:
    with pytest.raises(error) as caught:
        read_config(write(tmp_path, text))
    assert words in str(caught.value)
    assert caught.value.hint


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalidError, match="no such file or directory") as caught:
        read_config(tmp_path / "none.toml")
    assert caught.value.errno == 2
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigInvalidError, match="codec can't decode"):
        read_config(tmp_path / "binary.toml")


def test_when_one_backend_cannot_be_built_the_others_are_closed(tmp_path: Path) -> None:
    specs = (BackendSpec("file", str(tmp_path), {"size": "4MiB", "direct": False}), BackendSpec("nothing"))
    with pytest.raises(BackendUnknownError):
        ChainConfig(backends=specs).build()
    assert not open_files_in(tmp_path)


def open_files_in(folder: Path) -> list[str]:
    import os
    from pathlib import Path

    names = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return [name for name in names if name.startswith(os.fspath(folder))]


@pytest.mark.parametrize(
    ("value", "expected"), [("yes", True), ("On", True), ("1", True), (True, True), ("no", False), ("false", False)]
)
def test_a_flag_is_read(value: Any, expected: bool) -> None:
    assert Options("x", {"key": value}).flag("key", default=not expected) is expected


@pytest.mark.parametrize("value", [1.5, True, "1.5", "", -1, "10"])
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(OptionInvalidError):
        Options("x", {"key": value}).integer("key", 1, least=0, most=9)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(OptionInvalidError, match="it is not text"):
        Options("x", {"key": 3}).text("key", "word")


def test_a_known_setting_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "chain.toml"
    path.write_text("colour = 1\n")
    with pytest.raises(OptionUnknownError) as caught:
        read_config(path)
    assert str(caught.value).count("`promote_limit`") == 1
