"""Runs: the rows of several sorted files as one sorted stream, in little memory.

A k-way merge. Of each file (a run) only the rows at its front are in memory; a file is opened when the stream reaches
its first row, so files that follow one another in time are read one after the other. A row group that would hold too
much, because many files overlap, is decoded once and put on local disk, from where it comes back some rows at a time.
What belongs here: reading in order. What a merged file looks like: `form.py`. Which files are merged: `merging.py`.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from efd_pipelines.archive.files import DataFile, sort_rows
from efd_pipelines.archive.reading import conform
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.errors import ArchiveError

HELD_BYTES = 64 * 1024 * 1024
"""So much of all runs together stays decoded in memory; what is more goes to disk."""

WINDOW_BYTES = 24 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_READ_BYTES = 1024 * 1024
_LAST = np.iinfo(np.int64).max

Key = tuple[Any, int]
"""salIndex (0 where there is none) and time in UTC microseconds: what no two windows share."""


class DamagedFile(ArchiveError):
    """A file that is not what its name says, or not sorted: nothing may be made of it."""

    remedy = "Restore it from a copy of the store; `efd archive verify --deep` says what else is affected."


@dataclass(slots=True)
class Room:
    """How much may stay in memory, and where the rest goes."""

    scratch: Path
    free_bytes: int = HELD_BYTES


@dataclass(slots=True)
class Run:
    """One sorted file. `low` is at or before its first row; the rows of `schema` come from `take`."""

    snapshot: TableSnapshot
    file: DataFile
    schema: pa.Schema
    low: Key
    room: Room
    row_bytes: int = field(default=0, init=False)
    _chunks: Iterator[pa.Table] | None = field(default=None, init=False)
    _head: pa.Table | None = field(default=None, init=False)
    _keys: tuple[Any, Any] = field(default=(None, None), init=False)

    @property
    def has_more(self) -> bool:
        """Whether rows may follow those in memory."""
        return self._chunks is not None

    @property
    def has_rows(self) -> bool:
        return self._head is not None and self._head.num_rows > 0

    @property
    def last(self) -> Key:
        """The key of the last row in memory."""
        groups, times = self._keys
        return groups[-1], int(times[-1])

    def open(self) -> None:
        self._head = self.schema.empty_table()
        self._keys = keys_of(self._head)
        self._chunks = self._read()
        self.extend()

    def extend(self) -> None:
        """Takes more rows into memory, if there are more.

        Raises:
            DamagedFile: they are not in their order.
            StoreUnavailable: the store did not answer.
        """
        assert self._head is not None
        assert self._chunks is not None
        chunk = next(self._chunks, None)
        if chunk is None:
            self._chunks = None
            return
        self.row_bytes = chunk.nbytes // chunk.num_rows
        keys = keys_of(chunk)
        before = None if not self._head.num_rows else self.last
        if not _rises(keys) or (before is not None and (keys[0][0], int(keys[1][0])) < before):
            raise DamagedFile(f"{self.file.path} of {self.snapshot.relative} is not sorted")
        self._head = pa.concat_tables([self._head, chunk]) if self._head.num_rows else chunk
        self._keys = keys if before is None else _joined(self._keys, keys)

    def take(self, bound: Key | None) -> pa.Table:
        """The rows in memory before `bound`, all without one; they are not given again."""
        assert self._head is not None
        count = self._head.num_rows if bound is None else _count_before(self._keys, bound)
        taken = self._head.slice(0, count)
        # A slice holds the whole of what it is cut from, even an empty one.
        self._head = self._head.slice(count) if count < self._head.num_rows else self.schema.empty_table()
        self._keys = self._keys[0][count:], self._keys[1][count:]
        return taken

    def _read(self) -> Iterator[pa.Table]:
        """The file's rows, a row group or less at a time."""
        store, relative = self.snapshot.store, f"{self.snapshot.relative}/{self.file.path}"
        path = fetched(self.snapshot, self.file, self.room.scratch)
        try:
            with store.errors(f"read {relative}"), pq.ParquetFile(path) as parquet:
                there = set(parquet.schema_arrow.names)
                names = [name for name in self.schema.names if name in there]
                for n in range(parquet.num_row_groups):
                    rows = parquet.metadata.row_group(n).num_rows
                    if rows:
                        yield from self._held_or_spilled([conform(parquet.read_row_group(n, names), self.schema, rows)])
        finally:
            if store.is_remote:
                path.unlink()

    def _held_or_spilled(self, group: list[pa.Table]) -> Iterator[pa.Table]:
        size = group[0].nbytes
        if size <= self.room.free_bytes or size <= _CHUNK_BYTES:
            self.room.free_bytes -= size
            yield group.pop()
            self.room.free_bytes += size
            return
        yield from self._spilled(group)

    def _spilled(self, group: list[pa.Table]) -> Iterator[pa.Table]:
        path = self.room.scratch / uuid.uuid4().hex
        try:
            rows = max(1, group[0].num_rows * _CHUNK_BYTES // group[0].nbytes)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self.schema) as writer:
                writer.write_table(group.pop(), max_chunksize=rows)
            with pa.OSFile(str(path), "rb") as source:
                batches = pa.ipc.open_file(source)
                for n in range(batches.num_record_batches):
                    yield pa.Table.from_batches([batches.get_batch(n)])
        finally:
            path.unlink()


def merged(runs: Sequence[Run]) -> Iterator[pa.Table]:
    """The rows of all runs in the order of files, in windows; rows of equal (salIndex, time) are in one window.

    Raises:
        DamagedFile: a file is not what it must be.
        StoreUnavailable: the store did not answer.
    """
    waiting = sorted(runs, key=lambda run: run.low)
    opened: list[Run] = []
    pieces: list[pa.Table] = []
    size = 0
    while waiting or opened:
        bound = _bound(waiting, opened)
        found = [run.take(bound) for run in opened]
        size += sum(piece.num_rows * run.row_bytes for run, piece in zip(opened, found, strict=True))
        pieces += [piece for piece in found if piece.num_rows]
        if size >= WINDOW_BYTES:
            yield _sorted(pieces)
            size = 0
        if bound is not None:
            _advance(waiting, opened, bound)
        opened = [run for run in opened if run.has_rows or run.has_more]
    if pieces:
        yield _sorted(pieces)


def _bound(waiting: Sequence[Run], opened: Sequence[Run]) -> Key | None:
    """Before which key all rows are in memory; None where all are."""
    ends = [run.last for run in opened if run.has_more]
    if waiting:
        ends.append(waiting[0].low)
    return min(ends, default=None)


def _advance(waiting: list[Run], opened: list[Run], bound: Key) -> None:
    """Reads on where the rows in memory end at the bound."""
    for run in opened:
        while run.has_more and (not run.has_rows or run.last <= bound):
            run.extend()
    while waiting and waiting[0].low <= bound:
        run = waiting.pop(0)
        run.open()
        opened.append(run)


def _sorted(pieces: list[pa.Table]) -> pa.Table:
    """The rows of all pieces, sorted; `pieces` is empty afterwards, so that nothing is held twice."""
    pieces.sort(key=_first)
    rows = pa.concat_tables(pieces).combine_chunks()
    pieces.clear()
    return rows if _rises(keys_of(rows), strictly=True) else sort_rows(rows)


def _first(piece: pa.Table) -> Key:
    groups, times = keys_of(piece.slice(0, 1))
    return groups[0], int(times[0])


def keys_of(rows: pa.Table) -> tuple[Any, Any]:
    """salIndex and time of each row, as arrays that compare as the files are sorted: nulls come last."""
    times = rows["time"].cast(pa.int64()).fill_null(_LAST).to_numpy()
    if "salIndex" not in rows.schema.names:
        return np.zeros(len(times), dtype=np.int64), times
    column = rows["salIndex"]
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).fill_null(_LAST).to_numpy(), times
    if pa.types.is_floating(column.type):
        return column.cast(pa.float64()).fill_null(np.inf).to_numpy(), times
    texts = column.cast(pa.string()).fill_null("\U0010ffff").to_pylist()
    return np.array(texts, dtype=object), times


def _rises(keys: tuple[Any, Any], *, strictly: bool = False) -> bool:
    groups, times = keys
    same = groups[1:] == groups[:-1]
    later = times[1:] > times[:-1] if strictly else times[1:] >= times[:-1]
    return bool(np.all((groups[1:] > groups[:-1]) | (same & later)))


def _joined(keys: tuple[Any, Any], more: tuple[Any, Any]) -> tuple[Any, Any]:
    return np.concatenate([keys[0], more[0]]), np.concatenate([keys[1], more[1]])


def _count_before(keys: tuple[Any, Any], bound: Key) -> int:
    groups, times = keys
    low = int(np.searchsorted(groups, bound[0], side="left"))
    high = int(np.searchsorted(groups, bound[0], side="right"))
    return low + int(np.searchsorted(times[low:high], bound[1], side="left"))


@contextlib.contextmanager
def reading(snapshot: TableSnapshot, file: DataFile) -> Iterator[None]:
    """Tells a file that is gone or cannot be parsed from a store that does not answer: the others can still be read.

    Raises:
        DamagedFile: the one.
        StoreUnavailable: the other.
    """
    with snapshot.store.errors(f"read {snapshot.relative}/{file.path}"):
        try:
            yield
        except FileNotFoundError as error:
            raise DamagedFile(f"{file.path} of {snapshot.relative} is not in the store") from error
        except (pa.ArrowInvalid, OSError) as error:
            # What the system or the store says has a number; what pyarrow says of a file that it cannot parse has none.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DamagedFile(f"{file.path} of {snapshot.relative} is not what was written") from error


def fetched(snapshot: TableSnapshot, file: DataFile, scratch: Path) -> Path:
    """The file on local disk, when its bytes are those that its name was made of.

    A merge removes what it read: made of a damaged file, it would make the damage look like data.
    """
    store, relative = snapshot.store, f"{snapshot.relative}/{file.path}"
    path = Path(store.path(relative))
    with reading(snapshot, file):
        if store.is_remote:
            path = scratch / uuid.uuid4().hex
            store.fs.get_file(store.path(relative), str(path))
        found = hash_of(path)
    if file.path.rpartition("-")[2] != f"{found}.parquet":
        raise DamagedFile(f"{file.path} of {snapshot.relative} is not what was written")
    return path


def hash_of(path: Path) -> str:
    """The hash of a file's content that its name carries: `content_hash`, without reading it whole."""
    found = xxhash.xxh3_128()
    with path.open("rb") as data:
        while part := data.read(_READ_BYTES):
            found.update(part)
    return found.hexdigest()


def low_key(footer: Any, file: DataFile) -> Key:
    """A key at or before the first row of a file, by its footer."""
    start = file.time_min_us if file.time_min_us is not None else -_LAST
    if not footer.num_row_groups:
        return (0, start)
    first = footer.row_group(0)
    for n in range(first.num_columns):
        column = first.column(n)
        if column.path_in_schema == "salIndex":
            return (_lowest(column), start)
    return (0, start)


def _lowest(column: Any) -> Any:
    """The smallest salIndex of a row group; where statistics do not say it, less than all."""
    statistics = column.statistics
    if statistics is not None and statistics.has_min_max:
        return statistics.min
    if statistics is not None and statistics.null_count == column.num_values:
        return _LAST
    return -_LAST
