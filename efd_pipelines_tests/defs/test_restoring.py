"""The job `restore`: a dry run unless told otherwise, and the counts beside what was given back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.defs.restoring import restore
from efd_pipelines.partitions import add_components
from efd_pipelines.resources import Deployment
from efd_pipelines.times import Week
from efd_pipelines_tests.defs.builders import SLOW, archived

WEEK = Week.parse("2026-11-09")


def run(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return restore.execute_in_process(
        instance=instance,
        resources={"deployment": Deployment()},
        run_config={"ops": {"restore_weeks": {"config": {"first_week": WEEK.key, "to": "lines", **config}}}},
        raise_on_error=False,
    )


def figures(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    metadata = result.events_for_node("restore_weeks")
    outputs = [event for event in metadata if event.event_type_value == "STEP_OUTPUT"]
    return {name: value.value for name, value in outputs[0].step_output_data.metadata.items()}


@pytest.fixture
def filled(archive: Archive, instance: dg.DagsterInstance) -> Archive:
    archived(archive, SLOW, WEEK, 10)
    add_components(instance, {"ESS"})
    return archive


def test_a_restore_is_a_dry_run_unless_told_otherwise(
    filled: Archive, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    result = run(instance, component="ESS", out=str(tmp_path / "lines"))
    assert result.success
    assert (figures(result)["rows"], figures(result)["topics"]) == (10, 1)
    assert not (tmp_path / "lines").exists()


def test_a_restore_gives_back_and_counts(filled: Archive, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    for rows, before in ((10, 0), (0, 10)):
        result = run(instance, component="ESS", out=str(tmp_path / "lines"), dry_run=False)
        assert result.success
        found = figures(result)
        assert (found["rows"], found["before"], found["left_out"]) == (rows, before, 0)
    assert list((tmp_path / "lines").rglob("*.lp.gz"))


def test_what_cannot_be_meant_fails_with_its_remedy(filled: Archive, instance: dg.DagsterInstance) -> None:
    assert not run(instance, component="ESS").success
    assert not run(instance, out="lines").success
    assert not run(instance, component="ESS", out="lines", last_week="2026-11-02").success
