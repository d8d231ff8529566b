"""Creeps: rates and sizes that grow by a few per cent a week, too slowly for a day to tell.

A week's mean is judged against levels of six weeks ago: it must be clearly more than weeks were off before, after a
rise in each of the last two fortnights. What belongs here: this judgement. Half days: `detection.py`; sizes that
jump: `record_sizes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from efd_pipelines.forecasting.findings import Finding, moved_together
from efd_pipelines.forecasting.half_days import (
    BASELINE_DAYS,
    MEMORY_DAYS,
    STEADY_COUNT,
    Counts,
    Numbers,
    before,
    is_regular,
    is_telemetry,
    mean_size,
    shifted,
)
from efd_pipelines.forecasting.references import expectations, good_ones, least_off, lowest

_STEP, _MARGIN, _SIZE_MARGIN, _DAYS, _WEEK = 0.15, 1.6, 2.0, 42, 7
_ACQUITS = 0.3
_RISE, _COUNT, _MOST, _EXPECTED_SHARE = (0.04, 0.25), 1000, 0.24, 0.3


def creeps(counts: Counts) -> Iterator[Finding]:
    """Topics that send more, or larger records, each week."""
    whole = counts.records.sum(axis=2)
    yield from _of_rates(counts, whole)
    yield from _of_sizes(whole, counts.bytes.sum(axis=2))


def _of_rates(counts: Counts, records: Numbers) -> Iterator[Finding]:
    scale = before(records, BASELINE_DAYS * 2, 0.9)
    references = expectations(counts, records, scale, lag=_DAYS)
    off, expected = np.stack([one.off for one in references]), np.stack([one.expected for one in references])
    good = good_ones(off, _ACQUITS)
    left, which = least_off(off, good)
    signed, usual = (np.take_along_axis(of, which[None], axis=0)[0] for of in (off, expected))
    # Days on which little is expected, as of a component that is down, say nothing of a level.
    enough = np.isfinite(left) & (lowest(np.where(good, expected, np.nan)) > _EXPECTED_SHARE * scale)
    daily = np.where(enough, signed, np.nan)
    mean = _week(daily)
    surprise = mean / _limit(mean, _MARGIN)
    steadily = is_telemetry(counts) | is_regular(records, before(records, BASELINE_DAYS, 0.5, lag=_DAYS))
    level = _week(records)
    grows = level > np.exp(_STEP) * before(level, BASELINE_DAYS, 0.5, lag=_DAYS - _WEEK)
    flagged = (surprise > 1) & _rises(mean, daily) & grows & (records > _COUNT) & steadily
    together = moved_together(counts, flagged.astype(np.int64), scale >= STEADY_COUNT)
    for d, t in np.argwhere(flagged):
        observed, name = usual[d, t] * np.exp(mean[d, t]), references[which[d, t]].name
        yield Finding(d, t, -1, "creep", observed, usual[d, t], name, surprise[d, t], int(together[d, t]))


def _of_sizes(records: Numbers, sizes: Numbers) -> Iterator[Finding]:
    mean = mean_size(records, sizes)
    usual = before(mean, BASELINE_DAYS, 0.5, least=_WEEK, lag=_DAYS)
    off = np.log(mean / usual)
    week = _week(off)
    surprise = week / _limit(week, _SIZE_MARGIN)
    for d, t in np.argwhere((surprise > 1) & _rises(week, off)):
        observed = usual[d, t] * np.exp(week[d, t])
        yield Finding(d, t, -1, "size creep", observed, usual[d, t], "its own past", surprise[d, t])


def _week(of: Numbers) -> Numbers:
    """The mean of the last seven days, of five at least."""
    days = _last(of)
    known = np.isfinite(days)
    mean = np.where(known, days, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return np.where(known.sum(axis=-1) >= _WEEK - 2, mean, np.nan).T


def _last(of: Numbers) -> Numbers:
    """Each topic's last seven days, each day's own among them: topics × days × last days."""
    padded = np.pad(of.T, ((0, 0), (_WEEK - 1, 0)), constant_values=np.nan)
    windows: Numbers = np.lib.stride_tricks.sliding_window_view(padded, _WEEK, axis=1)
    return windows


def _limit(week: Numbers, margin: float) -> Numbers:
    """How far a week may be off: clearly more than it was in the weeks before the last six, which may be the creep's.
    Unknown where six weeks of 5 % could not be told from that."""
    most = before(np.abs(week), MEMORY_DAYS, 1.0, least=BASELINE_DAYS, lag=_DAYS)
    limit = np.maximum(_STEP, margin * most)
    return np.where(limit < _MOST, limit, np.nan)


def _rises(week: Numbers, daily: Numbers) -> Numbers:
    """Whether a week is more than it was in each of the last two fortnights, by what creeps and not what jumps, and so
    is each of its days."""
    days = _last(daily)
    least = np.where(np.isfinite(days), days, np.inf).min(axis=-1).T
    lowest_rise, highest_rise = _RISE
    rises: Numbers = (least > 0.5 * week) & (week > 0)
    for late, early in ((0, 14), (14, 28)):
        rise = shifted(week, late) - shifted(week, early)
        rises = rises & (rise > lowest_rise) & (rise < highest_rise)
    return rises
