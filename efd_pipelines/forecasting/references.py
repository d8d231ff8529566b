"""References: what is expected of a topic: by its own past, its kind, its component, its component's steady topics, its
twins, and its component's state.

Counts come by half day and topic; everything runs on arrays, days × topics, many days at once, and what is expected of
a day is made of the days before it, and of what other topics did on it.
What belongs here: expectations. Others: `twins.py`, `states.py`; statistics of the weeks before a day:
`half_days.py`; judging: `detection.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from efd_pipelines.forecasting.half_days import (
    BASELINE_DAYS,
    LEAST_DAYS,
    MEMORY_DAYS,
    REGULAR_COUNT,
    STEADY_COUNT,
    Counts,
    Numbers,
    before,
    groups_of,
    is_telemetry,
    middle,
    shifted,
)
from efd_pipelines.forecasting.states import states_expect
from efd_pipelines.forecasting.twins import twins_expect

_GROUP = 4
"""Fewer topics than this have no median that one of them cannot move."""

_SILENT = 0.05
"""Of two steady topics one that sends less than that of what the other does has failed, and not their component."""

_GROUP_COUNT, _STEADY = 5.0, 0.3
_FLOOR_COUNT, _FLOOR_EVENTS, _FLOOR_SHARE = 5.0, 300.0, 0.05
_COMPARABLE, _SPREAD_FLOOR = 2.5, 0.1
_LATELY_DAYS, _LATELY_KNOWN = 7, 4


@dataclass(frozen=True, slots=True)
class Reference:
    """What is expected (days × topics), and how far the truth is off (logarithm; a floor tames small counts)."""

    name: str
    expected: Numbers
    off: Numbers


def expectations(counts: Counts, records: Numbers, scale: Numbers, lag: int = 0) -> list[Reference]:
    """What is expected of each topic, by levels that are `lag` days old."""
    own = before(records, BASELINE_DAYS, 0.5, lag=lag)
    own = np.where(own >= STEADY_COUNT, own, np.nan)  # of what it hardly ever sends, its past says nothing
    ratio = np.where(own >= REGULAR_COUNT, records / np.maximum(own, 1), np.nan)
    whole = groups_of(counts.components, counts.components)
    # A component that is down as a whole says nothing of how steady its topics are.
    steady_ones = before(np.where(_is_up(records, whole), np.abs(ratio - 1), np.nan), MEMORY_DAYS, 0.9) < _STEADY
    # What is sent whether its component is enabled or not says nothing of those that are sent while it is.
    varying = np.where(steady_ones, np.nan, scale)
    kind = _by_group(records, varying, groups_of(counts.components, counts.kinds), lag, _middle)
    component = _by_group(records, scale, whole, lag, _middle_of_others)
    floor = np.where(is_telemetry(counts), _FLOOR_COUNT, _FLOOR_EVENTS) + _FLOOR_SHARE * np.nan_to_num(scale)
    running = _running(np.where(steady_ones, ratio, np.nan), whole)
    named = (
        ("its own past", own),
        ("its kind", kind),
        ("its component", component),
        ("its component's steady topics", own * running),
        ("what moved as it did", twins_expect(counts, records, lag)),
        ("its component's state", states_expect(counts, records, running, lag)),
    )
    return [Reference(name, of, np.log((records + floor) / (of + floor))) for name, of in named]


def good_ones(off: Numbers) -> Numbers:
    """Which references have been good lately: off by not much more than the best of them, on nine days of ten. All are
    that are off by little on those."""
    spread = _spread(off, MEMORY_DAYS, 0.9, LEAST_DAYS)
    least = np.where(np.isfinite(spread), spread, np.inf).min(axis=0)
    good: Numbers = np.isfinite(off) & (spread <= np.maximum(_SPREAD_FLOOR, _COMPARABLE * least))
    return good


def new_ones(off: Numbers) -> Numbers:
    """Which references are known for some days only, and were near on all of those of the last week: they may acquit a
    topic, not accuse it."""
    unknown = ~np.isfinite(_spread(off, MEMORY_DAYS, 0.9, LEAST_DAYS))
    new: Numbers = np.isfinite(off) & unknown & (_spread(off, _LATELY_DAYS, 1.0, _LATELY_KNOWN) < _SPREAD_FLOOR)
    return new


def _spread(off: Numbers, days: int, rank: float, least: int) -> Numbers:
    return np.stack([before(np.abs(one), days, rank, least=least) for one in off])


def least_off(off: Numbers, good: Numbers) -> tuple[Numbers, np.ndarray]:
    """What no good reference explains: the least of how far they are off, and whose that is; NaN where none is good."""
    size = np.where(good, np.abs(off), np.inf)
    left = size.min(axis=0)
    return np.where(np.isfinite(left), left, np.nan), size.argmin(axis=0)


def lowest(expected: Numbers) -> Numbers:
    """The least that any reference expects, of those that know."""
    least: Numbers = np.where(np.isfinite(expected), expected, np.inf).min(axis=0)
    return least


def _is_up(records: Numbers, groups: Sequence[np.ndarray]) -> Numbers:
    """Whether anything of each topic's component came."""
    found = np.zeros(records.shape, dtype=bool)
    for members in groups:
        found[:, members] = (records[:, members] > 0).any(axis=1, keepdims=True)
    return found


def _running(steady: Numbers, groups: Sequence[np.ndarray]) -> Numbers:
    """How much of their past level the steady topics of each topic's component send: nothing when it is down. A topic
    does not speak for itself where few do, and of two of which one is silent nobody knows which is right."""
    found = np.full(steady.shape, np.nan, dtype=np.float32)
    for members in groups:
        some = steady[:, members]
        known = np.isfinite(some).sum(axis=1)
        many, few = known >= _GROUP, (known > 0) & (known < _GROUP)
        if many.any():
            found[np.ix_(many, members)] = middle(some[many], axis=1)[:, None]
        if few.any():
            found[np.ix_(few, members)] = _others(some[few])
    return found


def _middle(some: Numbers) -> Numbers:
    """For each topic the median of all."""
    return np.broadcast_to(middle(some, axis=1)[:, None], some.shape)


def _middle_of_others(some: Numbers) -> Numbers:
    """For each topic the median of the others that are known, of which there must be some: with its own silence it
    would move the median of a small component, and be acquitted by it. Topics of a kind keep the median of all: those
    that follow two states by halves would accuse each other."""
    there = np.isfinite(some)
    last = np.where(there, some, np.inf)
    order = np.argsort(last, axis=1)
    ordered, place = np.take_along_axis(last, order, axis=1), np.argsort(order, axis=1)
    others = there.sum(axis=1, keepdims=True) - there
    # In the order of all, those behind a topic are one further on.
    low, high = (np.take_along_axis(ordered, at + (at >= place), axis=1) for at in ((others - 1) // 2, others // 2))
    found: Numbers = (low + high) / 2
    return found


def _others(some: Numbers) -> Numbers:
    """For each of few topics the mean of the others that are known, of three the one in the middle: one of them may
    have failed. NaN where of two one is silent, the other not.
    """
    there, each = np.isfinite(some), np.nan_to_num(some)
    others = there.sum(axis=1, keepdims=True) - there
    total, squares = (of.sum(axis=1, keepdims=True) - of for of in (each, each**2))
    ends = each.max(axis=1, keepdims=True) + np.where(there, each, np.inf).min(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(others == 3, total - ends, total / others)
        # Of two, half of what they are apart.
        deviation = np.sqrt(np.maximum(squares / others - mean**2, 0))
    contradict = (others == 2) & (mean - deviation < _SILENT * (mean + deviation)) & (mean > _SILENT)
    found: Numbers = np.where((others > 0) & ~contradict, mean, np.nan)
    return found


def _by_group(
    records: Numbers, scale: Numbers, groups: Sequence[np.ndarray], lag: int, middle_of: Callable[[Numbers], Numbers]
) -> Numbers:
    """What each topic would have sent had it followed its group: the group's activity is the median of what its topics
    send of what they can, and a topic's share of that is the median of its last weeks."""
    then = _activity(records, scale, groups, middle_of)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(then > 0.1, records / then, np.nan)
    # What topics can send is measured as it was then, or its own drift would pass for the topic's.
    now = then if not lag else _activity(records, shifted(scale, lag), groups, middle_of)
    return before(share, BASELINE_DAYS, 0.5, least=7, lag=lag) * now


def _activity(
    records: Numbers, scale: Numbers, groups: Sequence[np.ndarray], middle_of: Callable[[Numbers], Numbers]
) -> Numbers:
    """For each topic the median share of what they can send that the topics of its group do send."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(scale >= _GROUP_COUNT, records / scale, np.nan)
    activity = np.full(records.shape, np.nan, dtype=np.float32)
    for members in groups:
        some = relative[:, members]
        enough = np.isfinite(some).sum(axis=1) >= _GROUP
        activity[np.ix_(enough, members)] = middle_of(some[enough])
    return activity
