"""Databases: how to split what is stored so that no database grows beyond a size.

By subsystem, and where a subsystem outgrows it by years, as seed 001 recommends (30 TB); a single year that is too
large is cut into equal parts. What belongs here: the proposal. What the sizes come from: `growth.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from efd_pipelines.forecasting.growth import Projection

_LEAST_TB = 1e-9


@dataclass(frozen=True, slots=True)
class Database:
    """One database: the years of a subsystem that it holds, and how large it becomes (TB before replication).

    `part` of `parts` where a single year is cut.
    """

    name: str
    subsystem: str
    first_year: int
    last_year: int
    size_tb: float
    part: int = 1
    parts: int = 1


def split(projection: Projection, below_tb: float) -> list[Database]:
    """Databases of less than `below_tb` each that hold everything stored by the last year, largest subsystem first.

    What is kept for a time only is in the years in which it arrived last.
    """
    years = [row.year for row in projection.rows]
    of: dict[str, np.ndarray] = {}
    for stream, sizes in zip(projection.streams, _by_year(projection), strict=True):
        of[stream.subsystem] = of.get(stream.subsystem, np.zeros(len(years))) + sizes
    found: list[Database] = []
    for subsystem, sizes in sorted(of.items(), key=lambda one: (-float(one[1].sum()), one[0])):
        found += _databases(subsystem, years, sizes, below_tb)
    return found


def _by_year(projection: Projection) -> np.ndarray:
    """What of each year is still there at the end, newest first: streams × years."""
    left = projection.stored_tb[:, -1].copy()
    arrived = projection.added_tb.copy()
    arrived[:, 0] = projection.stored_tb[:, 0]
    kept = np.zeros_like(arrived)
    for year in range(arrived.shape[1] - 1, -1, -1):
        kept[:, year] = np.minimum(arrived[:, year], left)
        left = left - kept[:, year]
    return kept


def _databases(subsystem: str, years: list[int], sizes: np.ndarray, below_tb: float) -> list[Database]:
    """As many years together as fit; the first are those before and at the base year."""
    if float(sizes.sum()) < below_tb:
        return [Database(f"efd_{subsystem}", subsystem, years[0], years[-1], round(float(sizes.sum()), 6))]
    found: list[Database] = []
    begin, held = 0, 0.0
    for index, size in enumerate(map(float, sizes)):
        if held > 0 and held + size >= below_tb:
            found += _cut(subsystem, years[begin], years[index - 1], held, below_tb)
            begin, held = index, 0.0
        held += size
    return found + _cut(subsystem, years[begin], years[-1], held, below_tb)


def _cut(subsystem: str, first: int, last: int, size: float, below_tb: float) -> list[Database]:
    """One database, or where its one year is too large several of equal times."""
    name = f"efd_{subsystem}_{first}" + (f"_{last}" if last > first else "")
    parts = math.floor(size / below_tb + _LEAST_TB) + 1
    if parts == 1:
        return [Database(name, subsystem, first, last, round(size, 6))]
    return [
        Database(f"{name}_part{part}", subsystem, first, last, round(size / parts, 6), part, parts)
        for part in range(1, parts + 1)
    ]
