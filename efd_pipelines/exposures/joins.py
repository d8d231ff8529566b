"""Joins: the values of an instrument's exposures, computed from the archive and written to ConsDB.

One run reads the exposures, asks what of them is stale (`staleness.py`), reads each topic once over the windows that
touch each other, with only the columns needed, and writes values and provenance (`results.py`). The week of an
exposure does not matter to it: a window that crosses Monday 00:00 UTC reads both weeks. Everything is computed from
the archive; the 1 s tier will answer for whole seconds inside windows where `functions.py` says that it may.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.reading import IDENTITY, count_once, read
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.errors import UnknownDataset
from efd_pipelines.exposures.columns import (
    Selection,
    TopicColumns,
    UnknownField,
    columns_to_read,
    not_computed,
    rows_selected,
    sample_matrix,
    select,
)
from efd_pipelines.exposures.configuration import (
    EXPOSURE_TABLE,
    ExposureColumn,
    Transformation,
    load_transformation,
)
from efd_pipelines.exposures.consdb import ConsDB, read_exposures
from efd_pipelines.exposures.functions import Arguments, Function, Samples, aggregate
from efd_pipelines.exposures.results import Computation, ResultTables, Values
from efd_pipelines.exposures.staleness import Changes, archive_changes, stale, waiting
from efd_pipelines.exposures.windows import Exposures, Span, bounds, spans
from efd_pipelines.settings import Settings
from efd_pipelines.times import INVALID_TIME, Week
from efd_pipelines.topics.names import Dataset

EXPOSURES_AT_ONCE = 2000
VALUES_AT_ONCE = 16_000_000
"""Samples × fields held at once: 64 MiB of float32 and its copies."""
GAP_US = 600_000_000
"""Windows further apart than ten minutes are read apart."""

Topic = tuple[TableSnapshot, TopicColumns]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class WeekJoin:
    """What was computed of the exposures that began in one week."""

    exposures: int
    values: int
    nulls: int


@dataclass(frozen=True, slots=True)
class JoinResult:
    """What a join did.

    `exposures` were computed, `columns` for each of them; `values` and `nulls` count what came out. `skipped` has the
    columns that are not computed and why. Of the other exposures `unchanged` were up to date, `unended` have no end
    yet, `waiting` wait for telemetry that is on its way: a later run takes them.
    """

    instrument: str
    exposures: int
    columns: int
    values: int
    nulls: int
    seconds: float
    skipped: Mapping[str, str] = field(default_factory=dict)
    by_week: Mapping[str, WeekJoin] = field(default_factory=dict)
    unchanged: int = 0
    unended: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One topic: its table at one version, and which columns of results each selection of samples answers."""

    dataset: Dataset
    snapshot: TableSnapshot
    selections: Mapping[Selection, tuple[int, ...]]

    @property
    def before_us(self) -> int:
        """How far before a window it is read."""
        return max(0, -min(selection.start_offset_us for selection in self.selections))


@dataclass(frozen=True, slots=True)
class PlannedColumn:
    """A column that is computed, and how."""

    name: str
    function: Function
    arguments: Arguments
    pre_aggregate_us: int | None

    @classmethod
    def of(cls, column: ExposureColumn) -> PlannedColumn:
        return cls(column.name, column.computes, column.arguments, column.pre_aggregate_us)

    def value(self, samples: Samples) -> float:
        if self.pre_aggregate_us is not None:
            samples = aggregate(samples, self.pre_aggregate_us, self.function.pre_aggregate)
        return self.function.compute(samples, self.arguments)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read for which columns; `skipped` columns are not computed, with the reason.

    `versions` has every archive table that was looked at, also where none of its fields could be used: what is
    committed later is what makes exposures stale.
    """

    columns: tuple[PlannedColumn, ...]
    readings: tuple[Reading, ...]
    skipped: Mapping[str, str]
    versions: Mapping[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def join_exposures(
    archive: Archive,
    settings: Settings,
    exposure_config: ExposureJoin,
    *,
    day_obs: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    week: Week | None = None,
    run: str = "",
    recompute: bool = False,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> JoinResult:
    """Computes the values of the exposures that are stale, and writes them; safe to repeat and to run twice at once.

    Exposures are those whose window touches the week or times (`end` excluded), or of the observing day; all without.
    `recompute` takes those that are up to date too.

    Raises:
        TransformationError: the configuration is wrong.
        DatabaseUnavailable, DataError: ConsDB does not answer, or refuses.
        StoreUnavailable: the archive does not answer.
    """
    started = time.monotonic()
    transformation = load_transformation(exposure_config.config)
    with ConsDB(settings.require_consdb()) as consdb:
        found = read_exposures(
            consdb, exposure_config.exposure_schema, week=week, day_obs=day_obs, start=start, end=end
        )
        windows = found.padded(round(exposure_config.padding_s * 1e6))
        ended = windows.take(windows.end_us != INVALID_TIME)
        plan = plan_join(archive, transformation)
        tables = ResultTables(consdb, exposure_config.result_schema, _written(transformation))
        tables.ensure()
        changes = archive_changes(archive, transformation.datasets)
        late = waiting(ended, _reached(plan, changes, settings), now or datetime.now(UTC))
        ready = ended.take(~late)
        due = ready if recompute else ready.take(_stale(ready, tables, transformation, changes))
        computation = Computation(transformation.version, transformation.digest, plan.versions, run)
        weeks = _compute_and_write(plan, due, tables, computation, progress)
    return JoinResult(
        instrument=exposure_config.instrument,
        exposures=len(due),
        columns=len(plan.columns),
        values=sum(one.values for one in weeks.values()),
        nulls=sum(one.nulls for one in weeks.values()),
        seconds=time.monotonic() - started,
        skipped=plan.skipped,
        by_week=weeks,
        unchanged=len(ready) - len(due),
        unended=len(windows) - len(ended),
        waiting=int(late.sum()),
    )


def plan_join(archive: Archive, transformation: Transformation) -> Plan:
    """What is to be read for the columns that can be computed; a column that cannot does not hold up the others.

    Raises:
        StoreUnavailable: the archive does not answer.
    """
    topics = {dataset: _open(archive, dataset) for dataset in _computed_from(transformation)}
    skipped: dict[str, str] = {}
    columns: list[PlannedColumn] = []
    selected: dict[Dataset, dict[Selection, list[int]]] = {}
    for column in transformation.columns:
        try:
            dataset, selection = _select(column, topics)
        except UnknownField as error:
            skipped[column.name] = error.message
            continue
        selected.setdefault(dataset, {}).setdefault(selection, []).append(len(columns))
        columns.append(PlannedColumn.of(column))
    opened = {dataset: topic for dataset, topic in topics.items() if topic is not None}
    readings = [
        Reading(dataset, opened[dataset][0], {selection: tuple(n) for selection, n in selections.items()})
        for dataset, selections in selected.items()
    ]
    versions = {dataset.text: snapshot.version for dataset, (snapshot, _) in opened.items()}
    return Plan(tuple(columns), tuple(readings), skipped, versions)


def _computed_from(transformation: Transformation) -> list[Dataset]:
    """The datasets of the columns that are computed so far."""
    columns = [column for column in transformation.columns if not_computed(column) is None]
    return sorted({column.topics[0].dataset for column in columns})


def _select(column: ExposureColumn, topics: Mapping[Dataset, Topic | None]) -> tuple[Dataset, Selection]:
    reason = not_computed(column)
    if reason is not None:
        raise UnknownField(reason)
    fields = column.topics[0]
    topic = topics[fields.dataset]
    if topic is None:
        raise UnknownField(f"{fields.dataset} is not in the archive")
    return fields.dataset, select(column, fields, topic[1])


def compute(plan: Plan, windows: Exposures, progress: Progress | None = None) -> Values:
    """The values of exposures, whose windows are sorted by their beginning.

    Raises:
        StoreUnavailable: the archive does not answer.
    """
    values = np.full((len(windows), len(plan.columns)), np.nan)
    samples = np.zeros((len(windows), len(plan.columns)), dtype=np.int64)
    result = Values(windows, plan.names, values, samples)
    for n, reading in enumerate(plan.readings):
        if progress is not None:
            progress(f"Joining {reading.dataset}", n, len(plan.readings))
        begin_us = windows.begin_us - reading.before_us
        for span in spans(begin_us, windows.end_us, _longest_span_us(reading, windows), GAP_US):
            _compute_span(plan, reading, span, result)
    return result


def _open(archive: Archive, dataset: Dataset) -> Topic | None:
    try:
        snapshot = archive.snapshot(dataset)
    except UnknownDataset:
        return None
    return snapshot, TopicColumns(dataset, snapshot.schema)


def _reached(plan: Plan, changes: Mapping[Dataset, Changes], settings: Settings) -> dict[Dataset, int]:
    """To when each topic is archived: the latest sample, and two declared intervals in which none need have come."""
    return {
        reading.dataset: changes[reading.dataset].reached_us
        + round(2e6 / settings.configuration.rate_hz(reading.dataset))
        for reading in plan.readings
        if changes[reading.dataset].reached_us != INVALID_TIME
    }


def _written(transformation: Transformation) -> tuple[ExposureColumn, ...]:
    """The columns that the table has: those that cannot be computed yet as well, they are NULL until they can."""
    return tuple(column for column in transformation.columns if EXPOSURE_TABLE in column.tables)


def _stale(
    windows: Exposures, tables: ResultTables, transformation: Transformation, changes: Mapping[Dataset, Changes]
) -> NDArray[np.bool_]:
    before_us = dict.fromkeys(_computed_from(transformation), 0)
    for column in transformation.columns:
        for topic in column.topics:
            if topic.dataset in before_us:
                before_us[topic.dataset] = max(before_us[topic.dataset], -column.start_offset_us)
    return stale(windows, tables.provenance(windows), transformation.digest, before_us, changes)


def _compute_and_write(
    plan: Plan, due: Exposures, tables: ResultTables, computation: Computation, progress: Progress | None
) -> dict[str, WeekJoin]:
    weeks: dict[str, WeekJoin] = {}
    for first in range(0, len(due), EXPOSURES_AT_ONCE):
        values = compute(plan, due.take(np.arange(first, min(first + EXPOSURES_AT_ONCE, len(due)))), progress)
        tables.write(values, computation)
        _count(weeks, values)
    return weeks


def _count(weeks: dict[str, WeekJoin], values: Values) -> None:
    known = np.count_nonzero(~np.isnan(values.values), axis=1)
    for begin_us, there in zip(values.windows.begin_us.tolist(), known.tolist(), strict=True):
        key = Week.containing(begin_us).key
        was = weeks.get(key, WeekJoin(0, 0, 0))
        missing = len(values.columns) - there
        weeks[key] = WeekJoin(was.exposures + 1, was.values + there, was.nulls + missing)


def _longest_span_us(reading: Reading, windows: Exposures) -> int:
    """How long a stretch may be read at once, by the rate at which the archive has rows there."""
    begin_us, end_us = int(windows.begin_us.min()) - reading.before_us, int(windows.end_us.max())
    files = [file for file in reading.snapshot.files(None, begin_us, end_us + 1) if file.time_min_us is not None]
    rows = sum(file.rows for file in files)
    first = min((file.time_min_us for file in files if file.time_min_us is not None), default=0)
    last = max((file.time_max_us for file in files if file.time_max_us is not None), default=0)
    values = max(1, rows * len(columns_to_read(reading.selections)))
    return max(1, int((last - first) * (VALUES_AT_ONCE / values)))


def _compute_span(plan: Plan, reading: Reading, span: Span, result: Values) -> None:
    table = _samples(reading, span)
    time_us = table["time"].to_numpy().astype("datetime64[us]").astype(np.int64)
    windows = result.windows.take(span.members)
    for selection, columns in reading.selections.items():
        rows = rows_selected(table, selection)
        times = time_us if rows is None else time_us[rows]
        matrix = sample_matrix(table, selection.elements, rows)
        first, end = bounds(times, windows.begin_us + selection.start_offset_us, windows.end_us)
        for member, low, high in zip(span.members.tolist(), first.tolist(), end.tolist(), strict=True):
            if low < high:
                _fill(plan, columns, Samples.of(times[low:high], matrix[low:high]), member, result)


def _samples(reading: Reading, span: Span) -> pa.Table:
    """The rows of a stretch, each record once, in the order of time."""
    names = ["time", *columns_to_read(reading.selections)]
    there = set(reading.snapshot.schema.names)
    identity = [name for name in IDENTITY if name in there and name not in names]
    table = read(reading.snapshot, columns=[*names, *identity], start_us=span.begin_us, end_us=span.end_us + 1)
    return count_once(table).sort_by("time")


def _fill(plan: Plan, columns: Iterable[int], samples: Samples, member: int, result: Values) -> None:
    if not samples.valid.size:
        return
    for n in columns:
        result.values[member, n] = plan.columns[n].value(samples)
        result.samples[member, n] = samples.valid.size
