"""Work: slices of one dataset's tier computed and written, invisible until they are committed.

It needs nothing but the files and the store, so it can be done in another process or on another machine
(`sharing.py`). Memory is bounded by the piece of time that is computed at once. Of a slice that has been computed
before only the windows that changed are computed again, the others are taken over. What is stale: `stale.py`;
committing: `build.py`; the computing itself: `summary.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from efd_pipelines.archive.files import DataFile, encoded_file, put_file, sort_rows
from efd_pipelines.archive.reading import conform
from efd_pipelines.archive.slices import Slice
from efd_pipelines.archive.store import Store
from efd_pipelines.tiers.columns import TierForm
from efd_pipelines.tiers.rows import ArchivedRows
from efd_pipelines.tiers.summary import TILE_BYTES, summarise
from efd_pipelines.topics.layout import Arrays

_PASS_ROWS = 400_000
_PASS_CELLS = 16_000_000
_LIST_BYTES = 96 * 1024 * 1024
_STEPS = 512


@dataclass(frozen=True, slots=True)
class Computed:
    """Slices with their files, None where they have no windows, and how many of the archive's rows were read."""

    files: Mapping[Slice, DataFile | None]
    rows: int


@dataclass(frozen=True, slots=True)
class Work:
    """How slices of one dataset's tier are computed.

    `files` are those of the archive, `held` the tier's as it is now, by slice; `changed` between which times, both
    included, a slice has changed since. `at_once` is how many share this machine's memory: each takes less at a time.
    """

    store: Store
    raw: str
    relative: str
    schema: pa.Schema
    window_us: int
    arrays: Arrays
    quartiles: bool
    files: Sequence[DataFile]
    held: Mapping[Slice, DataFile] = field(default_factory=dict)
    changed: Mapping[Slice, tuple[int, int]] = field(default_factory=dict)
    at_once: int = 1

    def form(self) -> TierForm:
        return TierForm.of(self.schema, self.arrays, quartiles=self.quartiles)

    def part(self, slices: Sequence[Slice]) -> Work:
        """What is needed for some of the slices, to be sent elsewhere."""
        start, end = slices[0].start_us, slices[-1].end_us
        return Work(
            store=self.store,
            raw=self.raw,
            relative=self.relative,
            schema=self.schema,
            window_us=self.window_us,
            arrays=self.arrays,
            quartiles=self.quartiles,
            files=[file for file in self.files if rows_within(file, start, end)],
            held={part: file for part, file in self.held.items() if part in slices},
            changed={part: times for part, times in self.changed.items() if part in slices},
            at_once=self.at_once,
        )

    def passes(self, slices: Sequence[Slice], columns: int) -> Iterator[list[Slice]]:
        """Slices that are computed together: neighbours of one week, bounded in rows and results."""
        together: list[Slice] = []
        for part in slices:
            is_next = bool(together) and part.start_us == together[-1].end_us
            if together and not (is_next and self._fits([*together, part], columns)):
                yield together
                together = []
            together.append(part)
        if together:
            yield together

    def _fits(self, slices: Sequence[Slice], columns: int) -> bool:
        start, end = slices[0].start_us, slices[-1].end_us
        rows = self._rows_about(start, end)
        windows = min(rows, (end - start) / self.window_us)
        is_one_week = slices[0].week == slices[-1].week
        return is_one_week and rows <= self._pass_rows and windows * columns <= _PASS_CELLS // self.at_once

    @property
    def _pass_rows(self) -> int:
        return _PASS_ROWS // self.at_once

    def _rows_about(self, start_us: int, end_us: int) -> float:
        return sum(rows_within(file, start_us, end_us) for file in self.files)

    def compute(self, slices: Sequence[Slice]) -> Computed:
        """Computes slices that follow each other.

        Raises:
            DamagedFile: a file of the archive cannot be read.
            StoreUnavailable: the store did not answer.
        """
        form = self.form()
        start, end = slices[0].start_us, slices[-1].end_us
        kept = self._unchanged(slices[0], form) if len(slices) == 1 else None
        if kept is not None:
            low, high = self.changed[slices[0]]
            start, end = low - low % self.window_us, high - high % self.window_us + self.window_us
        table, rows = self._summarise(start, end, form)
        if kept is not None:
            table = sort_rows(pa.concat_tables([_outside(kept, start, end), table]))
        return Computed({part: self._write(part, table, form) for part in slices}, rows)

    def _unchanged(self, part: Slice, form: TierForm) -> pa.Table | None:
        """The slice as it is; None where it was never computed, or by types that have become wider since."""
        if part not in self.held or part not in self.changed:
            return None
        relative = f"{self.relative}/{self.held[part].path}"
        with (
            self.store.errors(f"read {relative}"),
            pq.ParquetFile(self.store.path(relative), filesystem=self.store.arrow_fs) as parquet,
        ):
            held = parquet.read()
        types = {column.name: column.type for column in held.schema}
        if any(types.get(column.name, column.type) != column.type for column in form.schema):
            return None
        return conform(held, form.schema)

    def _summarise(self, start_us: int, end_us: int, form: TierForm) -> tuple[pa.Table, int]:
        """The tier's rows of a time range, and how many of the archive's rows they are made of."""
        parts, counted = list[pa.Table](), 0
        for begin, stop in self._pieces(start_us, end_us):
            with self._rows(begin, stop) as rows:
                tile_bytes = TILE_BYTES // self.at_once
                parts.append(summarise(rows, self.window_us, self.arrays, form, tile_bytes=tile_bytes))
                counted += rows.count
        if len(parts) == 1:  # thousands of columns are put together in 30 ms, though there is nothing to do
            return parts[0], counted
        return sort_rows(pa.concat_tables([form.schema.empty_table(), *parts])), counted

    def _pieces(self, start_us: int, end_us: int) -> Iterator[tuple[int, int]]:
        """The time range in pieces of whole windows that are bounded in rows, and in the bytes of lists."""
        windows = -(-(end_us - start_us) // self.window_us)
        step = -(-windows // _STEPS) * self.window_us
        most = self._most_rows(start_us, end_us)
        files = [file for file in self.files if rows_within(file, start_us, end_us)]
        if self._rows_about(start_us, end_us) <= most:
            if files:
                yield start_us, end_us
            return
        begin, rows = start_us, 0.0
        for edge in range(start_us, end_us, step):
            more = sum(rows_within(file, edge, edge + step) for file in files)
            if rows and rows + more > most:
                yield begin, edge
                begin, rows = edge, 0.0
            rows += more
        if rows:
            yield begin, end_us

    def _most_rows(self, start_us: int, end_us: int) -> float:
        lists = [column.name for column in self.schema if pa.types.is_list(column.type)]
        if not lists:
            return self._pass_rows
        with self._rows(start_us, end_us) as rows:
            decoded, count = rows.decoded_bytes(lists), rows.count
        return min(self._pass_rows, max(1, count * _LIST_BYTES // self.at_once // max(1, decoded)))

    def _rows(self, start_us: int, end_us: int) -> ArchivedRows:
        files = [file for file in self.files if rows_within(file, start_us, end_us)]
        return ArchivedRows(self.store, self.raw, files, self.schema, start_us, end_us)

    def _write(self, part: Slice, table: pa.Table, form: TierForm) -> DataFile | None:
        """The file of one slice, invisible until committed; None where the slice has no windows."""
        rows = _of_slice(table, part)
        if not rows.num_rows:
            return None
        unused = _unused(rows, form)
        file = encoded_file(part.week.key, part.key, rows.drop_columns(unused), None if unused else form.file)
        return put_file(self.store, self.relative, file)


def rows_within(file: DataFile, start_us: int, end_us: int) -> float:
    """About how many rows of a file lie in a time range; 0 only where none can."""
    if file.time_min_us is None or file.time_max_us is None:
        return float(file.rows)
    span = file.time_max_us - file.time_min_us + 1
    overlap = min(file.time_max_us + 1, end_us) - max(file.time_min_us, start_us)
    return file.rows * max(0, overlap) / span


def _within(table: pa.Table, start_us: int, end_us: int) -> pa.Array:
    time = table["time"].cast(pa.int64())
    return pc.and_(pc.greater_equal(time, start_us), pc.less(time, end_us))


def _of_slice(table: pa.Table, part: Slice) -> pa.Table:
    """The rows of a slice; where those are all, without a copy of thousands of columns."""
    inside = _within(table, part.start_us, part.end_us)
    return table if pc.all(inside).as_py() else table.filter(inside)


def _outside(table: pa.Table, start_us: int, end_us: int) -> pa.Table:
    return table.filter(pc.invert(_within(table, start_us, end_us)))


def _unused(rows: pa.Table, form: TierForm) -> list[str]:
    """Columns of fields that no record of the slice has: a field that came later changes no older file."""
    unused: list[str] = []
    for one in form.fields:
        names = one.names()
        if all(rows[name].null_count == rows.num_rows for name in names):
            unused += names
    return unused
