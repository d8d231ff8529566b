"""Ages: how old records were when a commit made them visible, as quantiles that stay true when they are put together.

A drain's records are taken to be spread evenly between the first and the last event time of its commit: a stretch of
ages. A sealed week keeps the quantiles of all its stretches, each part between two of them a stretch again, so that the
latency of years is known from some numbers a week and topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RANKS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""What a sealed week keeps."""

_MOST_POINTS, _ALL_POINTS = 21, 2_000_000

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ages:
    """Stretches of ages, in seconds, each with its records spread evenly over it."""

    least: Numbers
    most: Numbers
    records: Numbers

    @classmethod
    def of(cls, least_s: Sequence[float], most_s: Sequence[float], records: Sequence[float]) -> Ages:
        return cls(*(np.asarray(of, dtype=np.float64) for of in (least_s, most_s, records)))

    @classmethod
    def together(cls, parts: Sequence[Ages]) -> Ages:
        """All of several; nothing of none."""
        if not parts:
            return cls.of((), (), ())
        return cls(*(np.concatenate([getattr(one, name) for one in parts]) for name in ("least", "most", "records")))

    def scaled(self, by: float) -> Ages:
        """The same, in another unit."""
        return Ages(self.least * by, self.most * by, self.records)

    @property
    def count(self) -> int:
        """The records."""
        return round(float(self.records.sum()))

    def quantiles(self, ranks: Sequence[float] = RANKS) -> Numbers:
        """Seconds by rank (0: the least, 1: the most); there must be records."""
        points = int(np.clip(_ALL_POINTS // max(len(self.records), 1), 3, _MOST_POINTS))
        share = np.linspace(0.0, 1.0, points)
        ages = (self.least[:, None] + (self.most - self.least)[:, None] * share).ravel()
        order = np.argsort(ages)
        reached = np.cumsum(np.repeat(self.records / points, points)[order])
        places = np.searchsorted(reached, np.asarray(ranks) * reached[-1] * (1 - 1e-12))
        found: Numbers = ages[order[np.minimum(places, len(order) - 1)]]
        return found


def packed_ages(ages: Ages) -> list[int]:
    """Ages as a sealed row keeps them: records, then milliseconds by `RANKS`; nothing of none."""
    if not ages.count:
        return []
    return [ages.count, *(round(1000 * age) for age in ages.quantiles().tolist())]


def ages_of(packed: Sequence[int]) -> Ages:
    """What `packed_ages` gave, as stretches between its quantiles."""
    if not packed:
        return Ages.together([])
    seconds = np.asarray(packed[1:], dtype=np.float64) / 1000
    return Ages(seconds[:-1], seconds[1:], packed[0] * np.diff(np.asarray(RANKS)))
