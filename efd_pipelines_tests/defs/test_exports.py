"""Exports that the configuration asks for: a schedule each, and what a run of one makes."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.definitions import build_defs
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week
from efd_pipelines_tests.defs.builders import FAST, archived, at

WEEK = Week.parse("2023-11-20")


@pytest.fixture
def asked(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive with a week, and a configuration that asks for two exports of it."""
    file = tmp_path / "efd.yaml"
    file.write_text(
        f"""
exports:
  - {{name: fast, topics: ["{FAST.text}"], period: week, out: "{tmp_path}/exports/{{name}}-{{period}}", keep_days: 3}}
  - {{name: by_hand, topics: ["lsst.sal.*"], out: "{tmp_path}/exports/{{name}}-{{period}}", schedule: null}}
"""
    )
    monkeypatch.setenv("EFD_CONFIG", str(file))
    archived(archive, FAST, WEEK, 100, first_offset=0)
    return archive


def test_each_configured_export_has_its_schedule_and_a_run_of_it_is_of_its_last_period(
    asked: Archive, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    definitions = build_defs(load_settings().configuration)
    schedules = [name.name for name in definitions.get_repository_def().schedule_defs if name.name.startswith("export")]
    assert schedules == ["export_fast"]
    schedule = definitions.get_schedule_def("export_fast")
    with dg.build_schedule_context(scheduled_execution_time=at("2023-11-28T15:00")) as context:
        evaluated = schedule.evaluate_tick(context)
    (request,) = evaluated.run_requests or []
    job = definitions.resolve_job_def("requested_exports")
    result = job.execute_in_process(instance=instance, run_config=request.run_config)
    assert result.success
    assert pq.read_table(tmp_path / "exports" / "fast-2023-11-20" / FAST.text).num_rows == 100


def test_a_name_that_is_not_configured_fails_with_the_nearest(asked: Archive, instance: dg.DagsterInstance) -> None:
    job = build_defs(load_settings().configuration).resolve_job_def("requested_exports")
    config = {"ops": {"make_requested_exports": {"config": {"names": ["fst"]}}}}
    result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert "did you mean fast" in str(event.event_specific_data)


def test_the_form_estimates_and_takes_days_lists_and_tai(
    asked: Archive, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    job = build_defs(load_settings().configuration).resolve_job_def("export")
    form = {"topics": [FAST.text], "day_obs": "20231119..20231126", "arrays": "list", "time_scale": "both"}

    def run(**more: object) -> dg.ExecuteInProcessResult:
        config = {"ops": {"export_dataset": {"config": {**form, **more}}}}
        return job.execute_in_process(instance=instance, run_config=config)

    assert run(only_estimate=True).success
    assert not (tmp_path / "out").exists()
    assert run(out=str(tmp_path / "out")).success
    assert pq.read_table(tmp_path / "out" / FAST.text).column_names[:2] == ["time", "tai_time"]
