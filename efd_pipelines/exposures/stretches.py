"""Stretches: the rows of one topic that windows need, read from the archive once, and nothing else of it.

A stretch holds the windows that lie close to each other (`windows.spans`); of its files, only the columns asked for
and the row groups that a window touches are read. Each record counts once, in the order of time. No table is held open:
what is to be read can be sent to another process, and is there for a week after a merge has replaced it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import IDENTITY, conform, count_once, good_files
from efd_pipelines.times import microseconds

if TYPE_CHECKING:
    from efd_pipelines.archive.store import Store
    from efd_pipelines.archive.tables import TableSnapshot

Microseconds = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stretches:
    """What is read of one topic: its files between two times, and the columns, those that tell records apart too."""

    store: Store
    relative: str
    files: tuple[DataFile, ...]
    schema: pa.Schema

    @classmethod
    def of(cls, snapshot: TableSnapshot, columns: Sequence[str], begin_us: int, end_us: int) -> Stretches:
        """Both times are included."""
        there = {column.name: column for column in snapshot.schema}
        identity = [name for name in IDENTITY if name in there and name not in columns]
        schema = pa.schema([there[name] for name in ("time", *columns, *identity)])
        files = good_files(snapshot, None, begin_us, end_us + 1)
        return cls(snapshot.store, snapshot.relative, tuple(files), schema)

    @property
    def values_per_us(self) -> float:
        """How many values the archive has here in a microsecond, on average."""
        known = [file for file in self.files if file.time_min_us is not None and file.time_max_us is not None]
        if not known:
            return 0.0
        first = min(file.time_min_us for file in known if file.time_min_us is not None)
        last = max(file.time_max_us for file in known if file.time_max_us is not None)
        return sum(file.rows for file in known) * len(self.schema) / max(1, last - first)

    def read(self, begin_us: Microseconds, end_us: Microseconds) -> pa.Table:
        """The rows that closed windows of one stretch touch, and others of the same row groups.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        wanted = _merged(begin_us, end_us)
        low, high = int(wanted[0].min()), int(wanted[1].max())
        parts = [
            part
            for file in self.files
            if _touched(wanted, file.time_min_us, file.time_max_us)
            for part in self._parts(file, wanted)
        ]
        table = pa.concat_tables(parts) if parts else self.schema.empty_table()
        time_us = table["time"].cast(pa.int64()).to_numpy()
        inside = (time_us >= low) & (time_us <= high)
        if not inside.all():
            table, time_us = table.filter(pa.array(inside)), time_us[inside]
        once = count_once(table)
        if once.num_rows < table.num_rows:
            table, time_us = once, once["time"].cast(pa.int64()).to_numpy()
        # Moving all columns costs more than reading them; those of one index are in order already.
        return table if bool((np.diff(time_us) >= 0).all()) else table.sort_by("time")

    def _parts(self, file: DataFile, wanted: tuple[Microseconds, Microseconds]) -> list[pa.Table]:
        store, relative = self.store, f"{self.relative}/{file.path}"
        with (
            store.errors(f"read {relative}"),
            pq.ParquetFile(store.path(relative), filesystem=store.arrow_fs, pre_buffer=store.is_remote) as parquet,
        ):
            groups = [n for n in range(parquet.num_row_groups) if _touched(wanted, *_time_range(parquet, n))]
            if not groups:
                return []
            there = set(parquet.schema_arrow.names)
            part = parquet.read_row_groups(groups, columns=[name for name in self.schema.names if name in there])
            rows = sum(parquet.metadata.row_group(n).num_rows for n in groups)
            return [conform(part, self.schema, rows)]


def _merged(begin_us: Microseconds, end_us: Microseconds) -> tuple[Microseconds, Microseconds]:
    """The same times without overlaps: beginnings and ends, both rising. Windows are sorted by their beginning."""
    latest = np.maximum.accumulate(end_us)
    new = np.append(True, begin_us[1:] > latest[:-1])
    return begin_us[new], latest[np.append(np.flatnonzero(new)[1:] - 1, len(begin_us) - 1)]


def _touched(wanted: tuple[Microseconds, Microseconds], first: int | None, last: int | None) -> bool:
    """Whether a window touches a stretch of time; one that is not known may."""
    if first is None or last is None:
        return True
    begins, ends = wanted
    at = int(np.searchsorted(ends, first, side="left"))
    return at < len(begins) and int(begins[at]) <= last


def _time_range(parquet: pq.ParquetFile, group: int) -> tuple[int | None, int | None]:
    # Leaves are counted here: a list before it would shift the place that the Arrow schema has.
    leaves = parquet.schema.names
    if "time" not in leaves:
        return None, None
    found: Any = parquet.metadata.row_group(group).column(leaves.index("time")).statistics
    if found is None or not found.has_min_max:
        return None, None
    return microseconds(found.min), microseconds(found.max)
