"""Planning: the newest weeks first, each until it was asked for, in a window of the day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.errors import SettingsError
from efd_pipelines.history.asked import Asked
from efd_pipelines.history.intervals import Interval
from efd_pipelines.history.planning import Window, asks_until, next_weeks
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.tiers.builders import FAST, MONDAY_US, archive_rows, rows

FIRST = Week.parse("2026-11-02")
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def due(archive: Archive, *components: str, now: datetime = NOW) -> list[str]:
    return [f"{component} {week}" for component, week in next_weeks(archive, components, FIRST, now=now)]


def finish(archive: Archive, component: str, week: str) -> None:
    Asked(archive.store, component, Week.parse(week)).finish()


def test_all_weeks_that_are_over_newest_first(archive: Archive) -> None:
    assert due(archive, "ESS", "MTM1M3") == [
        f"{component} {week}" for week in ("2026-11-16", "2026-11-09", "2026-11-02") for component in ("ESS", "MTM1M3")
    ]


def test_a_week_is_left_alone_on_the_day_after_it(archive: Archive) -> None:
    assert due(archive, "ESS", now=datetime(2026, 11, 23, 12, tzinfo=UTC))[0] == "ESS 2026-11-09"


def test_what_was_asked_for_is_not_due(archive: Archive) -> None:
    finish(archive, "ESS", "2026-11-09")
    assert due(archive, "ESS") == ["ESS 2026-11-16", "ESS 2026-11-02"]


def test_a_gap_that_is_noticed_later_makes_its_weeks_due_again(archive: Archive) -> None:
    this_week = Week.containing(datetime.now(UTC))
    now = this_week.end + timedelta(days=2)
    weeks = [this_week, this_week.previous(), this_week.previous().previous()]
    for week in (*weeks, FIRST):
        finish(archive, "MTM1M3", week.key)
    assert [name for name in due(archive, "MTM1M3", now=now) if name.endswith(tuple(map(str, weeks)))] == []
    lose(archive)
    found = due(archive, "MTM1M3", now=now)
    assert found[:3] == [f"MTM1M3 {week}" for week in weeks]
    finish(archive, "MTM1M3", this_week.key)
    assert due(archive, "MTM1M3", now=now)[0] == f"MTM1M3 {weeks[1]}"


def lose(archive: Archive) -> None:
    """A commit that passed a gap, now."""
    relative = archive.relative(FAST)
    archive_rows(archive, FAST, rows([MONDAY_US], {"value": [1.0]}))
    snapshot = open_table(archive.store, relative)
    assert snapshot is not None
    gap = {"source": "cluster/topic", "partition": 0, "first": 1, "end": 5, "reason": "expired", "noticed": ""}
    made = commit(
        archive.store,
        relative,
        snapshot,
        transactions={"kafka:cluster/topic:0": (1, 5)},
        schema=snapshot.schema,
        note={"kind": "drain", "gaps": [gap]},
    )
    archive.ledger.append(rows_of(RAW, FAST, made))


def test_what_was_asked_for_is_kept_and_joined(archive: Archive) -> None:
    asked = Asked(archive.store, "MTM1M3", FIRST)
    asked.note(FAST, "influx:efd", [Interval(0, 10), Interval(20, 30)])
    asked.note(FAST, "influx:efd", [Interval(10, 20)])
    asked.note(FAST, "file:a", [Interval(5, 6)])
    asked.keep()
    again = Asked(archive.store, "MTM1M3", FIRST)
    assert again.intervals(FAST, "influx:efd") == [Interval(0, 30)]
    assert again.intervals(FAST, "file:a") == [Interval(5, 6)]
    assert Asked(archive.store, "MTM1M3", FIRST.next()).intervals(FAST, "influx:efd") == []


@pytest.mark.parametrize(
    ("window", "at", "ends"),
    [
        ("13:00-21:00", "2026-11-24T13:00", "2026-11-24T21:00"),
        ("13:00-21:00", "2026-11-24T21:00", None),
        ("13:00-21:00", "2026-11-24T12:59", None),
        ("22:00-02:00", "2026-11-24T23:00", "2026-11-25T02:00"),
        ("22:00-02:00", "2026-11-24T01:00", "2026-11-24T02:00"),
        ("00:00-00:00", "2026-11-24T12:00", "2026-11-25T00:00"),
    ],
)
def test_the_window_of_a_time(window: str, at: str, ends: str | None) -> None:
    found = Window.parse(window).around(datetime.fromisoformat(at).replace(tzinfo=UTC))
    assert (None if found is None else found[1].isoformat()[:16]) == ends


def test_the_history_is_asked_until_window_or_budget_end() -> None:
    settings = load_settings({"EFD_HISTORY_WINDOW": "10:00-18:00", "EFD_HISTORY_BUDGET_H": "3"}, None)
    assert asks_until(settings, NOW, timedelta(0)) == NOW + timedelta(hours=3)
    assert asks_until(settings, NOW, timedelta(hours=2)) == NOW + timedelta(hours=1)
    assert asks_until(settings, NOW, timedelta(hours=3)) is None
    assert asks_until(settings, NOW + timedelta(hours=5), timedelta(0)) == NOW + timedelta(hours=6)
    assert asks_until(settings, NOW + timedelta(hours=7), timedelta(0)) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WINDOW", "25:00-26:00"),
        ("WINDOW", "13:00"),
        ("FIRST_WEEK", "2026-11-03"),
        ("QUERIES", "0"),
        ("VALUES_S", "-1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"EFD_HISTORY_{name}"):
        load_settings({f"EFD_HISTORY_{name}": value}, None)
