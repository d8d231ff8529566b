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
_POINTS, _FEW_POINTS = 21, 7
_FEW = 20_000
_FINE = 256
"""Classes for each doubling where stretches are many: 0.3 % wide."""

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
        """Seconds by rank (0: the least, 1: the most); there must be records.

        Of many stretches, to 0.3 %: to sort all of their points takes more memory than a report may.
        """
        if len(self.records) > _FEW:
            return self._in_classes().quantiles(ranks)
        ages = (self.least[:, None] + self.lasts[:, None] * np.linspace(0.0, 1.0, _POINTS)).ravel()
        order = np.argsort(ages)
        reached = np.cumsum(np.repeat(self.records / _POINTS, _POINTS)[order])
        places = np.searchsorted(reached, np.asarray(ranks) * reached[-1] * (1 - 1e-12))
        found: Numbers = ages[order[np.minimum(places, len(order) - 1)]]
        return found

    def _in_classes(self) -> Ages:
        """The same in few stretches: one for each class of ages, by the logarithm; no older than the oldest."""
        low, high = float(min(self.least.min(), 0.0)), float(self.most.max())
        counts = np.zeros(int(_FINE * np.log2(1 + high - low)) + 1)
        for start in range(0, len(self.records), _FEW):
            part = slice(start, start + _FEW)
            for share in (np.arange(_FEW_POINTS) + 0.5) / _FEW_POINTS:
                ages = self.least[part] + self.lasts[part] * share - low
                kinds = (_FINE * np.log2(1 + ages)).astype(np.int64)
                counts += np.bincount(kinds, self.records[part] / _FEW_POINTS, len(counts))
        there = np.flatnonzero(counts)
        least, most = (2 ** (edge / _FINE) - 1 + low for edge in (there, there + 1))
        return Ages(np.minimum(least, high), np.append(most[:-1], high) if len(most) else most, counts[there])


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
