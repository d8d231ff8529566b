"""New exposures: a read-out has topics archived, ConsDB's row has it joined, and no lost cursor loses an exposure."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from unittest import mock

import dagster as dg
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.backlog import Backlog
from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.defs import sensors
from efd_pipelines.exposures.consdb import write_exposures
from efd_pipelines.exposures.joins import join_exposures
from efd_pipelines.resources import Deployment
from efd_pipelines.times import day_obs_of, this_week
from efd_pipelines_tests.defs.builders import FAST, archived, waiting
from efd_pipelines_tests.defs.test_sensors import a_run
from efd_pipelines_tests.unit.exposures.builders import an_exposure

READ_OUT = "lsst.sal.MTCamera.logevent_endReadout"
Say = Callable[..., None]


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
        result = sensor(context, deployment=Deployment())
    assert isinstance(result, dg.SensorResult)
    return result


def configs(result: dg.SensorResult) -> list[dict[str, object]]:
    return [request.run_config["ops"]["drain_backlog"]["config"] for request in result.run_requests or []]


@pytest.fixture
def backlog(monkeypatch: pytest.MonkeyPatch, kafka_is_set: None) -> Say:
    """Says what waits on the brokers."""

    def say(*topics: Backlog) -> None:
        monkeypatch.setattr("efd_pipelines.archive.backlog.backlog", lambda archive, settings: list(topics))

    return say


def just_archived(topic: str, seconds: float = 70.0) -> Backlog:
    return waiting(topic, due=False, last_at=datetime.now(UTC) - timedelta(seconds=seconds))


def test_a_read_out_has_the_topics_concerned_archived_at_once(instance: dg.DagsterInstance, backlog: Say) -> None:
    topics = (just_archived("lsst.sal.MTMount.azimuth"), just_archived("lsst.sal.ATDome.position"))
    backlog(*topics)
    assert configs(tick(sensors.drain, instance)) == []
    backlog(*topics, just_archived(READ_OUT))
    assert configs(tick(sensors.drain, instance)) == [
        {"group": "instruments", "exposures": True},
        {"group": "telescope", "exposures": True},
    ]


def test_a_group_that_was_busy_is_drained_when_it_is_free(instance: dg.DagsterInstance, backlog: Say) -> None:
    azimuth = just_archived("lsst.sal.MTMount.azimuth")
    backlog(azimuth, just_archived(READ_OUT))
    a_run(instance, "drain", dg.DagsterRunStatus.STARTED, group="telescope")
    first = tick(sensors.drain, instance)
    assert configs(first) == [{"group": "instruments", "exposures": True}]
    backlog(azimuth)  # the event has been archived, the telemetry has not
    with mock.patch("efd_pipelines.defs.sensors.in_progress", return_value=False):
        assert configs(tick(sensors.drain, instance, first.cursor)) == [{"group": "telescope", "exposures": True}]


def test_a_group_is_drained_for_exposures_once_a_minute(instance: dg.DagsterInstance, backlog: Say) -> None:
    azimuth = just_archived("lsst.sal.MTMount.azimuth", 40)
    backlog(azimuth, just_archived(READ_OUT))
    first = tick(sensors.drain, instance)
    assert configs(first) == [{"group": "instruments", "exposures": True}]
    backlog(azimuth)
    still = tick(sensors.drain, instance, first.cursor)
    assert configs(still) == []
    backlog(just_archived("lsst.sal.MTMount.azimuth", 61))
    last = tick(sensors.drain, instance, still.cursor)
    assert configs(last) == [{"group": "telescope", "exposures": True}]
    assert configs(tick(sensors.drain, instance, last.cursor)) == []


def test_another_camera_s_read_out_is_not_waited_for(instance: dg.DagsterInstance, backlog: Say) -> None:
    backlog(just_archived("lsst.sal.MTMount.azimuth"), just_archived("lsst.sal.ATCamera.logevent_endReadout"))
    assert configs(tick(sensors.drain, instance)) == []


def test_what_a_join_reads_is_archived_every_two_minutes(
    instance: dg.DagsterInstance, backlog: Say, archive: Archive
) -> None:
    joined = "lsst.sal.MTMount.azimuth"
    with mock.patch("efd_pipelines.configuration.Freshness.class_of", return_value="normal"):
        backlog(just_archived(joined, 100), just_archived("lsst.sal.MTDome.azimuth", 1000))
        assert configs(tick(sensors.drain, instance)) == []
        backlog(just_archived(joined, 130), just_archived("lsst.sal.MTDome.azimuth", 1000))
        assert configs(tick(sensors.drain, instance)) == [{"group": "telescope"}]


@pytest.mark.parametrize(
    ("instrument", "topic"),
    [("lsstcam", READ_OUT), ("latiss", "lsst.sal.ATCamera.logevent_endReadout"), ("othercam", None)],
)
def test_each_instrument_s_camera_is_known_or_said(instrument: str, topic: str | None) -> None:
    assert ExposureJoin(instrument=instrument).end_readout == topic
    said = ExposureJoin(instrument=instrument, camera="GenericCamera")
    assert said.end_readout == "lsst.sal.GenericCamera.logevent_endReadout"


class TestJoin:
    """The sensor that polls ConsDB by a cursor."""

    @pytest.fixture
    def expose(self, archive: Archive) -> Callable[[int], None]:
        """An exposure that ended ten minutes ago."""
        url = archive.settings.require_consdb()

        def made(seq_num: int) -> None:
            begin = datetime.now(UTC) - timedelta(minutes=10, seconds=60 - seq_num)
            rows = [an_exposure(begin, 30.0, day_obs=day_obs_of(begin), seq_num=seq_num)]
            write_exposures(url, "cdb_lsstcam", rows)

        archived(archive, FAST, this_week())
        return made

    def joined(self, archive: Archive, instance: dg.DagsterInstance) -> None:
        """What the requested run does, a minute from now."""
        join_exposures(archive, archive.settings, archive.settings.configuration.exposures[0])
        later = time.time() + 60
        a_run(instance, "join", dg.DagsterRunStatus.SUCCESS, start=later, end=later + 5)

    def test_a_new_exposure_is_joined_though_nothing_was_archived_since(
        self, archive: Archive, instance: dg.DagsterInstance, expose: Callable[[int], None]
    ) -> None:
        expose(1)
        first = tick(sensors.join, instance)
        assert len(first.run_requests or []) == 1
        self.joined(archive, instance)
        with mock.patch("time.time", return_value=time.time() + 90):
            second = tick(sensors.join, instance, first.cursor)
            assert not second.run_requests
            expose(2)
            third = tick(sensors.join, instance, first.cursor)
        assert len(third.run_requests or []) == 1

    @pytest.mark.parametrize("lost", [None, "", "no json", "[]", '{"lsstcam": {"count": "many"}}'])
    def test_a_lost_cursor_loses_no_exposure_and_repeats_none(
        self, archive: Archive, instance: dg.DagsterInstance, expose: Callable[[int], None], lost: str | None
    ) -> None:
        expose(1)
        self.joined(archive, instance)
        with mock.patch("time.time", return_value=time.time() + 90):
            assert not tick(sensors.join, instance, lost).run_requests
            expose(2)
            assert len(tick(sensors.join, instance, lost).run_requests or []) == 1

    def test_many_exposures_are_one_run(self, instance: dg.DagsterInstance, expose: Callable[[int], None]) -> None:
        for number in range(1, 6):
            expose(number)
        assert len(tick(sensors.join, instance).run_requests or []) == 1

    def test_a_request_whose_run_was_lost_is_made_again_when_more_is_archived(
        self, archive: Archive, instance: dg.DagsterInstance, expose: Callable[[int], None]
    ) -> None:
        earlier = time.time() - 60
        a_run(instance, "join", dg.DagsterRunStatus.SUCCESS, start=earlier, end=earlier + 5)
        expose(1)
        first = tick(sensors.join, instance)
        assert first.run_requests
        assert tick(sensors.join, instance, first.cursor).run_requests

    def test_late_telemetry_is_looked_for_every_ten_minutes(
        self, archive: Archive, instance: dg.DagsterInstance, expose: Callable[[int], None]
    ) -> None:
        expose(1)
        join_exposures(archive, archive.settings, archive.settings.configuration.exposures[0])
        started = time.time() - 60
        a_run(instance, "join", dg.DagsterRunStatus.SUCCESS, start=started, end=started + 5)
        assert not tick(sensors.join, instance).run_requests
        with mock.patch("efd_pipelines.defs.new_exposures.LATE_S", 50.0):
            assert tick(sensors.join, instance).run_requests
