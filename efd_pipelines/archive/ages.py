"""Ages: how old records were when a commit made them visible, in classes that can be added up.

A drain's records are taken to be spread evenly between the first and the last event time of its commit: a stretch of
ages. A sealed week keeps how many of its records were in which class of ages, each a stretch again, so that the latency
of years is known from some numbers a week and topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CLASSES, _POINTS_KEPT = 8, 32
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

    @property
    def lasts(self) -> Numbers:
        """How long each stretch is."""
        return self.most - self.least

    def quantiles(self, ranks: Sequence[float]) -> Numbers:
        """Seconds by rank (0: the least, 1: the most); there must be records."""
        points = int(np.clip(_ALL_POINTS // max(len(self.records), 1), 3, _MOST_POINTS))
        share = np.linspace(0.0, 1.0, points)
        ages = (self.least[:, None] + self.lasts[:, None] * share).ravel()
        order = np.argsort(ages)
        reached = np.cumsum(np.repeat(self.records / points, points)[order])
        places = np.searchsorted(reached, np.asarray(ranks) * reached[-1] * (1 - 1e-12))
        found: Numbers = ages[order[np.minimum(places, len(order) - 1)]]
        return found


def packed_ages(ages: Ages, before: Sequence[int] = ()) -> list[int]:
    """Ages as a sealed row keeps them: classes that came, each with its records; `before` is what it kept already.

    Whole numbers, so that a week that is sealed twice has what it would have if sealed once. Classes are by the
    logarithm, eight for each doubling: 9 % wide.
    """
    found = dict(zip(before[::2], before[1::2], strict=True))
    points = np.linspace(0.0, 1.0, _POINTS_KEPT)
    kinds = np.floor(_CLASSES * np.log2(1 + np.maximum(ages.least[:, None] + ages.lasts[:, None] * points, 0.0)))
    shares = np.arange(_POINTS_KEPT + 1) * ages.records[:, None].astype(np.int64) // _POINTS_KEPT
    classes, place = np.unique(kinds.astype(np.int64), return_inverse=True)
    counts = np.bincount(place.ravel(), weights=np.diff(shares, axis=1).ravel(), minlength=len(classes))
    for kind, count in zip(classes.tolist(), counts.tolist(), strict=True):
        found[kind] = found.get(kind, 0) + round(count)
    return [number for kind in sorted(found) if found[kind] for number in (kind, found[kind])]


def ages_of(packed: Sequence[int]) -> Ages:
    """What `packed_ages` gave, as stretches: one for each class."""
    kinds, records = (np.asarray(packed[n::2], dtype=np.float64) for n in (0, 1))
    return Ages(2 ** (kinds / _CLASSES) - 1, 2 ** ((kinds + 1) / _CLASSES) - 1, records)
