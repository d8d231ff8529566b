"""Transactions: producers whose records are seen whole or not at all by readers of committed records.

What is produced, and how it is cut into transactions: `restoring/kafka.py`, `publishing/aggregated.py`.
"""

from __future__ import annotations

from confluent_kafka import KafkaException, Producer

from efd_pipelines.kafka.connection import Complaints, client_properties, connect, reason_of, unavailable
from efd_pipelines.settings import Settings

READY_S = 60.0
"""How long brokers may take to begin or to abort a transaction."""


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


def abort(producer: Producer, complaints: Complaints) -> None:
    """Aborts the transaction; where that fails it ends by itself, unseen. The producer is to be forgotten."""
    try:
        producer.purge()
        producer.abort_transaction(READY_S)
    except KafkaException as error:
        complaints(reason_of(error))
