"""References: what is expected of a topic, by its own past, its kind, its component, and its component's steady topics.

Counts come by half day and topic; everything runs on arrays, days × topics, many days at once, and what is expected of
a day is made of the days before it, and of what other topics did on it.
What belongs here: expectations, and the statistics of weeks before a day. Judging by them: `detection.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]

PARTS = ("day", "night")
"""Halves of a UTC day at the observatory: 12:00 to 24:00, and 00:00 to 12:00."""

BASELINE_DAYS, MEMORY_DAYS, LEAST_DAYS = 28, 84, 14
"""What a level is the median of, how far errors are remembered, and how many days a judgement needs."""

REGULAR_COUNT, STEADY_COUNT = 100.0, 20.0
"""Records of a half day that make a topic's level, or its steadiness, known."""

_GROUP = 4
"""Fewer topics than this have no median that one of them cannot move."""

_GROUP_COUNT, _STEADY, _AT_ONCE = 5.0, 0.3, 256
_FLOOR_COUNT, _FLOOR_EVENTS, _FLOOR_SHARE = 5.0, 300.0, 0.05
_ROUND = (np.floor, np.ceil)


@dataclass(frozen=True, slots=True)
class Counts:
    """Records and bytes by half day: arrays of days × topics × parts (`PARTS`).

    `is_telemetry` and `declared_hz` are by topic; `days` are dates.
    """

    topics: tuple[str, ...]
    components: tuple[str, ...]
    kinds: tuple[str, ...]
    declared_hz: Numbers = field(repr=False)
    days: np.ndarray = field(repr=False)
    records: Numbers = field(repr=False)
    bytes: Numbers = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reference:
    """What is expected (days × topics), how far the truth is off (logarithm), and the floor that tames small counts."""

    name: str
    expected: Numbers
    off: Numbers


def expectations(counts: Counts, records: Numbers, scale: Numbers, lag: int = 0) -> list[Reference]:
    """What is expected of each topic, by levels that are `lag` days old."""
    own = before(records, BASELINE_DAYS, 0.5, lag=lag)
    own = np.where(own >= STEADY_COUNT, own, np.nan)  # of what it hardly ever sends, its past says nothing
    ratio = np.where(own >= REGULAR_COUNT, records / np.maximum(own, 1), np.nan)
    steady_ones = before(np.abs(ratio - 1), MEMORY_DAYS, 0.9) < _STEADY
    # What is sent whether its component is enabled or not says nothing of those that are sent while it is.
    varying = np.where(steady_ones, np.nan, scale)
    kind = _by_group(records, varying, groups_of(counts.components, counts.kinds), lag)
    whole = groups_of(counts.components, counts.components)
    component = _by_group(records, scale, whole, lag)
    floor = np.where(is_telemetry(counts), _FLOOR_COUNT, _FLOOR_EVENTS) + _FLOOR_SHARE * np.nan_to_num(scale)
    of_own = np.log((records + floor) / (own + floor))
    steady = own * _running(np.where(steady_ones, ratio, np.nan), whole)
    named = (("its kind", kind), ("its component", component), ("its component's steady topics", steady))
    return [
        Reference("its own past", own, of_own),
        *(Reference(name, expected, np.log((records + floor) / (expected + floor))) for name, expected in named),
    ]


def _running(steady: Numbers, groups: Sequence[np.ndarray]) -> Numbers:
    """How much of their past level the steady topics of each topic's component send: nothing when it is down. A topic
    does not speak for itself where few do."""
    found = np.full(steady.shape, np.nan, dtype=np.float32)
    for members in groups:
        some = steady[:, members]
        known = np.isfinite(some).sum(axis=1)
        many, few = known >= _GROUP, (known > 0) & (known < _GROUP)
        if many.any():
            found[np.ix_(many, members)] = np.nanmedian(some[many], axis=1)[:, None]
        if few.any():
            found[np.ix_(few, members)] = _others(some[few])
    return found


def _others(some: Numbers) -> Numbers:
    """For each of few topics the mean of the others that are known."""
    there = np.isfinite(some)
    total, count = np.nan_to_num(some).sum(axis=1, keepdims=True), there.sum(axis=1, keepdims=True)
    others = count - there
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: Numbers = np.where(others > 0, (total - np.nan_to_num(some)) / others, np.nan)
    return mean


def _by_group(records: Numbers, scale: Numbers, groups: Sequence[np.ndarray], lag: int) -> Numbers:
    """What each topic would have sent had it followed its group: the group's activity is the median of what its topics
    send of what they can, and a topic's share of that is the median of its last weeks."""
    then = _activity(records, scale, groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(then > 0.1, records / then, np.nan)
    # What topics can send is measured as it was then, or its own drift would pass for the topic's.
    now = then if not lag else _activity(records, shifted(scale, lag), groups)
    return before(share, BASELINE_DAYS, 0.5, least=7, lag=lag) * now


def _activity(records: Numbers, scale: Numbers, groups: Sequence[np.ndarray]) -> Numbers:
    """The median share of what they can send that the topics of each group do send."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(scale >= _GROUP_COUNT, records / scale, np.nan)
    activity = np.full(records.shape, np.nan, dtype=np.float32)
    for members in groups:
        some = relative[:, members]
        enough = np.isfinite(some).sum(axis=1) >= _GROUP
        middle = np.full(len(records), np.nan)
        if enough.any():
            middle[enough] = np.nanmedian(some[enough], axis=1)
        activity[:, members] = middle[:, None]
    return activity


def groups_of(components: Sequence[str], kinds: Sequence[str]) -> list[np.ndarray]:
    """Indices of the topics of each component and kind; events, commands and acks are one kind here."""
    of: dict[tuple[str, str], list[int]] = {}
    for index, (component, kind) in enumerate(zip(components, kinds, strict=True)):
        of.setdefault((component, kind), []).append(index)
    return [np.array(members) for members in of.values()]


def is_telemetry(counts: Counts) -> Numbers:
    return np.array([kind == "telemetry" for kind in counts.kinds])


def before(of: Numbers, days: int, rank: float, *, least: int = LEAST_DAYS, lag: int = 0) -> Numbers:
    """Quantile (0: the least, 0.5: the median, 1: the most) of the `days` before each day, or before the `lag` days
    before it, of what is known; NaN where fewer than `least` are."""
    past = np.full((of.shape[1], days + lag + len(of)), np.inf, dtype=np.float32)
    past[:, days + lag :] = np.where(np.isnan(of), np.inf, of).T
    windows = np.lib.stride_tricks.sliding_window_view(past, days, axis=1)[:, : len(of)]
    found = np.empty((of.shape[1], len(of)), dtype=np.float32)
    for begin in range(0, len(found), _AT_ONCE):
        some = windows[begin : begin + _AT_ONCE]
        known = np.isfinite(some).sum(axis=-1)
        if rank in (0.0, 1.0):
            most = some.min(axis=-1) if rank == 0 else np.where(np.isfinite(some), some, -np.inf).max(axis=-1)
            found[begin : begin + _AT_ONCE] = np.where(known >= least, most, np.nan)
            continue
        some = np.sort(some, axis=-1)
        place = (np.maximum(known, 1) - 1) * rank
        below, above = (np.take_along_axis(some, f(place).astype(np.int64)[..., None], -1)[..., 0] for f in _ROUND)
        found[begin : begin + _AT_ONCE] = np.where(known >= least, (below + above) / 2, np.nan)
    return found.T


def shifted(of: Numbers, days: int) -> Numbers:
    """What was so many days before each day; NaN where that is not known."""
    past = np.full(of.shape, np.nan, dtype=of.dtype)
    past[days:] = of[: len(of) - days]
    return past
