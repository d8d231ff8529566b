"""An archive in a directory, and what its tables are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines_tests.unit.tiers.builders import an_archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return an_archive(str(tmp_path / "archive"))
