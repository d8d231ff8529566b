"""Dead letters: the frames that could not be decoded, whole, with their coordinates and the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.archive.reading import read_file, wanted_schema
from efd_pipelines.archive.slices import DEAD
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

_COLUMNS = (
    "kafka_partition",
    "kafka_offset",
    "kafka_timestamp",
    "kafka_key",
    "archive_source",
    "archive_frame",
    "archive_reason",
)


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead of a dataset with one reason."""

    topic: str
    reason: str
    count: int
    first: datetime | None
    last: datetime | None


def dead_letters(archive: Archive, datasets: Sequence[Dataset] | None = None) -> list[DeadLetters]:
    """The dead by dataset and reason, the most first; `first` and `last` are Kafka's time stamps."""
    found: list[DeadLetters] = []
    for dataset in _with_dead(archive) if datasets is None else datasets:
        frames = dead_frames(archive, dataset).select(["archive_reason", "kafka_timestamp"])
        grouped = frames.group_by("archive_reason").aggregate(
            [("kafka_timestamp", "count"), ("kafka_timestamp", "min"), ("kafka_timestamp", "max")]
        )
        found += [
            DeadLetters(
                dataset.text,
                row["archive_reason"],
                row["kafka_timestamp_count"],
                row["kafka_timestamp_min"],
                row["kafka_timestamp_max"],
            )
            for row in grouped.to_pylist()
        ]
    return sorted(found, key=lambda letters: (-letters.count, letters.topic, letters.reason))


def dead_frames(archive: Archive, dataset: Dataset) -> pa.Table:
    """The dead of one dataset: coordinates, key, frame and reason.

    Raises:
        UnknownDataset: there is no such dataset.
    """
    snapshot = archive.snapshot(dataset)
    schema = wanted_schema(snapshot, _COLUMNS)
    parts = [read_file(snapshot, file, schema) for file in snapshot.files({DEAD})]
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _with_dead(archive: Archive) -> list[Dataset]:
    archive.ledger.catch_up_pending()
    found = archive.ledger.sql(
        """
        SELECT dataset FROM ledger WHERE "table" = 'raw' AND week = 'dead'
        GROUP BY dataset HAVING sum(rows) > 0 ORDER BY dataset
        """
    )
    return [Dataset.parse(text) for text in found["dataset"].to_pylist()]
