"""Ranges: which times a request means: a range, or the windows of exposures and visits as ConsDB has them now.

Windows of exposures are closed at both ends and may touch; here they become stretches without overlaps, and a column
that tells of each row in whose window it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.errors import DataError, UsageError
from efd_pipelines.exports.request import Asked, Request
from efd_pipelines.history.intervals import Interval, united
from efd_pipelines.times import INVALID_TIME, day_obs_interval, from_microseconds

if TYPE_CHECKING:
    from efd_pipelines.exposures.windows import Exposures
    from efd_pipelines.settings import Settings


class NoExposures(DataError):
    """ConsDB has none that were asked for."""

    remedy = "Check the instrument, the numbers and the times; exposures that have not ended yet do not count."


@dataclass(frozen=True, slots=True)
class ExposureWindows:
    """Windows of exposures, both ends included, in the order of their beginnings; `column` names their numbers'."""

    column: str
    numbers: tuple[int, ...] = field(repr=False)
    begin_us: tuple[int, ...] = field(repr=False)
    end_us: tuple[int, ...] = field(repr=False)
    unended: int = 0

    def numbers_at(self, time_us: Any) -> pa.Array:
        """For each time the exposure in whose window it is, the later one of two; null where it is in none."""
        begins, ends = np.array(self.begin_us, np.int64), np.array(self.end_us, np.int64)
        place = np.searchsorted(begins, time_us, side="right") - 1
        inside = (place >= 0) & (time_us <= ends[place])
        return pa.array(np.array(self.numbers, np.int64)[place], mask=~inside)


@dataclass(frozen=True, slots=True)
class Ranges:
    """Stretches of time in order, without overlaps; `windows` where they are those of exposures."""

    intervals: tuple[Interval, ...]
    windows: ExposureWindows | None = None

    @property
    def start_us(self) -> int:
        return self.intervals[0].start_us

    @property
    def end_us(self) -> int:
        return self.intervals[-1].end_us

    def within(self, start_us: int, end_us: int) -> tuple[Interval, ...]:
        """The parts that lie in a stretch; found by bisection: a night has a thousand windows, a month 700 files."""
        ends = [one.end_us for one in self.intervals]
        first = int(np.searchsorted(ends, start_us, side="right"))
        found = []
        for one in self.intervals[first:]:
            if one.start_us >= end_us:
                break
            found.append(Interval(max(one.start_us, start_us), min(one.end_us, end_us)))
        return tuple(found)

    def cover(self, low_us: int, high_us: int) -> bool:
        """Whether all times from low to high, both included, are in one of them."""
        found = self.within(low_us, high_us + 1)
        return len(found) == 1 and found[0] == Interval(low_us, high_us + 1)

    def contain(self, time_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the times are in one of them."""
        starts = np.array([one.start_us for one in self.intervals], np.int64)
        ends = np.array([one.end_us for one in self.intervals], np.int64)
        place = np.searchsorted(starts, time_us, side="right") - 1
        return np.asarray((place >= 0) & (time_us < ends[place]))

    def length_us(self, start_us: int, end_us: int) -> int:
        """How much of a stretch lies in them."""
        return sum(one.end_us - one.start_us for one in self.within(start_us, end_us))

    def part(self, start_us: int, end_us: int) -> Ranges:
        """What of them lies in a stretch; none of it makes no ranges, so ask `within` first."""
        return Ranges(self.within(start_us, end_us), self.windows)


def ranges_of(request: Request, settings: Settings) -> Ranges:
    """The times that a request means.

    Raises:
        NoExposures: there are none of those asked for.
        DatabaseUnavailable, DataError: ConsDB does not answer, or has no such table.
    """
    if request.asked is None:
        if request.start_us is None or request.end_us is None:
            raise UsageError("No times are given", remedy="Give beginning and end, or an observing day.")
        return Ranges((_whole(Interval(request.start_us, request.end_us), request.window_us, begins_within=True),))
    found, unended = _exposures(request, request.asked, settings)
    padding_us = round(request.asked.padding_s * 1e6)
    begins, ends = found.begin_us - padding_us, found.end_us + padding_us
    if request.window_us is not None:  # a window is of the exposure that it begins before
        begins -= begins % request.window_us
    windows = ExposureWindows(
        request.asked.column,
        tuple(found.exposure_id.tolist()),
        tuple(begins.tolist()),
        tuple(ends.tolist()),
        unended,
    )
    stretches = [Interval(begin, end + 1) for begin, end in zip(windows.begin_us, windows.end_us, strict=True)]
    return Ranges(tuple(united(_whole(one, request.window_us) for one in stretches)), windows)


def _whole(interval: Interval, window_us: int | None, *, begins_within: bool = False) -> Interval:
    """The stretch in whole windows: those that it touches, or those that begin within it, as a tier is read."""
    if window_us is None:
        return interval
    start = interval.start_us - interval.start_us % window_us
    if begins_within and start < interval.start_us:
        start += window_us
    end = interval.end_us + -interval.end_us % window_us
    if end <= start:
        raise UsageError("No window begins in the range", remedy="Give a longer range, or a shorter window.")
    return Interval(start, end)


def _exposures(request: Request, asked: Asked, settings: Settings) -> tuple[Exposures, int]:
    """Those that have ended, and how many have not."""
    from efd_pipelines.exposures.consdb import ConsDB, read_exposures
    from efd_pipelines.exposures.subjects import EXPOSURE, VISIT

    subject = EXPOSURE if asked.subject == "exposures" else VISIT
    start, end = _days_of(asked.numbers) if request.start is None and asked.numbers else (request.start, request.end)
    with ConsDB(settings.require_consdb()) as consdb:
        found = read_exposures(consdb, f"cdb_{asked.instrument}", subject=subject, start=start, end=end)
    if asked.numbers is not None:
        first, last = asked.numbers
        found = found.take((found.exposure_id >= first) & (found.exposure_id <= last))
    ended = found.end_us != INVALID_TIME
    if not ended.any():
        what = f" {asked.numbers[0]} to {asked.numbers[1]}" if asked.numbers else ""
        when = "" if start is None or end is None else f" from {start.isoformat()} to {end.isoformat()}"
        raise NoExposures(f"ConsDB has no {asked.subject}{what} of {asked.instrument} that have ended{when}")
    chosen = found.take(ended)
    return chosen.take(np.argsort(chosen.begin_us, kind="stable")), int((~ended).sum())


def _days_of(numbers: tuple[int, int]) -> tuple[Any, Any]:
    """The observing days that numbers tell, day_obs × 100000 + seq_num; any time where they tell none."""
    try:
        first, last = (day_obs_interval(number // 100_000) for number in numbers)
    except UsageError:
        return None, None
    return first[0] - timedelta(hours=1), last[1] + timedelta(hours=1)


def span_text(ranges: Ranges) -> tuple[str, str]:
    """Beginning and end for people."""
    return from_microseconds(ranges.start_us).isoformat(), from_microseconds(ranges.end_us).isoformat()
