"""Movers, new and vanished topics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from efd_pipelines.storage.changes import changes
from efd_pipelines.storage.throughput import measure
from efd_pipelines_tests.unit.storage.conftest import entry

LONG_AGO, BEFORE, NOW = "2026-10-12", "2026-11-02", "2026-11-09"
UP, DOWN, NEW, BACK, GONE = (f"lsst.sal.MTM1M3.{name}" for name in ("up", "down", "new", "back", "gone"))
Archives = Callable[..., Any]


@pytest.fixture
def archive(archive_of: Archives) -> Any:
    sizes = [
        (UP, BEFORE, 10), (UP, NOW, 35), (DOWN, BEFORE, 100), (DOWN, NOW, 60), (NEW, NOW, 7),
        (BACK, LONG_AGO, 5), (BACK, NOW, 5), (GONE, BEFORE, 8),
    ]  # fmt: skip
    return archive_of(*(entry(topic, week, size, avro=10 * size) for topic, week, size in sizes))


def test_movers_are_ordered_by_how_much_they_changed(archive: Any) -> None:
    found = changes(measure(archive, NOW).gathered)
    assert [(one.topic, one.change_bytes, one.factor) for one in found.movers] == [(DOWN, -400, 0.6), (UP, 250, 3.5)]


def test_what_is_new_came_back_or_vanished_is_told_apart(archive: Any) -> None:
    found = changes(measure(archive, NOW).gathered)
    assert [one.topic for one in found.new] == [NEW]
    assert [one.topic for one in found.back] == [BACK]
    assert [(one.topic, one.before_bytes, one.after_bytes) for one in found.vanished] == [(GONE, 80, 0)]
    assert math.isnan(found.new[0].factor)


def test_a_range_is_compared_with_as_many_weeks_before_it(archive_of: Archives) -> None:
    weeks = ["2026-10-19", "2026-10-26", BEFORE, NOW]
    archive = archive_of(*(entry(UP, week, 1, avro=10**n) for n, week in enumerate(weeks)))
    from efd_pipelines.times import Week

    report = measure(archive, start=Week.parse(BEFORE), end=Week.parse(NOW).next())
    (one,) = changes(report.gathered).movers
    assert (one.before_bytes, one.after_bytes) == (11, 1100)
