"""Kernel: five exact statistics of every window of a block of columns, compiled.

Importing this module imports numba, which takes a second: only `statistics.py` does, and only when it computes.
The compiled code is kept (`efd_pipelines.compiled`), so a machine compiles once; it needs no compiler of its own.

How it works: a window of up to `max_lanes` columns is gathered into a buffer with one row per sample and one
lane per column; every pass then runs along the lanes, which vectorises. Floats are turned into integers that sort as
they do (−0.0 below +0.0), missing values into the largest integer, and the buffer is sorted by Batcher's merge
exchange (Knuth, The Art of Computer Programming, vol. 3, 5.2.2, algorithm M), which takes any number of samples
and compares without branches. Minimum, maximum and the two middle values are then rows of the buffer.
The inner functions take slices and no offsets, because only then does the compiler vectorise their loops.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from efd_pipelines.compiled import cache_directory

_GATHER_BLOCK = 16

_DIRECTORY = cache_directory()
if _DIRECTORY is not None and not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(_DIRECTORY)  # type: ignore[attr-defined]
# Division by zero gives NaN, as in numpy, and is no error.
_jit = numba.njit(nogil=True, cache=_DIRECTORY is not None, error_model="numpy")


@_jit
def _exchange(low: Any, high: Any) -> None:
    for lane in range(low.size):
        one = low[lane]
        other = high[lane]
        low[lane] = min(one, other)
        high[lane] = max(one, other)


@_jit
def _sort(keys: Any, samples: int, lanes: int) -> None:
    """Sorts each lane. Rows whose partners are equally far are exchanged in one go, to give long loops."""
    top = 1
    while top < samples:
        top *= 2
    step = top // 2
    while step > 0:
        reach = top // 2
        offset = 0
        distance = step
        while distance > 0:
            row = offset
            while row < samples - distance:
                run = min(step, samples - distance - row)
                far = row + distance
                _exchange(keys[row * lanes : (row + run) * lanes], keys[far * lanes : (far + run) * lanes])
                row += 2 * step
            distance = reach - step
            reach //= 2
            offset = step
        step //= 2


@_jit
def _gather(bits: Any, column: int, lanes: int, first: int, samples: int, keys: Any) -> None:
    """One window into rows; some columns at a time, or the rows' cache lines would evict each other."""
    for begin in range(0, lanes, _GATHER_BLOCK):
        width = min(_GATHER_BLOCK, lanes - begin)
        for sample in range(samples):
            row = keys[sample * lanes + begin : sample * lanes + begin + width]
            for lane in range(width):
                row[lane] = bits[column + begin + lane, first + sample]


@_jit
def _add(values: Any, keys: Any, largest: Any, infinity: Any, count: Any, total: Any) -> None:
    for lane in range(total.size):
        present = (keys[lane] & largest) <= infinity
        total[lane] += np.float64(values[lane]) if present else 0.0
        count[lane] += 1 if present else 0


@_jit
def _deviate(values: Any, keys: Any, largest: Any, infinity: Any, mean: Any, total: Any, squares: Any) -> None:
    for lane in range(mean.size):
        present = (keys[lane] & largest) <= infinity
        deviation = np.float64(values[lane]) - mean[lane]
        deviation = deviation if present else 0.0
        total[lane] += deviation
        squares[lane] += deviation * deviation


@_jit
def _make_sortable(keys: Any, largest: Any, infinity: Any, flipped: Any) -> None:
    sign = 8 * keys.itemsize - 1
    for lane in range(keys.size):
        key = keys[lane]
        present = (key & largest) <= infinity
        key = key ^ ((key >> sign) & flipped)
        keys[lane] = key if present else largest


@_jit
def _take(keys: Any, row: int, lane: int, lanes: int, flipped: Any) -> Any:
    """The bits of the sample that was sorted into a row."""
    key = keys[row * lanes + lane]
    return key ^ ((key >> (8 * keys.itemsize - 1)) & flipped)


@_jit
def _moments(
    keys: Any, values: Any, samples: int, largest: Any, infinity: Any, count: Any, means: Any, stdevs: Any
) -> None:
    """Mean and standard deviation (n−1) in two passes; what rounding left in the mean corrects both."""
    lanes = count.size
    total = np.zeros(lanes, np.float64)
    for sample in range(samples):
        row = slice(sample * lanes, (sample + 1) * lanes)
        _add(values[row], keys[row], largest, infinity, count, total)
    for lane in range(lanes):
        means[lane] = total[lane] / count[lane]
        total[lane] = 0.0
    squares = np.zeros(lanes, np.float64)
    for sample in range(samples):
        row = slice(sample * lanes, (sample + 1) * lanes)
        _deviate(values[row], keys[row], largest, infinity, means, total, squares)
    for lane in range(lanes):
        rest = total[lane] / count[lane]
        stdevs[lane] = np.sqrt(np.maximum(squares[lane] - rest * total[lane], 0.0) / (count[lane] - 1))
        if np.isfinite(rest):
            means[lane] += rest


@_jit
def window_statistics(
    tile: Any,
    bits: Any,
    starts: Any,
    ends: Any,
    largest: Any,
    infinity: Any,
    flipped: Any,
    max_lanes: int,
    counts: Any,
    extremes: Any,
    reals: Any,
) -> None:
    """Fills the results, arrays (windows, columns): `counts`, two `extremes`, three `reals`.

    Args:
        tile: the values, a row for each column; `bits` are the same as integers.
        starts, ends: the windows, as rows of samples [start, end).
        largest: the largest integer of the width of `bits`: all bits but the sign.
        infinity: the bits of +∞, beyond which a float is NaN; for integers `largest`, since none is missing.
        flipped: the bits that are flipped in negative values to make them sort: `largest`, for integers 0.
        max_lanes: so many columns are computed together.
        extremes: minimum and maximum, as bits; `reals`: mean, median and stdev.

    Where nothing is counted, the results mean nothing; stdev likewise below two.
    """
    longest = 1
    for window in range(starts.size):
        longest = max(longest, ends[window] - starts[window])
    buffer = np.empty(longest * min(max_lanes, tile.shape[0]), bits.dtype)
    numbers = buffer.view(tile.dtype)
    pair = np.empty(2, bits.dtype)
    middle = pair.view(tile.dtype)
    for column in range(0, tile.shape[0], max_lanes):
        lanes = min(max_lanes, tile.shape[0] - column)
        for window in range(starts.size):
            samples = ends[window] - starts[window]
            count = counts[window, column : column + lanes]
            _gather(bits, column, lanes, starts[window], samples, buffer)
            _moments(
                buffer,
                numbers,
                samples,
                largest,
                infinity,
                count,
                reals[0, window, column : column + lanes],
                reals[2, window, column : column + lanes],
            )
            _make_sortable(buffer[: samples * lanes], largest, infinity, flipped)
            _sort(buffer, samples, lanes)
            for lane in range(lanes):
                present = count[lane]
                if present == 0:
                    continue
                extremes[0, window, column + lane] = _take(buffer, 0, lane, lanes, flipped)
                extremes[1, window, column + lane] = _take(buffer, present - 1, lane, lanes, flipped)
                pair[0] = _take(buffer, (present - 1) // 2, lane, lanes, flipped)
                pair[1] = _take(buffer, present // 2, lane, lanes, flipped)
                reals[1, window, column + lane] = _middle(middle, present % 2 == 1)


@_jit
def _middle(pair: Any, is_one: bool) -> float:
    """The middle sample itself, or the mean of two; the sum of the largest doubles would be infinite."""
    if is_one:
        return np.float64(pair[0])
    return (np.float64(pair[0]) + np.float64(pair[1])) / 2.0
