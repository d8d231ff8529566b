"""Rows: where the rows that are summarised come from, read some columns at a time.

An hour of forceActuatorData is 0.6 GiB decoded, so nobody holds all columns of a slice: `ArchivedRows` reads the files
of the archive by columns and row groups, each column chunk once. `TableRows` is the same for a table in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import conform
from efd_pipelines.archive.store import Store
from efd_pipelines.errors import ArchiveError
from efd_pipelines.times import microseconds


class DamagedFile(ArchiveError):
    """A file of the archive that cannot be read as what it should be."""

    remedy = "`efd archive verify --deep` says what else is damaged; put the file back from a copy, then run again."


class Rows(Protocol):
    """Rows, numbered from 0 in an order that is the same at each reading."""

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def count(self) -> int: ...

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """All rows, in pieces: the number of a piece's first row, and the piece."""
        ...


class TableRows:
    """The rows of a table in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    @property
    def count(self) -> int:
        return int(self._table.num_rows)

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        yield 0, self._table.select(list(columns))


class _RowGroup:
    """One row group of an open file: which of its rows lie in the time range, and the first one's number."""

    __slots__ = ("columns", "first", "index", "parquet", "relative", "selected")

    def __init__(
        self,
        relative: str,
        parquet: pq.ParquetFile,
        index: int,
        first: int,
        selected: NDArray[np.bool_] | None,
    ) -> None:
        self.relative = relative
        self.parquet = parquet
        self.columns = frozenset(parquet.schema_arrow.names)
        self.index = index
        self.first = first
        self.selected = selected


class ArchivedRows:
    """Rows with start_us ≤ time < end_us of some files of the archive, in the types of `schema`. A context manager.

    Raises:
        DamagedFile: a file is gone, or is no Parquet of the archive's.
        StoreUnavailable: the store did not answer.
    """

    def __init__(
        self,
        store: Store,
        relative: str,
        files: Sequence[DataFile],
        schema: pa.Schema,
        start_us: int,
        end_us: int,
    ) -> None:
        self._store = store
        self._schema = schema
        self._range = (start_us, end_us)
        self._open = ExitStack()
        self._groups: list[_RowGroup] = []
        self._count = 0
        try:
            for file in files:
                self._add(f"{relative}/{file.path}")
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    @property
    def count(self) -> int:
        return self._count

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """About how much memory these columns of all rows take."""
        wanted = set(columns)
        total = 0
        for group in self._groups:
            metadata = group.parquet.metadata.row_group(group.index)
            chunks = [metadata.column(n) for n in range(metadata.num_columns)]
            total += sum(
                chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in wanted
            )
        return total

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        schema = pa.schema([self._schema.field(name) for name in columns])
        for group in self._groups:
            yield group.first, self._read(group, schema)

    def _add(self, relative: str) -> None:
        with self._store.errors(f"read {relative}"), _damage(relative):
            parquet = self._open.enter_context(
                pq.ParquetFile(
                    self._store.path(relative),
                    filesystem=self._store.arrow_fs,
                    pre_buffer=self._store.is_remote,
                )
            )
            for index in range(parquet.num_row_groups):
                self._add_group(relative, parquet, index)

    def _add_group(self, relative: str, parquet: pq.ParquetFile, index: int) -> None:
        start, end = self._range
        low, high = _time_range(parquet, index)
        if low is not None and high is not None:
            if high < start or low >= end:
                return
            if low >= start and high < end and _has_all_times(parquet, index):
                self._append(relative, parquet, index, None)
                return
        column = parquet.read_row_group(index, columns=["time"])["time"]
        time = column.cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()
        selected = (time >= start) & (time < end)
        if selected.any():
            self._append(relative, parquet, index, None if selected.all() else selected)

    def _append(self, relative: str, parquet: pq.ParquetFile, index: int, selected: NDArray[np.bool_] | None) -> None:
        rows = parquet.metadata.row_group(index).num_rows if selected is None else int(selected.sum())
        self._groups.append(_RowGroup(relative, parquet, index, self._count, selected))
        self._count += rows

    def _read(self, group: _RowGroup, schema: pa.Schema) -> pa.Table:
        present = [name for name in schema.names if name in group.columns]
        with self._store.errors(f"read {group.relative}"), _damage(group.relative):
            part = group.parquet.read_row_group(group.index, columns=present)
        rows = group.parquet.metadata.row_group(group.index).num_rows
        whole = conform(part, schema, rows)
        return whole if group.selected is None else whole.filter(pa.array(group.selected))


@contextmanager
def _damage(relative: str) -> Iterator[None]:
    """Tells a file that is damaged from a store that does not answer: Arrow's own errors carry no error number."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedFile(f"{relative} is in the table and not in the store") from error
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(f"{relative} cannot be read ({error})") from error


def _time_range(parquet: pq.ParquetFile, index: int) -> tuple[int | None, int | None]:
    statistics = _time_statistics(parquet, index)
    if statistics is None or not statistics.has_min_max:
        return None, None
    return microseconds(statistics.min), microseconds(statistics.max)


def _has_all_times(parquet: pq.ParquetFile, index: int) -> bool:
    statistics = _time_statistics(parquet, index)
    return statistics is not None and bool(statistics.has_null_count) and statistics.null_count == 0


def _time_statistics(parquet: pq.ParquetFile, index: int) -> Any:
    position = parquet.schema_arrow.get_field_index("time")
    return parquet.metadata.row_group(index).column(position).statistics
