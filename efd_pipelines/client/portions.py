"""Portions: parts of an answer by where they come from, in the order of time: tables of the archive, or InfluxDB.

Weeks of which the archive has nothing are asked for elsewhere, where a server is configured for that
(EFD_HISTORY_INFLUX_URL); with the patience and in the small pieces of `efd_pipelines.history`, since it is not ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.reading import conform
from efd_pipelines.client.fields import Wanted, answer_schema, answered, columns_by_name, wanted
from efd_pipelines.client.provenance import Source
from efd_pipelines.client.windows import TimeWindow
from efd_pipelines.history.casting import cast_back
from efd_pipelines.history.influx import InfluxHistory
from efd_pipelines.history.intervals import Interval
from efd_pipelines.reading.estimate import Estimate, estimate
from efd_pipelines.reading.scan import Scan, Tally
from efd_pipelines.times import FIRST_WEEK, Week, microseconds
from efd_pipelines.topics.layout import TIME, column_of
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.tables import TableSnapshot
    from efd_pipelines.settings import Settings

_LOOK_BACK_US = (3_600_000_000, 86_400_000_000, 7 * 86_400_000_000, 60 * 86_400_000_000)
_VALUE_BYTES = 8


class Portion(Protocol):
    """A stretch of an answer from one place."""

    @property
    def source(self) -> Source: ...

    def estimate(self) -> Estimate:
        """About how much it gives."""
        ...

    def batches(self, tally: Tally) -> Iterator[pa.Table]:
        """Its rows in the order of time, some at a time."""
        ...

    def latest(self, count: int, tally: Tally) -> pa.Table:
        """Its last rows in the order of time."""
        ...

    def between(self, start_us: int, end_us: int) -> Portion:
        """The part between two times, the end excluded."""
        ...


@dataclass(frozen=True, slots=True)
class TablePortion:
    """Rows of a table of the archive, the raw one or a tier's (`name`)."""

    name: str
    scan: Scan
    parts: tuple[Wanted, ...]
    schema: pa.Schema = field(repr=False)

    @property
    def source(self) -> Source:
        window = TimeWindow(self.scan.start_us, self.scan.end_us)
        return Source(self.name, window.start, window.end, self.scan.version)

    def estimate(self) -> Estimate:
        return estimate(self.scan)

    def batches(self, tally: Tally) -> Iterator[pa.Table]:
        for rows in self.scan.batches(tally):
            yield answered(rows, self.parts, self.schema)

    def latest(self, count: int, tally: Tally) -> pa.Table:
        return answered(self.scan.latest(count, tally), self.parts, self.schema)

    def between(self, start_us: int, end_us: int) -> TablePortion:
        return replace(self, scan=self.scan.between(start_us, end_us))


@dataclass(frozen=True, slots=True)
class InfluxPortion:
    """Points of another server's database. `table` is the schema of the archive's table, where it has one."""

    settings: Settings = field(repr=False)
    dataset: Dataset
    window: TimeWindow
    parts: tuple[Wanted, ...]
    schema: pa.Schema = field(repr=False)
    table: pa.Schema = field(repr=False)
    device: tuple[str, int] | None = None

    @property
    def source(self) -> Source:
        return Source(f"influx:{self.settings.history_database}", self.window.start, self.window.end)

    @property
    def _interval(self) -> Interval:
        return Interval(self.window.start_us, self.window.end_us)

    def estimate(self) -> Estimate:
        with InfluxHistory(self.settings) as history:
            values = history.about(self.dataset, [self._interval])
            rows = values // max(1, len(history.types(self.dataset)))
        return Estimate(rows, rows * _VALUE_BYTES * (1 + len(self.parts)), 0, 0)

    def batches(self, tally: Tally) -> Iterator[pa.Table]:
        with InfluxHistory(self.settings) as history:
            for piece in history.pieces(self.dataset, self._interval):
                rows = self._cast(piece.points)
                tally.rows += rows.num_rows
                if rows.num_rows:
                    yield rows

    def latest(self, count: int, tally: Tally) -> pa.Table:
        """Looks back over ever longer stretches."""
        found = self.schema.empty_table()
        for length_us in _LOOK_BACK_US:
            part = self.between(self.window.end_us - length_us, self.window.end_us)
            found = pa.concat_tables([self.schema.empty_table(), *part.batches(tally)])
            if found.num_rows >= count or part.window.start_us <= self.window.start_us:
                break
        return found.slice(max(0, found.num_rows - count))

    def between(self, start_us: int, end_us: int) -> InfluxPortion:
        window = TimeWindow(max(start_us, self.window.start_us), min(end_us, self.window.end_us))
        return replace(self, window=window)

    def _cast(self, points: pa.Table) -> pa.Table:
        """Points in the columns and types that the archive would have them in."""
        held = [column for column in map(column_of, self.table) if column is not None]
        rows = cast_back(points, schema=None, held=held, arrays=None).table
        rows = rows.add_column(0, pa.field("time", TIME), points["time"])
        wanted_names = list(dict.fromkeys(["time", *(one.column for one in self.parts)]))
        known = columns_by_name(self.table)
        device = [self.device[0]] if self.device else []
        schema = pa.schema([known[name] for name in dict.fromkeys([*wanted_names, *device])])
        there = [name for name in schema.names if name in set(rows.column_names)]
        whole = conform(rows.select(there), schema, rows.num_rows)
        if self.device is not None:
            whole = whole.filter(pc.equal(whole[self.device[0]], self.device[1]))
        return answered(whole, self.parts, self.schema)


def influx_schema(settings: Settings, dataset: Dataset) -> pa.Schema | None:
    """The columns that another server's points of a dataset would have here; None where it has no such measurement.

    Raises:
        InfluxUnavailable: it did not answer.
    """
    with InfluxHistory(settings) as history:
        if dataset not in history.datasets():
            return None
        types = history.types(dataset)
    fields = [pa.field(name, kind, metadata={"field": name}) for name, kind in sorted(types.items())]
    return pa.schema([pa.field("time", TIME), *fields])


def lacking(snapshot: TableSnapshot, window: TimeWindow, now: datetime | None = None) -> list[TimeWindow]:
    """The stretches of a window whose weeks the table has nothing of, up to now."""
    held = {file.week for file in snapshot.files()}
    end_us = min(window.end_us, microseconds(now or datetime.now(UTC)))
    week = max(Week.containing(window.start_us), FIRST_WEEK)
    found: list[TimeWindow] = []
    while week.start_us < end_us:
        if week.key not in held:
            start, end = max(window.start_us, week.start_us), min(end_us, week.end_us)
            if found and found[-1].end_us == start:
                start = found.pop().start_us
            found.append(TimeWindow(start, end))
        week = week.next()
    return found


def without(window: TimeWindow, holes: Sequence[TimeWindow]) -> list[tuple[TimeWindow, bool]]:
    """The window in stretches in order, each with whether it is one of the holes."""
    found: list[tuple[TimeWindow, bool]] = []
    start = window.start_us
    for hole in holes:
        if hole.start_us > start:
            found.append((TimeWindow(start, hole.start_us), False))
        found.append((hole, True))
        start = hole.end_us
    if start < window.end_us:
        found.append((TimeWindow(start, window.end_us), False))
    return found


def asked_of(
    topic: str, table: pa.Schema, fields: Sequence[str], statistics: Sequence[str] = ()
) -> tuple[tuple[Wanted, ...], pa.Schema]:
    """What is wanted of a table, and the columns of the answer."""
    parts = tuple(wanted(topic, columns_by_name(table), fields, statistics))
    return parts, answer_schema(parts)
