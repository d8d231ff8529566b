"""Quartiles: the first and the third of each window of a column, where a deployment asks for them, compiled.

The samples of a window are sorted: networks (`kernel.py`) bring the middle alone to its place, and a window with NaNs
has its quartiles elsewhere in every column. The quartile of n samples is at place (n − 1)/4, or three times that, from
0, between two samples in proportion: R's type 7, as numpy's `percentile` and DuckDB's `quantile_cont` by default.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from efd_pipelines.tiers.jit import compiled
from efd_pipelines.tiers.places import item


@compiled
def window_quartiles(room: Any, addresses: Any, chunks: Any, starts: Any, ends: Any, q1: Any, q3: Any) -> None:
    """Fills in the quartiles of the windows [starts, ends) of one column; 0 where all samples are NaN.

    Args:
        room: an array of the values' type with room for the longest window.
        addresses: of the column's values in each chunk.
        chunks: the number of each chunk's first sample, and of samples in all.
    """
    for window in range(starts.size):
        count, chunk = 0, 0
        for sample in range(starts[window], ends[window]):
            while sample >= chunks[chunk + 1]:
                chunk += 1
            value = item(room, addresses[chunk], sample - chunks[chunk])
            if not np.isnan(value):
                room[count] = value
                count += 1
        if count:
            _sort(room, count)
            q1[window] = _between(room, count - 1)
            q3[window] = _between(room, 3 * (count - 1))


@compiled
def _sort(some: Any, count: int) -> None:
    """Shell's sort, by gaps of 1, 4, 13 …: numba's own takes five seconds to compile."""
    gap = 1
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for n in range(gap, count):
            value, place = some[n], n
            while place >= gap and some[place - gap] > value:
                some[place] = some[place - gap]
                place -= gap
            some[place] = value
        gap //= 3


@compiled
def _between(ordered: Any, quarters: int) -> float:
    """The value at a place in quarters of a sample; of equal neighbours theirs, infinite or not."""
    place, part = quarters // 4, (quarters % 4) / 4.0
    low = np.float64(ordered[place])
    if part == 0.0 or ordered[place + 1] == ordered[place]:
        return low
    return low * (1.0 - part) + np.float64(ordered[place + 1]) * part
