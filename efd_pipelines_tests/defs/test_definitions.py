"""The definitions: they load bare and fast, and everything in them says what it is."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from efd_pipelines.configuration import Configuration, load_configuration
from efd_pipelines.definitions import build_defs

ASSETS = {
    "kafka",
    "kafka_topics",
    "raw_archive",
    "sealed_archive",
    "tier_1s",
    "tier_1m",
    "tier_1h",
    "influx_1s",
    "influx_1m",
    "influx_events",
    "consdb_1s",
    "storage_throughput",
    "storage_growth",
    "cdb_lsstcam/exposure",
    "efd_lsstcam/exposure_efd",
}
JOBS = {
    "main",
    "discover",
    "drain",
    "summarise",
    "publish",
    "publish_consdb",
    "publish_aggregated",
    "join",
    "merge",
    "verify",
    "weekly_report",
    "weekly_growth",
    "find_anomalies",
    "export",
    "requested_exports",
    "backfill_archive",
    "heal_archive",
    "restore",
    "daily_round",
    "expire",
    "replay_dead_letters",
}
SENSORS = {"alert", "discover", "drain", "summarise", "publish", "join"}
SCHEDULES = {
    "weekly_report",
    "weekly_growth",
    "find_anomalies",
    "daily_round",
    "verify",
    "merge",
    "heal_history",
    "expire",
    "publish_consdb",
    "publish_aggregated",
}
GROUPS = {"sources", "archive", "tiers", "publishing", "exposures", "reports"}
EXTERNAL = {"kafka", "cdb_lsstcam/exposure"}
CHECKS = {
    "last_night",
    "no_gaps",
    "no_dead_letters",
    "no_clock_errors",
    "every_record_once",
    "expired_is_covered",
    "point_counts_equal",
    "stores_have_room",
    "every_store_answered",
    "no_anomalies",
    "tier_coverage",
    "tier_counts",
    "tier_order",
    "tier_consistency",
    "retention_is_set",
    "values_agree",
}

_LOAD = """
import socket
def refuse(*given): raise AssertionError(f"loading definitions connects: {given}")
socket.socket.connect = refuse
socket.create_connection = refuse
from efd_pipelines.definitions import defs
defs().get_repository_def()
"""


def test_definitions_load_without_a_setting_or_a_connection_and_in_time(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    # The shortest of three: the first may compile what has never been imported, others share the machine.
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", _LOAD], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"definitions load in {min(seconds):.2f} s of CPU time")
    assert min(seconds) < 3
    assert not list(tmp_path.iterdir())


def test_names_are_an_interface(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == ASSETS
    repository = definitions.get_repository_def()
    assert {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")} == JOBS
    assert {sensor.name for sensor in repository.sensor_defs} == SENSORS
    assert {schedule.name for schedule in repository.schedule_defs} == SCHEDULES
    assert {key.name for key in graph.asset_check_keys} == CHECKS


def test_definitions_are_valid(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_every_asset_says_what_it_is(definitions: dg.Definitions) -> None:
    for key in definitions.resolve_asset_graph().get_all_asset_keys():
        spec = definitions.resolve_asset_graph().get(key)
        name = key.to_user_string()
        assert spec.group_name in GROUPS, name
        assert spec.kinds, name
        assert spec.owners, name
        assert len(str(spec.description)) > 80, name
        if name not in EXTERNAL:
            columns = spec.metadata["dagster/column_schema"]
            assert isinstance(columns, dg.TableSchema)
            assert all(column.description and column.type for column in columns.columns), name


def test_what_feeds_the_archive_is_on_from_the_start(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    assert all(sensor.default_status is dg.DefaultSensorStatus.RUNNING for sensor in repository.sensor_defs)
    feeding = [
        schedule
        for schedule in repository.schedule_defs
        if schedule.name not in ("expire", "publish_consdb", "publish_aggregated")
    ]
    assert all(schedule.default_status is dg.DefaultScheduleStatus.RUNNING for schedule in feeding)
    assert all(sensor.description for sensor in repository.sensor_defs)
    assert all(schedule.description for schedule in repository.schedule_defs)


def test_no_op_retries_what_failed(definitions: dg.Definitions) -> None:
    jobs = definitions.get_repository_def().get_all_jobs()
    policies = [node.retry_policy for job in jobs for node in job.nodes]
    assert policies
    assert not any(policies)


def test_each_configured_instrument_has_its_assets(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("exposures:\n  - {instrument: latiss}\n  - {instrument: lsstcam}\n")
    keys = _keys(load_configuration(own))
    assert {"efd_latiss/exposure_efd", "cdb_latiss/exposure", "efd_lsstcam/exposure_efd"} <= keys


def test_an_exposure_configuration_that_is_wrong_does_not_keep_the_archive_from_being_fed(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("exposures:\n  - {instrument: lsstcam, config: /nowhere/to/be/found.yaml}\n")
    definitions = build_defs(load_configuration(own))
    spec = definitions.resolve_asset_graph().get(dg.AssetKey(["efd_lsstcam", "exposure_efd"]))
    assert "/nowhere/to/be/found.yaml" in str(spec.description)
    assert {sensor.name for sensor in definitions.get_repository_def().sensor_defs} == SENSORS


def _keys(configuration: Configuration) -> set[str]:
    graph = build_defs(configuration).resolve_asset_graph()
    return {key.to_user_string() for key in graph.get_all_asset_keys()}


@pytest.mark.parametrize("name", sorted(SENSORS))
def test_sensors_start_jobs_that_there_are(definitions: dg.Definitions, name: str) -> None:
    sensor = definitions.get_repository_def().get_sensor_def(name)
    assert {target.job_name for target in sensor.targets} <= JOBS
