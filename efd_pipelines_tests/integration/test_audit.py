"""The audit beside a real broker: what Kafka still has is in the archive, or is found missing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import gaps, verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.reindex import reindex
from efd_pipelines.archive.tables import commit
from efd_pipelines.history.holders import holders
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalTopic
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.integration.configured import with_kafka
from efd_pipelines_tests.integration.conftest import MakeSettings
from efd_pipelines_tests.integration.influx_points import write_points
from efd_pipelines_tests.integration.produced import expire

NOW = datetime.now(UTC).replace(microsecond=0)
SCALARS = builtin_topic("Test.scalars")
DATASET = Dataset.parse(SCALARS.name)


def frames(settings: Settings, topic: SalTopic, first: int, count: int, when: datetime = NOW) -> list[bytes]:
    with SalProducer(settings) as producer:
        return producer.frames(random_series(topic, count, microseconds(when), seed=first, first=first))


def send(settings: Settings, topic: SalTopic, values: Sequence[bytes]) -> None:
    with SalProducer(settings) as producer:
        for value in values:
            producer.put(topic.name, value)
        producer.flush()


def in_transaction(settings: Settings, topic: SalTopic, values: Sequence[bytes], *, aborted: bool) -> None:
    producer = Producer({"bootstrap.servers": settings.require_kafka(), "transactional.id": "audit", "log_level": 2})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic.name, value, partition=0)
    producer.flush(30)
    producer.abort_transaction(30) if aborted else producer.commit_transaction(30)


def skip(archive: Archive, records: int) -> None:
    """What must never happen: a commit that moves the position over records that it does not have."""
    snapshot = archive.snapshot(DATASET)
    source = archive.read(DATASET, ["archive_source"])["archive_source"][0].as_py()
    app_id = f"kafka:{source}:0"
    reached = snapshot.transaction_version(app_id)
    assert reached is not None
    made = commit(
        archive.store,
        snapshot.relative,
        snapshot,
        transactions={app_id: (reached, reached + records)},
        schema=snapshot.schema,
        note={"kind": "drain", "records": 0},
    )
    archive.ledger.append(rows_of(RAW, DATASET, made))


@pytest.mark.timeout(120)
def test_transactions_leave_offsets_without_records_and_nothing_is_missing(local_settings: Settings) -> None:
    archive = Archive(local_settings)
    for n in range(3):
        values = frames(local_settings, SCALARS, 1 + 20 * n, 20)
        send(local_settings, SCALARS, [*values, values[3]])
        in_transaction(local_settings, SCALARS, values[:7], aborted=n != 1)
        drain(archive, local_settings, until_caught_up=True)
    for deep in (False, True):
        audit = verify(archive, deep=deep, settings=local_settings)
        assert (audit.problems, audit.rows) == ([], 70)
    assert "repeated" in {note.kind for note in audit.notes}


@pytest.mark.timeout(120)
def test_what_kafka_has_and_the_archive_passed_over_is_found(local_settings: Settings) -> None:
    archive = Archive(local_settings)
    send(local_settings, SCALARS, frames(local_settings, SCALARS, 1, 20))
    drain(archive, local_settings)
    assert verify(archive, settings=local_settings).problems == []
    send(local_settings, SCALARS, frames(local_settings, SCALARS, 21, 10))
    skip(archive, 10)
    assert verify(archive).ok, "only Kafka knows"
    for deep in (False, True):
        audit = verify(archive, deep=deep, settings=local_settings)
        assert set(audit.kinds()) == {"lost"}
    assert "10 records" in audit.problems[-1].detail
    assert "offset 20" in audit.problems[-1].detail


@pytest.mark.timeout(120)
def test_records_of_a_file_that_is_gone_are_counted_once_and_kafka_has_them(local_settings: Settings) -> None:
    archive = Archive(local_settings)
    send(local_settings, SCALARS, frames(local_settings, SCALARS, 1, 20))
    drain(archive, local_settings)
    (file,) = archive.snapshot(DATASET).files()
    archive.store.delete(f"{archive.relative(DATASET)}/{file.path}")
    audit = verify(archive, deep=True, settings=local_settings)
    assert (audit.missing, list(audit.kinds())) == (20, ["unreadable", "lost"])
    assert "Kafka still has the records" in audit.problems[-1].remedy


def change_a_value(archive: Archive) -> str:
    """A commit that says it is a merge, with everything about it in order but a value; its week."""
    snapshot = archive.snapshot(DATASET)
    file = snapshot.files()[0]
    rows = pq.read_table(archive.store.path(f"{snapshot.relative}/{file.path}"), partitioning=None)
    values = rows["float0"].to_numpy().copy()
    values[5] += 1
    rows = rows.set_column(rows.column_names.index("float0"), rows.schema.field("float0"), pa.array(values))
    guard = f"slice:{file.slice}"
    made = commit(
        archive.store,
        snapshot.relative,
        snapshot,
        add=[write_data_file(archive.store, snapshot.relative, file.week, file.slice, rows)],
        remove=[file],
        transactions={guard: (None, 1)},
        schema=snapshot.schema,
        note={"kind": "merge"},
    )
    archive.ledger.append(rows_of(RAW, DATASET, made))
    return file.week


@pytest.mark.timeout(120)
def test_a_value_that_was_changed_with_all_that_goes_with_it_is_found_while_kafka_has_the_record(
    local_settings: Settings,
) -> None:
    archive = Archive(local_settings)
    send(local_settings, SCALARS, frames(local_settings, SCALARS, 1, 20))
    drain(archive, local_settings)
    week = archive.snapshot(DATASET).files()[0].week
    for of in (None, week):
        audit = verify(archive, deep=True, week=of, settings=local_settings)
        assert (audit.problems, audit.notes) == ([], [])
    assert change_a_value(archive) == week
    assert verify(archive, deep=True).ok, "only Kafka knows"
    for of in (None, week):
        (found,) = verify(archive, deep=True, week=of, settings=local_settings).problems
        assert (found.kind, found.week) == ("value", week)
        assert "1 row differs from Kafka's records in float0" in found.detail
    assert verify(archive, deep=True, week="2026-01-05", settings=local_settings).ok


@pytest.mark.timeout(120)
def test_the_offsets_of_one_week_are_compared_with_kafka(local_settings: Settings) -> None:
    archive = Archive(local_settings)
    last_week = NOW - timedelta(days=7)
    send(local_settings, SCALARS, frames(local_settings, SCALARS, 1, 5, last_week))
    send(local_settings, SCALARS, frames(local_settings, SCALARS, 6, 5))
    drain(archive, local_settings)
    send(local_settings, SCALARS, frames(local_settings, SCALARS, 11, 5, last_week))
    skip(archive, 5)
    for when, lost in ((last_week, ["lost"]), (NOW, [])):
        audit = verify(archive, deep=True, week=Week.containing(when).key, settings=local_settings)
        assert [found.kind for found in audit.problems if "first at offset" in found.detail] == lost


@pytest.mark.timeout(120)
def test_what_expires_before_it_is_read_is_told_before_and_after_the_drain(
    site: MakeSettings, influx: InfluxServer, unique: str
) -> None:
    settings = site(history_influx_url=influx.url, history_database=unique)
    archive = Archive(settings)
    for n in range(3):
        send(settings, SCALARS, frames(settings, SCALARS, 1 + 10 * n, 10, NOW - timedelta(minutes=30 - 10 * n)))
        if n == 0:
            drain(archive, settings)
    write_points(influx, unique, DATASET.topic, archive.read(DATASET))
    expire(settings, SCALARS.name, 20)
    early = verify(archive, settings=settings)
    assert (early.missing, list(early.kinds())) == (10, ["gap"])
    drain(archive, settings)
    late = verify(archive, settings=settings)
    assert (late.missing, list(late.kinds())) == (10, ["gap"])
    (gap,) = holders(settings, gaps(archive)).gaps
    assert (gap["first"], gap["end"], gap["in_kafka"], gap["filled"]) == (10, 20, 0, 0)
    assert NOW - timedelta(minutes=30) <= gap["from"] < gap["to"] <= NOW - timedelta(minutes=9)
    # Of the ten points in InfluxDB only the last is not before the gap.
    assert gap["in_history"] == 1


@pytest.mark.timeout(120)
def test_an_unreachable_broker_is_a_note(local_settings: Settings, site: MakeSettings) -> None:
    send(local_settings, SCALARS, frames(local_settings, SCALARS, 1, 5))
    drain(Archive(local_settings), local_settings)
    away = with_kafka(site(kafka_bootstrap="127.0.0.1:1"), timeout_s=2.0)
    audit = verify(Archive(away), settings=away)
    assert audit.ok
    assert [note.kind for note in audit.notes] == ["kafka"]


@pytest.mark.timeout(120)
def test_a_ledger_that_is_lost_is_made_again_from_the_tables(settings: Settings, archive: Archive) -> None:
    for n in range(3):
        send(settings, SCALARS, frames(settings, SCALARS, 1 + 10 * n, 10))
        drain(archive, settings)
    before = archive.ledger.table()
    for name in archive.store.list("ledger/commits/month=" + before["month"][0].as_py()):
        archive.store.delete(f"ledger/commits/month={before['month'][0].as_py()}/{name}")
    again = Archive(settings)
    reindex(again)
    assert again.ledger.table().equals(before)
    assert verify(again, deep=True, settings=settings).problems == []
