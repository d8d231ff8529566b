"""Schedules: which week a night's report is of."""

from __future__ import annotations

import dagster as dg
import pytest

from efd_pipelines.defs.schedules import SCHEDULES, weekly_report
from efd_pipelines.partitions import WEEKS
from efd_pipelines_tests.defs.builders import at


@pytest.mark.parametrize(
    ("night", "week"),
    [
        ("2026-11-22T02:30", "2026-11-16"),  # Sunday: the running week
        ("2026-11-23T02:30", "2026-11-16"),  # Monday: the week that has just ended, as a whole
        ("2026-11-24T02:30", "2026-11-23"),  # Tuesday: the new one
    ],
)
def test_each_night_reports_the_week_of_the_day_before(night: str, week: str) -> None:
    with dg.build_schedule_context(scheduled_execution_time=at(night)) as context:
        request = weekly_report(context)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == week
    assert week in WEEKS.get_partition_keys(current_time=at(night))
    assert request.run_key == night[:10]


def test_times_of_day_are_utc() -> None:
    assert {schedule.execution_timezone for schedule in SCHEDULES} == {"UTC"}
