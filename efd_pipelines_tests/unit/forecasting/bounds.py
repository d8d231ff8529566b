"""Bounds: how soon a fault that was put in could be told from noise at all.

Whoever knows the law of a topic and the state of its component, and nothing else, may tell a fault once the likelihood
of what came is 100,000 times larger with it than without: that many topic-days may have one false alarm. No detector
that learns both from counts is faster. What belongs here: these likelihoods, half day by half day. The laws:
`simulated_days.py`.
"""

from __future__ import annotations

from math import inf

import numpy as np

from efd_pipelines.forecasting.half_days import PARTS, Counts, Numbers
from efd_pipelines_tests.unit.forecasting.simulated_days import Law

LEVEL = np.log(1e5)
_WEEKLY = np.log(1.05)
_OTHER_TEXTS = 0.015
"""Variance of the logarithm of sizes that are 0.6 to 1.6 times as usual on one day of five."""

_ORDER = tuple(PARTS.index(part) for part in ("night", "day"))
_LOG_NORMAL = ("telemetry", "heartbeat")
_POISSON = ("regular", "rare")


def days_to_tell(law: Law, faulty: Counts, topic: int, fault: str, begin: int) -> float:
    """Days until a fault that began on day `begin` could be told; infinite where it could not until the counts end."""
    came = faulty.records[begin:, topic][:, list(_ORDER)].astype(np.float64).ravel()
    mean = law.mean[begin:][:, list(_ORDER)].ravel()
    days = np.repeat(np.arange(1, len(faulty.days) - begin + 1), len(_ORDER))
    steps = np.nan_to_num(_steps(law, fault, came, mean, days), posinf=2 * LEVEL)
    over = np.flatnonzero(np.maximum.accumulate(np.cumsum(steps)) >= LEVEL)
    return float(days[over[0]]) if len(over) else inf


def _steps(law: Law, fault: str, came: Numbers, mean: Numbers, days: Numbers) -> Numbers:
    """Log likelihood ratios of each half day, the fault against none."""
    if fault == "stuck":
        return _of_stuck(law, came, mean)
    if fault == "silent":
        return _of_silence(law, mean)
    if fault in ("size", "size creep"):
        by = np.log(2) if fault == "size" else _WEEKLY * days / 7
        each = law.each**2 / np.maximum(came, 1) + (_OTHER_TEXTS if law.has_other_texts else 0.0)
        return np.where(came > 0, by**2 / (2 * each), 0.0)
    if law.is_busy and law.sort in ("follows", "bursts"):
        return np.zeros(came.shape)  # an exercise campaign does the same to it
    return _of_doubling(law, came, mean) if fault == "doubled" else _of_creep(law, mean, days)


def _of_stuck(law: Law, came: Numbers, mean: Numbers) -> Numbers:
    if law.sort not in _LOG_NORMAL:
        return np.full(came.shape, inf)
    with np.errstate(divide="ignore"):
        away = np.log(came / np.maximum(mean, 1))
    steps: Numbers = np.where(mean < 1, inf, away**2 / (2 * law.spread**2))
    return steps


def _of_silence(law: Law, mean: Numbers) -> Numbers:
    """How unlikely it is that nothing comes."""
    if law.sort in _LOG_NORMAL:
        return np.where(mean >= 2, inf, 0.0)
    if law.sort in _POISSON:
        return mean
    steps: Numbers = law.spread * np.log1p(mean / law.spread)
    return steps


def _of_doubling(law: Law, came: Numbers, mean: Numbers) -> Numbers:
    if law.sort in _LOG_NORMAL:
        return np.where(mean >= 2, np.log(2) ** 2 / (2 * law.spread**2), 0.0)
    if law.sort in _POISSON:
        return np.where(mean > 0, came * np.log(2) - mean, 0.0)
    k = law.spread
    with np.errstate(invalid="ignore", divide="ignore"):
        steps = came * np.log(2) - (came + k) * np.log((k + 2 * mean) / (k + mean))
    found: Numbers = np.where(mean > 0, steps, 0.0)
    return found


def _of_creep(law: Law, mean: Numbers, days: Numbers) -> Numbers:
    by = _WEEKLY * days / 7
    with np.errstate(divide="ignore"):
        varied = law.spread**2 if law.sort in _LOG_NORMAL else 1 / mean
        if law.sort in ("follows", "bursts"):
            varied = varied + 1 / law.spread
        steps: Numbers = np.where(mean > 0, by**2 / (2 * varied), 0.0)
    return steps
