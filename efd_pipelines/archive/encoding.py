"""Encoding: frames of one dataset → rows as its table keeps them, sorted into weeks, quarantine and the dead.

What belongs here: splitting frames by writer schema, planning columns so that several schemas fit one table, event
time, and what cannot be archived as a row. Decoding bytes: `efd_pipelines.avro`. Making rows visible: `drain.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.archive.slices import DEAD, QUARANTINE, Slice, SliceUnit, slice_starts
from efd_pipelines.avro.decoder import decode
from efd_pipelines.avro.frames import split
from efd_pipelines.errors import DataError
from efd_pipelines.kafka.frames import FrameBatch
from efd_pipelines.times import FIRST_WEEK, INVALID_TIME, event_time_us
from efd_pipelines.topics.layout import (
    SYSTEM_COLUMNS,
    TIME,
    Arrays,
    Column,
    Layout,
    arrow_field,
    column_of,
    plan_layout,
    wider,
)
from efd_pipelines.topics.schemas import TopicSchema

AHEAD_US = 3_600_000_000
_GOOD_SYSTEM = ("kafka_partition", "kafka_offset", "kafka_timestamp", "kafka_key", "archive_source", "archive_schema")
_JSON_TOKEN = 0

SchemaOf = Callable[[int], TopicSchema]
"""The writer schema of a registry id; raises `DataError` where the registry does not know it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where frames came from: `archive_source` by partition or of each frame, and how their dataset reads them."""

    sources: Mapping[int, str] | pa.Array
    time_field: str | None
    value_format: str = "avro"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows by (week, slice key); `week` is also `quarantine` or `dead`."""

    parts: Mapping[tuple[str, str], pa.Table]
    avro_bytes: Mapping[tuple[str, str], int]
    schemas: frozenset[int]
    arrays: Arrays | None
    columns: tuple[Column, ...]

    def rows(self, week: str) -> int:
        return sum(table.num_rows for (of, _), table in self.parts.items() if of == week)


@dataclass(slots=True)
class _Plan:
    """The columns of the table as they grow with the schemas met."""

    arrays: Arrays | None
    columns: dict[str, Column] = field(default_factory=dict)

    def layout(self, schema: TopicSchema, lengths: Mapping[str, int] | None = None) -> Layout:
        layout = plan_layout(schema, arrays=self.arrays, held=self.columns.values(), lengths=lengths)
        self.arrays = layout.arrays
        return layout

    def take(self, layout: Layout) -> None:
        for column in layout.columns:
            held = self.columns.get(column.name)
            kind = column.type if held is None else wider(held.type, column.type)
            assert kind is not None
            self.columns[column.name] = Column(
                column.name, column.field, column.element, kind, column.units, column.description
            )


def schemas_in(frames: FrameBatch) -> set[int]:
    """The registry ids that the frames name."""
    return {schema_id for schema_id in _schema_ids(frames)[0] if schema_id is not None}


def encode(
    frames: FrameBatch,
    origin: Origin,
    schema_of: SchemaOf,
    unit: SliceUnit | Callable[[Sequence[Column]], SliceUnit],
    *,
    arrays: Arrays | None = None,
    held: Iterable[Column] = (),
) -> Encoded:
    """Rows of the frames, with the types of the table's columns (`held`) or wider ones.

    `unit` is the dataset's slice unit, or chooses it from the columns where the dataset is new.
    """
    plan = _Plan(arrays, {column.name: column for column in held})
    decoded = _decoded(frames, origin, schema_of, plan)
    columns = tuple(plan.columns.values())
    chosen = unit if isinstance(unit, SliceUnit) else unit(columns)
    parts: dict[tuple[str, str], list[pa.Table]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for rows, index in decoded.tables:
        _sort_into(parts, sizes, rows, frames, index, chosen)
    if decoded.dead:
        parts[DEAD, DEAD] = [_dead_rows(frames, origin, decoded.dead)]
        sizes[DEAD, DEAD] = sum(len(frames.values[n] or b"") for n, _ in decoded.dead)
    return Encoded(
        parts={key: _unified(tables, plan) for key, tables in parts.items()},
        avro_bytes=sizes,
        schemas=frozenset(decoded.tokens),
        arrays=plan.arrays,
        columns=columns,
    )


@dataclass(slots=True)
class _Decoded:
    tables: list[tuple[pa.Table, NDArray[np.int64]]] = field(default_factory=list)
    dead: list[tuple[int, str]] = field(default_factory=list)
    tokens: set[int] = field(default_factory=set)


def _decoded(frames: FrameBatch, origin: Origin, schema_of: SchemaOf, plan: _Plan) -> _Decoded:
    """Frames by writer schema, decoded, with the system's columns; what cannot be is dead, with its reason."""
    found = _Decoded()
    if origin.value_format == "json":
        _decode_json(frames, origin, plan, found)
        return found
    ids, bodies = _schema_ids(frames)
    by_id: dict[int, list[int]] = {}
    for n, schema_id in enumerate(ids):
        if schema_id is None:
            found.dead.append((n, str(bodies[n])))
        else:
            by_id.setdefault(schema_id, []).append(n)
    for schema_id, numbers in by_id.items():
        try:
            schema = schema_of(schema_id)
        except DataError as error:
            found.dead += [(n, error.message) for n in numbers]
            continue
        _decode_group(frames, origin, schema, numbers, bodies, plan, found)
    found.dead.sort()
    return found


def _decode_group(
    frames: FrameBatch,
    origin: Origin,
    schema: TopicSchema,
    numbers: Sequence[int],
    bodies: Sequence[Any],
    plan: _Plan,
    found: _Decoded,
) -> None:
    mine = [bodies[n] for n in numbers]
    layout = plan.layout(schema)
    result = decode(mine, schema, layout)
    if result.lengths:
        layout = plan.layout(schema, result.lengths)
        result = decode(mine, schema, layout)
    found.dead += [(numbers[n], reason) for n, reason in result.dead]
    if not len(result.good):
        return
    plan.take(layout)
    index = np.asarray(numbers, dtype=np.int64)[np.asarray(result.good, dtype=np.int64)]
    found.tables.append((_with_system(result.table, layout, frames, index, origin, schema.token), index))
    found.tokens.add(schema.token)


def _decode_json(frames: FrameBatch, origin: Origin, plan: _Plan, found: _Decoded) -> None:
    from efd_pipelines.avro.json import read_json

    result = read_json(frames.values)
    found.dead += result.dead
    if not len(result.good):
        return
    layout = plan.layout(result.schema)
    table = result.rows(layout)
    plan.take(layout)
    index = np.asarray(result.good, dtype=np.int64)
    found.tables.append((_with_system(table, layout, frames, index, origin, _JSON_TOKEN), index))


def _schema_ids(frames: FrameBatch) -> tuple[list[int | None], list[Any]]:
    """Registry id of each frame and its body, or None and the reason why it has none."""
    ids: list[int | None] = []
    bodies: list[Any] = []
    for value in frames.values:
        parted = split(value)
        if isinstance(parted, str):
            ids.append(None)
            bodies.append(parted)
        else:
            ids.append(parted[0])
            bodies.append(parted[1])
    return ids, bodies


def _with_system(
    table: pa.Table, layout: Layout, frames: FrameBatch, index: NDArray[np.int64], origin: Origin, token: int
) -> pa.Table:
    """`time`, the message's columns, the system's."""
    times = _event_times(table, layout, frames, index, origin)
    arrays = [times, *table.columns, *_system(frames, index, origin, token)]
    fields = [pa.field("time", TIME), *layout.arrow_schema()]
    fields += [pa.field(name, SYSTEM_COLUMNS[name]) for name in _GOOD_SYSTEM]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _system(frames: FrameBatch, index: NDArray[np.int64], origin: Origin, token: int | None) -> list[Any]:
    return [
        pa.array(frames.partitions[index].astype(np.int32)),
        pa.array(frames.offsets[index]),
        _kafka_times(frames, index),
        pa.array([frames.keys[n] for n in index.tolist()], pa.binary()),
        _sources(frames, index, origin),
        pa.array(np.full(len(index), token, np.int64)) if token is not None else pa.nulls(len(index), pa.int64()),
    ]


def _sources(frames: FrameBatch, index: NDArray[np.int64], origin: Origin) -> pa.Array:
    if not isinstance(origin.sources, Mapping):
        return origin.sources.take(pa.array(index))
    names, codes = np.unique(frames.partitions[index], return_inverse=True)
    known = pa.array([origin.sources[int(name)] for name in names], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), known).cast(pa.string())


def _kafka_times(frames: FrameBatch, index: NDArray[np.int64]) -> pa.Array:
    stamps = frames.timestamps_ms[index]
    return pa.array(stamps * 1000, TIME, mask=stamps < 0)


def _event_times(
    table: pa.Table, layout: Layout, frames: FrameBatch, index: NDArray[np.int64], origin: Origin
) -> pa.Array:
    """The time field's, else Kafka's time stamp; null where it is no time."""
    column = next((c for c in layout.columns if c.field == origin.time_field and c.element is None), None)
    if column is None or not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return _kafka_times(frames, index)
    stamps = table[column.name].cast(pa.float64()).combine_chunks().fill_null(np.nan)
    times = event_time_us(stamps.to_numpy(zero_copy_only=False))
    return pa.array(times, pa.int64(), mask=times == INVALID_TIME).cast(TIME)


def _sort_into(
    parts: dict[tuple[str, str], list[pa.Table]],
    sizes: dict[tuple[str, str], int],
    rows: pa.Table,
    frames: FrameBatch,
    index: NDArray[np.int64],
    unit: SliceUnit,
) -> None:
    """Distributes rows over slices; a time that cannot be goes to quarantine."""
    times = rows["time"].cast(pa.int64()).combine_chunks().fill_null(INVALID_TIME).to_numpy(zero_copy_only=False)
    received = frames.timestamps_ms[index] * 1000
    received = np.where(received < 0, int(time.time() * 1e6), received)
    is_bad = (times < FIRST_WEEK.start_us) | (times > received + AHEAD_US)
    starts = slice_starts(np.where(is_bad, 0, times), unit)
    starts = np.where(is_bad, INVALID_TIME, starts)
    lengths = np.array([len(frames.values[n] or b"") for n in index.tolist()], dtype=np.int64)
    for start in np.unique(starts).tolist():
        chosen = np.flatnonzero(starts == start)
        key = _key(start, unit)
        part = rows if len(chosen) == rows.num_rows else rows.take(pa.array(chosen))
        parts.setdefault(key, []).append(part)
        sizes[key] = sizes.get(key, 0) + int(lengths[chosen].sum())


def _key(start_us: int, unit: SliceUnit) -> tuple[str, str]:
    if start_us == INVALID_TIME:
        return QUARANTINE, QUARANTINE
    of = Slice(start_us, unit)
    return of.week.key, of.key


def _dead_rows(frames: FrameBatch, origin: Origin, dead: Sequence[tuple[int, str]]) -> pa.Table:
    """Whole frames with their coordinates and the reason; a tombstone's frame is null."""
    index = np.array([n for n, _ in dead], dtype=np.int64)
    arrays = [pa.nulls(len(index), TIME), *_system(frames, index, origin, None)]
    arrays.append(pa.array([frames.values[n] for n in index.tolist()], pa.binary()))
    arrays.append(pa.array([reason for _, reason in dead], pa.string()))
    names = [*_GOOD_SYSTEM, "archive_frame", "archive_reason"]
    fields = [pa.field("time", TIME), *(pa.field(name, SYSTEM_COLUMNS[name]) for name in names)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _unified(tables: Sequence[pa.Table], plan: _Plan) -> pa.Table:
    """One table of the rows of several schemas: columns in the order of the last, types as the plan has them."""
    names = list(dict.fromkeys(name for table in reversed(tables) for name in table.column_names))
    message = [name for name in names if name in plan.columns]
    system = [name for name in SYSTEM_COLUMNS if name in names]
    fields = [pa.field("time", TIME), *(arrow_field(plan.columns[name]) for name in message)]
    fields += [pa.field(name, SYSTEM_COLUMNS[name]) for name in system]
    schema = pa.schema(fields)
    from efd_pipelines.archive.reading import conform

    return pa.concat_tables([conform(table, schema) for table in tables])


def held_columns(schema: pa.Schema) -> list[Column]:
    """The message's columns of a table's schema."""
    return [column for column in map(column_of, schema) if column is not None]
