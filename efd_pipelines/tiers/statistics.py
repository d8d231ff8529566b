"""Statistics: five exact figures of each window of each column, with numpy arrays in and out.

Minimum, maximum and median are exact: the median is a sample, or the mean of the two middle ones. Mean and stdev (n−1)
are computed in double. NaN is no sample; ±∞ are, and follow IEEE 754; −0.0 is below +0.0. The compiled
part is `kernel.py`; which rows make up a window: `windows.py`; columns of a table: `summary.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_LANES = 256
_MIN_LANES = 16
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures of each window and column, arrays (windows, columns).

    `count` is that of the samples which are not missing; where it is 0, the others mean nothing, stdev also at 1.
    """

    count: NDArray[np.int64]
    minimum: NDArray[Any]
    maximum: NDArray[Any]
    mean: NDArray[np.float64]
    median: NDArray[np.float64]
    stdev: NDArray[np.float64]


def window_statistics(
    tile: NDArray[Any],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    present: NDArray[np.bool_] | None = None,
) -> Statistics:
    """Statistics of the windows [starts, ends) of `tile`, (columns, samples) of float32, float64 or int64.

    `present`, of the same shape, says which integers are there; missing floats are NaN.
    """
    if present is None:
        return _dense(tile, starts, ends)
    columns = [_sparse(values, there, starts, ends) for values, there in zip(tile, present, strict=True)]
    return Statistics(*(np.concatenate([getattr(column, name) for column in columns], axis=1) for name in _FIGURES))


_FIGURES = ("count", "minimum", "maximum", "mean", "median", "stdev")


def _sparse(
    values: NDArray[Any], there: NDArray[np.bool_], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> Statistics:
    """One column without its missing values: windows are where they were, counted among those that are left."""
    before = np.concatenate(([0], np.cumsum(there)))
    return _dense(values[there][None, :], before[starts], before[ends])


def _dense(tile: NDArray[Any], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Statistics:
    from efd_pipelines.tiers.kernel import window_statistics as compute

    tile = np.ascontiguousarray(tile)
    bits = np.dtype(f"i{tile.dtype.itemsize}")
    largest = bits.type(np.iinfo(bits).max)
    is_float = tile.dtype.kind == "f"
    infinity = np.array(np.inf, tile.dtype).view(bits)[()] if is_float else largest
    shape = (len(starts), len(tile))
    count = np.zeros(shape, np.int64)
    extremes = np.zeros((2, *shape), bits)
    reals = np.zeros((3, *shape), np.float64)
    if tile.size and len(starts):
        compute(
            tile,
            tile.view(bits),
            np.ascontiguousarray(starts),
            np.ascontiguousarray(ends),
            largest,
            infinity,
            largest if is_float else bits.type(0),
            _lanes(int((ends - starts).max()), bits.itemsize),
            count,
            extremes,
            reals,
        )
    minimum, maximum = extremes.view(tile.dtype)
    mean, median, stdev = reals
    return Statistics(count, minimum, maximum, mean, median, stdev)


def _lanes(longest: int, item_bytes: int) -> int:
    """So many columns at a time that a window's buffer stays in the processor's cache."""
    return min(_MAX_LANES, max(_MIN_LANES, _BUFFER_BYTES // (max(longest, 1) * item_bytes)))
