"""Live rates: the weeks of the tidy table as a series, and when a store is full."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from efd_pipelines.configuration import Capacity
from efd_pipelines.defs.growth import has_room
from efd_pipelines.forecasting.capacity import room
from efd_pipelines.forecasting.series import by_the_end_of, weekly_series
from efd_pipelines.storage.weekly import WEEKLY_SIZES
from efd_pipelines.times import Week, weeks_between

NOW = datetime(2026, 7, 2, tzinfo=UTC)
FIRST, LAST = Week.parse("2026-04-06"), Week.parse("2026-06-22")
RUNNING = "2026-06-29"


def size(week: str, store: str, size_bytes: int, component: str = "MTM1M3", kind: str = "telemetry") -> dict[str, Any]:
    empty = dict.fromkeys(("topic", "place", "how"), "")
    row = {"week": week, "store": store, "component": component, "subsystem": component.lower(), "kind": kind}
    return row | empty | {"records": 1, "bytes": size_bytes, "files": 1}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=WEEKLY_SIZES)


def test_the_series_has_every_week_that_is_over_and_none_that_runs() -> None:
    found = weekly_series(
        table(
            size(FIRST.key, "archive", 5), size(FIRST.key, "tier_1s", 2), size(LAST.key, "archive", 7),
            size(RUNNING, "archive", 100),
        ),
        NOW,
    )  # fmt: skip
    assert found.weeks == tuple(weeks_between(FIRST, LAST))
    assert found.bytes.tolist() == [7, *[0] * (len(found.weeks) - 2), 7]
    assert found.stored_bytes == 114


def test_what_was_let_go_counts_as_it_came() -> None:
    kept = [size(week.key, "archive", 50) for week in weeks_between(Week.parse("2026-05-04"), LAST)]
    came = [size(week.key, "received", 100) for week in weeks_between(FIRST, LAST)]
    found = weekly_series(table(*kept, *came), NOW)
    assert found.bytes.tolist() == [50] * len(found.weeks)
    assert "0.5 of what Kafka delivered" in found.notes[0]


def test_streams_have_the_shares_of_what_arrives_and_will_hold_the_rest_of_the_year() -> None:
    found = weekly_series(table(size(LAST.key, "archive", 300), size(LAST.key, "tier_1s", 100, kind="telemetry")), NOW)
    assert {one.level: one.share for one in found.streams} == {"raw": 0.75, "1s": 0.25}
    later = by_the_end_of(2026, found, 8e12, NOW)
    part = (datetime(2027, 1, 1, tzinfo=UTC) - NOW).days / 365.25
    assert sum(one.stored_tb for one in later) == pytest.approx(8 * part, rel=1e-6)


def test_without_a_week_there_is_a_note() -> None:
    assert weekly_series(WEEKLY_SIZES.empty_table(), NOW).notes == ("No week is over yet.",)


def test_a_store_is_full_when_its_copies_are() -> None:
    found = room("archive", 10, Capacity(capacity_tb=60, copies=2), (10, 20))
    # 40 TB are free; 20 TB a year are added, at most 40.
    assert (found.used_tb, found.months_to_full, found.months_at_least) == (20, 24, 12)


@pytest.mark.parametrize(
    ("capacity_tb", "rate", "months"), [(None, 10, None), (60, 0, None), (60, -1, None), (5, 10, 0)]
)
def test_no_capacity_or_no_growth_is_never_full(capacity_tb: float | None, rate: float, months: float | None) -> None:
    assert room("archive", 10, Capacity(capacity_tb=capacity_tb), (rate, rate)).months_to_full == months


def test_the_check_warns_months_ahead_and_not_before() -> None:
    soon = room("archive", 10, Capacity(capacity_tb=15), (10, 12))
    assert has_room([soon], 6).passed is False
    assert "archive may be full in 5 months" in str(has_room([soon], 6).description)
    assert has_room([soon], 4).passed
    assert "Nobody gave a capacity of kafka" in str(has_room([room("kafka", 1, Capacity(), (1, 1))], 6).description)
