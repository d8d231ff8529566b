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
from efd_pipelines.defs.archive import raw_archive
from efd_pipelines.defs.events import DAY_S, RAW, changes, untold
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.new_exposures import (
    DAYS_JOINED,
    cursor_of,
    due_topics,
    groups_read_out,
    look_for_exposures,
    pending_of,
    waiting_topics,
    why_not_join,
)
from efd_pipelines.defs.publishing import publish_sensor
from efd_pipelines.defs.runs import archived_at_s, in_progress, why_not
from efd_pipelines.defs.sealing import news_of_seals
from efd_pipelines.defs.sources import discovered_within
from efd_pipelines.errors import SettingsError
from efd_pipelines.partitions import COMPONENTS, component_key, known_components
from efd_pipelines.resources import Deployment

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

BUDGET_S = 25.0
"""How long a tick may wait for the catalogue; Dagster ends one that takes 60 s. What takes longer is a run."""

PROMPT = {"dagster/priority": "10"}
"""What people wait for by the minute goes before what may take its time, where runs queue."""

_ON = dg.DefaultSensorStatus.RUNNING


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
    description="One run for each drain group that has something due, or whose last news Dagster has not been told of; "
    "when a camera has read out an exposure, for all groups whose topics are joined to it.",
)
def drain(context: dg.SensorEvaluationContext, deployment: Deployment) -> dg.SensorResult:
    try:
        archive = deployment.archive()
        archive.settings.require_kafka()
    except SettingsError as error:
        return dg.SensorResult(skip_reason=str(error))
    with explained():
        waiting = waiting_topics(archive)
        due = {group for group, topics in due_topics(archive, waiting).items() if group and topics}
        read_out = groups_read_out(archive, waiting, (context.cursor or "").split())
        due |= read_out.ready | set(_groups_with_news(context.instance, archive))
        result = drain_requests(context.instance, due, read_out.ready)
    requested = {request.tags[jobs.DRAIN_GROUP] for request in result.run_requests or []}
    # A group that was busy when its camera read out is drained when it is free; the event itself is archived by then.
    return result._replace(cursor=" ".join(sorted(read_out.groups - requested)))


def drain_requests(
    instance: dg.DagsterInstance, due: Collection[str], read_out: Collection[str] = ()
) -> dg.SensorResult:
    """A run for each group that is due, save those that one is under way for; `read_out` of an exposure just ended."""
    busy = {group for group in due if in_progress(instance, "drain", {jobs.DRAIN_GROUP: group})}
    requests = [
        dg.RunRequest(
            job_name="drain",
            run_config={"ops": {"drain_backlog": {"config": _drain_config(group, group in read_out)}}},
            tags={jobs.DRAIN_GROUP: group, **(PROMPT if group in read_out else {})},
        )
        for group in sorted(due)
        if group not in busy
    ]
    if requests:
        return dg.SensorResult(run_requests=requests)
    return dg.SensorResult(skip_reason=f"Under way: {', '.join(sorted(busy))}." if busy else "Nothing is due.")


def _drain_config(group: str, exposures: bool) -> dict[str, object]:
    return {"group": group, "exposures": True} if exposures else {"group": group}


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
    minimum_interval_seconds=30,
    default_status=_ON,
    description="A run for all exposures that have ended and were not computed yet; every ten minutes one for late "
    "telemetry where the archive has changed. The cursor saves looking at old days: without it they are looked at.",
)
def join(context: dg.SensorEvaluationContext, deployment: Deployment) -> dg.SensorResult:
    with explained():
        archive = deployment.archive()
        if not archive.settings.configuration.exposures:
            return dg.SensorResult(skip_reason="No instrument is configured (`exposures` of EFD_CONFIG).")
        before = pending_of(context.cursor)
        pending = look_for_exposures(archive.settings, before)
        reason = why_not_join(context.instance, pending, before, archived_at_s(archive))
        if reason is not None:
            # What was found and not requested stays new: the cursor tells of requests.
            return dg.SensorResult(skip_reason=reason)
        recent = {"ops": {"join_new_exposures": {"config": {"days": DAYS_JOINED}}}}
        return dg.SensorResult(run_requests=[dg.RunRequest(run_config=recent, tags=PROMPT)], cursor=cursor_of(pending))


def _when_archived(
    instance: dg.DagsterInstance, archive: "Archive", job: str, run_config: Mapping[str, object]
) -> dg.SensorResult:
    reason = why_not(instance, job, archived_at_s(archive), time.time())
    if reason is not None:
        return dg.SensorResult(skip_reason=reason)
    return dg.SensorResult(run_requests=[dg.RunRequest(run_config=dict(run_config))])


SENSORS = [discover, drain, summarise, publish_sensor, join]
