"""Selection: statistics of a window that is too long for a network, one column at a time, compiled.

Its samples lie one after the other, so sixteen of them are a row of the sweep that `sweeps.py` makes for short
windows; the sums of blocks of rows are put together by Chan's formula, which adds only what is positive. The middle is
found by counting how many keys are not above a guess, sixteen at a time, until few are left between two guesses: some
ten passes whatever the values are, since now and then the guess halves the range. Everything is read and written by
address, for numba counts references to arrays, which for short windows takes longer than all the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from efd_pipelines.tiers.jit import compiled
from efd_pipelines.tiers.keys import count_at_most, key_of, number_of, row_between
from efd_pipelines.tiers.places import item, put_item
from efd_pipelines.tiers.sweeps import sweep, sweep_present
from efd_pipelines.tiers.vectors import LANES

ROW = 4 * LANES
"""Places from one row of what a sweep finds to the next."""
_BLOCK_ROWS = 64
_FEW = 24


@compiled
def sweep_window(
    like: Any, keyed: Any, real: Any, samples: int, count: int, infinity: Any, keys: int, found: int, sums: int
) -> Any:
    """Makes keys of the samples of one column, and finds their extremes and moments.

    Args:
        like, keyed, real: empty arrays of the values, of integers of their width, and of doubles, for their types.
        samples, keys: addresses of the samples, and of room for as many keys; those of NaNs become the largest.
        infinity: the key of +∞, for integers the largest: beyond it are NaNs.
        found, sums: addresses of room for a sweep's findings.

    Returns the smallest key and the largest; number, mean and sum of squared deviations.
    """
    row = LANES * keyed.itemsize
    low, high = np.int64(infinity), np.int64(~infinity)
    moments = (0.0, 0.0, 0.0)
    whole = count // LANES
    for begin in range(0, whole, _BLOCK_ROWS):
        rows = min(_BLOCK_ROWS, whole - begin)
        source, target = samples + begin * row, keys + begin * row
        if sweep(like, source, row, target, row, rows, found, sums):
            sweep_present(like, target, row, rows, found, sums, 0)
            moments = _with_lanes(like, keyed, real, found, sums, moments)
        else:
            moments = _with_rows(like, real, rows, found, sums, moments)
        for lane in range(LANES):
            low = min(low, np.int64(item(keyed, found, lane)))
            high = max(high, np.int64(item(keyed, found, ROW + lane)))
    largest = np.int64(np.iinfo(keyed.dtype).max)
    for n in range(whole * LANES, count):
        key = np.int64(item(keyed, samples, n))
        if infinity != largest and key < 0:
            key ^= largest
        if key > infinity or key < ~infinity:
            put_item(keyed, keys, n, keyed.dtype.type(largest))
            continue
        put_item(keyed, keys, n, keyed.dtype.type(key))
        low, high = min(low, key), max(high, key)
        moments = _together(moments, (1.0, np.float64(item(like, samples, n)), 0.0))
    return low, high, moments


@compiled
def _together(some: Any, others: Any) -> Any:
    """Number, mean and sum of squared deviations of two sets of samples."""
    if some[0] == 0.0 or others[0] == 0.0:
        return others if some[0] == 0.0 else some
    both = some[0] + others[0]
    distance = others[1] - some[1]
    squares = some[2] + others[2] + distance * distance * (some[0] * others[0] / both)
    return both, some[1] + distance * (others[0] / both), squares


@compiled
def _with_rows(like: Any, real: Any, rows: int, found: int, sums: int, moments: Any) -> Any:
    """Adds sixteen lanes of equally many samples: then their means need no weights."""
    origin = np.float64(item(like, found, 2 * ROW))
    mean = 0.0
    for lane in range(LANES):
        mean += (np.float64(item(like, found, 2 * ROW + lane)) - origin) + item(real, sums, lane) / rows
    mean = origin + mean / LANES
    squares = 0.0
    for lane in range(LANES):
        total = item(real, sums, lane)
        distance = (np.float64(item(like, found, 2 * ROW + lane)) - mean) + total / rows
        squares += max(item(real, sums, ROW + lane) - total / rows * total, 0.0) + rows * distance * distance
    return _together(moments, (np.float64(rows * LANES), mean, squares))


@compiled
def _with_lanes(like: Any, keyed: Any, real: Any, found: int, sums: int, moments: Any) -> Any:
    """Adds sixteen lanes, each with its number of samples."""
    for lane in range(LANES):
        count = np.float64(item(keyed, found, 3 * ROW + lane))
        if count > 0.0:
            total = item(real, sums, lane)
            squares = max(item(real, sums, ROW + lane) - total / count * total, 0.0)
            mean = np.float64(item(like, found, 2 * ROW + lane)) + total / count
            moments = _together(moments, (count, mean, squares))
    return moments


@compiled
def middle_keys(like: Any, keyed: Any, keys: int, size: int, count: int, low: int, high: int, few: int) -> Any:
    """The two middle ones, or the middle one twice, of the `count` smallest of `size` keys.

    `low` and `high` are the smallest and the largest of them; `few` the address of room for 24 keys.
    """
    lower, upper = (count - 1) // 2, count // 2
    below, reached = _at_most(like, keyed, keys, size, low), count
    if below > upper:
        return low, low
    if below > lower:
        return _around(keyed, keys, size, low)
    # Of the middle ones is known: low < key ≤ high, `below` are not above low and `reached` not above high.
    turn = 0
    while reached - below > _FEW and high - 1 > low:
        part = (lower - below + (turn % 2 - 0.5) * (_FEW / 2)) / (reached - below)
        guess = _half(low, high) if turn % 4 == 3 else _guess(like, keyed, low, high, part)
        found = _at_most(like, keyed, keys, size, guess)
        if found > upper:
            high, reached = guess, found
        elif found <= lower:
            low, below = guess, found
        else:
            return _around(keyed, keys, size, guess)
        turn += 1
    if reached - below > _FEW:
        return high, high
    kept = _collect(like, keyed, keys, size, low, high, few)
    return _ranked(keyed, few, kept, lower - below), _ranked(keyed, few, kept, upper - below)


@compiled
def _at_most(like: Any, keyed: Any, keys: int, size: int, key: int) -> Any:
    """How many keys are not above one."""
    whole = size // LANES
    found = np.int64(count_at_most(like, keys, whole, keyed.dtype.type(key)))
    for n in range(whole * LANES, size):
        found += item(keyed, keys, n) <= key
    return found


@compiled
def _half(low: int, high: int) -> Any:
    return min(max(low + ((high >> 1) - (low >> 1)), low + 1), high - 1)


@compiled
def _guess(like: Any, keyed: Any, low: int, high: int, part: float) -> Any:
    """The key of what lies so far from one value to another, between the two."""
    first, last = number_of(like, keyed.dtype.type(low)), number_of(like, keyed.dtype.type(high))
    guess = first + (last - first) * max(part, 0.0)
    if not np.isfinite(guess):
        return _half(low, high)
    return min(max(np.int64(key_of(like, guess)), low + 1), high - 1)


@compiled
def _around(keyed: Any, keys: int, size: int, key: int) -> Any:
    """The largest that is not above a key, and the smallest above it."""
    below, above = np.int64(np.iinfo(keyed.dtype).min), np.int64(np.iinfo(keyed.dtype).max)
    for n in range(size):
        one = np.int64(item(keyed, keys, n))
        if one <= key:
            below = max(below, one)
        else:
            above = min(above, one)
    return below, above


@compiled
def _collect(like: Any, keyed: Any, keys: int, size: int, low: int, high: int, few: int) -> Any:
    """Those above low and not above high to `few`. Returns how many they are."""
    kept, row, whole = 0, 0, size // LANES
    while row < whole:
        row = row_between(like, keys, row, whole, keyed.dtype.type(low), keyed.dtype.type(high))
        kept = _collect_some(keyed, keys, row * LANES, min((row + 1) * LANES, size), low, high, few, kept)
        row += 1
    if row == whole:
        kept = _collect_some(keyed, keys, whole * LANES, size, low, high, few, kept)
    return kept


@compiled
def _collect_some(keyed: Any, keys: int, begin: int, end: int, low: int, high: int, few: int, kept: int) -> Any:
    for n in range(begin, end):
        key = item(keyed, keys, n)
        if low < key <= high:
            put_item(keyed, few, kept, key)
            kept += 1
    return kept


@compiled
def _ranked(keyed: Any, few: int, count: int, rank: int) -> Any:
    """The key of a rank: the one that so many come before, equal ones in the order in which they lie."""
    for n in range(count):
        key, before = item(keyed, few, n), 0
        for other in range(count):
            one = item(keyed, few, other)
            before += (one < key) | ((one == key) & (other < n))
        if before == rank:
            return np.int64(key)
    return np.int64(0)
