"""Verification: proof that what is let go can be had at a coarser window.

Raw records go when every tier of the dataset has the week whole: after them no median can be computed again. Each
tier's files must have the bytes that were written, and each window that the raw records make, found anew from their
times, must be there with its count, and none besides; with `values`, every statistic is computed again and compared. A
tier goes when the next one has each of its windows: counts add up, and with `values` extremes and first samples agree.
Nothing is taken on trust: not the ledger, not what a tier recorded. Some hours at a time: memory stays small.
What is doubtful is refused with a reason; what is done about it: `plan.py`, `enforce.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.certificates import Certificate
from efd_pipelines.archive.expiry import certificate_of_tier, certified, is_expired
from efd_pipelines.archive.files import DataFile, content_hash
from efd_pipelines.archive.ledger import RAW, hash_of_path
from efd_pipelines.archive.reading import conform, read_file
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.errors import ArchiveError
from efd_pipelines.retention.comparison import different
from efd_pipelines.retention.due import Due, finer, tiers_of
from efd_pipelines.tiers.rows import ArchivedRows
from efd_pipelines.tiers.summary import summarise
from efd_pipelines.tiers.tier import Tier
from efd_pipelines.tiers.windows import KEYS, find_windows

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.topics.names import Dataset

Depth = Literal["metadata", "counts", "values"]
"""How much is read: tables and certificates; also the times of all rows; also every value."""

_HOUR_US = 3_600_000_000
_LIST_BYTES = 96 * 1024 * 1024
_ROWS_AT_ONCE = 200_000
_CELLS_AT_ONCE = 4_000_000
_COLUMNS_AT_ONCE = 256


class Refused(ArchiveError):
    """Something that is due and may not go; `kind` is a word for why."""

    remedy = "Nothing was deleted; it is looked at again the next time."

    def __init__(self, kind: str, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was proved of a week: its certificate, and of each coarser tier version, windows and records looked at.

    `files` are those of the coarser tiers that were looked at.
    """

    certificate: Certificate
    covered_by: Mapping[str, Mapping[str, int]]
    files: Mapping[str, frozenset[str]]


class Tables:
    """The tables of datasets, each opened once: what is found in them is looked at again before anything goes."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._opened: dict[str, TableSnapshot | None] = {}

    def of(self, dataset: Dataset, level: str) -> TableSnapshot | None:
        """The table of a level, None where there is none."""
        relative = self.archive.relative(dataset, level)
        if relative not in self._opened:
            self._opened[relative] = open_table(self.archive.store, relative)
        return self._opened[relative]

    def forget(self, dataset: Dataset, level: str) -> None:
        """It has been changed: open it anew when it is asked for."""
        self._opened.pop(self.archive.relative(dataset, level), None)


def verified(tables: Tables, one: Due, depth: Depth, *, going: bool = False) -> Evidence:
    """Proof that something that is due may go.

    Args:
        going: the next finer level is there yet, and will have gone when this goes.

    Raises:
        Refused: it may not.
        StoreUnavailable: the store did not answer.
    """
    try:
        return _raw(tables, one, depth) if one.level == RAW else _tier(tables, one, depth, going)
    except Refused:
        raise
    except ArchiveError as error:
        raise Refused("damaged", error.message, remedy=error.remedy) from error


def _opened(tables: Tables, one: Due, level: str) -> TableSnapshot:
    snapshot = tables.of(one.dataset, level)
    if snapshot is None:
        raise Refused("uncovered", f"{one.dataset} has no table of {level}", remedy="Build it: `efd tiers run`.")
    return snapshot


def _raw(tables: Tables, one: Due, depth: Depth) -> Evidence:
    snapshot = _opened(tables, one, RAW)
    if is_expired(snapshot, one.week):
        raise Refused("late", "these are late records of a week that has expired; they are kept as they are")
    try:
        certificate = certified(tables.archive, one.dataset, one.week, snapshot)
    except ArchiveError as error:
        raise Refused("unsealed", error.message, remedy=error.remedy) from error
    covered, seen = {}, {}
    for tier in _coarser(tables.archive, one):
        table = _opened(tables, one, tier.name)
        files = _whole_files(table, one, tier.name, depth)
        windows, records = (
            (0, 0) if depth == "metadata" else _Comparison(snapshot, table, files, one, tier, depth).all()
        )
        covered[tier.name] = {"version": table.version, "windows": windows, "records": records}
        seen[tier.name] = frozenset(file.path for file in files)
    return Evidence(certificate, covered, seen)


def still_covered(tables: Tables, one: Due, evidence: Evidence) -> None:
    """Looks whether the files by which something was found to be covered still count.

    Raises:
        Refused: some do not.
    """
    for level, seen in evidence.files.items():
        now = {file.path for file in _opened(tables, one, level).files({one.week.key})}
        if not seen <= now:
            raise Refused("uncovered", f"{level} was changed while it was looked at")


def _coarser(archive: Archive, one: Due) -> list[Tier]:
    found = tiers_of(one.dataset, archive.settings.configuration, one.level)
    if not found:
        raise Refused("uncovered", f"No tier is coarser than {one.level} of {one.dataset}")
    return found


def _whole_files(table: TableSnapshot, one: Due, level: str, depth: Depth) -> list[DataFile]:
    """The files of the week, each with the bytes that were written."""
    if is_expired(table, one.week):
        raise Refused("uncovered", f"{level} of this week has expired")
    files = table.files({one.week.key})
    if not files:
        raise Refused("uncovered", f"{level} has nothing of this week", remedy="Build it: `efd tiers run`.")
    if depth != "metadata":
        for file in files:
            _check_bytes(table, file)
    return files


def _check_bytes(table: TableSnapshot, file: DataFile) -> bytes:
    relative = f"{table.relative}/{file.path}"
    data = table.store.try_read(relative)
    if data is None:
        raise Refused("damaged", f"{relative} is not in the store")
    if content_hash(data) != hash_of_path(file.path):
        raise Refused("damaged", f"{relative} does not have the bytes that were written")
    return data


class _Comparison:
    """Windows of raw records, computed anew, against those that a tier has."""

    def __init__(
        self,
        raw: TableSnapshot,
        table: TableSnapshot,
        files: Sequence[DataFile],
        one: Due,
        tier: Tier,
        depth: Depth,
    ) -> None:
        self._raw = raw
        self._tier = tier
        self._depth = depth
        self._files = raw.files({one.week.key})
        self._arrays = table.description["arrays"]
        self._there = _TierRows(table, files, None if depth == "values" else _keys(table.schema))
        self._ranges = list(self._together(sorted(_hours(self._files) | _hours(files))))

    def all(self) -> tuple[int, int]:
        """Windows and records that agree.

        Raises:
            Refused: some do not.
        """
        windows = records = 0
        for start_us, end_us in self._ranges:
            expected = pa.concat_tables(list(self._expected(start_us, end_us)))
            found = self._there.within(start_us, end_us)
            what = different(expected, found, keys_only=self._depth == "counts")
            if what:
                raise Refused("uncovered", f"{self._tier.name} does not agree with the raw records: {what}")
            windows += expected.num_rows
            records += int(pc.sum(expected["count"]).as_py() or 0)
        return windows, records

    def _expected(self, start_us: int, end_us: int) -> Iterator[pa.Table]:
        window_us = self._tier.window_us
        step = self._step(start_us, end_us) if self._depth == "values" else end_us - start_us
        for begin in range(start_us, end_us, step):
            with self._rows(begin, min(begin + step, end_us)) as rows:
                yield summarise(rows, window_us, self._arrays) if self._depth == "values" else _counted(rows, window_us)

    def _step(self, start_us: int, end_us: int) -> int:
        """How much is summarised at a time: lists are held as a whole."""
        lists = [column.name for column in self._raw.schema if pa.types.is_list(column.type)]
        if not lists:
            return end_us - start_us
        with self._rows(start_us, end_us) as rows:
            pieces = 1 + rows.decoded_bytes(lists) // _LIST_BYTES
        return -(-(end_us - start_us) // (pieces * self._tier.window_us)) * self._tier.window_us

    def _together(self, hours: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Hours that are looked at together: some rows, and some results."""
        first: int | None = None
        rows = 0.0
        for place, hour in enumerate(hours):
            first = hour if first is None else first
            rows += sum(_rows_within(file, hour, hour + _HOUR_US) for file in self._files)
            cells = min(rows, (hour + _HOUR_US - first) / self._tier.window_us) * len(self._raw.schema)
            is_last = place + 1 == len(hours)
            if is_last or rows > _ROWS_AT_ONCE or cells > _CELLS_AT_ONCE:
                yield first, hour + _HOUR_US
                first, rows = None, 0.0

    def _rows(self, start_us: int, end_us: int) -> ArchivedRows:
        files = [file for file in self._files if _touches(file, start_us, end_us)]
        return ArchivedRows(self._raw.store, self._raw.relative, files, self._raw.schema, start_us, end_us)


def _counted(rows: ArchivedRows, window_us: int) -> pa.Table:
    """The windows of rows, with their counts alone."""
    names = [name for name in KEYS if name in rows.schema.names]
    schema = pa.schema([rows.schema.field(name) for name in names])
    found = find_windows(pa.concat_tables([schema.empty_table(), *(p for _, p in rows.batches(names))]), window_us)
    columns: dict[str, Any] = {"time": pa.array(found.time_us).cast(rows.schema.field("time").type)}
    index = found.sal_indices()
    if index is not None:
        columns["salIndex"] = index.cast(rows.schema.field("salIndex").type)
    return pa.table({**columns, "count": pa.array(found.counts)})


def _keys(schema: pa.Schema) -> pa.Schema:
    return pa.schema([column for column in schema if column.name in ("time", "salIndex", "count")])


def _rows_within(file: DataFile, start_us: int, end_us: int) -> float:
    """About how many rows of a file lie in a time range."""
    if file.time_min_us is None or file.time_max_us is None:
        return float(file.rows)
    overlap = min(file.time_max_us + 1, end_us) - max(file.time_min_us, start_us)
    return file.rows * max(0, overlap) / (file.time_max_us - file.time_min_us + 1)


def _touches(file: DataFile, start_us: int, end_us: int) -> bool:
    if file.time_min_us is None or file.time_max_us is None:
        return True
    return file.time_min_us < end_us and file.time_max_us >= start_us


def _hours(files: Sequence[DataFile]) -> set[int]:
    """The hours in which files have rows, by their beginning."""
    found: set[int] = set()
    for file in files:
        if file.time_min_us is None or file.time_max_us is None:
            raise Refused("damaged", f"The log does not say between which times the rows of {file.path} lie")
        first = file.time_min_us - file.time_min_us % _HOUR_US
        found |= set(range(first, file.time_max_us + 1, _HOUR_US))
    return found


class _TierRows:
    """The rows of a tier's files, by time; the last file read is kept, since hours come in their order."""

    def __init__(self, table: TableSnapshot, files: Sequence[DataFile], schema: pa.Schema | None) -> None:
        self._table = table
        self._files = files
        self._schema = table.schema if schema is None else schema
        self._last: tuple[str, pa.Table] | None = None

    def within(self, start_us: int, end_us: int) -> pa.Table:
        parts = [self._schema.empty_table()]
        for file in self._files:
            if _touches(file, start_us, end_us):
                rows = self._read(file)
                times = rows["time"].cast(pa.int64())
                inside = pc.and_(pc.greater_equal(times, start_us), pc.less(times, end_us))
                parts.append(rows.filter(inside))
        return pa.concat_tables(parts)

    def _read(self, file: DataFile) -> pa.Table:
        if self._last is None or self._last[0] != file.path:
            self._last = file.path, read_file(self._table, file, self._schema)
        return self._last[1]


def _tier(tables: Tables, one: Due, depth: Depth, going: bool) -> Evidence:
    """A tier's week, against the next tier's."""
    raw = _opened(tables, one, RAW)
    before = finer(one.level)
    if not going and before is not None and not _has_gone(tables, one, before, raw):
        raise Refused("finer", f"{before} of this week is still there, and goes first")
    table, coarser = _opened(tables, one, one.level), _coarser(tables.archive, one)[0]
    files = _whole_files(table, one, one.level, depth)
    above = _opened(tables, one, coarser.name)
    others = _whole_files(above, one, coarser.name, depth)
    windows = records = 0
    if depth != "metadata":
        windows, records = _rolled_up(table, files, above, others, coarser, values=depth == "values")
    sha256 = {file.path: _sha256(table, file) if depth == "values" else "" for file in files}
    certificate = certificate_of_tier(table, one.dataset, one.week.key, sha256)
    covered = {coarser.name: {"version": above.version, "windows": windows, "records": records}}
    return Evidence(certificate, covered, {coarser.name: frozenset(file.path for file in others)})


def _has_gone(tables: Tables, one: Due, level: str, raw: TableSnapshot) -> bool:
    if level == RAW:
        return is_expired(raw, one.week)
    table = tables.of(one.dataset, level)
    return table is not None and is_expired(table, one.week)


def _sha256(table: TableSnapshot, file: DataFile) -> str:
    return hashlib.sha256(_check_bytes(table, file)).hexdigest()


def _rolled_up(
    table: TableSnapshot,
    files: Sequence[DataFile],
    above: TableSnapshot,
    others: Sequence[DataFile],
    coarser: Tier,
    *,
    values: bool,
) -> tuple[int, int]:
    """Windows and records of a coarser tier that agree with a finer one.

    Raises:
        Refused: some do not.
    """
    index = [name for name in ("salIndex",) if name in table.schema.names]
    windows = records = 0
    for names in _column_groups(table.schema, above.schema) if values else [[]]:
        schema = pa.schema([table.schema.field(name) for name in ["time", *index, "count", *names]])
        fine = pa.concat_tables([schema.empty_table(), *(read_file(table, file, schema) for file in files)])
        whole = pa.schema([above.schema.field(name) for name in schema.names])
        found = pa.concat_tables([whole.empty_table(), *(read_file(above, file, whole) for file in others)])
        expected = conform(_coarsened(fine, coarser.window_us, index, names), whole)
        what = different(expected, found, keys_only=False)
        if what:
            raise Refused("uncovered", f"{coarser.name} does not agree with the finer tier: {what}")
        windows, records = expected.num_rows, int(pc.sum(expected["count"]).as_py() or 0)
    return windows, records


def _column_groups(fine: pa.Schema, coarse: pa.Schema) -> list[list[str]]:
    """Columns that are compared together: those that follow from the finer tier's, exactly."""
    there = set(coarse.names)
    names = [
        column.name
        for column in fine
        if column.name in there
        and column.name.partition("_")[0] in ("first", "min", "max")
        and not pa.types.is_list(column.type)
    ]
    groups = [names[begin : begin + _COLUMNS_AT_ONCE] for begin in range(0, len(names), _COLUMNS_AT_ONCE)]
    return groups or [[]]


def _coarsened(fine: pa.Table, window_us: int, index: Sequence[str], names: Sequence[str]) -> pa.Table:
    """The finer tier's rows by the coarser windows: counts added up, extremes of extremes, first of first."""
    times = fine["time"].cast(pa.int64()).to_numpy()
    frame = pl.DataFrame(fine.drop_columns(["time"])).with_columns(
        pl.Series("time", times - np.mod(times, window_us)), pl.Series("at", times)
    )
    figures = [pl.col("count").sum()]
    for name in names:
        statistic = name.partition("_")[0]
        column = pl.col(name)
        figures.append(
            column.min() if statistic == "min" else column.max() if statistic == "max" else column.sort_by("at").first()
        )
    rolled = frame.group_by("time", *index).agg(figures).to_arrow()
    time = rolled["time"].cast(fine.schema.field("time").type)
    return rolled.set_column(rolled.schema.get_field_index("time"), "time", time)
