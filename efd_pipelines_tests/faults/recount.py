"""The recount: what an archive holds, by deltalake's own list of files and plain pyarrow, against what was produced.

None of the project's reading code is used, so that a mistake in it does not hide one in writing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, TopicPartition
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from efd_pipelines.archive.store import Store
from efd_pipelines.topics.names import Dataset

_COLUMNS = ("kafka_partition", "kafka_offset", "private_origin", "private_seqNum", "archive_reason")


@dataclass(slots=True)
class Recount:
    """What differs from what was produced."""

    lost: int = 0
    doubled: int = 0
    problems: list[str] = field(default_factory=list)


def recount(store: Store, expected: Mapping[str, Any]) -> Recount:
    """Compares every offset of every topic with the rows of its dataset, and each row's writer with the records'.

    `expected` has `bootstrap`, and by topic `lows` (where the archive began, by partition), `writers` (origin, first
    number and count of each) and `dead`, how many frames cannot be decoded.
    """
    found = Recount()
    consumer = Consumer({"bootstrap.servers": expected["bootstrap"], "group.id": "recount", "log_level": 0})
    try:
        for topic, of in expected["topics"].items():
            _recount_topic(store, consumer, topic, of, found)
    finally:
        consumer.close()
    return found


def _recount_topic(store: Store, consumer: Consumer, topic: str, of: Mapping[str, Any], found: Recount) -> None:
    wanted: Counter[tuple[int, int]] = Counter()
    for partition, low in enumerate(of["lows"]):
        _, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        wanted.update((partition, offset) for offset in range(low, high))
    rows = counting_rows(store, f"raw/{Dataset.parse(topic).path}", _COLUMNS)
    kept = Counter(zip(rows["kafka_partition"].to_pylist(), rows["kafka_offset"].to_pylist(), strict=True))
    lost, more = wanted - kept, kept - wanted
    found.lost += lost.total()
    found.doubled += more.total()
    for what, which in (("lost", lost), ("too many", more)):
        if which:
            found.problems.append(f"{topic}: {which.total()} records {what}, the first {min(which)}")
    _compare_writers(topic, rows, of, found)


def _compare_writers(topic: str, rows: pa.Table, of: Mapping[str, Any], found: Recount) -> None:
    """The rows' writers and numbers are the records': no offset has got another one's row."""
    wanted = Counter(
        (origin, number) for origin, first, count in of["writers"] for number in range(first, first + count)
    )
    good = rows.filter(rows["archive_reason"].is_null()) if rows.num_rows else rows
    kept = Counter(zip(good["private_origin"].to_pylist(), good["private_seqNum"].to_pylist(), strict=True))
    if wanted != kept:
        found.problems.append(f"{topic}: rows of other records: {list((wanted - kept) + (kept - wanted))[:3]}")
    if rows.num_rows - good.num_rows != of["dead"]:
        found.problems.append(f"{topic}: {rows.num_rows - good.num_rows} dead letters, {of['dead']} were produced")


def counting_rows(store: Store, relative: str, columns: Sequence[str]) -> pa.Table:
    """These columns of all the rows that a Delta table has now; a column that a file lacks is null."""
    kinds = [pa.string() if name == "archive_reason" else pa.int64() for name in columns]
    schema = pa.schema(list(zip(columns, kinds, strict=True)))
    try:
        table = DeltaTable(store.uri(relative), storage_options=store.storage_options)
    except TableNotFoundError:
        return schema.empty_table()
    parts = [schema.empty_table()]
    for path in pa.table(table.get_add_actions())["path"].to_pylist():
        file = store.path(f"{relative}/{path}")
        with pq.ParquetFile(file, filesystem=store.arrow_fs) as parquet:
            there = [name for name in columns if name in parquet.schema_arrow.names]
            part = parquet.read(columns=there)
            rows = parquet.metadata.num_rows
        arrays = [part[of.name].cast(of.type) if of.name in there else pa.nulls(rows, of.type) for of in schema]
        parts.append(
            pa.Table.from_arrays(
                [pa.chunked_array([array]) if isinstance(array, pa.Array) else array for array in arrays], schema=schema
            )
        )
    return pa.concat_tables(parts)
