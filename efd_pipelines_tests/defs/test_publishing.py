"""Publishing in Dagster: the job and the assets publish, checks compare, and without a server nothing happens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.defs.publishing import CHECKS, publish_sensor
from efd_pipelines.partitions import ComponentWeek, add_components
from efd_pipelines.publishing import administration
from efd_pipelines.publishing.server import Destination, Influx
from efd_pipelines.resources import Deployment
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines.times import this_week
from efd_pipelines_tests.unit.publishing.builders import EVENT, FAST, archive_rows, fast_rows, policy, rows

WEEK = this_week()


@pytest.fixture
def published_to(
    archive: Archive, influx: InfluxServer, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Archive:
    """The archive of a deployment with a server, and telemetry and an event of this week."""
    monkeypatch.setenv("EFD_INFLUX_URL", influx.url)
    monkeypatch.setenv("EFD_CONFIG", str(policy(tmp_path, unique, "90")))
    found = Deployment().archive()
    archive_rows(found, FAST, fast_rows(WEEK.start_us, 120))
    archive_rows(found, EVENT, rows([WEEK.start_us], {"text": ["began"]}, sal_index=[1]))
    build_tier(found, TIERS["1s"])
    build_tier(found, TIERS["1m"])
    return found


def tick(instance: dg.DagsterInstance) -> Any:
    context = dg.build_sensor_context(instance=instance, resources={"deployment": Deployment()})
    return publish_sensor(context)


def checks(instance: dg.DagsterInstance) -> dict[tuple[str, str], dg.AssetCheckResult]:
    context = dg.build_asset_check_context(instance=instance)
    every: list[Any] = [one for check in CHECKS for one in cast("Iterable[Any]", check(context, Deployment()))]
    return {(one.asset_key.to_user_string(), one.check_name): one for one in every}


def test_the_job_publishes_tells_and_then_has_nothing_to_do(
    published_to: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions, unique: str
) -> None:
    assert tick(instance).run_requests
    done = definitions.resolve_job_def("publish").execute_in_process(instance=instance)
    assert done.success
    event = next(event for event in done.all_events if event.is_successful_output)
    assert event.step_output_data.metadata["points"].value == 240 + 4 + 1
    partition = ComponentWeek("MTM1M3", WEEK)
    for name in ("influx_1s", "influx_1m", "influx_events"):
        assert instance.get_materialized_partitions(dg.AssetKey(name)) == {partition.key}
    assert "Everything is published." in str(tick(instance).skip_reason)
    found = checks(instance)
    assert len(found) == 6
    assert all(one.passed for one in found.values())
    assert found["influx_1s", "point_counts_equal"].metadata["points"].value == 240
    with Influx(published_to.settings) as server:
        database = Destination(f"{unique}_m1m3_{WEEK.monday.year}")
        server.query(f'DELETE FROM "{FAST.text}"', database)
        administration.ensure(server, database, 7.0)
    failed = {key for key, one in checks(instance).items() if not one.passed}
    assert failed == {("influx_1s", "point_counts_equal"), ("influx_1s", "retention_is_set")}


def test_an_asset_publishes_one_week_of_a_component(
    published_to: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    archive_rows(published_to, FAST, fast_rows(WEEK.previous().start_us, 60, first_offset=10**6))
    build_tier(published_to, TIERS["1s"])
    add_components(instance, ["MTM1M3"])
    key = ComponentWeek("MTM1M3", WEEK).key
    job = definitions.resolve_implicit_job_def_def_for_assets([dg.AssetKey("influx_1s")])
    assert job is not None
    assert job.execute_in_process(
        instance=instance, partition_key=key, asset_selection=[dg.AssetKey("influx_1s")]
    ).success
    event = instance.get_latest_materialization_event(dg.AssetKey("influx_1s"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["points_written"].value == 240
    assert tick(instance).run_requests  # the week before is still to be published


def test_without_a_server_nothing_is_published(
    archive: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    assert "EFD_INFLUX_URL" in str(tick(instance).skip_reason)
    assert definitions.resolve_job_def("publish").execute_in_process(instance=instance).success
    assert all(one.passed for one in checks(instance).values())
