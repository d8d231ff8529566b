"""Reading a backlog from real brokers: every record once, up to the end, whatever the brokers do meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from efd_pipelines.errors import KafkaUnavailable, SettingsError
from efd_pipelines.kafka.backlog import (
    Chunk,
    Gap,
    Position,
    Read,
    TopicGone,
    TopicRefused,
    Truncated,
    read_backlog,
)
from efd_pipelines.kafka.brokers import Brokers, Watermarks
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines_tests.conftest import start


@dataclass(slots=True)
class Cluster:
    """A broker and what a test does to it."""

    server: KafkaServer
    admin: AdminClient
    settings: Settings

    @classmethod
    def of(cls, server: KafkaServer, **kafka: object) -> Cluster:
        settings = load_settings({"EFD_KAFKA_BOOTSTRAP": server.bootstrap}, None)
        reading = settings.configuration.kafka.model_copy(update=kafka)
        configuration = settings.configuration.model_copy(update={"kafka": reading})
        settings = settings.model_copy(update={"configuration": configuration})
        return cls(server, AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 0}), settings)

    def make(self, topic: str, partitions: int = 1, **config: str) -> str:
        self.admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result()
        self.wait(lambda: len(self.offsets(topic)) == partitions)
        return topic

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result()
        self.wait(lambda: topic not in self.admin.list_topics(timeout=10).topics)

    def put(self, topic: str, records: range, *, partition: int = 0, size: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.server.bootstrap, "log_level": 0, "linger.ms": 20})
        for number in records:
            while True:
                try:
                    producer.produce(topic, value_of(number, size), b"k%d" % number, partition, timestamp=number + 1)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0

    def offsets(self, topic: str) -> Mapping[int, Watermarks]:
        with Brokers(self.settings) as brokers:
            return brokers.offsets([topic]).get(topic, {})

    def read(self, *topics: str, budget: int | None = None, **positions: Any) -> Iterator[Read]:
        """The topics from 0, or `positions`, to their ends of now."""
        marks = {topic: self.offsets(topic) for topic in topics}
        assignments = {
            topic: positions.get("at") or {partition: Position(mark.low) for partition, mark in of.items()}
            for topic, of in marks.items()
        }
        ends = {topic: {partition: mark.high for partition, mark in of.items()} for topic, of in marks.items()}
        return read_backlog(self.settings, assignments, ends, budget)

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@dataclass(slots=True)
class Heard:
    """Everything that a reading gave, by topic and partition."""

    values: dict[tuple[str, int], list[bytes | None]] = field(default_factory=dict)
    offsets: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    positions: dict[tuple[str, int], Position] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    events: list[Read] = field(default_factory=list)

    @classmethod
    def of(cls, reading: Iterator[Read]) -> Heard:
        heard = cls()
        for item in reading:
            heard.add(item)
        return heard

    def add(self, item: Read) -> None:
        if not isinstance(item, Chunk):
            self.events.append(item)
            return
        self.chunks.append(item)
        frames = item.frames
        for value, partition, offset in zip(
            frames.values, frames.partitions.tolist(), frames.offsets.tolist(), strict=True
        ):
            self.values.setdefault((frames.topic, partition), []).append(value)
            self.offsets.setdefault((frames.topic, partition), []).append(offset)
        for partition, position in item.positions.items():
            self.positions[frames.topic, partition] = position


def value_of(number: int, size: int = 0) -> bytes:
    return str(number).encode().ljust(size, b".")


def values_of(records: range, size: int = 0) -> list[bytes]:
    return [value_of(number, size) for number in records]


@pytest.fixture
def cluster(kafka: KafkaServer) -> Cluster:
    return Cluster.of(kafka)


@pytest.fixture
def topic(unique: str) -> str:
    return f"lsst.sal.{unique}.a"


@pytest.fixture(scope="module")
def fragile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker that tests may stop, and forbid things: nobody else uses it."""
    allow = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    server = KafkaServer(tmp_path_factory.mktemp("fragile"), properties=allow, die_with_parent=True)
    start(server)
    yield server
    server.stop()


@pytest.fixture
def fragile(fragile_server: KafkaServer) -> Cluster:
    start(fragile_server)
    return Cluster.of(fragile_server)


def test_every_record_comes_once_with_all_that_it_has(cluster: Cluster, topic: str) -> None:
    cluster.make(topic, partitions=3)
    for partition in range(3):
        cluster.put(topic, range(partition * 100, partition * 100 + 50), partition=partition)
    heard = Heard.of(cluster.read(topic))
    for partition in range(3):
        assert heard.values[topic, partition] == values_of(range(partition * 100, partition * 100 + 50))
        assert heard.offsets[topic, partition] == list(range(50))
        assert heard.positions[topic, partition] == Position(50, 0)
    assert heard.events == []
    frames = heard.chunks[0].frames
    numbers = [int(value or b"") for value in frames.values]
    assert frames.keys == [b"k%d" % number for number in numbers]
    assert frames.timestamps_ms.tolist() == [number + 1 for number in numbers]
    assert frames.size_bytes == sum(len(b"k%d%d" % (number, number)) for number in numbers)


def test_records_without_key_or_value_are_records(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    producer = Producer({"bootstrap.servers": cluster.server.bootstrap, "log_level": 0})
    producer.produce(topic, None, b"key")
    producer.produce(topic, b"", None)
    producer.flush(30)
    frames = Heard.of(cluster.read(topic)).chunks[0].frames
    assert frames.values == [None, b""]
    assert frames.keys == [b"key", None]


def test_reading_ends_where_it_was_told_though_more_comes(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    cluster.put(topic, range(10))
    reading = cluster.read(topic)
    cluster.put(topic, range(10, 5000))
    heard = Heard.of(reading)
    assert heard.values[topic, 0] == values_of(range(10))
    assert heard.positions[topic, 0].offset == 10


def test_reading_without_ends_goes_to_the_end(cluster: Cluster, topic: str) -> None:
    cluster.make(topic, partitions=2)
    cluster.put(topic, range(10), partition=1)
    heard = Heard.of(read_backlog(cluster.settings, {topic: {0: Position(0), 1: Position(4)}}, {}))
    assert heard.values == {(topic, 1): values_of(range(4, 10))}
    assert heard.positions == {(topic, 1): Position(10, 0)}


def test_nothing_to_read_gives_nothing_at_once(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    cluster.put(topic, range(3))
    began = time.monotonic()
    assert list(read_backlog(cluster.settings, {topic: {0: Position(3)}}, {topic: {0: 3}})) == []
    assert list(read_backlog(cluster.settings, {}, {})) == []
    assert time.monotonic() - began < 2


def test_transaction_markers_move_the_position_and_aborted_records_do_not_come(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    producer = Producer({"bootstrap.servers": cluster.server.bootstrap, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    for abort in (False, True):
        producer.begin_transaction()
        producer.produce(topic, b"aborted" if abort else b"committed", partition=0)
        producer.flush(30)
        if abort:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
    assert cluster.offsets(topic)[0].high == 4  # two records, two markers
    heard = Heard.of(cluster.read(topic))
    assert heard.values[topic, 0] == [b"committed"]
    assert heard.positions[topic, 0].offset == 4
    # Where only markers are left, the position moves without a frame.
    rest = Heard.of(cluster.read(topic, at={0: Position(1)}))
    assert [len(chunk.frames) for chunk in rest.chunks] == [0]
    assert rest.positions[topic, 0].offset == 4


def test_an_open_transaction_is_not_read_past(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    cluster.put(topic, range(2))
    producer = Producer({"bootstrap.servers": cluster.server.bootstrap, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    producer.flush(30)
    cluster.put(topic, range(2, 4))
    heard = Heard.of(cluster.read(topic))
    assert heard.values[topic, 0] == values_of(range(2))
    assert heard.positions[topic, 0].offset == 2
    producer.commit_transaction(30)
    later = Heard.of(cluster.read(topic, at={0: Position(2)}))
    assert later.values[topic, 0] == [b"open", *values_of(range(2, 4))]


def test_expired_records_are_a_gap_and_reading_goes_on(cluster: Cluster, topic: str) -> None:
    cluster.make(topic, partitions=2)
    cluster.put(topic, range(20))
    cluster.put(topic, range(20), partition=1)
    cluster.admin.delete_records([TopicPartition(topic, 0, 15)])
    cluster.wait(lambda: cluster.offsets(topic)[0].low == 15)
    heard = Heard.of(cluster.read(topic, at={0: Position(5), 1: Position(5)}))
    assert [(event.first, event.end) for event in heard.events if isinstance(event, Gap)] == [(5, 15)]
    assert len(heard.events) == 1
    assert heard.offsets == {(topic, 0): list(range(15, 20)), (topic, 1): list(range(5, 20))}


def test_a_topic_that_expired_as_a_whole_is_a_gap_and_a_position(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    cluster.put(topic, range(8))
    cluster.admin.delete_records([TopicPartition(topic, 0, 8)])
    cluster.wait(lambda: cluster.offsets(topic)[0].low == 8)
    items = list(read_backlog(cluster.settings, {topic: {0: Position(2)}}, {topic: {0: 8}}))
    assert isinstance(items[0], Gap)
    assert (items[0].first, items[0].end) == (2, 8)
    assert isinstance(items[1], Chunk)
    assert (len(items[1].frames), items[1].positions[0].offset) == (0, 8)
    assert len(items) == 2


def test_a_position_past_the_end_is_a_truncation(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    cluster.put(topic, range(8))
    items = list(read_backlog(cluster.settings, {topic: {0: Position(12)}}, {}))
    assert items == [Truncated(topic, 0, 12, 8)]


def test_a_deleted_topic_is_said_and_the_others_are_read(cluster: Cluster, topic: str) -> None:
    other = cluster.make(f"{topic}2")
    cluster.put(other, range(5))
    cluster.make(topic)
    marks = {topic: {0: 5}, other: {0: 5}}
    cluster.delete(topic)
    heard = Heard.of(read_backlog(cluster.settings, {topic: {0: Position(0)}, other: {0: Position(0)}}, marks))
    assert [(type(event), event.topic) for event in heard.events] == [(TopicGone, topic)]  # type: ignore[union-attr]
    assert heard.values == {(other, 0): values_of(range(5))}


def test_a_topic_deleted_while_it_is_read_gives_what_was_read(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    cluster.put(topic, range(20_000), size=3000)
    heard = Heard()
    for item in cluster.read(topic, budget=4_000_000):
        if not heard.chunks:
            cluster.delete(topic)
        heard.add(item)
    assert [type(event) for event in heard.events] == [TopicGone]
    read = len(heard.offsets[topic, 0])
    assert heard.offsets[topic, 0] == list(range(read))
    assert heard.positions[topic, 0].offset == read


def test_records_of_a_topic_created_again_do_not_pass_for_the_old_ones(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    cluster.put(topic, range(5))
    with Brokers(cluster.settings) as brokers:
        old = brokers.describe([topic])[topic].topic_id
    cluster.delete(topic)
    cluster.make(topic)
    cluster.put(topic, range(100, 110))
    with Brokers(cluster.settings) as brokers:
        assert brokers.describe([topic])[topic].topic_id != old
    reading = read_backlog(cluster.settings, {topic: {0: Position(2)}}, {topic: {0: 10}}, topic_ids={topic: old})
    items = list(reading)
    assert [type(item) for item in items] == [TopicGone]


def test_a_topic_created_again_while_it_is_read_is_told_apart(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    cluster.put(topic, range(20_000), size=3000)
    heard = Heard()
    for item in cluster.read(topic, budget=4_000_000):
        if not heard.chunks:
            cluster.delete(topic)
            cluster.make(topic)
            cluster.put(topic, range(50_000, 70_000), size=3000)
        heard.add(item)
    assert [type(event) for event in heard.events] == [TopicGone]
    read = heard.values[topic, 0]
    assert read == values_of(range(len(read)), 3000)
    assert heard.positions[topic, 0].offset == len(read)


def test_partitions_that_are_added_do_not_disturb(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    cluster.put(topic, range(5000), size=3000)
    heard = Heard()
    for item in cluster.read(topic, budget=1_000_000):
        if not heard.chunks:
            cluster.admin.create_partitions([NewPartitions(topic, 3)])[topic].result()
        heard.add(item)
    assert heard.values[topic, 0] == values_of(range(5000), 3000)


def test_chunks_keep_to_the_budget_and_to_one_topic(cluster: Cluster, topic: str) -> None:
    topics = [cluster.make(f"{topic}{number}") for number in range(3)]
    for number, name in enumerate(topics):
        cluster.put(name, range(2000 * (number + 1)), size=2000)
    heard = Heard.of(cluster.read(*topics, budget=3_000_000))
    assert max(chunk.frames.size_bytes for chunk in heard.chunks) < 3_000_000 + 4 * 1024 * 1024
    assert len(heard.chunks) > 6
    for number, name in enumerate(topics):
        assert heard.values[name, 0] == values_of(range(2000 * (number + 1)), 2000)


def test_a_slow_taker_is_not_taken_for_a_stalled_broker(kafka: KafkaServer, topic: str) -> None:
    cluster = Cluster.of(kafka, stall_s=1.0)
    cluster.make(topic)
    cluster.put(topic, range(9000), size=3000)
    heard = Heard()
    for item in cluster.read(topic, budget=4_000_000):
        if len(heard.chunks) < 2:
            time.sleep(1.5)
        heard.add(item)
    assert heard.values[topic, 0] == values_of(range(9000), 3000)


@pytest.mark.timeout(180)
def test_a_broker_killed_and_started_in_the_middle_costs_nothing(fragile: Cluster, topic: str) -> None:
    fragile.make(topic, partitions=2)
    fragile.put(topic, range(20_000), size=3000)
    fragile.put(topic, range(20_000), partition=1, size=3000)
    time.sleep(6)  # the broker writes to disk what it has
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


@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_a_backlog_of_large_messages_is_read_in_little_memory(cluster: Cluster, topic: str) -> None:
    """400 MB in messages of 116 kB; a process with the libraries loaded has some 90 MiB."""
    cluster.make(topic)
    cluster.put(topic, range(3500), size=116_000)
    done = run(
        f"""
        import re
        from pathlib import Path
        from efd_pipelines.kafka.backlog import Position, read_backlog
        settings = settings_for({cluster.server.bootstrap!r})
        records = 0
        for item in read_backlog(settings, {{{topic!r}: {{0: Position(0)}}}}, {{{topic!r}: {{0: 3500}}}}):
            records += len(item.frames)
        print(records, re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
        """
    )
    records, peak_kib = map(int, done.stdout.split())
    assert records == 3500
    assert peak_kib / 1024 < 300


def run(script: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own."""
    head = """
from efd_pipelines.settings import load_settings
def settings_for(bootstrap, **kafka):
    settings = load_settings({"EFD_KAFKA_BOOTSTRAP": bootstrap}, None)
    reading = settings.configuration.kafka.model_copy(update=kafka)
    return settings.model_copy(
        update={"configuration": settings.configuration.model_copy(update={"kafka": reading})}
    )
"""
    lines = [line.removeprefix("        ") for line in script.splitlines()]
    program = head + "\n".join(lines)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240)


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
