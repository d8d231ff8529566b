"""Encoding: frames of one dataset → rows as its table keeps them, sorted into weeks, quarantine and the dead.

What belongs here: splitting frames by writer schema, planning columns so that several schemas fit one table, event
time, and what cannot be archived as a row. Decoding bytes: `efd_pipelines.avro`. Making rows visible: `drain.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.archive.files import FileForm
from efd_pipelines.archive.slices import DEAD, QUARANTINE, Slice, SliceUnit, slice_starts
from efd_pipelines.arrays import array_of, filled, numbers_of, texts_of
from efd_pipelines.avro.bodies import Bodies
from efd_pipelines.avro.decoder import decode
from efd_pipelines.avro.frames import PREFIX_BYTES, split
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
_TIME = pa.field("time", TIME)
_SYSTEM = tuple(pa.field(name, SYSTEM_COLUMNS[name]) for name in _GOOD_SYSTEM)

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
    """Rows by (week, slice key); `week` is also `quarantine` or `dead`.

    `held` are the table's columns with them. `form` is that of the parts but the dead, where all rows were written with
    one schema.
    """

    parts: Mapping[tuple[str, str], pa.Table]
    avro_bytes: Mapping[tuple[str, str], int]
    schemas: frozenset[int]
    arrays: Arrays | None
    held: HeldColumns
    form: FileForm | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.held.columns

    def form_of(self, week: str) -> FileForm | None:
        return None if week == DEAD else self.form

    def rows(self, week: str) -> int:
        return sum(table.num_rows for (of, _), table in self.parts.items() if of == week)


@dataclass(slots=True, eq=False)
class HeldColumns:
    """The message's columns of a table. Remembers how records of each writer schema fit them."""

    columns: tuple[Column, ...]
    _fits: dict[tuple[int, Arrays | None, frozenset[tuple[str, int]]], Fit] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def fit(self, schema: TopicSchema, arrays: Arrays | None, lengths: Mapping[str, int] | None = None) -> Fit:
        """How records of a schema become rows of the table, which may get new or wider columns by it."""
        if schema.token == _JSON_TOKEN:
            return self._fit(plan_layout(schema, arrays=arrays, held=self.columns, lengths=lengths))
        key = (schema.token, arrays, frozenset((lengths or {}).items()))
        with self._lock:
            found = self._fits.get(key)
            if found is None:
                found = self._fit(plan_layout(schema, arrays=arrays, held=self.columns, lengths=lengths))
                self._fits[key] = found
                if not lengths:
                    # The table has these columns then, and the schema's next records fit them in the same way.
                    found.after._fits.setdefault((schema.token, found.layout.arrays, frozenset()), found)
            return found

    def _fit(self, planned: Layout) -> Fit:
        grown = {column.name: column for column in self.columns}
        for column in planned.columns:
            known = grown.get(column.name)
            kind = column.type if known is None else wider(known.type, column.type)
            assert kind is not None
            grown[column.name] = column if kind.equals(column.type) else replace(column, type=kind)
        columns = tuple(grown.values())
        layout = Layout(tuple(grown[column.name] for column in planned.columns), planned.arrays)
        rows = [_TIME, *layout.arrow_schema(), *_SYSTEM]
        after = self if columns == self.columns else HeldColumns(columns)
        return Fit(layout, after, FileForm.of(pa.schema(rows)))


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The columns that records of one schema are decoded into, those of the table `after` it, and the rows' form."""

    layout: Layout
    after: HeldColumns
    form: FileForm


@dataclass(slots=True)
class _Plan:
    """The columns of the table as they grow with the schemas met."""

    arrays: Arrays | None
    held: HeldColumns

    def fit(self, schema: TopicSchema, lengths: Mapping[str, int] | None = None) -> Fit:
        return self.held.fit(schema, self.arrays, lengths)

    def take(self, fit: Fit) -> None:
        self.held = fit.after
        self.arrays = fit.layout.arrays


def schemas_in(frames: FrameBatch) -> set[int]:
    """The registry ids that the frames name."""
    found = map(split, _heads(frames).dictionary.to_pylist())
    return {parted[0] for parted in found if not isinstance(parted, str)}


def encode(
    frames: FrameBatch,
    origin: Origin,
    schema_of: SchemaOf,
    unit: SliceUnit | Callable[[Sequence[Column]], SliceUnit],
    *,
    arrays: Arrays | None = None,
    held: Iterable[Column] | HeldColumns = (),
) -> Encoded:
    """Rows of the frames, with the types of the table's columns (`held`) or wider ones.

    `unit` is the dataset's slice unit, or chooses it from the columns where the dataset is new.
    """
    plan = _Plan(arrays, held if isinstance(held, HeldColumns) else HeldColumns(tuple(held)))
    decoded = _decoded(frames, origin, schema_of, plan)
    chosen = unit if isinstance(unit, SliceUnit) else unit(plan.held.columns)
    parts: dict[tuple[str, str], list[pa.Table]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for rows, index in decoded.tables:
        _sort_into(parts, sizes, rows, frames, index, chosen)
    if decoded.dead:
        parts[DEAD, DEAD] = [_dead_rows(frames, origin, decoded.dead)]
        sizes[DEAD, DEAD] = int(_lengths(frames)[[n for n, _ in decoded.dead]].sum())
    return Encoded(
        parts={key: _unified(tables, plan.held) for key, tables in parts.items()}
        if len(decoded.tables) > 1
        else {key: tables[0] for key, tables in parts.items()},
        avro_bytes=sizes,
        schemas=frozenset(decoded.tokens),
        arrays=plan.arrays,
        held=plan.held,
        form=decoded.forms[0] if len(decoded.forms) == 1 else None,
    )


@dataclass(slots=True)
class _Decoded:
    tables: list[tuple[pa.Table, NDArray[np.int64]]] = field(default_factory=list)
    dead: list[tuple[int, str]] = field(default_factory=list)
    tokens: set[int] = field(default_factory=set)
    forms: list[FileForm] = field(default_factory=list)


def _decoded(frames: FrameBatch, origin: Origin, schema_of: SchemaOf, plan: _Plan) -> _Decoded:
    """Frames by writer schema, decoded, with the system's columns; what cannot be is dead, with its reason."""
    found = _Decoded()
    if origin.value_format == "json":
        _decode_json(frames, origin, plan, found)
        return found
    by_id = _by_schema(frames, found)
    for schema_id, numbers in by_id.items():
        try:
            schema = schema_of(schema_id)
        except DataError as error:
            found.dead += [(n, error.message) for n in numbers.tolist()]
            continue
        _decode_group(frames, origin, schema, numbers, plan, found)
    found.dead.sort()
    return found


def _by_schema(frames: FrameBatch, found: _Decoded) -> dict[int, NDArray[np.int64]]:
    """Numbers of the frames of each registry id; what is no frame is dead."""
    heads = _heads(frames)
    known = heads.dictionary.to_pylist()
    of_frames = numbers_of(filled(heads.indices, len(known)))
    order = np.argsort(of_frames, kind="stable")
    begins = np.searchsorted(of_frames[order], np.arange(len(known) + 2))
    numbers: dict[int, list[NDArray[np.int64]]] = {}
    for code, head in enumerate([*known, None]):
        what, mine = split(head), order[begins[code] : begins[code + 1]]
        if isinstance(what, str):
            found.dead += [(n, what) for n in mine.tolist()]
        else:
            numbers.setdefault(what[0], []).append(mine)
    return {schema_id: np.sort(np.concatenate(of)) for schema_id, of in numbers.items()}


def _heads(frames: FrameBatch) -> pa.DictionaryArray:
    """What each frame begins with, where its schema's id stands; null for tombstones."""
    return pc.binary_slice(frames.values, 0, PREFIX_BYTES).combine_chunks().dictionary_encode()


def _decode_group(
    frames: FrameBatch,
    origin: Origin,
    schema: TopicSchema,
    numbers: NDArray[np.int64],
    plan: _Plan,
    found: _Decoded,
) -> None:
    mine = Bodies(frames.values, PREFIX_BYTES)
    if len(numbers) < len(frames):
        mine = mine.take(numbers)
    fit = plan.fit(schema)
    result = decode(mine, schema, fit.layout)
    if result.lengths:
        fit = plan.fit(schema, result.lengths)
        result = decode(mine, schema, fit.layout)
    found.dead += [(int(numbers[n]), reason) for n, reason in result.dead]
    if not len(result.good):
        return
    plan.take(fit)
    found.forms.append(fit.form)
    index = numbers[np.asarray(result.good, dtype=np.int64)]
    found.tables.append((_with_system(result.table, fit, frames, index, origin, schema.token), index))
    found.tokens.add(schema.token)


def _decode_json(frames: FrameBatch, origin: Origin, plan: _Plan, found: _Decoded) -> None:
    from efd_pipelines.avro.json import read_json

    result = read_json(frames.values.to_pylist())
    found.dead += result.dead
    if not len(result.good):
        return
    fit = plan.fit(result.schema)
    table = result.rows(fit.layout)
    plan.take(fit)
    found.forms.append(fit.form)
    index = np.asarray(result.good, dtype=np.int64)
    found.tables.append((_with_system(table, fit, frames, index, origin, _JSON_TOKEN), index))


def _with_system(
    table: pa.Table, fit: Fit, frames: FrameBatch, index: NDArray[np.int64], origin: Origin, token: int
) -> pa.Table:
    """`time`, the message's columns, the system's."""
    times = _event_times(table, fit.layout, frames, index, origin)
    columns = [times, *table.columns, *_system(frames, index, origin, token)]
    return pa.Table.from_arrays(columns, schema=fit.form.schema)


def _system(frames: FrameBatch, index: NDArray[np.int64], origin: Origin, token: int | None) -> list[Any]:
    return [
        array_of(frames.partitions[index].astype(np.int32)),
        array_of(frames.offsets[index]),
        _kafka_times(frames, index),
        _at(frames.keys, index),
        _sources(frames, index, origin),
        array_of(np.full(len(index), token, np.int64)) if token is not None else pa.nulls(len(index), pa.int64()),
    ]


def _at(column: pa.ChunkedArray, index: NDArray[np.int64]) -> pa.Array:
    """Keys, or frames, of some records."""
    chosen = column if len(index) == len(column) else column.take(array_of(index))
    return chosen.cast(pa.binary()).combine_chunks()


def _sources(frames: FrameBatch, index: NDArray[np.int64], origin: Origin) -> pa.Array:
    if not isinstance(origin.sources, Mapping):
        return origin.sources.take(array_of(index))
    names, codes = np.unique(frames.partitions[index], return_inverse=True)
    known = texts_of([origin.sources[int(name)] for name in names])
    return pa.DictionaryArray.from_arrays(array_of(codes.astype(np.int32)), known).cast(pa.string())


def _kafka_times(frames: FrameBatch, index: NDArray[np.int64]) -> pa.Array:
    stamps = frames.timestamps_ms[index]
    return array_of(stamps * 1000, stamps < 0, TIME)


def _event_times(
    table: pa.Table, layout: Layout, frames: FrameBatch, index: NDArray[np.int64], origin: Origin
) -> pa.Array:
    """The time field's, else Kafka's time stamp; null where it is no time."""
    column = next((c for c in layout.columns if c.field == origin.time_field and c.element is None), None)
    if column is None or not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return _kafka_times(frames, index)
    stamps = filled(table[column.name].cast(pa.float64()).combine_chunks(), np.nan)
    times = event_time_us(numbers_of(stamps))
    return array_of(times, times == INVALID_TIME, TIME)


def _sort_into(
    parts: dict[tuple[str, str], list[pa.Table]],
    sizes: dict[tuple[str, str], int],
    rows: pa.Table,
    frames: FrameBatch,
    index: NDArray[np.int64],
    unit: SliceUnit,
) -> None:
    """Distributes rows over slices; a time that cannot be goes to quarantine."""
    times = numbers_of(filled(rows["time"].cast(pa.int64()), INVALID_TIME))
    received = frames.timestamps_ms[index] * 1000
    received = np.where(received < 0, int(time.time() * 1e6), received)
    is_bad = (times < FIRST_WEEK.start_us) | (times > received + AHEAD_US)
    starts = slice_starts(np.where(is_bad, 0, times), unit)
    starts = np.where(is_bad, INVALID_TIME, starts)
    lengths = _lengths(frames)[index]
    for start in np.unique(starts).tolist():
        chosen = np.flatnonzero(starts == start)
        key = _key(start, unit)
        part = _rows_at(rows, chosen)
        parts.setdefault(key, []).append(part)
        sizes[key] = sizes.get(key, 0) + int(lengths[chosen].sum())


def _lengths(frames: FrameBatch) -> NDArray[np.int64]:
    """Bytes of each frame, 0 of a tombstone."""
    return numbers_of(filled(pc.binary_length(frames.values), 0))


def _rows_at(rows: pa.Table, chosen: NDArray[np.int64]) -> pa.Table:
    """Some rows, without a copy where they lie together: at the turn of an hour they do."""
    if len(chosen) == rows.num_rows:
        return rows
    first, end = int(chosen[0]), int(chosen[-1]) + 1
    return rows.slice(first, end - first) if end - first == len(chosen) else rows.take(array_of(chosen))


def _key(start_us: int, unit: SliceUnit) -> tuple[str, str]:
    if start_us == INVALID_TIME:
        return QUARANTINE, QUARANTINE
    of = Slice(start_us, unit)
    return of.week.key, of.key


def _dead_rows(frames: FrameBatch, origin: Origin, dead: Sequence[tuple[int, str]]) -> pa.Table:
    """Whole frames with their coordinates and the reason; a tombstone's frame is null."""
    index = np.array([n for n, _ in dead], dtype=np.int64)
    arrays = [pa.nulls(len(index), TIME), *_system(frames, index, origin, None)]
    arrays.append(_at(frames.values, index))
    arrays.append(texts_of([reason for _, reason in dead]))
    names = [*_GOOD_SYSTEM, "archive_frame", "archive_reason"]
    fields = [pa.field("time", TIME), *(pa.field(name, SYSTEM_COLUMNS[name]) for name in names)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _unified(tables: Sequence[pa.Table], held: HeldColumns) -> pa.Table:
    """One table of the rows of several schemas: columns in the order of the last, types as the table has them."""
    columns = {column.name: column for column in held.columns}
    names = list(dict.fromkeys(name for table in reversed(tables) for name in table.column_names))
    message = [name for name in names if name in columns]
    system = [name for name in SYSTEM_COLUMNS if name in names]
    fields = [pa.field("time", TIME), *(arrow_field(columns[name]) for name in message)]
    fields += [pa.field(name, SYSTEM_COLUMNS[name]) for name in system]
    schema = pa.schema(fields)
    from efd_pipelines.archive.reading import conform

    return pa.concat_tables([conform(table, schema) for table in tables])


def held_columns(schema: pa.Schema) -> list[Column]:
    """The message's columns of a table's schema."""
    return [column for column in map(column_of, schema) if column is not None]
