"""Recount: windows of raw records, found and computed anew, against those that a tier has.

Nothing is taken from what the tier recorded. Some hours at a time, and lists in pieces: memory stays small. What it is
for: `verification.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import read_file
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.retention.comparison import different
from efd_pipelines.retention.refusal import Depth, Refused
from efd_pipelines.tiers.columns import TierForm
from efd_pipelines.tiers.rows import ArchivedRows
from efd_pipelines.tiers.summary import summarise
from efd_pipelines.tiers.tier import Tier
from efd_pipelines.tiers.windows import KEYS, find_windows
from efd_pipelines.tiers.work import rows_within

if TYPE_CHECKING:
    from efd_pipelines.retention.due import Due

_HOUR_US = 3_600_000_000
_LIST_BYTES = 96 * 1024 * 1024
_ROWS_AT_ONCE = 200_000
_CELLS_AT_ONCE = 4_000_000


class Recount:
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
        quartiles = table.description.get("quartiles", False)
        self._form = TierForm.of(raw.schema, table.description["arrays"], quartiles=quartiles)
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
                wanted = self._depth == "values"
                yield summarise(rows, window_us, form=self._form) if wanted else _counted(rows, window_us)

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
            rows += sum(rows_within(file, hour, hour + _HOUR_US) for file in self._files)
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
