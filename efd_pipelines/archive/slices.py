"""Slices: the unit of time in which a dataset is rewritten, an hour, a day or a week of UTC.

A dataset's unit is chosen once, from its declared rate and its schema, so that a slice is below 1 GiB decoded.
Keys: `2026-11-16T05` (hour), `2026-11-16` (day), `2026-11-16W` (week, by its Monday); all of them sort by time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.times import Week, from_microseconds

QUARANTINE = "quarantine"
DEAD = "dead"
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US
_WEEK_US = 7 * _DAY_US
_MONDAY_US = 4 * _DAY_US
_MAX_SLICE_BYTES = 1 << 30


class SliceUnit(StrEnum):
    """How long a slice is."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"

    @property
    def length_us(self) -> int:
        return {SliceUnit.HOUR: _HOUR_US, SliceUnit.DAY: _DAY_US, SliceUnit.WEEK: _WEEK_US}[self]


@dataclass(frozen=True, slots=True, order=True)
class Slice:
    """One slice: beginning in UTC microseconds, and unit."""

    start_us: int
    unit: SliceUnit

    @property
    def end_us(self) -> int:
        return self.start_us + self.unit.length_us

    @property
    def key(self) -> str:
        start = from_microseconds(self.start_us)
        if self.unit is SliceUnit.HOUR:
            return start.strftime("%Y-%m-%dT%H")
        return start.strftime("%Y-%m-%d") + ("W" if self.unit is SliceUnit.WEEK else "")

    @property
    def week(self) -> Week:
        return Week.containing(self.start_us)

    def __str__(self) -> str:
        return self.key

    @classmethod
    def containing(cls, time_us: int, unit: SliceUnit) -> Slice:
        return cls(int(slice_starts(np.array([time_us]), unit)[0]), unit)

    @classmethod
    def parse(cls, key: str) -> Slice:
        """The slice of a key; ValueError where it is none (`quarantine`, `dead`)."""
        if key.endswith("W"):
            unit, text = SliceUnit.WEEK, key[:-1]
        else:
            unit, text = (SliceUnit.HOUR if "T" in key else SliceUnit.DAY), key
        start = np.datetime64(text, "us")
        if np.isnat(start):
            raise ValueError(f"{key!r} is no slice")
        return cls(int(start.astype(np.int64)), unit)


def slice_guard(key: str) -> str:
    """The app id that every commit raises which removes files of a slice: two that did not know of each other would
    both put its rows back (delta-facts). Quarantine and the dead have guards of their own.
    """
    return key if key in (QUARANTINE, DEAD) else f"slice:{key}"


def seal_guard(week: Week | str) -> str:
    """The app id that sealing a week raises."""
    return f"seal:{week}"


def expire_guard(week: Week | str) -> str:
    """The app id that letting a week go raises; where a table has it, the week has expired."""
    return f"expire:{week}"


def slice_starts(time_us: NDArray[Any], unit: SliceUnit) -> NDArray[np.int64]:
    """Beginning of the slice of each time, in UTC microseconds."""
    times = np.asarray(time_us, dtype=np.int64)
    anchor = _MONDAY_US if unit is SliceUnit.WEEK else 0
    starts: NDArray[np.int64] = times - np.mod(times - anchor, unit.length_us)
    return starts


def choose_unit(rate_hz: float, row_bytes: int) -> SliceUnit:
    """The longest unit of which a slice stays below 1 GiB decoded at the declared rate."""
    for unit in (SliceUnit.WEEK, SliceUnit.DAY):
        if rate_hz * unit.length_us / 1e6 * row_bytes < _MAX_SLICE_BYTES:
            return unit
    return SliceUnit.HOUR
