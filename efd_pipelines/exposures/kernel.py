"""Kernel: moments of every window of a block of columns, compiled.

Importing this module imports numba, which takes a second: only `moments.py` does, and only when it computes. The
compiled code is kept (`efd_pipelines.compiled`). A block has one row per field and one column per sample, as columns
come from Parquet; missing values are NaN. Sums are in float64, whatever the values are.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from efd_pipelines.compiled import cache_directory

_DIRECTORY = cache_directory()
if _DIRECTORY is not None and not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(_DIRECTORY)  # type: ignore[attr-defined]
# Division by zero gives NaN, as in numpy, and is no error.
_jit = numba.njit(nogil=True, cache=_DIRECTORY is not None, error_model="numpy")


@_jit
def window_means(block: Any, first: Any, end: Any, means: Any, counts: Any) -> None:
    """The mean of each window (rows of `means`) and field (columns), NaN where a window has no value.

    `counts`, which begin at 0, are increased by the number of values of each window, all fields together.
    """
    for lane in range(block.shape[0]):
        values = block[lane]
        for window in range(first.size):
            count = 0
            total = 0.0
            for sample in range(first[window], end[window]):
                value = np.float64(values[sample])
                if value == value:
                    total += value
                    count += 1
            means[window, lane] = total / count if count else np.nan
            counts[window] += count


@_jit
def window_moments(
    block: Any, first: Any, end: Any, counts: Any, means: Any, squares: Any, lows: Any, highs: Any
) -> None:
    """Number, mean, sum of squared deviations, minimum and maximum of each window (rows) and field (columns).

    In two passes; what rounding left in the mean corrects mean and squares.
    """
    for lane in range(block.shape[0]):
        values = block[lane]
        for window in range(first.size):
            count = 0
            total = 0.0
            low = np.inf
            high = -np.inf
            for sample in range(first[window], end[window]):
                value = np.float64(values[sample])
                if value == value:
                    total += value
                    count += 1
                    low = min(low, value)
                    high = max(high, value)
            counts[window, lane] = count
            if count == 0:
                means[window, lane] = squares[window, lane] = lows[window, lane] = highs[window, lane] = np.nan
                continue
            mean = total / count
            rest = 0.0
            square = 0.0
            for sample in range(first[window], end[window]):
                value = np.float64(values[sample])
                if value == value:
                    deviation = value - mean
                    rest += deviation
                    square += deviation * deviation
            correction = rest / count
            means[window, lane] = mean + correction if np.isfinite(correction) else mean
            squares[window, lane] = max(square - rest * correction, 0.0)
            lows[window, lane] = low
            highs[window, lane] = high


@_jit
def window_edges(block: Any, first: Any, end: Any, earliest: Any, latest: Any) -> None:
    """The first and the last sample of each window (rows) and field (columns) that has a value; -1 where none has."""
    for lane in range(block.shape[0]):
        values = block[lane]
        for window in range(first.size):
            earliest[window, lane] = latest[window, lane] = -1
            for sample in range(first[window], end[window]):
                if values[sample] == values[sample]:
                    earliest[window, lane] = sample
                    break
            if earliest[window, lane] < 0:
                continue
            sample = end[window] - 1
            while values[sample] != values[sample]:
                sample -= 1
            latest[window, lane] = sample
