"""States: what a telemetry topic should have sent by how much of the half day its component ran, and was enabled.

What is sent in standby and what is sent once a component is enabled differ by topic; of a component that runs and is
enabled for so long, both follow. How long that was, the component's other telemetry tells; what a topic sends of it is
fitted to the last twelve weeks. So a topic is judged in a state in which its component has not been for months, too.
What belongs here: finding the state, and what it lets expect. The other references: `references.py`, `twins.py`.
"""

from __future__ import annotations

import numpy as np

from efd_pipelines.forecasting.half_days import (
    LEAST_DAYS,
    MEMORY_DAYS,
    STEADY_COUNT,
    Counts,
    Numbers,
    groups_of,
    is_telemetry,
    middle,
    ranked,
)

_FITTED_DAYS = 28
"""For so long the same fit is used."""

_SWING, _LEAST, _RANGE = 0.3, 4, (-0.3, 1.5)
_WHOLE, _LOW, _VARIED, _DEVIATIONS, _MOST = 0.1, 0.05, 0.1, 6.0, 1.2


def states_expect(counts: Counts, records: Numbers, running: Numbers, lag: int = 0) -> Numbers:
    """Records by how much the component ran (`running`, by its steady topics) and was enabled, as fitted to what was
    sent until `lag` days before; NaN where that cannot be told."""
    expected = np.full(records.shape, np.nan, dtype=np.float32)
    telemetry = is_telemetry(counts)
    for group in groups_of(counts.components, counts.components):
        members = group[telemetry[group]]
        if len(members) < _LEAST:
            continue
        # Small deviations from levels that are old are summed up: none is let pass.
        deviations = 0.0 if lag else _DEVIATIONS
        for begin in range(0, len(records), _FITTED_DAYS):
            past = slice(max(0, begin - lag - MEMORY_DAYS), max(0, begin - lag))
            now, days = slice(begin, begin + _FITTED_DAYS), past.stop - past.start
            if days >= 2 * LEAST_DAYS:
                some, ran = (np.concatenate([of[past, members], of[now, members]]) for of in (records, running))
                expected[now, members] = _by_state(some.astype(np.float64), ran, days, deviations)[days:]
    return expected


def _by_state(records: Numbers, ran: Numbers, days: int, deviations: float) -> Numbers:
    """By a fit to the first `days`, of those on which the component ran all the time, as far as is known. What is off
    by no more than some of the fit's deviations is as expected."""
    up = np.where(np.isfinite(ran), np.abs(ran - 1) < _WHOLE, np.any(records > 0, axis=1, keepdims=True))
    ran = np.where(np.isfinite(ran), ran, 1.0)
    fitted = np.where(up, records, np.nan)[:days]
    enabled = _enabled(records, ran, fitted)
    a, y = enabled[:days], fitted
    known = np.isfinite(a) & np.isfinite(y)
    count = known.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        a_mean, y_mean = (np.where(known, of, 0.0).sum(axis=0) / count for of in (a, y))
        varied = (np.where(known, a - a_mean, 0.0) ** 2).sum(axis=0)
        more = (np.where(known, (a - a_mean) * (y - y_mean), 0.0)).sum(axis=0) / varied
        standby = y_mean - more * a_mean
        expected = np.maximum(standby * ran + more * enabled, 0.0)
        away = np.where(known, y - expected[:days], 0.0)
        resolved = deviations * np.sqrt((away**2).sum(axis=0) / count)
    expected = np.where(np.abs(records - expected) < resolved, records, expected)
    # Steady topics that send more than they ever did say nothing of how long the component ran.
    found: Numbers = np.where((count >= LEAST_DAYS) & (varied > _VARIED) & (ran < _MOST), expected, np.nan)
    return found


def _enabled(records: Numbers, ran: Numbers, fitted: Numbers) -> Numbers:
    """How much of each half day the component was enabled, as the topics tell that send more when it is: 0 as on the
    least of the days of the fit, 1 as on the most; few of them may be of a process that was restarted."""
    least, most = (ranked(fitted, rank, axis=0) for rank in (_LOW, 1 - _LOW))
    swings = (most >= STEADY_COUNT) & (most - least > _SWING * most)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(swings, (records - least * ran) / (most - least), np.nan)
        told = middle(each, axis=1)
        # Beyond that it is no such state, as of a process that ran for an unknown part of the half day.
        sure = (np.isfinite(each).sum(axis=1) >= _LEAST) & (told > _RANGE[0]) & (told < _RANGE[1])
    enabled: Numbers = np.where(sure, told, np.nan)[:, None]
    return enabled
