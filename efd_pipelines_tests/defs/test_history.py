"""Healing in Dagster: a partition's run fills what Kafka lost; the schedule submits the next weeks in its bounds."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.defs.history import RUNS_AT_ONCE, TAG, next_runs
from efd_pipelines.defs.schedules import heal_history
from efd_pipelines.history import healing
from efd_pipelines.history.influx import InfluxHistory
from efd_pipelines.partitions import add_components, known_components
from efd_pipelines.resources import Deployment
from efd_pipelines.servers.ports import free_port
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

WEEK = Week.parse("2023-11-20")
AZIMUTH = Dataset("lsst.sal.MTMount.azimuth")
NOON_IN_CHILE = datetime(2023, 12, 6, 16, tzinfo=UTC)
MIDNIGHT_IN_CHILE = datetime(2023, 12, 6, 4, tzinfo=UTC)


@pytest.fixture
def history(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive without Kafka, and a file with a minute of a week."""
    file = tmp_path / "export.lp"
    start = WEEK.start_us + 3_600_000_000
    file.write_text(
        "".join(
            f"{AZIMUTH} actualPosition={n}.5,private_sndStamp={start / 1e6 + 37 + n},private_seqNum={n}i,"
            f"private_efdStamp={start / 1e6 + n},private_origin=7i {(start + n * 1_000_000) * 1000}\n"
            for n in range(60)
        )
    )
    monkeypatch.setenv("EFD_HISTORY_LINES", str(file))
    monkeypatch.setenv("EFD_HISTORY_FIRST_WEEK", "2023-11-06")
    return Deployment().archive()


def healed(definitions: dg.Definitions, instance: dg.DagsterInstance, partition: str, **how: Any) -> dict[str, Any]:
    """What the partition shows after a run of the job."""
    job = definitions.resolve_job_def("heal_archive")
    result = job.execute_in_process(instance=instance, partition_key=partition, **how)
    assert result.success
    (event,) = result.asset_materializations_for_node("raw_archive")
    return {name: value.value for name, value in event.metadata.items()}


def submitted(instance: dg.DagsterInstance, archive: Archive, now: datetime) -> list[str]:
    found = next_runs(instance, archive, now)
    return [str(one.partition_key) for one in found] if isinstance(found, list) else [found]


def test_a_partition_is_healed_and_shows_it(
    history: Archive, definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    add_components(instance, ["MTMount"])
    for rows in (60, 0):
        shown = healed(definitions, instance, f"MTMount|{WEEK}")
        assert (shown["history_rows"], shown["rows"], shown["history_left_h"]) == (rows, 60, 0)
    assert history.read(AZIMUTH)["actualPosition"].to_pylist() == [n + 0.5 for n in range(60)]


def test_a_run_whose_time_is_up_asks_for_nothing_and_says_so(
    history: Archive, definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    add_components(instance, ["MTMount"])
    config: dict[str, Any] = {"ops": {"raw_archive": {"config": {"until": "2023-12-01T00:00"}}}}
    healed(definitions, instance, f"MTMount|{WEEK}", run_config=config)
    assert history.datasets() == []


def test_the_next_weeks_are_the_newest_that_were_not_asked_for(
    history: Archive, definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    add_components(instance, ["ESS", "MTMount"])
    everything = [f"{component}|2023-11-{day}" for day in (27, 20, 13, "06") for component in ("ESS", "MTMount")]
    assert submitted(instance, history, NOON_IN_CHILE) == everything

    healed(definitions, instance, f"MTMount|{WEEK}")
    everything.remove(f"MTMount|{WEEK}")
    assert submitted(instance, history, NOON_IN_CHILE) == everything


def test_a_week_that_takes_longer_than_the_budget_goes_on_where_it_ended_when_others_had_their_turn(
    history: Archive, definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_components(instance, ["MTMount"])
    with monkeypatch.context() as budget:
        looks = itertools.count(1)
        budget.setattr(healing._Healing, "_is_over", lambda _: next(looks) > 3)
        first = healed(definitions, instance, f"MTMount|{WEEK}")
    assert 0 < first["history_asked_h"] < 7 * 24
    assert submitted(instance, history, NOON_IN_CHILE) == [
        *(f"MTMount|2023-11-{day}" for day in ("27", "13", "06")),
        f"MTMount|{WEEK}",
    ]
    second = healed(definitions, instance, f"MTMount|{WEEK}")
    assert (second["history_asked_h"], second["history_left_h"]) == (first["history_left_h"], 0)
    assert first["history_rows"] + second["history_rows"] == second["rows"] == 60
    assert f"MTMount|{WEEK}" not in submitted(instance, history, NOON_IN_CHILE)


def test_components_that_only_the_archive_or_the_history_has_are_healed_too(
    history: Archive, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFD_HISTORY_INFLUX_URL", "http://history.test")
    names = frozenset({Dataset("lsst.sal.ESS.temperature"), Dataset("lsst.sal.ATDome.position")})
    monkeypatch.setattr(InfluxHistory, "datasets", lambda _: names)
    found = submitted(instance, Deployment().archive(), NOON_IN_CHILE)
    assert {key.partition("|")[0] for key in found} == {"ATDome", "ESS"}
    assert known_components(instance) == ["ATDome", "ESS"]


def test_a_tick_says_that_the_history_does_not_answer(
    history: Archive, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFD_HISTORY_INFLUX_URL", f"http://127.0.0.1:{free_port()}")
    (reason,) = submitted(instance, Deployment().archive(), NOON_IN_CHILE)
    assert "did not answer" in reason


def test_the_history_is_asked_in_its_window_only(history: Archive, instance: dg.DagsterInstance) -> None:
    add_components(instance, ["MTMount"])
    assert submitted(instance, history, MIDNIGHT_IN_CHILE)[0].startswith("It is outside 13:00-21:00 UTC")


def test_runs_end_with_the_window_or_the_budget(
    history: Archive, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until(now: datetime) -> str:
        found = next_runs(instance, Deployment().archive(), now)
        assert isinstance(found, list)
        return str(found[0].run_config["ops"]["raw_archive"]["config"]["until"])

    add_components(instance, ["MTMount"])
    assert until(NOON_IN_CHILE) == "2023-12-06T21:00:00"
    monkeypatch.setenv("EFD_HISTORY_BUDGET_H", "1.5")
    assert until(NOON_IN_CHILE) == "2023-12-06T17:30:00"


def test_a_days_budget_is_used_up_once(
    history: Archive, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, definitions: dg.Definitions
) -> None:
    add_components(instance, ["MTMount"])
    now = datetime.now(UTC)
    window = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=2):%H:%M}"
    monkeypatch.setenv("EFD_HISTORY_WINDOW", window)
    assert len(submitted(instance, Deployment().archive(), now)) == RUNS_AT_ONCE
    healed(definitions, instance, f"MTMount|{WEEK}", tags={TAG: "schedule"})
    monkeypatch.setenv("EFD_HISTORY_BUDGET_H", "0.000001")
    assert submitted(instance, Deployment().archive(), now)[0].startswith("It is outside")


def test_nothing_is_submitted_while_runs_are_under_way_or_nothing_is_set(
    history: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_components(instance, ["MTMount"])
    job = definitions.resolve_job_def("heal_archive")
    run = instance.create_run_for_job(job, tags={TAG: "schedule"}, status=dg.DagsterRunStatus.STARTED)
    assert submitted(instance, history, NOON_IN_CHILE) == ["Runs are under way."]
    instance.delete_run(run.run_id)
    monkeypatch.delenv("EFD_HISTORY_FIRST_WEEK")
    assert "not set" in submitted(instance, Deployment().archive(), NOON_IN_CHILE)[0]


def test_the_schedules_requests_fit_the_job(history: Archive, tmp_path: Path, definitions: dg.Definitions) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        add_components(instance, ["MTMount"])
        with dg.build_schedule_context(
            instance=instance, scheduled_execution_time=NOON_IN_CHILE, resources={"deployment": Deployment()}
        ) as context:
            found = heal_history(context)
        assert isinstance(found, list)
        assert found[0].partition_key is not None
        assert healed(definitions, instance, found[0].partition_key, run_config=found[0].run_config)["rows"] == 0
