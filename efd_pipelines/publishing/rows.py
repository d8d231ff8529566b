"""Rows: what is published of a time range, and the stamp of each point.

A point's time is the row's, as the EFD has it. InfluxDB knows a point by measurement, tags and time, so of two records
with the same microsecond and salIndex the second would overwrite the first. Stamps are therefore nanoseconds: the event
time, and the records that share it numbered from 0 in the order of `private_sndStamp`, `private_seqNum` and
`private_origin`: dividing by 1000 gives the time back. A record that was delivered twice is one point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.reading import IDENTITY, count_once, read
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.publishing.policy import Publication

ORDINALS = 1000
"""Records that one microsecond has room for."""

_CELLS_AT_ONCE = 16_000_000
_ORDER = ("private_sndStamp", "private_seqNum", "private_origin", "archive_source", "kafka_partition", "kafka_offset")


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Rows with the stamp of each in nanoseconds; `crowded` rows had no room in their microsecond and are not here."""

    rows: pa.Table
    stamps: NDArray[np.int64]
    crowded: int = 0


def read_points(publication: Publication, table: str, snapshot: TableSnapshot, start_us: int, end_us: int) -> Points:
    """The points with start ≤ time < end, by salIndex and time.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    schema = snapshot.schema
    chosen = publication.columns_of(schema, table)
    head = [name for name in ("time", "salIndex") if name in schema.names]
    if table != RAW:
        rows = read(snapshot, columns=[*head, *chosen], start_us=start_us, end_us=end_us)
        return Points(rows, rows["time"].cast(pa.int64()).to_numpy() * 1000)
    needed = dict.fromkeys([*head, *chosen, *(n for n in (*IDENTITY, *_ORDER) if n in schema.names)])
    rows = count_once(read(snapshot, columns=list(needed), start_us=start_us, end_us=end_us))
    rows, ordinals = _numbered(rows)
    stamps = rows["time"].cast(pa.int64()).to_numpy() * 1000 + ordinals
    fits = ordinals < ORDINALS
    rows = rows.select([*head, *chosen])
    if fits.all():
        return Points(rows, stamps)
    return Points(rows.filter(pa.array(fits)), stamps[fits], int((~fits).sum()))


def _numbered(rows: pa.Table) -> tuple[pa.Table, NDArray[np.int64]]:
    """Rows in order, and how many before each have the same salIndex and time."""
    names = [name for name in ("salIndex", "time", *_ORDER) if name in rows.column_names]
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in names]))
    count = rows.num_rows
    if not count:
        return rows, np.zeros(0, np.int64)
    is_new = np.ones(count, np.bool_)
    is_new[1:] = np.diff(rows["time"].cast(pa.int64()).to_numpy()) != 0
    if "salIndex" in rows.column_names:
        is_new[1:] |= np.diff(pc.fill_null(rows["salIndex"], -1).to_numpy().astype(np.int64)) != 0
    places = np.arange(count)
    return rows, places - np.maximum.accumulate(np.where(is_new, places, 0))


def parts(
    files: Sequence[DataFile], columns: int, start_us: int, end_us: int, step_us: int
) -> Iterator[tuple[int, int]]:
    """A time range in parts that fit into memory, their edges at multiples of `step_us`."""
    rows = sum(_rows_within(file, start_us, end_us) for file in files)
    count = max(1, -(-int(rows * columns) // _CELLS_AT_ONCE))
    length = max(step_us, -(-(end_us - start_us) // count // step_us) * step_us)
    begin = start_us
    while begin < end_us:
        end = min(end_us, (begin // step_us) * step_us + length)
        yield begin, end
        begin = end


def _rows_within(file: DataFile, start_us: int, end_us: int) -> float:
    if file.time_min_us is None or file.time_max_us is None:
        return float(file.rows)
    overlap = min(file.time_max_us + 1, end_us) - max(file.time_min_us, start_us)
    return file.rows * max(0, overlap) / (file.time_max_us - file.time_min_us + 1)
