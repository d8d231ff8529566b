"""A ledger in memory and an archive that keeps what is written to it: enough for a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from efd_pipelines.topics.names import Dataset

LEDGER = pa.schema(
    {
        "dataset": pa.string(),
        "component": pa.string(),
        "kind": pa.string(),
        "table": pa.string(),
        "week": pa.string(),
        "commit_kind": pa.string(),
        "rows": pa.int64(),
        "bytes": pa.int64(),
        "files": pa.int64(),
        "avro_bytes": pa.int64(),
        "at": pa.timestamp("us", tz="UTC"),
        "sealed": pa.string(),
    }
)
ARRIVED = datetime(2026, 11, 3, 5, tzinfo=UTC)


def entry(topic: str, week: str, rows: int, *, avro: int = 0, parquet: int = 0, **other: Any) -> dict[str, Any]:
    """One row of the ledger: what a commit added to a week (negative where it took)."""
    dataset = Dataset.parse(topic)
    row = {
        "dataset": topic,
        "component": dataset.component,
        "kind": dataset.kind.value,
        "table": "raw",
        "week": week,
        "commit_kind": "drain",
        "rows": rows,
        "bytes": parquet,
        "files": 1,
        "avro_bytes": avro,
        "at": ARRIVED,
    }
    return row | other


class FakeLedger:
    """Rows given by the test."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.error: Exception | None = None

    def catch_up_pending(self) -> None:
        if self.error is not None:
            raise self.error

    def table(self) -> pa.Table:
        return pa.Table.from_pylist(self.rows, LEDGER)


@dataclass
class FakeStore:
    """Keeps what is written."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def write_bytes(self, relative: str, data: bytes) -> None:
        self.objects[relative] = data

    def uri(self, relative: str) -> str:
        return f"mem/{relative}"


@dataclass
class FakeArchive:
    ledger: FakeLedger
    store: FakeStore = field(default_factory=FakeStore)


@pytest.fixture
def archive_of() -> Callable[..., FakeArchive]:
    return lambda *rows: FakeArchive(FakeLedger(list(rows)))
