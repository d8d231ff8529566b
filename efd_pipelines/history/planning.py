"""Planning: which component's weeks are to be healed next, and when the history may be asked.

The newest first: people want them most, and the Summit's InfluxDB forgets. A week is due when nothing says that all
of it was asked for (`asked.py`), and again when a gap was noticed afterwards that may lie in it. The history is asked
in a window of the day, when the observatory sleeps, and so many hours of it as the budget has.
Healing a week: `healing.py`. Starting runs: Dagster's schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from efd_pipelines.archive.ledger import RAW
from efd_pipelines.history.asked import finished_at, finished_weeks
from efd_pipelines.times import Week, weeks_between

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

SETTLED = timedelta(days=1)
"""A week is looked at when it has been over for so long: its last records have come by then."""

_BEFORE_NOTICED = timedelta(days=15)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of each day, in UTC; one that ends before it begins goes on past midnight."""

    begins: time
    ends: time

    @classmethod
    def parse(cls, text: str) -> Window:
        """Of `13:00-21:00`, as the settings have checked it."""
        begins, _, ends = text.partition("-")
        return cls(time.fromisoformat(begins), time.fromisoformat(ends))

    def around(self, now: datetime) -> tuple[datetime, datetime] | None:
        """Beginning and end of the window that `now` is in, None outside."""
        for day in (now.date() - timedelta(days=1), now.date()):
            begins = datetime.combine(day, self.begins, UTC)
            ends = datetime.combine(day, self.ends, UTC)
            ends += timedelta(days=1) if ends <= begins else timedelta(0)
            if begins <= now < ends:
                return begins, ends
        return None


def asks_until(settings: Settings, now: datetime, spent: timedelta) -> datetime | None:
    """Until when the history may be asked now, None where it may not.

    Args:
        spent: how long it has been asked in this window already.
    """
    window = Window.parse(settings.history_window).around(now)
    if window is None:
        return None
    until = min(window[1], now + timedelta(hours=settings.history_budget_h) - spent)
    return until if until > now else None


def next_weeks(
    archive: Archive, components: Iterable[str], first: Week, *, now: datetime | None = None
) -> Iterator[tuple[str, Week]]:
    """Components and weeks that are due, the newest weeks first, back to `first`.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    last = Week.containing((now or datetime.now(UTC)) - SETTLED).previous()
    noticed = _gaps_noticed(archive)
    finished = {component: finished_weeks(archive.store, component) for component in sorted(set(components))}
    for week in reversed(weeks_between(first, last)):
        for component, weeks in finished.items():
            if week not in weeks or _has_new_gap(archive, component, week, noticed.get(component, [])):
                yield component, week


def _has_new_gap(archive: Archive, component: str, week: Week, noticed: list[datetime]) -> bool:
    """Whether a gap that may lie in the week was noticed after everything had been asked for."""
    near = [at for at in noticed if week.start <= at < week.end + _BEFORE_NOTICED]
    if not near:
        return False
    done_at = finished_at(archive.store, component, week)
    return done_at is None or any(at.timestamp() > done_at for at in near)


def _gaps_noticed(archive: Archive) -> dict[str, list[datetime]]:
    """By component, when gaps were noticed."""
    rows = archive.ledger.table(columns=["component", "gaps", "at"])
    rows = rows.filter(pc.and_(pc.equal(rows["table"], RAW), pc.not_equal(rows["gaps"], "[]")))
    found: dict[str, list[datetime]] = {}
    for component, at in zip(rows["component"].to_pylist(), rows["at"].to_pylist(), strict=True):
        found.setdefault(component, []).append(at)
    return found
