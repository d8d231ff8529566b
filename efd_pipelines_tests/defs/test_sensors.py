"""Sensors: one run for what is due, never two of a group, and nothing where nothing is to be done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from unittest import mock

import dagster as dg
import pytest
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.utils import make_new_run_id

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.backlog import Backlog
from efd_pipelines.archive.discovered import kept
from efd_pipelines.defs import runs as runs_of
from efd_pipelines.defs import sensors
from efd_pipelines.defs.jobs import DRAIN_GROUP
from efd_pipelines.defs.sources import kafka_topics
from efd_pipelines.errors import KafkaUnavailable
from efd_pipelines.kafka.catalogue import Catalogue
from efd_pipelines.partitions import known_components
from efd_pipelines.resources import Deployment
from efd_pipelines.times import this_week
from efd_pipelines_tests.defs.builders import FAST, a_catalogue, archived, on_brokers, waiting

Status = dg.DagsterRunStatus
Tick = Callable[[], dg.SensorResult]


def ticking(sensor: dg.SensorDefinition, instance: dg.DagsterInstance) -> Tick:
    """Evaluates a sensor and does with the answer what the daemon does."""

    def tick() -> dg.SensorResult:
        with dg.build_sensor_context(instance=instance) as context:
            result = sensor(context, deployment=Deployment())
        assert isinstance(result, dg.SensorResult)
        for request in result.dynamic_partitions_requests or []:
            instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        for event in result.asset_events:
            instance.report_runless_asset_event(event)
        return result

    return tick


def groups(result: dg.SensorResult) -> list[str]:
    return sorted(request.tags[DRAIN_GROUP] for request in result.run_requests or [])


def a_run(
    instance: dg.DagsterInstance,
    job: str,
    status: dg.DagsterRunStatus,
    *,
    group: str | None = None,
    start: float | None = None,
    end: float | None = None,
) -> None:
    """A run of the past or present."""
    tags = {DRAIN_GROUP: group} if group else {}
    run = instance.add_run(dg.DagsterRun(job_name=job, run_id=make_new_run_id(), tags=tags))
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    with storage.connect() as connection:
        stamped = RunsTable.update().where(RunsTable.c.run_id == run.run_id)
        connection.execute(stamped.values(status=status.value, start_time=start, end_time=end))


@pytest.fixture
def backlog(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what waits on the brokers."""

    def say(*topics: Backlog) -> None:
        monkeypatch.setattr("efd_pipelines.archive.backlog.backlog", lambda archive, settings: list(topics))

    say()
    return say


@pytest.fixture
def brokers_have(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the catalogue is."""

    def say(catalogue: Catalogue) -> None:
        monkeypatch.setattr("efd_pipelines.kafka.catalogue.read_catalogue", lambda settings, previous=None: catalogue)

    return say


@pytest.mark.usefixtures("kafka_is_set")
class TestDrain:
    """The sensor that keeps the archive fed."""

    @pytest.fixture
    def tick(self, instance: dg.DagsterInstance) -> Tick:
        return ticking(sensors.drain, instance)

    def test_nothing_due_requests_nothing(self, tick: Tick, backlog: Callable[..., None]) -> None:
        backlog(waiting("lsst.sal.MTM1M3.forceActuatorData", due=False))
        result = tick()
        assert not result.run_requests
        assert "Nothing is due" in str(result.skip_reason)

    def test_one_run_for_each_group_that_is_due(self, tick: Tick, backlog: Callable[..., None]) -> None:
        backlog(
            waiting("lsst.sal.MTM1M3.forceActuatorData"),
            waiting("lsst.sal.MTM1M3.logevent_heartbeat"),
            waiting("lsst.sal.MTMount.azimuth"),
            waiting("lsst.sal.ESS.temperature", due=False),
        )
        result = tick()
        assert groups(result) == ["m1m3", "telescope"]
        configs = [request.run_config["ops"]["drain_backlog"]["config"] for request in result.run_requests or []]
        assert configs == [{"group": "m1m3"}, {"group": "telescope"}]

    @pytest.mark.parametrize("status", [Status.QUEUED, Status.NOT_STARTED, Status.STARTING, Status.STARTED])
    def test_never_two_runs_of_a_group_at_once(
        self, tick: Tick, backlog: Callable[..., None], instance: dg.DagsterInstance, status: dg.DagsterRunStatus
    ) -> None:
        backlog(waiting("lsst.sal.MTM1M3.forceActuatorData"), waiting("lsst.sal.MTMount.azimuth"))
        a_run(instance, "drain", status, group="m1m3")
        assert groups(tick()) == ["telescope"]

    @pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILURE, Status.CANCELED])
    def test_a_run_that_is_over_blocks_nothing(
        self, tick: Tick, backlog: Callable[..., None], instance: dg.DagsterInstance, status: dg.DagsterRunStatus
    ) -> None:
        backlog(waiting("lsst.sal.MTM1M3.forceActuatorData"))
        a_run(instance, "drain", status, group="m1m3")
        assert groups(tick()) == ["m1m3"]

    def test_the_last_state_is_told_when_nothing_more_comes(
        self, tick: Tick, backlog: Callable[..., None], archive: Archive
    ) -> None:
        """The drain before told nothing, because it had told a minute before: a run is requested only to tell."""
        archived(archive, FAST, this_week())
        backlog()
        assert groups(tick()) == ["m1m3"]

    def test_an_unreachable_broker_fails_the_tick_with_what_to_do(
        self, tick: Tick, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreachable(archive: object, settings: object) -> None:
            raise KafkaUnavailable("No broker at 127.0.0.1:1 answers")

        monkeypatch.setattr("efd_pipelines.archive.backlog.backlog", unreachable)
        with pytest.raises(dg.Failure, match="EFD_KAFKA_BOOTSTRAP"):
            tick()


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize("sensor", [sensors.drain, sensors.discover])
def test_without_brokers_in_the_settings_a_tick_says_which_is_missing(
    instance: dg.DagsterInstance, sensor: dg.SensorDefinition
) -> None:
    result = ticking(sensor, instance)()
    assert not result.run_requests
    assert "EFD_KAFKA_BOOTSTRAP is not set" in str(result.skip_reason)


@pytest.mark.usefixtures("kafka_is_set")
class TestDiscover:
    """The sensor that notices what is new on the brokers."""

    @pytest.fixture
    def tick(self, instance: dg.DagsterInstance) -> Tick:
        return ticking(sensors.discover, instance)

    def told(self, result: dg.SensorResult) -> list[str]:
        return sorted(str(event.partition) for event in result.asset_events)

    def changes(self, result: dg.SensorResult) -> str:
        return "\n".join(str(event.metadata["changes"].value) for event in result.asset_events)

    def test_new_components_get_partitions_and_are_told_of(
        self, tick: Tick, brokers_have: Callable[[Catalogue], None], instance: dg.DagsterInstance
    ) -> None:
        brokers_have(a_catalogue(on_brokers("MTMount.azimuth"), on_brokers("ESS.temperature")))
        result = tick()
        assert known_components(instance) == ["ESS", "MTMount"]
        assert self.told(result) == ["ESS", "MTMount"]
        assert "component MTMount is new" in self.changes(result)

    def test_first_records_are_archived_at_once_and_registered_topics_wait(
        self, tick: Tick, brokers_have: Callable[[Catalogue], None]
    ) -> None:
        brokers_have(a_catalogue(on_brokers("MTMount.azimuth", records=0), on_brokers("ESS.temperature")))
        assert groups(tick()) == ["everything_else"]
        brokers_have(a_catalogue(on_brokers("MTMount.azimuth", records=5), on_brokers("ESS.temperature")))
        second = tick()
        assert groups(second) == ["telescope"]
        assert self.told(second) == ["MTMount"]
        assert "sent their first record" in self.changes(second)

    def test_nothing_new_tells_nothing(self, tick: Tick, brokers_have: Callable[[Catalogue], None]) -> None:
        brokers_have(a_catalogue(on_brokers("ESS.temperature", records=5)))
        tick()
        brokers_have(a_catalogue(on_brokers("ESS.temperature", records=5000)))
        result = tick()
        assert (self.told(result), groups(result)) == ([], [])
        assert "Nothing changed" in str(result.skip_reason)

    def test_a_changed_schema_is_told_with_its_difference(
        self, tick: Tick, brokers_have: Callable[[Catalogue], None]
    ) -> None:
        before = on_brokers("ESS.temperature")
        assert before.schema_text is not None
        brokers_have(a_catalogue(before, on_brokers("MTMount.azimuth")))
        tick()
        changed = before.schema_text.replace('"name": "numChannels"', '"name": "channelCount"')
        assert changed != before.schema_text
        brokers_have(a_catalogue(on_brokers("ESS.temperature", schema=changed), on_brokers("MTMount.azimuth")))
        result = tick()
        assert self.told(result) == ["ESS"]
        assert "channelCount: new" in self.changes(result)
        assert "numChannels: gone" in self.changes(result)

    def test_a_removed_topic_is_retired_and_its_partition_stays(
        self, tick: Tick, brokers_have: Callable[[Catalogue], None], instance: dg.DagsterInstance
    ) -> None:
        gone, stays = on_brokers("ESS.temperature"), on_brokers("MTMount.azimuth")
        brokers_have(a_catalogue(gone, stays))
        tick()
        brokers_have(a_catalogue(stays, retired=(gone,)))
        result = tick()
        assert self.told(result) == ["ESS"]
        assert known_components(instance) == ["ESS", "MTMount"]
        (event,) = result.asset_events
        assert "lsst.sal.ESS.temperature" in str(event.metadata["retired"].value)
        assert self.told(tick()) == []

    def test_what_a_lost_tick_had_noticed_is_told_by_the_next(
        self, brokers_have: Callable[[Catalogue], None], instance: dg.DagsterInstance, archive: Archive
    ) -> None:
        brokers_have(a_catalogue(on_brokers("ESS.temperature")))
        with dg.build_sensor_context(instance=instance) as context:
            lost = sensors.discover(context, deployment=Deployment())
        assert isinstance(lost, dg.SensorResult)
        assert lost.asset_events
        assert kept(archive.store) is not None
        assert self.told(ticking(sensors.discover, instance)()) == ["ESS"]
        assert known_components(instance) == ["ESS"]

    def test_what_takes_longer_than_a_tick_may_is_left_to_a_run(
        self, tick: Tick, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over = threading.Event()
        monkeypatch.setattr("efd_pipelines.kafka.catalogue.read_catalogue", lambda settings, previous: over.wait(30))
        monkeypatch.setattr(sensors, "BUDGET_S", 0.05)
        try:
            (request,) = tick().run_requests or []
        finally:
            over.set()
        assert request.job_name == "discover"
        a_run(instance, "discover", Status.STARTED)
        assert "under way" in str(tick().skip_reason)

    def test_a_catalogue_that_cannot_be_read_is_read_anew(
        self, tick: Tick, brokers_have: Callable[[Catalogue], None], archive: Archive
    ) -> None:
        archive.store.write_bytes("catalogue/topics.json", b"{}")
        brokers_have(a_catalogue(on_brokers("ESS.temperature")))
        assert self.told(tick()) == ["ESS"]

    def test_events_carry_the_topics_with_their_fields_and_units(
        self, tick: Tick, brokers_have: Callable[[Catalogue], None]
    ) -> None:
        brokers_have(a_catalogue(on_brokers("MTMount.azimuth"), on_brokers("MTMount.elevation")))
        (event,) = tick().asset_events
        topics = event.metadata["topics"]
        assert isinstance(topics, dg.TableMetadataValue)
        assert [record.data["topic"] for record in topics.records] == ["azimuth", "elevation"]
        fields = event.metadata["fields"]
        assert isinstance(fields, dg.TableMetadataValue)
        position = next(record.data for record in fields.records if record.data["field"] == "actualPosition")
        assert (position["type"], position["units"]) == ("double", "deg")

    def test_the_asset_is_told_of_by_its_own_key(
        self, tick: Tick, brokers_have: Callable[[Catalogue], None], instance: dg.DagsterInstance
    ) -> None:
        brokers_have(a_catalogue(on_brokers("ESS.temperature")))
        tick()
        assert instance.get_materialized_partitions(kafka_topics.key) == {"ESS"}


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("runs", "changed_s", "runs_now"),
    [
        ([], None, False),
        ([], NOW - 10, True),
        ([(Status.STARTED, NOW - 5, None)], NOW, False),
        ([(Status.SUCCESS, NOW - 100, NOW - 90)], NOW - 200, False),
        ([(Status.SUCCESS, NOW - 100, NOW - 90)], NOW - 50, True),
        ([(Status.SUCCESS, NOW - 100, NOW - 90)], NOW - 95, True),
        ([(Status.SUCCESS, NOW - 3700, NOW - 3690)], NOW - 9000, True),
        ([(Status.FAILURE, NOW - 100, NOW - 90)], NOW - 50, False),
        ([(Status.FAILURE, NOW - 900, NOW - 890)], NOW - 5000, True),
        ([(Status.SUCCESS, NOW - 1000, NOW - 990), (Status.FAILURE, NOW - 100, NOW - 90)], NOW - 50, False),
        ([(Status.FAILURE, NOW - 1000, NOW - 990), (Status.SUCCESS, NOW - 100, NOW - 90)], NOW - 500, False),
    ],
)
def test_a_job_runs_when_the_archive_moved_on_and_not_in_a_storm(
    instance: dg.DagsterInstance,
    runs: Iterable[tuple[dg.DagsterRunStatus, float, float | None]],
    changed_s: float | None,
    runs_now: bool,
) -> None:
    for status, start, end in runs:
        a_run(instance, "summarise", status, start=start, end=end)
    a_run(instance, "join", Status.SUCCESS, start=NOW, end=NOW)
    assert (runs_of.why_not(instance, "summarise", changed_s, NOW) is None) == runs_now


def test_summarise_and_join_run_after_something_was_archived(instance: dg.DagsterInstance, archive: Archive) -> None:
    for sensor in (sensors.summarise, sensors.join):
        assert not ticking(sensor, instance)().run_requests
    archived(archive, FAST, this_week())
    for sensor in (sensors.summarise, sensors.join):
        assert len(ticking(sensor, instance)().run_requests or []) == 1
    later = time.time() + 60
    a_run(instance, "summarise", Status.SUCCESS, start=later, end=later + 10)
    with mock.patch("efd_pipelines.defs.sensors.time.time", return_value=later + 20):
        assert not ticking(sensors.summarise, instance)().run_requests
