"""What the simulator puts onto a real broker and registry is what comes off them.

Frames are read with a plain consumer and decoded by fastavro with the schema that the registry gives for their
id. Each test has its topics under a cluster prefix of its own.
"""

from __future__ import annotations

import csv
import gzip
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from efd_pipelines.errors import KafkaUnavailable, RegistryUnavailable, SettingsError
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines.simulator.everything import produce_topics, random_series
from efd_pipelines.simulator.faulty import (
    UNREGISTERED_ID,
    send_at,
    send_overlong,
    send_random_bytes,
    send_tombstones,
    send_truncated,
    send_unregistered,
)
from efd_pipelines.simulator.fixtures import builtin_topic, builtin_topics
from efd_pipelines.simulator.observatory import Observatory, exposures, run_observatory
from efd_pipelines.simulator.pace import Pace
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.recording import topic_of
from efd_pipelines.simulator.replay import replay
from efd_pipelines.times import event_time_us, microseconds
from efd_pipelines_tests.integration.configured import with_kafka
from efd_pipelines_tests.unit.simulator.reading import decoded

START = datetime(2026, 11, 15, 23, 59, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Received:
    """A record as the consumer got it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


@pytest.fixture
def settings(kafka: KafkaServer, registry: RegistryServer, tmp_path: Path) -> Settings:
    return load_settings(
        {"EFD_KAFKA_BOOTSTRAP": kafka.bootstrap, "EFD_REGISTRY_URL": registry.url},
        env_file=None,
        archive=str(tmp_path / "archive"),
    )


Read = Callable[..., dict[str, list[Received]]]


@pytest.fixture
def read(kafka: KafkaServer) -> Iterator[Read]:
    """All records of topics, by partition and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": "none",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )

    def records(*topics: str) -> dict[str, list[Received]]:
        known = consumer.list_topics(timeout=20).topics
        unread = {(topic, partition) for topic in topics for partition in known[topic].partitions}
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in unread])
        found: dict[str, list[Received]] = {topic: [] for topic in topics}
        while unread:
            for message in consumer.consume(10_000, timeout=1.0):
                topic, partition, offset = message.topic(), message.partition(), message.offset()
                assert topic is not None
                assert partition is not None
                assert offset is not None
                error = message.error()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF
                    unread.discard((topic, partition))
                    continue
                key, value = message.key(), message.value()
                assert not isinstance(key, str)
                assert not isinstance(value, str)
                found[topic].append(Received(partition, offset, key, value, message.timestamp()[1]))
        return {topic: sorted(some, key=lambda r: (r.partition, r.offset)) for topic, some in found.items()}

    yield records
    consumer.close()


def decode(received: list[Received], registry: RegistryServer) -> list[dict[str, Any]]:
    """The records of frames, with the schema that their id has in the registry."""
    by_id: dict[int, list[bytes]] = {}
    for record in received:
        assert record.value is not None
        magic, schema_id = struct.unpack(">bI", record.value[:5])
        assert magic == 0
        by_id.setdefault(schema_id, []).append(record.value[5:])
    found = []
    for schema_id, bodies in by_id.items():
        found += decoded(httpx.get(f"{registry.url}/schemas/ids/{schema_id}").json()["schema"], bodies)
    return found


def test_a_replayed_night_comes_off_kafka_bit_for_bit(
    settings: Settings,
    registry: RegistryServer,
    read: Read,
    unique: str,
    shared: Path,
) -> None:
    produced = replay(settings, shared / "recorded", cluster=unique)

    assert (produced.topics, produced.records) == (12, 10_304)
    paths = sorted((shared / "recorded").glob("*.csv.gz"))
    received = read(*(f"{unique}.{topic_of(path, builtin_topics())}" for path in paths))
    for path in paths:
        with gzip.open(path, "rt", newline="") as stream:
            rows = {int(row["time"]) // 1000: row for row in csv.DictReader(stream)}
        topic = topic_of(path, builtin_topics())
        records = decode(received[f"{unique}.{topic}"], registry)
        assert len(records) == len(rows)
        stamps = np.array([record["private_efdStamp"] for record in records])
        for time_us, record in zip(event_time_us(stamps).tolist(), records, strict=True):
            flat: dict[str, Any] = {}
            for name, value in record.items():
                parts = value if isinstance(value, list) else [value]
                labels = [f"{name}{n}" for n in range(len(parts))] if isinstance(value, list) else [name]
                flat.update(zip(labels, parts, strict=True))
            row = rows.pop(time_us)
            for name in set(row) - {"time"}:
                text = {"True": "1", "False": ""}.get(row[name], row[name])
                assert flat[name] == type(flat[name])(text), (topic, name)
        assert not rows


def test_telemetry_is_spread_and_events_are_compacted_after_a_week(
    settings: Settings, kafka: KafkaServer, read: Read, unique: str
) -> None:
    forces, event = builtin_topic("MTM1M3.accelerometerData"), builtin_topic("MTMount.logevent_heartbeat")
    with SalProducer(settings, unique) as producer:
        producer.send([random_series(topic, 400, microseconds(START)) for topic in (forces, event)])
        names = {topic.name: producer.topic_name(topic) for topic in (forces, event)}

    received = read(*names.values())
    spread = received[names[forces.name]]
    assert {record.partition for record in spread} == {0, 1, 2, 3}
    assert {record.key for record in spread} == {b""}
    assert {(record.partition, record.key) for record in received[names[event.name]]} == {(0, event.key())}
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    resource = ConfigResource(ResourceType.TOPIC, names[event.name])
    config = admin.describe_configs([resource])[resource].result(20)
    assert config["cleanup.policy"].value == "compact"
    assert int(config["min.compaction.lag.ms"].value) == 7 * 86_400_000


def test_subjects_and_namespaces_have_no_prefix_at_a_mirror(
    kafka: KafkaServer, registry: RegistryServer, read: Read
) -> None:
    environment = {
        "EFD_PROFILE": "usdf",
        "EFD_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "EFD_REGISTRY_URL": registry.url,
    }
    topic = builtin_topic("Test.arrays")
    with SalProducer(load_settings(environment, env_file=None)) as producer:
        producer.send([random_series(topic, 2, microseconds(START))])

    (received,) = read("summit.lsst.sal.Test.arrays").values()
    assert len(received) >= 2
    latest = httpx.get(f"{registry.url}/subjects/lsst.sal.Test.arrays-value/versions/latest").json()
    assert json.loads(latest["schema"])["namespace"] == "lsst.sal.Test"
    assert {struct.unpack(">I", (record.value or b"")[1:5])[0] for record in received} == {latest["id"]}


def test_an_observatory_comes_off_kafka_as_it_was_computed(
    settings: Settings, registry: RegistryServer, read: Read, unique: str
) -> None:
    produced = run_observatory(settings, 5, 12, start=START, cluster=unique)

    computed: dict[str, list[bytes]] = {}
    for block in Observatory(5).blocks(START, 12):
        for series in block:
            computed.setdefault(series.topic.name, []).extend(series.bodies())
    assert produced.records == sum(map(len, computed.values()))
    assert produced.topics == len(Observatory(5).topics())
    received = read(*(f"{unique}.{name}" for name in computed))
    for name, bodies in computed.items():
        values = [(record.value or b"")[5:] for record in received[f"{unique}.{name}"]]
        assert sorted(values) == sorted(bodies)
    assert decode(received[f"{unique}.lsst.sal.Test.scalars"], registry)


def test_an_observatory_writes_its_exposures_once(settings: Settings, unique: str) -> None:
    few = frozenset({"MTCamera.logevent_endReadout"})
    expected = exposures(5, START, 300)
    progress: list[tuple[int, int]] = []
    counts = [
        run_observatory(
            settings,
            5,
            200,
            start=START + timedelta(seconds=after),
            exposures=True,
            topics=few,
            cluster=unique,
            progress=lambda *counts: progress.append(counts),
        ).exposures
        for after in (0, 100)
    ]

    with sa.create_engine(settings.require_consdb()).connect() as connection:
        table = sa.Table("cdb_lsstcam_exposure", sa.MetaData(), autoload_with=connection)
        rows = connection.execute(sa.select(table).order_by(table.c.exposure_id)).mappings().all()
    assert sum(counts) > len(expected) > 4
    assert all(done <= total for done, total in progress if total)
    assert [row["exposure_id"] for row in rows] == [one.id for one in expected]
    for row, one in zip(rows, expected, strict=True):
        assert row["obs_start"] == one.row()["obs_start"]


def test_every_topic_of_a_catalogue_is_made_and_has_its_records(
    settings: Settings, registry: RegistryServer, read: Read, unique: str, tmp_path: Path
) -> None:
    names = ["MTM1M3.imsData", "MTCamera.thermal_trim", "Test.scalars", "ScriptQueue.ackcmd"]
    document = {}
    for name in names:
        topic = builtin_topic(name)
        document[topic.name] = {
            "csc": topic.csc,
            "kind": topic.kind.value,
            "indexed": topic.indexed,
            "partitions": 1,
            "fields": [[f.name, f.sal_type, f.count, f.units] for f in topic.fields],
        }
    path = tmp_path / "topics.json.gz"
    path.write_bytes(gzip.compress(json.dumps(document).encode()))

    produced = produce_topics(settings, path, 3, cluster=unique)

    assert (produced.topics, produced.records) == (4, 12)
    for received in read(*(f"{unique}.lsst.sal.{name}" for name in names)).values():
        assert len(decode(received, registry)) == 3


def test_faults_are_what_they_say(settings: Settings, registry: RegistryServer, read: Read, unique: str) -> None:
    topic = builtin_topic("Test.scalars")
    series = random_series(topic, 2, microseconds(START))
    with SalProducer(settings, unique) as producer:
        producer.prepare([topic])
        good = producer.frames(series)
        producer.send([series])
        sent = [
            *send_random_bytes(producer, topic, 2),
            *send_unregistered(producer, series),
            *send_truncated(producer, series),
            *send_overlong(producer, series),
        ]
        send_tombstones(producer, topic)
        for year in (1970, 2090):
            send_at(producer, topic, datetime(year, 1, 2, tzinfo=UTC))

    (received,) = read(f"{unique}.{topic.name}").values()
    assert [record.value for record in received[:11]] == [*good, *sent, None]
    assert sent[0][0] != 0
    assert struct.unpack(">I", sent[2][1:5])[0] == UNREGISTERED_ID
    assert httpx.get(f"{registry.url}/schemas/ids/{UNREGISTERED_ID}").status_code == 404
    years = [record["private_efdStamp"] / (365.2425 * 86400) + 1970 for record in decode(received[11:], registry)]
    assert [int(year) for year in years] == [1970, 2090]


def test_topics_and_schemas_can_be_prepared_again(settings: Settings, registry: RegistryServer, unique: str) -> None:
    topic = builtin_topic("MTM1M3.imsData")
    frames = []
    for _ in range(2):
        with SalProducer(settings, unique) as producer:
            producer.prepare([topic])
            frames.append(producer.frames(random_series(topic, 1, microseconds(START))))

    assert frames[0] == frames[1]


def test_progress_counts_up_to_the_records_produced(settings: Settings, unique: str) -> None:
    seen: list[tuple[int, int]] = []
    topic = builtin_topic("MTMount.logevent_heartbeat")
    with SalProducer(settings, unique) as producer:
        series = random_series(topic, 1_200, microseconds(START))
        producer.send([series], Pace("max"), lambda *counts: seen.append(counts), 1_200)

    assert seen == [(500, 1_200), (1_000, 1_200), (1_200, 1_200)]


def test_records_of_other_namespaces_carry_their_time_as_kafkas(
    settings: Settings, read: Read, unique: str, tmp_path: Path
) -> None:
    (tmp_path / "lsst.dm.metric_1.csv").write_text("time,value\n1690587374165123000,1.5\n")

    replay(settings, tmp_path, cluster=unique)

    (received,) = read(f"{unique}.lsst.dm.metric").values()
    assert [record.timestamp_ms for record in received] == [1690587374165]


def test_brokers_that_do_not_answer_are_named(registry: RegistryServer) -> None:
    environment = {"EFD_KAFKA_BOOTSTRAP": "127.0.0.1:9", "EFD_REGISTRY_URL": registry.url}
    settings = with_kafka(load_settings(environment, env_file=None), timeout_s=2.0)

    with pytest.raises(KafkaUnavailable, match=r"127\.0\.0\.1:9"), SalProducer(settings) as producer:
        producer.prepare([builtin_topic("Test.scalars")])


def test_a_registry_that_does_not_answer_is_named(kafka: KafkaServer, unique: str) -> None:
    environment = {"EFD_KAFKA_BOOTSTRAP": kafka.bootstrap, "EFD_REGISTRY_URL": "http://127.0.0.1:9/v7"}
    settings = load_settings(environment, env_file=None)

    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:9"), SalProducer(settings, unique) as producer:
        producer.prepare([builtin_topic("Test.scalars")])


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="EFD_KAFKA_BOOTSTRAP"):
        SalProducer(load_settings({}, env_file=None))


def test_records_that_are_not_delivered_are_an_error_and_not_silence(tmp_path: Path, registry: RegistryServer) -> None:
    with KafkaServer(tmp_path / "kafka", die_with_parent=True) as server:
        environment = {
            "EFD_KAFKA_BOOTSTRAP": server.bootstrap,
            "EFD_REGISTRY_URL": registry.url,
            "EFD_KAFKA_MESSAGE_TIMEOUT_MS": "2000",
        }
        topic = builtin_topic("Test.scalars")
        producer = SalProducer(load_settings(environment, env_file=None))
        producer.prepare([topic])
        server.kill()
        producer.send([random_series(topic, 3, microseconds(START))])

        with pytest.raises(KafkaUnavailable, match=r"lsst\.sal\.Test\.scalars"):
            producer.flush()


def test_a_broker_restart_in_the_middle_loses_and_doubles_nothing(tmp_path: Path, registry: RegistryServer) -> None:
    with KafkaServer(tmp_path / "kafka", die_with_parent=True) as server:
        environment = {"EFD_KAFKA_BOOTSTRAP": server.bootstrap, "EFD_REGISTRY_URL": registry.url}
        topic = builtin_topic("Test.scalars")
        with SalProducer(load_settings(environment, env_file=None)) as producer:
            producer.send([random_series(topic, 2_000, microseconds(START))])
            server.kill()
            producer.send([random_series(topic, 2_000, microseconds(START), first=2_001)])
            server.restart()

        consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "none", "log_level": 0})
        assert consumer.get_watermark_offsets(TopicPartition(topic.name, 0), timeout=20) == (0, 4_000)
        consumer.close()
