"""Logs that are not what they were: deleted and created again, expired, cut at their end. Nothing is lost or doubled.

The same with three brokers and a real election: `test_leader_changes.py`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow.compute as pc
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import gaps, verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.positions import ENDED, ledger_positions
from efd_pipelines.archive.quarantine import quarantined, release
from efd_pipelines.archive.tables import commit
from efd_pipelines.settings import Settings
from efd_pipelines.simulator import faulty
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.times import microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.integration.configured import configured
from efd_pipelines_tests.integration.produced import (
    LAST_WEEK,
    NOW,
    delete_topic,
    drain_twice_at_once,
    expire,
    produce,
    rows_and_records,
)


@pytest.mark.timeout(300)
def test_a_topic_deleted_and_created_again_archives_both_lives(local_settings: Settings) -> None:
    topic = builtin_topic("Test.scalars")
    archive = Archive(local_settings)
    produce(local_settings, topic, 25)
    drain(archive, local_settings)
    delete_topic(local_settings, topic.name)
    produce(local_settings, topic, 25)
    drain(archive, local_settings)
    table = archive.read(Dataset.parse(topic.name))
    assert table.num_rows == 50
    assert len(pc.unique(table["archive_source"])) == 2
    assert rows_and_records(archive) == (50, 50)


@pytest.mark.timeout(120)
def test_records_that_expired_before_they_were_read_are_a_recorded_gap(local_settings: Settings) -> None:
    topic = builtin_topic("Test.scalars")
    archive = Archive(local_settings)
    produce(local_settings, topic, 10)
    drain(archive, local_settings)
    produce(local_settings, topic, 20, first=11)
    expire(local_settings, topic.name, 25)
    result = drain(archive, local_settings)
    assert (result.records, result.gaps, [problem.kind for problem in result.problems]) == (5, 1, ["gap"])
    (gap,) = gaps(archive)
    assert (gap["topic"], gap["partition"], gap["first"], gap["end"]) == (topic.name, 0, 10, 25)
    audit = verify(archive, deep=True)
    assert (audit.ok, audit.missing, audit.rows, [found.kind for found in audit.problems]) == (False, 15, 15, ["gap"])


@pytest.mark.timeout(120)
def test_a_log_that_ends_before_its_position_begins_a_new_generation(local_settings: Settings) -> None:
    """Kafka lost what had been archived (an unclean election): simulated by a position beyond the log's end."""
    topic, archive = builtin_topic("Test.scalars"), Archive(local_settings)
    produce(local_settings, topic, 10)
    drain(archive, local_settings)
    source = archive.read(Dataset.parse(topic.name), ["archive_source"])["archive_source"][0].as_py()
    app_id = f"kafka:{source}:0"
    lose_the_end(archive, Dataset.parse(topic.name))
    result = drain(archive, local_settings, until_caught_up=True)
    assert [problem.kind for problem in result.problems] == ["truncated"]
    # What the new generation brings again is recognised.
    assert archive.read(Dataset.parse(topic.name), ["archive_source"])["archive_source"].to_pylist() == [source] * 10
    assert archive.snapshot(Dataset.parse(topic.name)).transaction_version(app_id) == ENDED
    produce(local_settings, topic, 3, first=11)
    assert drain(archive, local_settings).rows == 3
    sources = archive.read(Dataset.parse(topic.name), ["archive_source"])["archive_source"].to_pylist()
    assert sources.count(f"{source}#1") == 3


@pytest.mark.timeout(120)
def test_what_a_new_generation_brings_again_is_recognised_wherever_it_is_kept(local_settings: Settings) -> None:
    """In weeks, in quarantine, among the dead, and as a tombstone; a metric, which has no private fields, too."""
    topic, archive = builtin_topic("Test.scalars"), Archive(local_settings)
    metric = "lsst.obsenv.truncated"
    settings = configured(local_settings, value_formats={metric: "json"})
    with SalProducer(settings) as producer:
        producer.prepare([topic])
        producer.create([(metric, 1, {})])
        producer.send([random_series(topic, 5, microseconds(NOW)), random_series(topic, 4, microseconds(LAST_WEEK))])
        faulty.send_at(producer, topic, datetime(2090, 1, 2, tzinfo=UTC), 2, first=12)
        faulty.send_random_bytes(producer, topic, 3)
        faulty.send_tombstones(producer, topic, 1)
        for number in range(6):
            producer.put(metric, json.dumps({"value": number / 4, "text": None if number % 2 else "x"}).encode(), b"")
    assert drain(archive, settings).rows == 21
    for name in (topic.name, metric):
        lose_the_end(archive, Dataset.parse(name))
    again = drain(archive, settings, until_caught_up=True)
    assert (again.rows, [problem.kind for problem in again.problems]) == (0, ["truncated"] * 2)
    reached = ledger_positions(archive)
    for name, end in ((topic.name, 15), (metric, 6)):
        assert [position for of, position in reached[name].positions.items() if "#1" in of] == [end]
    audit = verify(archive, deep=True)
    assert (audit.problems, audit.missing, audit.rows, audit.records) == ([], 0, 21, 21)


@pytest.mark.timeout(120)
def test_what_was_released_from_quarantine_does_not_come_again_with_a_new_generation(local_settings: Settings) -> None:
    topic, archive = builtin_topic("Test.scalars"), Archive(local_settings)
    dataset, ahead = Dataset.parse(topic.name), timedelta(days=365)
    with SalProducer(local_settings) as producer:
        producer.prepare([topic])
        producer.send([random_series(topic, 5, microseconds(NOW))])
        faulty.send_at(producer, topic, NOW + ahead, 2, first=6)
    assert drain(archive, local_settings).quarantined == 2
    released = release(archive, dataset, round(ahead.total_seconds() * 1e6))
    assert released.rows == 2
    lose_the_end(archive, dataset)
    again = drain(archive, local_settings, until_caught_up=True)
    assert (again.rows, again.quarantined) == (0, 0)
    assert archive.read(dataset).num_rows == 7
    assert quarantined(archive, [dataset]) == []


@pytest.mark.timeout(120)
def test_two_drains_that_notice_a_truncation_at_once_begin_one_generation(local_settings: Settings) -> None:
    topic, archive = builtin_topic("Test.scalars"), Archive(local_settings)
    produce(local_settings, topic, 30)
    drain(archive, local_settings)
    lose_the_end(archive, Dataset.parse(topic.name))
    drain_twice_at_once(local_settings)
    drain(archive, local_settings, until_caught_up=True)
    sources = ledger_positions(archive)[topic.name].positions
    assert sorted(sources.values()) == [30, ENDED]
    assert rows_and_records(archive) == (30, 30)


def lose_the_end(archive: Archive, dataset: Dataset) -> None:
    """As if more had been archived of the topic's only partition than its log has now."""
    snapshot = archive.snapshot(dataset)
    ((source, reached),) = ledger_positions(archive)[dataset.text].positions.items()
    commit(
        archive.store,
        snapshot.relative,
        snapshot,
        transactions={f"kafka:{source}": (reached, reached + 40)},
        schema=snapshot.schema,
        note={"kind": "drain"},
    )
    archive.ledger.catch_up([(RAW, dataset)])
