"""Reconciling: whether ConsDB has what the archive gives, by values, numbers of samples and versions.

That a row is there says nothing. What is stale, missing or waiting is told by versions and costs seconds; of what is up
to date some exposures, chosen by chance, are computed again and compared value by value. Mending what is found is
`joins.py`'s work. For `efd exposures verify` and the asset check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.exposures.computing import Values, compute
from efd_pipelines.exposures.configuration import load_transformation
from efd_pipelines.exposures.consdb import ConsDB, read_exposures
from efd_pipelines.exposures.joins import Candidates, candidates_of
from efd_pipelines.exposures.plans import plan_join
from efd_pipelines.exposures.subjects import EXPOSURE
from efd_pipelines.exposures.tables import ResultTables
from efd_pipelines.exposures.windows import Exposures
from efd_pipelines.settings import Settings

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that ConsDB has otherwise than the archive gives it, or the number of samples behind it."""

    exposure: int
    column: str
    stored: float | None
    computed: float | None
    stored_samples: int | None
    computed_samples: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was found: `stale` exposures have something to compute, `compared` of the others were computed again."""

    instrument: str
    exposures: int
    stale: int
    waiting: int
    compared: int
    values: int
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return not self.stale and not self.differences


def reconcile(
    archive: Archive,
    settings: Settings,
    join: ExposureJoin,
    *,
    day_obs: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    most: int = 20,
    seed: int | None = None,
    now: datetime | None = None,
) -> Reconciliation:
    """Compares exposures with the archive; `most` is how many are computed again.

    Raises:
        TransformationError: the configuration is wrong.
        DatabaseUnavailable, StoreUnavailable, DataError: as `join_exposures`.
    """
    transformation = load_transformation(join.config)
    with ConsDB(settings.require_consdb()) as consdb:
        found = read_exposures(consdb, join.exposure_schema, day_obs=day_obs, start=start, end=end)
        exposures = found.padded(round(join.padding_s * 1e6))
        plan = plan_join(archive, transformation)
        tables = ResultTables.of(consdb, join.result_schema, EXPOSURE, transformation)
        tables.ensure()
        looked = candidates_of(archive, settings, tables, exposures, plan, transformation, now or datetime.now(UTC))
        chosen = _chosen(looked, most, seed)
        values = None
        differences: tuple[Difference, ...] = ()
        if len(chosen) and plan.columns:
            own = {column.name for column in tables.columns}
            values = compute(plan.only(own), chosen.windows)
            differences = tuple(_differences(tables, chosen, values))
    return Reconciliation(
        instrument=join.instrument,
        exposures=len(looked.exposures),
        stale=int(looked.is_due.sum()),
        waiting=looked.waiting,
        compared=len(chosen),
        values=0 if values is None else int(values.known().sum()),
        differences=differences,
    )


def _chosen(looked: Candidates, most: int, seed: int | None) -> Exposures:
    """Some exposures that are up to date, in their order."""
    current = np.flatnonzero(~looked.is_due)
    rng = np.random.default_rng(seed)
    some = current if len(current) <= most else np.sort(rng.choice(current, most, replace=False))
    return looked.exposures.take(some)


def _differences(tables: ResultTables, exposures: Exposures, values: Values) -> Iterator[Difference]:
    stored = _rows(tables, tables.values_table, exposures)
    counts = _rows(tables, tables.provenance_table, exposures)
    known = values.known()
    for n, number in enumerate(exposures.exposure_id.tolist()):
        for at, name in enumerate(values.columns):
            if name in values.vectors:
                continue
            value = float(values.values[n, at]) if known[n, at] else None
            was, samples = stored.get(number, {}).get(name), counts.get(number, {}).get(name)
            # What is NULL now may have been a value once: it stays unless it is asked to go.
            same_count = value is None or samples == int(values.samples[n, at])
            if not _same(value, was) or not same_count:
                yield Difference(number, name, was, value, samples, int(values.samples[n, at]))


def _same(value: float | None, stored: float | None) -> bool:
    if value is None or stored is None:
        return value is None
    return bool(np.isclose(value, stored, rtol=_TOLERANCE, atol=1e-12))


def _rows(tables: ResultTables, table: sa.Table, exposures: Exposures) -> Mapping[int, Mapping[str, Any]]:
    key = table.columns[tables.subject.key]
    query = sa.select(table).where(key.in_([int(number) for number in exposures.exposure_id]))
    with tables.consdb.reading(f"Reading {table.fullname}") as connection:
        return {row[tables.subject.key]: dict(row) for row in connection.execute(query).mappings()}
