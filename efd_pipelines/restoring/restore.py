"""Restoring: gives the rows of a component's weeks to a target, portion by portion, and compares the counts.

Portions that are done are passed over, so whoever was killed, or ran out of patience, goes on by running again. What
is done, the target says: it is known by the target itself, not by us. At the end, of each dataset and week the rows of
the archive stand beside those given now and before, and what the target counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.restoring.portions import Portion, portions_of
from efd_pipelines.restoring.rows import Order, chunks
from efd_pipelines.times import Week
from efd_pipelines.topics.layout import SYSTEM_COLUMNS
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

Progress = Callable[[str, int, int], None]
"""Called with the portion, rows done, and rows in all."""


@dataclass(slots=True)
class Given:
    """What a target took of one portion: `rows`, and what it could not take (`left_out`).

    `expected` is what the target must count for it: points that are not the same one twice, records.
    """

    rows: int = 0
    values: int = 0
    bytes: int = 0
    left_out: int = 0
    expected: int = 0


class Target(Protocol):
    """Where rows are given back to."""

    outside: frozenset[str]
    """Of quarantine and the dead, what it takes."""
    order: Order
    """In which order it wants rows."""

    def done(self, portion: Portion) -> Given | None:
        """What it has taken of the portion in an earlier run, None where not all of it."""
        ...

    def take(self, portion: Portion, rows: Iterator[pa.Table]) -> Given:
        """Takes all rows of a portion, or, as far as anybody sees, none."""
        ...

    def counted(self, dataset: Dataset, week: Week) -> int | None:
        """How many of them there are at the target; None where that cannot be told."""
        ...

    def notes(self) -> Sequence[str]:
        """What its user should know."""
        ...


@dataclass(frozen=True, slots=True)
class WeekRestored:
    """One dataset's week: `archived` rows; of these `restored` now, `before`, and `left_out`; and what is there."""

    topic: str
    week: str
    archived: int
    restored: int
    before: int
    left_out: int
    expected: int
    counted: int | None

    @property
    def is_whole(self) -> bool:
        all_given = self.archived == self.restored + self.before + self.left_out
        return all_given and (self.counted is None or self.counted >= self.expected)


@dataclass(slots=True)
class RestoreResult:
    """What a restore did, or with a dry run would do."""

    topics: int = 0
    rows: int = 0
    before: int = 0
    left_out: int = 0
    values: int = 0
    bytes: int = 0
    portions: int = 0
    seconds: float = 0.0
    weeks: list[WeekRestored] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(week.is_whole for week in self.weeks)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a restore would give back: `values` at most, `bytes` as the archive keeps them, `hours` at the pace."""

    topics: int
    portions: int
    rows: int
    quarantined: int
    dead: int
    values: int
    bytes: int
    hours: float


def planned(
    archive: Archive, component: str, weeks: Sequence[Week], target: Target, topics: Sequence[Dataset] | None = None
) -> list[Portion]:
    """The portions of a component's weeks, or of some of its datasets."""
    datasets = archive.datasets(component) if topics is None else sorted(topics)
    return portions_of(archive, datasets, weeks, outside=target.outside)


def estimate(portions: Sequence[Portion], values_s: float) -> Estimate:
    """How much the portions are, from the log alone."""
    widths = {one.dataset: len(set(one.snapshot.schema.names) - set(SYSTEM_COLUMNS)) for one in portions}
    rows = sum(one.rows for one in portions)
    values = sum(one.rows * widths[one.dataset] for one in portions)
    return Estimate(
        topics=len(widths),
        portions=len(portions),
        rows=rows,
        quarantined=sum(one.rows for one in portions if one.key == QUARANTINE),
        dead=sum(one.rows for one in portions if one.key == DEAD),
        values=values,
        bytes=sum(one.size_bytes for one in portions if not one.is_outside),
        hours=values / values_s / 3600,
    )


def restore(
    portions: Sequence[Portion], target: Target, *, again: bool = False, progress: Progress | None = None
) -> RestoreResult:
    """Gives the portions to the target.

    Args:
        again: also those that the target has already.

    Raises:
        ServiceUnavailable: target or store did not answer; what was given stands, the next run goes on.
        DataError: a row cannot be given back as it was.
    """
    started = time.monotonic()
    result = RestoreResult(topics=len({one.dataset for one in portions}))
    total, so_far = sum(one.rows for one in portions), 0
    by_week: dict[tuple[Dataset, Week], list[tuple[Portion, Given, bool]]] = {}
    for portion in portions:
        known = None if again else target.done(portion)
        given = known or target.take(portion, chunks(portion, target.order))
        _count(result, given, known is not None)
        by_week.setdefault((portion.dataset, portion.week), []).append((portion, given, known is not None))
        so_far += portion.rows
        if progress is not None:
            progress(portion.name, so_far, total)
    for (dataset, week), done in by_week.items():
        result.weeks.append(_compared(dataset, week, done, target.counted(dataset, week)))
    result.notes += target.notes()
    result.seconds = time.monotonic() - started
    return result


def _count(result: RestoreResult, given: Given, is_before: bool) -> None:
    result.left_out += given.left_out
    if is_before:
        result.before += given.rows
        return
    result.portions += 1
    result.rows += given.rows
    result.values += given.values
    result.bytes += given.bytes


def _compared(
    dataset: Dataset, week: Week, done: Sequence[tuple[Portion, Given, bool]], counted: int | None
) -> WeekRestored:
    return WeekRestored(
        topic=dataset.text,
        week=week.key,
        archived=sum(portion.rows for portion, _, _ in done),
        restored=sum(given.rows for _, given, before in done if not before),
        before=sum(given.rows for _, given, before in done if before),
        left_out=sum(given.left_out for _, given, _ in done),
        expected=sum(given.expected for _, given, _ in done),
        counted=counted,
    )
