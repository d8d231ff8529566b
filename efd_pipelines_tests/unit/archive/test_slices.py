"""Slices: units of time, their keys and edges."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.archive.slices import Slice, SliceUnit, choose_unit, slice_starts
from efd_pipelines.times import Week, from_microseconds, microseconds

TIME_US = st.integers(microseconds(datetime(2021, 9, 13, tzinfo=UTC)), microseconds(datetime(2060, 1, 1, tzinfo=UTC)))


@given(TIME_US, st.sampled_from(list(SliceUnit)))
def test_a_slice_holds_its_times_lies_in_one_week_and_keeps_its_key(time_us: int, unit: SliceUnit) -> None:
    found = Slice.containing(time_us, unit)
    assert found.start_us <= time_us < found.end_us
    assert Slice.parse(found.key) == found
    assert found.week == Week.containing(time_us) == Week.containing(found.end_us - 1)
    start = from_microseconds(found.start_us)
    assert (start.minute, start.second, start.microsecond) == (0, 0, 0)


@given(st.lists(TIME_US, min_size=1), st.sampled_from(list(SliceUnit)))
def test_many_at_once_are_as_one_by_one(times_us: list[int], unit: SliceUnit) -> None:
    expected = [Slice.containing(time_us, unit).start_us for time_us in times_us]
    assert slice_starts(np.array(times_us), unit).tolist() == expected


def test_the_heaviest_topic_is_cut_by_the_hour_and_a_heartbeat_by_the_week() -> None:
    assert choose_unit(50.0, 3500) is SliceUnit.HOUR
    assert choose_unit(1.0, 3500) is SliceUnit.DAY
    assert choose_unit(1.0, 100) is SliceUnit.WEEK


@pytest.mark.parametrize("key", ["quarantine", "dead", "2026-13-01", ""])
def test_what_is_no_slice_is_refused(key: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Slice.parse(key)
