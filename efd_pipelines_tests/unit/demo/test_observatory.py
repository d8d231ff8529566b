"""What a demo simulates: windows that cross a Monday, follow each other and are never simulated twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.demo.observatory import first_start, next_window
from efd_pipelines.times import Week

moments = st.datetimes(datetime(2022, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))


@given(now=moments, seconds=st.floats(100, 3600))
def test_the_first_window_is_over_and_crosses_the_newest_monday_that_it_can(now: datetime, seconds: float) -> None:
    start = first_start(seconds, now)
    end = start + timedelta(seconds=seconds)

    assert end <= now
    assert Week.containing(start).next() == Week.containing(end)
    assert now - end < timedelta(days=7)


def test_windows_follow_each_other(tmp_path: Path) -> None:
    now = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)

    first, second = next_window(tmp_path, 180.0, now), next_window(tmp_path, 60.0, now + timedelta(days=30))

    assert first.start == datetime(2026, 11, 15, 23, 58, 30, tzinfo=UTC)
    assert first.seconds == 180.0
    assert second.start == first.end
    assert second.seconds == 60.0


def test_a_window_is_taken_before_anybody_can_use_it(tmp_path: Path) -> None:
    window = next_window(tmp_path, 180.0)

    # Whoever took it died at once.
    assert next_window(tmp_path, 180.0).start == window.end
