"""Widening: open weeks are rewritten, sealed ones are not, and nobody who rewrites beside it doubles a row."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.merging import merge
from efd_pipelines.archive.quarantine import release
from efd_pipelines.archive.reading import read
from efd_pipelines.archive.slices import DEAD, QUARANTINE, seal_guard
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table, widen
from efd_pipelines.archive.widening import _rewrite, file_schema
from efd_pipelines.errors import StaleWriter
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week, microseconds, parse_time
from efd_pipelines.topics.schemas import TopicSchema
from efd_pipelines_tests.unit.archive.builders import Topic, schema_of

NARROW = schema_of("x", ("count", "int"), ("level", "float"))
WIDE = schema_of("x", ("count", "long"), ("level", "double"))
OLD, NEW = Week.parse("2026-10-05"), Week.parse("2026-10-12")
DAY_US = 86_400_000_000


def send(topic: Topic, schema: TopicSchema, start_us: int, *counts: int) -> None:
    times = [start_us + 1000 * n for n in range(len(counts))]
    topic.send(schema, times, count=list(counts), level=[count / 4 for count in counts])


def opened(topic: Topic) -> TableSnapshot:
    snapshot = open_table(topic.archive.store, topic.relative)
    assert snapshot is not None
    return snapshot


def types_of(topic: Topic, week: str) -> set[str]:
    snapshot = opened(topic)
    return {str(file_schema(snapshot, file).field("count").type) for file in snapshot.files({week})}


def counts(topic: Topic) -> list[int]:
    return sorted(read(opened(topic))["count"].to_pylist())


@pytest.fixture
def topic(archive: Archive) -> Topic:
    """Two batches of two narrow rows in each of two weeks."""
    topic = Topic(archive)
    for number in range(2):
        for week in (OLD, NEW):
            send(topic, NARROW, week.start_us + number, 10 * number, 10 * number + 1)
        topic.drain()
    return topic


def test_open_weeks_are_widened_and_sealed_ones_keep_their_types(topic: Topic) -> None:
    commit(
        topic.archive.store,
        topic.relative,
        opened(topic),
        transactions={seal_guard(OLD.key): (None, 1)},
        schema=opened(topic).schema,
        note={"kind": "seal"},
    )
    before = {file.path for file in opened(topic).files({OLD.key})}
    send(topic, WIDE, NEW.start_us + DAY_US, 2**40)
    topic.drain()
    assert {file.path for file in opened(topic).files({OLD.key})} == before
    assert (types_of(topic, OLD.key), types_of(topic, NEW.key)) == ({"int32"}, {"int64"})
    assert counts(topic) == sorted([0, 1, 10, 11] * 2 + [2**40])


def test_what_was_widened_has_the_bytes_that_merging_gives(tmp_path: Path) -> None:
    """The same records, drained in other batches and merged before or after the dataset grew wider."""
    names = []
    for merged_first in (False, True):
        topic = Topic(Archive(load_settings({}, None, archive=str(tmp_path / str(merged_first)))))
        for number in range(4):
            send(topic, NARROW, OLD.start_us + number, number)
        topic.drain(None if merged_first else 2)
        topic.drain()
        if merged_first:
            merge(topic.archive)
        send(topic, WIDE, NEW.start_us, 2**40)
        topic.drain()
        merge(topic.archive)
        names.append([file.path for file in opened(topic).files({OLD.key})])
    assert len(names[0]) == 1
    assert names[0] == names[1]


def test_readers_see_one_table_while_its_files_are_still_narrow(topic: Topic) -> None:
    wider = pa.schema([("count", pa.int64()), ("level", pa.float64())])
    snapshot = widen(opened(topic), wider)
    assert types_of(topic, NEW.key) == {"int32"}
    expected = sorted([0, 1, 10, 11] * 2)
    assert sorted(read(snapshot)["count"].to_pylist()) == expected
    path = topic.archive.store.uri(topic.relative)
    assert pl.scan_delta(path).select("count").collect()["count"].sort().to_list() == expected


def test_of_a_merge_and_a_widening_one_is_refused(topic: Topic) -> None:
    stale = opened(topic)
    assert merge(topic.archive, weeks=[OLD]).commits == 1
    with pytest.raises(StaleWriter):
        _rewrite(stale, stale.files({OLD.key}), "test")
    assert counts(topic) == sorted([0, 1, 10, 11] * 2)


def test_of_a_release_and_a_widening_one_is_refused(topic: Topic) -> None:
    ahead_us = 400 * DAY_US
    send(topic, NARROW, NEW.start_us + ahead_us, 77, 78)
    received_ms = (NEW.start_us + 1000) // 1000
    topic.stamps_ms[-2:] = [received_ms, received_ms]
    topic.drain()
    stale = opened(topic)
    assert len(stale.files({QUARANTINE})) == 1
    assert release(topic.archive, topic.dataset, ahead_us).rows == 2
    with pytest.raises(StaleWriter):
        _rewrite(stale, stale.files({QUARANTINE}), "test")
    assert counts(topic) == sorted([0, 1, 10, 11] * 2 + [77, 78])


def test_quarantine_is_widened_too_and_the_dead_are_left(topic: Topic) -> None:
    send(topic, NARROW, microseconds(parse_time("1970-01-02T00:00:00")), 5)
    topic.values.append(b"\xff no frame")
    topic.stamps_ms.append(topic.stamps_ms[0])
    topic.drain()
    dead = [file.path for file in opened(topic).files({DEAD})]
    send(topic, WIDE, NEW.start_us + DAY_US, 2**40)
    topic.drain()
    assert types_of(topic, QUARANTINE) == {"int64"}
    assert [file.path for file in opened(topic).files({DEAD})] == dead
