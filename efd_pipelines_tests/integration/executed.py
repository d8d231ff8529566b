"""Jobs and sensors executed in this process: what they were asked, what they did, and why one failed.

Their definitions and instance: the fixtures of these names. Processes of Dagster's own: `dagster_site.py` of the tests.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from efd_pipelines.resources import Deployment


def executed(
    definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, **config: Any
) -> dg.ExecuteInProcessResult:
    """A run of a job, whatever becomes of it; `config` by op."""
    run_config = {"ops": config} if config else None
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance, run_config=run_config, raise_on_error=False
    )


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """What its failed steps say."""
    return "\n".join(str(event.event_specific_data) for event in result.all_events if event.is_step_failure)


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance) -> dg.SensorResult:
    """What a sensor asks for now."""
    with dg.build_sensor_context(instance=instance) as context:
        result = sensor(context, deployment=Deployment())
    assert isinstance(result, dg.SensorResult)
    return result
