"""An archive in a directory, whose ledger says what the test says: enough for a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.ledger_rows import LedgerRow
from efd_pipelines.settings import load_settings
from efd_pipelines.times import microseconds
from efd_pipelines.topics.names import Dataset

ARRIVED = datetime(2026, 11, 3, 5, tzinfo=UTC)


def entry(topic: str, week: str, rows: int, *, avro: int = 0, parquet: int = 0, **other: Any) -> LedgerRow:
    """One row of the ledger: what a commit added to a week (negative where it took)."""
    row = LedgerRow(
        table="raw", dataset=Dataset.parse(topic), version=0, week=week, slice="", commit_kind="drain", rows=rows,
        bytes=parquet, files=1, avro_bytes=avro, time_min_us=None, time_max_us=None, records=rows, positions={},
        epochs={}, gaps=[], schemas=[], at_us=microseconds(other.pop("at", ARRIVED)), run="test",
    )  # fmt: skip
    return replace(row, **other)


def objects(archive: Archive) -> dict[str, bytes]:
    """What lies in the archive's directory outside the ledger, by path."""
    root = Path(str(archive.store.root))
    paths = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if not name.startswith("ledger/")}


@pytest.fixture
def archive_of(tmp_path: Path) -> Callable[..., Archive]:
    def made(*rows: LedgerRow) -> Archive:
        archive = Archive(load_settings({}, None, archive=str(tmp_path / "archive")))
        archive.ledger.append([replace(row, version=version) for version, row in enumerate(rows)])
        return archive

    return made
