"""Times: TAI and UTC, event time, weeks and observing days.

Everything that knows a leap second or where a week or a night begins is here, and nowhere else.
UTC is `datetime` with a zone, or microseconds since 1970; what is TAI is called `tai_…`.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.errors import EfdError, UsageError

INVALID_TIME: int = int(np.iinfo(np.int64).min)
"""What `event_time_us` gives for a stamp that is no time (NaN, infinite, beyond the range)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US_PER_DAY = 86_400_000_000
_LARGEST_STAMP_S = 9.2e12


class LeapSecondsExpired(EfdError):
    """The table of leap seconds ends before the time that is to be converted."""

    remedy = "Upgrade astropy-iers-data, or name a newer IERS Leap_Second.dat in EFD_LEAP_SECONDS."


@functools.cache
def _leap_seconds() -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """UTC of each step in unix seconds, TAI−UTC from there on in seconds, and the expiry in unix seconds.

    Source: the IERS's Leap_Second.dat of astropy-iers-data: pyerfa's own table has the same steps but claims to
    have expired in 2017 (docs/decisions/001). Whole seconds since 1972; the observatory has nothing older.
    """
    text = Path(os.environ.get("EFD_LEAP_SECONDS") or _iers_file()).read_text(encoding="utf-8")
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    expires = re.search(r"expires on (\d+ \w+ \d{4})", text)
    if not rows or expires is None:
        raise LeapSecondsExpired("The table of leap seconds cannot be read")
    steps = [datetime(int(year), int(month), int(day), tzinfo=UTC).timestamp() for _, day, month, year, _ in rows]
    expiry = datetime.strptime(expires[1], "%d %B %Y").replace(tzinfo=UTC).timestamp()
    return np.array(steps), np.array([float(row[4]) for row in rows]), expiry


def _iers_file() -> str:
    import astropy_iers_data

    return str(astropy_iers_data.IERS_LEAP_SECOND_FILE)


def _check_expiry(latest_s: float) -> None:
    expiry = _leap_seconds()[2]
    if latest_s > expiry:
        latest = datetime.fromtimestamp(latest_s, UTC).isoformat()
        raise LeapSecondsExpired(
            f"{latest} is past the end of the leap-second table ({datetime.fromtimestamp(expiry, UTC).date()})"
        )


def _offsets(stamps_s: NDArray[np.float64], *, of_tai: bool) -> NDArray[np.float64]:
    steps, offsets, _ = _leap_seconds()
    finite = stamps_s[np.isfinite(stamps_s)]
    if finite.size:
        _check_expiry(float(finite.max()))
    edges = steps + offsets if of_tai else steps
    index = np.searchsorted(edges, stamps_s, side="right") - 1
    return offsets[np.clip(index, 0, len(offsets) - 1)]


def utc_unix_from_tai_unix(tai_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """UTC unix seconds of TAI unix seconds (the rule of ts_utils: the offset of the last step before).

    Raises:
        LeapSecondsExpired: a time lies beyond the table.
    """
    tai = np.asarray(tai_s, dtype=np.float64)
    return tai - _offsets(tai, of_tai=True)


def tai_unix_from_utc_unix(utc_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """TAI unix seconds of UTC unix seconds (no smearing).

    Raises:
        LeapSecondsExpired: a time lies beyond the table.
    """
    utc = np.asarray(utc_s, dtype=np.float64)
    return utc + _offsets(utc, of_tai=False)


def utc_us_from_tai_datetimes(naive_tai: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """UTC of naive TAI dates and times, as ConsDB keeps `obs_start` and `obs_end`; NaT stays NaT."""
    tai = np.asarray(naive_tai).astype("datetime64[us]")
    seconds = tai.astype(np.int64) / 1e6
    seconds[np.isnat(tai)] = np.nan
    offsets = _offsets(seconds, of_tai=True)
    utc: NDArray[np.datetime64] = tai - (offsets * 1e6).astype("timedelta64[us]")
    return utc


def tai_datetimes_from_utc_us(utc: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """Naive TAI of UTC `datetime64[us]`: the way back of `utc_us_from_tai_datetimes`."""
    times = np.asarray(utc).astype("datetime64[us]")
    seconds = times.astype(np.int64) / 1e6
    seconds[np.isnat(times)] = np.nan
    offsets = (_offsets(seconds, of_tai=False) * 1e6).astype("timedelta64[us]")
    tai: NDArray[np.datetime64] = times + offsets
    return tai


def event_time_us(efd_stamp_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Event time in UTC microseconds: `floor(private_efdStamp × 1e6)` in float64 (design.md §2).

    `INVALID_TIME` where the stamp is no time.
    """
    stamps = np.asarray(efd_stamp_s, dtype=np.float64)
    valid = np.abs(stamps) < _LARGEST_STAMP_S
    scaled = np.floor(np.where(valid, stamps, 0.0) * 1e6).astype(np.int64)
    return np.where(valid, scaled, INVALID_TIME)


@dataclass(frozen=True, slots=True, order=True)
class Week:
    """Monday 00:00 UTC to the next: the unit of partitions, and an InfluxDB shard."""

    monday: date

    @property
    def key(self) -> str:
        return self.monday.isoformat()

    @property
    def start(self) -> datetime:
        return datetime(self.monday.year, self.monday.month, self.monday.day, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        return self.start + timedelta(days=7)

    @property
    def start_us(self) -> int:
        return microseconds(self.start)

    @property
    def end_us(self) -> int:
        return self.start_us + 7 * _US_PER_DAY

    def next(self) -> Week:
        return Week(self.monday + timedelta(days=7))

    def previous(self) -> Week:
        return Week(self.monday - timedelta(days=7))

    def __str__(self) -> str:
        return self.key

    @classmethod
    def parse(cls, key: str) -> Week:
        """The week of a key `YYYY-MM-DD`.

        Raises:
            UsageError: the key is no date, no Monday, or before the first week of the EFD.
        """
        try:
            monday = date.fromisoformat(key)
        except ValueError:
            raise UsageError(f"{key!r} is no week", remedy="Write the Monday it begins with, as 2026-11-16.") from None
        if monday.weekday() != 0 or key != monday.isoformat():
            raise UsageError(f"{key} is no Monday", remedy=f"The week it lies in is {cls.containing(monday)}.")
        if monday < FIRST_WEEK.monday:
            raise UsageError(f"{key} is before the first week of the EFD", remedy=f"Weeks begin at {FIRST_WEEK}.")
        return cls(monday)

    @classmethod
    def containing(cls, when: datetime | date | int) -> Week:
        """The week of a date, an aware datetime, or UTC microseconds."""
        if isinstance(when, int):
            day = date(1970, 1, 1) + timedelta(days=when // _US_PER_DAY)
        elif isinstance(when, datetime):
            day = when.astimezone(UTC).date()
        else:
            day = when
        return cls(day - timedelta(days=day.weekday()))


FIRST_WEEK = Week(date(2021, 9, 13))
"""The first week of the EFD at the Summit; what claims to be older is quarantined."""


def weeks_between(first: Week, last: Week) -> list[Week]:
    """All weeks from `first` to `last`, both included."""
    count = (last.monday - first.monday).days // 7 + 1
    return [Week(first.monday + timedelta(days=7 * n)) for n in range(max(count, 0))]


def this_week(now: datetime | None = None) -> Week:
    """The running week."""
    return Week.containing(now or datetime.now(UTC))


def microseconds(when: datetime) -> int:
    """UTC microseconds since 1970 of an aware datetime, exact."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def from_microseconds(time_us: int) -> datetime:
    """The aware datetime of UTC microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=int(time_us))


def day_obs_of(when: datetime) -> int:
    """The observing day, YYYYMMDD, of an aware datetime: it begins at 12:00 UTC."""
    day = (when.astimezone(UTC) - timedelta(hours=12)).date()
    return day.year * 10000 + day.month * 100 + day.day


def day_obs_interval(day_obs: int) -> tuple[datetime, datetime]:
    """Beginning and end (excluded) in UTC of an observing day.

    Raises:
        UsageError: no such day.
    """
    try:
        day = datetime.strptime(str(day_obs), "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(f"{day_obs} is no observing day", remedy="Write it as 20261121.") from None
    return day + timedelta(hours=12), day + timedelta(hours=36)


def parse_time(text: str) -> datetime:
    """UTC of an ISO date or time; one without a zone is UTC.

    Raises:
        UsageError: it is none.
    """
    try:
        if re.fullmatch(r"\d{6,}", text):
            raise ValueError(text)
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is no time", remedy="Write it as 2026-11-21 or 2026-11-21T23:36:14.165 (UTC)."
        ) from None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
