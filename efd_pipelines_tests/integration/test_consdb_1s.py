"""The 1 s tier in ConsDB, on PostgreSQL and on SQLite: equal, joined to exposures, written once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from efd_pipelines.archive.archive import Archive
from efd_pipelines.cli import app
from efd_pipelines.configuration import ConsdbPolicy, ConsdbTable, Publishing
from efd_pipelines.errors import DatabaseUnavailable
from efd_pipelines.exposures.consdb import ConsDB, write_exposures
from efd_pipelines.publishing import consdb as published
from efd_pipelines.publishing.consdb import publish_consdb
from efd_pipelines.publishing.consdb_tables import identifier, table_name
from efd_pipelines.publishing.consdb_weeks import due_weeks, published_weeks
from efd_pipelines.settings import load_settings
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.exports.builders import (
    FORCES,
    MONDAY,
    PRIVATE,
    ArchiveBuilder,
    column,
    messages,
    seconds,
)

DATASET = Dataset(FORCES)
COLUMNS = [
    column("salIndex", pa.int32()),
    *PRIVATE,
    column("xForce", pa.float32(), "newton"),
    column("mode", pa.int32()),
]
POLICY = ConsdbPolicy(tables=(ConsdbTable(topic=FORCES, columns=("mean_x*", "max_*", "first_mode")),))
WEEKS = [Week.containing(MONDAY), Week.containing(MONDAY + timedelta(days=7))]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    found: str = (
        f"sqlite:///{tmp_path / 'consdb.sqlite'}"
        if request.param == "sqlite"
        else request.getfixturevalue("database_url")
    )
    return found


@pytest.fixture
def builder(tmp_path: Path, url: str) -> ArchiveBuilder:
    """Two devices at 50 Hz: an hour's turn in one week, and some of the next."""
    configuration = load_settings({}, None).configuration.model_copy(
        update={"publishing": Publishing(consdb_1s=POLICY)}
    )
    builder = ArchiveBuilder(str(tmp_path / "archive"), {"consdb_url": url, "configuration": configuration})
    for first in (3595.0, 7 * 86_400.0):
        for index in (1, 2):
            builder.add(FORCES, messages(seconds(first, first + 10, 0.02), columns=COLUMNS, sal_index=index))
    build_tier(builder.archive, TIERS["1s"])
    return builder


def rows_of(url: str, query: str) -> list[tuple[Any, ...]]:
    with ConsDB(url) as consdb, consdb.reading("Testing") as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def table(url: str) -> str:
    return "efd_1s_mtm1m3_force_actuator_data" if url.startswith("sqlite") else "efd_1s.mtm1m3_force_actuator_data"


def assert_equal_to_the_tier(archive: Archive, url: str) -> None:
    names = "time, sal_index, window_count, mean_x_force, max_mode, first_mode"
    found = rows_of(url, f"SELECT {names} FROM {table(url)} ORDER BY sal_index, time")
    tier = archive.read(DATASET, tier="1s").sort_by([("salIndex", "ascending"), ("time", "ascending")])
    columns = (tier[name].to_pylist() for name in ("salIndex", "count", "mean_xForce", "max_mode", "first_mode"))
    times = [when.replace(tzinfo=None) for when in tier["time"].to_pylist()]
    expected = list(zip(times, *columns, strict=True))
    assert [(datetime.fromisoformat(str(row[0])), *row[1:]) for row in found] == expected


def test_a_tier_is_written_equal_once_and_again_where_it_changed(builder: ArchiveBuilder, url: str) -> None:
    archive = builder.archive
    result = publish_consdb(archive)
    assert (result.rows, result.slices, result.unchanged) == (40, 3, 0)
    assert_equal_to_the_tier(archive, url)
    assert (publish_consdb(archive).slices, publish_consdb(archive).unchanged) == (0, 3)
    builder.add(FORCES, messages(seconds(3597.001, 3598, 0.02), columns=COLUMNS, sal_index=3, first_seq=90_000))
    build_tier(archive, TIERS["1s"])
    assert publish_consdb(archive).slices == 1
    assert_equal_to_the_tier(archive, url)


def test_windows_are_joined_to_exposures_in_sql(builder: ArchiveBuilder, url: str) -> None:
    publish_consdb(builder.archive)
    begin = MONDAY.replace(tzinfo=None) + timedelta(hours=1, seconds=37)
    row = {"day_obs": 20261115, "seq_num": 7, "exposure_id": 2026111500007, "exposure_name": "x"}
    write_exposures(url, "cdb_lsstcam", [{**row, "obs_start": begin, "obs_end": begin + timedelta(seconds=3)}])
    exposure = "cdb_lsstcam_exposure" if url.startswith("sqlite") else "cdb_lsstcam.exposure"
    joined = f"""
        SELECT e.exposure_id, count(*), sum(w.window_count) FROM {exposure} e
        JOIN {table(url)} w ON w.tai >= e.obs_start AND w.tai < e.obs_end AND w.sal_index = 1 GROUP BY e.exposure_id
    """
    assert rows_of(url, joined) == [(2026111500007, 3, 150)]


def test_weeks_are_partitions_that_go_alone(builder: ArchiveBuilder, url: str) -> None:
    publish_consdb(builder.archive)
    with ConsDB(url) as consdb:
        held = published_weeks(consdb, "efd_1s")
        assert [(one.dataset, one.week, one.rows) for one in held] == [(DATASET, week, 20) for week in WEEKS]
        if not consdb.is_sqlite:
            partitions = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1"
            names = [f"mtm1m3_force_actuator_data_{week.key.replace('-', '')}" for week in WEEKS]
            assert [name for (name,) in rows_of(url, partitions)] == names
            comment = "SELECT col_description('efd_1s.mtm1m3_force_actuator_data'::regclass, 5)"
            assert "newton" in rows_of(url, comment)[0][0]
    environ = {"EFD_ARCHIVE": builder.archive.settings.archive, "EFD_CONSDB_URL": url}
    for option, dropped in (("--dry-run", 0), ("--json", 1), ("--json", 0)):
        call = ["publish", "consdb", "--drop-before", WEEKS[1].key, "--json", option]
        done = CliRunner(env=environ).invoke(app, call)
        assert done.exit_code == 0, done.output
        answer = json.loads(done.stdout)
        if dropped or option == "--json":
            assert answer["dropped"] == dropped
        else:
            assert answer == [{"topic": FORCES, "week": WEEKS[0].key, "rows": 20}]
    with ConsDB(url) as consdb:
        assert [one.week for one in published_weeks(consdb, "efd_1s")] == WEEKS[1:]
    assert rows_of(url, f"SELECT count(*) FROM {table(url)}") == [(20,)]
    # Asked for again, it is written again.
    assert publish_consdb(builder.archive, weeks=[WEEKS[0].key]).slices == 2
    assert_equal_to_the_tier(builder.archive, url)


def test_weeks_that_the_policy_keeps_no_longer_go_are_recorded_and_stay_away(builder: ArchiveBuilder, url: str) -> None:
    publish_consdb(builder.archive)
    # A day after the first week has run out; the second has six days left.
    now = WEEKS[0].end + timedelta(days=91)
    kept = (datetime.now(UTC) - now).total_seconds() / 86_400 + 90
    archive = with_policy(builder.archive, POLICY.model_copy(update={"retention_days": kept}))
    assert [one.week for one in due_weeks(archive)] == WEEKS[:1]
    assert due_weeks(builder.archive) == []
    assert rows_of(url, f"SELECT count(*) FROM {table(url)}") == [(40,)]
    result = publish_consdb(archive, again=True)
    assert (result.dropped, result.slices) == (1, 1)
    assert rows_of(url, f"SELECT count(*), min(sal_index) FROM {table(url)}") == [(20, 1)]
    dropped = table(url).replace("mtm1m3_force_actuator_data", "dropped")
    ((topic, week, rows, why),) = rows_of(url, f"SELECT topic, week, rows, why FROM {dropped}")
    assert (topic, week, rows) == (FORCES, WEEKS[0].key, 20)
    assert "days" in why
    again = publish_consdb(archive)
    assert (again.dropped, again.slices) == (0, 0)


def with_policy(archive: Archive, policy: ConsdbPolicy) -> Archive:
    settings = archive.settings
    configuration = settings.configuration.model_copy(update={"publishing": Publishing(consdb_1s=policy)})
    return Archive(settings.model_copy(update={"configuration": configuration}))


def test_a_run_that_fails_half_way_through_goes_on_slice_by_slice(
    builder: ArchiveBuilder, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = published._Publishing._write, iter(range(10))

    def dies(self: Any, *given: Any) -> int:
        if next(calls) == 1:
            raise DatabaseUnavailable("The server went away")
        return real(self, *given)

    monkeypatch.setattr(published._Publishing, "_write", dies)
    with pytest.raises(DatabaseUnavailable):
        publish_consdb(builder.archive)
    assert publish_consdb(builder.archive).slices == 2
    assert_equal_to_the_tier(builder.archive, url)


def test_what_the_policy_adds_later_is_added(builder: ArchiveBuilder, url: str) -> None:
    publish_consdb(builder.archive)
    more = POLICY.model_copy(update={"tables": (ConsdbTable(topic=FORCES, columns=("mean_x*", "max_*", "first_*")),)})
    archive = with_policy(builder.archive, more)
    assert publish_consdb(archive).slices == 3
    assert_equal_to_the_tier(archive, url)
    assert rows_of(url, f"SELECT count(*) FROM {table(url)} WHERE first_x_force IS NOT NULL") == [(40,)]


def test_names_fit_postgresql() -> None:
    long = "mean_" + "VeryLongFieldName" * 8
    assert len(identifier(long)) == 63
    assert identifier(long) != identifier(f"{long}2")
    dataset = Dataset("lsst.sal.MTCamera.utiltrunk_PeriodicTasks_BodyMaq20_check_status_timersConfiguration")
    assert len(table_name(dataset)) == 54
    assert identifier("max_x", {"max_x"}) != "max_x"
