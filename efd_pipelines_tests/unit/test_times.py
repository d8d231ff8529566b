"""Times, against astropy."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from astropy.time import Time
from hypothesis import assume, example, given
from hypothesis import strategies as st

from efd_pipelines.errors import UsageError
from efd_pipelines.times import (
    FIRST_WEEK,
    INVALID_TIME,
    LeapSecondsExpired,
    Week,
    day_obs_interval,
    day_obs_of,
    event_time_us,
    from_microseconds,
    microseconds,
    parse_time,
    tai_datetimes_from_utc_us,
    tai_unix_from_utc_unix,
    utc_unix_from_tai_unix,
    utc_us_from_tai_datetimes,
    weeks_between,
)

WHEN = st.floats(min_value=1.0e8, max_value=1.8e9)


@given(st.lists(WHEN, min_size=1, max_size=20))
@example([1483142400.0 + 36, 1483228837.0, 1483228836.0 - 1e-3])
def test_tai_to_utc_is_astropys(tai: list[float]) -> None:
    # The unix format of astropy stretches the whole day that has a leap second; its calendar dates do not.
    texts = [str(text) for text in Time(tai, format="unix_tai", scale="tai", precision=6).utc.isot]
    assume(not any(text.endswith("23:59:60") or ":60." in text for text in texts))
    theirs = np.array(texts, dtype="datetime64[us]").astype(np.int64) / 1e6
    assert np.abs(utc_unix_from_tai_unix(np.array(tai)) - theirs).max() < 2e-6


@given(st.lists(WHEN, min_size=1, max_size=20))
def test_tai_to_utc_and_back_is_the_same(utc: list[float]) -> None:
    there = tai_unix_from_utc_unix(np.array(utc))
    assert np.allclose(utc_unix_from_tai_unix(there), utc, rtol=0, atol=1e-6)


def test_the_offset_steps_where_the_leap_second_was() -> None:
    step = datetime(2017, 1, 1, tzinfo=UTC).timestamp()
    tai = np.array([step + 36 - 0.5, step + 37, step + 37.5])
    assert utc_unix_from_tai_unix(tai).tolist() == [step - 0.5, step, step + 0.5]


def test_consdb_times_are_37_seconds_ahead() -> None:
    tai = np.array(["2023-07-28T23:36:51.019", "NaT"], dtype="datetime64[us]")
    utc = utc_us_from_tai_datetimes(tai)
    assert utc[0] == np.datetime64("2023-07-28T23:36:14.019")
    assert np.isnat(utc[1])
    assert tai_datetimes_from_utc_us(utc)[0] == tai[0]


def test_a_time_past_the_table_is_refused_with_a_remedy() -> None:
    with pytest.raises(LeapSecondsExpired, match="EFD_LEAP_SECONDS"):
        utc_unix_from_tai_unix(np.array([4.0e9]))


def test_event_time_floors_to_the_microsecond() -> None:
    stamps = np.array([1690578851.7362103, 1690578631.1447399, np.nan, np.inf, -np.inf, 1e300, 0.0])
    expected = [1690578851736210, 1690578631144739, *[INVALID_TIME] * 4, 0]
    assert event_time_us(stamps).tolist() == expected


@given(st.datetimes(min_value=datetime(2021, 9, 13), max_value=datetime(2040, 1, 1)))
def test_a_week_holds_its_times_and_begins_on_a_monday(naive: datetime) -> None:
    when = naive.replace(tzinfo=UTC)
    week = Week.containing(when)
    assert week.start <= when < week.end
    assert week.monday.weekday() == 0
    assert Week.containing(microseconds(when)) == week == Week.parse(week.key)
    assert (week.next().start_us, week.previous().end_us) == (week.end_us, week.start_us)


@pytest.mark.parametrize("key", ["2026-11-17", "2021-09-06", "1970-01-05", "2026-W47", "20261116", "../../x", ""])
def test_what_is_no_week_is_refused(key: str) -> None:
    with pytest.raises(UsageError):
        Week.parse(key)


def test_weeks_between_counts_both_ends() -> None:
    assert [week.key for week in weeks_between(FIRST_WEEK, FIRST_WEEK.next())] == ["2021-09-13", "2021-09-20"]
    assert weeks_between(FIRST_WEEK.next(), FIRST_WEEK) == []


def test_an_observing_day_begins_at_noon() -> None:
    assert day_obs_of(datetime(2023, 7, 29, 11, 59, 59, tzinfo=UTC)) == 20230728
    assert day_obs_of(datetime(2023, 7, 29, 12, tzinfo=UTC)) == 20230729
    begin, end = day_obs_interval(20230728)
    assert (begin, end - begin) == (datetime(2023, 7, 28, 12, tzinfo=UTC), timedelta(days=1))
    with pytest.raises(UsageError):
        day_obs_interval(20231301)


@given(st.integers(min_value=-(2**50), max_value=2**50))
def test_microseconds_are_exact(time_us: int) -> None:
    assert microseconds(from_microseconds(time_us)) == time_us


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert parse_time("2026-11-21") == datetime(2026, 11, 21, tzinfo=UTC)
    assert parse_time("2026-11-21T20:00:00-03:00") == datetime(2026, 11, 21, 23, tzinfo=UTC)
    for text in ("yesterday", "20261121", ""):
        with pytest.raises(UsageError):
            parse_time(text)


def test_dates_are_accepted_too() -> None:
    assert Week.containing(date(2026, 11, 22)).key == "2026-11-16"
