"""Due: the weeks that a policy no longer asks to keep, by the ledger.

Only fast telemetry is ever due: that of which the finest tier has a summary. Events, commands, acknowledgements,
metrics and slower telemetry have none there and are not touched. A week's age is counted from its end, Monday 00:00
UTC, to the instant; nothing here knows of zones or of summer time. Whether what is due may go: `plan.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from efd_pipelines.archive.ledger import RAW
from efd_pipelines.retention.policy import LEVELS, Policy, Span
from efd_pipelines.tiers.tier import TIERS, Tier, aggregated
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset, Kind

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.configuration import Configuration

_HELD = f"""
    SELECT "table", dataset, week, sum(rows)::BIGINT AS rows, sum(bytes)::BIGINT AS bytes,
           sum(files)::BIGINT AS files, bool_or(commit_kind = 'expire') AS expired
    FROM ledger WHERE kind = '{Kind.TELEMETRY.value}' AND week NOT IN ('', 'quarantine', 'dead')
    GROUP BY ALL HAVING sum(files) > 0
"""  # noqa: S608 - a word of ours


@dataclass(frozen=True, slots=True)
class Due:
    """A level of a dataset's week that the policy keeps no longer, and what there is of it.

    `kept` is how long it was to be kept. A level that is `expired` already has late records.
    """

    level: str
    dataset: Dataset
    week: Week
    rows: int
    bytes: int
    files: int
    kept: Span
    expired: bool

    @property
    def reason(self) -> str:
        """Why it goes, for people."""
        return f"{self.level} is kept for {self.kept}; the week ended at {self.week.end:%Y-%m-%d %H:%M} UTC"

    def __str__(self) -> str:
        return f"{self.dataset}, {self.level}, week of {self.week}"


def due(
    archive: Archive,
    policy: Policy,
    now: datetime,
    *,
    datasets: Collection[Dataset] | None = None,
    weeks: Collection[Week] | None = None,
) -> list[Due]:
    """What the policy no longer asks to keep, the finer levels and older weeks first.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    if policy.keeps_everything:
        return []
    archive.ledger.catch_up_pending()
    configuration = archive.settings.configuration
    found = []
    for row in archive.ledger.sql(_HELD).to_pylist():
        dataset, week, level = Dataset.parse(row["dataset"]), Week.parse(row["week"]), row["table"]
        if (datasets is not None and dataset not in datasets) or (weeks is not None and week not in weeks):
            continue
        span = policy.keeps(dataset, level) if level in LEVELS else None
        if span is None or span.after(week.end) > now or not is_fast(dataset, configuration):
            continue
        found.append(Due(level, dataset, week, row["rows"], row["bytes"], row["files"], span, row["expired"]))
    return sorted(found, key=lambda one: (LEVELS.index(one.level), one.week, one.dataset))


def is_fast(dataset: Dataset, configuration: Configuration) -> bool:
    """Whether the finest tier has a summary of it: nothing else ever expires."""
    return aggregated(dataset, configuration, next(iter(TIERS.values())))


def tiers_of(dataset: Dataset, configuration: Configuration, level: str = RAW) -> list[Tier]:
    """The tiers of a dataset that are coarser than a level, the finest first."""
    coarser = LEVELS[LEVELS.index(level) + 1 :]
    return [tier for name, tier in TIERS.items() if name in coarser and aggregated(dataset, configuration, tier)]


def finer(level: str) -> str | None:
    """The level before a level, which goes first; None before raw records."""
    place = LEVELS.index(level)
    return LEVELS[place - 1] if place else None
