"""Alerts: the sensor `alert` tells people of checks that fail and of jobs whose runs do: at once, each day that it
stays so, and when it is over. Where EFD_SLACK_WEBHOOK is not set nothing is told: checks and runs show it in the UI.

It compares how things are with what it has told, which its cursor keeps; a message that was not taken is told at the
next tick. What is to be told of: `_states`. Sending: `efd_pipelines/alerts.py`.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from efd_pipelines.defs.events import DAY_S
from efd_pipelines.defs.failures import explained
from efd_pipelines.resources import Deployment

JOBS = ("drain", "discover", "merge", "daily_round", "verify", "heal_archive")
"""The jobs that keep the archive whole. One failed run is nobody's business: the next does the work."""

_RUNS = 2
_MOST_LINES = 20
_OVER = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


@dataclass(frozen=True, slots=True)
class State:
    """A check, or a job, and how it is."""

    name: str
    is_well: bool
    text: str


@dg.sensor(
    name="alert",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells a channel of Slack (EFD_SLACK_WEBHOOK) which checks and jobs fail: at once, daily, and the end.",
)
def alert(context: dg.SensorEvaluationContext, deployment: Deployment) -> dg.SensorResult:
    from efd_pipelines.alerts import tell

    settings = deployment.archive().settings
    if settings.slack_webhook is None:
        return dg.SensorResult(skip_reason="EFD_SLACK_WEBHOOK is not set.")
    assert context.repository_def is not None
    keys = sorted(context.repository_def.asset_graph.asset_check_keys)
    lines, told = news(_states(context.instance, keys), json.loads(context.cursor or "{}"), time.time())
    if lines:
        with explained():
            tell(settings.slack_webhook.get_secret_value(), "\n".join([f"efd_pipelines, {settings.profile}", *lines]))
    return dg.SensorResult(skip_reason=f"Told of {len(lines)}." if lines else "Nothing new.", cursor=json.dumps(told))


def news(states: Iterable[State], told: Mapping[str, float], now: float) -> tuple[list[str], dict[str, float]]:
    """What is to be told now, and when each that is not well was told of, in unix seconds."""
    lines, left = list[str](), dict(told)
    for state in states:
        if state.is_well:
            if left.pop(state.name, None) is not None:
                lines.append(f"{state.name} is well again. {state.text}".rstrip())
        elif now - told.get(state.name, 0.0) >= DAY_S:
            left[state.name] = now
            lines.append(f"{state.name} {'still fails' if state.name in told else 'fails'}. {state.text}".rstrip())
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more: see the UI."]
    return lines, left


def _states(instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]) -> Iterator[State]:
    """Of each check its latest evaluation, none while one is under way; of each job whether its last runs failed."""
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    for key, record in latest.items():
        event = record.event.dagster_event if record.event else None
        if event is not None and event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            said = event.asset_check_evaluation_data
            name = f"{key.asset_key.to_user_string()}, {key.name} ({said.severity.value})"
            yield State(name, said.passed, said.description or "")
    for job in JOBS:
        runs = instance.get_runs(dg.RunsFilter(job_name=job, statuses=_OVER), limit=_RUNS)
        failed = [run for run in runs if run.status is dg.DagsterRunStatus.FAILURE]
        if runs:
            newest = f"Run {runs[0].run_id} says why." if failed else ""
            yield State(f"Job {job}", len(failed) < _RUNS, newest)
