"""From a camera's endReadout to a row of values, by what the sensors request, on a real broker."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from efd_pipelines.defs import new_exposures, sensors
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.observatory import run_observatory
from efd_pipelines_tests.integration.executed import executed, failure_of, tick


def run_all(definitions: dg.Definitions, instance: dg.DagsterInstance, result: dg.SensorResult) -> list[bool]:
    """Runs what a tick requested; which of the drains were for exposures."""
    for request in result.run_requests or []:
        job = request.job_name or "join"
        done = executed(definitions, instance, job, **request.run_config["ops"])
        assert done.success, failure_of(done)
    return [
        "exposures" in request.run_config["ops"]["drain_backlog"]["config"]
        for request in result.run_requests or []
        if request.job_name == "drain"
    ]


@pytest.mark.timeout(600)
def test_a_read_out_starts_the_drains_and_its_exposure_the_join(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    local_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(new_exposures, "READ_OUT_EVERY_S", 0.0)
    wanted = frozenset({"MTMount.azimuth", "ESS.temperature", "MTCamera.logevent_endReadout"})
    start = datetime.now(UTC) - timedelta(seconds=300)
    run_observatory(local_settings, 1, 5, start=start, topics=wanted)
    assert run_all(definitions, instance, tick(sensors.drain, instance))
    # All has just been archived, so nothing is due but for the exposures.
    later = start + timedelta(seconds=5)
    consdb = local_settings.require_consdb()
    made = run_observatory(local_settings, 1, 120, start=later, exposures=True, consdb_url=consdb, topics=wanted)
    assert made.exposures >= 2
    asked = tick(sensors.drain, instance)
    assert run_all(definitions, instance, asked) == [True] * 3
    joining = tick(sensors.join, instance)
    assert len(joining.run_requests or []) == 1
    run_all(definitions, instance, joining)
    with sqlite3.connect(consdb.removeprefix("sqlite:///")) as connection:
        query = "SELECT count(*), count(mt_mount_azimuth_position_mean) FROM efd_lsstcam_exposure_efd"
        assert connection.execute(query).fetchone() == (made.exposures, made.exposures)
    assert not tick(sensors.join, instance).run_requests
