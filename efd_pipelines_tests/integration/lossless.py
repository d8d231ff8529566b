"""Whether an archive has lost nothing: its rows against the frames on the broker, read and decoded by others.

The frames come through a plain consumer and are decoded by fastavro (or json) with the schema that the registry has
under their id; nothing of the archive's own way takes part. Every value must be in exactly one column of its field and
element, bit for bit, and readers that know Delta must see the same table.
"""

from __future__ import annotations

import functools
import io
import json
import math
import struct
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import fastavro
import polars as pl
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition
from deltalake import DeltaTable, QueryBuilder
from polars.testing import assert_frame_equal

from efd_pipelines.archive.archive import Archive
from efd_pipelines.settings import Settings
from efd_pipelines.topics.layout import column_of
from efd_pipelines.topics.names import Dataset

_PLACE = ["archive_source", "kafka_partition", "kafka_offset"]


@dataclass(frozen=True, slots=True)
class Record:
    """One record as others read it."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    values: Mapping[str, Any]


def records_of(bootstrap: str, registry: str, topic: str, value_format: str = "avro") -> list[Record]:
    """All records that the broker has of a topic now."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "lossless", "enable.partition.eof": True})
    partitions = list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    found, ended = list[Record](), set[int | None]()
    while len(ended) < len(partitions):
        message = consumer.poll(10)
        assert message is not None, f"{topic} did not end"
        if message.error():
            ended.add(message.partition())
            continue
        value = message.value() or b""
        values = json.loads(value) if value_format == "json" else _decoded(registry, value)
        stamp = message.timestamp()[1]
        found.append(Record(int(message.partition() or 0), int(message.offset() or 0), stamp, message.key(), values))
    consumer.close()
    return found


def sent(settings: Settings, topic: str, value_format: str = "avro") -> list[Record]:
    """The same with the brokers and the registry of `settings`."""
    return records_of(settings.require_kafka(), settings.require_registry(), topic, value_format)


def _decoded(registry: str, frame: bytes) -> Mapping[str, Any]:
    number = struct.unpack(">I", frame[1:5])[0]
    values = fastavro.schemaless_reader(io.BytesIO(frame[5:]), _schema(registry, number), None)
    assert isinstance(values, dict)
    return values


@functools.cache
def _schema(registry: str, number: int) -> Any:
    with urllib.request.urlopen(f"{registry}/schemas/ids/{number}", timeout=10) as answer:
        return fastavro.parse_schema(json.loads(json.load(answer)["schema"]), _write_hint=False)


def assert_lossless(archive: Archive, dataset: str, records: Sequence[Record]) -> pa.Table:
    """Every value of every record is in its place, nothing else is there, and all readers agree; the table."""
    table = archive.read(Dataset.parse(dataset))
    assert table.num_rows == len(records), f"{table.num_rows} rows of {len(records)} records"
    # A topic that was created again has its offsets twice: what is at one place is told apart by its time stamp.
    order = [("kafka_timestamp", "ascending"), ("kafka_partition", "ascending"), ("kafka_offset", "ascending")]
    table = table.sort_by(order)
    ordered = sorted(records, key=lambda record: (record.timestamp_ms, record.partition, record.offset))
    columns: dict[tuple[str, int | None], list[list[Any]]] = {}
    for name, field in zip(table.column_names, table.schema, strict=True):
        column = column_of(field)
        if column is not None:
            columns.setdefault((column.field, column.element), []).append(table[name].to_pylist())
    for row, record in enumerate(ordered):
        assert (table["kafka_partition"][row].as_py(), table["kafka_offset"][row].as_py()) == (
            record.partition,
            record.offset,
        )
        assert_same_row({place: [of[row] for of in held] for place, held in columns.items()}, record)
    assert_readers_agree(archive, dataset, table)
    return table


def assert_same_row(cells: Mapping[tuple[str, int | None], list[Any]], record: Record) -> None:
    """Of the columns of each field and element, one has the record's value and the others are null."""
    expected: dict[tuple[str, int | None], Any] = {}
    for name, value in record.values.items():
        if isinstance(value, list) and (name, None) not in cells:
            expected.update({(name, element): item for element, item in enumerate(value)})
        elif (
            isinstance(value, list)
            and _is_flat(name, cells)
            and not any(isinstance(cell, list | str) for cell in cells[name, None])
        ):  # the field was a scalar before
            expected.update({(name, element): item for element, item in enumerate(value)})
        else:
            expected[name, None] = value
    for place, values in cells.items():
        held = [value for value in values if value is not None]
        value = expected.pop(place, None)
        if value is None:
            assert held == [], f"{place}: {held} where nothing was sent"
        else:
            assert len(held) == 1, f"{place}: {held} where {value!r} was sent"
            assert is_same(held[0], value), f"{place}: {held[0]!r} where {value!r} was sent"
    left = {place: value for place, value in expected.items() if value is not None}
    assert left == {}, f"nowhere: {left}"


def _is_flat(name: str, cells: Mapping[tuple[str, int | None], Any]) -> bool:
    return (name, 0) in cells


def is_same(found: Any, sent: Any) -> bool:
    """Whether the archive's value is the one that was sent: floats bit for bit but for NaN's payload."""
    if isinstance(sent, float):
        both_nan = isinstance(found, float) and math.isnan(found) and math.isnan(sent)
        return both_nan or (isinstance(found, float) and struct.pack("<d", found) == struct.pack("<d", sent))
    if isinstance(sent, list) and isinstance(found, list):
        return len(found) == len(sent) and all(map(is_same, found, sent))
    if isinstance(found, str) and not isinstance(sent, str):
        return bool(json.loads(found) == sent)
    if isinstance(found, float) and isinstance(sent, int):  # JSON does not tell 1 from 1.0
        return found == sent
    return type(found) is type(sent) and bool(found == sent)


def assert_readers_agree(archive: Archive, dataset: str, table: pa.Table | None = None) -> None:
    """Polars, DuckDB and deltalake's own engine see what `Archive.read` gives."""
    ours = pl.DataFrame(archive.read(Dataset.parse(dataset)) if table is None else table).sort(_PLACE)
    path = archive.store.uri(archive.relative(Dataset.parse(dataset)))
    polars = pl.scan_delta(path).filter(pl.col("week").str.starts_with("2")).drop("week").collect()
    assert_frame_equal(polars.sort(_PLACE), ours)
    delta = DeltaTable(path)
    engine = QueryBuilder().register("t", delta).execute("SELECT * FROM t WHERE week LIKE '2%'").read_all()
    assert_frame_equal(_like(pl.DataFrame(pa.table(engine)), ours), ours)
    files = [uri for uri in delta.file_uris() if "week=2" in uri]
    query = f"SELECT * FROM read_parquet({files}, union_by_name = true, hive_partitioning = false)"
    with duckdb.connect() as connection:
        seen = pl.DataFrame(connection.sql(query).to_arrow_table())
    # Files know only the columns of their own time; what none of them has is null in the table.
    missing = [name for name in ours.columns if name not in seen.columns]
    assert all(ours[name].null_count() == len(ours) for name in missing)
    assert_frame_equal(_like(seen, ours.drop(missing)), ours.drop(missing))


def _like(frame: pl.DataFrame, ours: pl.DataFrame) -> pl.DataFrame:
    """The columns and order of `ours`, and its types where the reader has them wider."""
    types: Any = dict(ours.schema)
    return frame.select(ours.columns).cast(types).sort(_PLACE)
