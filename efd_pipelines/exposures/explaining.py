"""Explaining: where one value comes from, computed again from the archive in front of the reader's eyes.

The window, the topics and their versions, the samples, the arithmetic, and beside the value what ConsDB has. For
`efd exposures explain`. Computing for all exposures: `computing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.errors import UsageError
from efd_pipelines.exposures.computing import Part, reduced, samples_of, together
from efd_pipelines.exposures.configuration import ExposureColumn, load_transformation
from efd_pipelines.exposures.consdb import ConsDB, read_exposures
from efd_pipelines.exposures.functions import Function, Samples
from efd_pipelines.exposures.plans import Plan, PlannedColumn, plan_join
from efd_pipelines.exposures.subjects import EXPOSURE, VISIT
from efd_pipelines.exposures.tables import ResultTables
from efd_pipelines.settings import Settings
from efd_pipelines.times import INVALID_TIME, from_microseconds
from efd_pipelines.topics.names import nearest


@dataclass(frozen=True, slots=True)
class Source:
    """What one topic gave: `columns` of the archive's table at a version, `samples` in the window."""

    topic: str
    fields: tuple[str, ...]
    columns: tuple[str, ...]
    version: int
    samples: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured at one instant: a value for each field, None where there was none."""

    time: datetime
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a value comes from. Times are UTC; `reads_from` is the window's beginning with its look-back.

    `value` and `stored` are one number, or, of an unpivoted column, one for each field. `agrees` compares them.
    """

    column: str
    instrument: str
    exposure: int
    configured_at: str
    description: str
    unit: str
    function: str
    arguments: Mapping[str, Any]
    subset: str
    window_begin: datetime
    window_end: datetime
    reads_from: datetime
    sources: tuple[Source, ...]
    fields: tuple[str, ...]
    samples: tuple[Sample, ...]
    steps: tuple[str, ...]
    value: float | dict[str, float] | None
    stored: float | dict[str, float] | None
    stored_samples: int | None
    computed_at: datetime | None
    config_version: str | None
    run: str | None
    agrees: bool


def explain(archive: Archive, settings: Settings, join: ExposureJoin, column: str, exposure: int) -> Explanation:
    """Where the value of a column comes from, for the exposure (or visit) of a number.

    Raises:
        UsageError: there is no such column or exposure, it has not ended, or the column cannot be computed.
        DatabaseUnavailable, StoreUnavailable: a service does not answer.
    """
    transformation = load_transformation(join.config)
    configured = {one.name: one for one in transformation.columns}
    if column not in configured:
        raise UsageError(
            f"{join.config} has no column {column}{nearest(column, configured)}",
            remedy="`efd exposures check` names the configuration's columns that cannot be computed.",
        )
    wanted = configured[column]
    subject = EXPOSURE if any(table.startswith(EXPOSURE.results) for table in wanted.tables) else VISIT
    plan = plan_join(archive, transformation).only([column])
    if not plan.columns:
        reason = plan.skipped.get(column, "its topics are not in the archive")
        raise UsageError(f"{column} cannot be computed: {reason}", remedy="Mend the configuration.")
    with ConsDB(settings.require_consdb()) as consdb:
        found = read_exposures(consdb, join.exposure_schema, subject=subject, number=exposure)
        if not len(found) or int(found.end_us[0]) == INVALID_TIME:
            raise UsageError(
                f"{join.exposure_schema}.{subject.table} has no {subject.key} {exposure} that has ended",
                remedy="Give the number as ConsDB has it, day_obs × 100000 + seq_num.",
            )
        tables = ResultTables.of(consdb, join.result_schema, subject, transformation)
        stored = _stored(tables, wanted, exposure)
    padded = found.padded(round(join.padding_s * 1e6))
    parts, sources = _parts(plan, padded.windows)
    samples = together(parts, plan.columns[0].fields)
    names = plan.columns[0].fields or tuple(dict.fromkeys(name for part in parts for name in part.names))
    value, steps = _computed(plan.columns[0], samples)
    return Explanation(
        column=column,
        instrument=join.instrument,
        exposure=exposure,
        configured_at=transformation.at(column),
        description=wanted.description,
        unit=wanted.ivoa.unit,
        function=wanted.function,
        arguments=dict(wanted.arguments),
        subset="" if wanted.subset_field is None else f"{wanted.subset_field} in {list(wanted.subset_values)}",
        window_begin=from_microseconds(int(padded.begin_us[0])),
        window_end=from_microseconds(int(padded.end_us[0])),
        reads_from=from_microseconds(int(padded.begin_us[0]) + wanted.start_offset_us),
        sources=sources,
        fields=names,
        samples=_listed(samples),
        steps=steps,
        value=value,
        agrees=_same(value, stored["stored"]),
        **stored,
    )


def _parts(plan: Plan, windows: Any) -> tuple[list[Part], tuple[Source, ...]]:
    parts, sources = [], []
    for reading in plan.readings:
        snapshot = plan.snapshots[reading.dataset]
        for selection in reading.selections:
            (samples,) = samples_of(snapshot, reading, selection, windows)
            names = selection.names
            if len(names) != samples.values.shape[1]:
                names = tuple(f"{names[0]}{n}" for n in range(samples.values.shape[1]))
            columns = tuple(name for element in selection.elements for name in element.columns)
            parts.append(Part(names, samples))
            sources.append(Source(reading.dataset.text, names, columns, snapshot.version, len(samples.time_us)))
    return parts, tuple(sources)


def _computed(column: PlannedColumn, samples: Samples) -> tuple[float | dict[str, float] | None, tuple[str, ...]]:
    rows, fields = samples.values.shape
    steps = [
        f"{rows} samples of {fields} field{'s' * (fields != 1)}: {samples.valid.size} numbers, the others NaN or null"
    ]
    if column.interval_us is not None:
        samples = reduced(samples, column.interval_us)
        steps.append(f"means of intervals of {column.interval_us / 1e6:g} s: {samples.valid.size} numbers")
    if column.fields:
        each = {
            name: column.function.of_samples(samples.field(n), column.arguments) for n, name in enumerate(column.fields)
        }
        steps.append(f"{column.function.name} of each field by itself")
        return {name: value for name, value in each.items() if not np.isnan(value)}, tuple(steps)
    value = column.function.of_samples(samples, column.arguments)
    steps.append(arithmetic(column.function, column.arguments, samples, value))
    return None if np.isnan(value) else value, tuple(steps)


def arithmetic(function: Function, arguments: Any, samples: Samples, value: float) -> str:
    """The last step in words and figures."""
    valid = samples.valid
    if np.isnan(value):
        return f"{function.name}: not enough samples, NULL"
    if function.name == "mean":
        return f"mean: sum {valid.sum():.17g} / {valid.size} = {value:.17g}"
    if function.name == "stddev":
        squares = float(((valid - valid.mean()) ** 2).sum())
        return f"stddev: √(sum of squared deviations {squares:.17g} / ({valid.size} − {arguments.ddof})) = {value:.17g}"
    if function.name == "range":
        return f"range: {valid.max():.17g} − {valid.min():.17g} = {value:.17g}"
    given = ", ".join(f"{name} {setting}" for name, setting in dict(arguments).items())
    return f"{function.name}{f' ({given})' if given else ''} of {valid.size} numbers = {value:.17g}"


def _listed(samples: Samples) -> tuple[Sample, ...]:
    return tuple(
        Sample(from_microseconds(time_us), tuple(None if value != value else value for value in row))
        for time_us, row in zip(samples.time_us.tolist(), samples.values.tolist(), strict=True)
    )


def _stored(tables: ResultTables, column: ExposureColumn, exposure: int) -> dict[str, Any]:
    """What ConsDB has: nothing where the tables are not there yet."""
    found: dict[str, Any] = dict.fromkeys(("stored", "stored_samples", "computed_at", "config_version", "run"))
    key = tables.subject.key
    with tables.consdb.reading(f"Reading {tables.schema}") as connection:
        if not tables.consdb.has_table(connection, tables.provenance_table):
            return found
        of = tables.provenance_table.columns
        if column.name not in _names(connection, tables.provenance_table):
            return found
        query = sa.select(of[column.name], of.computed_at, of.config_version, of.run).where(of[key] == exposure)
        row = connection.execute(query).first()
        if row is not None:
            found |= dict(zip(("stored_samples", "computed_at", "config_version", "run"), row, strict=True))
        if column.store_unpivoted:
            long = tables.unpivoted_table
            values = sa.select(long.columns.field, long.columns["value"]).where(
                long.columns[key] == exposure, long.columns.property == column.name
            )
            found["stored"] = {row[0]: row[1] for row in connection.execute(values)}
        else:
            wide = tables.values_table
            found["stored"] = connection.execute(
                sa.select(wide.columns[column.name]).where(wide.columns[key] == exposure)
            ).scalar()
    return found


def _names(connection: sa.Connection, table: sa.Table) -> set[str]:
    return {column["name"] for column in sa.inspect(connection).get_columns(table.name, schema=table.schema)}


def _same(value: Any, stored: Any) -> bool:
    if isinstance(value, dict) and isinstance(stored, dict):
        return value.keys() == stored.keys() and all(_same(value[name], stored[name]) for name in value)
    if value is None or stored is None:
        return value is None and not stored
    return bool(np.isclose(value, stored, rtol=1e-9, atol=1e-12))
