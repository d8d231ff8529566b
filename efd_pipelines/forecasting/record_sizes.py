"""Record sizes: topics whose records became larger or smaller, by their own past.

A half day of many records is judged by its mean alone. Of few, the likelihood of half as much or twice as much is
summed up over the half days since it began: what varies from record to record, as texts do, averages out.
What belongs here: sizes that jump. Sizes that creep: `creeps.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from efd_pipelines.forecasting.evidence import ENOUGH, SEQUENCE, in_sequence, largest_sums, part_of, past_sum
from efd_pipelines.forecasting.findings import Finding
from efd_pipelines.forecasting.half_days import (
    BASELINE_DAYS,
    MEMORY_DAYS,
    PARTS,
    Counts,
    Numbers,
    before,
    mean_size,
)

_STEP, _MARGIN, _KNOWN_DAYS = 0.3, 3.0, 7
_PAST_HALVES = 2 * len(SEQUENCE) * MEMORY_DAYS
"""Records of rare topics are few: 24 weeks."""

_KNOWN_HALVES, _MOST_A_HALF_DAY, _DEFLATED, _LEAST_VARIANCE = 10, 8.5, 1.5, 0.01
_MOST_A_RECORD = 4.0


def jumps(counts: Counts) -> Iterator[Finding]:
    """Records that are larger or smaller than they were."""
    seen = set()
    for part in range(len(PARTS)):
        for jump in _of_many(counts.records[:, :, part], counts.bytes[:, :, part], part):
            seen.add((jump.day, jump.topic))
            yield jump
    yield from (jump for jump in _of_few(counts) if (jump.day, jump.topic) not in seen)


def _jump(day: int, topic: int, part: int, sizes: tuple[float, float], surprise: float) -> Finding:
    return Finding(day, topic, part, "size", *sizes, "its own past", surprise)


def _of_many(records: Numbers, sizes: Numbers, part: int) -> Iterator[Finding]:
    mean = mean_size(records, sizes)
    usual = before(mean, BASELINE_DAYS, 0.5, least=_KNOWN_DAYS)
    off = np.abs(np.log(mean / usual))
    limit = np.maximum(_STEP, _MARGIN * before(off, MEMORY_DAYS, 1.0))
    for d, t in np.argwhere(off > limit):
        both = float(mean[d, t]), float(usual[d, t])
        yield _jump(int(d), int(t), part, both, float(off[d, t] / limit[d, t]))


def _of_few(counts: Counts) -> Iterator[Finding]:
    records, sizes = (
        in_sequence([of[:, :, part].astype(np.float64) for part in range(len(PARTS))])
        for of in (counts.records, counts.bytes)
    )
    mean = mean_size(records, sizes, 1)
    records = np.where(np.isfinite(mean), records, np.nan)
    total, size, known = (past_sum(of, _PAST_HALVES) for of in (records, sizes, np.isfinite(mean)))
    with np.errstate(divide="ignore", invalid="ignore"):
        usual = np.where(known >= _KNOWN_HALVES, size / total, np.nan)
        away = np.log(mean / usual)
        # A mean's variance goes with one over the records: what a single one varies by, of the weeks before.
        each = past_sum(away**2 * records, _PAST_HALVES) / known
        varies = _DEFLATED * (1 + _KNOWN_HALVES / known) * (each / records) + _LEAST_VARIANCE
    for sign in (1, -1):
        runs = largest_sums(_steps(sign * away, varies, records))
        first = (runs >= ENOUGH) & (np.vstack([np.zeros(runs.shape[1]), runs[:-1]]) < ENOUGH)
        for half, t in np.argwhere(first):
            both = float(mean[half, t]), float(usual[half, t])
            day, part = part_of(int(half))
            yield _jump(day, int(t), part, both, float(runs[half, t] / ENOUGH))


def _steps(away: Numbers, varies: Numbers, records: Numbers) -> Numbers:
    """Each half day's log likelihood of twice the size against the size; an odd record counts for no more than a record
    of twice the size."""
    by = np.log(2)
    away = np.clip(away, -by, by)
    known = np.isfinite(away) & np.isfinite(varies)
    step = np.where(known, by * (away - by / 2) / np.where(known, varies, 1.0), 0.0)
    most = np.minimum(_MOST_A_HALF_DAY, _MOST_A_RECORD * np.nan_to_num(records))
    steps: Numbers = np.clip(step, -most, most)
    return steps
