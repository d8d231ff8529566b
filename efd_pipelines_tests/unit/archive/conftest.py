"""An archive in a directory, and rows to put into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.settings import load_settings


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(load_settings({}, None, archive=str(tmp_path / "archive")))
