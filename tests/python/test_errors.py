"""Every error is a row of the one table: class, built-in, code and hint; the documentation is made from it."""

from __future__ import annotations

import builtins
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

import frontswap
from frontswap import _docs, _frontswap, errors
from frontswap.errors import FrontswapError, class_for

DOCS = Path(__file__).parents[2] / "docs"
KINDS = _frontswap.error_kinds()


def test_the_classes_are_the_table() -> None:
    classes = {cls.code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, FrontswapError)}
    assert classes - {""} == {code for code, *_ in KINDS}


@pytest.mark.parametrize(("code", "builtin", "template", "hint"), KINDS, ids=[kind[0] for kind in KINDS])
def test_a_kind_has_its_class(code: str, builtin: str, template: str, hint: str) -> None:
    cls = class_for(code)
    assert cls.code == code
    assert cls.__name__ == "".join(word.capitalize() for word in code.split("-")) + "Error"
    assert cls.__mro__[1] is FrontswapError
    assert issubclass(cls, getattr(builtins, builtin))
    fields: dict[str, Any] = {name: f"<{name}>" for name in re.findall(r"{(\w+)}", template + hint)}
    error = _frontswap.make_error(code, **fields)
    assert type(error) is cls
    assert str(error) == template.format(**fields)
    assert error.hint == hint.format(**fields)
    assert error.errno is None


@pytest.mark.parametrize("code", [kind[0] for kind in KINDS])
def test_an_error_survives_the_way_to_another_process(code: str) -> None:
    error = class_for(code)("it failed", hint="mend it", errno=28)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.hint, again.errno) == ("it failed", "mend it", 28)


def test_a_bad_field_is_a_bug_that_is_said() -> None:
    with pytest.raises(Exception, match="no-such-kind"):
        _frontswap.make_error("no-such-kind")


@pytest.mark.parametrize("page", ["errors.md", "cli.md"])
def test_the_made_parts_of_the_documentation_are_current(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    assert "<!-- made:" in text
    assert _docs.refresh(text) == text, f"run `python -m frontswap._docs docs/{page}`"


def test_the_documentation_can_be_made(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- made: errors -->\nout of date\n<!-- end -->\nafter\n")
    _docs.main([str(page)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "out of date" not in text
    assert all(f"### `{code}`" in text for code, *_ in KINDS)
    with pytest.raises(KeyError):
        _docs.refresh("<!-- made: frontswap nothing -->\n<!-- end -->")


def test_the_base_is_exported() -> None:
    assert frontswap.FrontswapError is FrontswapError
