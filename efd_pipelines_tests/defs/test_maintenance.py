"""Maintenance: Dagster's record stays small, and no partition loses its last word by it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from efd_pipelines.archive.archive import Archive
from efd_pipelines.defs.archive import raw_archive
from efd_pipelines.defs.maintenance import LIVE_JOBS, complete_ledger, prune, runs_with_the_last_word
from efd_pipelines.partitions import ComponentWeek
from efd_pipelines.resources import Deployment
from efd_pipelines.times import Week
from efd_pipelines_tests.defs.builders import FAST, archived
from efd_pipelines_tests.unit.tiers.builders import archive_rows, rows

SOON = datetime.now(UTC) + timedelta(days=1)
WEEKS = [Week.parse("2026-11-09"), Week.parse("2026-11-16")]


def live_run(instance: dg.DagsterInstance, job: str, *weeks: Week, fails: bool = False) -> str:
    """A run of a job that tells of weeks of MTM1M3."""

    @dg.op
    def work(context: dg.OpExecutionContext) -> None:
        for week in weeks:
            key = ComponentWeek("MTM1M3", week).key
            context.log_event(dg.AssetMaterialization(raw_archive.key, partition=key, metadata={"rows": 1}))
        if fails:
            raise dg.Failure("no")

    made = dg.GraphDefinition(name=job, node_defs=[work]).to_job()
    return made.execute_in_process(instance=instance, raise_on_error=False).run_id


def told(instance: dg.DagsterInstance) -> set[str]:
    return set(instance.get_materialized_partitions(raw_archive.key))


def directories(home: Path) -> set[str]:
    """Names of all directories of an instance: each run keeps what it has written in one of its own."""
    return {path.name for path in home.rglob("*") if path.is_dir()}


def test_runs_that_hold_the_last_word_stay(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        first = live_run(instance, "drain", WEEKS[0], WEEKS[1])
        second = live_run(instance, "drain", WEEKS[1])
        idle = live_run(instance, "drain")
        third = live_run(instance, "drain", WEEKS[1])
        assert runs_with_the_last_word(instance) == {first, third}
        assert {first, second, idle, third} <= directories(tmp_path)
        assert prune(instance, LIVE_JOBS, SOON, budget_s=60) == 2
        assert {run.run_id for run in instance.get_runs()} == {first, third}
        assert not instance.all_logs(second)
        assert not instance.all_logs(idle)
        assert not {second, idle} & directories(tmp_path)
        assert told(instance) == {f"MTM1M3|{week}" for week in WEEKS}


def test_failed_runs_and_other_jobs_stay(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        failed = live_run(instance, "drain", fails=True)
        export = live_run(instance, "export")
        assert prune(instance, LIVE_JOBS, SOON, budget_s=60) == 0
        assert {run.run_id for run in instance.get_runs()} == {failed, export}


def test_recent_runs_stay(instance: dg.DagsterInstance) -> None:
    live_run(instance, "drain")
    assert prune(instance, LIVE_JOBS, datetime.now(UTC) - timedelta(days=7), budget_s=60) == 0


def test_pruning_ends_with_its_budget(instance: dg.DagsterInstance) -> None:
    live_run(instance, "drain")
    assert prune(instance, LIVE_JOBS, SOON, budget_s=-1) == 0


def test_the_round_finds_what_a_killed_run_did_not_enter(archive: Archive, instance: dg.DagsterInstance) -> None:
    archived(archive, FAST, WEEKS[0], 10)
    late = rows([WEEKS[0].start_us + 1], {"value": [1.0]}, first_offset=10)
    archive_rows(archive, FAST, late, note=False)
    assert sum(archive.ledger.table()["rows"].to_pylist()) == 10

    made = dg.GraphDefinition(name="round", node_defs=[complete_ledger]).to_job(
        resource_defs={"deployment": Deployment()}
    )
    assert made.execute_in_process(instance=instance).success
    assert sum(archive.ledger.table()["rows"].to_pylist()) == 11
    event = instance.get_latest_materialization_event(raw_archive.key)
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["rows"].value == 11
