"""The recount: what an archive holds, by deltalake's own list of files and plain pyarrow, against what was produced.

None of the project's reading code is used, so that a mistake in it does not hide one in writing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
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
    number and count of each), `dead`, how many frames cannot be decoded, and `history` (origin and count of each batch
    that a history has, and whether Kafka has it too).
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
    is_history = rows["kafka_offset"].is_null()
    _compare_history(topic, rows.filter(is_history), of.get("history", ()), found)
    rows = rows.filter(pc.invert(is_history))
    kept = Counter(zip(rows["kafka_partition"].to_pylist(), rows["kafka_offset"].to_pylist(), strict=True))
    lost, more = wanted - kept, kept - wanted
    found.lost += lost.total()
    found.doubled += more.total()
    for what, which in (("lost", lost), ("too many", more)):
        if which:
            found.problems.append(f"{topic}: {which.total()} records {what}, the first {min(which)}")
    _compare_writers(topic, rows, of, found)


def _compare_history(topic: str, rows: pa.Table, batches: Sequence[Sequence[Any]], found: Recount) -> None:
    """Every point that Kafka has not is there once, none twice; one that Kafka has too may have been superseded."""
    wanted = {(origin, number): is_late for origin, count, is_late in batches for number in range(1, count + 1)}
    kept = Counter(zip(rows["private_origin"].to_pylist(), rows["private_seqNum"].to_pylist(), strict=True))
    lost = [key for key, is_late in wanted.items() if not is_late and key not in kept]
    doubled = kept.total() - len(kept)
    found.lost += len(lost)
    found.doubled += doubled
    if lost:
        found.problems.append(f"{topic}: {len(lost)} points of history lost, the first {min(lost)}")
    if doubled:
        found.problems.append(f"{topic}: {doubled} points of history too many")
    if strange := kept.keys() - wanted.keys():
        found.problems.append(f"{topic}: points that no history has: {sorted(strange)[:3]}")


def superseded(store: Store, expected: Mapping[str, Any]) -> list[str]:
    """What is wrong with a sealed archive's rows of history: of a record that Kafka has too there is none left, and
    the certificates say of how many that is so."""
    problems = []
    for topic, of in expected["topics"].items():
        if not of.get("history"):
            continue
        relative = f"raw/{Dataset.parse(topic).path}"
        rows = counting_rows(store, relative, _COLUMNS)
        rows = rows.filter(rows["kafka_offset"].is_null())
        late = {origin for origin, _, is_late in of["history"] if is_late}
        if left := sum(origin in late for origin in rows["private_origin"].to_pylist()):
            problems.append(f"{topic}: {left} rows of history stand beside Kafka's in sealed weeks")
        certified = sum(
            json.loads(store.read_bytes(f"{relative}/_certificates/{name}"))["superseded"]
            for name in store.list(f"{relative}/_certificates")
        )
        if certified != _filled(store, relative) - rows.num_rows:
            problems.append(
                f"{topic}: certificates count {certified} superseded rows, {_filled(store, relative)} were "
                f"filled in and {rows.num_rows} are left"
            )
    return problems


def _filled(store: Store, relative: str) -> int:
    """How many rows of history were ever filled in, by the table's own log."""
    table = DeltaTable(store.uri(relative), storage_options=store.storage_options)
    notes = [json.loads(one["efd"]) for one in table.history() if "efd" in one]
    return sum(note["records"] for note in notes if note["kind"] == "fill")


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


def torn(store: Store, topic: str, lows: Sequence[int]) -> list[str]:
    """What is not whole about one snapshot of a topic's table: rows that stand twice, and rows that are missing though
    the position of their partition is behind them."""
    relative = f"raw/{Dataset.parse(topic).path}"
    try:
        table = DeltaTable(store.uri(relative), storage_options=store.storage_options)
    except TableNotFoundError:
        return []
    rows = rows_at(store, relative, table, ("archive_source", "kafka_partition", "kafka_offset"))
    found = []
    kept = Counter(zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True))
    if doubled := [place for place, count in kept.items() if count > 1]:
        found.append(f"version {table.version()} has {len(doubled)} rows twice, the first {min(doubled)}")
    by_partition = Counter((source, partition) for source, partition, _ in kept)
    for (source, partition), count in by_partition.items():
        reached = table.transaction_version(f"kafka:{source}:{partition}")
        if reached is None or count != reached - lows[partition]:
            found.append(f"version {table.version()} has {count} rows of partition {partition}, which is at {reached}")
    return found


def counting_rows(store: Store, relative: str, columns: Sequence[str]) -> pa.Table:
    """These columns of all the rows that a Delta table has now."""
    try:
        table = DeltaTable(store.uri(relative), storage_options=store.storage_options)
    except TableNotFoundError:
        return _schema(columns).empty_table()
    return rows_at(store, relative, table, columns)


def rows_at(store: Store, relative: str, table: DeltaTable, columns: Sequence[str]) -> pa.Table:
    """These columns of all rows of one version of a table; a column that a file lacks is null."""
    schema, files = _schema(columns), _filesystem(store)
    parts = [schema.empty_table()]
    for path in pa.table(table.get_add_actions())["path"].to_pylist():
        with pq.ParquetFile(store.path(f"{relative}/{path}"), filesystem=files) as parquet:
            part = parquet.read(columns=[name for name in columns if name in parquet.schema_arrow.names])
            rows = parquet.metadata.num_rows
        there = dict(zip(part.column_names, part.columns, strict=True))
        arrays = [there[of.name].cast(of.type) if of.name in there else pa.nulls(rows, of.type) for of in schema]
        parts.append(pa.table(arrays, schema=schema))
    return pa.concat_tables(parts)


def _filesystem(store: Store) -> pafs.FileSystem:
    """Arrow's own clients, which nothing of ours has configured."""
    if not store.is_remote:
        return pafs.LocalFileSystem()
    options = store.storage_options
    return pafs.S3FileSystem(
        access_key=options["AWS_ACCESS_KEY_ID"],
        secret_key=options["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=options["AWS_ENDPOINT_URL"],
        region=options["AWS_REGION"],
    )


def _schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.string() if name.startswith("archive_") else pa.int64()) for name in columns])
