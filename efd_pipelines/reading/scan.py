"""Scan: one question to one table: columns, a stretch of time, perhaps one device; answered in the order of time.

Of the files that count in one snapshot those are taken whose times touch the stretch, of these the row groups, of these
the columns; several are read and decoded ahead of who takes the rows. What stands repeatedly counts once: producers'
retries have the time of the record that they repeat, so the four fields that tell records apart are only read where
two rows of one device have the same time.
A scan holds no table open: it can be sent to another process and gives the same rows there, whatever drains, merges
and seals do meanwhile, for replaced files stay for a week.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import IDENTITY, count_once, good_files, wanted_schema
from efd_pipelines.reading.groups import RowGroup, decode, row_groups, within
from efd_pipelines.reading.ranges import Traffic
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.store import Store
    from efd_pipelines.archive.tables import TableSnapshot

PART_BYTES = 128 * 1024 * 1024
"""About so much is decoded at a time."""

ORDER = ("time", "salIndex", "archive_source", "kafka_partition", "kafka_offset")
_AHEAD = {False: 2, True: 8}
T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class Tally:
    """What a scan has done so far: rows given, records left out as repeated, bytes and requests."""

    rows: int = 0
    repeated: int = 0
    traffic: Traffic = field(default_factory=Traffic)


@dataclass(frozen=True, slots=True)
class Part:
    """Row groups that are read together, and the times that are taken of them (the end excluded)."""

    groups: tuple[RowGroup, ...]
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Scan:
    """Rows with `start_us` ≤ time < `end_us` of the files of one snapshot.

    `schema` has the columns that are given, with the table's types; `whole` the types of all its columns. `device` is a
    column and a number that rows must have, as ("salIndex", 2). `once` counts repeated records once.
    """

    store: Store = field(repr=False)
    relative: str
    version: int
    files: tuple[DataFile, ...] = field(repr=False)
    schema: pa.Schema = field(repr=False)
    whole: pa.Schema = field(repr=False)
    start_us: int
    end_us: int
    device: tuple[str, int] | None = None
    once: bool = True

    @classmethod
    def of(
        cls,
        snapshot: TableSnapshot,
        dataset: Dataset,
        columns: Sequence[str] | None,
        start_us: int,
        end_us: int,
        *,
        device: tuple[str, int] | None = None,
        once: bool = True,
    ) -> Scan:
        """The scan of a snapshot for some of its columns, all by default.

        Raises:
            UsageError: a column that the table does not have.
        """
        files = good_files(snapshot, None, start_us, end_us)
        schema = wanted_schema(snapshot, columns)
        return cls(
            snapshot.store,
            snapshot.relative,
            snapshot.version,
            tuple(files),
            schema,
            snapshot.schema,
            start_us,
            end_us,
            device,
            once and dataset.is_sal,
        )

    def between(self, start_us: int, end_us: int) -> Scan:
        """The part of it between two times, the end excluded."""
        start_us, end_us = max(start_us, self.start_us), min(end_us, self.end_us)
        files = tuple(
            file
            for file in self.files
            if (file.time_max_us is None or file.time_max_us >= start_us)
            and (file.time_min_us is None or file.time_min_us < end_us)
        )
        return replace(self, files=files, start_us=start_us, end_us=end_us)

    def batches(self, tally: Tally | None = None) -> Iterator[pa.Table]:
        """The rows in the order of time, some at a time; no two tables share a time.

        Raises:
            MissingFile: a file is not there.
            StoreUnavailable: the store did not answer.
        """
        tally = tally or Tally()
        ahead = _AHEAD[self.store.is_remote]
        with ThreadPoolExecutor(2 * ahead, thread_name_prefix="efd-read") as pool:
            found = _ahead(pool, lambda files: self._parts(files, tally), apart(self.files), ahead)
            parts = (part for of in found for part in of)
            for rows, repeated in _ahead(pool, lambda part: self._read(part, tally), parts, ahead):
                tally.repeated += repeated
                tally.rows += rows.num_rows
                if rows.num_rows:
                    yield rows

    def table(self, tally: Tally | None = None) -> pa.Table:
        """All rows in the order of time."""
        parts = list(self.batches(tally))
        return pa.concat_tables(parts) if parts else self.schema.empty_table()

    def latest(self, count: int, tally: Tally | None = None) -> pa.Table:
        """The last `count` rows in the order of time: read from the end, as far as it needs."""
        tally = tally or Tally()
        found: list[pa.Table] = []
        for files in reversed(list(apart(self.files))):
            for part in reversed(self._parts(files, tally)):
                rows, repeated = self._read(part, tally)
                tally.repeated += repeated
                found.insert(0, rows)
                if sum(one.num_rows for one in found) >= count:
                    whole = pa.concat_tables(found)
                    return whole.slice(whole.num_rows - count)
        return pa.concat_tables(found) if found else self.schema.empty_table()

    def _parts(self, files: Sequence[DataFile], tally: Tally) -> list[Part]:
        """What is read of files that overlap, in the order of time."""
        groups = [
            group
            for file in files
            for group in row_groups(
                self.store,
                self.relative,
                file,
                self.start_us,
                self.end_us,
                width=len(self.whole),
                device=self.device,
                traffic=tally.traffic,
            )
        ]
        return [part for cluster in _clusters(groups) for part in self._cut(cluster)]

    def _cut(self, groups: Sequence[RowGroup]) -> Iterator[Part]:
        """One part, or several where the row groups are much together."""
        low = max(self.start_us, min(group.low_us for group in groups))
        end = min(self.end_us, max(group.high_us for group in groups) + 1)
        size = sum(group.memory_bytes(self.schema.names) for group in groups)
        count = 1 if len(groups) == 1 else min(max(1, end - low), -(-size // PART_BYTES) or 1)
        edges = [low + (end - low) * n // count for n in range(count)] + [end]
        for start, stop in itertools.pairwise(edges):
            chosen = tuple(group for group in groups if group.low_us < stop and group.high_us >= start)
            if chosen:
                yield Part(chosen, start, stop)

    def _read(self, part: Part, tally: Tally) -> tuple[pa.Table, int]:
        """A part's rows in their order, and how many were left out as repeated."""
        rows = self._decoded(part, self._with("time", "salIndex"), tally)
        if not self._may_repeat(rows):
            return _sorted(rows).select(self.schema.names), 0
        rows = _sorted(self._decoded(part, self._with(*ORDER, *IDENTITY), tally))
        kept = count_once(rows) if self.once else rows
        return kept.select(self.schema.names), rows.num_rows - kept.num_rows

    def _decoded(self, part: Part, schema: pa.Schema, tally: Tally) -> pa.Table:
        rows = decode(self.store, part.groups, schema, tally.traffic)
        low, high = min(group.low_us for group in part.groups), max(group.high_us for group in part.groups)
        return within(rows, part.start_us, part.end_us, low, high, self.device)

    def _with(self, *names: str) -> pa.Schema:
        """The columns that are asked for, and those that are needed besides."""
        needed = [*names, *([self.device[0]] if self.device else [])]
        there, asked = set(self.whole.names), set(self.schema.names)
        extra = [self.whole.field(name) for name in dict.fromkeys(needed) if name in there and name not in asked]
        return pa.schema([*self.schema, *extra])

    def _may_repeat(self, rows: pa.Table) -> bool:
        """Whether two rows of one device have the same time."""
        time = rows["time"].cast(pa.int64()).to_numpy()
        if len(time) < 2 or bool((time[1:] > time[:-1]).all()):
            return False
        if "salIndex" not in rows.column_names:
            return len(np.unique(time)) < len(time)
        index = rows["salIndex"].fill_null(-1).to_numpy()
        order = np.lexsort((index, time))
        same = (np.diff(time[order]) == 0) & (np.diff(index[order]) == 0)
        return bool(same.any())


def apart(files: Sequence[DataFile]) -> Iterator[list[DataFile]]:
    """The files in the order of time, in groups that share no time."""
    found: list[DataFile] = []
    last = 0
    for file in sorted((file for file in files if file.rows), key=lambda file: (_low(file), file.path)):
        if found and _low(file) > last:
            yield found
            found = []
        last = max(last, _high(file)) if found else _high(file)
        found.append(file)
    if found:
        yield found


def _low(file: DataFile) -> int:
    return -(2**62) if file.time_min_us is None else file.time_min_us


def _high(file: DataFile) -> int:
    return 2**62 if file.time_max_us is None else file.time_max_us


def _clusters(groups: Sequence[RowGroup]) -> Iterator[list[RowGroup]]:
    """Row groups in the order of time, together where they share a time."""
    found: list[RowGroup] = []
    last = 0
    for group in sorted(groups, key=lambda group: (group.low_us, group.file.path, group.number)):
        if found and group.low_us > last:
            yield found
            found = []
        last = max(last, group.high_us) if found else group.high_us
        found.append(group)
    if found:
        yield found


def _sorted(rows: pa.Table) -> pa.Table:
    time = rows["time"].cast(pa.int64()).to_numpy()
    if bool((time[1:] > time[:-1]).all()):
        return rows
    keys = [(name, "ascending") for name in ORDER if name in rows.column_names]
    return rows.take(pc.sort_indices(rows, sort_keys=keys))


def _ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
    """What `work` makes of the items, in their order, some of them done ahead.

    The first alone, then more and more: who waits for the first row does not wait for others to be decoded beside it.
    """
    waiting: deque[Future[R]] = deque()
    given = 0
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > min(given, depth):
                given += 1
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
