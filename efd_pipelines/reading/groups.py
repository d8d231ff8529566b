"""Groups: row groups of files by their statistics, and decoding columns of one.

Rows of a file are sorted by salIndex and time, so a row group says from which device it is and from which time: of an
hour of one device few are read. What is written here neither sorts nor counts: `scan.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import conform
from efd_pipelines.errors import ArchiveError
from efd_pipelines.reading.footers import FOOTERS, Footer
from efd_pipelines.reading.ranges import ByteRange, Fetched, MissingFile, Traffic, fetch
from efd_pipelines.times import microseconds

if TYPE_CHECKING:
    from efd_pipelines.archive.store import Store

WIDTHS = {"INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "BOOLEAN": 1}
"""Bytes of a value in memory, by its physical type; of others the encoded size is taken."""


@dataclass(frozen=True, slots=True, eq=False)
class RowGroup:
    """One row group of a file: times of its rows (both included) in UTC microseconds, and its device where all rows
    are of one.
    """

    relative: str
    file: DataFile
    footer: Footer
    number: int
    low_us: int
    high_us: int
    rows: int

    def ranges(self, columns: Sequence[str]) -> Iterator[ByteRange]:
        """Where the columns' bytes are."""
        group = self.footer.metadata.row_group(self.number)
        for name in columns:
            for place in self.footer.columns.get(name, ()):
                column = group.column(place)
                start = column.data_page_offset
                if column.has_dictionary_page and column.dictionary_page_offset:
                    start = min(start, column.dictionary_page_offset)
                yield ByteRange(start, start + column.total_compressed_size)

    def stored_bytes(self, columns: Sequence[str]) -> int:
        return sum(one.size for one in self.ranges(columns))

    def memory_bytes(self, columns: Sequence[str]) -> int:
        """What the columns take in memory, about."""
        group = self.footer.metadata.row_group(self.number)
        size = 0
        for name in columns:
            for place in self.footer.columns.get(name, ()):
                column = group.column(place)
                width = WIDTHS.get(column.physical_type)
                size += column.num_values * width if width else column.total_uncompressed_size
        return size


def row_groups(
    store: Store,
    relative: str,
    file: DataFile,
    start_us: int,
    end_us: int,
    *,
    width: int,
    device: tuple[str, int] | None = None,
    traffic: Traffic,
) -> list[RowGroup]:
    """The row groups of a file that may have rows from `start_us` to before `end_us`, of one device where it is named.

    `device` is the column and the number, as ("salIndex", 3).
    """
    footer = FOOTERS.of(store, relative, file, width, traffic)
    if "time" not in footer.columns:
        raise ArchiveError(f"{store.uri(relative)}/{file.path} has no column time")
    found = []
    for number in range(footer.metadata.num_row_groups):
        group = footer.metadata.row_group(number)
        low, high = _times(group.column(footer.columns["time"][0]).statistics, file)
        outside = high < start_us or low >= end_us or not group.num_rows
        if not outside and _may_have(group, footer, device):
            found.append(RowGroup(relative, file, footer, number, low, high, group.num_rows))
    return found


def _times(statistics: Any, file: DataFile) -> tuple[int, int]:
    if statistics is not None and statistics.has_min_max:
        return microseconds(statistics.min), microseconds(statistics.max)
    if file.time_min_us is None or file.time_max_us is None:
        raise ArchiveError(f"Nobody says of which times {file.path} is")
    return file.time_min_us, file.time_max_us


def _may_have(group: Any, footer: Footer, device: tuple[str, int] | None) -> bool:
    if device is None or device[0] not in footer.columns:
        return True
    statistics = group.column(footer.columns[device[0]][0]).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= device[1] <= statistics.max)


def decode(store: Store, groups: Sequence[RowGroup], schema: pa.Schema, traffic: Traffic) -> pa.Table:
    """All rows of row groups, as `schema` has the columns; files in the order in which they come.

    Raises:
        MissingFile: a file is not there.
        StoreUnavailable: the store did not answer.
    """
    by_file: dict[str, list[RowGroup]] = {}
    for group in groups:
        by_file.setdefault(group.file.path, []).append(group)
    parts = [_decode_file(store, of, schema, traffic) for of in by_file.values()]
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _decode_file(store: Store, groups: Sequence[RowGroup], schema: pa.Schema, traffic: Traffic) -> pa.Table:
    first = groups[0]
    name = f"{first.relative}/{first.file.path}"
    columns = [column for column in schema.names if column in first.footer.columns]
    ranges = [one for group in groups for one in group.ranges(columns)]
    metadata = first.footer.metadata
    with store.errors(f"read {name}"):
        try:
            if store.is_remote:
                source = pa.PythonFile(Fetched(first.file.size_bytes, fetch(store, name, ranges, traffic)), mode="r")
                parquet = pq.ParquetFile(source, metadata=metadata, pre_buffer=False)
            else:
                traffic.count(sum(one.size for one in ranges), len(ranges))
                parquet = pq.ParquetFile(store.path(name), metadata=metadata, pre_buffer=False)
        except FileNotFoundError as error:
            raise MissingFile(f"{store.uri(name)} is not there") from error
        with parquet:
            part = parquet.read_row_groups([group.number for group in groups], columns=columns, use_threads=True)
    return conform(part, schema, sum(group.rows for group in groups))


def within(
    rows: pa.Table, start_us: int, end_us: int, low_us: int, high_us: int, device: tuple[str, int] | None
) -> pa.Table:
    """The rows of the window and the device; nothing is looked at where all are within by what is known of them."""
    if low_us < start_us or high_us >= end_us:
        time = rows["time"].cast(pa.int64())
        rows = rows.filter(pc.and_(pc.greater_equal(time, start_us), pc.less(time, end_us)))
    if device is not None:
        rows = rows.filter(pc.equal(rows[device[0]], device[1]))
    return rows
