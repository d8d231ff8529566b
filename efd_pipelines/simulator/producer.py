"""The producer: makes topics, registers schemas and puts records onto Kafka, none of them silently lost.

What belongs here: everything that talks to the brokers as a writer. Sources of records are the modules beside
this one; schemas are registered through `efd_pipelines.kafka.registry`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from efd_pipelines.errors import KafkaUnavailable
from efd_pipelines.kafka.connection import Complaints, client_properties, connect, unavailable
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.encoding import frame_head
from efd_pipelines.simulator.pace import Pace
from efd_pipelines.simulator.sal import SalTopic
from efd_pipelines.simulator.series import Series, in_order
from efd_pipelines.topics.names import Kind

Progress = Callable[[int, int], None]
"""Is told how many records have been handed to Kafka so far, and how many it will be: 0 where nobody knows."""

_TOPICS_AT_ONCE = 500
_REGISTRATIONS_AT_ONCE = 8
_LEADERS_WITHIN_S = 90.0
_POLL_EVERY = 500
_COMPACTION_LAG_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class Produced:
    """What a source has put onto Kafka."""

    topics: int
    records: int
    exposures: int = 0
    seconds: float = 0.0


class SalProducer:
    """Produces SAL records with the brokers and the registry of `settings`.

    Args:
        cluster: prefix of the topics, without its dot, as MirrorMaker names the mirror of another cluster's
            (`tts` → `tts.lsst.sal.…`). None takes the home prefix of the profile: at USDF `summit.`.

    Methods raise `KafkaUnavailable` and `RegistryUnavailable` where these do not answer, also for records of
    earlier calls whose delivery failed meanwhile; at the end of its `with` block all have been delivered.
    """

    def __init__(self, settings: Settings, cluster: str | None = None) -> None:
        self._settings = settings
        self._prefix, self._cluster = _prefix(settings, cluster)
        self._complaints = Complaints()
        self._properties = client_properties(settings, self._complaints)
        self._timeout_s = float(settings.configuration.kafka.timeout_s)
        self._producer: Producer | None = None
        self._heads: dict[SalTopic, bytes] = {}
        self._partitions: dict[str, int] = {}
        self._failure: tuple[str, KafkaError] | None = None
        self.records = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or kind is KeyboardInterrupt:
            self.flush()
        elif self._producer is not None:
            self._producer.purge()

    def topic_name(self, topic: SalTopic) -> str:
        """What the topic is called on these brokers."""
        return self._prefix + topic.name

    def prepare(self, topics: Iterable[SalTopic]) -> None:
        """Make the topics that are not there and register their schemas. Can be repeated."""
        new = [topic for topic in dict.fromkeys(topics) if topic not in self._heads]
        if not new:
            return
        self.create([(self.topic_name(topic), topic.partitions, topic_properties(topic)) for topic in new])
        self._register(new)

    def create(self, topics: Sequence[tuple[str, int, Mapping[str, str]]]) -> None:
        """Make topics of (name, partitions, properties) where they are not there; wait for their leaders."""
        admin = connect(AdminClient, self._settings, dict(self._properties))
        present = self._partition_counts(admin)
        missing = [topic for topic in topics if topic[0] not in present]
        for start in range(0, len(missing), _TOPICS_AT_ONCE):
            some = missing[start : start + _TOPICS_AT_ONCE]
            # -1: as many replicas as the brokers' own default says.
            wanted = [NewTopic(name, parts, -1, config=dict(config)) for name, parts, config in some]
            for name, made in admin.create_topics(wanted, request_timeout=self._timeout_s).items():
                self._await_created(name, made)
        deadline = time.monotonic() + _LEADERS_WITHIN_S
        while unled := [name for name, *_ in topics if not present.get(name)]:
            if time.monotonic() > deadline:
                raise KafkaUnavailable(f"{len(unled)} new topics have no leader, {unled[0]} among them")
            time.sleep(0.05)
            present = self._partition_counts(admin)
        self._partitions.update({name: present[name] for name, *_ in topics})

    def send(
        self,
        series: Sequence[Series],
        pace: Pace | None = None,
        progress: Progress | None = None,
        total: int = 0,
    ) -> int:
        """Produce all records of `series` in order of event time, at a pace; how many (delivered or not).

        `total`, of which they are a part, is for `progress`.
        """
        self.prepare([one.topic for one in series])
        names = [self.topic_name(one.topic) for one in series]
        frames = [self.frames(one) for one in series]
        partitions = [one.partitions(self._partitions[name]).tolist() for one, name in zip(series, names, strict=True)]
        stamps = [one.kafka_timestamps_ms() for one in series]
        sent = 0
        for which, row in in_order(series):
            if pace is not None:
                pace.wait(int(series[which].times_us[row]), self._serve)
            stamp = stamps[which]
            self.put(
                names[which],
                frames[which][row],
                series[which].key(row),
                partitions[which][row],
                0 if stamp is None else int(stamp[row]),
            )
            sent += 1
            if progress is not None and sent % _POLL_EVERY == 0:
                progress(self.records, total)
        if progress is not None:
            progress(self.records, total)
        return sent

    def frames(self, series: Series) -> list[bytes]:
        """The values of `series` as they are on the wire; its schema is registered for that."""
        self.prepare([series.topic])
        head = self._heads[series.topic]
        return [head + body for body in series.bodies()]

    def put(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = b"",
        partition: int = 0,
        timestamp_ms: int = 0,
    ) -> None:
        """Produce one frame as it is; a time stamp of 0 leaves it to the client's clock."""
        producer = self._producer or self._connect()
        while True:
            try:
                producer.produce(topic, value, key, partition, timestamp=timestamp_ms)
                break
            except BufferError:
                producer.poll(0.1)
                self._raise_failure()
            except KafkaException as error:
                raise unavailable(
                    self._settings, f"did not take a record of {topic}", error, self._complaints
                ) from error
        self.records += 1
        if self.records % _POLL_EVERY == 0:
            self._serve()

    def flush(self) -> None:
        """Return when everything has been delivered.

        Raises:
            KafkaUnavailable: something has not, and will not be.
        """
        if self._producer is None:
            return
        remaining = self._producer.flush()
        self._raise_failure()
        if remaining:
            raise KafkaUnavailable(f"{remaining} records were not delivered")

    def _connect(self) -> Producer:
        properties = {
            "acks": "all",
            # Without it a retry after a lost answer would produce a record twice.
            "enable.idempotence": True,
            "delivery.report.only.error": True,
            "linger.ms": 5,
            "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 65_536,
            "message.max.bytes": 10_485_760,
            "message.timeout.ms": 120_000,
            **self._properties,
            "on_delivery": self._delivered,
        }
        self._producer = connect(Producer, self._settings, properties)
        return self._producer

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = (str(message.topic()), error)

    def _serve(self) -> None:
        if self._producer is not None:
            self._producer.poll(0)
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            topic, error = self._failure
            raise unavailable(self._settings, f"did not take a record of {topic}", error, self._complaints)

    def _register(self, topics: Sequence[SalTopic]) -> None:
        with Registries(self._settings) as registries, ThreadPoolExecutor(_REGISTRATIONS_AT_ONCE) as threads:
            ids = threads.map(
                lambda topic: registries.register(self._cluster, topic.subject, topic.avro_schema()), topics
            )
            heads = {topic: frame_head(number) for topic, number in zip(topics, ids, strict=True)}
        self._heads.update(heads)

    def _partition_counts(self, admin: AdminClient) -> dict[str, int]:
        """Partitions of each topic; 0 for one of which a partition has no leader."""
        try:
            topics = admin.list_topics(timeout=self._timeout_s).topics
        except KafkaException as error:
            raise unavailable(self._settings, "did not say which topics it has", error, self._complaints) from error
        return {
            name: len(topic.partitions) if all(p.leader >= 0 for p in topic.partitions.values()) else 0
            for name, topic in topics.items()
        }

    def _await_created(self, name: str, made: Any) -> None:
        try:
            made.result(timeout=self._timeout_s)
        except KafkaException as error:
            reason = error.args[0]
            if not isinstance(reason, KafkaError) or reason.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise unavailable(self._settings, f"did not make the topic {name}", error, self._complaints) from error


def topic_properties(topic: SalTopic) -> dict[str, str]:
    """How the topic is kept: events are compacted, and only a week later (efd-facts §1.2, §2.3)."""
    if topic.kind is Kind.EVENT:
        return {"cleanup.policy": "compact", "min.compaction.lag.ms": str(_COMPACTION_LAG_MS)}
    if topic.kind is Kind.METRIC:
        # Its records carry their event time as Kafka's, which may be years ago.
        return {"retention.ms": "-1"}
    return {}


def _prefix(settings: Settings, cluster: str | None) -> tuple[str, str]:
    """The topics' prefix, and the cluster that their registry is asked for."""
    if cluster:
        return f"{cluster}.", cluster
    home = next(iter(settings.home_prefixes), "")
    return ("" if cluster == "" else home), ""
