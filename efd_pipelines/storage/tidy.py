"""Tidy: the form of the table that every figure of storage is made of, `WEEKLY_SIZES`.

A row per week, store and topic. What belongs here: its columns, the names of stores, its order. Reading: `weekly.py`.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

RECEIVED, ARCHIVE, KAFKA, INFLUXDB, POSTGRESQL = "received", "archive", "kafka", "influxdb", "postgresql"
"""Names of stores. `received` stores nothing: it is what Kafka delivered, in Avro bytes, and what shares are of."""

_NAME = pa.dictionary(pa.int32(), pa.string())


def _name(name: str, description: str) -> pa.Field[Any]:
    return pa.field(name, _NAME, metadata={"description": description})


def _count(name: str, description: str, unit: str = "") -> pa.Field[Any]:
    meaning = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, pa.int64(), metadata=meaning)


WEEKLY_SIZES = pa.schema(
    [
        _name("week", "its Monday, YYYY-MM-DD (UTC)"),
        _name("store", "received, archive, tier_1s …, kafka, influxdb, postgresql"),
        _name("topic", "dataset; empty where the store does not tell topics apart"),
        _name("component", "CSC, or namespace; empty where the store does not tell"),
        _name("subsystem", "group of components, by the configuration"),
        _name("kind", "telemetry, event, command, ack, metric; empty where the store does not tell"),
        _name("place", "database, schema or cluster within the store; or empty"),
        _name("how", "how it was measured, and when, where that matters"),
        _count("records", "records, rows or windows; null: not known"),
        _count("bytes", "bytes, in the store's own encoding", "byte"),
        _count("files", "files, or shards; null: not known"),
    ]
)
"""One row per week, store, place and topic, sorted by week, store, place and topic.

Sizes of different stores are of different encodings and copies: never add them up, nor compare them unlabelled. A week
and topic of which a store has nothing has no row. The names are dictionary-encoded (categories in pandas: group with
`observed=True`): ten years of 3,348 topics are millions of rows. `weekly_totals` has the same without topics.
"""

TIER = "tier_"
"""Tiers are stores of their own: tier_1s, tier_1m, tier_1h."""

LEDGER = "Delta log, by the ledger"


def tidy(rows: pa.Table) -> pa.Table:
    """Rows in the table's form and order."""
    table = rows.select(WEEKLY_SIZES.names).cast(WEEKLY_SIZES).unify_dictionaries()
    texts = pa.table({name: table[name].cast(pa.string()) for name in ("week", "store", "place", "topic")})
    return table.take(pc.sort_indices(texts, sort_keys=[(name, "ascending") for name in texts.column_names]))
