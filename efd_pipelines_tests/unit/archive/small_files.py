"""A topic of many small files, as drains leave them: what merging and cleaning begin with."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.archive.builders import Topic, schema_of

WEEK = Week.parse("2026-11-16")


LATER = datetime(2027, 1, 1, tzinfo=UTC)


SECOND_US = 1_000_000


PLAIN = schema_of("x", ("value", "double"))


def seconds(first: int, count: int) -> list[int]:
    """Times a second apart from the beginning of the week."""
    return [WEEK.start_us + (first + n) * SECOND_US for n in range(count)]


def topic_with(archive: Archive, drains: int, count: int = 10) -> Topic:
    """A topic of which each drain made one file of the same day."""
    topic = Topic(archive)
    for n in range(drains):
        topic.send(PLAIN, seconds(n * count, count), value=np.arange(count) + n / 7)
        topic.drain()
    return topic


def files_of(topic: Topic) -> list[DataFile]:
    return topic.archive.snapshot(topic.dataset).files()


def opened(topic: Topic) -> TableSnapshot:
    snapshot = open_table(topic.archive.store, topic.relative)
    assert snapshot is not None
    return snapshot
