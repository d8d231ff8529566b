"""Rows: the rows of a portion, as they were sent, in little memory.

A slice may be 1 GiB decoded, so it is read in windows of time, like an export; but repeated records stay, since what
was sent twice is given back twice. Within a window rows are in Kafka's order: source by source, partition by partition,
by offset. So a record that was late comes with its own time, not with when it was sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.reading import read_file
from efd_pipelines.exports.ranges import Ranges
from efd_pipelines.exports.selection import Source
from efd_pipelines.exports.stream import Windows
from efd_pipelines.history.intervals import Interval
from efd_pipelines.restoring.portions import Portion, received_within
from efd_pipelines.times import microseconds
from efd_pipelines.topics.layout import TIME, Column, column_of

CHUNK_BYTES = 16 * 1024 * 1024
"""So much is encoded at once."""

Order = Literal["kafka", "time"]
_KAFKA_ORDER = ("kafka_partition", "kafka_offset")
CLOCK_ERROR = "archive_clock_error"


def chunks(portion: Portion, order: Order = "kafka") -> Iterator[pa.Table]:
    """All rows of a portion, some thousands at a time; windows follow one another in time, whatever the order in each.

    Raises:
        LostFile: a file is not in the store.
        StoreUnavailable: it did not answer.
    """
    for rows in _outside(portion) if portion.is_outside else _windows(portion, order):
        count = max(1, int(rows.num_rows * CHUNK_BYTES / max(rows.nbytes, 1)))
        for first in range(0, rows.num_rows, count):
            yield rows.slice(first, count)


def of_history(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows came from InfluxDB, or files of it, and not from Kafka."""
    return pc.fill_null(pc.match_substring_regex(rows["archive_source"], "^(influx|file):"), False)


def held_columns_of(rows: pa.Table) -> list[Column]:
    """The message's columns that the rows have."""
    return [column for column in map(column_of, rows.schema) if column is not None]


def sent_times(rows: pa.Table) -> pa.Array:
    """Event times in UTC microseconds as they were sent: a corrected one less its correction; null where none."""
    times = rows["time"].cast(pa.int64()).combine_chunks()
    if CLOCK_ERROR in rows.column_names:
        times = pc.add(times, pc.fill_null(rows[CLOCK_ERROR].combine_chunks(), 0))
    found: pa.Array = times if isinstance(times, pa.Array) else times.combine_chunks()
    return found


class _ByOffset(Windows):
    """Windows of all rows that were sent, in Kafka's order."""

    __slots__ = ()

    def _once(self, rows: pa.Table) -> pa.Table:
        return in_order(rows, ("rank", *_KAFKA_ORDER, "time"))


class _ByTime(Windows):
    """The same in the order of event time; of those with the same time, as they came."""

    __slots__ = ()

    def _once(self, rows: pa.Table) -> pa.Table:
        return in_order(rows, ("time", "kafka_timestamp", "rank", *_KAFKA_ORDER))


def in_order(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows sorted; `rank` counts the sources in the order of their first time stamps, those without one last."""
    firsts = rows.group_by("archive_source").aggregate([("kafka_timestamp", "min")]).sort_by("kafka_timestamp_min")
    rank = pc.index_in(rows["archive_source"], firsts["archive_source"].combine_chunks())
    keyed = pa.table({name: rank if name == "rank" else rows[name] for name in names})
    order: Sequence[tuple[str, str]] = [(name, "ascending") for name in names]
    return rows.take(pc.sort_indices(keyed, sort_keys=order))


def _windows(portion: Portion, order: Order) -> Windows:
    snapshot, week = portion.snapshot, portion.week
    outside = {"archive_frame", "archive_reason"}
    wanted = pa.schema([column for column in snapshot.schema if column.name not in outside])
    source = Source(snapshot.store, snapshot.relative, wanted, counts_once=False)
    ranges = Ranges((Interval(microseconds(week.start), microseconds(week.end)),))
    return (_ByTime if order == "time" else _ByOffset)(source, portion.files, ranges)


def _outside(portion: Portion) -> Iterator[pa.Table]:
    schema = portion.snapshot.schema
    if "time" not in schema.names:
        schema = pa.schema([pa.field("time", TIME), *schema])
    for file in portion.files:
        rows = received_within(read_file(portion.snapshot, file, schema), portion.week)
        if rows.num_rows:
            yield in_order(rows, ("rank", *_KAFKA_ORDER))
