from pathlib import Path

import pytest
from frontswap_shelf import Shelf

from frontswap.testing import BackendTests


class TestShelf(BackendTests):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Shelf:
        return Shelf(tmp_path)
