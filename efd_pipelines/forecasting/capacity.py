"""Capacity: when each store is full, at the rate of the forecast and at the upper end of its interval.

A store's capacity is the configuration's (`growth.stores`); of an archive in a directory, the file system's. Of a store
that nobody gave a capacity, what it holds is said, and that nobody knows when it is full.
What belongs here: time to full. What is held: `storage/weekly.py`; the rate: `forecast.py`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from efd_pipelines.configuration import Capacity
from efd_pipelines.forecasting.forecast import Forecast
from efd_pipelines.forecasting.smoothing import Floats
from efd_pipelines.storage.weekly import ARCHIVE, RECEIVED

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

TB = 1e12
_MONTHS = 12
_PERIODS_OF_TREND = 13


@dataclass(frozen=True, slots=True)
class StoreRoom:
    """How full a store is: TB with all its copies. `months_to_full` at the forecast's rate, `months_at_least` at the
    upper end of its interval; None: it does not grow, or its capacity is not known."""

    store: str
    used_tb: float
    capacity_tb: float | None
    tb_per_year: float
    tb_per_year_at_most: float
    months_to_full: float | None
    months_at_least: float | None
    how: str

    def warns(self, months: float) -> bool:
        """Whether it may be full within so many months."""
        return self.months_at_least is not None and self.months_at_least < months


def room(store: str, used_tb: float, capacity: Capacity, yearly_tb: tuple[float, float], how: str = "") -> StoreRoom:
    """How long a store lasts that takes `yearly_tb` a year (expected, at most) before its copies are made."""
    used = used_tb * capacity.copies
    expected, most = (rate * capacity.copies for rate in yearly_tb)
    free = None if capacity.capacity_tb is None else capacity.capacity_tb - used
    return StoreRoom(
        store, used, capacity.capacity_tb, expected, most, _months(free, expected), _months(free, most), how
    )


def _months(free_tb: float | None, tb_per_year: float) -> float | None:
    if free_tb is None:
        return None
    if free_tb <= 0:
        return 0.0
    return None if tb_per_year <= 0 else _MONTHS * free_tb / tb_per_year


def rooms(
    archive: Archive, table: pa.Table, stored_bytes: float, made: Forecast, stores: Mapping[str, Capacity]
) -> list[StoreRoom]:
    """All stores: the archive with its tiers, and what else the configuration or the weekly reports know."""
    given = stores.get(ARCHIVE, Capacity())
    how = "configured" if given.capacity_tb is not None else ""
    if given.capacity_tb is None and (found := _file_system(archive, stored_bytes * given.copies)) is not None:
        given, how = given.model_copy(update={"capacity_tb": found}), "what is free on its file system"
    found_rooms = [room(ARCHIVE, stored_bytes / TB, given, (made.year / TB, made.year_upper / TB), how)]
    for name, held in _held(table).items():
        expected, most = _trend(held)
        capacity = stores.get(name, Capacity())
        how = "configured" if capacity.capacity_tb is not None else ""
        # What such a store was asked for has all its copies in it already.
        whole = capacity.model_copy(update={"copies": 1})
        found_rooms.append(room(name, held[-1] / TB, whole, (expected / TB, most / TB), how))
    return found_rooms


def _file_system(archive: Archive, used_bytes: float) -> float | None:
    """TB that the archive may take where it is a directory: what it has and what is free."""
    root = archive.store.uri()
    if "://" in root:
        return None
    there = next((one for one in (Path(root), *Path(root).parents) if one.exists()), None)
    return None if there is None else (used_bytes + shutil.disk_usage(there).free) / TB


def _held(table: pa.Table) -> dict[str, Floats]:
    """By store that was asked what it holds, its sizes week by week."""
    import polars as pl

    rows = pl.DataFrame(table.select(["week", "store", "bytes"])).with_columns(pl.col("week", "store").cast(pl.String))
    ours = pl.col("store").is_in([RECEIVED, ARCHIVE]) | pl.col("store").str.starts_with("tier_")
    rows = rows.filter(~ours)
    sums = rows.group_by("store", "week").agg(pl.col("bytes").sum()).sort("store", "week")
    return {
        str(name[0]): part["bytes"].cast(pl.Float64).to_numpy()
        for name, part in sums.group_by("store", maintain_order=True)
    }


def _trend(held: Floats) -> tuple[float, float]:
    """Bytes a year by which a store grows: the mean of its last steps, and with two standard errors."""
    steps = np.diff(held[-_PERIODS_OF_TREND - 1 :])
    if not len(steps):
        return 0.0, 0.0
    mean = float(steps.mean())
    error = float(steps.std(ddof=1)) / math.sqrt(len(steps)) if len(steps) > 1 else abs(mean)
    return 52 * mean, 52 * (mean + 2 * error)
