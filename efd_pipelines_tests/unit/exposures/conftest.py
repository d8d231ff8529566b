"""An observatory in a directory of the test's own: archive, SQLite, a configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from efd_pipelines_tests.unit.exposures.builders import Observatory, a_configuration


@pytest.fixture
def observatory_with(tmp_path: Path) -> Callable[..., Observatory]:
    """An observatory whose join has these columns (YAML texts)."""

    def build(*columns: str, **join: Any) -> Observatory:
        return Observatory.at(tmp_path, config=a_configuration(tmp_path, columns), **join)

    return build
