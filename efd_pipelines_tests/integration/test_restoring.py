"""Restoring to real servers: what was lost is there again, and is the same."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from confluent_kafka.admin import AdminClient
from polars.testing import assert_frame_equal

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.reading import read_file
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.errors import KafkaUnavailable
from efd_pipelines.restoring.kafka import KafkaTarget, TopicWouldExpire
from efd_pipelines.restoring.restore import planned, restore
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.simulator.series import Writer
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.integration.conftest import MakeSettings

WEEK = Week.containing(datetime.now(UTC) - timedelta(days=7))
START_US = microseconds(WEEK.start + timedelta(days=2))
GIVEN_BY_KAFKA = ["archive_source", "kafka_offset"]


def send_everything(settings: Settings) -> None:
    """Scalars and arrays of all types, partitions, two schema versions, retyped fields, the dead, the quarantined."""
    with SalProducer(settings) as producer:
        for name in ("ESS.temperature", "Test.scalars", "Test.arrays", "MTM1M3.accelerometerData"):
            producer.send([random_series(builtin_topic(name), 300, START_US)])
        changing = [
            SalTopic.of("lsst.sal.Test.changing", [SalField("value", "float"), SalField("note", "string")]),
            SalTopic.of("lsst.sal.Test.changing", [SalField("value", "double"), SalField("items", "int", 3)]),
            SalTopic.of("lsst.sal.Test.changing", [SalField("value", "string"), SalField("items", "int", 5)]),
        ]
        for n, topic in enumerate(changing):
            producer.send([random_series(topic, 50, START_US + n * 3_600_000_000, first=1 + 50 * n)])
        event = SalTopic.of("lsst.sal.Test.logevent_state", [SalField("state", "int"), SalField("text", "string")])
        texts = ['say "hi", a=b\\', "two\nlines", "", "Ä µ 漢字"] * 10
        columns = {"state": np.arange(40), "text": texts}
        producer.send([Writer.of(event, 1, seed=0).series(START_US + np.arange(40) * 10**6, columns, 1)])
        stamp_ms = START_US // 1000
        for value in (b"poison", None, b"\0\xff\xff\xff\xff\x01\x02", b"\0"):
            producer.put(changing[0].name, value, b"key", 0, stamp_ms)
        producer.send([random_series(changing[0], 20, microseconds(datetime(2001, 1, 1, tzinfo=UTC)), first=1000)])


@pytest.fixture
def archive(local_settings: Settings) -> Archive:
    """An archive of last week, as Kafka had it."""
    archive = Archive(local_settings)
    send_everything(local_settings)
    drain(archive, local_settings)
    return archive


def delete_topics(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.require_kafka(), "log_level": 2})
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(("lsst.", "again."))]
    for deleted in admin.delete_topics(names).values():
        deleted.result(30)


def rows_of(archive: Archive, dataset: Dataset, weeks: Sequence[str] | None = None) -> pl.DataFrame:
    """All rows that the table has, those outside the weeks too, in an order of their own values."""
    snapshot = archive.snapshot(dataset)
    parts = [
        read_file(snapshot, file, snapshot.schema).append_column("week", pa.array([file.week] * file.rows))
        for file in snapshot.files(weeks)
    ]
    frame = pl.DataFrame(pa.concat_tables(parts))
    order = [name for name in ("week", "kafka_timestamp", "private_seqNum", "archive_frame") if name in frame.columns]
    return frame.sort(order)


def assert_same_archive(again: Archive, archive: Archive) -> None:
    """The same rows but for what Kafka gives anew."""
    assert again.datasets() == archive.datasets()
    for dataset in archive.datasets():
        new, old = (rows_of(one, dataset).drop(GIVEN_BY_KAFKA) for one in (again, archive))
        # Two partitions may be read in any order, and who comes first decides which column is first.
        assert_frame_equal(new.select(old.columns), old)


@pytest.fixture
def again(site: MakeSettings, tmp_path: Path) -> Archive:
    return Archive(site(archive=str(tmp_path / "again")))


@pytest.mark.timeout(300)
def test_deleted_topics_come_back_and_are_archived_again_without_a_difference(
    archive: Archive, again: Archive, local_settings: Settings
) -> None:
    delete_topics(local_settings)
    # What is in quarantine was received just now.
    weeks = [WEEK, Week.containing(datetime.now(UTC))]
    for component in ("ESS", "Test", "MTM1M3"):
        with KafkaTarget(archive, local_settings) as target:
            portions = planned(archive, component, weeks, target)
            result = restore(portions, target)
            assert (result.ok, result.left_out) == (True, 0)
            assert result.rows == sum(portion.rows for portion in portions)
            assert [week.counted for week in result.weeks] == [week.expected for week in result.weeks]
        with KafkaTarget(archive, local_settings) as target:
            second = restore(portions, target)
            assert (second.rows, second.before, second.ok) == (0, result.rows, True)
    drain(again, again.settings)
    assert_same_archive(again, archive)
    assert {file.week for file in again.snapshot(Dataset("lsst.sal.Test.changing")).files()} >= {DEAD, QUARANTINE}


@pytest.mark.timeout(300)
def test_a_restore_that_fails_half_way_through_gives_each_record_once(
    archive: Archive, again: Archive, local_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset("lsst.sal.Test.changing")
    for failing in (3, 1):
        with KafkaTarget(archive, local_settings, prefix="again.") as target:
            portions = planned(archive, "Test", [WEEK], target, [dataset])
            produced = target._produce
            calls = iter(range(100))

            def broken(
                *given: object, produced: object = produced, calls: object = calls, failing: int = failing
            ) -> None:
                produced(*given)  # type: ignore[operator]
                if next(calls) == failing:  # type: ignore[call-overload]
                    raise KafkaUnavailable("The cable was pulled")

            monkeypatch.setattr(target, "_produce", broken)
            with pytest.raises(KafkaUnavailable, match="cable"):
                restore(portions, target, again=failing == 3)
    with KafkaTarget(archive, local_settings, prefix="again.") as target:
        result = restore(portions, target)
        assert result.ok
    assert result.weeks[0].counted == sum(portion.rows for portion in portions)


def test_a_topic_that_would_delete_the_records_at_once_is_refused(archive: Archive, local_settings: Settings) -> None:
    with KafkaTarget(archive, local_settings) as target:
        portions = planned(archive, "ESS", [WEEK.previous(), WEEK], target)
        with pytest.raises(TopicWouldExpire, match="keeps records for 168 h"):
            restore(portions, target)
