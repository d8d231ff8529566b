"""Runs: what a tick asks of a job's earlier ones before it requests another."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from efd_pipelines.defs.events import DAY_S, RAW, months_since

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

LATEST_S = 3600.0
"""A job that finds its own work looks at least so often, whatever the sensor believes."""

RETRY_S = 600.0
"""How long after a run failed the next one is requested: its cause is seldom gone at once."""

_CLOCK_SKEW_S = 5.0
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_FAILED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_SUCCEEDED = [dg.DagsterRunStatus.SUCCESS]


def archived_at_s(archive: "Archive") -> float | None:
    """When the archive changed last, by the ledger, in unix seconds; None where it is empty."""
    import pyarrow.compute as pc

    ledger = archive.ledger.table(months_since(time.time() - 30 * DAY_S))
    newest = pc.max(ledger.filter(pc.equal(ledger["table"], RAW))["at"]).as_py()
    return None if newest is None else float(newest.timestamp())


def why_not(instance: dg.DagsterInstance, job: str, changed_s: float | None, now: float) -> str | None:
    """Why a job that finds its own work need not run now; None where it should."""
    if changed_s is None:
        return "Nothing was archived in the last 30 days."
    if in_progress(instance, job):
        return "A run is under way."
    failed, done = latest(instance, job, _FAILED), latest(instance, job, _SUCCEEDED)
    if failed is not None and (failed.end_time or now) > (done.end_time or 0.0 if done else 0.0):
        if now - (failed.end_time or now) < RETRY_S:
            return f"The last run failed less than {RETRY_S / 60:.0f} minutes ago."
        return None
    if done is None or done.start_time is None:
        return None
    if changed_s > done.start_time - _CLOCK_SKEW_S or now - done.start_time > LATEST_S:
        return None
    return "Nothing has been archived since the last run began."


def in_progress(instance: dg.DagsterInstance, job: str, tags: Mapping[str, str] | None = None) -> bool:
    """Whether a run of a job is queued or under way."""
    return instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=_UNFINISHED, tags=dict(tags or {}))) > 0


def succeeded_at_s(instance: dg.DagsterInstance, job: str) -> float | None:
    """When the last run of a job that succeeded began, in unix seconds."""
    done = latest(instance, job, _SUCCEEDED)
    return None if done is None else done.start_time


def latest(instance: dg.DagsterInstance, job: str, statuses: list[dg.DagsterRunStatus]) -> dg.RunRecord | None:
    """The newest run of a job in one of these states."""
    return next(iter(instance.get_run_records(dg.RunsFilter(job_name=job, statuses=statuses), limit=1)), None)
