"""What Dagster is told of live work: rarely, briefly, and the last state always."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import dagster as dg
import pandas as pd
import pytest
from dagster._serdes import serialize_value

from efd_pipelines.archive.archive import Archive
from efd_pipelines.defs.archive import raw_archive
from efd_pipelines.defs.events import (
    CHANGED,
    RAW,
    changes,
    figures,
    figures_of,
    materialisation,
    materialisations,
    months_since,
    untold,
)
from efd_pipelines.defs.metadata import timestamp
from efd_pipelines.errors import UsageError
from efd_pipelines.partitions import ComponentWeek, known_components
from efd_pipelines.times import FIRST_WEEK, Week, this_week, weeks_between
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.defs.builders import FAST, SLOW, archived, at

WEEK = Week.parse("2023-11-20")
KEY = raw_archive.key


@contextmanager
def later(seconds: float) -> Iterator[None]:
    """So much later, by the clock that decides what is due."""
    now = time.time() + seconds
    with mock.patch("efd_pipelines.defs.events.time.time", return_value=now):
        yield


def tell(instance: dg.DagsterInstance, archive: Archive, **how: bool) -> list[str]:
    """Tells the instance what is due; the partitions told of."""
    due = untold(instance, KEY, changes(archive, RAW), **how)
    for event in materialisations(instance, KEY, archive, RAW, due):
        instance.report_runless_asset_event(event)
    return sorted(one.key for one in due)


def test_figures_are_those_of_the_ledger(archive: Archive) -> None:
    archived(archive, FAST, WEEK, 30)
    archived(archive, FAST, WEEK.next(), 20, first_offset=30)
    archived(archive, SLOW, WEEK, 7)
    archived(archive, Dataset("lsst.sal.MTM1M3.logevent_heartbeat"), WEEK, 5)
    ledger = archive.ledger.table().to_pandas()
    expected = ledger.groupby(["component", "week"]).agg(
        rows=("rows", "sum"), bytes=("bytes", "sum"), files=("files", "sum"), topics=("dataset", "nunique")
    )
    found = pd.DataFrame(
        [
            (one.partition.component, one.partition.week.key, one.rows, one.bytes, one.files, one.topics)
            for one in figures(archive, RAW)
        ],
        columns=["component", "week", "rows", "bytes", "files", "topics"],
    ).set_index(["component", "week"])
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert list(found["rows"]) == [7, 35, 20]


def test_quarantine_and_the_dead_are_no_weeks_but_counted(archive: Archive) -> None:
    archived(archive, FAST, this_week(), 10)
    ledger = archive.ledger.table().to_pylist()
    odd = [
        {**row, "week": week, "slice": "c", "rows": 3, "version": 9}
        for row in ledger
        for week in ("dead", "quarantine")
    ]
    with mock.patch.object(type(archive.ledger), "table", return_value=_table(ledger + odd)):
        found = figures(archive, RAW)
    assert [(one.rows, one.dead_letters, one.quarantined) for one in found] == [(10, 3, 3)]


def _table(rows: list[dict[str, object]]) -> object:
    import pyarrow as pa

    from efd_pipelines.archive.ledger import SCHEMA

    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_gaps_count_in_the_week_in_which_they_were_noticed(archive: Archive) -> None:
    archived(archive, FAST, this_week(), 10)
    gap = [{"source": "s", "partition": 0, "first": 3, "end": 5, "reason": "gone", "noticed": "2026-11-16T00:00:00"}]
    rows = [{**row, "gaps": json.dumps(gap * 2)} for row in archive.ledger.table().to_pylist()]
    with mock.patch.object(type(archive.ledger), "table", return_value=_table(rows)):
        assert [one.gaps for one in figures(archive, RAW)] == [2]


def test_a_partition_without_rows_has_zeros(archive: Archive) -> None:
    archived(archive, FAST, WEEK)
    wanted = [ComponentWeek("MTM1M3", WEEK), ComponentWeek("MTM1M3", WEEK.next())]
    assert [one.rows for one in figures_of(archive, RAW, wanted)] == [10, 0]


def test_a_week_is_told_of_once(instance: dg.DagsterInstance, archive: Archive) -> None:
    archived(archive, FAST, WEEK)
    archived(archive, SLOW, WEEK)
    assert tell(instance, archive) == ["ESS|2023-11-20", "MTM1M3|2023-11-20"]
    assert tell(instance, archive) == []
    with later(86_400):
        assert tell(instance, archive) == []
    assert known_components(instance) == ["ESS", "MTM1M3"]


def test_a_week_is_told_of_at_most_every_quarter_of_an_hour_and_the_last_state_always(
    instance: dg.DagsterInstance, archive: Archive
) -> None:
    archived(archive, FAST, WEEK, 10)
    assert tell(instance, archive) == ["MTM1M3|2023-11-20"]
    archived(archive, FAST, WEEK, 5, first_offset=10)
    assert tell(instance, archive) == []
    with later(899):
        assert tell(instance, archive) == []
    with later(901):
        assert tell(instance, archive) == ["MTM1M3|2023-11-20"]
        assert tell(instance, archive) == []
    told = instance.get_latest_materialization_event(KEY)
    assert told is not None
    assert told.asset_materialization is not None
    assert told.asset_materialization.metadata["rows"].value == 15


def test_at_once_does_not_wait(instance: dg.DagsterInstance, archive: Archive) -> None:
    archived(archive, FAST, WEEK, 10)
    tell(instance, archive)
    archived(archive, FAST, WEEK, 5, first_offset=10)
    assert tell(instance, archive, at_once=True) == ["MTM1M3|2023-11-20"]
    assert tell(instance, archive, at_once=True) == []


def test_what_dagster_forgot_is_told_again(instance: dg.DagsterInstance, archive: Archive) -> None:
    archived(archive, FAST, WEEK)
    tell(instance, archive)
    instance.wipe_assets([KEY])
    assert tell(instance, archive) == ["MTM1M3|2023-11-20"]


def test_a_week_that_has_not_begun_waits(instance: dg.DagsterInstance, archive: Archive) -> None:
    archived(archive, FAST, this_week().next())
    assert tell(instance, archive) == []
    with later(7 * 86_400), mock.patch("efd_pipelines.defs.events.this_week", return_value=this_week().next()):
        assert tell(instance, archive) == [f"MTM1M3|{this_week().next()}"]


def test_nothing_to_summarise_is_told_once(instance: dg.DagsterInstance, archive: Archive) -> None:
    nothing = {ComponentWeek("ESS", WEEK): 0}
    for event in materialisations(instance, KEY, archive, "1s", untold(instance, KEY, nothing)):
        instance.report_runless_asset_event(event)
    assert instance.get_materialized_partitions(KEY) == {f"ESS|{WEEK}"}
    with later(86_400):
        assert untold(instance, KEY, nothing) == []


def test_more_partitions_than_a_database_takes_at_once(instance: dg.DagsterInstance, archive: Archive) -> None:
    weeks = weeks_between(FIRST_WEEK, this_week())
    many = {ComponentWeek(f"C{n}", week): 1_000_000 for n in range(5) for week in weeks}
    assert len(untold(instance, KEY, many)) == len(many) > 1000
    told = ComponentWeek("C3", weeks[100])
    instance.report_runless_asset_event(materialisation(KEY, told, {CHANGED: timestamp(1_000_000)}))
    assert set(many) - set(untold(instance, KEY, many)) == {told}


def test_recent_changes_are_all_changes_of_that_time(archive: Archive) -> None:
    archived(archive, FAST, WEEK)
    archived(archive, SLOW, WEEK.next())
    everything = changes(archive, RAW)
    assert changes(archive, RAW, time.time() - 60) == everything
    assert set(everything) == {ComponentWeek("MTM1M3", WEEK), ComponentWeek("ESS", WEEK.next())}
    assert changes(archive, RAW, time.time() + 60) == {}
    assert changes(archive, "1s") == {}


@pytest.mark.parametrize(
    ("now", "since", "months"),
    [
        ("2026-11-22T00:00:00", "2026-11-21T00:00:00", ["2026-11"]),
        ("2026-12-01T06:00:00", "2026-11-30T06:00:00", ["2026-11", "2026-12"]),
        ("2027-01-01T06:00:00", "2026-11-30T23:59:59", ["2026-11", "2026-12", "2027-01"]),
    ],
)
def test_the_months_of_the_ledger_since_a_time(now: str, since: str, months: list[str]) -> None:
    with mock.patch("efd_pipelines.defs.events.time.time", return_value=at(now).timestamp()):
        assert months_since(at(since).timestamp()) == months


def test_a_live_event_is_small(archive: Archive) -> None:
    archived(archive, FAST, this_week())
    (one,) = figures(archive, RAW)
    event = materialisation(KEY, one.partition, one.metadata(RAW))
    numbers = [name for name, value in event.metadata.items() if isinstance(value.value, int | float)]
    assert {"rows", "bytes", "lag_s", "gaps", "dead_letters", "quarantined"} <= set(numbers)
    plain = {name: value.value for name, value in event.metadata.items()}
    assert len(json.dumps(plain)) < 1000
    assert len(serialize_value(event)) < 2500


def test_an_event_of_no_partition_is_refused() -> None:
    tuesday = ComponentWeek("MTM1M3", Week(WEEK.monday.replace(day=21)))
    with pytest.raises(UsageError, match="no Monday"):
        materialisation(KEY, tuesday, {})
