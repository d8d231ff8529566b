"""Publishing: tiers and events in InfluxDB.

The op of the job `publish` writes whatever has changed since it was published, of all publications; each asset's own
run does the same for one component and week. What has changed is found by `publishing/stale.py`, not by Dagster's
events. Where EFD_INFLUX_URL is not set, nothing of this runs.
"""

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from efd_pipelines.defs.archive import WEEKS_AT_ONCE, logged, partitions_of, raw_archive
from efd_pipelines.defs.checks import loudly
from efd_pipelines.defs.events import counted, materialisation
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import OWNERS, Metadata, column, column_schema, megabytes, table
from efd_pipelines.defs.tiers import tier_1m, tier_1s
from efd_pipelines.partitions import COMPONENT_WEEKS, ComponentWeek, add_components
from efd_pipelines.resources import Deployment
from efd_pipelines.times import Week, this_week

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.publishing.publish import PublishResult

INTERVAL_S = 900
"""Dagster is told of a partition at most so often; a run tells of all that it published."""

_ROWS_SHOWN = 100
_TAGS = {"dagster/max_runtime": "10800"}
_UNEQUAL = {"topic": "string", "week": "string", "published": "int", "there": "int", "rows": "int"}
_OFF = "EFD_INFLUX_URL is not set: nothing is published."


def _columns(what: str, *more: dg.TableColumn) -> Metadata:
    return column_schema(
        [
            column("time", "nanoseconds", "Event time, UTC"),
            column("salIndex", "tag", "Which device, where a component has several; the only tag"),
            column("FIELD", "float64, int64, boolean or string", what),
            *more,
        ]
    )


def _asset(name: str, deps: list[Any], description: str, metadata: Metadata) -> dg.AssetsDefinition:
    """An asset that publishes what of a component's week has changed since it was published."""

    @dg.asset(
        name=name,
        partitions_def=COMPONENT_WEEKS,
        deps=deps,
        description=description,
        group_name="publishing",
        kinds={"influxdb"},
        owners=OWNERS,
        pool="publishing",
        backfill_policy=dg.BackfillPolicy.multi_run(WEEKS_AT_ONCE),
        metadata=metadata,
    )
    def published(context: dg.AssetExecutionContext, deployment: Deployment) -> dg.MaterializeResult[Any]:
        from efd_pipelines.publishing import counts
        from efd_pipelines.publishing.policy import Publication
        from efd_pipelines.publishing.publish import publish as publish_changes
        from efd_pipelines.publishing.server import Influx

        with explained():
            partitions = partitions_of(context)
            archive = deployment.archive()
            publication = Publication.named(name, archive.settings.configuration)
            with Influx(archive.settings) as influx:
                for component in sorted({one.component for one in partitions}):
                    weeks = {one.week.key for one in partitions if one.component == component}
                    datasets = archive.datasets(component)
                    progress = logged(context, "points")
                    run = context.run.run_id
                    result = publish_changes(archive, influx, name, datasets, weeks, run=run, progress=progress)
                    context.log.info(f"{component}: {counted(_summary(result))}")
                    points = dict.fromkeys(weeks, 0)
                    for found in counts.published(archive, publication, influx.url, datasets, weeks):
                        points[found.week.key] += found.published
                    for week, count in points.items():
                        key = ComponentWeek(component, Week.parse(week)).key
                        written = result.by_component_week.get((component, week), 0)
                        context.add_asset_metadata({"points": count, "points_written": written}, partition_key=key)
        return dg.MaterializeResult()

    return published


_WHERE = """

**Where is it?** In the InfluxDB of EFD_INFLUX_URL, in databases named by `publishing` of EFD_CONFIG (a component's
subsystem and the year), a measurement for each topic. Points run out there after the days that the policy says.

**What do the numbers mean?** `points` are there of this week, `points_written` were written by the run: a point that is
there as it should be is not written again. Points that InfluxDB rejects are kept: `efd publish rejected` lists them.

**When a run fails**, its last error says what to do. Nothing is lost: what is missing is published at the next run."""

influx_1s = _asset(
    "influx_1s",
    [tier_1s, raw_archive],
    "Telemetry in InfluxDB: the 1 s tier, and slower telemetry as it was sent, for dashboards and alerts." + _WHERE,
    _columns("A column of the 1 s tier: statistic and field, as `mean_zForces0`; or a field that is sent more slowly"),
)
influx_1m = _asset(
    "influx_1m",
    [tier_1m, raw_archive],
    "Telemetry in InfluxDB at one minute, for looking at months: the 1 min tier, and what is slower still." + _WHERE,
    _columns(
        "A column of the 1 min tier: statistic and field, as `mean_zForces0`; or a field that is sent more slowly"
    ),
)
influx_events = _asset(
    "influx_events",
    [raw_archive],
    "Events, commands and their acknowledgements in InfluxDB, each a point of its own: of several with the same "
    "microsecond and salIndex the time has a nanosecond more each." + _WHERE,
    _columns("A field of the event"),
)
ASSETS = [influx_1s, influx_1m, influx_events]


@dg.op(pool="publishing", out=dg.Out(dg.Nothing))
def publish_changes(context: dg.OpExecutionContext, deployment: Deployment) -> None:
    """Publishes what has changed of all publications, and tells Dagster which weeks did."""
    from efd_pipelines.publishing.policy import PUBLICATIONS
    from efd_pipelines.publishing.publish import publish as publish_one
    from efd_pipelines.publishing.server import Influx

    with explained():
        archive = deployment.archive()
        if not archive.settings.influx_url:
            context.log.info(_OFF)
            return
        results: dict[str, Metadata] = {}
        with Influx(archive.settings) as influx:
            for name in PUBLICATIONS:
                progress = logged(context, "points")
                result = publish_one(archive, influx, name, run=context.run_id, progress=progress)
                results[name] = _summary(result)
                context.log.info(f"{name}: {counted(results[name])}")
                _tell(context, name, result.by_component_week)
        totals = {key: sum(one[key] for one in results.values()) for key in next(iter(results.values()))}
        context.add_output_metadata(totals)


def _tell(context: dg.OpExecutionContext, name: str, points: Mapping[tuple[str, str], int]) -> None:
    running = this_week()
    written = {key: count for key, count in points.items() if count and Week.parse(key[1]) <= running}
    if written:
        add_components(context.instance, {component for component, _ in written})
    for (component, week), count in written.items():
        partition = ComponentWeek(component, Week.parse(week))
        context.log_event(materialisation(dg.AssetKey(name), partition, {"points_written": count}))


def _summary(result: "PublishResult") -> Metadata:
    return {
        "points": result.points,
        "fields": result.fields,
        "mb": megabytes(result.bytes),
        "deleted": result.deleted,
        "rejected": result.rejected,
        "slices": result.slices,
        "seconds": round(result.seconds, 3),
    }


@dg.job(tags=_TAGS)
def publish() -> None:
    """Writes to InfluxDB what has changed in tiers and events since it was published."""
    publish_changes()


@dg.sensor(
    name="publish",
    job=publish,
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A run when the archive or a tier has something that is not in InfluxDB; none without EFD_INFLUX_URL.",
)
def publish_sensor(context: dg.SensorEvaluationContext, deployment: Deployment) -> dg.SensorResult:
    from efd_pipelines.defs.runs import in_progress, why_not

    with explained():
        archive = deployment.archive()
        if not archive.settings.influx_url:
            return dg.SensorResult(skip_reason=_OFF)
        if in_progress(context.instance, "publish"):
            return dg.SensorResult(skip_reason="A run is under way.")
        if not _has_changes(archive):
            return dg.SensorResult(skip_reason="Everything is published.")
        now = time.time()
        reason = why_not(context.instance, "publish", now, now)
        if reason is not None:
            return dg.SensorResult(skip_reason=reason)
        return dg.SensorResult(run_requests=[dg.RunRequest()])


def _has_changes(archive: "Archive") -> bool:
    from efd_pipelines.publishing import counts
    from efd_pipelines.publishing.policy import PUBLICATIONS, Publication

    configuration, url = archive.settings.configuration, str(archive.settings.influx_url)
    every = [Publication.named(name, configuration) for name in PUBLICATIONS]
    return any(counts.unpublished(archive, one, url) for one in every)


_EQUAL = (
    "Whether InfluxDB has as many points of this week and the last as were published, and the tier has rows. If not, "
    "somebody has deleted or written there: `efd publish status --count` says where, `efd publish run --again` helps."
)
_KEPT = (
    "Whether InfluxDB keeps the databases as long as the policy says. If not, somebody has altered them: "
    "`efd publish admin --apply` sets it right."
)


def _checks(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The checks of one publication. Apart, so that it can be materialised alone."""
    key = asset.key

    @dg.multi_asset_check(
        name=f"{key.to_user_string()}_checks",
        specs=[
            dg.AssetCheckSpec(name, asset=asset, description=description)
            for name, description in (("point_counts_equal", _EQUAL), ("retention_is_set", _KEPT))
        ],
    )
    def influx_checks(context: dg.AssetCheckExecutionContext, deployment: Deployment) -> Iterator[dg.AssetCheckResult]:
        from efd_pipelines.publishing.server import Influx

        with explained():
            archive = deployment.archive()
            if not archive.settings.influx_url:
                for name in ("point_counts_equal", "retention_is_set"):
                    yield dg.AssetCheckResult(asset_key=key, check_name=name, passed=True, description=_OFF)
                return
            with Influx(archive.settings) as influx:
                yield loudly(context, _point_counts_equal(archive, influx, key))
                yield loudly(context, _retention_is_set(archive, influx, key))

    return influx_checks


CHECKS = [_checks(asset) for asset in ASSETS]


def _point_counts_equal(archive: "Archive", influx: Any, key: dg.AssetKey) -> dg.AssetCheckResult:
    from efd_pipelines.publishing import counts
    from efd_pipelines.publishing.policy import Publication

    publication = Publication.named(key.to_user_string(), archive.settings.configuration)
    weeks = {this_week().key, this_week().previous().key}
    found = counts.compare(archive, influx, publication, weeks=weeks)
    wrong = [one for one in found if not one.is_equal]
    rows = [
        {
            "topic": one.dataset.text,
            "week": one.week.key,
            "published": one.published,
            "there": one.there,
            "rows": one.rows,
        }
        for one in wrong[:_ROWS_SHOWN]
    ]
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="point_counts_equal",
        passed=not wrong,
        description=f"{sum(one.published for one in found):,} points of {len(found)} topics and weeks were published"
        + (f"; {len(wrong)} have another number." if wrong else ", and are there."),
        metadata={
            "points": sum(one.published for one in found),
            "rejected": len(counts.rejected(archive, publication, influx.url)),
            "wrong": table(rows, _UNEQUAL),
        },
    )


def _retention_is_set(archive: "Archive", influx: Any, key: dg.AssetKey) -> dg.AssetCheckResult:
    from efd_pipelines.publishing import administration

    name = key.to_user_string()
    ours = [one for one in administration.compared(archive, influx) if one[1] == name]
    rows = [
        {"database": str(one.destination), "days": one.retention_days, "should_be": days}
        for one, _, days, is_right in ours
        if not is_right
    ]
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="retention_is_set",
        passed=not rows,
        description=f"{len(ours) - len(rows)} of {len(ours)} databases are kept as long as the policy says.",
        metadata={"wrong": table(rows, {"database": "string", "days": "float", "should_be": "float"})},
    )
