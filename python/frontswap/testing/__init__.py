"""The conformance kit: the rules of the contract as tests, for our backends and for anybody's.

`BackendTests` is a pytest class that proves one backend (rules B1 to B11) from one fixture; `FrontswapTests` proves
a chain (F1 to F12); `BackendMachine` and `FrontswapMachine` are Hypothesis state machines that compare a backend or
a chain with a dictionary over random operations. `docs/testing.md` shows how to use them, `docs/contract.md` which
rule is checked where. Needs the extra `testing`: `pip install "frontswap[testing]"`.
"""

import importlib.util

_missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
if _missing:
    _words = " and ".join(f"`{name}`" for name in _missing)
    _message = f'frontswap.testing needs {_words}; hint: pip install "frontswap[testing]"'
    raise ImportError(_message)

import pytest  # noqa: E402 - what is missing is said first

# Failed assertions of these modules then show their values, as in a test file.
pytest.register_assert_rewrite(
    *(f"frontswap.testing.{name}" for name in ("backend_tests", "checks", "frontswap_tests", "machines"))
)

from frontswap.testing.backend_tests import BackendTests  # noqa: E402
from frontswap.testing.dict_backend import DictBackend  # noqa: E402
from frontswap.testing.frontswap_tests import FrontswapTests  # noqa: E402
from frontswap.testing.machines import BackendMachine, FrontswapMachine, run_machine  # noqa: E402
from frontswap.testing.pages import PAGE_KINDS, make_page, pages, sample_pages  # noqa: E402

__all__ = [
    "PAGE_KINDS",
    "BackendMachine",
    "BackendTests",
    "DictBackend",
    "FrontswapMachine",
    "FrontswapTests",
    "make_page",
    "pages",
    "run_machine",
    "sample_pages",
]
