"""Archives to ask, in a directory of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from efd_pipelines.client import EfdArchive
from efd_pipelines_tests.unit.exports.builders import ArchiveBuilder


@pytest.fixture
def builder(tmp_path: Path) -> ArchiveBuilder:
    return ArchiveBuilder(str(tmp_path / "archive"))


@pytest.fixture
def archive(builder: ArchiveBuilder) -> EfdArchive:
    return EfdArchive(settings=builder.archive.settings)
