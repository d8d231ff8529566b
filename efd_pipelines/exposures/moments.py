"""Moments: number, mean, spread and extremes of the samples of many windows at once, and means of short intervals.

What most functions of `functions.py` are computed from. A block has shape (fields, samples), NaN for what is missing;
windows are ranges of samples in the order of time, first included, end excluded. The compiled part: `kernel.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """Of shape (windows, fields); `squares` sums the squared deviations from the mean. NaN where `count` is 0."""

    count: Indices
    mean: Numbers
    squares: Numbers
    low: Numbers
    high: Numbers

    def pooled(self) -> Moments:
        """Those of all fields together, as if each element were a sample of its own: shape (windows, 1)."""
        if self.count.shape[1] == 1:
            return self
        count = self.count.sum(axis=1, keepdims=True)
        there = self.count > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            total = np.where(there, self.mean * self.count, 0.0).sum(axis=1, keepdims=True)
            mean = total / count
            spread = np.where(there, self.squares + self.count * (self.mean - mean) ** 2, 0.0)
        squares = np.where(count > 0, spread.sum(axis=1, keepdims=True), np.nan)
        low = np.fmin.reduce(self.low, axis=1, keepdims=True)
        high = np.fmax.reduce(self.high, axis=1, keepdims=True)
        return Moments(count, mean, squares, low, high)


def moments(block: Block, first: Indices, end: Indices) -> Moments:
    """The moments of each window and field."""
    from efd_pipelines.exposures.kernel import window_moments

    shape = (len(first), block.shape[0])
    count = np.zeros(shape, dtype=np.int64)
    mean, squares, low, high = (np.full(shape, np.nan) for _ in range(4))
    window_moments(np.ascontiguousarray(block), first, end, count, mean, squares, low, high)
    return Moments(count, mean, squares, low, high)


@dataclass(frozen=True, slots=True)
class Edges:
    """The values of the first and the last samples that have one, of shape (windows, fields); NaN where none has."""

    first: Numbers
    last: Numbers


def edges(block: Block, first: Indices, end: Indices, *, pooled: bool) -> Edges:
    """Of each field; `pooled`: of the first field that has a value in the earliest, and the latest, sample of any."""
    from efd_pipelines.exposures.kernel import window_edges

    earliest, latest = (np.empty((len(first), block.shape[0]), dtype=np.int64) for _ in range(2))
    window_edges(np.ascontiguousarray(block), first, end, earliest, latest)
    if not pooled:
        return Edges(*(_at(block, np.arange(block.shape[0])[None, :], samples) for samples in (earliest, latest)))
    never = np.iinfo(np.int64).max
    field_first = np.where(earliest < 0, never, earliest).argmin(axis=1)[:, None]
    field_last = latest.argmax(axis=1)[:, None]
    return Edges(
        _at(block, field_first, np.take_along_axis(earliest, field_first, axis=1)),
        _at(block, field_last, np.take_along_axis(latest, field_last, axis=1)),
    )


def _at(block: Block, fields: Indices, samples: Indices) -> Numbers:
    found: Numbers = np.where(samples >= 0, block[fields, np.maximum(samples, 0)], np.nan).astype(np.float64)
    return found


@dataclass(frozen=True, slots=True)
class Intervals:
    """Samples reduced to the means of intervals, and where each window's intervals lie among them.

    `counts` has how many values each window had before, all fields together.
    """

    time_us: Indices
    block: Numbers
    first: Indices
    end: Indices
    counts: Indices


def interval_means(time_us: Indices, block: Block, first: Indices, end: Indices, interval_us: int) -> Intervals:
    """One sample for each interval of a window that has any, per field, at the interval's start.

    Intervals are aligned to 1970, as those of InfluxDB's `GROUP BY time()`; only samples of the window go in.
    """
    from efd_pipelines.exposures.kernel import window_means

    bins = time_us // interval_us
    changes = np.flatnonzero(np.diff(bins)) + 1 if len(bins) else np.empty(0, dtype=np.int64)
    low, high = np.searchsorted(changes, first, side="right"), np.searchsorted(changes, end, side="left")
    filled = end > first
    counts = np.where(filled, np.maximum(high - low, 0) + 1, 0)
    ends = np.cumsum(counts)
    starts = ends - counts
    begins = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
    finish = np.empty_like(begins)
    for window in np.flatnonzero(filled).tolist():
        inner = changes[low[window] : high[window]]
        at = slice(int(starts[window]), int(ends[window]))
        begins[at] = np.concatenate([first[window : window + 1], inner])
        finish[at] = np.concatenate([inner, end[window : window + 1]])
    means = np.full((len(begins), block.shape[0]), np.nan)
    values = np.zeros(len(begins), dtype=np.int64)
    window_means(np.ascontiguousarray(block), begins, finish, means, values)
    before = np.concatenate([[0], np.cumsum(values)])
    return Intervals(
        bins[begins] * interval_us, np.ascontiguousarray(means.T), starts, ends, before[ends] - before[starts]
    )
