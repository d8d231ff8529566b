"""ConsDB: chosen columns of the 1 s tier in the Consolidated Database, to be joined to exposures in SQL.

The asset's run does it for one component and week; the op of the job `publish_consdb` for whatever has changed. What
has changed, the tables themselves say (`publishing/consdb.py`). Nothing is chosen by default.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from efd_pipelines.configuration import Configuration
from efd_pipelines.defs.archive import WEEKS_AT_ONCE, logged, partitions_of
from efd_pipelines.defs.events import counted, materialisation
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import OWNERS, Metadata, column, column_schema
from efd_pipelines.defs.tiers import tier_1s
from efd_pipelines.partitions import COMPONENT_WEEKS, ComponentWeek, add_components
from efd_pipelines.resources import Deployment
from efd_pipelines.times import Week, this_week

if TYPE_CHECKING:
    from efd_pipelines.publishing.consdb import ConsdbResult


@dg.asset(
    partitions_def=COMPONENT_WEEKS,
    deps=[tier_1s],
    group_name="publishing",
    kinds={"postgres"},
    owners=OWNERS,
    pool="consdb",
    backfill_policy=dg.BackfillPolicy.multi_run(WEEKS_AT_ONCE),
    metadata=column_schema(
        [
            column("time", "timestamp", "Beginning of the window, UTC"),
            column("tai", "timestamp", "The same in TAI, as obs_start and obs_end of an exposure are"),
            column("sal_index", "integer", "Which device; 0 where a component has one"),
            column("window_count", "bigint", "Samples in the window"),
            column(
                "STATISTIC_FIELD", "as in the tier", "A column of the tier in lower case, e.g. mean_actual_position"
            ),
        ]
    ),
)
def consdb_1s(context: dg.AssetExecutionContext, deployment: Deployment) -> dg.MaterializeResult[Any]:
    """Chosen columns of the 1 s tier in ConsDB, so that telemetry can be joined to the exposure table in SQL.

    Which topics and columns, `publishing.consdb_1s` of EFD_CONFIG says; none by default. The tables are
    `efd_1s.<component>_<topic>` of EFD_CONSDB_URL, partitioned by week, with units and descriptions as comments.

    **When a run fails**, its last error says what to do. Slices that were written stand, the next run goes on.
    """
    from efd_pipelines.publishing.consdb import publish_consdb

    with explained():
        partitions = partitions_of(context)
        archive = deployment.archive()
        for component in sorted({one.component for one in partitions}):
            weeks = {one.week.key for one in partitions if one.component == component}
            datasets = archive.datasets(component)
            result = publish_consdb(archive, datasets, weeks, progress=logged(context, "slices"))
            context.log.info(f"{component}: {counted(_figures(result))}")
            for week in weeks:
                written = result.by_component_week.get((component, week), 0)
                key = ComponentWeek(component, Week.parse(week)).key
                context.add_asset_metadata({"rows_written": written}, partition_key=key)
    return dg.MaterializeResult()


@dg.op(pool="consdb", out=dg.Out(dg.Nothing))
def publish_to_consdb(context: dg.OpExecutionContext, deployment: Deployment) -> None:
    """Writes what has changed of the columns that the policy chooses, and tells Dagster which weeks did.

    Weeks that are kept no longer (`retention_days`) are dropped.
    """
    from efd_pipelines.publishing.consdb import publish_consdb

    with explained():
        archive = deployment.archive()
        result = publish_consdb(archive, progress=logged(context, "slices"))
        context.add_output_metadata(_figures(result))
        context.log.info(f"ConsDB: {counted(_figures(result))}")
        written = {of: rows for of, rows in result.by_component_week.items() if Week.parse(of[1]) <= this_week()}
        if written:
            add_components(context.instance, {component for component, _ in written})
        for (component, week), rows in written.items():
            partition = ComponentWeek(component, Week.parse(week))
            context.log_event(materialisation(consdb_1s.key, partition, {"rows_written": rows}))


def _figures(result: "ConsdbResult") -> Metadata:
    return {
        "rows": result.rows,
        "slices": result.slices,
        "tables": result.tables,
        "weeks_dropped": result.dropped,
        "seconds": round(result.seconds, 3),
    }


@dg.job(tags={"dagster/max_runtime": "10800"})
def publish_consdb() -> None:
    """Writes to ConsDB what has changed of the 1 s tier's chosen columns; every 15 minutes."""
    publish_to_consdb()


def consdb_schedule(configuration: Configuration) -> dg.ScheduleDefinition:
    """Every 15 minutes; on where the policy chooses columns."""
    chooses = bool(configuration.publishing.consdb_1s.tables)
    return dg.ScheduleDefinition(
        name="publish_consdb",
        job=publish_consdb,
        cron_schedule="7,22,37,52 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if chooses else dg.DefaultScheduleStatus.STOPPED,
        description="Writes to ConsDB the columns of the 1 s tier that `publishing.consdb_1s` of EFD_CONFIG chooses.",
    )
