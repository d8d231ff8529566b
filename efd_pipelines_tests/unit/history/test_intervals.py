"""Intervals: their algebra, compared with sets of microseconds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.history.intervals import Interval, seconds_of, united, within, without

INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda at: Interval(at[0], at[0] + at[1])))


def points(intervals: Iterable[Interval]) -> set[int]:
    return {at for one in intervals for at in range(one.start_us, one.end_us)}


@given(INTERVALS)
def test_united_are_the_same_points_once_and_apart(intervals: list[Interval]) -> None:
    found = united(intervals)
    assert points(found) == points(intervals)
    assert all(one.end_us < other.start_us for one, other in itertools.pairwise(found))
    assert round(seconds_of(intervals) * 1e6) == len(points(intervals))


@given(INTERVALS, st.integers(0, 5))
def test_those_that_are_near_are_one(intervals: list[Interval], apart_us: int) -> None:
    found = united(intervals, apart_us=apart_us)
    assert points(found) >= points(intervals)
    assert all(other.start_us - one.end_us > apart_us for one, other in itertools.pairwise(found))


@given(INTERVALS, INTERVALS)
def test_without_takes_points_away(intervals: list[Interval], others: list[Interval]) -> None:
    assert points(without(intervals, others)) == points(intervals) - points(others)


@given(INTERVALS)
def test_within_keeps_what_lies_there(intervals: list[Interval]) -> None:
    assert points(within(intervals, Interval(10, 30))) == {at for at in points(intervals) if 10 <= at < 30}
