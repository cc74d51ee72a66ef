"""The stub of the native module is what the module is, and the package's types are sound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_stub_is_the_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "frontswap._frontswap", "--mypy-config-file", "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_importing_the_package_imports_nothing_slow() -> None:
    slow = ["click", "dataclasses", "difflib", "rich", "tomllib", "importlib.metadata", "numpy", "hypothesis", "pytest"]
    code = f"import sys, frontswap; print([name for name in {slow} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
