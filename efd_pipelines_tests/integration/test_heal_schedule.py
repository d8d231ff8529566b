"""The schedule `heal_history` in Dagster's own daemon: a week that only InfluxDB has comes home by itself.

By `make scale` only: webserver, daemon and run take minutes to start where the machine has other work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import ScheduleInstigatorData

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.defs.history import TAG
from efd_pipelines.history.asked import finished_weeks
from efd_pipelines.partitions import known_components
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.dagster_site import LOCATION, DagsterSite
from efd_pipelines_tests.integration.influx_points import as_rows, write_points

pytestmark = pytest.mark.skipif(not os.environ.get("EFD_TEST_SCALE"), reason="minutes; EFD_TEST_SCALE=1 runs it")

WEEK = Week.containing(datetime.now(UTC) - timedelta(days=1)).previous()
TOPIC = builtin_topic("ESS.temperature")
SCHEDULE = "heal_history"


@pytest.fixture
def dagster(archive_settings: Settings, influx: InfluxServer, unique: str, tmp_path: Path) -> Iterator[DagsterSite]:
    """No broker, and a history with one topic in one week."""
    series = random_series(TOPIC, 400, microseconds(WEEK.start + timedelta(days=2)))
    write_points(influx, unique, TOPIC.name, as_rows(series))
    environment = {
        "EFD_ARCHIVE": archive_settings.archive,
        "EFD_HISTORY_INFLUX_URL": influx.url,
        "EFD_HISTORY_DATABASE": unique,
        "EFD_HISTORY_FIRST_WEEK": WEEK.key,
        "EFD_HISTORY_WINDOW": "00:00-00:00",
    }
    with DagsterSite(tmp_path / "dagster", environment) as site:
        site.switch_off()
        yield site


@pytest.fixture
def archive_settings(tmp_path: Path) -> Settings:
    return load_settings({}, None, archive=str(tmp_path / "archive"))


@pytest.mark.timeout(900)
def test_a_week_that_only_influxdb_has_comes_home_by_itself(dagster: DagsterSite, archive_settings: Settings) -> None:
    with dagster.instance() as instance:
        start_twenty_minutes_ago(dagster, instance)
        dagster.start_daemon()
        run = awaited(instance)
        assert run.status is dg.DagsterRunStatus.SUCCESS
        # Kafka has never heard of it, so the schedule has made its partitions.
        assert known_components(instance) == ["ESS"]
        assert instance.get_materialized_partitions(dg.AssetKey("raw_archive")) == {f"ESS|{WEEK}"}
    archive = Archive(archive_settings)
    rows = archive.read(Dataset(TOPIC.name))
    assert sorted(rows["private_seqNum"].to_pylist()) == list(range(1, 401))
    assert {source.partition(":")[0] for source in rows["archive_source"].to_pylist()} == {"influx"}
    assert finished_weeks(archive.store, "ESS") == {WEEK}
    assert verify(archive, deep=True).problems == []


def start_twenty_minutes_ago(dagster: DagsterSite, instance: dg.DagsterInstance) -> None:
    """Switches the schedule on as if it had been on at its last quarter of an hour: the daemon makes that up."""
    dagster.ask(
        "mutation($of: ScheduleSelector!) { startSchedule(scheduleSelector: $of) { __typename } }",
        of={"repositoryLocationName": LOCATION, "repositoryName": "__repository__", "scheduleName": SCHEDULE},
    )
    (state,) = [one for one in instance.all_instigator_state() if one.name == SCHEDULE and one.is_running]
    data = state.instigator_data
    assert isinstance(data, ScheduleInstigatorData)
    earlier = ScheduleInstigatorData(data.cron_schedule, start_timestamp=time.time() - 20 * 60)
    instance.update_instigator_state(state.with_data(earlier))


def awaited(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """The schedule's run, when it is over."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        runs = instance.get_runs(dg.RunsFilter(tags={TAG: "schedule"}))
        if runs and runs[0].is_finished:
            return runs[0]
        time.sleep(1)
    raise AssertionError(f"no run of {SCHEDULE} is over: {instance.get_runs()}")
