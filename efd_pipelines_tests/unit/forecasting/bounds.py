"""Bounds: how soon a fault that was put in could be told from noise at all.

Whoever knows the law of a topic, the state of its component and the kind of the fault, and nothing else, may tell it
once the likelihood of what came is so many times larger with it than without that the kinds of faults together raise
one false alarm in 100,000 topic-days: Wald's test, by scipy's distributions. No detector that learns all this from
counts is faster on average; for one that must, the same is asked with some times as much evidence. All of this is made
of the law and of what came, never of what a detector finds.
What belongs here: these likelihoods, half day by half day. The laws: `simulated_days.py`.
"""

from __future__ import annotations

from math import inf

import numpy as np
from scipy.special import logsumexp
from scipy.stats import nbinom, norm, poisson

from efd_pipelines.forecasting.half_days import PART_S, PARTS, Counts, Numbers
from efd_pipelines_tests.unit.forecasting.simulated_days import BURST_LOGS, BURSTS, FAULTS, Law

LEVEL = np.log(1e5 * len(FAULTS))
_WEEKLY = np.log(1.05)
_OTHER_TEXTS = 0.13
"""Deviation of the logarithm of sizes that are 0.6 to 1.6 times as usual on one day of five."""

_ORDER = tuple(PARTS.index(part) for part in ("night", "day"))
_LOG_NORMAL = ("telemetry", "heartbeat")
_GAMMA = ("follows", "bursts")
_MOST = 16 * LEVEL
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
_BURSTS = tuple(zip(BURST_LOGS[0] + BURST_LOGS[1] * _NODES, _WEIGHTS / _WEIGHTS.sum(), strict=True))


def days_to_tell(law: Law, faulty: Counts, topic: int, fault: str, begin: int, times: float = 1.0) -> float:
    """Days until a fault that began on day `begin` could be told with so many times the least evidence (a logarithm);
    infinite where it could not until the counts end."""
    came = faulty.records[begin:, topic][:, list(_ORDER)].astype(np.float64).ravel()
    over = np.flatnonzero(evidence(law, fault, came, law.mean[begin:][:, list(_ORDER)].ravel()) >= times * LEVEL)
    return float(1 + over[0] // len(_ORDER)) if len(over) else inf


def evidence(law: Law, fault: str, came: Numbers, mean: Numbers) -> Numbers:
    """The log likelihood, summed up half day by half day, of what came and was expected since a fault's begin, the
    fault against none."""
    days = 1 + np.arange(len(came)) // len(_ORDER)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.clip(_steps(law, fault, came, mean, days), -_MOST, _MOST)
    summed: Numbers = np.cumsum(steps)
    return summed


def _steps(law: Law, fault: str, came: Numbers, mean: Numbers, days: Numbers) -> Numbers:
    """Log likelihood ratios of each half day, the fault against none."""
    if fault in ("size", "size creep"):
        by = np.log(2) if fault == "size" else _WEEKLY * days / 7
        each = np.hypot(law.each / np.sqrt(np.maximum(came, 1)), _OTHER_TEXTS if law.has_other_texts else 0.0)
        return np.where(came > 0, norm.logpdf(by, by, each) - norm.logpdf(by, 0, each), 0.0)
    if fault in ("stuck", "silent"):
        is_so = came == (50 * PART_S if fault == "stuck" else 0)
        return np.where(is_so, -_usual(law, came, mean), -inf)
    if law.is_exercised and law.sort in _GAMMA:
        return np.zeros(came.shape)  # an exercise campaign does the same to it
    times = 2.0 if fault == "doubled" else np.exp(_WEEKLY * days / 7)
    steps: Numbers = np.where(mean > 0, _usual(law, came, times * mean) - _usual(law, came, mean), 0.0)
    return steps


def _usual(law: Law, came: Numbers, mean: Numbers) -> Numbers:
    """The log likelihood of what came under the law with that mean; of a density where counts are large, relative to
    its highest."""
    if law.sort in _LOG_NORMAL:
        away = np.where(mean < 2, np.where(came >= 2, inf, 0.0), np.log(np.maximum(came, 0.1) / mean) / law.spread)
        relative: Numbers = norm.logpdf(away) - norm.logpdf(0)
        return relative
    if law.sort in _GAMMA:
        found = _by_gamma(law.spread, came, mean)
        if law.sort == "bursts":
            parts = [np.log(1 - BURSTS) + found]
            parts += [np.log(BURSTS * w) + _by_gamma(law.spread, came, mean * np.exp(x)) for x, w in _BURSTS]
            found = logsumexp(np.stack(parts), axis=0)
        return np.where(mean > 0, found, np.where(came > 0, -inf, 0.0))
    of_chance: Numbers = poisson.logpmf(came, mean)
    return of_chance


def _by_gamma(shape: float, came: Numbers, mean: Numbers) -> Numbers:
    found: Numbers = nbinom.logpmf(came, shape, shape / (shape + mean))
    return found
