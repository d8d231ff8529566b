"""Consumers: what reading a backlog asks of a consumer, and which one does it.

confluent-kafka's makes an object of each record and holds the interpreter's lock meanwhile: half of the time of
catching up. So much is read with compiled code (`compiled_consumer.py`), where librdkafka can be called; little is
read with confluent-kafka's, because compiled code takes a second to load. Who reads: `backlog.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, Message, TopicPartition
from confluent_kafka import Consumer as ConfluentConsumer

from efd_pipelines.kafka.frames import FrameBatch
from efd_pipelines.kafka.librdkafka import library

MOST_MESSAGES = 2048
"""What a consumer gives at once."""
GATHER_S = 0.005
"""How long it gathers after the first has come: librdkafka would wait for as many as are asked for, however large."""
# confluent-kafka takes a tenth of a second for as many.
WORTH_COMPILING = 20_000


class Batch(Protocol):
    """Messages that were read together, by their numbers: records, and what the brokers say between them.

    It is good within a `with` block.
    """

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: Any) -> None: ...
    def __len__(self) -> int: ...

    def origin(self, n: int) -> tuple[str, int]:
        """Topic and partition."""
        ...

    def offset(self, n: int) -> int: ...

    def epoch(self, n: int) -> int | None:
        """The leader's when the record was written; None where that is not known."""
        ...

    def error(self, n: int) -> KafkaError | None: ...

    def records_end(self, begin: int, first: int, end: int) -> int:
        """Up to which message they are the next records of one partition: without an error, their offsets rising from
        `first` on and below `end`. It is `begin` where that one is none.
        """
        ...

    def frames(self, begin: int, end: int) -> FrameBatch:
        """Records of one partition."""
        ...


class Consumer(Protocol):
    """A consumer of assigned partitions."""

    def consume(self, count: int, timeout_s: float) -> Batch | None:
        """The next messages, at most so many; None where none came in time."""
        ...

    def incremental_assign(self, places: list[TopicPartition]) -> None: ...
    def incremental_unassign(self, places: list[TopicPartition]) -> None: ...
    def pause(self, places: list[TopicPartition]) -> None: ...
    def close(self) -> None: ...


def make_consumer(properties: Mapping[str, Any], records: int) -> Consumer:
    """The consumer that is sooner done with so many records.

    Args:
        properties: as confluent-kafka takes them; of its callbacks `error_cb` only.

    Raises:
        KafkaException: librdkafka does not accept a property.
    """
    if records >= WORTH_COMPILING and library() is not None:
        from efd_pipelines.kafka.compiled_consumer import CompiledConsumer

        return CompiledConsumer(properties)
    return PlainConsumer(properties)


class Messages:
    """A batch of confluent-kafka's messages."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._messages = ()

    def __len__(self) -> int:
        return len(self._messages)

    def origin(self, n: int) -> tuple[str, int]:
        return self._messages[n].topic(), self._messages[n].partition()  # type: ignore[return-value]

    def offset(self, n: int) -> int:
        return self._messages[n].offset()  # type: ignore[return-value]

    def epoch(self, n: int) -> int | None:
        return self._messages[n].leader_epoch()

    def error(self, n: int) -> KafkaError | None:
        return self._messages[n].error()

    def records_end(self, begin: int, first: int, end: int) -> int:
        origin, n = self.origin(begin), begin
        while n < len(self._messages) and self._messages[n].error() is None and self.origin(n) == origin:
            offset = self.offset(n)
            if not first <= offset < end:
                break
            first = offset + 1
            n += 1
        return n

    def frames(self, begin: int, end: int) -> FrameBatch:
        chosen = self._messages[begin:end]
        topic, partition = self.origin(begin)
        stamps = [message.timestamp() for message in chosen]
        return FrameBatch.of(
            topic,
            [message.value() for message in chosen],
            [message.key() for message in chosen],
            [partition] * len(chosen),
            [message.offset() for message in chosen],  # type: ignore[misc]
            [-1 if kind == TIMESTAMP_NOT_AVAILABLE else stamp for kind, stamp in stamps],
        )


class PlainConsumer:
    """confluent-kafka's consumer."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._consumer = ConfluentConsumer(dict(properties))

    def consume(self, count: int, timeout_s: float) -> Messages | None:
        messages = self._consumer.consume(1, timeout_s)
        if messages and count > 1:
            messages += self._consumer.consume(min(count, MOST_MESSAGES) - 1, GATHER_S)
        return Messages(messages) if messages else None

    def incremental_assign(self, places: list[TopicPartition]) -> None:
        self._consumer.incremental_assign(places)

    def incremental_unassign(self, places: list[TopicPartition]) -> None:
        self._consumer.incremental_unassign(places)

    def pause(self, places: list[TopicPartition]) -> None:
        self._consumer.pause(places)

    def close(self) -> None:
        self._consumer.close()
