"""Restoring to real servers: what was lost is there again, and is the same."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from confluent_kafka.admin import AdminClient
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.reading import read_file
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.cli import app
from efd_pipelines.errors import InfluxUnavailable, KafkaUnavailable
from efd_pipelines.history.healing import heal
from efd_pipelines.history.lines import LineHistory
from efd_pipelines.restoring.asked import Asked, target_of
from efd_pipelines.restoring.kafka import KafkaTarget, TopicWouldExpire
from efd_pipelines.restoring.restore import planned, restore
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.simulator.series import Writer
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.integration.conftest import MakeSettings
from efd_pipelines_tests.integration.influx_points import ask, write_points

pytestmark = pytest.mark.timeout(900)

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


def test_a_restore_that_fails_half_way_through_gives_each_record_once(
    archive: Archive, local_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset("lsst.sal.Test.changing")
    weeks = [WEEK, Week.containing(datetime.now(UTC))]
    for failing in (0, 1, 1):
        with KafkaTarget(archive, local_settings, prefix="again.") as target:
            portions = planned(archive, "Test", weeks, target, [dataset])
            produce, calls = target._produce, itertools.count()

            def broken(*given: Any, produce: Any = produce, calls: Any = calls, failing: int = failing) -> None:
                produce(*given)
                if next(calls) == failing:
                    raise KafkaUnavailable("The cable was pulled")

            monkeypatch.setattr(target, "_produce", broken)
            with pytest.raises(KafkaUnavailable, match="cable"):
                restore(portions, target)
    with KafkaTarget(archive, local_settings, prefix="again.") as target:
        result = restore(portions, target)
        assert result.ok
        assert result.before > 0
    assert sum(week.counted or 0 for week in result.weeks) == sum(portion.rows for portion in portions) == 174


def test_a_topic_that_would_delete_the_records_at_once_is_refused(local_settings: Settings) -> None:
    topic = builtin_topic("ESS.temperature")
    archive = Archive(local_settings)
    with SalProducer(local_settings) as producer:
        producer.create([(topic.name, 1, {"retention.ms": "604800000"})])
        producer.send([random_series(topic, 10, START_US)])
    drain(archive, local_settings)
    with KafkaTarget(archive, local_settings) as target:
        portions = planned(archive, "ESS", [WEEK], target)
        with pytest.raises(TopicWouldExpire, match="keeps records for 168 h"):
            restore(portions, target)


POINTS = ("ESS.temperature", "Test.scalars", "Test.arrays", "MTM1M3.accelerometerData")


@pytest.fixture
def efd(s3_settings: Settings, influx: InfluxServer, unique: str) -> Archive:
    """An archive of last week on S3, and the EFD's database, `unique`, that Telegraf made of the same records."""
    archive = Archive(s3_settings.model_copy(update={"influx_url": influx.url, "history_influx_url": influx.url}))
    with SalProducer(s3_settings) as producer:
        for name in POINTS:
            producer.send([random_series(builtin_topic(name), 300, START_US)])
        # Another device with the same times: its fields overwrite those of the first.
        one = builtin_topic("ESS.temperature")
        columns = {"numChannels": np.arange(50), "sensorName": ['two\nlines, "x"=\\'] * 50}
        times_us = START_US + 100_000 * np.arange(50, dtype=np.int64)
        producer.send([Writer.of(one, 113, seed=3).series(times_us, columns, 1)])
    drain(archive, s3_settings)
    for dataset in archive.datasets():
        rows = archive.read(dataset)
        order = [("time", "ascending"), ("kafka_timestamp", "ascending"), ("kafka_offset", "ascending")]
        write_points(influx, unique, dataset.topic, rows.sort_by(order))
    return archive


def points_of(influx: InfluxServer, database: str) -> dict[str, Any]:
    """Every point of a database, by measurement, fields in the order of their names."""
    found = {}
    for series in ask(influx, "SHOW MEASUREMENTS", database)["results"][0].get("series", []):
        for (measurement,) in series["values"]:
            answer = httpx.get(
                f"{influx.url}/query", params={"db": database, "q": f'SELECT * FROM "{measurement}"', "epoch": "ns"}
            )
            found[measurement] = answer.json()["results"][0]["series"][0]
    return found


def cli(archive: Archive, *arguments: str) -> dict[str, Any]:
    """What `efd archive restore` answers."""
    settings = archive.settings
    environ = {"EFD_ARCHIVE": settings.archive, "EFD_INFLUX_URL": str(settings.influx_url)}
    environ |= {"EFD_S3_ENDPOINT": str(settings.s3_endpoint), "EFD_S3_REGION": str(settings.s3_region)}
    call = ["archive", "restore", *arguments, "--weeks", WEEK.key, "--json"]
    done = CliRunner(env=environ).invoke(app, call)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_dropped_database_has_the_same_points_again(efd: Archive, influx: InfluxServer, unique: str) -> None:
    before = points_of(influx, unique)
    assert len(before) == len(POINTS)
    for _ in range(2):
        # Lost again, it is restored again: what is done is known by what is there.
        ask(influx, f'DROP DATABASE "{unique}"')
        estimated = cli(efd, "ESS", "--to", "influx", "--database", unique, "--dry-run")
        assert (estimated["rows"], estimated["portions"]) == (350, 1)
        for component, rows in (("ESS", 350), ("Test", 600), ("MTM1M3", 300)):
            restored = cli(efd, component, "--to", "influx", "--database", unique)
            assert (restored["rows"], restored["ok"], restored["left_out"]) == (rows, True, 0)
        assert points_of(influx, unique) == before
    again = cli(efd, "ESS", "--to", "influx", "--database", unique)
    assert (again["rows"], again["before"], again["ok"]) == (0, 350, True)


def test_files_of_lines_are_read_by_influxdb_and_by_us(
    efd: Archive, influx: InfluxServer, unique: str, site: MakeSettings, tmp_path: Path
) -> None:
    before = points_of(influx, unique)
    ask(influx, f'DROP DATABASE "{unique}"')
    ask(influx, f'CREATE DATABASE "{unique}"')
    for component in ("ESS", "Test", "MTM1M3"):
        asked = Asked(component, (WEEK,), "lines", out=str(tmp_path / "lines"), database=unique)
        with target_of(asked, efd, efd.settings) as target:
            portions = planned(efd, component, [WEEK], target)
            first = restore(portions, target)
            assert first.ok
        with target_of(asked, efd, efd.settings) as target:
            assert (restore(portions, target).rows, restore(portions, target).before) == (0, first.rows)
    files = sorted((tmp_path / "lines").rglob("*.lp.gz"))
    assert len(files) == len(POINTS)
    for file in files:
        *header, data = gzip.decompress(file.read_bytes()).split(b"\n", 5)
        assert header[1] == f"CREATE DATABASE {unique}".encode()
        answer = httpx.post(f"{influx.url}/write", params={"db": unique}, content=data, timeout=60)
        assert answer.status_code == 204, answer.text
    assert points_of(influx, unique) == before
    # What `influx -import` can take (a text of several lines it cannot), it takes as it was.
    ask(influx, f'DROP DATABASE "{unique}"')
    taken = {file.parents[1].name for file in files if imported(influx, file) == 300}
    assert {"accelerometerData", "arrays"} <= taken
    after = points_of(influx, unique)
    assert {name: after[name] for name in before if name.rpartition(".")[2] in taken} == {
        name: series for name, series in before.items() if name.rpartition(".")[2] in taken
    }
    ask(influx, f'DROP DATABASE "{unique}"')
    healed = Archive(site(archive=str(tmp_path / "healed"), kafka_bootstrap=None))
    with LineHistory(tmp_path / "lines", component="MTM1M3") as source:
        assert heal(healed, healed.settings, component="MTM1M3", weeks=[WEEK], sources=[source]).rows == 300


def imported(influx: InfluxServer, file: Path) -> int:
    """What `influx -import -compressed` does (importer/v8/importer.go of 1.8): line by line, DDL before DML.

    Returns how many lines it found; of a text of several lines each is one, and the server takes none of them.
    """
    database = policy = ""
    section, lines = "", list[str]()
    for line in gzip.decompress(file.read_bytes()).decode().split("\n"):
        if line.startswith(("# DDL", "# DML")):
            section = line
        elif line.startswith("# CONTEXT-DATABASE:"):
            database = line.partition(":")[2].strip()
        elif line.startswith("# CONTEXT-RETENTION-POLICY:"):
            policy = line.partition(":")[2].strip()
        elif line.strip() and not line.startswith("#") and section == "# DDL":
            ask(influx, line)
        elif line.strip() and not line.startswith("#"):
            lines.append(f"{line}\n")
    params = {"db": database, "rp": policy, "precision": "ns"}
    httpx.post(f"{influx.url}/write", params=params, content="\n".join(lines).encode(), timeout=60)
    return len(lines)


def test_an_influxdb_that_dies_in_the_middle_has_all_points_after_the_next_run(
    efd: Archive, influx: InfluxServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = points_of(influx, unique)
    ask(influx, f'DROP DATABASE "{unique}"')
    asked = Asked("Test", (WEEK,), "influx", database=unique)
    with target_of(asked, efd, efd.settings) as target:
        portions = planned(efd, "Test", [WEEK], target)
        sent = iter(range(100))

        def dies(*_: object, **__: object) -> object:
            if next(sent) == 1:
                raise InfluxUnavailable("It was killed")
            return real(*_, **__)

        real = target._writer.write  # type: ignore[attr-defined]
        monkeypatch.setattr(target._writer, "write", dies)  # type: ignore[attr-defined]
        with pytest.raises(InfluxUnavailable, match="killed"):
            restore(portions, target)
    with target_of(asked, efd, efd.settings) as target:
        result = restore(portions, target)
        assert (result.before, result.rows, result.ok) == (300, 300, True)
    wanted = {name: series for name, series in before.items() if name.startswith("lsst.sal.Test.")}
    assert points_of(influx, unique) == wanted
