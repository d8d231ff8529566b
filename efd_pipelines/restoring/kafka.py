"""Kafka: restoring to topics. Rows become frames again, with their keys, time stamps and partitions.

Each portion is one transaction, and how far a week has come is committed in the same transaction, as the offset of a
consumer group that is named after the topic's id and the week: whoever is killed in between has produced nothing, two
restores of one component fence each other off, and a topic that is deleted and made again is restored again. So each
record is there exactly once for whoever reads committed records, as the archive does.

Schemas are registered where they are not yet, and frames carry their ids there; the dead go as they came. A topic that
is not there is made, with as many partitions as were archived, kept for ever and not compacted: records as old as these
would be deleted minutes later. How it is to be kept, its owner sets once everybody has read it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from efd_pipelines.archive.positions import ledger_positions
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.errors import UsageError
from efd_pipelines.history.pace import Pace
from efd_pipelines.kafka.brokers import Brokers, TopicConfig, TopicInfo
from efd_pipelines.kafka.connection import Complaints, client_properties, connect, reason_of, unavailable
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.kafka.transactions import abort, committed, transactional_producer
from efd_pipelines.restoring.frames import FramesOfDataset, Values
from efd_pipelines.restoring.portions import Portion
from efd_pipelines.restoring.restore import Given
from efd_pipelines.restoring.rows import Order, sent_times
from efd_pipelines.settings import Settings
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

_TRANSACTION_S = 600.0
_PACED_S = 400.0
"""A transaction that the pace would draw out for longer goes faster: brokers end those that are too old."""

_READY_S = 60.0
_ANSWER_S = 5.0
HEADER = "efd_restored"
"""The header of restored records, by which they can be told from others, and counted: the week."""


class TopicWouldExpire(UsageError):
    """A topic that would delete what is restored to it."""

    remedy = (
        "Set its retention.ms to -1 and, where it is compacted, cleanup.policy to delete until everybody has read it; "
        "or restore to other topics with --prefix."
    )


class KafkaTarget:
    """Topics of the brokers of `settings`.

    Args:
        prefix: what stands before the topics' names, as `restored.`; None: the topics that the records came from.
        values_s: the pace.
        with_history: also rows that came from InfluxDB: as records of the newest schema, without key and offset.

    Methods raise `KafkaUnavailable` and `RegistryUnavailable` where these do not answer.
    """

    outside = frozenset({QUARANTINE, DEAD})
    order: Order = "kafka"

    def __init__(
        self,
        archive: Archive,
        settings: Settings,
        *,
        prefix: str | None = None,
        values_s: float = 1e6,
        with_history: bool = False,
    ) -> None:
        self._archive, self._settings = archive, settings
        self._prefix, self._values_s, self._with_history = prefix, values_s, with_history
        self._complaints = Complaints()
        self._schemas = WriterSchemas(archive.store)
        self._brokers, self._registries = Brokers(settings), Registries(settings)
        self._topics: dict[Dataset, tuple[TopicInfo, TopicConfig]] = {}
        self._ids: dict[tuple[str, str, int], int] = {}
        self._producer: Producer | None = None
        self._begun_at: dict[tuple[Dataset, Week], dict[str, int]] = {}
        self._made: list[str] = []
        self._notes: dict[str, None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._brokers.close()
        self._registries.close()

    def topic_of(self, dataset: Dataset) -> str:
        """Where a dataset's records are given back to."""
        if self._prefix is not None:
            return self._prefix + dataset.topic
        if dataset.cluster:
            return f"{dataset.cluster}.{dataset.topic}"
        return next(iter(self._settings.home_prefixes), "") + dataset.topic

    def done(self, portion: Portion) -> Given | None:
        reached = self._reached(portion)
        return Given(rows=portion.rows, expected=portion.rows) if portion.number < reached else None

    def take(self, portion: Portion, rows: Iterator[pa.Table]) -> Given:
        info, config = self._topic(portion.dataset)
        self._check_keeps(portion, info, config)
        producer = self._transactional(portion.dataset)
        widest = max(portion.rows * len(portion.snapshot.schema) / _PACED_S, self._values_s)
        given, pace = Given(), Pace(widest)
        frames = self._frames(portion)
        try:
            producer.begin_transaction()
            for part in rows:
                pace.wait()
                self._produce(producer, info, frames.of(part), given, portion.week)
                given.left_out += part.num_rows
                pace.spend(part.num_rows * part.num_columns)
            with self._group(info, portion.week) as group:
                begun = json.dumps(self._begun(portion.dataset, portion.week), separators=(",", ":"))
                place = TopicPartition(info.name, 0, portion.number + 1, begun)
                producer.send_offsets_to_transaction([place], group.consumer_group_metadata(), _READY_S)
            producer.commit_transaction(_TRANSACTION_S)
        except BaseException as error:
            self._producer = None
            abort(producer, self._complaints)
            if isinstance(error, KafkaException):
                what = f"did not take {portion.name}"
                raise unavailable(self._settings, what, error, self._complaints) from error
            raise
        given.left_out -= given.rows
        given.expected = given.rows
        return given

    def counted(self, dataset: Dataset, week: Week) -> int | None:
        """Committed records that carry the week in their header; None where the broker drops some by itself."""
        info, config = self._topic(dataset)
        if "compact" in config.cleanup_policy:
            return None
        try:
            return self._count(info, week, self._begun(dataset, week))
        except KafkaException as error:
            raise unavailable(self._settings, f"did not give {info.name} back", error, self._complaints) from error

    def notes(self) -> Sequence[str]:
        made = f"Made, kept for ever and not compacted until you set it: {', '.join(self._made)}" if self._made else ""
        return [note for note in (made, *self._notes) if note]

    def _frames(self, portion: Portion) -> FramesOfDataset:
        def schema_id(schema: TopicSchema) -> int:
            return self._schema_id(portion.dataset, schema)

        return FramesOfDataset(portion.dataset, portion.snapshot, self._schemas, schema_id, self._with_history)

    def _schema_id(self, dataset: Dataset, schema: TopicSchema) -> int:
        """The schema's id in the registry of the topic."""
        cluster, subject = (self._prefix or "").rstrip(".") or dataset.cluster, f"{dataset.topic}-value"
        key = (cluster, subject, schema.token)
        if key not in self._ids:
            self._ids[key] = self._registries.register(cluster, subject, schema.text)
        return self._ids[key]

    def _produce(self, producer: Producer, info: TopicInfo, values: Values, given: Given, week: Week) -> None:
        rows, topic = values.rows, info.name
        headers: list[tuple[str, str | bytes]] = [(HEADER, week.key.encode())]
        keys = rows["kafka_key"].to_pylist()
        partitions, stamps = self._places(info, rows), _stamps_ms(rows)
        for value, key, partition, stamp in zip(values.frames, keys, partitions, stamps, strict=True):
            while True:
                try:
                    producer.produce(topic, value, key, partition, timestamp=stamp, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)
            given.bytes += len(value or b"")
        given.rows += rows.num_rows
        given.values += rows.num_rows * rows.num_columns

    def _places(self, info: TopicInfo, rows: pa.Table) -> list[int]:
        """The partition of each row: as it was, as far as the topic has so many."""
        partitions = pc.fill_null(rows["kafka_partition"], 0).to_numpy()
        count = len(info.partitions)
        if len(partitions) and partitions.max() >= count:
            self._say(f"{info.name} has {count} partitions, fewer than there were: records are in others")
            partitions = partitions % count
        found: list[int] = partitions.tolist()
        return found

    def _say(self, note: str) -> None:
        self._notes[note] = None

    def _topic(self, dataset: Dataset) -> tuple[TopicInfo, TopicConfig]:
        if dataset not in self._topics:
            name = self.topic_of(dataset)
            info = self._brokers.describe([name]).get(name)
            if info is None:
                info = self._make(name, self._partitions(dataset))
            config = self._brokers.configs([name])[name]
            if config.timestamp_type != "CreateTime":
                self._say(f"{name} has the broker's time stamps (message.timestamp.type=LogAppendTime), not those sent")
            self._topics[dataset] = info, config
        return self._topics[dataset]

    def _partitions(self, dataset: Dataset) -> int:
        """How many partitions the topic had, by the positions that were read."""
        reached = ledger_positions(self._archive).get(dataset.text)
        numbers = [int(name.rpartition(":")[2]) for name in (reached.positions if reached else {})]
        return max(numbers, default=0) + 1

    def _make(self, name: str, partitions: int) -> TopicInfo:
        properties = {"cleanup.policy": "delete", "retention.ms": "-1", "message.timestamp.type": "CreateTime"}
        admin = connect(AdminClient, self._settings, client_properties(self._settings, self._complaints))
        try:
            admin.create_topics([NewTopic(name, partitions, -1, config=properties)])[name].result(_READY_S)
        except KafkaException as error:
            if reason_of(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                what = f"did not make the topic {name}"
                raise unavailable(self._settings, what, error, self._complaints) from error
        self._made.append(name)
        deadline = time.monotonic() + _READY_S
        while True:
            found = self._brokers.describe([name]).get(name)
            if found is not None and len(self._brokers.offsets([name]).get(name, {})) == len(found.partitions):
                return found
            if time.monotonic() > deadline:
                raise unavailable(self._settings, f"has no leader for {name}", None, self._complaints)
            time.sleep(0.1)

    def _check_keeps(self, portion: Portion, info: TopicInfo, config: TopicConfig) -> None:
        """Records keep their time stamps, by which the broker deletes."""
        age_ms = (datetime.now(UTC) - portion.week.start).total_seconds() * 1000
        expires = "delete" in config.cleanup_policy and 0 <= config.retention_ms < age_ms
        if config.timestamp_type == "CreateTime" and expires:
            hours = config.retention_ms / 3_600_000
            raise TopicWouldExpire(
                f"{info.name} keeps records for {hours:g} h: it would delete those of {portion.week}"
            )
        if "compact" in config.cleanup_policy:
            self._say(f"{info.name} is compacted: of records with one key, only the last will stay")

    def _transactional(self, dataset: Dataset) -> Producer:
        if self._producer is None:
            name = f"efd-restore-{self._prefix or 'home'}-{dataset.component}"
            queue = {"queue_buffering_max_messages": 200_000, "queue_buffering_max_kbytes": 131_072}
            self._producer = transactional_producer(self._settings, self._complaints, name, _TRANSACTION_S, **queue)
        return self._producer

    def _reached(self, portion: Portion) -> int:
        """Up to which number the portions of this week are at the topic."""
        return self._committed(portion.dataset, portion.week)[0]

    def _begun(self, dataset: Dataset, week: Week) -> dict[str, int]:
        """From which offsets on the week's records are, by partition: where the topic ended when it was begun."""
        if (dataset, week) not in self._begun_at:
            _, begun = self._committed(dataset, week)
            if begun is None:
                info, _ = self._topic(dataset)
                marks = self._brokers.offsets([info.name]).get(info.name, {})
                begun = {str(partition): of.high for partition, of in marks.items()}
            self._begun_at[dataset, week] = begun
        return self._begun_at[dataset, week]

    def _committed(self, dataset: Dataset, week: Week) -> tuple[int, dict[str, int] | None]:
        """What the week's group has: the number reached, and where it was begun."""
        info, _ = self._topic(dataset)
        with self._group(info, week) as group:
            place = committed(self._settings, self._complaints, group, info.name)
        if place.offset < 0:
            return 0, None
        return place.offset, json.loads(place.metadata or "null")

    def _group(self, info: TopicInfo, week: Week) -> _Closing:
        return _Closing(self._consumer(f"efd-restore-{info.topic_id}-{week.key}"))

    def _consumer(self, group: str) -> Consumer:
        properties = {
            **client_properties(self._settings, self._complaints),
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
        }
        return connect(Consumer, self._settings, properties)

    def _count(self, info: TopicInfo, week: Week, begun: Mapping[str, int]) -> int:
        with _Closing(self._consumer("efd-restore-count")) as consumer:
            consumer.assign([TopicPartition(info.name, int(partition), offset) for partition, offset in begun.items()])
            left, wanted, count = {int(partition) for partition in begun}, (HEADER, week.key.encode()), 0
            while left:
                batch = consumer.consume(10_000, timeout=_ANSWER_S)
                if not batch:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                for message in batch:
                    error = message.error()
                    if error is None:
                        count += wanted in (message.headers() or ())
                    elif error.code() == KafkaError._PARTITION_EOF:
                        left.discard(int(message.partition() or 0))
                    else:
                        raise KafkaException(error)
            return count


def _stamps_ms(rows: pa.Table) -> list[int]:
    """Kafka's time stamps as they were; of rows that have none, the event time."""
    own = rows["kafka_timestamp"].cast(pa.int64()).combine_chunks()
    stamps = pc.fill_null(pc.coalesce(own, sent_times(rows)), 0).to_numpy()
    found: list[int] = (stamps // 1000).tolist()
    return found


class _Closing:
    """A consumer that is closed."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __enter__(self) -> Consumer:
        return self._consumer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()
