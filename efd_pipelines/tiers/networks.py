"""Networks: which rows are compared with which, so that the middle of any number of samples is found.

Batcher's odd-even merge sort (Knuth, The Art of Computer Programming, vol. 3, 5.3.4) of two parts of the rows, without
the comparators on which the middle does not depend. Blocks of 16 or 8 rows are sorted in registers; of two sorted
parts the middle is taken without merging them (`sorting.py`). A network is data, made when first needed: nothing is
compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LONG_BLOCK, SHORT_BLOCK = 16, 8


@dataclass(frozen=True, slots=True)
class Network:
    """How the middle of some rows is found.

    First `blocks` blocks of 16 rows are sorted, from row 0 on, then `short_blocks` of 8 after them, then come the
    `comparators` (row, other row). After that rows [0, `half`) are sorted as far as it matters, and those from `half`
    on; `below` rows are below the middle or at it.
    """

    blocks: int
    short_blocks: int
    comparators: NDArray[np.int64]
    half: int
    below: int


@functools.lru_cache(maxsize=256)
def network(samples: int) -> Network:
    """The network for so many rows."""
    half = 1
    while 2 * half < samples:
        half *= 2
    block = LONG_BLOCK if half >= LONG_BLOCK else SHORT_BLOCK
    blocks = samples // LONG_BLOCK if block == LONG_BLOCK else 0
    rest = samples - blocks * LONG_BLOCK
    short_blocks = rest // SHORT_BLOCK if half >= SHORT_BLOCK else 0
    ordered = blocks * LONG_BLOCK + short_blocks * SHORT_BLOCK
    below = samples // 2
    begin = max(0, below - max(samples - half, 0))
    needed = {*range(max(begin - 1, 0), min(below + 1, half)), *range(half, half + below - begin)}
    kept: list[tuple[int, int]] = []
    made = [*_sorting(0, half, ordered), *_sorting(half, half, ordered)]
    for low, high in reversed([(low, high) for low, high in made if high < samples]):
        if low in needed or high in needed:
            kept.append((low, high))
            needed |= {low, high}
    comparators = np.array(_by_stage(kept[::-1], samples), np.int64).reshape(-1, 2)
    comparators.flags.writeable = False
    return Network(blocks, short_blocks, comparators, half, below)


def sorting(rows: int) -> list[tuple[int, int]]:
    """The comparators that sort so many rows, a power of two."""
    return list(_sorting(0, rows, 0))


def _sorting(begin: int, rows: int, ordered: int) -> Iterator[tuple[int, int]]:
    """Sorts rows; blocks that end not after row `ordered` are so already."""
    block = LONG_BLOCK if begin + LONG_BLOCK <= ordered // LONG_BLOCK * LONG_BLOCK else SHORT_BLOCK
    if rows == 1 or (rows <= block and begin + rows <= ordered):
        return
    half = rows // 2
    yield from _sorting(begin, half, ordered)
    yield from _sorting(begin + half, half, ordered)
    yield from _merging(begin, rows, 1)


def _merging(begin: int, rows: int, step: int) -> Iterator[tuple[int, int]]:
    if 2 * step >= rows:
        yield begin, begin + step
        return
    yield from _merging(begin, rows, 2 * step)
    yield from _merging(begin + step, rows, 2 * step)
    for row in range(begin + step, begin + rows - step, 2 * step):
        yield row, row + step


def _by_stage(comparators: list[tuple[int, int]], rows: int) -> list[tuple[int, int]]:
    """The same, those next to each other that do not wait for each other."""
    depths = [0] * rows
    staged: list[tuple[int, tuple[int, int]]] = []
    for low, high in comparators:
        depths[low] = depths[high] = 1 + max(depths[low], depths[high])
        staged.append((depths[low], (low, high)))
    return [comparator for _, comparator in sorted(staged, key=lambda one: one[0])]
