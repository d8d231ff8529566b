"""Windows: TAI to UTC, closed edges, and stretches that are read at once."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from astropy.time import Time
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.exposures.windows import Exposures, bounds, spans
from efd_pipelines.times import INVALID_TIME

START = datetime(2026, 11, 16, 3, 0, 0, 123456)
END = datetime(2026, 11, 16, 3, 0, 30, 1)


def test_obs_start_and_obs_end_are_tai_as_astropy_has_it() -> None:
    exposures = Exposures.of_rows([(20261115, 7, 2026111500007, START, END)])
    for found_us, tai in ((exposures.begin_us[0], START), (exposures.end_us[0], END)):
        expected = Time(tai, scale="tai").utc.datetime
        assert found_us == int(np.datetime64(expected, "us").astype(np.int64))
        assert np.datetime64(tai, "us").astype(np.int64) - found_us == 37_000_000


def test_an_exposure_that_has_not_ended_has_no_end() -> None:
    exposures = Exposures.of_rows([(20261115, 7, 2026111500007, START, None)])
    assert exposures.end_us[0] == INVALID_TIME
    assert exposures.padded(1_000_000).end_us[0] == INVALID_TIME


def test_padding_widens_both_sides() -> None:
    exposures = Exposures.of_rows([(20261115, 7, 2026111500007, START, END)])
    padded = exposures.padded(2_000_000)
    assert (padded.begin_us - exposures.begin_us).tolist() == [-2_000_000]
    assert (padded.end_us - exposures.end_us).tolist() == [2_000_000]


def test_no_exposures_are_none() -> None:
    assert len(Exposures.of_rows([])) == 0


@given(
    st.lists(st.integers(0, 50), max_size=40),
    st.lists(st.tuples(st.integers(-5, 55), st.integers(-2, 20)), max_size=10),
)
def test_a_window_has_what_lies_in_the_closed_interval(sample_times: list[int], windows: list[tuple[int, int]]) -> None:
    time_us = np.array(sorted(sample_times), dtype=np.int64)
    begin = np.array([b for b, _ in windows], dtype=np.int64)
    end = np.array([b + length for b, length in windows], dtype=np.int64)
    first, stop = bounds(time_us, begin, end)
    for n in range(len(windows)):
        assert time_us[first[n] : stop[n]].tolist() == [t for t in time_us if begin[n] <= t <= end[n]]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 60)), max_size=40), st.integers(1, 200))
def test_each_window_lies_whole_in_one_stretch(windows: list[tuple[int, int]], longest: int) -> None:
    ordered = sorted(windows)
    begin = np.array([b for b, _ in ordered], dtype=np.int64)
    end = np.array([b + length for b, length in ordered], dtype=np.int64)
    found = spans(begin, end, longest, gap_us=30)
    assert [int(n) for span in found for n in span.members] == list(range(len(ordered)))
    for span in found:
        assert (begin[span.members] >= span.begin_us).all()
        assert (end[span.members] <= span.end_us).all()
        assert span.end_us - span.begin_us <= longest or len(span.members) == 1


def test_windows_far_apart_are_read_apart() -> None:
    begin, end = np.array([0, 100, 5000]), np.array([50, 150, 5050])
    assert [span.members.tolist() for span in spans(begin, end, 10_000, gap_us=1000)] == [[0, 1], [2]]
