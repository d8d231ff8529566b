"""Kernel: five exact statistics of every window of a tile of columns, compiled.

Importing this module imports numba, which takes a second: only `statistics.py` does, and only when it computes.
The compiled code is kept (`efd_pipelines.compiled`), so a machine compiles once; it needs no compiler of its own.

How it works: the samples of some windows of up to 64 columns are transposed into a buffer with one row per sample and
one lane per column (`tiles.py`). A sweep over the rows finds their extremes and sums (`sweeps.py`); blocks of rows are
then sorted in registers and a network of comparators (`networks.py`, `sorting.py`) brings the middle to its place. Each
is a few vector operations a row, without a branch that depends on data. A window with NaNs is swept otherwise: they are
left out, and replaced by +∞ and −∞ in turn, which keeps the middle where the network brings it; the next window is
expected to have some, too. Windows of more samples than a network is good for: `selection.py`. What does not come out
finite is computed again, one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from efd_pipelines.tiers.jit import compiled
from efd_pipelines.tiers.keys import number_of
from efd_pipelines.tiers.places import copy_row, item, put_item
from efd_pipelines.tiers.selection import middle_keys, sweep_window
from efd_pipelines.tiers.sorting import exchange_16, exchange_64, sign_zeros, sort_8, sort_16, take_middle
from efd_pipelines.tiers.sweeps import finish, sweep_rows, sweep_some
from efd_pipelines.tiers.tiles import (
    GROUP,
    MAX_NETWORK,
    TILE,
    batch,
    chunk_of,
    gather,
    row_bytes,
    rows_together,
    samples_of,
    write,
)
from efd_pipelines.tiers.vectors import LANES

_LARGEST, _WIDEST = np.iinfo(np.int64).max, 9.2e18
LONGS, DOUBLES = np.empty(0, np.int64), np.empty(0, np.float64)


@compiled
def window_statistics(
    like: Any,
    table: Any,
    chunks: Any,
    column: int,
    lanes: int,
    starts: Any,
    ends: Any,
    begin: int,
    stop: int,
    longest: int,
    comparators: Any,
    plans: Any,
    infinity: Any,
    room: int,
    extremes: Any,
    reals: Any,
    missing: Any,
) -> Any:
    """Fills in the results of windows [begin, stop) of a tile, in arrays (figures, columns, windows).

    Args:
        like: an empty array of the values' type.
        table: addresses (chunks, 64 or 16) of the columns' values; those beyond `lanes` are repeated.
        chunks: the number of each chunk's first sample, and of samples in all.
        column, lanes: where in the results the tile's columns begin, and how many they are.
        starts, ends: all windows, as samples [start, end); none is empty, none has more than `longest`.
        comparators: those of networks one after the other; `plans[n]` is that for n samples: blocks, short blocks,
            where its comparators begin and end, rows in the first part, and below the middle or at it.
        infinity: the key of +∞, beyond which are NaNs; for integers the largest.
        room: the address of `room_bytes`, beginning with a cache line: a vector across two takes twice as long.
        extremes: first sample, minimum and maximum, as bits; `reals`: mean, median and stdev.
        missing: gets how many samples were NaN, where any were; must be 0 elsewhere.

    Returns in how many windows some samples were missing, and how many are left of the one that has fewest, if any
    are missing. Where nothing is left, the results mean nothing.
    """
    width, size = table.shape[1], extremes.itemsize
    stride, real_stride = GROUP * TILE * size, GROUP * TILE * reals.itemsize
    sums = room
    found = sums + 4 * TILE * 8
    some_extremes = found + 6 * TILE * size
    some_reals = some_extremes + 3 * stride
    buffer = some_reals + 3 * GROUP * TILE * 8
    keys = buffer + rows_together(longest) * row_bytes(TILE, size)
    bytes_a_row = row_bytes(width, size)
    first, gathered, written, incomplete, least = 0, begin, begin, 0, np.int64(_LARGEST)
    has_missing = False
    for window in range(begin, stop):
        start, end = starts[window], ends[window]
        row = (window - written) * TILE
        out, real_out = some_extremes + row * size, some_reals + row * reals.itemsize
        if end - start > MAX_NETWORK:
            is_careful = True
            for lane in range(lanes):
                place = keys + longest * size
                address = samples_of(extremes, table, chunks, lane, start, end, place)
                present = _compute_long(
                    like,
                    extremes,
                    reals,
                    address,
                    end - start,
                    infinity,
                    keys,
                    found,
                    sums,
                    out + lane * size,
                    real_out + lane * reals.itemsize,
                    stride,
                    real_stride,
                )
                least = min(least, present)
                if present < end - start:
                    missing[column + lane, window] = end - start - present
                    incomplete += 1
        else:
            if window >= gathered:
                gathered, first = batch(starts, ends, window, stop), start
                gather(extremes, table, chunks, first, ends[gathered - 1], buffer)
            rows = buffer + (start - first) * bytes_a_row
            for group in range(0, width, LANES):
                copy_row(like, rows + group * size, out + group * size)
            has_missing = _sweep(like, rows, bytes_a_row, end - start, width, size, found, sums, has_missing)
            if has_missing:
                incomplete += 1
                for lane in range(lanes):
                    present = np.int64(item(extremes, found, 3 * TILE + lane))
                    missing[column + lane, window] = end - start - present
                    least = min(least, present)
            is_careful = _middle(
                like,
                reals,
                plans.ctypes.data + 8 * (end - start) * 8,
                comparators.ctypes.data,
                rows,
                bytes_a_row,
                end - start,
                width,
                size,
                found,
                sums,
                out + stride,
                real_out,
                stride,
                real_stride,
            )
        if is_careful:
            for lane in range(lanes):
                mean, stdev = item(reals, real_out, lane), item(reals, real_out + 2 * real_stride, lane)
                low, high = item(extremes, out + stride, lane), item(extremes, out + 2 * stride, lane)
                # Deviations of 64-bit integers may have wrapped around.
                is_wrapped = infinity == _LARGEST and np.float64(high) - np.float64(low) > _WIDEST
                if is_wrapped or not (np.isfinite(mean) and np.isfinite(stdev)):
                    _compute_with_care(
                        like, extremes, reals, table, chunks, lane, start, end, infinity, real_out, real_stride
                    )
        if row == (GROUP - 1) * TILE:
            write(some_extremes, some_reals, column, lanes, written, window + 1, extremes, reals)
            written = window + 1
    if written < stop:
        write(some_extremes, some_reals, column, lanes, written, stop, extremes, reals)
    return incomplete, least


@compiled
def _sweep(
    like: Any, rows: int, row: int, count: int, width: int, size: int, found: int, sums: int, has_missing: bool
) -> bool:
    """Sweeps rows. Returns whether some are missing; `has_missing` says whether that is likely."""
    some = False
    for group in range(0, width, LANES):
        begin = rows + group * size
        if has_missing or sweep_rows(like, begin, row, count, found + group * size, sums + group * 8):
            some |= sweep_some(like, begin, row, count, found + group * size, sums + group * 8)
    return some


@compiled
def _middle(
    like: Any,
    reals: Any,
    plan: int,
    comparators: int,
    rows: int,
    row: int,
    count: int,
    width: int,
    size: int,
    found: int,
    sums: int,
    out: int,
    real_out: int,
    stride: int,
    real_stride: int,
) -> bool:
    """Runs a network over rows and takes the results of all lanes. Returns whether some are not finite."""
    blocks, short_blocks = item(LONGS, plan, 0), item(LONGS, plan, 1)
    for group in range(0, width * size, LANES * size):
        place = rows + group
        for _ in range(blocks):
            sort_16(like, place, row)
            place += 16 * row
        for _ in range(short_blocks):
            sort_8(like, place, row)
            place += 8 * row
    address = comparators + item(LONGS, plan, 2) * 16
    last = comparators + item(LONGS, plan, 3) * 16
    if width == TILE:
        while address < last:
            exchange_64(like, rows + item(LONGS, address, 0) * row, rows + item(LONGS, address, 1) * row)
            address += 16
    else:
        while address < last:
            exchange_16(like, rows + item(LONGS, address, 0) * row, rows + item(LONGS, address, 1) * row)
            address += 16
    half, below = item(LONGS, plan, 4), item(LONGS, plan, 5)
    is_careful = False
    for group in range(0, width, LANES):
        begin, findings = rows + group * size, found + group * size
        middle = findings + 4 * TILE * size
        if take_middle(like, begin, row, count, half, below, findings, middle):
            sign_zeros(like, begin, row, count, below, findings, middle)
        is_careful |= finish(
            like,
            reals,
            findings,
            sums + group * 8,
            middle,
            count,
            out + group * size,
            real_out + group * reals.itemsize,
            stride,
            real_stride,
        )
    return is_careful


@compiled
def _compute_long(
    like: Any,
    keyed: Any,
    reals: Any,
    samples: int,
    count: int,
    infinity: Any,
    keys: int,
    found: int,
    sums: int,
    out: int,
    real_out: int,
    stride: int,
    real_stride: int,
) -> Any:
    """A window of one column, of as many samples as it may have. Returns how many are not missing."""
    put_item(keyed, out, 0, item(keyed, samples, 0))
    low, high, moments = sweep_window(like, keyed, DOUBLES, samples, count, infinity, keys, found, sums)
    present = np.int64(moments[0])
    mean, median, stdev = 0.0, 0.0, 0.0
    if present:
        lower, upper = middle_keys(like, keyed, keys, count, present, low, high, found)
        median = number_of(like, keyed.dtype.type(lower))
        if present % 2 == 0:
            median = (median + number_of(like, keyed.dtype.type(upper))) / 2.0
        mean, stdev = moments[1], np.sqrt(moments[2] / max(present - 1, 1))
    flipped = np.iinfo(keyed.dtype).max if infinity != np.iinfo(keyed.dtype).max else 0
    put_item(keyed, out + stride, 0, keyed.dtype.type(low ^ (flipped if low < 0 else 0)))
    put_item(keyed, out + 2 * stride, 0, keyed.dtype.type(high ^ (flipped if high < 0 else 0)))
    put_item(reals, real_out, 0, reals.dtype.type(mean))
    put_item(reals, real_out + real_stride, 0, reals.dtype.type(median))
    put_item(reals, real_out + 2 * real_stride, 0, reals.dtype.type(stdev))
    return present


@compiled
def _compute_with_care(
    like: Any,
    keyed: Any,
    reals: Any,
    table: Any,
    chunks: Any,
    lane: int,
    start: int,
    end: int,
    infinity: Any,
    real_out: int,
    real_stride: int,
) -> None:
    """Mean and stdev where they did not come out finite: there are infinities, or the numbers are very large."""
    is_float = infinity != np.iinfo(keyed.dtype).max
    mean, squares = 0.0, 0.0
    for turn in range(2):
        total, count, chunk = 0.0, 0, chunk_of(chunks, start)
        for sample in range(start, end):
            while sample >= chunks[chunk + 1]:
                chunk += 1
            value = np.float64(item(like, table[chunk, lane], sample - chunks[chunk]))
            if is_float and np.isnan(value):
                continue
            count += 1
            total += value if turn == 0 else (value - mean) * (value - mean)
        if turn == 0:
            mean = total / count
        else:
            squares = total / max(count - 1, 1)
    put_item(reals, real_out, lane, reals.dtype.type(mean))
    put_item(reals, real_out + 2 * real_stride, lane, reals.dtype.type(np.sqrt(squares)))
