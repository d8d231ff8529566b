"""The live path in Dagster, on a real broker: discovery, drains by group, the main job, and what they tell."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.defs import sensors
from efd_pipelines.defs.jobs import DRAIN_GROUP
from efd_pipelines.partitions import known_components
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.observatory import run_observatory
from efd_pipelines_tests.integration.executed import executed, failure_of, tick

START = datetime(2026, 11, 16, 2, tzinfo=UTC)
RAW, TIER = dg.AssetKey("raw_archive"), dg.AssetKey("tier_1s")


def produce(settings: Settings, seconds: float) -> int:
    consdb = settings.require_consdb()
    made = run_observatory(settings, 1, seconds, "max", start=START, exposures=True, consdb_url=consdb, rate=0.1)
    return made.records


@pytest.mark.timeout(900)
def test_the_main_job_goes_the_whole_path_and_goes_on_when_repeated(
    definitions: dg.Definitions, instance: dg.DagsterInstance, local_settings: Settings, tmp_path: Path
) -> None:
    records = produce(local_settings, 45)
    asked = {"topics": ["lsst.sal.MTMount.azimuth"], "from": "2026-11-16", "to": "2026-11-17", "out": "export"}
    result = executed(definitions, instance, "main", export_if_asked={"config": asked})
    assert result.success, failure_of(result)

    archive = Archive(local_settings)
    audit = verify(archive)
    assert (audit.ok, audit.records, audit.rows) == (True, records, records)
    components = {dataset.component for dataset in archive.datasets()}
    assert components <= set(known_components(instance))
    assert instance.get_materialized_partitions(RAW) == {f"{component}|2026-11-16" for component in components}
    # Components without fast telemetry are green too: there is nothing to summarise.
    assert instance.get_materialized_partitions(TIER) == instance.get_materialized_partitions(RAW)
    assert instance.get_materialized_partitions(dg.AssetKey("storage_throughput")) == {"2026-11-16"}
    assert instance.get_materialized_partitions(dg.AssetKey(["efd_lsstcam", "exposure_efd"])) == {"2026-11-16"}
    assert pq.read_table(tmp_path / "export" / "lsst.sal.MTMount.azimuth").num_rows > 0

    again = executed(definitions, instance, "main")
    assert again.success, failure_of(again)
    assert verify(archive).rows == records


@pytest.mark.timeout(900)
def test_a_tick_drains_what_is_due_by_group_and_then_nothing(
    definitions: dg.Definitions, instance: dg.DagsterInstance, local_settings: Settings
) -> None:
    records = produce(local_settings, 12)
    requested = tick(sensors.drain, instance).run_requests or []
    groups = local_settings.configuration.drain_groups
    assert {request.tags[DRAIN_GROUP] for request in requested} == set(groups)
    archive = Archive(local_settings)
    for request in requested:
        before = {dataset.component for dataset in archive.datasets()}
        result = executed(definitions, instance, "drain", **request.run_config["ops"])
        assert result.success, failure_of(result)
        added = {dataset.component for dataset in archive.datasets()} - before
        assert {local_settings.configuration.drain_group_of(one) for one in added} == {request.tags[DRAIN_GROUP]}
    assert verify(archive).rows == records
    assert not tick(sensors.drain, instance).run_requests


@pytest.mark.timeout(900)
def test_discovery_hears_of_topics_and_the_archive_of_a_partition_by_hand(
    definitions: dg.Definitions, instance: dg.DagsterInstance, local_settings: Settings
) -> None:
    produce(local_settings, 12)
    found = tick(sensors.discover, instance)
    assert found.run_requests
    for request in found.dynamic_partitions_requests or []:
        instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    for event in found.asset_events:
        instance.report_runless_asset_event(event)
    assert tick(sensors.discover, instance).asset_events == []

    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance, asset_selection=[RAW], partition_key="MTMount|2026-11-16", raise_on_error=False
    )
    assert result.success, failure_of(result)
    archive = Archive(local_settings)
    assert {dataset.component for dataset in archive.datasets()} == {"MTMount"}
    (event,) = result.asset_materializations_for_node("raw_archive")
    assert event.metadata["rows"].value == verify(archive).rows > 0


@pytest.mark.timeout(300)
def test_an_unreachable_broker_is_a_message_and_not_a_trace(
    definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "configuration.yaml").write_text("kafka: {timeout_s: 2}\n")
    monkeypatch.setenv("EFD_CONFIG", str(tmp_path / "configuration.yaml"))
    monkeypatch.setenv("EFD_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    result = executed(definitions, instance, "drain")
    assert not result.success
    (event,) = (event for event in result.all_events if event.is_step_failure)
    data: Any = event.event_specific_data
    shown = data.error.to_string()
    assert "127.0.0.1:1" in shown
    assert "What to do: " in shown
    assert "Stack Trace" not in shown
