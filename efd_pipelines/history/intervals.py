"""Intervals: stretches of event time, closed at the beginning and open at the end, in UTC microseconds.

What belongs here: their algebra, and nothing that knows where they come from. Which ones the archive lacks:
`coverage.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """From `start_us` to before `end_us`."""

    start_us: int
    end_us: int

    @property
    def seconds(self) -> float:
        return (self.end_us - self.start_us) / 1e6


def united(intervals: Iterable[Interval], *, apart_us: int = 0) -> list[Interval]:
    """The same stretches without overlaps, in order; those no more than `apart_us` apart are one."""
    found: list[Interval] = []
    for one in sorted(interval for interval in intervals if interval.end_us > interval.start_us):
        if found and one.start_us <= found[-1].end_us + apart_us:
            found[-1] = Interval(found[-1].start_us, max(found[-1].end_us, one.end_us))
        else:
            found.append(one)
    return found


def within(intervals: Iterable[Interval], limits: Interval) -> list[Interval]:
    """The parts that lie within the limits."""
    cut = (Interval(max(one.start_us, limits.start_us), min(one.end_us, limits.end_us)) for one in united(intervals))
    return [one for one in cut if one.end_us > one.start_us]


def without(intervals: Iterable[Interval], others: Iterable[Interval]) -> list[Interval]:
    """The parts that none of the others covers."""
    holes = united(others)
    found: list[Interval] = []
    for one in united(intervals):
        start = one.start_us
        for hole in holes:
            if hole.end_us <= start or hole.start_us >= one.end_us:
                continue
            if hole.start_us > start:
                found.append(Interval(start, hole.start_us))
            start = max(start, hole.end_us)
        if start < one.end_us:
            found.append(Interval(start, one.end_us))
    return found


def seconds_of(intervals: Iterable[Interval]) -> float:
    """How long they are together."""
    return sum(one.seconds for one in united(intervals))
