"""Record sizes: topics whose records became larger or smaller, by their own past.

A half day of many records is judged by its mean alone. Of few, the likelihood of half as much or twice as much is
summed up over the half days since it began: what varies from record to record, as texts do, averages out.
What belongs here: sizes that jump. Sizes that creep: `detection.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from efd_pipelines.forecasting.half_days import BASELINE_DAYS, MEMORY_DAYS, PARTS, Counts, Numbers, before

ENOUGH = 16.0
_STEP, _MARGIN, _COUNT = 0.3, 3.0, 100
_KNOWN_HALVES, _MOST_A_HALF_DAY, _DEFLATED, _LEAST_VARIANCE = 10, 8.5, 1.5, 0.01
_MOST_A_RECORD = 4.0
_SEQUENCE = tuple(PARTS.index(part) for part in ("night", "day"))


@dataclass(frozen=True, slots=True)
class Jump:
    """A topic whose records are of another size: index of day, topic and part, bytes a record, and how sure that is."""

    day: int
    topic: int
    part: int
    observed: float
    usual: float
    surprise: float


def jumps(counts: Counts) -> Iterator[Jump]:
    """Records that are larger or smaller than they were."""
    seen = set()
    for part in range(len(PARTS)):
        for jump in _of_many(counts.records[:, :, part], counts.bytes[:, :, part], part):
            seen.add((jump.day, jump.topic))
            yield jump
    yield from (jump for jump in _of_few(counts) if (jump.day, jump.topic) not in seen)


def mean_size(records: Numbers, sizes: Numbers, least: float = _COUNT) -> Numbers:
    """Bytes of a mean record, where there are enough of them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: Numbers = np.where(records >= least, sizes / records, np.nan)
    return mean


def _of_many(records: Numbers, sizes: Numbers, part: int) -> Iterator[Jump]:
    mean = mean_size(records, sizes)
    usual = before(mean, BASELINE_DAYS, 0.5, least=7)
    off = np.abs(np.log(mean / usual))
    limit = np.maximum(_STEP, _MARGIN * before(off, MEMORY_DAYS, 1.0))
    for d, t in np.argwhere(off > limit):
        yield Jump(int(d), int(t), part, float(mean[d, t]), float(usual[d, t]), float(off[d, t] / limit[d, t]))


def _of_few(counts: Counts) -> Iterator[Jump]:
    days, topics = counts.records.shape[:2]
    order = list(_SEQUENCE)
    records, sizes = (
        of[:, :, order].transpose(0, 2, 1).reshape(len(order) * days, topics).astype(np.float64)
        for of in (counts.records, counts.bytes)
    )
    mean = mean_size(records, sizes, 1)
    before_total, before_size, before_known = (_past(of) for of in (records, sizes, records > 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        usual = np.where(before_known >= _KNOWN_HALVES, before_size / before_total, np.nan)
        away = np.log(mean / usual)
        # A mean's variance goes with one over the records: what a single one varies by, of the weeks before.
        each = _past(np.nan_to_num(away**2 * records)) / before_known
        varies = _DEFLATED * (1 + 10 / before_known) * (each / records) + _LEAST_VARIANCE
    for sign in (1, -1):
        runs = _evidence(sign * away, varies, records)
        first = (runs >= ENOUGH) & (np.vstack([np.zeros(topics), runs[:-1]]) < ENOUGH)
        for half, t in np.argwhere(first):
            day, part = divmod(int(half), len(order))
            observed, was = float(mean[half, t]), float(usual[half, t])
            yield Jump(day, int(t), order[part], observed, was, float(runs[half, t] / ENOUGH))


def _evidence(away: Numbers, varies: Numbers, records: Numbers) -> Numbers:
    """The largest sum, over the half days up to each, of the log likelihood of twice the size against the size; an odd
    record counts for no more than a record of twice the size."""
    by = np.log(2)
    away = np.clip(away, -by, by)
    known = np.isfinite(away) & np.isfinite(varies)
    step = np.where(known, by * (away - by / 2) / np.where(known, varies, 1.0), 0.0)
    most = np.minimum(_MOST_A_HALF_DAY, _MOST_A_RECORD * records)
    step = np.clip(step, -most, most)
    runs, run = np.zeros(away.shape), np.zeros(away.shape[1])
    for half in range(len(away)):
        run = np.maximum(0.0, run + step[half])
        runs[half] = run
    return runs


def _past(of: Numbers) -> Numbers:
    """The sum of the half days of 24 weeks before each: records of rare topics are few."""
    window = 2 * len(_SEQUENCE) * MEMORY_DAYS
    total = np.cumsum(np.pad(of.astype(np.float64), ((window + 1, 0), (0, 0))), axis=0)
    found: Numbers = total[window:-1] - total[: -window - 1]
    return found
