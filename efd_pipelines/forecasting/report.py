"""Report: growth from assumptions, growth from live rates, forecast, databases and room, put together and kept.

What belongs here: putting together. The arithmetic: `growth.py`; what has arrived: `series.py`, `forecast.py`;
`render.py` writes it for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from efd_pipelines.configuration import Configuration, Growth
from efd_pipelines.errors import ArchiveError, ServiceUnavailable
from efd_pipelines.forecasting.capacity import StoreRoom, rooms
from efd_pipelines.forecasting.databases import Database, split
from efd_pipelines.forecasting.forecast import WEEKS, Forecast, forecast
from efd_pipelines.forecasting.growth import (
    Projection,
    ReferenceWeek,
    increases,
    project,
    published_streams,
    reference_weeks,
)
from efd_pipelines.forecasting.series import TB, WeeklySeries, by_the_end_of, weekly_series
from efd_pipelines.forecasting.what_if import WhatIf, assumptions_of

if TYPE_CHECKING:
    import pyarrow as pa

    from efd_pipelines.archive.archive import Archive

DIRECTORY = "reports/growth"
LABEL = "Parquet bytes of the archive and its tiers"


@dataclass(frozen=True, slots=True)
class LiveGrowth:
    """Growth at the rates that were measured: the same projection, of what is really stored and arriving.

    `unchanged` is the same without what was asked to be otherwise.
    """

    series: WeeklySeries = field(repr=False)
    forecast: Forecast
    projection: Projection
    unchanged: Projection
    databases: tuple[Database, ...]
    stores: tuple[StoreRoom, ...]


@dataclass(frozen=True, slots=True)
class GrowthReport:
    """What each year needs: by assumptions (`projection`), and where there is an archive by live rates.

    `unchanged` is what the assumptions give without what was asked to be otherwise; None where nothing was asked.
    """

    assumptions: Growth
    reference_weeks: tuple[ReferenceWeek, ...]
    projection: Projection
    unchanged: Projection | None
    databases: tuple[Database, ...]
    asked: WhatIf
    live: LiveGrowth | None
    at: datetime
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `efd report growth --json` prints."""
        return {
            "rows": [asdict(row) for row in self.projection.rows],
            "rows_without_what_if": [asdict(row) for row in self.unchanged.rows] if self.unchanged else None,
            "assumptions": assumptions_of(self.assumptions),
            "reference_weeks": [asdict(one) for one in self.reference_weeks],
            "what_if": self.asked.in_words(),
            "databases": [asdict(one) for one in self.databases],
            "live": _live_json(self.live) if self.live else None,
            "notes": list(self.notes),
            "missing": list(self.missing),
            "files": list(self.files),
        }


def growth_report(
    configuration: Configuration,
    archive: Archive | None = None,
    asked: WhatIf | None = None,
    now: datetime | None = None,
) -> GrowthReport:
    """Growth by the configuration's assumptions, changed by what is asked, and by what the archive has received.

    The report is made where the archive cannot be asked, too: `missing` says so.

    Args:
        configuration: whose section `growth` has the assumptions, and whose subsystems the databases are of.
        archive: whose weekly sizes are carried on; None: assumptions alone.
        asked: what is to be otherwise.
        now: when the running week is; the present by default.

    Raises:
        UsageError: what is asked cannot be.
    """
    asked, at = asked or WhatIf(), now or datetime.now(UTC)
    given = configuration.growth
    components = [name for of in given.published_mb.values() for name in of]
    streams = published_streams(given, {name: configuration.subsystem_of(name) for name in components})
    table, missing = (None, ()) if archive is None else _sizes(archive)
    series = None if table is None else weekly_series(table, at)
    known = {one.component for one in streams} | {one.component for one in (series.streams if series else ())}
    asked.check(known)
    assumptions = asked.assumptions(given)
    ours = _rescaled(streams, given, assumptions)
    projection = project(assumptions, asked.streams(ours), increases(assumptions))
    live = None
    if archive is not None and table is not None and series is not None:
        live = _live(archive, table, series, (given, assumptions), asked, at)
    return GrowthReport(
        assumptions=assumptions,
        reference_weeks=reference_weeks(assumptions),
        projection=projection,
        unchanged=project(given, streams, increases(given)) if asked else None,
        databases=tuple(split(projection, assumptions.split_below_tb)),
        asked=asked,
        live=live,
        at=at,
        notes=_notes(assumptions, live),
        missing=missing,
    )


def keep(archive: Archive, report: GrowthReport) -> GrowthReport:
    """The report with the addresses of its files in the archive, after writing them."""
    from efd_pipelines.forecasting.render import documents

    written = []
    for name, content in documents(report).items():
        relative = f"{DIRECTORY}/{name}"
        archive.store.write_bytes(relative, content)
        written.append(archive.store.uri(relative))
    return replace(report, files=tuple(written))


def _sizes(archive: Archive) -> tuple[pa.Table | None, tuple[str, ...]]:
    """The tidy table, and what it may lack."""
    from efd_pipelines.storage.weekly import weekly_totals

    missing: tuple[str, ...] = ()
    try:
        archive.ledger.catch_up_pending()
    except (ServiceUnavailable, ArchiveError) as error:
        missing = (f"The ledger may lag behind the archive: {error}",)
    try:
        return weekly_totals(archive), missing
    except (ServiceUnavailable, ArchiveError) as error:
        return None, (*missing, f"Live rates: the archive could not be asked ({error})")


def _live(
    archive: Archive,
    table: pa.Table,
    series: WeeklySeries,
    assumptions: tuple[Growth, Growth],
    asked: WhatIf,
    at: datetime,
) -> LiveGrowth:
    made = forecast(series.bytes)
    given, changed = (
        one.model_copy(update={"base_year": at.year, "last_year": max(one.last_year, at.year), "round_up_tb": 0.0})
        for one in assumptions
    )
    streams = by_the_end_of(at.year, series, made.year, at)
    arriving = dict.fromkeys(range(at.year + 1, changed.last_year + 1), made.year / TB)
    projection = project(changed, asked.streams(streams), arriving)
    return LiveGrowth(
        series=series,
        forecast=made,
        projection=projection,
        unchanged=project(given, streams, arriving),
        databases=tuple(split(projection, changed.split_below_tb)),
        stores=tuple(rooms(archive, table, series.stored_bytes, made, given.stores)),
    )


def _rescaled(streams: Sequence[Any], given: Growth, changed: Growth) -> tuple[Any, ...]:
    """The streams where other sizes are assumed to be stored at the beginning."""
    if given.stored_tb == changed.stored_tb:
        return tuple(streams)
    return tuple(replace(one, stored_tb=changed.stored_tb * one.share) for one in streams)


def _notes(assumptions: Growth, live: LiveGrowth | None) -> tuple[str, ...]:
    notes = []
    if assumptions.replication_factor > assumptions.data_nodes:
        notes.append(
            f"A replication factor of {assumptions.replication_factor} needs as many data nodes; "
            f"{assumptions.data_nodes} were assumed."
        )
    if live is None:
        return tuple(notes)
    notes += [*live.series.notes, *([live.forecast.note] if live.forecast.note else [])]
    notes.append(
        f"Live rates are {LABEL}; assumptions are of InfluxDB's shards. Years after the next are like the next."
    )
    return tuple(notes)


def _live_json(live: LiveGrowth) -> dict[str, Any]:
    made = live.forecast
    weeks = [week.key for week in live.series.weeks]
    return {
        "measure": LABEL,
        "weeks": {"first": weeks[0] if weeks else None, "last": weeks[-1] if weeks else None, "count": len(weeks)},
        "stored_tb": live.series.stored_bytes / TB,
        "rows": [asdict(row) for row in live.projection.rows],
        "rows_without_what_if": [asdict(row) for row in live.unchanged.rows],
        "forecast": {
            "method": made.method,
            "note": made.note,
            "level": made.level,
            "year_tb": made.year / TB,
            "year_lower_tb": made.year_lower / TB,
            "year_upper_tb": made.year_upper / TB,
            "periods": periods(live),
        },
        "databases": [asdict(one) for one in live.databases],
        "stores": [asdict(one) for one in live.stores],
    }


def periods(live: LiveGrowth) -> list[dict[str, Any]]:
    """The forecast's periods of four weeks: first Monday, TB, and the interval."""
    if not live.series.weeks:
        return []
    monday, found = live.series.weeks[-1].next(), []
    made = live.forecast
    for middle, lower, upper in zip(made.periods, made.lower, made.upper, strict=True):
        found.append({"from": monday.key, "tb": middle / TB, "lower_tb": lower / TB, "upper_tb": upper / TB})
        for _ in range(WEEKS):
            monday = monday.next()
    return found
