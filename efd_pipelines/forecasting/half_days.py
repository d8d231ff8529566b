"""Half days: how many records and bytes each topic sent by half day, and statistics of the days before each day.

What belongs here: the counts' form, and what may be asked of the past of arrays of days × topics. Counting them:
`counts.py`; what they let expect: `references.py`, `twins.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]

PARTS = ("day", "night")
"""Halves of a UTC day at the observatory: 12:00 to 24:00, and 00:00 to 12:00."""

PART_S = 43_200.0

BASELINE_DAYS, MEMORY_DAYS, LEAST_DAYS = 28, 84, 14
"""What a level is the median of, how far errors are remembered, and how many days a judgement needs."""

REGULAR_COUNT, STEADY_COUNT = 100.0, 20.0
"""Records of a half day that make a topic's level, or its steadiness, known."""

_REGULAR = 0.25
_AT_ONCE = 256
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

    def of(self, topics: np.ndarray) -> Counts:
        """The counts of some topics, by index."""
        return replace(
            self,
            topics=tuple(self.topics[n] for n in topics),
            components=tuple(self.components[n] for n in topics),
            kinds=tuple(self.kinds[n] for n in topics),
            declared_hz=self.declared_hz[topics],
            records=self.records[:, topics],
            bytes=self.bytes[:, topics],
        )


def groups_of(components: Sequence[str], kinds: Sequence[str]) -> list[np.ndarray]:
    """Indices of the topics of each component and kind; events, commands and acks are one kind here."""
    of: dict[tuple[str, str], list[int]] = {}
    for index, (component, kind) in enumerate(zip(components, kinds, strict=True)):
        of.setdefault((component, kind), []).append(index)
    return [np.array(members) for members in of.values()]


def is_telemetry(counts: Counts) -> Numbers:
    return np.array([kind == "telemetry" for kind in counts.kinds])


def mean_size(records: Numbers, sizes: Numbers, least: float = REGULAR_COUNT) -> Numbers:
    """Bytes of a mean record, where there are enough of them and their sizes are known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: Numbers = np.where((records >= least) & (sizes > 0), sizes / records, np.nan)
    return mean


def is_regular(records: Numbers, own: Numbers) -> Numbers:
    """Whether a topic was so steady about its level in the last weeks that it is judged as telemetry is."""
    ratio = np.where(own >= REGULAR_COUNT, records / np.maximum(own, 1), np.nan)
    regular: Numbers = before(np.abs(ratio - 1), MEMORY_DAYS, 0.9, least=2 * BASELINE_DAYS) < _REGULAR
    return regular


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
    past[days:] = of[: max(0, len(of) - days)]
    return past


def middle(of: Numbers, axis: int) -> Numbers:
    """The median of what is known; NaN where nothing is."""
    known = np.isfinite(of)
    ordered = np.sort(np.where(known, of, np.inf), axis=axis)
    count = known.sum(axis=axis, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=axis)
    high = np.take_along_axis(ordered, np.minimum(count // 2, of.shape[axis] - 1), axis=axis)
    found: Numbers = np.squeeze(np.where(count > 0, (low + np.where(count > 0, high, 0)) / 2, np.nan), axis=axis)
    return found


def ranked(of: Numbers, rank: float, axis: int) -> Numbers:
    """A quantile of what is known, the next lower one; NaN where nothing is."""
    count = np.isfinite(of).sum(axis=axis, keepdims=True)
    ordered = np.sort(np.where(np.isfinite(of), of, np.inf), axis=axis)
    place = ((np.maximum(count, 1) - 1) * rank).astype(np.int64)
    found: Numbers = np.squeeze(np.where(count > 0, np.take_along_axis(ordered, place, axis=axis), np.nan), axis=axis)
    return found
