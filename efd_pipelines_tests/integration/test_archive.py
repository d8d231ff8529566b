"""The archive on a real broker, registry and store: exactly once, whatever happens."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import gaps, verify
from efd_pipelines.archive.dead_letters import dead_frames, dead_letters
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.positions import ENDED, ledger_positions
from efd_pipelines.archive.quarantine import quarantined, release
from efd_pipelines.archive.reading import read_file, wanted_schema
from efd_pipelines.archive.slices import QUARANTINE
from efd_pipelines.archive.status import status
from efd_pipelines.archive.tables import commit
from efd_pipelines.errors import KafkaUnavailable, RegistryUnavailable, ServiceUnavailable
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines.settings import Settings
from efd_pipelines.simulator import faulty
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.replay import replay
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.simulator.series import Series
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.faults.processes import environment
from efd_pipelines_tests.integration.conftest import MakeSettings

AZIMUTH = "lsst.sal.MTMount.azimuth"
NOW = datetime.now(UTC).replace(microsecond=0)
LAST_WEEK = NOW - timedelta(days=7)


def produce(settings: Settings, topic: SalTopic, records: int, when: datetime = NOW, first: int = 1) -> Series:
    """Random records of a topic, one microsecond apart and more."""
    with SalProducer(settings) as producer:
        series = random_series(topic, records, microseconds(when), seed=first, first=first)
        producer.send([series])
    return series


def rows_and_records(archive: Archive) -> tuple[int, int]:
    audit = verify(archive, deep=True)
    assert audit.problems == []
    return audit.rows, audit.records


def recorded_columns(path: Path) -> dict[str, list[str]]:
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.reader(file))
    return {name: [row[n] for row in rows[1:]] for n, name in enumerate(rows[0])}


@pytest.mark.timeout(300)
def test_recorded_records_come_back_bit_for_bit(settings: Settings, archive: Archive, shared: Path) -> None:
    produced = replay(settings, shared / "recorded")
    drained = drain(archive, settings)
    assert (drained.records, drained.rows, drained.dead_letters) == (produced.records, produced.records, 0)
    for path in sorted((shared / "recorded").glob("*.csv.gz")):
        recorded = recorded_columns(path)
        table = archive.read(Dataset.parse(path.name.rpartition("_")[0]))
        order = np.argsort(np.array(recorded["time"], dtype=np.int64), kind="stable")
        by_time = table.take(pc.sort_indices(table, sort_keys=[("time", "ascending"), ("kafka_offset", "ascending")]))
        assert by_time["time"].cast(pa.int64()).to_numpy().tolist() == [int(recorded["time"][n]) // 1000 for n in order]
        for name, texts in recorded.items():
            if name != "time":
                assert_same_values(by_time[name], [texts[n] for n in order], f"{path.name}: {name}")


def assert_same_values(column: pa.ChunkedArray, texts: list[str], where: str) -> None:
    """Bit for bit in the column's own type; an empty text is a string, or no value."""
    if pa.types.is_boolean(column.type):
        assert column.to_pylist() == [text == "True" for text in texts], where
    elif pa.types.is_string(column.type):
        assert column.to_pylist() == texts, where
    elif pa.types.is_integer(column.type):
        assert column.to_pylist() == [int(text) for text in texts], where
    else:
        kind = column.type.to_pandas_dtype()
        values = column.to_numpy()
        expected = np.array([float(text) if text else np.nan for text in texts], dtype=np.float64).astype(kind)
        assert values.astype(kind).tobytes() == expected.tobytes(), where


KILL_POINTS = [
    ("before schemas", 1),
    ("before file", 1),
    ("after file", 3),
    ("before create", 2),
    ("after create", 1),
    ("before commit", 3),
    ("after commit", 2),
    ("before append", 2),
    ("after append", 1),
    ("before ledger", 1),
    ("after ledger", 1),
]


@pytest.mark.timeout(600)
def test_a_drain_killed_anywhere_and_repeated_archives_every_record_once(settings: Settings, archive: Archive) -> None:
    topics = [builtin_topic(name) for name in ("MTMount.azimuth", "ESS.temperature", "Test.scalars")]
    total = 0
    # What a step is does not depend on the store: all of them in a directory, every third on S3.
    for first, (point, nth) in enumerate(KILL_POINTS[:: 3 if settings.is_remote else 1], 1):
        for topic in topics:
            produce(settings, topic, 40, LAST_WEEK + timedelta(minutes=first), first=1 + 100 * first)
            produce(settings, topic, 20, NOW - timedelta(minutes=60 - first), first=41 + 100 * first)
        total += 60 * len(topics)
        assert killed_at(settings, point, nth) == -signal.SIGKILL, f"{point} was never reached"
    drain(archive, settings)
    assert rows_and_records(archive) == (total, total)


def killed_at(settings: Settings, point: str, nth: int) -> int:
    command = [sys.executable, "-m", "efd_pipelines_tests.faults.killed", point, str(nth)]
    return subprocess.run(command, env=environment(settings), check=False, timeout=120).returncode


def drain_twice_at_once(settings: Settings) -> None:
    """Two drains of everything, neither of which may fail."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            drain(Archive(settings), settings, until_caught_up=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.timeout(300)
def test_two_drains_at_once_archive_every_record_once(settings: Settings, archive: Archive) -> None:
    topics = [builtin_topic(name) for name in ("MTMount.azimuth", "MTM1M3.hardpointActuatorData", "Test.arrays")]
    for topic in topics:
        produce(settings, topic, 500)
    drain_twice_at_once(settings)
    drain(archive, settings)
    assert rows_and_records(archive) == (1500, 1500)


@pytest.mark.timeout(300)
def test_a_broker_restart_in_the_middle_loses_and_doubles_nothing(
    local_settings: Settings, empty_kafka: KafkaServer
) -> None:
    topic = builtin_topic("MTM1M3.forceActuatorData")
    produce(local_settings, topic, 6000)
    archive = Archive(local_settings)
    restarted = False

    def restart_once(done: int, expected: int, size_bytes: int) -> None:
        nonlocal restarted
        if not restarted:
            restarted = True
            empty_kafka.kill()
            empty_kafka.restart()

    small = local_settings.model_copy(update={"configuration": with_budget(local_settings, 4 << 20)})
    # Going on or giving up are both right: what was committed stands, and the next run reads the rest.
    with contextlib.suppress(KafkaUnavailable):
        drain(archive, small, progress=restart_once)
    drain(archive, local_settings, until_caught_up=True)
    assert restarted
    assert rows_and_records(archive) == (6000, 6000)


def with_budget(settings: Settings, byte_budget: int) -> object:
    kafka = settings.configuration.kafka.model_copy(update={"byte_budget": byte_budget})
    return settings.configuration.model_copy(update={"kafka": kafka})


@pytest.mark.timeout(300)
def test_s3_killed_and_restarted_in_the_middle_loses_and_doubles_nothing(s3_settings: Settings, s3: S3Server) -> None:
    topic = builtin_topic("MTM1M3.forceActuatorData")
    produce(s3_settings, topic, 6000)
    small = s3_settings.model_copy(update={"configuration": with_budget(s3_settings, 4 << 20)})
    killed = threading.Event()

    def kill_once(done: int, expected: int, size_bytes: int) -> None:
        if not killed.is_set():
            killed.set()
            s3.kill()

    with pytest.raises(ServiceUnavailable):
        drain(Archive(small), small, progress=kill_once)
    s3.restart()
    archive = Archive(s3_settings)
    drain(archive, s3_settings, until_caught_up=True)
    assert killed.is_set()
    assert rows_and_records(archive) == (6000, 6000)


@pytest.mark.timeout(300)
def test_weeks_quarantine_and_the_dead_become_visible_in_one_commit(settings: Settings, archive: Archive) -> None:
    topic = builtin_topic("MTMount.azimuth")
    with SalProducer(settings) as producer:
        producer.prepare([topic])
        producer.send([random_series(topic, 5, microseconds(NOW))])
        producer.send([random_series(topic, 4, microseconds(LAST_WEEK), first=6)])
        faulty.send_at(producer, topic, datetime(1970, 1, 2, tzinfo=UTC), 2, first=10)
        faulty.send_at(producer, topic, datetime(2090, 1, 2, tzinfo=UTC), 1, first=12)
        faulty.send_random_bytes(producer, topic, 3)
    drain(archive, settings)
    snapshot = archive.snapshot(Dataset.parse(topic.name))
    by_week: dict[str, int] = {}
    for file in snapshot.files():
        by_week[file.week] = by_week.get(file.week, 0) + file.rows
    weeks = {Week.containing(NOW).key: 5, Week.containing(LAST_WEEK).key: 4}
    assert by_week == {**weeks, "quarantine": 3, "dead": 3}
    assert snapshot.version == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", ["before commit", "after commit"])
def test_a_batch_killed_and_repeated_after_its_schema_became_known_is_whole(
    local_settings: Settings, point: str
) -> None:
    """The unknown schema's frames are routed differently the second time: to a week, not to the dead."""
    name = f"lsst.sal.Test.lateSchema_{point.replace(' ', '_')}"
    topic = SalTopic.of(name, [SalField("value", "double")])
    with Registries(local_settings) as registries, SalProducer(local_settings) as producer:
        producer.prepare([topic])
        known = registries.latest("", topic.subject).id
        other = SalTopic.of(name, [SalField("value", "double"), SalField("more", "int")])
        late = random_series(other, 7, microseconds(NOW), first=100)
        producer.send([random_series(topic, 3, microseconds(NOW)), random_series(topic, 3, microseconds(LAST_WEEK))])
        next_id = known + 1
        while has_schema(registries, next_id):
            next_id += 1
        faulty.send_unregistered(producer, late, next_id)
        faulty.send_random_bytes(producer, topic, 2)
        producer.flush()
        assert killed_at(local_settings, point, 1) == -signal.SIGKILL
        assert registries.register("", topic.subject, other.avro_schema()) == next_id
    archive = Archive(local_settings)
    drain(archive, local_settings)
    assert rows_and_records(archive) == (15, 15)
    dead = dead_frames(archive, Dataset.parse(topic.name)).num_rows
    assert dead == (2 if point == "before commit" else 9)


def has_schema(registries: Registries, schema_id: int) -> bool:
    from efd_pipelines.kafka.registry import UnknownSchema

    try:
        registries.schema("", schema_id)
    except UnknownSchema:
        return False
    return True


@pytest.mark.timeout(300)
def test_what_a_run_killed_before_the_ledger_committed_is_not_invisible(local_settings: Settings) -> None:
    topic = builtin_topic("MTMount.azimuth")
    produce(local_settings, topic, 30)
    assert killed_at(local_settings, "before ledger", 1) == -signal.SIGKILL
    archive = Archive(local_settings)
    assert [(week.rows, week.lag) for week in status(archive, local_settings)] == [(30, 0)]
    assert drain(archive, local_settings).records == 0
    assert rows_and_records(archive) == (30, 30)


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


def delete_topic(settings: Settings, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": settings.require_kafka(), "log_level": 2})
    admin.delete_topics([name])[name].result(30)
    deadline = time.monotonic() + 30
    while name in admin.list_topics(timeout=10).topics and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.timeout(300)
def test_a_late_record_lands_in_its_week(local_settings: Settings) -> None:
    topic = builtin_topic("Test.scalars")
    archive = Archive(local_settings)
    produce(local_settings, topic, 5)
    drain(archive, local_settings)
    late = NOW - timedelta(days=400)
    produce(local_settings, topic, 1, late, first=6)
    drain(archive, local_settings)
    weeks = {week.week: week.rows for week in status(archive)}
    assert weeks == {Week.containing(late).key: 1, Week.containing(NOW).key: 5}


@pytest.mark.timeout(300)
def test_times_that_cannot_be_are_quarantined_whole(local_settings: Settings) -> None:
    topic = builtin_topic("MTMount.azimuth")
    with SalProducer(local_settings) as producer:
        producer.prepare([topic])
        for year in (1970, 2090):
            faulty.send_at(producer, topic, datetime(year, 6, 1, tzinfo=UTC), 2, first=year)
    archive = Archive(local_settings)
    result = drain(archive, local_settings)
    assert (result.records, result.quarantined, result.dead_letters) == (4, 4, 0)
    snapshot = archive.snapshot(Dataset.parse(topic.name))
    schema = wanted_schema(snapshot, ["time", "actualPosition"])
    rows = pa.concat_tables([read_file(snapshot, file, schema) for file in snapshot.files({QUARANTINE})])
    assert sorted({time.year for time in rows["time"].to_pylist()}) == [1970, 2090]
    assert archive.read(Dataset.parse(topic.name)).num_rows == 0


@pytest.mark.timeout(300)
def test_poison_is_kept_among_the_dead_and_the_rest_is_archived(settings: Settings, archive: Archive) -> None:
    topic, healthy = builtin_topic("MTMount.elevation"), builtin_topic("Test.arrays")
    with SalProducer(settings) as producer:
        producer.prepare([topic, healthy])
        garbage = faulty.send_random_bytes(producer, topic, 4, seed=3)
        unknown = faulty.send_unregistered(producer, random_series(topic, 2, microseconds(NOW)))
        cut = faulty.send_truncated(producer, random_series(topic, 3, microseconds(NOW), first=3))
        long = faulty.send_overlong(producer, random_series(topic, 1, microseconds(NOW), first=6))
        faulty.send_tombstones(producer, topic, 2)
        producer.send(
            [random_series(topic, 10, microseconds(NOW), first=7), random_series(healthy, 10, microseconds(NOW))]
        )
    result = drain(archive, settings)
    assert (result.records, result.dead_letters, result.problems) == (32, 12, [])
    kept = dead_frames(archive, Dataset.parse(topic.name))["archive_frame"].to_pylist()
    assert sorted(kept, key=repr) == sorted([*garbage, *unknown, *cut, *long, None, None], key=repr)
    reasons = {letters.reason for letters in dead_letters(archive)}
    assert any("2000000001" in reason for reason in reasons)
    assert archive.read(Dataset.parse(topic.name)).num_rows == 10
    assert archive.read(Dataset.parse(healthy.name)).num_rows == 10
    assert rows_and_records(archive) == (32, 32)


@pytest.mark.timeout(300)
def test_a_topic_that_begins_with_poison_gets_its_table(local_settings: Settings) -> None:
    topic = builtin_topic("MTMount.elevation")
    archive = Archive(local_settings)
    with SalProducer(local_settings) as producer:
        producer.prepare([topic])
        faulty.send_random_bytes(producer, topic, 2)
    drain(archive, local_settings)
    produce(local_settings, topic, 3)
    drain(archive, local_settings)
    assert archive.read(Dataset.parse(topic.name), ["actualPosition"]).num_rows == 3
    assert rows_and_records(archive) == (5, 5)


@pytest.mark.timeout(300)
def test_fields_that_differ_only_in_case_keep_their_values_apart(local_settings: Settings) -> None:
    fields = [SalField("Source", "string"), SalField("source", "double"), SalField("time", "double")]
    topic = SalTopic.of("lsst.sal.Test.sources", fields)
    series = produce(local_settings, topic, 4)
    archive = Archive(local_settings)
    drain(archive, local_settings)
    table = archive.read(Dataset.parse(topic.name))
    assert table["Source"].to_pylist() == list(series.columns["Source"])
    for column, field in (("source__", "source"), ("time__", "time")):
        assert np.array_equal(table[column].to_numpy(), np.asarray(series.columns[field]), equal_nan=True)


@pytest.mark.timeout(300)
def test_a_field_that_grows_wider_keeps_old_and_new_values(local_settings: Settings) -> None:
    name = "lsst.sal.Test.widening"
    archive = Archive(local_settings)
    narrow = produce(local_settings, SalTopic.of(name, [SalField("count", "int"), SalField("level", "float")]), 5)
    drain(archive, local_settings)
    wide = produce(
        local_settings,
        SalTopic.of(name, [SalField("count", "long long"), SalField("level", "double"), SalField("new", "int")]),
        5,
        first=6,
    )
    drain(archive, local_settings)
    table = archive.read(Dataset.parse(name))
    assert (table.schema.field("count").type, table.schema.field("level").type) == (pa.int64(), pa.float64())
    expected = [*np.asarray(narrow.columns["count"]).tolist(), *np.asarray(wide.columns["count"]).tolist()]
    assert sorted(table["count"].to_pylist()) == sorted(expected)
    assert table["new"].null_count == 5
    levels = [*np.asarray(narrow.columns["level"], np.float32).astype(float), *np.asarray(wide.columns["level"])]
    assert np.array_equal(np.sort(table["level"].to_numpy()), np.sort(levels), equal_nan=True)
    assert rows_and_records(archive) == (10, 10)


@pytest.mark.timeout(300)
def test_topics_whose_records_pass_two_thousand_columns_keep_lists(local_settings: Settings) -> None:
    topic = SalTopic.of("lsst.sal.Test.wide", [SalField("values", "float", 1500), SalField("others", "double", 800)])
    series = produce(local_settings, topic, 3)
    archive = Archive(local_settings)
    drain(archive, local_settings)
    table = archive.read(Dataset.parse(topic.name))
    assert table.schema.field("values").type == pa.list_(pa.float32())
    found = np.array(table["values"].to_pylist(), dtype=np.float32)
    assert np.array_equal(found, np.asarray(series.columns["values"], np.float32), equal_nan=True)


@pytest.mark.timeout(120)
def test_an_unreachable_broker_or_registry_is_named_and_nothing_is_lost(site: MakeSettings) -> None:
    settings = site()
    topic = builtin_topic("Test.scalars")
    produce(settings, topic, 5)
    quick = settings.configuration.model_copy(
        update={"kafka": settings.configuration.kafka.model_copy(update={"timeout_s": 2.0, "stall_s": 2.0})}
    )
    no_broker = settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9", "configuration": quick})
    with pytest.raises(KafkaUnavailable, match=r"127\.0\.0\.1:9"):
        drain(Archive(no_broker), no_broker)
    no_registry = settings.model_copy(update={"registry_url": "http://127.0.0.1:9/apis", "configuration": quick})
    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:9"):
        drain(Archive(no_registry), no_registry)
    archive = Archive(settings)
    drain(archive, settings)
    assert rows_and_records(archive) == (5, 5)


@pytest.mark.timeout(120)
def test_a_directory_that_cannot_be_written_is_named(site: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    settings = site(archive=str(tmp_path / "file" / "archive"))
    produce(settings, builtin_topic("Test.scalars"), 1)
    with pytest.raises(ServiceUnavailable, match="file/archive"):
        drain(Archive(settings), settings)


@pytest.mark.timeout(120)
def test_topics_of_other_names_are_archived_or_left_alone(local_settings: Settings) -> None:
    odd = [
        "lsst.sal..x",
        "lsst.sal._hidden._delta_log",
        "lsst.sal.Te-st.a.b",
        "connect-status",
        "tts.lsst.sal.Test.odd",
    ]
    with SalProducer(local_settings) as producer:
        producer.create([(name, 1, {}) for name in odd])
        for name in odd:
            producer.put(name, b"\xffno frame", b"")
    archive = Archive(local_settings)
    result = drain(archive, local_settings)
    assert (result.records, result.dead_letters) == (4, 4)
    assert {dataset.text for dataset in archive.datasets()} == {
        "lsst.sal..x",
        "lsst.sal._hidden._delta_log",
        "lsst.sal.Te-st.a.b",
        "tts@lsst.sal.Test.odd",
    }
    assert rows_and_records(archive) == (4, 4)


@pytest.mark.timeout(120)
def test_the_mirror_of_the_summit_is_the_summits_dataset(site: MakeSettings, registry: RegistryServer) -> None:
    settings = site(profile="usdf")
    produce(settings, builtin_topic("Test.scalars"), 5)
    archive = Archive(settings)
    drain(archive, settings)
    assert [dataset.text for dataset in archive.datasets()] == ["lsst.sal.Test.scalars"]


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


def expire(settings: Settings, topic: str, before_offset: int) -> None:
    """Makes the broker forget the records before an offset, as retention does."""
    admin = AdminClient({"bootstrap.servers": settings.require_kafka(), "log_level": 2})
    for done in admin.delete_records([TopicPartition(topic, 0, before_offset)]).values():
        done.result(30)


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
    formats = local_settings.configuration.model_copy(update={"value_formats": {metric: "json"}})
    settings = local_settings.model_copy(update={"configuration": formats})
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


@pytest.mark.timeout(300)
def test_a_full_disk_is_named_and_nothing_is_lost(local_settings: Settings, tmp_path: Path) -> None:
    for name in ("MTM1M3.forceActuatorData", "MTMount.azimuth", "Test.scalars"):
        produce(local_settings, builtin_topic(name), 1500)
    full = tmp_path / "full"
    full.mkdir()
    command = ["unshare", "-Urm", sys.executable, "-m", "efd_pipelines_tests.faults.full_disk", str(full)]
    done = subprocess.run(
        command, env=environment(local_settings), check=False, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["error"] == "StoreFull"
    assert str(full) in found["message"]
    assert (found["rows"], found["records"], found["problems"]) == (4500, 4500, [])
