"""Retention in Dagster: a dry run unless told otherwise, and what went is there to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.configuration import Configuration, load_configuration
from efd_pipelines.defs.archive import raw_archive
from efd_pipelines.defs.retention import expire_schedule, expired_is_covered
from efd_pipelines.partitions import ComponentWeek
from efd_pipelines.resources import Deployment
from efd_pipelines.retention.pins import pin
from efd_pipelines.settings import load_settings
from efd_pipelines_tests.unit.retention.builders import FAST, FIRST, sealed_and_summarised, weeks_from, weeks_there

WEEKS = weeks_from(FIRST, 3)
KEYS = {week.key for week in WEEKS}


def run(definitions: dg.Definitions, instance: dg.DagsterInstance, **config: Any) -> dict[str, Any]:
    """Runs the job; gives the metadata of its output."""
    done = definitions.resolve_job_def("expire").execute_in_process(
        instance=instance, run_config={"ops": {"expire_weeks": {"config": {"policy": "summit", **config}}}}
    )
    assert done.success
    event = next(event for event in done.all_events if event.is_successful_output)
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_the_launchpad_does_nothing_until_it_is_told(
    archive: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    sealed_and_summarised(archive, FAST, WEEKS)
    told = run(definitions, instance)
    assert (told["weeks"], told["refused"]) == (9, 0)  # raw, 1 s and 1 min of three weeks
    assert len(told["would_be_let_go"].records) == 9
    assert weeks_there(archive, FAST) == KEYS


def test_what_was_let_go_and_what_was_kept_is_told(
    archive: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    sealed_and_summarised(archive, FAST, WEEKS)
    pin(archive.store, why="earthquake", week=WEEKS[0].key)
    told = run(definitions, instance, dry_run=False, weeks=[WEEKS[0].key, WEEKS[1].key])
    assert (told["weeks"], told["refused"]) == (3, 3)
    assert {record.data["kind"] for record in told["due_and_kept"].records} == {"pinned"}
    assert weeks_there(archive, FAST) == KEYS - {WEEKS[1].key}
    partition = ComponentWeek("MTM1M3", WEEKS[1])
    assert instance.get_materialized_partitions(raw_archive.key) == {partition.key}
    result = expired_is_covered(dg.build_asset_check_context(instance=instance), Deployment())
    assert isinstance(result, dg.AssetCheckResult)
    assert result.passed
    assert result.metadata["raw_weeks"].value == 1


@pytest.mark.parametrize(("policy", "is_on"), [("usdf", False), ("summit", True), ("nonsense", False)])
def test_the_schedule_is_on_where_the_policy_lets_anything_go(tmp_path: Path, policy: str, is_on: bool) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(f"retention:\n  policy: {policy}\n")
    schedule = expire_schedule(load_configuration(own))
    assert (schedule.default_status is dg.DefaultScheduleStatus.RUNNING) == is_on
    assert ("There is no retention policy" in str(schedule.description)) == (policy == "nonsense")


def test_by_default_nothing_is_scheduled(definitions: dg.Definitions) -> None:
    shipped: Configuration = load_settings({}, None).configuration
    assert shipped.retention.policy == "usdf"
    schedule = definitions.get_repository_def().get_schedule_def("expire")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
