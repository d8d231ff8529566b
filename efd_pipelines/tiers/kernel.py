"""Kernel: five exact statistics of every window of a tile of columns, compiled.

Importing this module imports numba, which takes a second: only `statistics.py` does, and only when it computes.
The compiled code is kept (`efd_pipelines.compiled`), so a machine compiles once; it needs no compiler of its own.

How it works: the samples of some windows of up to 64 columns are transposed into a buffer with one row per sample and
one lane per column. A sweep over the rows turns the values into integers that sort as they do and finds their extremes
and sums; a network of comparators (`networks.py`) then brings the middle to its rows. Each is a few vector operations
a row (`vectors.py`), without a branch that depends on data. A window with NaNs is swept again: they are left out, and
replaced by the largest key and the smallest in turn, which keeps the middle where the network brings it. Windows of
more samples than a network is good for: `selection.py`. What does not come out finite is computed again, one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from efd_pipelines.tiers.jit import compiled
from efd_pipelines.tiers.selection import ROW, middle_keys, sweep_window
from efd_pipelines.tiers.vectors import (
    LANES,
    copy_row,
    exchange_16,
    exchange_64,
    finish,
    item,
    number_of,
    put_item,
    sweep,
    sweep_present,
    transpose_columns,
    transpose_rows,
)

TILE = 4 * LANES
"""Columns that are computed together."""
MAX_NETWORK = 512
"""Samples of the longest window that goes through a network."""
MAX_ROWS = 256
"""Samples of short windows that are transposed together; those of a long one always are."""
GROUP = 16
"""Windows whose results are written together."""
_LARGEST, _WIDEST = np.iinfo(np.int64).max, 9.2e18
LONGS, DOUBLES = np.empty(0, np.int64), np.empty(0, np.float64)


def room_bytes(size: int, longest: int) -> int:
    """Memory that a tile takes, of values of `size` bytes and windows of at most so many samples."""
    kept = 3 * GROUP * TILE * (size + 8) + 4 * TILE * (size + 8)
    return kept + rows_together(longest) * TILE * size + (2 * longest * size if longest > MAX_NETWORK else 0) + 64 * 8


def rows_together(longest: int) -> int:
    """Samples for which there is room to transpose them."""
    return max(MAX_ROWS, min(longest, MAX_NETWORK))


_rows_together = compiled(rows_together)


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
    networks: Any,
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
        comparators: networks one after the other; `networks[n]` says where that for n samples begins and ends and which
            are its middle rows, and the same if some are missing.
        infinity: the key of +∞, beyond which are NaNs; for integers the largest.
        room: the address of `room_bytes`, beginning with a cache line: a vector across two takes twice as long.
        extremes: first sample, minimum and maximum, as bits; `reals`: mean, median and stdev.
        missing: gets how many samples were NaN, where any were; must be 0 elsewhere.

    Returns in how many windows some samples were missing. Where all of them are, the results mean nothing.
    """
    width, size = table.shape[1], extremes.itemsize
    stride, real_stride = GROUP * TILE * size, GROUP * TILE * reals.itemsize
    sums = room
    found = sums + 4 * TILE * 8
    some_extremes = found + 4 * TILE * size
    some_reals = some_extremes + 3 * stride
    buffer = some_reals + 3 * GROUP * TILE * 8
    keys = buffer + _rows_together(longest) * TILE * size
    first, gathered, written, incomplete = 0, begin, begin, 0
    for window in range(begin, stop):
        start, end = starts[window], ends[window]
        row = (window - written) * TILE
        out, real_out = some_extremes + row * size, some_reals + row * reals.itemsize
        if end - start > MAX_NETWORK:
            is_careful = True
            for lane in range(lanes):
                place = keys + longest * size
                address = _samples(extremes, table, chunks, lane, start, end, place)
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
                if present < end - start:
                    missing[column + lane, window] = end - start - present
                    incomplete += 1
        else:
            if window >= gathered:
                gathered, first = _batch(starts, ends, window, stop), start
                _gather(extremes, table, chunks, first, ends[gathered - 1], buffer)
            rows = buffer + (start - first) * width * size
            has_missing = _sweep_rows(like, rows, end - start, width, size, found, sums, out)
            if has_missing:
                incomplete += 1
                for lane in range(lanes):
                    missing[column + lane, window] = end - start - item(extremes, found, 3 * ROW + lane)
            variant = 4 if has_missing else 0
            where = networks.ctypes.data + (8 * (end - start) + variant) * 8
            is_careful = _middle(
                like,
                reals,
                comparators.ctypes.data,
                item(LONGS, where, 0),
                item(LONGS, where, 1),
                item(LONGS, where, 2),
                item(LONGS, where, 3),
                rows,
                end - start,
                width,
                size,
                has_missing,
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
            _write(some_extremes, some_reals, column, lanes, written, window + 1, extremes, reals)
            written = window + 1
    if written < stop:
        _write(some_extremes, some_reals, column, lanes, written, stop, extremes, reals)
    return incomplete


@compiled
def _batch(starts: Any, ends: Any, window: int, stop: int) -> Any:
    """The first window that is not gathered together with one: neighbours are, as far as there is room."""
    first = starts[window]
    last = window + 1
    while last < stop and starts[last] == ends[last - 1] and ends[last] - first <= MAX_ROWS:
        last += 1
    return last


@compiled
def _chunk_of(chunks: Any, sample: int) -> Any:
    low, high = 0, chunks.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if chunks[middle] <= sample:
            low = middle
        else:
            high = middle
    return low


@compiled
def _gather(keyed: Any, table: Any, chunks: Any, first: int, end: int, buffer: int) -> None:
    """Samples [first, end) into rows."""
    width, size = table.shape[1], keyed.itemsize
    square = 64 // size
    chunk = _chunk_of(chunks, first)
    rows = end - first
    if rows < square or end > chunks[chunk + 1]:
        for sample in range(first, end):
            while sample >= chunks[chunk + 1]:
                chunk += 1
            for lane in range(width):
                bits = item(keyed, table[chunk, lane], sample - chunks[chunk])
                put_item(keyed, buffer, (sample - first) * width + lane, bits)
        return
    for group in range(0, width, LANES):
        addresses = table.ctypes.data + 8 * (chunk * width + group)
        for row in range(0, rows, square):
            begin = min(row, rows - square)
            offset = (first - chunks[chunk] + begin) * size
            transpose_columns(keyed, addresses, offset, buffer + (begin * width + group) * size, width * size)


@compiled
def _sweep_rows(like: Any, rows: int, count: int, width: int, size: int, found: int, sums: int, out: int) -> bool:
    """Rows into keys. Returns whether some are missing."""
    has_missing = False
    for group in range(0, width, LANES):
        begin = rows + group * size
        copy_row(like, begin, out + group * size)
        has_missing |= sweep(
            like, begin, width * size, begin, width * size, count, found + group * size, sums + group * 8
        )
    if has_missing:
        for group in range(0, width, LANES):
            begin = rows + group * size
            sweep_present(like, begin, width * size, count, found + group * size, sums + group * 8, 1)
    return has_missing


@compiled
def _middle(
    like: Any,
    reals: Any,
    comparators: int,
    begin: int,
    stop: int,
    lower: int,
    upper: int,
    rows: int,
    count: int,
    width: int,
    size: int,
    has_missing: bool,
    found: int,
    sums: int,
    out: int,
    real_out: int,
    stride: int,
    real_stride: int,
) -> bool:
    """Runs a network over rows and takes the results of all lanes. Returns whether some are not finite."""
    row = width * size
    address = comparators + begin * 16
    last = comparators + stop * 16
    if width == TILE:
        while address < last:
            exchange_64(like, rows + item(LONGS, address, 0) * row, rows + item(LONGS, address, 1) * row)
            address += 16
    else:
        while address < last:
            exchange_16(like, rows + item(LONGS, address, 0) * row, rows + item(LONGS, address, 1) * row)
            address += 16
    is_careful = False
    for group in range(0, width, LANES):
        is_careful |= finish(
            like,
            reals,
            found + group * size,
            sums + group * 8,
            rows + lower * row + group * size,
            rows + upper * row + group * size,
            count,
            has_missing,
            out + group * size,
            real_out + group * reals.itemsize,
            stride,
            real_stride,
        )
    return is_careful


@compiled
def _samples(keyed: Any, table: Any, chunks: Any, lane: int, start: int, end: int, room: int) -> Any:
    """The address of a column's samples [start, end), put together where they are of several chunks."""
    chunk = _chunk_of(chunks, start)
    if end <= chunks[chunk + 1]:
        return table[chunk, lane] + (start - chunks[chunk]) * keyed.itemsize
    for sample in range(start, end):
        while sample >= chunks[chunk + 1]:
            chunk += 1
        put_item(keyed, room, sample - start, item(keyed, table[chunk, lane], sample - chunks[chunk]))
    return room


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
        total, count, chunk = 0.0, 0, _chunk_of(chunks, start)
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


@compiled
def _write(
    some_extremes: int,
    some_reals: int,
    column: int,
    lanes: int,
    first: int,
    end: int,
    extremes: Any,
    reals: Any,
) -> None:
    """Results of windows [first, end) to their columns."""
    for figure in range(3):
        _write_figure(some_extremes, figure, column, lanes, first, end, extremes)
        _write_figure(some_reals, figure, column, lanes, first, end, reals)


@compiled
def _write_figure(results: int, figure: int, column: int, lanes: int, first: int, end: int, target: Any) -> None:
    size = target.itemsize
    square = 64 // size
    whole = lanes // square * square
    source = results + figure * GROUP * TILE * size
    stride = target.shape[2] * size
    for lane in range(0, whole, square):
        place = target.ctypes.data + (figure * target.shape[1] + column + lane) * stride + first * size
        for window in range(0, GROUP, square):
            transpose_rows(target, source + (window * TILE + lane) * size, TILE * size, place + window * size, stride)
    for lane in range(whole, lanes):
        for window in range(first, end):
            target[figure, column + lane, window] = item(target, source, (window - first) * TILE + lane)
