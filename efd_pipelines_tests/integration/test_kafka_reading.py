"""Reading a backlog from a real broker: every record once, up to the end, whatever becomes of the topics meanwhile.

Whatever becomes of the brokers: `test_kafka_faults.py`.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewPartitions

from efd_pipelines.errors import KafkaUnavailable
from efd_pipelines.kafka import compiled_consumer, consumers
from efd_pipelines.kafka.backlog import Chunk, Gap, Position, TopicGone, Truncated, read_backlog
from efd_pipelines.kafka.brokers import Brokers
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines_tests.integration.heard import Cluster, Heard, run, values_of

each_consumer = pytest.mark.parametrize("consumer", ["compiled", "plain"], indirect=True)


@pytest.fixture(autouse=True)
def consumer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The consumer that reads: that for much, where a test does not ask for each."""
    name: str = getattr(request, "param", "compiled")
    monkeypatch.setattr(consumers, "WORTH_COMPILING", {"compiled": 0, "plain": 2**62}[name])
    return name


@pytest.fixture
def cluster(kafka: KafkaServer) -> Cluster:
    return Cluster.of(kafka)


@pytest.fixture
def topic(unique: str) -> str:
    return f"lsst.sal.{unique}.a"


@each_consumer
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
    numbers = [int(value or b"") for value in frames.values.to_pylist()]
    assert frames.keys.to_pylist() == [b"k%d" % number for number in numbers]
    assert frames.timestamps_ms.tolist() == [number + 1 for number in numbers]
    assert frames.size_bytes == sum(len(b"k%d%d" % (number, number)) for number in numbers)


@each_consumer
def test_records_without_key_or_value_are_records(cluster: Cluster, topic: str) -> None:
    cluster.make(topic)
    producer = Producer({"bootstrap.servers": cluster.server.bootstrap, "log_level": 0})
    producer.produce(topic, None, b"key")
    producer.produce(topic, b"", None)
    producer.flush(30)
    frames = Heard.of(cluster.read(topic)).chunks[0].frames
    assert frames.values.to_pylist() == [None, b""]
    assert frames.keys.to_pylist() == [b"key", None]


@each_consumer
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


@each_consumer
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
    cluster.wait(lambda: cluster.offsets(topic)[0].high == 4)  # two records, two markers
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


@pytest.mark.timeout(60)
def test_a_reading_that_is_interrupted_with_messages_in_hand_can_be_closed(
    cluster: Cluster, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka waits for messages that nobody gives back."""
    cluster.make(topic)
    cluster.put(topic, range(10))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as at_once:
        at_once.setattr(compiled_consumer, "CompiledBatch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Heard.of(cluster.read(topic))
    assert Heard.of(cluster.read(topic)).values[topic, 0] == values_of(range(10))


@each_consumer
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


@each_consumer
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


@each_consumer
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


@each_consumer
def test_partitions_are_read_side_by_side_by_kafkas_time(cluster: Cluster, topic: str) -> None:
    cluster.make(topic, partitions=2)
    slow, fast = range(20_000), range(0, 20_000_000, 1000)  # milliseconds
    cluster.put(topic, slow, size=3000)
    cluster.put(topic, fast, partition=1, size=3000)
    heard, ahead = Heard(), 0
    for item in cluster.read(topic, budget=4_000_000):
        heard.add(item)
        if len(heard.values.get((topic, 0), ())) < len(slow):
            ahead = len(heard.values.get((topic, 1), ()))
    assert ahead < len(fast) / 2
    assert heard.values == {(topic, 0): values_of(slow, 3000), (topic, 1): values_of(fast, 3000)}
    assert {partition: heard.positions[topic, partition].offset for partition in range(2)} == {0: 20_000, 1: 20_000}


def test_partitions_do_not_wait_for_one_of_which_nothing_comes(
    kafka: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster.of(kafka, stall_s=2.0)
    cluster.make(topic, partitions=2)
    cluster.put(topic, range(10))
    cluster.put(topic, range(0, 20_000_000, 1000), partition=1, size=3000)

    def without_the_first(consumer: compiled_consumer.CompiledConsumer, places: list[TopicPartition]) -> None:
        assign(consumer, [place for place in places if place.partition])

    assign = compiled_consumer.CompiledConsumer.incremental_assign
    monkeypatch.setattr(compiled_consumer.CompiledConsumer, "incremental_assign", without_the_first)
    heard = Heard()

    def read_all() -> None:
        for item in cluster.read(topic, budget=4_000_000):
            heard.add(item)

    with pytest.raises(KafkaUnavailable, match=re.escape(f"{topic}[0]")):
        read_all()
    assert len(heard.values[topic, 1]) > 18_000


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


@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_a_backlog_of_large_messages_is_read_in_little_memory(cluster: Cluster, topic: str) -> None:
    """400 MB in messages of 116 kB; counted is what the process takes beyond its libraries and compiled code."""
    cluster.make(topic)
    cluster.put(topic, range(3500), size=116_000)
    done = run(
        f"""
        import re
        from pathlib import Path
        from efd_pipelines.kafka import consumers
        from efd_pipelines.kafka.backlog import Position, read_backlog
        def peak_kib():
            return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
        consumers.make_consumer({{"group.id": "loads"}}, 10**9).close()
        loaded_kib = peak_kib()
        consumers.WORTH_COMPILING = 0
        settings = settings_for({cluster.server.bootstrap!r})
        records = 0
        for item in read_backlog(settings, {{{topic!r}: {{0: Position(0)}}}}, {{{topic!r}: {{0: 3500}}}}):
            records += len(item.frames)
        print(records, peak_kib() - loaded_kib)
        """
    )
    records, taken_kib = map(int, done.stdout.split())
    assert records == 3500
    assert taken_kib / 1024 < 200
