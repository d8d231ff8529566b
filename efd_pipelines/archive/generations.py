"""Generations: which records of a log that was truncated the archive has already.

A log that lost its end is read again from its beginning under a new generation of its source (`positions.py`), and most
of what it then gives was archived before. A record that agrees with an archived row of an older generation in
partition, offset, Kafka time stamp and private fields is that row and is not archived again; where a topic has no
private fields, all of its columns but lists must agree. A frame that stands among the dead is recognised by its bytes.
Looking happens in the slices that the new rows belong to, in quarantine, where quarantined rows were released to, and
among the dead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.archive.encoding import AHEAD_US
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.quarantine import CLOCK_ERROR
from efd_pipelines.archive.reading import conform, read_file
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.topics.layout import column_of

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.encoding import Encoded
    from efd_pipelines.archive.positions import Source
    from efd_pipelines.kafka.frames import FrameBatch

_ANY = int(np.iinfo(np.int64).max)
_BEFORE_US = 7 * 86_400_000_000
_PLACE = ["kafka_partition", "kafka_offset", "kafka_timestamp"]


def is_archived(
    snapshot: TableSnapshot, sources: Mapping[int, Source], frames: FrameBatch, encoded: Encoded
) -> NDArray[np.bool_]:
    """Which of the frames the table has from an older generation of their source; `encoded` are their rows."""
    older = {partition: _older(source) for partition, source in sources.items() if source.generation}
    found, suspects = np.zeros((2, len(frames)), dtype=np.bool_)
    for partition, generations in older.items():
        suspects |= (frames.partitions == partition) & (frames.offsets < _end(snapshot, generations, partition))
    if not suspects.any():
        return found
    names = {partition: [source.text for source in generations] for partition, generations in older.items()}
    looking = _Looking(snapshot, names, pa.array(np.unique(frames.offsets[suspects])))
    for (week, key), rows in encoded.parts.items():
        if week == DEAD:
            continue
        keys = {key} | (_released_to(snapshot, rows) if week == QUARANTINE else set())
        _mark(found, frames, looking.agreeing(rows, keys))
    _mark(found, frames, looking.agreeing_dead(frames, suspects & ~found))
    return found & suspects


def _released_to(snapshot: TableSnapshot, rows: pa.Table) -> set[str]:
    """The slices in which rows that were quarantined before can be: times of releases are near Kafka's time stamps."""
    received = pc.min_max(rows["kafka_timestamp"].cast(pa.int64()))
    first, last = received["min"].as_py(), received["max"].as_py()
    if CLOCK_ERROR not in snapshot.schema.names or first is None:
        return set()
    return {file.slice for file in snapshot.files(start_us=first - _BEFORE_US, end_us=last + AHEAD_US + 1)}


def _older(source: Source) -> list[Source]:
    """The generations before this one."""
    return [replace(source, generation=n) for n in range(source.generation)]


def _end(snapshot: TableSnapshot, generations: Sequence[Source], partition: int) -> int:
    """Before which offset the generations can have rows: most of what is read later needs no looking."""
    ends = [snapshot.transaction_version(source.end_id(partition)) for source in generations]
    return max((_ANY if end is None else end for end in ends), default=_ANY)


def _mark(found: NDArray[np.bool_], frames: FrameBatch, places: Mapping[int, NDArray[np.int64]]) -> None:
    for partition, offsets in places.items():
        found |= (frames.partitions == partition) & np.isin(frames.offsets, offsets)


class _Looking:
    """Rows of older generations at the offsets that are read again."""

    def __init__(self, snapshot: TableSnapshot, older: Mapping[int, Sequence[str]], offsets: pa.Array) -> None:
        self._snapshot = snapshot
        self._schema = snapshot.schema
        self._older = older
        self._offsets = offsets

    def agreeing(self, rows: pa.Table, slices: Collection[str]) -> dict[int, NDArray[np.int64]]:
        """By partition, the offsets of rows that the slices have already."""
        import polars as pl

        names = _identity(rows.schema, self._schema)
        old = self._rows([file for file in self._snapshot.files() if file.slice in slices], names)
        if not old.num_rows:
            return {}
        schema = pa.schema([self._schema.field(name) for name in (*_PLACE, *names)])
        there = [name for name in schema.names if name in rows.column_names]
        again = conform(rows.select(there), schema)
        both = pl.DataFrame(again).join(pl.DataFrame(old), on=_PLACE, nulls_equal=True, suffix="|old")
        if names:
            both = both.filter([pl.col(name).eq_missing(pl.col(f"{name}|old")) for name in names])
        return _by_partition(both)

    def agreeing_dead(self, frames: FrameBatch, wanted: NDArray[np.bool_]) -> dict[int, NDArray[np.int64]]:
        """By partition, the offsets of frames that stand among the dead."""
        import polars as pl

        files = [file for file in self._snapshot.files({DEAD}) if wanted.any()]
        old = self._rows(files, ["archive_frame"])
        if not old.num_rows:
            return {}
        again = frames.take(np.flatnonzero(wanted))
        stamps = pa.array(again.timestamps_ms * 1000, old.schema.field("kafka_timestamp").type,
                          mask=again.timestamps_ms < 0)  # fmt: skip
        table = pa.table(
            [pa.array(again.partitions), pa.array(again.offsets), stamps, again.values.cast(pa.binary())],
            names=[*_PLACE, "archive_frame"],
        )
        keys = [*_PLACE, "archive_frame"]
        return _by_partition(pl.DataFrame(table).join(pl.DataFrame(old), on=keys, nulls_equal=True))

    def _rows(self, files: Sequence[DataFile], names: Sequence[str]) -> pa.Table:
        schema = pa.schema([self._schema.field(name) for name in ("archive_source", *_PLACE, *names)])
        parts = [part for file in files for part in self._of_older(read_file(self._snapshot, file, schema))]
        whole = pa.concat_tables(parts) if parts else schema.empty_table()
        return whole.drop_columns(["archive_source"])

    def _of_older(self, rows: pa.Table) -> Iterator[pa.Table]:
        at_offsets = rows.filter(pc.is_in(rows["kafka_offset"], value_set=self._offsets))
        for partition, sources in self._older.items():
            of = pc.and_(
                pc.equal(at_offsets["kafka_partition"], partition),
                pc.is_in(at_offsets["archive_source"], value_set=pa.array(sources)),
            )
            yield at_offsets.filter(of)


def _identity(rows: pa.Schema, table: pa.Schema) -> list[str]:
    """The columns by which a row is known beside its place in the log."""
    private = [name for name in rows.names if name == "salIndex" or name.startswith("private_")]
    if private:
        return [name for name in private if name in table.names]
    fields = [field for field in rows if column_of(field) is not None and not pa.types.is_list(field.type)]
    return [*(field.name for field in fields if field.name in table.names), "kafka_key", "archive_schema"]


def _by_partition(both: pl.DataFrame) -> dict[int, NDArray[np.int64]]:
    grouped = both.group_by("kafka_partition").agg("kafka_offset")
    return {row["kafka_partition"]: np.array(row["kafka_offset"], np.int64) for row in grouped.iter_rows(named=True)}
