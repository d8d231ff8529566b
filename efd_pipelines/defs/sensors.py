"""Sensors: what happens when something arrives. What happens at a time of day: `schedules.py`.

A tick asks, cheaply, whether there is something to do, and requests one run that does all of it; the domain finds what
exactly. Nothing here is the only record of anything: a tick that is lost, or a run that dies, is made good by the next.
All are on from the start: an archive that is not fed loses records within days (Kafka keeps 30 hours to 7 days).
"""

import time
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import dagster as dg

from efd_pipelines.defs import jobs
from efd_pipelines.defs.archive import due_topics, raw_archive
from efd_pipelines.defs.events import DAY_S, RAW, changes, months_since, untold
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.publishing import publish_sensor
from efd_pipelines.defs.sealing import news_of_seals
from efd_pipelines.defs.sources import discovered_within
from efd_pipelines.errors import SettingsError
from efd_pipelines.partitions import COMPONENTS, component_key, known_components
from efd_pipelines.resources import Deployment

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

LATEST_S = 3600.0
"""A job that finds its own work looks at least so often, whatever the sensor believes."""

RETRY_S = 600.0
"""How long after a run failed the next one is requested: its cause is seldom gone at once."""

BUDGET_S = 25.0
"""How long a tick may wait for the catalogue; Dagster ends one that takes 60 s. What takes longer is a run."""

_CLOCK_SKEW_S = 5.0
_ON = dg.DefaultSensorStatus.RUNNING
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_FAILED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_SUCCEEDED = [dg.DagsterRunStatus.SUCCESS]


@dg.sensor(
    name="discover",
    jobs=[jobs.drain, jobs.discover],
    minimum_interval_seconds=120,
    default_status=_ON,
    description="Finds new topics and components, adds partitions, tells what changed, has first records archived.",
)
def discover(context: dg.SensorEvaluationContext, deployment: Deployment) -> dg.SensorResult:
    try:
        archive = deployment.archive()
        archive.settings.require_kafka()
        archive.settings.require_registry()
    except SettingsError as error:
        return dg.SensorResult(skip_reason=str(error))
    with explained():
        return _discover(context.instance, archive)


def _discover(instance: dg.DagsterInstance, archive: "Archive") -> dg.SensorResult:
    from efd_pipelines.archive.discovered import keep

    if in_progress(instance, "discover"):
        return dg.SensorResult(skip_reason="A run of `discover` is under way.")
    found = discovered_within(instance, archive, BUDGET_S)
    if found is None:
        return dg.SensorResult(run_requests=[dg.RunRequest(job_name="discover")])
    known = set(known_components(instance))
    new = [component_key(component) for component in found.catalogue.components() if component not in known]
    # Kept before Dagster has recorded the events: where it fails to, the data versions tell them at the next tick.
    keep(archive.store, found.catalogue)
    group_of = archive.settings.configuration.drain_group_of
    first = {group_of(topic.component) for topic in found.change.first_records if topic.covered}
    requested = drain_requests(instance, first)
    return dg.SensorResult(
        run_requests=requested.run_requests,
        dynamic_partitions_requests=[COMPONENTS.build_add_request(new)] if new else [],
        asset_events=list(found.events()),
        skip_reason=None if requested.run_requests else _noticed(found.change.lines()),
    )


def _noticed(lines: list[str]) -> str:
    return "; ".join(lines)[:500] or "Nothing changed."


@dg.sensor(
    name="drain",
    job=jobs.drain,
    minimum_interval_seconds=30,
    default_status=_ON,
    description="One run for each drain group that has something due, or whose last news Dagster has not been told of.",
)
def drain(context: dg.SensorEvaluationContext, deployment: Deployment) -> dg.SensorResult:
    try:
        archive = deployment.archive()
        archive.settings.require_kafka()
    except SettingsError as error:
        return dg.SensorResult(skip_reason=str(error))
    with explained():
        due = {group for group, topics in due_topics(archive).items() if group and topics}
        return drain_requests(context.instance, due | set(_groups_with_news(context.instance, archive)))


def drain_requests(instance: dg.DagsterInstance, due: Collection[str]) -> dg.SensorResult:
    """A run for each group that is due, save those that one is under way for."""
    busy = {group for group in due if in_progress(instance, "drain", {jobs.DRAIN_GROUP: group})}
    requests = [
        dg.RunRequest(
            job_name="drain",
            run_config={"ops": {"drain_backlog": {"config": {"group": group}}}},
            tags={jobs.DRAIN_GROUP: group},
        )
        for group in sorted(due)
        if group not in busy
    ]
    if requests:
        return dg.SensorResult(run_requests=requests)
    return dg.SensorResult(skip_reason=f"Under way: {', '.join(sorted(busy))}." if busy else "Nothing is due.")


def _groups_with_news(instance: dg.DagsterInstance, archive: "Archive") -> Iterable[str]:
    """Drain groups with partitions that changed in the last day, and that Dagster should have been told of by now."""
    pending = untold(instance, raw_archive.key, changes(archive, RAW, time.time() - DAY_S))
    return sorted({archive.settings.configuration.drain_group_of(one.component) for one in pending})


@dg.sensor(
    name="summarise",
    job=jobs.summarise,
    minimum_interval_seconds=120,
    default_status=_ON,
    description="A run when the archive has changed since the last one began. Tells of weeks sealed from a shell.",
)
def summarise(context: dg.SensorEvaluationContext, deployment: Deployment) -> dg.SensorResult:
    with explained():
        archive = deployment.archive()
        found = _when_archived(context.instance, archive, "summarise", {})
        return found._replace(asset_events=list(news_of_seals(context.instance, archive, BUDGET_S)))


@dg.sensor(
    name="join",
    job=jobs.join,
    # With the drains' two minutes before it, five more would be over the five minutes that a value may take.
    minimum_interval_seconds=60,
    default_status=_ON,
    description="A run when the archive has changed since the last one began, and every hour.",
)
def join(context: dg.SensorEvaluationContext, deployment: Deployment) -> dg.SensorResult:
    with explained():
        archive = deployment.archive()
        if not archive.settings.configuration.exposures:
            return dg.SensorResult(skip_reason="No instrument is configured (`exposures` of EFD_CONFIG).")
        recent = {"ops": {"join_new_exposures": {"config": {"days": 14.0}}}}
        return _when_archived(context.instance, archive, "join", recent)


def _when_archived(
    instance: dg.DagsterInstance, archive: "Archive", job: str, run_config: Mapping[str, object]
) -> dg.SensorResult:
    reason = why_not(instance, job, _archived_at_s(archive), time.time())
    if reason is not None:
        return dg.SensorResult(skip_reason=reason)
    return dg.SensorResult(run_requests=[dg.RunRequest(run_config=dict(run_config))])


def _archived_at_s(archive: "Archive") -> float | None:
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
    failed, done = _latest(instance, job, _FAILED), _latest(instance, job, _SUCCEEDED)
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


def _latest(instance: dg.DagsterInstance, job: str, statuses: list[dg.DagsterRunStatus]) -> dg.RunRecord | None:
    return next(iter(instance.get_run_records(dg.RunsFilter(job_name=job, statuses=statuses), limit=1)), None)


SENSORS = [discover, drain, summarise, publish_sensor, join]
