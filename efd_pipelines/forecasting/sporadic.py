"""Sporadic: events, commands and acks that come by chance, judged by the likelihood of what came since a fault began.

A half day of such a topic says little, several may say enough. What it sends is taken to be negative-binomial about a
mean that goes with how much its component is enabled, or runs where that is all that matters. Evidence is summed up
half day by half day: for silence, of nothing coming where something should; for doubling, of twice as much. A topic is
flagged when the sum passes `ENOUGH`: a frequent one at once, a rare one after days.
What belongs here: this judgement. That of single half days: `detection.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from efd_pipelines.forecasting.evidence import ENOUGH, in_sequence, largest_sums, part_of, past_sum
from efd_pipelines.forecasting.findings import Finding, fault_of
from efd_pipelines.forecasting.half_days import (
    BASELINE_DAYS,
    LEAST_DAYS,
    MEMORY_DAYS,
    PARTS,
    STEADY_COUNT,
    Counts,
    Numbers,
    before,
    groups_of,
    is_telemetry,
    ranked,
)

_DEFLATED = 1.5
"""By how much less regular a topic is taken to be than it was: its law is learnt from twelve weeks."""

_WINSORISED, _STEADY, _STANDBY, _AS_BEFORE = 3.0, 0.3, 0.6, 2.0
_REGULAR, _MOST_REGULAR, _LEAST_REGULAR = 20.0, 500.0, 1e-3
_LOW = 0.05
"""Few half days may be of a process that was restarted."""

_REFERENCE = "what it sent while its component ran"
_WHOLE, _TELL, _LAG_DAYS, _FREQUENT, _BURSTING = 0.2, 5, 14, 5.0, 0.5
_LEAST_RECORDS, _MOST_MEAN, _MOST_A_HALF_DAY = 10.0, 1e5, 2.0


def told(counts: Counts) -> Iterator[Finding]:
    """Sporadic topics that fell silent, or send twice as much."""
    members = np.flatnonzero(~is_telemetry(counts))
    if not len(members):
        return
    whole = groups_of(counts.components, counts.components)
    laws = [_law(counts, counts.records[:, :, part], whole, members) for part in range(len(PARTS))]
    came = in_sequence([counts.records[:, members, part] for part in range(len(PARTS))])
    mean = in_sequence([law.mean for law in laws])
    silence = _silence(came, mean, in_sequence([law.lower for law in laws]))
    loud = _doubling(came, mean, in_sequence([law.upper for law in laws]), in_sequence([law.judged for law in laws]))
    components = [counts.components[n] for n in members]
    for runs in (silence, loud):
        first = _first(runs)
        together = _together(runs, components)
        for half, n in np.argwhere(first):
            observed, usual = float(came[half, n]), float(mean[half, n])
            day, part = part_of(int(half))
            surprise, topic = float(runs[half, n] / ENOUGH), int(members[n])
            yield Finding(
                day, topic, part, fault_of(observed, usual), observed, usual, _REFERENCE, surprise,
                int(together[half, n]),
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Law:
    """What is expected of each half day: the mean, and how regular a topic is (the shape of its negative-binomial law)
    towards less, and towards more; `judged` where more of it would be its own doing, and no burst."""

    mean: Numbers
    lower: Numbers
    upper: Numbers
    judged: Numbers


def _law(counts: Counts, records: Numbers, groups: list[np.ndarray], members: np.ndarray) -> _Law:
    running, enabled, always = _activities(counts, records, groups)
    came = records[:, members].astype(np.float64)
    by_running, by_enabled = (_fitted(came, of[:, members]) for of in (running, enabled))
    # What does not come regularly while its component runs is sent while it is enabled, for all that is known.
    regular = (by_running.upper >= _REGULAR / _DEFLATED) & (by_running.mean >= _FREQUENT)
    alone = regular | always[:, members]
    with np.errstate(invalid="ignore"):
        bursting = by_running.upper < _BURSTING * by_running.lower
    return _Law(
        np.where(alone, by_running.mean, by_enabled.mean),
        np.where(alone, by_running.lower, by_enabled.lower),
        by_running.upper,
        alone & ~bursting,
    )


def _activities(counts: Counts, records: Numbers, groups: list[np.ndarray]) -> tuple[Numbers, Numbers, Numbers]:
    """By topic how much of the half day its component ran, how much of it it was enabled, as far as its other topics
    tell, and whether it is always enabled: all of its telemetry is steady."""
    own = before(records, BASELINE_DAYS, 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(own >= STEADY_COUNT, records / own, np.nan)
        scale = before(records, MEMORY_DAYS, 1.0)
        relative = np.where(scale >= STEADY_COUNT, records / scale, np.nan)
    telemetry = is_telemetry(counts)
    running, enabled = np.full(records.shape, np.nan), np.full(records.shape, np.nan)
    always = np.zeros(records.shape, dtype=bool)
    for group in groups:
        up = (records[:, group] > 0).any(axis=1, keepdims=True)
        near = before(np.where(up, np.abs(ratio[:, group] - 1), np.nan), MEMORY_DAYS, 0.9)
        steady, sending = near < _STEADY, np.isfinite(relative[:, group]) & telemetry[group]
        running[:, group] = ranked(np.where(steady, ratio[:, group], np.nan), 0.5, axis=1)[:, None]
        varying = np.where(sending & ~steady, relative[:, group], np.nan)
        # What is sent in standby, too, is taken off: the least of the last weeks, where these had both.
        least = before(np.where(up, varying, np.nan), MEMORY_DAYS, _LOW)
        beyond = np.where(least < _STANDBY, np.maximum(varying - least, 0.0) / (1 - least), np.nan)
        enabled[:, group] = np.where(np.isfinite(beyond).sum(axis=1) >= 2, ranked(beyond, 0.1, axis=1), np.nan)[:, None]
        always[:, group] = ((sending.sum(axis=1) >= _TELL) & ~(sending & ~steady).any(axis=1))[:, None]
    # How much of a half day a component ran that was down for some of it, few topics tell well.
    whole = np.abs(running - 1) < _WHOLE
    return np.where(whole | (running == 0), running, np.nan), np.minimum(enabled, 1.2), always


@dataclass(frozen=True, slots=True)
class _Fit:
    mean: Numbers
    lower: Numbers
    upper: Numbers


def _fitted(came: Numbers, activity: Numbers) -> _Fit:
    """The law of the twelve weeks before each day: records a unit of activity, and the shape by their moments; towards
    less, without what bursts add."""
    active = np.where(np.isfinite(came) & (activity > 0.02), activity, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = came / active
        usual = before(each, MEMORY_DAYS, 0.5, lag=_LAG_DAYS)
        calm = np.where(usual > 0, np.minimum(came, _WINSORISED * usual * active + 3), came)
        mean, upper = _moments(came, active)
        _, lower = _moments(calm, active)
        now = mean * np.where(np.isfinite(activity), activity, np.nan)
    return _Fit(np.minimum(now, _MOST_MEAN), lower / _DEFLATED, upper / _DEFLATED)


def _moments(came: Numbers, active: Numbers) -> tuple[Numbers, Numbers]:
    """Records a unit of activity in the weeks before, and the shape of their negative-binomial law."""
    known = np.isfinite(active)
    a, x = np.where(known, active, 0.0), np.where(known, came, 0.0)
    days, total, units = (_past(of) for of in (known, x, a))
    rate = np.where((days >= LEAST_DAYS) & (total >= _LEAST_RECORDS), total / units, np.nan)
    squares = _past(a * a)
    away = _past(x * x) - 2 * rate * _past(x * a) + rate**2 * squares
    excess = np.maximum((away - total) / np.maximum(rate**2 * squares, 1e-9), 1 / _MOST_REGULAR)
    # Few days may look more regular than they are.
    return rate, np.clip(1 / excess * np.minimum(days / MEMORY_DAYS, 1.0), _LEAST_REGULAR, _MOST_REGULAR)


def _past(of: Numbers) -> Numbers:
    """The sum of twelve weeks before each day, the last days before it left out: they may be the fault's."""
    return past_sum(of, MEMORY_DAYS, _LAG_DAYS)


def _silence(came: Numbers, mean: Numbers, shape: Numbers) -> Numbers:
    """Evidence of silence: the sum over the half days since the last record of how unlikely nothing was, where it is
    beyond twice what it has been before."""
    known = np.isfinite(mean) & np.isfinite(shape)
    step = np.where(known, shape * np.log1p(np.nan_to_num(mean) / np.where(known, shape, 1.0)), 0.0)
    runs, run, longest = np.zeros(came.shape), np.zeros(came.shape[1]), np.zeros(came.shape[1])
    for half in range(len(came)):
        over = came[half] > 0
        longest = np.where(over, np.maximum(longest, run), longest)
        run = np.where(over, 0.0, run + step[half])
        runs[half] = np.where(run > _AS_BEFORE * longest, run, 0.0)
    return runs


def _doubling(came: Numbers, mean: Numbers, shape: Numbers, judged: Numbers) -> Numbers:
    """Evidence of doubling: the largest sum, over the half days up to each, of the log likelihood of twice the mean
    against the mean."""
    known = judged & np.isfinite(mean) & np.isfinite(shape) & (np.nan_to_num(mean) > 0)
    mu, k = np.where(known, mean, 1.0), np.where(known, shape, 1.0)
    step = np.where(known, came * np.log(2) - (came + k) * np.log((k + 2 * mu) / (k + mu)), 0.0)
    # A burst is no doubling, however large: it takes several half days, but of what never bursts.
    step = np.where(k >= _REGULAR / _DEFLATED, step, np.minimum(step, _MOST_A_HALF_DAY))
    return largest_sums(step)


def _first(runs: Numbers) -> Numbers:
    """When evidence passes what is told; again only after it had fallen to half of that."""
    found, told_already = np.zeros(runs.shape, dtype=bool), np.zeros(runs.shape[1], dtype=bool)
    for half, of in enumerate(runs):
        found[half] = (of >= ENOUGH) & ~told_already
        told_already = (told_already | found[half]) & (of >= ENOUGH / 2)
    return found


def _together(runs: Numbers, components: list[str]) -> Numbers:
    """By topic how many of its component are on the way to being told, itself included; all where half of them are."""
    found = np.ones(runs.shape)
    for group in groups_of(components, components):
        some = runs[:, group] > ENOUGH / 2
        many = some.sum(axis=1, keepdims=True)
        found[:, group] = np.where(some, many, found[:, group])
    return found
