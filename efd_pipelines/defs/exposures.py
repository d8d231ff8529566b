"""Exposures: telemetry joined to the exposures of each configured instrument, in ConsDB.

One asset per instrument of `exposures` in EFD_CONFIG, and `join_new_exposures`, the op of the job `join`, which takes
whatever is new or has become stale. What that is, `exposures/staleness.py` knows.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.defs.archive import logged, raw_archive
from efd_pipelines.defs.events import counted
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import OWNERS, Metadata, column, column_schema, table
from efd_pipelines.errors import EfdError, UsageError
from efd_pipelines.partitions import WEEKS
from efd_pipelines.resources import Deployment
from efd_pipelines.settings import Settings
from efd_pipelines.times import Week

if TYPE_CHECKING:
    from efd_pipelines.exposures.joins import JoinResult

EXPOSURE_TABLE = "exposure_efd"
WEEKS_OF_A_BACKFILL = 13
_DESCRIPTION = """What telemetry says of each exposure of {instrument}: one row per exposure, one column per quantity.

How the columns are computed stands in the transformation configuration `{config}`. The results are in `{table}` of
ConsDB (EFD_CONSDB_URL), with where each value came from beside them. Times of exposures are TAI there and turned
into UTC; a window that crosses Monday 00:00 UTC takes the records of both weeks.

Kept up by the job `join`, minutes after an exposure has ended and its telemetry has arrived. Materialise a week to
bring all of its exposures up to date.

**When a run fails**, its last error says what to do; nothing half-done stays behind. A column that cannot be computed
does not hold up the others: it is in `skipped`, with the reason.
{problem}"""


def exposure_key(instrument: str) -> dg.AssetKey:
    return dg.AssetKey([f"efd_{instrument}", EXPOSURE_TABLE])


def consdb_key(instrument: str) -> dg.AssetKey:
    return dg.AssetKey([f"cdb_{instrument}", "exposure"])


def exposure_assets(joins: Sequence[ExposureJoin]) -> list[dg.AssetSpec | dg.AssetsDefinition]:
    """For each instrument its exposures, as ConsDB has them, and what is joined to them."""
    return [part for join in joins for part in (_consdb_exposures(join), _joined_exposures(join))]


def _consdb_exposures(join: ExposureJoin) -> dg.AssetSpec:
    return dg.AssetSpec(
        consdb_key(join.instrument),
        description=f"The exposures of {join.instrument} in the Consolidated Database: written by the observatory's "
        "header service, only read here. `obs_start` and `obs_end` are TAI.",
        group_name="sources",
        kinds={"postgres"},
        owners=OWNERS,
    )


def _joined_exposures(join: ExposureJoin) -> dg.AssetsDefinition:
    columns, problem = _columns(join)

    @dg.asset(
        key=exposure_key(join.instrument),
        partitions_def=WEEKS,
        deps=[
            dg.AssetDep(raw_archive, partition_mapping=dg.MultiToSingleDimensionPartitionMapping("week")),
            consdb_key(join.instrument),
        ],
        group_name="exposures",
        kinds={"postgres", "deltalake"},
        owners=OWNERS,
        pool="consdb",
        backfill_policy=dg.BackfillPolicy.multi_run(WEEKS_OF_A_BACKFILL),
        metadata=column_schema(columns),
        description=_DESCRIPTION.format(
            instrument=join.instrument,
            config=join.config,
            table=f"{join.result_schema}.{EXPOSURE_TABLE}",
            problem=problem,
        ),
    )
    def exposure_efd(context: dg.AssetExecutionContext, deployment: Deployment) -> dg.MaterializeResult[Any]:
        from efd_pipelines.exposures.joins import join_exposures

        with explained():
            archive = deployment.archive()
            configured = join_of(archive.settings, join.instrument)
            for key in context.partition_keys:
                result = join_exposures(
                    archive,
                    archive.settings,
                    configured,
                    week=Week.parse(key),
                    run=context.run.run_id,
                    progress=logged(context, "topics"),
                )
                context.add_asset_metadata(_summary(result), partition_key=key)
                context.log.info(f"Week of {key}: {counted(_figures(result))}")
        return dg.MaterializeResult()

    return exposure_efd


def _columns(join: ExposureJoin) -> tuple[list[dg.TableColumn], str]:
    """The columns of a configuration, or what is wrong with it: that must not keep the archive from being fed."""
    from efd_pipelines.exposures.configuration import load_transformation

    fixed = [
        column("day_obs", "integer", "Observing day, YYYYMMDD"),
        column("seq_num", "integer", "Number of the exposure in it"),
    ]
    try:
        transformation = load_transformation(join.config)
    except EfdError as error:
        return fixed, f"\n**This configuration cannot be used:** {error}"
    columns = [
        column(one.name, one.datatype, one.description, one.ivoa.unit)
        for one in transformation.columns
        if EXPOSURE_TABLE in one.tables
    ]
    return [*fixed, *columns], ""


def join_of(settings: Settings, instrument: str) -> ExposureJoin:
    """The configured join of an instrument.

    Raises:
        UsageError: it has none.
    """
    joins = {join.instrument: join for join in settings.configuration.exposures}
    if instrument not in joins:
        raise UsageError(
            f"The instrument {instrument} is not configured",
            remedy=f"`exposures` of EFD_CONFIG has {', '.join(joins) or 'none'}.",
        )
    return joins[instrument]


class JoinConfig(dg.Config):
    """Which exposures are looked at."""

    instrument: str = Field(default="", description="Only this instrument, e.g. lsstcam; empty: all configured ones.")
    days: float = Field(default=0.0, description="Only exposures of the last so many days; 0: all.")


@dg.op(pool="consdb", ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def join_new_exposures(context: dg.OpExecutionContext, config: JoinConfig, deployment: Deployment) -> None:
    """Computes the exposures that are new or stale, and tells Dagster which weeks changed."""
    from efd_pipelines.exposures.joins import join_exposures

    with explained():
        archive = deployment.archive()
        start = datetime.now(UTC) - timedelta(days=config.days) if config.days > 0 else None
        joins = archive.settings.configuration.exposures
        for join in [join_of(archive.settings, config.instrument)] if config.instrument else joins:
            progress = logged(context, "topics")
            result = join_exposures(archive, archive.settings, join, start=start, run=context.run_id, progress=progress)
            context.log.info(f"{join.instrument}: {counted(_figures(result))}")
            for event in _materialisations(result):
                context.log_event(event)


def _materialisations(result: "JoinResult") -> Iterator[dg.AssetMaterialization]:
    for key, week in result.by_week.items():
        yield dg.AssetMaterialization(
            asset_key=exposure_key(result.instrument),
            partition=Week.parse(key).key,
            metadata={"exposures": week.exposures, "values": week.values, "nulls": week.nulls},
        )


def _figures(result: "JoinResult") -> dict[str, Any]:
    names = ("exposures", "columns", "values", "nulls", "unchanged", "unended", "waiting")
    return {**{name: getattr(result, name) for name in names}, "seconds": round(result.seconds, 3)}


def _summary(result: "JoinResult") -> Metadata:
    skipped = [{"column": name, "reason": reason} for name, reason in sorted(result.skipped.items())]
    return {**_figures(result), "skipped": table(skipped, {"column": "string", "reason": "string"})}
