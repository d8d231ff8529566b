"""Transactions: producers whose records are seen whole or not at all by readers of committed records, and how far they
have come.

What is produced, and how it is cut into transactions: `restoring/kafka.py`, `publishing/aggregated.py`.
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from efd_pipelines.kafka.connection import Complaints, client_properties, connect, reason_of, unavailable
from efd_pipelines.settings import Settings

READY_S = 60.0
"""How long brokers may take to begin or to abort a transaction."""

_AGAIN_S = 0.2
_MOVING = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)


def transactional_producer(
    settings: Settings, complaints: Complaints, name: str, transaction_s: float, **properties: int
) -> Producer:
    """A producer of transactions; an earlier one of this name is fenced off.

    Args:
        transaction_s: the age at which brokers end a transaction by themselves.
        properties: further ones of librdkafka, with underscores for dots; the settings' own come before all.

    Raises:
        KafkaUnavailable: the brokers did not let it begin.
    """
    producer = connect(
        Producer,
        settings,
        {
            "transactional.id": name,
            "transaction.timeout.ms": int(transaction_s * 1000),
            "linger.ms": 20,
            "compression.type": "lz4",
            "message.max.bytes": 100_000_000,
            **{key.replace("_", "."): value for key, value in properties.items()},
            **client_properties(settings, complaints),
        },
    )
    try:
        producer.init_transactions(READY_S)
    except KafkaException as error:
        raise unavailable(settings, "did not begin a transaction", error, complaints) from error
    return producer


def committed(settings: Settings, complaints: Complaints, consumer: Consumer, topic: str) -> TopicPartition:
    """What the consumer's group has committed of a topic's partition 0: offset, below 0 where nothing, and metadata.

    While the brokers still settle which of them keeps the group, they are asked again: after a start, the first group
    of all is told so.

    Raises:
        KafkaUnavailable: the brokers did not tell.
    """
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return consumer.committed([TopicPartition(topic, 0)], timeout=READY_S)[0]
        except KafkaException as error:
            if reason_of(error).code() not in _MOVING or time.monotonic() > deadline:
                raise unavailable(settings, f"did not tell how far {topic} is", error, complaints) from error
        time.sleep(_AGAIN_S)


def abort(producer: Producer, complaints: Complaints) -> None:
    """Aborts the transaction; where that fails it ends by itself, unseen. The producer is to be forgotten."""
    try:
        producer.purge()
        producer.abort_transaction(READY_S)
    except KafkaException as error:
        complaints(reason_of(error))
