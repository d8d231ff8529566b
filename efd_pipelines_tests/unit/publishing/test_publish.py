"""Publishing to an InfluxDB 2, imitated, and what of the rest needs no server: policy, rows, what is stale."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.merging import merge
from efd_pipelines.configuration import ConfigurationError, load_configuration
from efd_pipelines.errors import SettingsError, UsageError
from efd_pipelines.publishing import administration
from efd_pipelines.publishing.deleting import Range, ranges_of
from efd_pipelines.publishing.influx import LineWriter
from efd_pipelines.publishing.lines import serialise
from efd_pipelines.publishing.policy import Publication
from efd_pipelines.publishing.publish import PublishResult, publish
from efd_pipelines.publishing.rows import read_points
from efd_pipelines.publishing.server import Destination, DestinationMissing, Influx, PublishingRefused
from efd_pipelines.settings import load_settings
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.publishing.builders import (
    EVENT,
    FAST,
    MONDAY_US,
    SLOW,
    archive_rows,
    rows,
    site,
    tier_rows,
)
from efd_pipelines_tests.unit.publishing.influx2 import ORG, TOKEN, Influx2, influx2

NOW = datetime.fromtimestamp(MONDAY_US / 1e6, UTC) + timedelta(days=3)


@pytest.fixture
def server() -> Iterator[tuple[str, Influx2]]:
    with influx2() as found:
        yield found


@pytest.fixture
def archive(tmp_path: Path, server: tuple[str, Influx2]) -> Archive:
    return site(tmp_path, server[0], "efd", "90", influx_token=TOKEN, influx_org=ORG)


@pytest.fixture
def influx(archive: Archive) -> Iterator[Influx]:
    with Influx(archive.settings) as found:
        yield found


def run(archive: Archive, influx: Influx, name: str = "influx_events", **options: Any) -> PublishResult:
    return publish(archive, influx, name, **{"now": NOW, **options})


def events(times: list[int], first_offset: int = 0, **columns: Any) -> pa.Table:
    count = len(times)
    return rows(
        times, columns or {"text": [f"e{n}" for n in range(count)]}, sal_index=[1] * count, first_offset=first_offset
    )


def test_buckets_retention_and_mappings_of_version_2(server: tuple[str, Influx2], influx: Influx) -> None:
    destination = Destination("efd_m1m3_2026")
    assert influx.version == "2.7.11"
    assert administration.health(influx).is_healthy
    assert administration.ensure(influx, destination, 90.0)
    assert not administration.ensure(influx, destination, 365.0)
    _, bucket = server[1].buckets.values()
    assert bucket["name"] == "efd_m1m3_2026/autogen"
    (rule,) = bucket["retentionRules"]
    assert (rule["type"], rule["everySeconds"], rule["shardGroupDurationSeconds"]) == ("expire", 365 * 86400, 7 * 86400)
    (mapping,) = server[1].mappings
    assert (mapping["database"], mapping["retention_policy"]) == ("efd_m1m3_2026", "autogen")
    assert administration.find(influx, destination) == administration.Store(destination, 365.0)
    server[1].mappings.clear()
    assert not administration.stores(influx)[0].is_mapped
    administration.ensure(influx, destination, 365.0)
    assert administration.stores(influx)[0].is_mapped
    administration.drop(influx, destination)
    assert administration.stores(influx) == []


def test_events_are_published_deleted_and_rejected_on_version_2(
    server: tuple[str, Influx2], archive: Archive, influx: Influx
) -> None:
    archive_rows(archive, EVENT, events([MONDAY_US, MONDAY_US], text=["a", "b"], extra=[1, 2]))
    assert run(archive, influx).points == 2
    archive_rows(archive, EVENT, events([MONDAY_US], -5, text=["before"]))
    assert run(archive, influx).points == 3
    points = server[1].points["efd_events_m1m3_2023/autogen"]
    found = {key[2] - MONDAY_US * 1000: (p["text"], p.get("extra")) for key, p in points.items()}
    assert found == {0: ("before", None), 1: ("a", 1), 2: ("b", 2)}
    assert {key[:2] for key in points} == {(EVENT.text, ",salIndex=1")}
    archive_rows(archive, EVENT, events([MONDAY_US + 7, MONDAY_US + 8], 10, conflicting=["x", None], n=[1, 2]))
    result = run(archive, influx)
    assert (result.points, result.rejected) == (1, 1)


def test_a_bucket_that_is_not_there_and_a_wrong_token_are_said(server: tuple[str, Influx2], influx: Influx) -> None:
    lines = list(serialise(events([MONDAY_US]).select(["time", "text"]), "m"))
    with pytest.raises(DestinationMissing, match="not found"):
        LineWriter(influx).write(Destination("nowhere"), lines)
    strange = load_settings({"EFD_INFLUX_URL": server[0], "EFD_INFLUX_TOKEN": "other", "EFD_INFLUX_ORG": ORG}, None)
    with pytest.raises(PublishingRefused, match="unauthorized") as refused:
        administration.stores(Influx(strange))
    assert "other" not in str(refused.value)
    unnamed = load_settings({"EFD_INFLUX_URL": server[0], "EFD_INFLUX_TOKEN": TOKEN}, None)
    with pytest.raises(SettingsError, match="EFD_INFLUX_ORG"):
        administration.stores(Influx(unnamed))
    with pytest.raises(SettingsError, match="EFD_INFLUX_URL"):
        Influx(load_settings({}, None))


def test_merging_publishes_nothing_and_what_has_run_out_neither(archive: Archive, influx: Influx) -> None:
    for n in range(3):
        archive_rows(archive, EVENT, events([MONDAY_US + n], 10 * n))
    archive_rows(archive, EVENT, events([MONDAY_US - 100 * 86_400_000_000], 100))
    assert run(archive, influx).points == 3
    assert merge(archive).files_after
    again = run(archive, influx)
    assert (again.points, again.unchanged, again.slices) == (0, 0, 0)
    later = run(archive, influx, now=NOW + timedelta(days=100))
    assert later.points == 0


def test_a_week_that_begins_in_one_year_and_ends_in_the_next_goes_to_both(
    server: tuple[str, Influx2], archive: Archive, influx: Influx
) -> None:
    new_year = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    archive_rows(archive, SLOW, rows([new_year - 1, new_year], {"t": [1.0, 2.0]}, sal_index=[1, 1]))
    now = datetime(2025, 1, 2, tzinfo=UTC)
    assert run(archive, influx, "influx_1s", now=now).points == 2
    points = server[1].points
    assert {name: len(of) for name, of in points.items()} == {
        "efd_environment_2024/autogen": 1,
        "efd_environment_2025/autogen": 1,
    }


def test_a_tier_is_published_in_whole_seconds_without_what_the_policy_leaves_out(
    server: tuple[str, Influx2], archive: Archive, influx: Influx
) -> None:
    times = pa.array(MONDAY_US + 1_000_000 * np.arange(3)).cast(pa.timestamp("us", tz="UTC"))
    table = pa.table(
        {
            "time": times,
            "window_size": [1.0] * 3,
            "count": [50] * 3,
            "first_private_seqNum": [1, 2, 3],
            "mean_force": pa.array([0.1, None, float("nan")], pa.float32()),
        }
    )
    tier_rows(archive, table)
    assert run(archive, influx, "influx_1s").points == 3
    points = server[1].points["efd_m1m3_2023/autogen"]
    assert [points[FAST.text, "", (MONDAY_US + n * 1_000_000) * 1000] for n in range(3)] == [
        {"count": 50, "mean_force": float(np.float32(0.1))},
        {"count": 50},
        {"count": 50},
    ]


def test_more_records_in_a_microsecond_than_it_has_room_for_are_counted(archive: Archive) -> None:
    archive_rows(archive, EVENT, events([MONDAY_US] * 1003, text=["x"] * 1003))
    publication = Publication.named("influx_events", archive.settings.configuration)
    points = read_points(publication, "raw", archive.snapshot(EVENT), MONDAY_US, MONDAY_US + 1)
    assert (points.rows.num_rows, points.crowded) == (1000, 3)
    assert points.stamps.tolist() == [MONDAY_US * 1000 + n for n in range(1000)]


def test_points_that_lie_together_are_deleted_as_ranges() -> None:
    index = np.array([1, 1, 2, 1, 1, -1])
    stamps = np.array([30, 10, 20, 20, 40, 5])
    gone = np.array([False, True, True, True, True, True])
    assert list(ranges_of(index, stamps, gone)) == [
        Range(-1, 5, 5),
        Range(1, 10, 20),
        Range(1, 40, 40),
        Range(2, 20, 20),
    ]
    assert list(ranges_of(index, stamps, np.zeros(6, np.bool_))) == []


def test_the_policy_says_what_goes_where() -> None:
    configuration = load_configuration(None)
    second, minute, event = (
        Publication.named(name, configuration) for name in ("influx_1s", "influx_1m", "influx_events")
    )
    assert [second.table_of(one) for one in (FAST, SLOW, EVENT)] == ["1s", "raw", None]
    assert [minute.table_of(one) for one in (FAST, SLOW, EVENT)] == ["1m", "1m", None]
    assert [event.table_of(one) for one in (FAST, SLOW, EVENT)] == [None, None, "raw"]
    assert event.table_of(Dataset("lsst.sal.MTM1M3.command_start")) == "raw"
    new_year = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert second.destination(FAST, new_year).bucket == "efd_m1m3_2026/autogen"
    assert second.destination(FAST, new_year - 1).bucket == "efd_m1m3_2025/autogen"
    assert second.may_have(Destination("efd_m1m3_2026"))
    assert not second.may_have(Destination("efd"))
    assert not second.may_have(Destination("efd_1m_m1m3_2026"))
    assert second.place("http://a:8086") != second.place("http://b:8086") != minute.place("http://b:8086")
    with pytest.raises(UsageError, match="influx_2s"):
        Publication.named("influx_2s", configuration)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ("influx_1s: {database: 'efd_{month}'}", "must be a name"),
        ("influx_1s: {database: 'a b'}", "must be a name"),
        ("influx_1s: {database: 'efd_1m_{subsystem}_{year}'}", "different databases"),
        ("influx_1s: {retention_days: 0}", "greater than or equal to 1"),
        ("influx_2s: {}", "not a key"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(tmp_path: Path, section: str, reason: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"publishing:\n  {section}\n")
    with pytest.raises(ConfigurationError, match=reason):
        load_configuration(path)


def test_records_that_were_replaced_long_ago_are_cleaned_up(
    archive: Archive, influx: Influx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("efd_pipelines.publishing.publish._CLEANED_EVERY", 1)
    place = Publication.named("influx_events", archive.settings.configuration).place(influx.url)
    directory = Path(archive.store.path(f"{place}/{EVENT.path}"))
    for n in range(3):
        archive_rows(archive, EVENT, events([MONDAY_US + n], 10 * n))
        run(archive, influx)
        for file in directory.rglob("*.parquet"):
            os.utime(file, (0, 0))
    assert len(list(directory.rglob("*.parquet"))) == 3  # replaced less than a week ago, by the log
    (week,) = [path for path in directory.iterdir() if path.name.startswith("week=")]
    (week / "2023-11-20T00-00.parquet").write_bytes(b"left by a process that was killed")
    os.utime(week / "2023-11-20T00-00.parquet", (0, 0))
    archive_rows(archive, EVENT, events([MONDAY_US + 9], 90))
    run(archive, influx)
    assert not (week / "2023-11-20T00-00.parquet").exists()
