"""Tiles: where the samples of some columns are gathered as rows, and how results get to their columns.

The rows of a tile have one lane for each column, 64 or 16. Results of some windows are kept and written together, for
a column's lie one after the other. What is computed of the rows: `kernel.py`.
"""

from __future__ import annotations

from typing import Any

from efd_pipelines.tiers.jit import compiled
from efd_pipelines.tiers.places import item, put_item
from efd_pipelines.tiers.squares import transpose_columns, transpose_rows
from efd_pipelines.tiers.vectors import LANES

TILE = 4 * LANES
"""Columns that are computed together."""
MAX_NETWORK = 512
"""Samples of the longest window that goes through a network."""
MAX_ROWS = 256
"""Samples of short windows that are transposed together; those of a long one always are."""
GROUP = 16
"""Windows whose results are written together."""


def room_bytes(size: int, longest: int) -> int:
    """Memory that a tile takes, of values of `size` bytes and windows of at most so many samples."""
    kept = 3 * GROUP * TILE * (size + 8) + TILE * (6 * size + 4 * 8)
    rows = _rows_together(longest) * _row_bytes(TILE, size)
    return kept + rows + (2 * longest * size if longest > MAX_NETWORK else 0) + 64 * 8


def _rows_together(longest: int) -> int:
    return max(MAX_ROWS, min(longest, MAX_NETWORK))


def _row_bytes(width: int, size: int) -> int:
    return width * size + 64


rows_together = compiled(_rows_together)
"""Rows for which there is room, of windows of at most so many samples."""
row_bytes = compiled(_row_bytes)
"""From one row to the next: a cache line more than it has, lest every sixteenth be mistaken for the same."""


@compiled
def batch(starts: Any, ends: Any, window: int, stop: int) -> Any:
    """The first window that is not gathered together with one: neighbours are, as far as there is room."""
    first = starts[window]
    last = window + 1
    while last < stop and starts[last] == ends[last - 1] and ends[last] - first <= MAX_ROWS:
        last += 1
    return last


@compiled
def chunk_of(chunks: Any, sample: int) -> Any:
    low, high = 0, chunks.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if chunks[middle] <= sample:
            low = middle
        else:
            high = middle
    return low


@compiled
def gather(keyed: Any, table: Any, chunks: Any, first: int, end: int, buffer: int) -> None:
    """Samples [first, end) into rows."""
    width, size = table.shape[1], keyed.itemsize
    row, square = row_bytes(width, size), 64 // size
    chunk = chunk_of(chunks, first)
    rows = end - first
    if rows < square or end > chunks[chunk + 1]:
        for sample in range(first, end):
            while sample >= chunks[chunk + 1]:
                chunk += 1
            for lane in range(width):
                bits = item(keyed, table[chunk, lane], sample - chunks[chunk])
                put_item(keyed, buffer + (sample - first) * row, lane, bits)
        return
    for group in range(0, width, LANES):
        addresses = table.ctypes.data + 8 * (chunk * width + group)
        for place in range(0, rows, square):
            begin = min(place, rows - square)
            offset = (first - chunks[chunk] + begin) * size
            transpose_columns(keyed, addresses, offset, buffer + begin * row + group * size, row)


@compiled
def samples_of(keyed: Any, table: Any, chunks: Any, lane: int, start: int, end: int, room: int) -> Any:
    """The address of a column's samples [start, end), put together where they are of several chunks."""
    chunk = chunk_of(chunks, start)
    if end <= chunks[chunk + 1]:
        return table[chunk, lane] + (start - chunks[chunk]) * keyed.itemsize
    for sample in range(start, end):
        while sample >= chunks[chunk + 1]:
            chunk += 1
        put_item(keyed, room, sample - start, item(keyed, table[chunk, lane], sample - chunks[chunk]))
    return room


@compiled
def write(
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
