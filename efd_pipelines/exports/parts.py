"""Parts: the Parquet files of one exported topic.

Dask wants files of 10 to 250 MiB in memory, whose names sort as their rows do, all of one schema, and with
statistics of `time` that do not overlap. So rows are cut into row groups, and row groups into files, only
between different times; a rest too small for a file of its own goes into the one before.
What belongs here: cutting and encoding. Rows in order: `stream.py`; where files go: `destination.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from efd_pipelines.archive.files import writer_options
from efd_pipelines.exports.destination import Stage
from efd_pipelines.times import from_microseconds, microseconds, parse_time, utc_us_from_tai_datetimes

ROW_GROUP_BYTES = 32 * 1024 * 1024
FILE_BYTES = 128 * 1024 * 1024
LEAST_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """One file of an export: `path` is relative to it, `from_us` and `to_us` are its first and last time in UTC.

    `memory_bytes` is what its rows take when they are read.
    """

    path: str
    rows: int
    size_bytes: int
    memory_bytes: int
    sha256: str
    from_us: int
    to_us: int

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "rows": self.rows,
            "bytes": self.size_bytes,
            "bytes_in_memory": self.memory_bytes,
            "sha256": self.sha256,
            "from": from_microseconds(self.from_us).isoformat(),
            "to": from_microseconds(self.to_us).isoformat(),
        }

    @classmethod
    def from_json(cls, of: Mapping[str, Any]) -> Part:
        """What `to_json` gave."""
        times = (microseconds(parse_time(of[name])) for name in ("from", "to"))
        return cls(of["path"], of["rows"], of["bytes"], of["bytes_in_memory"], of["sha256"], *times)


def write_parts(
    stage: Stage, directory: str, schema: pa.Schema, tables: Iterable[pa.Table], *, piece: int = 0, token: str = ""
) -> Iterator[Part]:
    """Writes rows sorted by time to files under `directory`, and gives each when it is whole.

    Files are named by the piece of work that makes them, their number in it, and their first time, so that names sort
    as rows do; `token` tells what they were made of.
    """
    clock = _Clock.of(schema)
    for number, groups in enumerate(_files(row_groups(tables, clock.column))):
        yield _write(stage, f"{directory}/part-{piece:05d}-{number:03d}", token, schema, groups, clock)


@dataclass(frozen=True, slots=True)
class _Clock:
    """The column that rows are sorted by, and what its values are in UTC."""

    column: str

    @classmethod
    def of(cls, schema: pa.Schema) -> _Clock:
        return cls("time" if "time" in schema.names else "tai_time")

    def utc_us(self, rows: pa.Table, row: int) -> int:
        time_us = int(_times(rows.slice(row % rows.num_rows, 1), self.column)[0])
        if self.column == "time":
            return time_us
        return int(utc_us_from_tai_datetimes(np.array([time_us], "datetime64[us]")).astype(np.int64)[0])


def _files(groups: Iterable[pa.Table]) -> Iterator[Iterator[pa.Table]]:
    """The row groups by file; each file's are to be taken before the next file is asked for."""
    ahead = _Ahead(iter(groups))
    while ahead.held is not None:
        yield ahead.take_file()


class _Ahead:
    """Row groups with one of them held back, so that a small rest is known before a file is closed."""

    def __init__(self, groups: Iterator[pa.Table]) -> None:
        self._groups = groups
        self.held: pa.Table | None = next(groups, None)

    def take_file(self) -> Iterator[pa.Table]:
        """Row groups until the file is large enough, and the next where it is too small for a file."""
        size = 0
        while (group := self.held) is not None:
            if size and size + group.nbytes > FILE_BYTES and group.nbytes >= LEAST_BYTES:
                return
            size += group.nbytes
            self.held = None
            ready = [group]
            del group
            yield ready.pop()  # nothing is held here while the next is read
            self.held = next(self._groups, None)


def _write(stage: Stage, name: str, token: str, schema: pa.Schema, groups: Iterator[pa.Table], clock: _Clock) -> Part:
    ahead = [next(groups)]
    low = high = clock.utc_us(ahead[0], 0)
    rows = memory_bytes = 0
    path = f"{name}_{from_microseconds(low):%Y%m%dT%H%M%S}Z{'-' if token else ''}{token}.parquet"
    with stage.create(path) as file:
        sorting = pq.SortingColumn.from_ordering(schema, [(clock.column, "ascending")])
        with pq.ParquetWriter(file, schema, sorting_columns=sorting, **_options(schema)) as writer:
            while ahead:
                group = ahead.pop()
                writer.write_table(group, row_group_size=group.num_rows)
                rows, memory_bytes = rows + group.num_rows, memory_bytes + group.nbytes
                high = clock.utc_us(group, -1)
                del group
                ahead.extend(itertools.islice(groups, 1))
    return Part(path, rows, file.size_bytes, memory_bytes, file.sha256, low, high)


def _options(schema: pa.Schema) -> dict[str, Any]:
    """The archive's encoding, with statistics of every column that rows are found by."""
    options = writer_options(schema)
    named = {"tai_time", "exposure_id", "visit_id"} & set(schema.names)
    return {**options, "write_statistics": [*options["write_statistics"], *sorted(named)]}


def row_groups(tables: Iterable[pa.Table], column: str = "time") -> Iterator[pa.Table]:
    """The rows in pieces of about `ROW_GROUP_BYTES`; no two pieces share a time.

    `tables` must be sorted by their `column` of times and share none between them.
    """
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        del table  # nothing is held here while the next is read
        if sum(held.nbytes for held in waiting) >= ROW_GROUP_BYTES:
            yield from _cut(waiting, column)
    yield from _cut(waiting, column)


def _cut(waiting: list[pa.Table], column: str) -> Iterator[pa.Table]:
    """Takes the tables out of the list, in pieces of about the size of a row group."""
    if not waiting:
        return
    table = pa.concat_tables(waiting)
    waiting.clear()
    step = -(-table.num_rows // max(1, round(table.nbytes / ROW_GROUP_BYTES)))
    time = _times(table, column)
    pieces = []
    while len(time):
        end = int(np.searchsorted(time, time[min(step, len(time)) - 1], side="right"))
        pieces.append(table.slice(table.num_rows - len(time), end))
        time = time[end:]
    del table
    while pieces:
        yield pieces.pop(0)


def _times(table: pa.Table, column: str) -> Any:
    return table[column].cast(pa.int64()).to_numpy()
