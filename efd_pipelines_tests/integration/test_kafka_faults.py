"""Reading a backlog from brokers that die, stay away, forbid, forget or keep broken batches, and what is said of it.

These brokers are of this file alone. Reading from brokers that are well: `test_kafka_reading.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from efd_pipelines.errors import KafkaUnavailable, SettingsError
from efd_pipelines.kafka import consumers, pacing
from efd_pipelines.kafka.backlog import Chunk, Gap, Position, TopicGone, TopicRefused, Truncated, read_backlog
from efd_pipelines.kafka.brokers import Brokers
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.settings import load_settings
from efd_pipelines_tests.conftest import start
from efd_pipelines_tests.integration.heard import Cluster, Heard, run, values_of


@pytest.fixture(autouse=True, scope="module")
def compiled() -> Iterator[None]:
    """Reading as much is read."""
    with mock.patch.object(consumers, "WORTH_COMPILING", 0):
        yield


@pytest.fixture
def topic(unique: str) -> str:
    return f"lsst.sal.{unique}.a"


@pytest.fixture(scope="module")
def fragile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker that tests may stop, and forbid things: nobody else uses it."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        # One that is killed starts from what it last noted as committed: by default it notes so every 5 s.
        "replica.high.watermark.checkpoint.interval.ms": "200",
    }
    server = KafkaServer(tmp_path_factory.mktemp("fragile"), properties=properties, die_with_parent=True)
    start(server)
    yield server
    server.stop()


@pytest.fixture
def fragile(fragile_server: KafkaServer) -> Cluster:
    start(fragile_server)
    return Cluster.of(fragile_server)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("run_bytes", [None, 200_000])
def test_a_broker_killed_and_started_in_the_middle_costs_nothing(
    fragile: Cluster, topic: str, run_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if run_bytes:  # partitions are laid aside and taken up all the time
        monkeypatch.setattr(pacing, "RUN_BYTES", run_bytes)
        monkeypatch.setattr(pacing, "AHEAD_MS", 0)
    fragile.make(topic, partitions=2)
    fragile.put(topic, range(20_000), size=3000)
    fragile.put(topic, range(20_000), partition=1, size=3000)
    time.sleep(1)  # the broker notes what it has
    heard = Heard()
    for item in fragile.read(topic, budget=4_000_000):
        if len(heard.chunks) == 2:
            fragile.server.kill()
            fragile.server.start()
        heard.add(item)
    for partition in range(2):
        assert heard.values[topic, partition] == values_of(range(20_000), 3000)
    assert heard.events == []


@pytest.mark.timeout(180)
def test_a_broker_that_stays_away_is_said_and_what_came_before_is_valid(
    fragile_server: KafkaServer, topic: str
) -> None:
    start(fragile_server)
    cluster = Cluster.of(fragile_server, stall_s=3.0)
    cluster.make(topic)
    cluster.put(topic, range(20_000), size=3000)
    heard = Heard()
    began = 0.0

    def read_all() -> None:
        nonlocal began
        for item in cluster.read(topic, budget=4_000_000):
            if not heard.chunks:
                cluster.server.kill()
                began = time.monotonic()
            heard.add(item)

    with pytest.raises(KafkaUnavailable) as failure:
        read_all()
    assert time.monotonic() - began < 20
    assert cluster.server.bootstrap in failure.value.message
    read = heard.values[topic, 0]
    assert read == values_of(range(len(read)), 3000)
    assert heard.positions[topic, 0].offset == len(read)


@pytest.mark.timeout(120)
def test_a_log_with_another_history_is_a_truncation(fragile: Cluster, topic: str) -> None:
    """The position's leader epoch ended at 30: what was read from there to 50 is of another history."""
    fragile.make(topic)
    fragile.put(topic, range(30))
    fragile.server.restart()
    fragile.wait(lambda: len(fragile.offsets(topic)) == 1)
    fragile.put(topic, range(30, 100))
    (chunk,) = [item for item in fragile.read(topic) if isinstance(item, Chunk)]
    epoch = chunk.positions[0].leader_epoch
    assert epoch is not None
    assert epoch > 0
    assert list(fragile.read(topic, at={0: Position(50, 0)})) == [Truncated(topic, 0, 50, 30)]
    same = Heard.of(fragile.read(topic, at={0: Position(30, 0)}))
    assert same.offsets[topic, 0] == list(range(30, 100))


@pytest.mark.timeout(120)
def test_a_batch_that_does_not_agree_with_its_checksum_is_not_passed_over(fragile: Cluster, topic: str) -> None:
    other = fragile.make(f"{topic}2")
    fragile.put(other, range(5))
    fragile.make(topic)
    for first in range(0, 20, 5):
        fragile.put(topic, range(first, first + 5), size=100)
    fragile.server.stop()
    (log,) = (fragile.server.directory / "data" / f"{topic}-0").glob("*.log")
    raw = bytearray(log.read_bytes())
    raw[raw.index(b"7.....") + 3] ^= 0xFF
    log.write_bytes(raw)
    fragile.server.start()
    fragile.wait(lambda: len(fragile.offsets(topic)) == 1)
    heard = Heard.of(fragile.read(topic, other))
    assert heard.offsets == {(topic, 0): list(range(5)), (other, 0): list(range(5))}
    assert heard.positions[topic, 0].offset == 5
    (event,) = heard.events
    assert isinstance(event, TopicRefused)
    assert "offset 5" in event.reason
    # What the remedy says: given up, it is a gap.
    fragile.admin.delete_records([TopicPartition(topic, 0, 10)])
    fragile.wait(lambda: fragile.offsets(topic)[0].low == 10)
    later = Heard.of(fragile.read(topic, at={0: Position(5)}))
    assert [(event.first, event.end) for event in later.events if isinstance(event, Gap)] == [(5, 10)]
    assert later.offsets[topic, 0] == list(range(10, 20))


@pytest.mark.timeout(120)
def test_a_topic_that_may_not_be_read_is_said_and_the_others_are_read(fragile: Cluster, topic: str) -> None:
    other = fragile.make(f"{topic}2")
    for name in (fragile.make(topic), other):
        fragile.put(name, range(5))
    forbid = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        "User:ANONYMOUS",
        "*",
        AclOperation.READ,
        AclPermissionType.DENY,
    )
    fragile.admin.create_acls([forbid])[forbid].result()
    time.sleep(0.5)
    positions = {topic: {0: Position(0)}, other: {0: Position(0)}}
    heard = Heard.of(read_backlog(fragile.settings, positions, {topic: {0: 5}, other: {0: 5}}))
    (event,) = heard.events
    assert isinstance(event, TopicRefused | TopicGone)
    assert event.topic == topic
    assert heard.values == {(other, 0): values_of(range(5))}


def test_unreachable_brokers_are_named_without_noise(tmp_path: Path) -> None:
    done = run(
        """
        from efd_pipelines.errors import KafkaUnavailable
        from efd_pipelines.kafka.backlog import Position, read_backlog
        from efd_pipelines.kafka.brokers import Brokers
        settings = settings_for("127.0.0.1:9", stall_s=1.0, timeout_s=1.0)
        for action in (
            lambda: Brokers(settings).topics(),
            lambda: Brokers(settings).cluster_id(),
            lambda: list(read_backlog(settings, {"lsst.sal.A.a": {0: Position(0)}}, {})),
        ):
            try:
                action()
            except KafkaUnavailable as error:
                print(error)
        """
    )
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert len(lines) == 3
    for line in lines:
        assert "127.0.0.1:9" in line
        assert "EFD_KAFKA_BOOTSTRAP" in line
        assert "Connection refused" in line


def test_a_wrong_property_is_named() -> None:
    settings = load_settings({"EFD_KAFKA_BOOTSTRAP": "127.0.0.1:9", "EFD_KAFKA_NO_SUCH": "1"}, None)
    with pytest.raises(SettingsError, match=r"no\.such"):
        Brokers(settings).topics()


def test_a_secret_is_never_said() -> None:
    environ = {
        "EFD_KAFKA_BOOTSTRAP": "127.0.0.1:9",
        "EFD_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "EFD_KAFKA_SASL_MECHANISM": "PLAIN",
        "EFD_KAFKA_SASL_USERNAME": "somebody",
        "EFD_KAFKA_SASL_PASSWORD": "hunter2",
    }
    with pytest.raises(KafkaUnavailable) as failure:
        Brokers(load_settings(environ, None), timeout_s=1).topics()
    assert "hunter2" not in f"{failure.value}{failure.value.__cause__!r}"
