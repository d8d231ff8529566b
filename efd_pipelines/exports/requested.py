"""Requested: exports that the configuration asks for again and again (`exports` of EFD_CONFIG).

Each is of the last whole period before it is run: an observing day, a day, a week, a month, in UTC; its place has the
period in its name, so that each run makes an export of its own and a second run of the same period does nothing. What
is older than it is to be kept is removed after each run (`expiry.py`). When they run, Dagster's schedules say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from efd_pipelines.configuration import ExportRequest
from efd_pipelines.errors import UsageError
from efd_pipelines.exports.expiry import Expired, expire
from efd_pipelines.exports.export import ExportResult, Progress, make
from efd_pipelines.exports.request import Request
from efd_pipelines.times import Week, day_obs_interval, day_obs_of
from efd_pipelines.topics.names import nearest

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive


@dataclass(frozen=True, slots=True)
class Period:
    """The time that one run of a request is of; `label` stands in the name of its place."""

    label: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of a request made, and what it removed."""

    name: str
    period: str
    result: ExportResult
    expired: tuple[Expired, ...]


def named(configured: Sequence[ExportRequest], names: Sequence[str]) -> list[ExportRequest]:
    """The requests of those names; all without.

    Raises:
        UsageError: there is none of a name, with the nearest.
    """
    known = {one.name: one for one in configured}
    for name in names:
        if name not in known:
            raise UsageError(
                f"EFD_CONFIG has no export {name}{nearest(name, known)}",
                remedy=f"There are {', '.join(known) or 'none'}; they are in its section `exports`.",
            )
    return [known[name] for name in names] if names else list(configured)


def run(archive: Archive, asked: ExportRequest, at: datetime, progress: Progress | None = None) -> Ran:
    """Makes the export of the last whole period before a time, and removes what has been kept for long enough.

    Raises:
        UsageError, DataError, ServiceUnavailable: as `export`.
    """
    period = period_before(asked, at)
    limit = None if asked.limit_gb is None else round(asked.limit_gb * 1e9)
    result = make(
        archive,
        request_of(asked, period),
        asked.place(period.label),
        limit_bytes=limit,
        keep_days=asked.keep_days,
        progress=progress,
    )
    gone = expire(archive.settings, [asked.parent], at) if asked.keep_days is not None else ()
    return Ran(asked.name, period.label, result, tuple(gone))


def request_of(asked: ExportRequest, period: Period) -> Request:
    """What is asked for of one period.

    Raises:
        UsageError: it cannot be meant.
    """
    return Request.of(
        asked.topics,
        period.start,
        period.end,
        asked.fields or None,
        asked.tier,
        resample=asked.resample,
        arrays=asked.arrays,
        time_scale=asked.time_scale,
        exposures=asked.exposures,
        visits=asked.visits,
        padding_s=asked.padding_s,
    )


def period_before(asked: ExportRequest, at: datetime) -> Period:
    """The last whole period before a time."""
    now = at.astimezone(UTC)
    if asked.period == "day_obs":
        day = day_obs_of(now - timedelta(days=1))
        return Period(str(day), *day_obs_interval(day))
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if asked.period == "day":
        start, end = midnight - timedelta(days=1), midnight
    elif asked.period == "week":
        week = Week.containing(now).previous()
        start, end = week.start, week.end
    else:
        end = midnight.replace(day=1)
        start = (end - timedelta(days=1)).replace(day=1)
    return Period(f"{start:%Y-%m}" if asked.period == "month" else f"{start:%Y-%m-%d}", start, end)
