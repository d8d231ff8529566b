"""Windows: which stretch of time a question is about: two times, an observing day, an exposure, a visit, an event.

Both ends of what a user writes belong to it, as with lsst-efd-client; of an observing day the end does not. Here a
window is half open, in UTC microseconds. Exposures and visits are looked up in ConsDB, whose times are TAI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from efd_pipelines.client.moments import duration_us, is_duration, time_us
from efd_pipelines.client.refusals import EmptyWindow, NotATime
from efd_pipelines.errors import DataError, UsageError
from efd_pipelines.times import INVALID_TIME, day_obs_interval, from_microseconds, microseconds

if TYPE_CHECKING:
    from efd_pipelines.exposures.subjects import Subject
    from efd_pipelines.settings import Settings


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """From `start_us` to before `end_us`, UTC microseconds."""

    start_us: int
    end_us: int

    @property
    def start(self) -> datetime:
        return from_microseconds(self.start_us)

    @property
    def end(self) -> datetime:
        return from_microseconds(self.end_us)

    def __str__(self) -> str:
        return f"{self.start.isoformat()} to {self.end.isoformat()}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user wrote to say when; one way of saying it at a time."""

    start: Any = None
    end: Any = None
    is_window: bool = False
    day_obs: int | None = None
    exposure: int | None = None
    visit: int | None = None
    event: Any = None
    instrument: str | None = None
    padding: Any = 0

    def window(self, settings: Settings) -> TimeWindow:
        """The stretch that is meant.

        Raises:
            EmptyWindow: it ends before it begins, or where it begins.
            NotATime: something is no time.
            UsageError: nothing, or several things are said.
            DataError: ConsDB has no such exposure or visit, or it has not ended.
            DatabaseUnavailable: ConsDB does not answer.
        """
        before_us, after_us = _padding(self.padding)
        start_us, end_us = self._times(settings)
        return TimeWindow(start_us - before_us, end_us + after_us)

    def _times(self, settings: Settings) -> tuple[int, int]:
        named = {"day_obs": self.day_obs, "exposure": self.exposure, "visit": self.visit, "event": self.event}
        said = [name for name, value in named.items() if value is not None]
        if self.start is not None or self.end is not None:
            said.insert(0, "start and end")
        if len(said) != 1:
            what = f"{' and '.join(said)} are given" if said else "No time is given"
            raise UsageError(what, remedy="Give start and end, or one of day_obs, exposure, visit and event.")
        if self.day_obs is not None:
            begin, end = day_obs_interval(self.day_obs)
            return microseconds(begin), microseconds(end)
        if self.exposure is not None or self.visit is not None:
            return self._of_consdb(settings)
        if self.event is not None:
            return _of_event(self.event)
        return _of_times(self.start, self.end, self.is_window)

    def _of_consdb(self, settings: Settings) -> tuple[int, int]:
        from efd_pipelines.exposures.consdb import ConsDB, read_exposures
        from efd_pipelines.exposures.subjects import EXPOSURE, VISIT

        subject, number = (EXPOSURE, self.exposure) if self.exposure is not None else (VISIT, self.visit)
        schema = f"cdb_{_instrument(settings, self.instrument)}"
        with ConsDB(settings.require_consdb()) as consdb:
            found = read_exposures(consdb, schema, subject=subject, number=number)
        if not len(found):
            raise DataError(f"{schema} has no {_what(subject)} {number}", remedy="Check the number and `instrument=`.")
        if int(found.end_us[0]) == INVALID_TIME:
            raise DataError(f"{_what(subject)} {number} of {schema} has not ended", remedy="Ask again, or give times.")
        return int(found.begin_us[0]), int(found.end_us[0]) + 1


def _what(subject: Subject) -> str:
    return "visit" if subject.key == "visit_id" else "exposure"


def _instrument(settings: Settings, named: str | None) -> str:
    if named is not None:
        return named
    known = [join.instrument for join in settings.configuration.exposures]
    if len(known) != 1:
        raise UsageError(
            f"Which instrument's exposure is meant is not said, and {len(known)} are configured",
            remedy=f"Give `instrument=`, e.g. {' or '.join(known) or 'lsstcam'}.",
        )
    return known[0]


def _of_event(event: Any) -> tuple[int, int]:
    """Of anything with a beginning and an end, or of two times."""
    for first, last in (("begin", "end"), ("start", "end"), ("begin", "stop"), ("start", "stop")):
        if hasattr(event, first) and hasattr(event, last):
            return _of_times(getattr(event, first), getattr(event, last), is_window=False)
    if isinstance(event, Sequence) and not isinstance(event, str) and len(event) == 2:
        return _of_times(event[0], event[1], is_window=False)
    raise NotATime(f"{event!r} has no `begin` and `end`", remedy="Give an object that has them, or two times.")


def _of_times(start: Any, end: Any, is_window: bool) -> tuple[int, int]:
    if start is None or end is None:
        raise UsageError("Only one of start and end is given", remedy="Give both; the end may be a duration.")
    start_us = time_us(start)
    if not is_duration(end):
        first, last = start_us, time_us(end)
    elif is_window:
        half = duration_us(end) // 2
        first, last = start_us - half, start_us + half
    else:
        first, last = start_us, start_us + duration_us(end)
    if last <= first:
        what = "is empty" if last == first else "ends before it begins"
        raise EmptyWindow(f"The window {from_microseconds(first)} to {from_microseconds(last)} {what}")
    return first, last + 1


def _padding(padding: Any) -> tuple[int, int]:
    """Microseconds before and after."""
    pair = padding if isinstance(padding, tuple | list) else (padding, padding)
    if len(pair) != 2:
        raise UsageError(f"{padding!r} is no padding", remedy="Give seconds or a duration, or two: before and after.")
    return duration_us(pair[0]), duration_us(pair[1])
