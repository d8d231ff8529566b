"""Brokers: which topics there are, with their identities, offsets and settings.

Questions only, in batches: all topics of the observatory are one call each. Reading records: `backlog.py`;
what the topics mean: `catalogue.py`. Nothing connects before the first question.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec

from efd_pipelines.errors import KafkaUnavailable
from efd_pipelines.kafka.connection import Complaints, client_properties, connect, reason_of, unavailable
from efd_pipelines.settings import Settings

Key = TypeVar("Key")
Answer = TypeVar("Answer")

# A question about every topic of the observatory at once is some MB of answer; the next batch starts when the
# previous one is there.
_BATCH = 2000
_LEADER_ATTEMPTS = 3
_LEADER_WAIT_S = 0.3
# What is answered for a topic that is gone or hidden from us, and for a partition that nobody leads now.
_NOT_THERE = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,  # type: ignore[attr-defined]
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._NOENT,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic: `topic_id` changes when it is deleted and created again."""

    name: str
    topic_id: str
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Offsets of a partition: the first that is still there, and the one after the last committed record."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """How a topic keeps its records. `retention_ms` is -1 for ever; `cleanup_policy` as Kafka writes it.

    `compaction_lag_ms` is the age from which on records may be compacted.
    """

    cleanup_policy: str
    retention_ms: int
    timestamp_type: str
    max_message_bytes: int
    compaction_lag_ms: int = 0


class Brokers:
    """The brokers of `settings`.

    Every method raises `KafkaUnavailable` when they do not answer within `kafka.timeout_s`, and `SettingsError`
    when they are not configured. A topic that is deleted between two questions, or that this user may not ask
    about, is left out of the answer.
    """

    def __init__(self, settings: Settings, *, timeout_s: float | None = None) -> None:
        self._settings = settings
        self._timeout_s = timeout_s or settings.configuration.kafka.timeout_s
        self._complaints = Complaints()
        self._client: AdminClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go; the next question makes new ones."""
        self._client = None

    def cluster_id(self) -> str:
        """The cluster's id: 22 characters, chosen when it was formatted."""
        ask = AdminClient.cluster_id  # type: ignore[attr-defined]
        return str(self._ask("did not tell its cluster id", ask, timeout=self._timeout_s))

    def topics(self) -> dict[str, TopicInfo]:
        """All topics but Kafka's own, by name."""
        names = [name for name in self._partitions() if not name.startswith("__")]
        return self.describe(names)

    def describe(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """Those of the topics that exist."""
        described: dict[str, TopicInfo] = {}
        for batch in _batches(list(names)):
            try:
                described |= self._described(batch)
            except KafkaUnavailable:
                # The controller is asked, and one that has just died is waited for; a new client learns of the next.
                self.close()
                described |= self._described(batch)
        return described

    def _described(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        futures = self._ask(
            "did not describe its topics",
            AdminClient.describe_topics,
            TopicCollection(list(names)),
            request_timeout=self._timeout_s,
        )
        return {
            name: TopicInfo(name, str(answer.topic_id), tuple(sorted(partition.id for partition in answer.partitions)))
            for name, answer in self._answers(futures, "did not describe topic").items()
        }

    def offsets(self, topics: Iterable[str]) -> dict[str, dict[int, Watermarks]]:
        """Watermarks of every partition of the topics that has a leader now.

        The high one is the last stable offset: what readers of committed records can reach.
        """
        known = self._partitions()
        wanted = [(name, partition) for name in topics for partition in known.get(name, ())]
        low: dict[tuple[str, int], int] = {}
        high: dict[tuple[str, int], int] = {}
        for attempt in range(_LEADER_ATTEMPTS):
            missing = [place for place in wanted if place not in high]
            if not missing:
                break
            time.sleep(_LEADER_WAIT_S * attempt)  # topics are created and leaders move all the time
            low |= self._offsets(missing, OffsetSpec.earliest())
            high |= self._offsets([place for place in missing if place in low], OffsetSpec.latest())
        if wanted and not high and self.describe({name for name, _ in wanted}):
            # A cluster that is starting knows its topics before anyone leads them: that is no empty backlog.
            no_leader = KafkaError(KafkaError.LEADER_NOT_AVAILABLE)
            raise unavailable(self._settings, "has no leaders for its partitions", no_leader, self._complaints)
        found: dict[str, dict[int, Watermarks]] = {}
        for name, partition in wanted:
            if (name, partition) in low and (name, partition) in high:
                marks = Watermarks(low[name, partition], high[name, partition])
                found.setdefault(name, {})[partition] = marks
        return found

    def configs(self, topics: Iterable[str]) -> dict[str, TopicConfig]:
        """How each topic keeps its records; some 0.6 ms a topic."""
        found: dict[str, TopicConfig] = {}
        for batch in _batches(list(topics)):
            resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in batch]
            futures = self._ask(
                "did not tell its topics' settings",
                AdminClient.describe_configs,
                resources,
                request_timeout=self._timeout_s,
            )
            answers = self._answers(futures, "did not tell the settings of")
            found.update({resource.name: _config(entries) for resource, entries in answers.items()})
        return found

    def _partitions(self) -> dict[str, tuple[int, ...]]:
        """Partition numbers of every topic: one request."""
        metadata = self._ask("did not list its topics", AdminClient.list_topics, timeout=self._timeout_s)
        return {name: tuple(sorted(topic.partitions)) for name, topic in metadata.topics.items()}

    def _offsets(self, wanted: Sequence[tuple[str, int]], spec: Any) -> dict[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = {}
        for batch in _batches(wanted):
            futures = self._ask(
                "did not tell its offsets",
                AdminClient.list_offsets,
                {TopicPartition(name, partition): spec for name, partition in batch},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=self._timeout_s,
            )
            answers = self._answers(futures, "did not tell the offsets of")
            found.update(
                {
                    (where.topic, where.partition): answer.offset  # type: ignore[attr-defined]
                    for where, answer in answers.items()
                }
            )
        return found

    def _ask(self, failing: str, question: Callable[..., Answer], *arguments: Any, **options: Any) -> Answer:
        if self._client is None:
            properties = client_properties(self._settings, self._complaints)
            self._client = connect(AdminClient, self._settings, properties)
        self._complaints.last = None
        try:
            return question(self._client, *arguments, **options)
        except KafkaException as exception:
            self._client.poll(0)  # delivers the complaints
            raise unavailable(self._settings, failing, exception, self._complaints) from exception

    def _answers(self, futures: Mapping[Key, Future[Answer]], failing: str) -> dict[Key, Answer]:
        """What was answered; what is not there for us is left out, any other failure is one of the whole."""
        answers: dict[Key, Answer] = {}
        for thing, future in futures.items():
            try:
                answers[thing] = future.result()
            except KafkaException as exception:
                if reason_of(exception).code() in _NOT_THERE:
                    continue
                if self._client is not None:
                    self._client.poll(0)
                raise unavailable(
                    self._settings, f"{failing} {_name(thing)}", exception, self._complaints
                ) from exception
        return answers


def _batches(things: Sequence[Key]) -> list[Sequence[Key]]:
    return [things[start : start + _BATCH] for start in range(0, len(things), _BATCH)]


def _name(thing: object) -> str:
    if isinstance(thing, TopicPartition):
        return f"{thing.topic}[{thing.partition}]"
    return str(getattr(thing, "name", thing))


def _config(entries: Mapping[str, Any]) -> TopicConfig:
    def value(name: str, default: str) -> str:
        return str(entries[name].value) if name in entries else default

    return TopicConfig(
        cleanup_policy=value("cleanup.policy", "delete"),
        retention_ms=int(value("retention.ms", "-1")),
        timestamp_type=value("message.timestamp.type", "CreateTime"),
        max_message_bytes=int(value("max.message.bytes", "1048588")),
        compaction_lag_ms=int(value("min.compaction.lag.ms", "0")),
    )
