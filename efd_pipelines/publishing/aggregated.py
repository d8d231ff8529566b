"""Aggregated topics: a tier carried back into Kafka, `<topic>-aggregated`, for those who subscribe.

A record for each window and salIndex, with kafka-aggregator's names (efd-facts.md §4): `time`, the window's middle in
UTC unix seconds, `window_size`, `count`, and `<statistic>_<field>`; a schema is registered for it. Keys are JSON with
topic, index and the window's beginning, and topics are compacted: of a window that was computed again, the last stays.

A slice of the tier is one transaction, and the digests of the week's slices are committed in it, as the metadata of a
consumer group's offset: so each version of a slice is there exactly once for whoever reads committed records, whenever
we are killed. A slice of which one window has changed is produced again whole, under the same keys. Where Kafka keeps a
topic for less than a week, so much is produced: what is older would be deleted at once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import good_files, read_file
from efd_pipelines.archive.slices import Slice
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.avro.encoder import RowEncoder
from efd_pipelines.kafka.brokers import Brokers, TopicInfo
from efd_pipelines.kafka.connection import Complaints, client_properties, connect, reason_of, unavailable
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.kafka.transactions import abort, committed, transactional_producer
from efd_pipelines.tiers.tier import TIERS, aggregated
from efd_pipelines.times import Week
from efd_pipelines.topics.layout import Column, column_of
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema, parse_schema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

Progress = Callable[[str, int, int], None]
"""Called with the topic, slices done, and slices in all."""

TIER = TIERS["1s"]
SUFFIX = "-aggregated"
_READY_S = 60.0
_TRANSACTION_S = 300.0
_HOUR_US = 3_600_000_000
_DIGEST = 8
_AVRO: Mapping[pa.DataType, str] = {
    pa.bool_(): "boolean",
    pa.int32(): "int",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "string",
    pa.binary(): "bytes",
}


@dataclass(slots=True)
class AggregatedResult:
    """What a run did: records and slices produced, slices found as they were."""

    records: int = 0
    slices: int = 0
    unchanged: int = 0
    topics: int = 0
    seconds: float = 0.0


def topic_of(dataset: Dataset) -> str:
    """The topic that a dataset's tier goes to."""
    prefix = f"{dataset.cluster}." if dataset.cluster else ""
    return f"{prefix}{dataset.topic}{SUFFIX}"


def publish_aggregated(
    archive: Archive,
    datasets: Iterable[Dataset] | None = None,
    *,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> AggregatedResult:
    """Produces the slices of the last days that have changed, of the datasets that the policy chooses.

    Raises:
        KafkaUnavailable, RegistryUnavailable: as named; slices produced before stand.
        StoreUnavailable: the archive's store did not answer.
    """
    started = time.monotonic()
    settings, result = archive.settings, AggregatedResult()
    policy = settings.configuration.publishing.aggregated
    known = archive.datasets() if datasets is None else sorted(set(datasets))
    covered = [one for one in known if policy.covers(one) and not one.topic.endswith(SUFFIX)]
    chosen = [one for one in covered if aggregated(one, settings.configuration, TIER)]
    if chosen:
        since = (now or datetime.now(UTC)) - timedelta(days=policy.days)
        with Brokers(settings) as brokers, Registries(settings) as registries:
            producing = _Producing(archive, brokers, registries, since, result)
            for dataset in chosen:
                snapshot = open_table(archive.store, archive.relative(dataset, TIER.name))
                if snapshot is not None:
                    producing.dataset(dataset, snapshot, progress)
    result.seconds = time.monotonic() - started
    return result


class _Producing:
    """One run."""

    def __init__(
        self, archive: Archive, brokers: Brokers, registries: Registries, since: datetime, result: AggregatedResult
    ) -> None:
        self._settings = archive.settings
        self._brokers, self._registries = brokers, registries
        self._since_us = int(since.timestamp() * 1_000_000)
        self._result = result
        self._complaints = Complaints()
        self._producer: Producer | None = None

    def dataset(self, dataset: Dataset, snapshot: TableSnapshot, progress: Progress | None) -> None:
        """Produces what has changed of one dataset's tier."""
        name = topic_of(dataset)
        info = self._brokers.describe([name]).get(name) or self._make(name)
        columns = _columns(snapshot)
        schema = parse_schema(avro_schema(dataset, columns))
        schema_id = self._registries.register(dataset.cluster, f"{dataset.topic}{SUFFIX}-value", schema.text)
        self._result.topics += 1
        for week, slices in _recent(snapshot, self._since_us).items():
            known = self._known(info, week)
            wanted = {key: _digest(files, schema) for key, files in slices.items()}
            changed = [key for key in slices if known.get(key) != wanted[key]]
            self._result.unchanged += len(slices) - len(changed)
            for number, key in enumerate(changed):
                rows = pa.concat_tables([read_file(snapshot, file, _read(snapshot, columns)) for file in slices[key]])
                frames = RowEncoder.of(schema, columns, None).frames(_records(rows, columns), schema_id)
                known[key] = wanted[key]
                self._produce(info, dataset, rows, frames, week, known)
                if progress is not None:
                    progress(name, number + 1, len(changed))

    def _produce(
        self,
        info: TopicInfo,
        dataset: Dataset,
        rows: pa.Table,
        frames: Sequence[bytes],
        week: Week,
        known: Mapping[str, str],
    ) -> None:
        """A slice, and what is known of the week with it, in one transaction."""
        producer = self._transactional()
        times = rows["time"].cast(pa.int64()).to_pylist()
        indices = rows["salIndex"].to_pylist() if "salIndex" in rows.column_names else [None] * rows.num_rows
        try:
            producer.begin_transaction()
            for frame, time_us, index in zip(frames, times, indices, strict=True):
                key = {"topic": dataset.topic, "time": time_us}
                if index is not None:
                    key["index"] = index
                place = (index or 0) % len(info.partitions)
                self._put(producer, info.name, frame, json.dumps(key).encode(), place, time_us // 1000)
            consumer = self._consumer(info, week)
            noted = TopicPartition(info.name, 0, len(known), _packed(known))
            producer.send_offsets_to_transaction([noted], consumer.consumer_group_metadata(), _READY_S)
            consumer.close()
            producer.commit_transaction(_TRANSACTION_S)
        except BaseException as error:
            self._producer = None
            abort(producer, self._complaints)
            if isinstance(error, KafkaException):
                what = f"did not take windows of {info.name}"
                raise unavailable(self._settings, what, error, self._complaints) from error
            raise
        self._result.records += len(frames)
        self._result.slices += 1

    def _put(self, producer: Producer, topic: str, frame: bytes, key: bytes, partition: int, stamp_ms: int) -> None:
        while True:
            try:
                producer.produce(topic, frame, key, partition, timestamp=stamp_ms)
                return
            except BufferError:
                producer.poll(0.1)

    def _known(self, info: TopicInfo, week: Week) -> dict[str, str]:
        """By slice, the digest of what has been produced of a week."""
        consumer = self._consumer(info, week)
        try:
            place = committed(self._settings, self._complaints, consumer, info.name)
        finally:
            consumer.close()
        return _unpacked(place.metadata or "", week) if place.offset >= 0 else {}

    def _consumer(self, info: TopicInfo, week: Week) -> Consumer:
        group = f"efd-aggregated-{info.topic_id}-{week.key}"
        properties = {**client_properties(self._settings, self._complaints), "group.id": group}
        return connect(Consumer, self._settings, {**properties, "enable.auto.commit": False})

    def _transactional(self) -> Producer:
        if self._producer is None:
            name = "efd-aggregated"
            self._producer = transactional_producer(self._settings, self._complaints, name, _TRANSACTION_S)
        return self._producer

    def _make(self, name: str) -> TopicInfo:
        admin = connect(AdminClient, self._settings, client_properties(self._settings, self._complaints))
        properties = {"cleanup.policy": "compact,delete", "message.timestamp.type": "CreateTime"}
        try:
            admin.create_topics([NewTopic(name, 1, -1, config=properties)])[name].result(_READY_S)
        except KafkaException as error:
            if reason_of(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                what = f"did not make the topic {name}"
                raise unavailable(self._settings, what, error, self._complaints) from error
        deadline = time.monotonic() + _READY_S
        while True:
            found = self._brokers.describe([name]).get(name)
            if found is not None and len(self._brokers.offsets([name]).get(name, {})) == len(found.partitions):
                return found
            if time.monotonic() > deadline:
                raise unavailable(self._settings, f"has no leader for {name}", None, self._complaints)
            time.sleep(0.1)


def avro_schema(dataset: Dataset, columns: Sequence[Column]) -> str:
    """The schema of a dataset's windows: everything but the window may be null."""
    fields: list[dict[str, Any]] = [
        {"name": "time", "type": "double", "units": "second", "description": "Middle of the window, UTC unix time."},
        {"name": "window_size", "type": "double", "units": "second", "description": "Length of the window."},
        {"name": "count", "type": "long", "units": "unitless", "description": "Samples in the window."},
    ]
    for column in columns:
        if column.name in ("time", "window_size", "count"):
            continue
        kind = _AVRO[column.type.value_type] if pa.types.is_list(column.type) else _AVRO[column.type]
        declared: Any = {"type": "array", "items": kind} if pa.types.is_list(column.type) else kind
        described = {"units": column.units, "description": column.description}
        fields.append({"name": column.name, "type": ["null", declared], "default": None, **described})
    document = {
        "type": "record",
        "name": f"{dataset.name}_aggregated",
        "namespace": dataset.namespace,
        "description": f"{dataset} summarised at {TIER.window_s:g} s.",
        "fields": fields,
    }
    return json.dumps(document, separators=(",", ":"))


def _columns(snapshot: TableSnapshot) -> list[Column]:
    """The tier's columns, each a field of its own."""
    found = []
    for column in snapshot.schema:
        origin = column_of(column)
        kind = pa.float64() if column.name == "time" else column.type
        units, description = (origin.units, origin.description) if origin else ("", "")
        found.append(Column(column.name, column.name, None, kind, units, description))
    return found


def _read(snapshot: TableSnapshot, columns: Sequence[Column]) -> pa.Schema:
    return pa.schema([snapshot.schema.field(column.name) for column in columns])


def _records(rows: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """The rows with the middle of each window as their time."""
    middles = pc.divide(pc.add(rows["time"].cast(pa.int64()), TIER.window_us // 2).cast(pa.float64()), 1e6)
    return rows.set_column(rows.column_names.index("time"), "time", middles)


def _recent(snapshot: TableSnapshot, since_us: int) -> dict[Week, dict[str, list[DataFile]]]:
    """The slices that end after a time, by week."""
    found: dict[Week, dict[str, list[DataFile]]] = {}
    for file in good_files(snapshot, None, since_us):
        part = Slice.parse(file.slice)
        if part.end_us > since_us:
            found.setdefault(part.week, {}).setdefault(file.slice, []).append(file)
    return found


def _digest(files: Sequence[DataFile], schema: TopicSchema) -> str:
    named = json.dumps([sorted(file.path for file in files), schema.token])
    return hashlib.sha256(named.encode()).hexdigest()[:_DIGEST]


def _packed(known: Mapping[str, str]) -> str:
    """Digests of a week's hours, in some 1.5 kB: a broker keeps 4 kB of metadata with an offset."""
    hours = {(Slice.parse(key).start_us // _HOUR_US) % 168: digest for key, digest in known.items()}
    return ",".join(f"{hour}:{digest}" for hour, digest in sorted(hours.items()))


def _unpacked(text: str, week: Week) -> dict[str, str]:
    first = (week.start_us // _HOUR_US) % 168
    found = {}
    for part in text.split(",") if text else ():
        hour, _, digest = part.partition(":")
        start_us = week.start_us + (int(hour) - first) % 168 * _HOUR_US
        found[Slice.containing(start_us, TIER.unit).key] = digest
    return found
