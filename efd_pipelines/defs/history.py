"""History: how Dagster heals weeks of what Kafka lost, and which ones it submits by itself.

A run of `raw_archive` heals its partitions (`heal_partitions`), whoever started it. The schedule `heal_history` asks
`next_runs` for the next missing weeks, in a window of the day and within a budget of hours (EFD_HISTORY_*). Runs that
heal wait for the pool `history`, and, one after the other, for their turn with the server. What is missing, and what
was asked for, the domain knows: `efd_pipelines.history`.
"""

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from efd_pipelines.defs.metadata import Metadata, megabytes
from efd_pipelines.errors import InfluxUnavailable
from efd_pipelines.partitions import ComponentWeek, add_components, known_components
from efd_pipelines.times import Week, parse_time

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.history.results import HealResult

POOL = "history"
"""Runs that heal: not Kafka's pool, whose places the live drains need, since healing a week may take hours."""

TAG = "efd/history"
"""Tag of the runs that the schedule submits: one at a time (dagster.yaml), counted against the day's budget."""

RUNS_AT_ONCE = 24
"""Weeks that one tick submits: most have been silent, and take seconds."""

_LOG_EVERY_S = 30.0
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class HealConfig(dg.Config):
    """How long the history may be asked for what Kafka lost."""

    until: str = Field(
        default="",
        description="Stop asking the history (InfluxDB, files) at this time, e.g. 2026-11-22T21:00 (UTC); the next "
        "run goes on. Empty: ask for everything.",
    )


def heal_partitions(
    context: dg.AssetExecutionContext,
    archive: "Archive",
    partitions: Sequence[ComponentWeek],
    config: HealConfig,
    drained_us: int | None,
) -> dict[str, Metadata]:
    """Heals the partitions, the newest weeks first; what was done, by component. Nothing where there is no history."""
    from efd_pipelines.history.configured import is_configured
    from efd_pipelines.history.healing import heal

    if not is_configured(archive.settings):
        return {}
    found = {}
    for component in sorted({partition.component for partition in partitions}):
        weeks = sorted((one.week for one in partitions if one.component == component), reverse=True)
        result = heal(
            archive,
            archive.settings,
            component=component,
            weeks=weeks,
            drained_us=drained_us,
            seconds=_seconds_until(config.until),
            run=context.run.run_id,
            progress=_logged(context, component),
        )
        found[component] = _metadata(result)
        context.log.info(f"{component}: {_line(result)}")
    return found


def _seconds_until(text: str) -> float | None:
    return (parse_time(text) - datetime.now(UTC)).total_seconds() if text else None


def _metadata(result: "HealResult") -> Metadata:
    return {
        "history_rows": result.rows,
        "history_mb": megabytes(result.bytes),
        "history_asked_h": round(result.asked_s / 3600, 3),
        "history_left_h": round((result.missing_s - result.asked_s) / 3600, 3),
    }


def _line(result: "HealResult") -> str:
    left = "" if result.hours_left is None else f", about {result.hours_left:.1f} h to go"
    of = f"{result.asked_s / 3600:,.1f} of {result.missing_s / 3600:,.1f} missing hours of data were asked for"
    return f"{of}, {result.values:,} values, {result.rows:,} rows filled in{left}."


def _logged(context: dg.AssetExecutionContext, component: str) -> Any:
    last = time.monotonic()

    def progress(result: "HealResult") -> None:
        nonlocal last
        if time.monotonic() - last > _LOG_EVERY_S:
            last = time.monotonic()
            context.log.info(f"{component}: {_line(result)}")

    return progress


def next_runs(
    instance: dg.DagsterInstance, archive: "Archive", now: datetime, components: Collection[str] | None = None
) -> list[dg.RunRequest] | str:
    """The runs to submit now; or why there are none."""
    from efd_pipelines.history.asked import is_begun
    from efd_pipelines.history.configured import is_configured
    from efd_pipelines.history.planning import Window, asks_until, next_weeks

    settings = archive.settings
    if not is_configured(settings) or settings.history_first_week is None:
        return "EFD_HISTORY_FIRST_WEEK, and a source of history, are not set."
    if instance.get_runs_count(dg.RunsFilter(tags={TAG: "schedule"}, statuses=_UNFINISHED)):
        return "Runs are under way."
    window = Window.parse(settings.history_window).around(now)
    until = None if window is None else asks_until(settings, now, _spent(instance, window[0]))
    if until is None:
        return f"It is outside {settings.history_window} UTC, or {settings.history_budget_h:g} h were used today."
    try:
        names = _components(instance, archive) if components is None else components
    except InfluxUnavailable as error:
        return f"{error.message}. {error.remedy}"
    due = islice(next_weeks(archive, names, Week.parse(settings.history_first_week), now=now), RUNS_AT_ONCE)
    # A week of a large component takes days: those that were begun go on when the others have had their turn.
    in_turn = sorted(due, key=lambda one: is_begun(archive.store, *one))
    requests = [_request(ComponentWeek(component, week), until, now) for component, week in in_turn]
    return requests or "Every week has been asked for."


def _components(instance: dg.DagsterInstance, archive: "Archive") -> list[str]:
    """All components that there are partitions of, or rows, or measurements in InfluxDB's history: it has those, too,
    that left before there was an archive. They get partitions. Files are not looked at: reading them takes too long."""
    from efd_pipelines.history.influx import InfluxHistory

    covers = archive.settings.configuration.topics.covers
    found = set(archive.datasets())
    if archive.settings.history_influx_url:
        # A tick has a minute: it does not wait for a server that does not answer.
        with InfluxHistory(archive.settings, sleep=lambda seconds: None) as history:
            found |= history.datasets()
    add_components(instance, {dataset.component for dataset in found if covers(dataset)})
    return known_components(instance)


def _request(partition: ComponentWeek, until: datetime, now: datetime) -> dg.RunRequest:
    config = {"until": until.strftime("%Y-%m-%dT%H:%M:%S")}
    return dg.RunRequest(
        run_key=f"{partition.key} at {now:%Y-%m-%dT%H:%M}",
        partition_key=partition.key,
        run_config={"ops": {"raw_archive": {"config": config}}},
        tags={TAG: "schedule"},
    )


def _spent(instance: dg.DagsterInstance, since: datetime) -> timedelta:
    """How long the schedule's runs have taken since the window began."""
    submitted = dg.RunsFilter(tags={TAG: "schedule"}, created_after=since)
    records = instance.get_run_records(submitted)
    seconds = sum((one.end_time or time.time()) - one.start_time for one in records if one.start_time is not None)
    return timedelta(seconds=seconds)
