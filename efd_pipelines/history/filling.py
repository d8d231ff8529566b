"""Filling: points of a history become rows of a dataset, where the archive does not have them.

Every commit raises the guard `fill`, read from the snapshot from which the rows were chosen, so two healers cannot both
fill one hole, and a healer that was killed and runs again finds what it has committed (design.md §4). A point whose
record is there already, Kafka's or an earlier filling's, is dropped: nothing here removes or replaces a row. A drain
beside it is not refused; what both brought is told apart by the identity of the record, and Kafka's row stays when the
slice is merged. What belongs to a week that was let go is dropped, too: letting it go raises `fill`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.encoding import held_columns
from efd_pipelines.archive.expiry import is_expired
from efd_pipelines.archive.files import DataFile, sort_rows, write_data_file
from efd_pipelines.archive.ledger import RAW, LedgerRow, relative_of, rows_of
from efd_pipelines.archive.positions import FORMAT, row_bytes
from efd_pipelines.archive.reading import IDENTITY, good_files, read_file, wanted_schema
from efd_pipelines.archive.slices import Slice, SliceUnit, choose_unit, slice_starts
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table
from efd_pipelines.archive.widening import needs_widening, widen_table
from efd_pipelines.errors import StaleWriter
from efd_pipelines.history.casting import CastBack, cast_back
from efd_pipelines.history.intervals import Interval
from efd_pipelines.times import INVALID_TIME, Week, event_time_us
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME, Column
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

_log = logging.getLogger(__name__)
GUARD = "fill"
KIND = "fill"
_ATTEMPTS = 12
_NEAR_US = 3_600_000_000
"""InfluxDB's index was TAI until 2021 (efd-facts §1.3), half a minute off; a stamp further away is no time."""

_ROW_COLUMNS = tuple(name for name in SYSTEM_COLUMNS if name not in ("archive_frame", "archive_reason"))


@dataclass(frozen=True, slots=True)
class Filled:
    """What one commit of history brought. `known` points were in the archive already."""

    rows: int
    bytes: int
    known: int
    ambiguous: tuple[str, ...]
    ledger: tuple[LedgerRow, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """The dataset that is filled, and what is known of its messages."""

    dataset: Dataset
    schema: TopicSchema | None
    time_field: str | None
    source: str


def fill(
    archive: Archive,
    settings: Settings,
    target: Target,
    points: pa.Table,
    intervals: Sequence[Interval],
    *,
    run: str = "",
) -> Filled:
    """One commit of the points that the archive does not have; none where it has them all.

    Args:
        points: `time` and fields as the history has them.
        intervals: the stretches that they were asked for, for the log.

    Raises:
        StaleWriter: other writers were faster, many times.
        StoreUnavailable: nothing became visible.
    """
    relative = relative_of(RAW, target.dataset)
    widened: list[LedgerRow] = []
    for attempt in range(_ATTEMPTS):
        time.sleep(min(1.0, 0.02 * 2**attempt) if attempt else 0.0)
        snapshot = open_table(archive.store, relative)
        reached = None if snapshot is None else snapshot.transaction_version(GUARD)
        rows, cast = _rows(snapshot, target, points)
        if not rows.num_rows:
            return Filled(0, 0, points.num_rows, cast.ambiguous, tuple(widened))
        try:
            held = [] if snapshot is None else held_columns(snapshot.schema)
            if snapshot is not None and needs_widening(held, cast.columns):
                snapshot, commits = widen_table(snapshot, cast.columns, run)
                widened += [row for made in commits for row in rows_of(RAW, target.dataset, made)]
            unit = _unit(settings, target.dataset, snapshot, cast.columns)
            made = commit(
                archive.store,
                relative,
                snapshot,
                add=_write(archive, relative, rows, unit),
                transactions={GUARD: (reached, (reached or 0) + 1)},
                schema=_table_schema(snapshot, rows),
                description=_decisions(snapshot, target, unit, cast),
                note=_note(target, rows, intervals, run),
            )
        except StaleWriter as error:
            _log.info("%s", error.message)
            continue
        return _filled(target, made, points.num_rows - rows.num_rows, cast, widened)
    raise StaleWriter(
        f"{target.dataset} could not be filled in {_ATTEMPTS} attempts",
        remedy="Look who else writes to it; filling goes on where it stopped at the next run.",
    )


def _filled(target: Target, made: Commit, known: int, cast: CastBack, widened: Sequence[LedgerRow]) -> Filled:
    return Filled(
        rows=sum(file.rows for file in made.added),
        bytes=sum(file.size_bytes for file in made.added),
        known=known,
        ambiguous=cast.ambiguous,
        ledger=(*widened, *rows_of(RAW, target.dataset, made)),
    )


def _rows(snapshot: TableSnapshot | None, target: Target, points: pa.Table) -> tuple[pa.Table, CastBack]:
    """The points as rows, without those whose records are there."""
    held = [] if snapshot is None else held_columns(snapshot.schema)
    arrays = None if snapshot is None else snapshot.description.get("arrays")
    cast = cast_back(points, schema=target.schema, held=held, arrays=arrays)
    times = _event_times(points, cast.table, cast.columns, target.time_field)
    system = [pa.nulls(points.num_rows, SYSTEM_COLUMNS[name]) for name in _ROW_COLUMNS]
    system[_ROW_COLUMNS.index("archive_source")] = pa.array([target.source] * points.num_rows, pa.string())
    fields = [pa.field("time", TIME), *cast.table.schema]
    fields += [pa.field(name, SYSTEM_COLUMNS[name]) for name in _ROW_COLUMNS]
    rows = pa.Table.from_arrays([times, *cast.table.columns, *system], schema=pa.schema(fields))
    return _unknown(snapshot, _kept(snapshot, _once(rows))), cast


def _event_times(points: pa.Table, table: pa.Table, columns: Sequence[Column], time_field: str | None) -> pa.Array:
    """By the rule of Kafka's rows from the time field, where that is near InfluxDB's time; else the latter."""
    given = points["time"].cast(pa.int64()).combine_chunks()
    column = next((one for one in columns if one.field == time_field and one.element is None), None)
    if column is None or not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return given.cast(TIME)
    stamps = table[column.name].cast(pa.float64()).combine_chunks().fill_null(np.nan)
    times = event_time_us(stamps.to_numpy(zero_copy_only=False))
    asked = given.to_numpy(zero_copy_only=False)
    is_near = (times != INVALID_TIME) & (np.abs(times - asked) < _NEAR_US)
    return pa.array(np.where(is_near, times, asked)).cast(TIME)


def _once(rows: pa.Table) -> pa.Table:
    """Each record once: a source may give a point twice."""
    keys = ["time", *(name for name in IDENTITY if name in rows.column_names)]
    mask = pl.DataFrame(rows.select(keys)).select(pl.struct(keys).is_first_distinct().alias("first"))["first"]
    return rows if mask.all() else rows.filter(mask.to_arrow())


def _kept(snapshot: TableSnapshot | None, rows: pa.Table) -> pa.Table:
    """The rows without those of weeks that were let go."""
    if snapshot is None or not rows.num_rows:
        return rows
    weeks = slice_starts(rows["time"].cast(pa.int64()).to_numpy(), SliceUnit.WEEK)
    gone = [start for start in np.unique(weeks).tolist() if is_expired(snapshot, Week.containing(start))]
    return rows.filter(pa.array(~np.isin(weeks, gone))) if gone else rows


def _unknown(snapshot: TableSnapshot | None, rows: pa.Table) -> pa.Table:
    """The rows whose records the table does not have, whoever brought those."""
    if snapshot is None or not rows.num_rows:
        return rows
    there = set(snapshot.schema.names)
    keys = ["time", *(name for name in IDENTITY if name in rows.column_names and name in there)]
    known = _records_beside(snapshot, rows, keys)
    if not known.num_rows:
        return rows
    mine = pl.DataFrame(rows.select(keys)).with_row_index("row")
    theirs = pl.DataFrame(known).cast({name: mine.schema[name] for name in keys})
    left = mine.join(theirs, on=keys, how="anti", nulls_equal=True)["row"].sort()
    return rows if len(left) == rows.num_rows else rows.take(left.to_arrow())


def _records_beside(snapshot: TableSnapshot, rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The keys of the table's records in the time of the rows."""
    extremes = pc.min_max(rows["time"].cast(pa.int64()))
    low, high = extremes["min"].as_py(), extremes["max"].as_py()
    schema = wanted_schema(snapshot, keys)
    parts = []
    for file in good_files(snapshot, None, low, high + 1):
        part = read_file(snapshot, file, schema)
        times = part["time"].cast(pa.int64())
        parts.append(part.filter(pc.and_(pc.greater_equal(times, low), pc.less_equal(times, high))))
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _unit(settings: Settings, dataset: Dataset, snapshot: TableSnapshot | None, columns: Sequence[Column]) -> SliceUnit:
    """The dataset's slice unit; chosen here where it has none yet."""
    decided = None if snapshot is None else snapshot.description.get("slice")
    configured = decided or settings.configuration.slice_unit(dataset)
    if configured is not None:
        return SliceUnit(configured)
    return choose_unit(settings.configuration.rate_hz(dataset), row_bytes(columns))


def _write(archive: Archive, relative: str, rows: pa.Table, unit: SliceUnit) -> list[DataFile]:
    starts = slice_starts(rows["time"].cast(pa.int64()).to_numpy(), unit)
    files = []
    for start in np.unique(starts).tolist():
        of = Slice(start, unit)
        part = rows.filter(pa.array(starts == start))
        files.append(write_data_file(archive.store, relative, of.week.key, of.key, sort_rows(part)))
    return files


def _table_schema(snapshot: TableSnapshot | None, rows: pa.Table) -> pa.Schema:
    """The columns that the table must have: a new one gets all of the system's, as a drain would make it."""
    if snapshot is not None:
        return rows.schema
    missing = [pa.field(name, kind) for name, kind in SYSTEM_COLUMNS.items() if name not in rows.column_names]
    return pa.schema([*rows.schema, *missing])


def _decisions(snapshot: TableSnapshot | None, target: Target, unit: SliceUnit, cast: CastBack) -> Mapping[str, Any]:
    """What is decided where the dataset is new, as a drain decides it."""
    if snapshot is not None:
        return snapshot.description
    return {
        "format": FORMAT,
        "dataset": target.dataset.text,
        "slice": unit.value,
        "arrays": cast.arrays,
        "time_field": target.time_field,
    }


def _note(target: Target, rows: pa.Table, intervals: Sequence[Interval], run: str) -> dict[str, Any]:
    return {
        "kind": KIND,
        "run": run,
        "records": rows.num_rows,
        "avro_bytes": {},
        "history": {
            "source": target.source,
            "intervals": [[interval.start_us, interval.end_us] for interval in intervals],
        },
    }
