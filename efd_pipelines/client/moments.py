"""Moments: anything that says a time or a duration, as UTC microseconds.

astropy is not needed, and understood where it is used: its Time of any scale is converted by astropy itself.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from efd_pipelines.client.refusals import NotATime
from efd_pipelines.errors import UsageError
from efd_pipelines.times import microseconds, parse_time


def is_duration(value: Any) -> bool:
    """Whether it is a duration (timedelta, numpy, pandas, astropy), not a time."""
    return isinstance(value, timedelta | np.timedelta64) or _is_astropy(value, "TimeDelta")


def time_us(value: Any) -> int:
    """A time in UTC microseconds.

    Raises:
        NotATime: it is none.
    """
    if _is_astropy(value, "Time") and not _is_astropy(value, "TimeDelta"):
        if getattr(value, "shape", ()) != ():
            raise NotATime(f"{value!r} is {len(value)} times, not one")
        return _rounded(value.utc.to_value("datetime64"))
    if isinstance(value, datetime):
        when = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return microseconds(when.astimezone(UTC))
    if isinstance(value, np.datetime64) and not np.isnat(value):
        return _rounded(value)
    if isinstance(value, str):
        try:
            return microseconds(parse_time(value.strip().replace(" UTC", "").replace("Z", "+00:00")))
        except UsageError as error:
            raise NotATime(error.message) from error
    if isinstance(value, date):
        return microseconds(datetime(value.year, value.month, value.day, tzinfo=UTC))
    if isinstance(value, int | float):
        raise NotATime(f"{value!r} is a number; it does not say in which unit and scale it is a time")
    raise NotATime(f"{value!r} is no time")


def duration_us(value: Any) -> int:
    """A duration in microseconds; numbers are seconds.

    Raises:
        NotATime: it is none.
    """
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    if isinstance(value, np.timedelta64):
        return int(value / np.timedelta64(1, "us"))
    if _is_astropy(value, "TimeDelta"):
        return round(float(value.to_value("sec")) * 1e6)
    if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
        return round(value * 1e6)
    raise NotATime(f"{value!r} is no duration", remedy="Give seconds, a timedelta, or an astropy TimeDelta.")


def _rounded(value: np.datetime64) -> int:
    """To the nearest microsecond: a Julian day in two doubles is exact to fractions of a nanosecond."""
    nanoseconds = int(value.astype("datetime64[ns]").astype(np.int64))
    return (nanoseconds + 500) // 1000


def _is_astropy(value: Any, name: str) -> bool:
    return any(kind.__name__ == name and kind.__module__.startswith("astropy.time") for kind in type(value).__mro__)
