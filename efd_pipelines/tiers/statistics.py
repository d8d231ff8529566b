"""Statistics: first sample and five exact figures of each window of columns of one type.

Minimum, maximum and median are exact: the median is a sample, or the mean of the two middle ones. Mean and stdev (n−1)
are computed in double. NaN is no sample; ±∞ are, and follow IEEE 754; −0.0 is below +0.0. The compiled
part is `kernel.py`; which rows make up a window: `windows.py`; columns of a table: `summary.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.archive.lanes import processors
from efd_pipelines.tiers.networks import network

_TILE, _NARROW, _GROUP, _LINE = 64, 16, 16, 64
_NO_LIMIT = int(np.iinfo(np.int64).max)
_VALUES_A_THREAD = 1 << 20
_SAMPLES_A_GO = 1 << 16


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures of each window and column, arrays (columns, windows), a column's one after the other in memory.

    `first` is the first sample as it is, NaN included. `missing` says how many samples are none, and is itself None
    where all are some; `least` is how many the window has that has fewest. Where nothing is left the others mean
    nothing, stdev also at one. Mean, median, stdev and the quartiles, None where they were not asked for, are in the
    type of floats, for integers in double.
    """

    first: NDArray[Any]
    minimum: NDArray[Any]
    maximum: NDArray[Any]
    mean: NDArray[Any]
    median: NDArray[Any]
    stdev: NDArray[Any]
    missing: NDArray[np.integer[Any]] | None
    least: int
    q1: NDArray[Any] | None = None
    q3: NDArray[Any] | None = None


class Samples:
    """Values of columns of one type, in the order of the windows, where they lie in memory.

    `chunks` are pieces one after the other, each with all columns; `address` and `length` of a piece's values.
    What they are in is `held` as long as this is.
    """

    def __init__(
        self, kind: np.dtype[Any], addresses: Sequence[Sequence[int]], lengths: Sequence[int], held: object
    ) -> None:
        self.dtype = kind
        self.addresses = np.array(addresses, np.int64).reshape(len(lengths), -1)
        self.bounds = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        self._held = held

    @classmethod
    def of_tile(cls, tile: NDArray[Any]) -> Samples:
        """An array (columns, samples)."""
        whole = np.ascontiguousarray(tile)
        addresses = whole.ctypes.data + whole.strides[0] * np.arange(len(whole))
        return cls(whole.dtype, [addresses.tolist()], [whole.shape[1]], whole)

    @property
    def columns(self) -> int:
        return int(self.addresses.shape[1])


def window_statistics(
    tile: NDArray[Any],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    present: NDArray[np.bool_] | None = None,
    *,
    quartiles: bool = False,
) -> Statistics:
    """Statistics of the windows [starts, ends) of `tile`, (columns, samples) of float32, float64 or int64.

    `present`, of the same shape, says which integers are there; missing floats are NaN.
    """
    if present is None:
        return statistics_of(Samples.of_tile(tile), starts, ends, quartiles=quartiles)
    names = ("first", "missing", *_FIGURES, *(_QUARTILES if quartiles else ()))
    columns = [_sparse(values, there, starts, ends, names[2:]) for values, there in zip(tile, present, strict=True)]
    least = min((column.least for column in columns), default=0)
    figures = {name: np.concatenate([getattr(column, name) for column in columns]) for name in names}
    return Statistics(**figures, least=least)


_FIGURES = ("minimum", "maximum", "mean", "median", "stdev")
_QUARTILES = ("q1", "q3")


def _sparse(
    values: NDArray[Any],
    there: NDArray[np.bool_],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    names: Sequence[str],
) -> Statistics:
    """One column without its missing values: windows are where they were, counted among those that are left."""
    before = np.concatenate(([0], np.cumsum(there)))
    some = before[ends] > before[starts]
    left = Samples.of_tile(values[there][None, :])
    found = statistics_of(left, before[starts][some], before[ends][some], quartiles="q1" in names)
    missing = (ends - starts) - (before[ends] - before[starts])
    spread = {name: _spread(getattr(found, name), some) for name in names}
    least = int((before[ends] - before[starts]).min(initial=_NO_LIMIT))
    return Statistics(first=values[starts][None, :], missing=missing[None, :], least=least, **spread)


def _spread(figures: NDArray[Any], some: NDArray[np.bool_]) -> NDArray[Any]:
    whole = np.zeros((len(figures), len(some)), figures.dtype)
    whole[:, some] = figures
    return whole


def statistics_of(
    samples: Samples, starts: NDArray[np.int64], ends: NDArray[np.int64], *, quartiles: bool = False
) -> Statistics:
    """Statistics of windows [starts, ends) of samples, none of them empty; missing ones are NaN.

    Shared among as many threads as there are processors, where that is worth it.
    """
    kind = samples.dtype
    bits = np.dtype(f"i{kind.itemsize}")
    shape = (samples.columns, len(starts))
    extremes = _lines(shape, bits)
    reals = _lines(shape, kind if kind.kind == "f" else np.dtype(np.float64))
    missing = np.zeros(shape, np.int32)
    incomplete, least = 0, int((ends - starts).min(initial=_NO_LIMIT))
    if samples.columns and len(starts):
        starts, ends = np.ascontiguousarray(starts), np.ascontiguousarray(ends)
        networks = _networks(tuple(np.unique(ends - starts).tolist()))
        work = [
            (samples, starts, ends, networks, columns, windows, extremes, reals, missing)
            for columns in _parts(samples.columns, _TILE)
            for windows in _ranges(starts, ends)
        ]
        threads = min(processors(), len(work), int(samples.columns * (ends[-1] - starts[0])) // _VALUES_A_THREAD)
        if threads > 1:
            with ThreadPoolExecutor(threads, "statistics") as pool:
                done = list(pool.map(lambda one: _compute(*one), work))
        else:
            done = [_compute(*one) for one in work]
        incomplete = sum(some for some, _ in done)
        least = min(least, *(fewest for _, fewest in done))
    first, minimum, maximum = extremes.view(kind)[..., : len(starts)]
    mean, median, stdev = reals[..., : len(starts)]
    q1, q3 = _quartiles(samples, starts, ends) if quartiles else (None, None)
    return Statistics(first, minimum, maximum, mean, median, stdev, missing if incomplete else None, least, q1, q3)


def _quartiles(samples: Samples, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[Any]:
    """The first and the third quartile, (2, columns, windows), in the same threads as the others."""
    from efd_pipelines.tiers.quartiles import window_quartiles

    kind = samples.dtype if samples.dtype.kind == "f" else np.dtype(np.float64)
    found = np.zeros((2, samples.columns, len(starts)), kind)
    if not found.size:
        return found
    starts, ends = np.ascontiguousarray(starts), np.ascontiguousarray(ends)
    longest = int((ends - starts).max())

    def compute(columns: slice) -> None:
        room = np.empty(longest, samples.dtype)
        for column in range(columns.start, columns.stop):
            addresses = np.ascontiguousarray(samples.addresses[:, column])
            window_quartiles(room, addresses, samples.bounds, starts, ends, found[0, column], found[1, column])

    with ThreadPoolExecutor(processors(), "quartiles") as pool:
        for _ in pool.map(compute, _parts(samples.columns, _TILE)):
            pass
    return found


def _lines(shape: tuple[int, int], kind: np.dtype[Any]) -> NDArray[Any]:
    """Three figures of so many columns and windows, each column beginning with a cache line and filling its last."""
    columns, windows = shape
    width = -(-windows // _GROUP) * _GROUP
    return _memory(3 * columns * width * kind.itemsize).view(kind).reshape(3, columns, width)


def _memory(size: int) -> NDArray[np.uint8]:
    """Memory that begins with a cache line: Arrow's, which keeps what is given back. New pages cost a sixth of all."""
    memory = np.frombuffer(pa.allocate_buffer(size + _LINE), np.uint8)
    begin = -memory.ctypes.data % _LINE
    return memory[begin : begin + size]


def make_ready() -> None:
    """Compiles the kernel for all types that there are, or loads what has been kept of it."""
    for kind in (np.float32, np.float64, np.int64):
        window_statistics(np.zeros((1, 2), kind), np.array([0]), np.array([2]))


def _parts(count: int, size: int) -> list[slice]:
    return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]


def _ranges(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[slice]:
    """Windows that one thread computes in a go: enough for it to be worth it, and groups that are written at once."""
    windows = len(starts)
    samples = max(1, int(ends[-1] - starts[0]))
    together = max(_GROUP, -(-windows * _SAMPLES_A_GO // samples) // _GROUP * _GROUP)
    return _parts(windows, together)


def _compute(
    samples: Samples,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    networks: tuple[NDArray[np.int64], NDArray[np.int64]],
    columns: slice,
    windows: slice,
    extremes: NDArray[Any],
    reals: NDArray[Any],
    missing: NDArray[np.int32],
) -> tuple[int, int]:
    """Some windows of some columns. Returns how many lack samples, and how many are left of the one that has fewest."""
    from efd_pipelines.tiers.kernel import window_statistics as compute
    from efd_pipelines.tiers.tiles import room_bytes

    longest = int((ends[windows] - starts[windows]).max())
    memory = _memory(room_bytes(samples.dtype.itemsize, longest))
    comparators, plans = networks
    lanes = columns.stop - columns.start
    width = _TILE if lanes > _NARROW else _NARROW
    table = samples.addresses[:, columns]
    table = np.ascontiguousarray(np.concatenate([table, np.repeat(table[:, -1:], width - lanes, axis=1)], axis=1))
    infinity = extremes.dtype.type(np.iinfo(extremes.dtype).max)
    if samples.dtype.kind == "f":
        infinity = np.array(np.inf, samples.dtype).view(extremes.dtype)[()]
    incomplete, least = compute(
        np.empty(0, samples.dtype),
        table,
        samples.bounds,
        columns.start,
        lanes,
        starts,
        ends,
        windows.start,
        windows.stop,
        longest,
        comparators,
        plans,
        infinity,
        memory.ctypes.data,
        extremes,
        reals,
        missing,
    )
    return int(incomplete), int(least)


@functools.lru_cache(maxsize=16)
def _networks(lengths: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The comparators of the networks for windows of these lengths, and the plans, as the kernel takes them."""
    from efd_pipelines.tiers.tiles import MAX_NETWORK

    plans = np.zeros((MAX_NETWORK + 1, 8), np.int64)
    parts: list[NDArray[np.int64]] = [np.zeros((0, 2), np.int64)]
    begin = 0
    for samples in lengths:
        if samples > MAX_NETWORK:
            break
        one = network(samples)
        end = begin + len(one.comparators)
        plans[samples, :6] = (one.blocks, one.short_blocks, begin, end, one.half, one.below)
        parts.append(one.comparators)
        begin = end
    return np.concatenate(parts), plans
