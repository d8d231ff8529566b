"""Networks: which rows are compared with which, so that the middle of any number of samples is found.

Batcher's merge exchange (Knuth, The Art of Computer Programming, vol. 3, 5.2.2, algorithm M), without the comparators
on which the wanted rows do not depend: of 395 for 50 samples 329 are left for the median. A network is data, made when
first needed: nothing is compiled.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray


@functools.lru_cache(maxsize=256)
def network(samples: int, wanted: tuple[int, ...]) -> NDArray[np.int64]:
    """Comparators (row, other row) after which the `wanted` rows are as if all were sorted."""
    kept: list[tuple[int, int]] = []
    needed = set(wanted)
    for low, high in reversed(_comparators(samples)):
        if low in needed or high in needed:
            kept.append((low, high))
            needed |= {low, high}
    made = np.array(kept[::-1], np.int64).reshape(-1, 2)
    made.flags.writeable = False
    return made


def middle_rows(samples: int, *, complete: bool) -> tuple[int, ...]:
    """Where the middle is: with an even number in two rows, and where some may be missing always."""
    if samples % 2 and (complete or samples == 1):
        return (samples // 2,)
    return (samples // 2 - 1, samples // 2)


@functools.lru_cache(maxsize=256)
def _comparators(samples: int) -> tuple[tuple[int, int], ...]:
    top = 1
    while top < samples:
        top *= 2
    found: list[tuple[int, int]] = []
    step = top // 2
    while step > 0:
        reach, offset, distance = top // 2, 0, step
        while distance > 0:
            found += [(row, row + distance) for row in range(samples - distance) if (row & step) == offset]
            distance, reach, offset = reach - step, reach // 2, step
        step //= 2
    return tuple(found)
