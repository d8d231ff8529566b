"""History on a real InfluxDB: what Kafka lost comes back, once, and as it was sent."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.reading import count_once
from efd_pipelines.history import answers, healing
from efd_pipelines.history import influx as influx_module
from efd_pipelines.history.asked import finished_weeks
from efd_pipelines.history.configured import lines_of
from efd_pipelines.history.healing import heal
from efd_pipelines.history.turns import NAME
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.integration.conftest import MakeSettings
from efd_pipelines_tests.integration.influx_points import as_rows, message_columns, write_points

LAST_WEEK = Week.containing(datetime.now(UTC) - timedelta(days=7))
TOPICS = ["ESS.temperature", "Test.scalars", "Test.arrays"]


@pytest.fixture
def sent(local_settings: Settings) -> Archive:
    """An archive that has all of last week from Kafka, with random values, NaN among them."""
    archive = Archive(local_settings)
    with SalProducer(local_settings) as producer:
        for name in TOPICS:
            topic = builtin_topic(name)
            producer.send([random_series(topic, 400, microseconds(LAST_WEEK.start + timedelta(days=2)))])
    drain(archive, local_settings)
    return archive


@pytest.fixture
def lost(sent: Archive, site: MakeSettings, influx: InfluxServer, unique: str, tmp_path: Path) -> Archive:
    """An archive of a deployment that never heard of last week: InfluxDB has it, Kafka does not."""
    for dataset in sent.datasets():
        write_points(influx, unique, dataset.topic, sent.read(dataset))
    settings = site(
        archive=str(tmp_path / "healed"),
        kafka_bootstrap=None,
        history_influx_url=influx.url,
        history_database=unique,
    )
    return Archive(settings)


def assert_equal_but_for_nan(healed: pa.Table, sent: pa.Table) -> None:
    order = [("private_seqNum", "ascending")]
    healed, sent = healed.sort_by(order), sent.sort_by(order)
    assert healed.num_rows == sent.num_rows
    names = message_columns(sent)
    assert set(message_columns(healed)) == set(names)
    for name in names:
        assert healed[name].type == sent[name].type, name
        assert healed[name].to_pylist() == without_nan(sent[name]).to_pylist(), name


def without_nan(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def heal_all(archive: Archive, weeks: list[Week] | None = None, **options: object) -> dict[str, int]:
    found = {}
    for component in ("ESS", "Test"):
        result = heal(archive, archive.settings, component=component, weeks=weeks or [LAST_WEEK], **options)  # type: ignore[arg-type]
        found[component] = result.rows
    return found


@pytest.mark.timeout(300)
def test_a_week_lost_from_kafka_comes_back_equal_but_for_nan_and_once(sent: Archive, lost: Archive) -> None:
    assert heal_all(lost) == {"ESS": 400, "Test": 800}
    for dataset in sent.datasets():
        assert_equal_but_for_nan(lost.read(dataset), sent.read(dataset))
        assert set(lost.read(dataset)["archive_source"].to_pylist()) == {f"influx:{lost.settings.history_database}"}
    versions = {dataset: lost.snapshot(dataset).version for dataset in lost.datasets()}

    assert heal_all(lost) == {"ESS": 0, "Test": 0}
    assert heal_all(lost, again=True) == {"ESS": 0, "Test": 0}
    assert {dataset: lost.snapshot(dataset).version for dataset in lost.datasets()} == versions
    assert verify(lost, deep=True).problems == []


@pytest.mark.timeout(300)
def test_files_of_an_export_heal_as_the_server_does(
    sent: Archive, lost: Archive, influx: InfluxServer, tmp_path: Path
) -> None:
    file = exported(influx, lost.settings.history_database, tmp_path / "export.lp.gz")
    weeks = [LAST_WEEK]
    for component in ("ESS", "Test"):
        with lines_of(file, component, weeks) as source:
            heal(lost, lost.settings, component=component, weeks=weeks, sources=[source])
            assert heal(lost, lost.settings, component=component, weeks=weeks, sources=[source], again=True).rows == 0
    for dataset in sent.datasets():
        assert_equal_but_for_nan(lost.read(dataset), sent.read(dataset))
        assert set(lost.read(dataset)["archive_source"].to_pylist()) == {"file:export.lp.gz"}


def exported(influx: InfluxServer, database: str, file: Path) -> Path:
    """What `influx_inspect export` writes of a database: a line for each field, from TSM files and the WAL.

    Again, where the server moved a WAL file meanwhile: the tool says so in the middle of the lines.
    """
    inspect = [str(influx.inspect), "export", "-database", database, "-compress", "-out", str(file)]
    inspect += ["-datadir", str(influx.data / "data"), "-waldir", str(influx.data / "wal")]
    for _ in range(10):
        subprocess.run(inspect, check=True, capture_output=True, timeout=120)
        if b"skipped missing file" not in gzip.decompress(file.read_bytes()):
            break
        time.sleep(1)
    return file


@pytest.mark.timeout(300)
def test_what_expired_before_it_was_read_comes_from_influxdb_and_nothing_else(
    local_settings: Settings, empty_kafka: KafkaServer, influx: InfluxServer, unique: str
) -> None:
    topic = builtin_topic("ESS.temperature")
    dataset = Dataset(topic.name)
    archive = Archive(local_settings)
    start = LAST_WEEK.start + timedelta(days=1)
    for hour in range(3):
        with SalProducer(local_settings) as producer:
            series = random_series(topic, 800, microseconds(start + timedelta(hours=hour)), first=1 + 800 * hour)
            producer.send([series])
        write_points(influx, unique, topic.name, as_rows(series))
        if hour == 1:
            expire(empty_kafka, topic.name)
        else:
            drain(archive, local_settings)
    settings = local_settings.model_copy(update={"history_influx_url": influx.url, "history_database": unique})

    result = heal(archive, settings, component="ESS", weeks=[LAST_WEEK])
    assert result.rows == 800
    table = archive.read(dataset).sort_by("private_seqNum")
    assert table["private_seqNum"].to_pylist() == list(range(1, 2401))
    sources = [source.partition(":")[0] == "influx" for source in table["archive_source"].to_pylist()]
    assert sources == [False] * 800 + [True] * 800 + [False] * 800
    # What is before and after the gap was Kafka's: of it only the edges were asked for.
    assert 0 < result.known < 100
    audit = verify(archive)
    assert (audit.missing, audit.problems) == (0, [])
    assert "800 rows came from history" in next(note.detail for note in audit.notes if note.kind == "gap")
    assert heal(archive, settings, component="ESS", weeks=[LAST_WEEK]).rows == 0


def expire(kafka: KafkaServer, topic: str) -> None:
    """Has the broker forget all that it has of a topic."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2})
    partitions = admin.list_topics(topic).topics[topic].partitions
    ends = [TopicPartition(topic, partition, -1) for partition in partitions]
    for deleted in admin.delete_records(ends).values():
        deleted.result(30)


@pytest.mark.timeout(300)
def test_a_run_whose_time_is_up_goes_on_at_the_next(
    sent: Archive, lost: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "COMMIT_BYTES", 10_000)
    monkeypatch.setattr(influx_module, "FIRST_PIECE_US", 5_000_000)
    monkeypatch.setattr(influx_module, "VALUES_OF_A_PIECE", 500)
    # Time is up at every ninth look, however fast the machine is.
    looks = itertools.count(1)
    monkeypatch.setattr(healing._Healing, "_is_over", lambda _: next(looks) % 9 == 0)
    rows = []
    for _ in range(200):
        result = heal(lost, lost.settings, component="Test", weeks=[LAST_WEEK])
        rows.append(result.rows)
        if not result.left:
            break
    assert len(rows) > 1
    assert sum(rows) == 800
    for dataset in lost.datasets("Test"):
        assert_equal_but_for_nan(lost.read(dataset), sent.read(dataset))
    assert finished_weeks(lost.store, "Test") == {LAST_WEEK}


@pytest.mark.timeout(300)
def test_rows_that_kafka_delivers_after_all_stand_beside_those_of_the_history(
    sent: Archive, lost: Archive, local_settings: Settings
) -> None:
    heal_all(lost)
    drain(lost, lost.settings.model_copy(update={"kafka_bootstrap": local_settings.kafka_bootstrap}))
    for dataset in sent.datasets():
        table = lost.read(dataset)
        kinds = {source.partition(":")[0] == "influx" for source in table["archive_source"].to_pylist()}
        assert kinds == {True, False}
        assert count_once(table).num_rows == sent.read(dataset).num_rows


@pytest.mark.timeout(300)
def test_backfill_on_the_command_line(lost: Archive, influx: InfluxServer) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EFD_")} | {
        "EFD_ARCHIVE": lost.settings.archive,
        "EFD_REGISTRY_URL": lost.settings.require_registry(),
        "EFD_HISTORY_INFLUX_URL": influx.url,
        "EFD_HISTORY_DATABASE": lost.settings.history_database,
    }

    def efd(*arguments: str) -> dict[str, object]:
        call = [sys.executable, "-m", "efd_pipelines.cli", "archive", "backfill", *arguments, "--json"]
        done = subprocess.run(call, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    weeks = f"{LAST_WEEK.previous()}..{LAST_WEEK}"
    estimated = efd("ESS", "--weeks", weeks, "--from", "influx", "--estimate")
    assert (estimated["datasets"], estimated["missing_hours"]) == (2, 336.0)
    done = efd("ESS", "--weeks", weeks, "--from", "influx")
    assert (done["rows"], done["left"], done["missing_hours"], done["asked_hours"]) == (400, False, 336.0, 336.0)
    assert efd("ESS", "--weeks", weeks, "--from", "influx")["rows"] == 0


@pytest.mark.timeout(300)
def test_an_archive_on_s3_is_healed_likewise(
    sent: Archive, lost: Archive, s3_settings: Settings, influx: InfluxServer
) -> None:
    update = {"kafka_bootstrap": None, "history_influx_url": influx.url}
    settings = s3_settings.model_copy(update=update | {"history_database": lost.settings.history_database})
    archive = Archive(settings)
    for rows in (400, 0):
        assert heal(archive, settings, component="ESS", weeks=[LAST_WEEK]).rows == rows
    assert_equal_but_for_nan(archive.read(Dataset("lsst.sal.ESS.temperature")), sent.read(sent.datasets("ESS")[0]))
    assert finished_weeks(archive.store, "ESS") == {LAST_WEEK}
    assert not archive.store.exists(NAME)


def test_of_many_that_create_an_object_one_does(archive: Archive) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: archive.store.create("a/object", b"%d" % n), range(8)))
    assert made.count(True) == 1
    assert archive.store.read_bytes("a/object") == b"%d" % made.index(True)
