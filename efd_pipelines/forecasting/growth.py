"""Growth: what each year adds, and what a cluster must hold then, from named assumptions.

A year adds weeks of a measured size; a stream (component, kind, level) has a share of it. What is kept for a time
only stops growing. A cluster keeps replicas of what is stored and of the margin, the same on each of its nodes. The
published table of growth (SQR-085, table 3) comes out of the shipped assumptions (`default.yaml`, `growth`); nothing
of it is a number here.
What belongs here: the arithmetic. Changing assumptions: `what_if.py`; what has really arrived: `series.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from efd_pipelines.configuration import Growth

DAYS_PER_YEAR = 365.25
RAW = "raw"
_LEAST_TB = 1e-9
"""What rounding up forgives: a sum of floats that is a whole number save for its last digits."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Part of what arrives: of one component, kind and level (`raw`, or a tier).

    `share` is of all that arrives, `stored_tb` what is kept of it at the beginning; `factor` what of it is sent from
    then on (1: as before), `kept_days` for how long it is kept (None: for ever).
    """

    component: str
    subsystem: str
    kind: str
    level: str
    share: float
    stored_tb: float
    factor: float = 1.0
    kept_days: float | None = None


@dataclass(frozen=True, slots=True)
class GrowthRow:
    """One year: TB (10¹² bytes). `increase_tb` and `stored_tb` are before replication, at the year's end."""

    year: int
    replication_factor: int
    increase_tb: float
    stored_tb: float
    margin_tb: float
    storage_per_data_node_tb: float
    total_cluster_storage_tb: float
    data_nodes: int
    disks_per_node: int


@dataclass(frozen=True, slots=True)
class Projection:
    """The years, and what each stream has stored at the end of each (streams × years, TB before replication)."""

    rows: tuple[GrowthRow, ...]
    streams: tuple[Stream, ...]
    stored_tb: np.ndarray = field(repr=False)
    added_tb: np.ndarray = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReferenceWeek:
    """What a year of weeks like a measured one would add: seed 001's method."""

    from_year: int
    gb_per_week: float
    tb_per_year: float
    rounded_tb: float
    why: str


def published_streams(assumptions: Growth, subsystem_of: Mapping[str, str]) -> tuple[Stream, ...]:
    """Streams with the shares of the published sizes; all of one where none are configured."""
    sizes = [
        (component, kind, size)
        for kind, of in assumptions.published_mb.items()
        for component, size in of.items()
        if size > 0
    ]
    whole = sum(size for _, _, size in sizes)
    if not whole:
        return (Stream("all", "all", "telemetry", RAW, 1.0, assumptions.stored_tb),)
    return tuple(
        Stream(
            component,
            subsystem_of.get(component, "other"),
            kind,
            RAW,
            size / whole,
            assumptions.stored_tb * size / whole,
        )
        for component, kind, size in sizes
    )


def yearly_increase(assumptions: Growth, year: int) -> float:
    """TB that the assumptions have arrive in a year, before rounding; nothing before the first period."""
    of = [period for period in assumptions.periods if period.from_year <= year]
    if not of:
        return 0.0
    period = of[-1]
    return period.gb_per_week * period.factor * assumptions.weeks_per_year * assumptions.duty_cycle / 1000


def increases(assumptions: Growth) -> dict[int, float]:
    """By year after the base year, the TB that arrive before anything is reduced."""
    years = range(assumptions.base_year + 1, assumptions.last_year + 1)
    return {year: yearly_increase(assumptions, year) for year in years}


def reference_weeks(assumptions: Growth) -> tuple[ReferenceWeek, ...]:
    """What each period's measured week makes in a year, as seed 001 reckons."""
    found = []
    for period in assumptions.periods:
        tb = yearly_increase(assumptions, period.from_year)
        rounded = round_up(tb, assumptions.round_up_tb)
        found.append(ReferenceWeek(period.from_year, period.gb_per_week, tb, rounded, period.why))
    return tuple(found)


def round_up(tb: float, to: float) -> float:
    """The next multiple of `to`; 0 does not round."""
    return tb if to <= 0 else math.ceil(tb / to - _LEAST_TB) * to


def project(assumptions: Growth, streams: Sequence[Stream], arriving: Mapping[int, float]) -> Projection:
    """The years of `assumptions`, the base year first, when `arriving[year]` TB would come without any reduction.

    A year's increase is what the streams still send of it, rounded up; what is kept for a time only holds that much of
    the year's rate, and events and commands among them what they hold for ever.
    """
    share, factor = (np.array([getattr(one, name) for one in streams]) for name in ("share", "factor"))
    stored = np.array([one.stored_tb for one in streams])
    kept_years = np.array([math.inf if one.kept_days is None else one.kept_days / DAYS_PER_YEAR for one in streams])
    sent = share * factor
    remaining = float(sent.sum())
    rows = [_row(assumptions, assumptions.base_year, 0.0, float(stored.sum()))]
    columns, added = [stored], [np.zeros(len(streams))]
    for year in range(assumptions.base_year + 1, assumptions.last_year + 1):
        increase = round_up(arriving.get(year, 0.0) * remaining, assumptions.round_up_tb)
        adds = increase * sent / remaining if remaining else np.zeros(len(streams))
        ceiling = np.where(np.isinf(kept_years), math.inf, adds * np.where(np.isinf(kept_years), 0.0, kept_years))
        stored = np.minimum(stored + adds, ceiling)
        rows.append(_row(assumptions, year, increase, float(stored.sum())))
        columns.append(stored)
        added.append(adds)
    return Projection(tuple(rows), tuple(streams), np.stack(columns, axis=1), np.stack(added, axis=1))


def _row(assumptions: Growth, year: int, increase_tb: float, stored_tb: float) -> GrowthRow:
    nodes = max(assumptions.data_nodes, assumptions.replication_factor)
    total = assumptions.replication_factor * (stored_tb + assumptions.margin_tb)
    per_node = total / nodes
    return GrowthRow(
        year=year,
        replication_factor=assumptions.replication_factor,
        increase_tb=_tidy(increase_tb),
        stored_tb=_tidy(stored_tb),
        margin_tb=assumptions.margin_tb,
        storage_per_data_node_tb=_tidy(per_node),
        total_cluster_storage_tb=_tidy(total),
        data_nodes=nodes,
        disks_per_node=max(1, math.ceil(per_node / assumptions.disk_tb - _LEAST_TB)),
    )


def _tidy(tb: float) -> float:
    """To eleven digits: the last ones of sums of shares are nobody's measurement."""
    return float(f"{tb:.11g}")


def as_rows(projection: Projection) -> list[dict[str, float]]:
    """The rows as JSON has them."""
    return [asdict(row) for row in projection.rows]


def reduced(streams: Sequence[Stream], by: Mapping[str, float]) -> tuple[Stream, ...]:
    """The streams when components send less: `by` is the part that they no longer send (0.5: half)."""
    return tuple(replace(one, factor=one.factor * (1 - by.get(one.component, 0.0))) for one in streams)


def kept(streams: Sequence[Stream], days: Mapping[str, float]) -> tuple[Stream, ...]:
    """The streams when levels are kept for a time: of telemetry only, as nothing else has a tier to stand for it."""
    return tuple(
        replace(one, kept_days=days[one.level]) if one.level in days and one.kind == "telemetry" else one
        for one in streams
    )
