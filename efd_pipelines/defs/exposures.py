"""Exposures: telemetry joined to the exposures and visits of each configured instrument, in ConsDB.

One asset per instrument of `exposures` in EFD_CONFIG, with a check that compares values, and `join_new_exposures`, the
op of the job `join`, which takes whatever is new or has become stale. What that is, `exposures/staleness.py` knows.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
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
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exposures.configuration import ExposureColumn
    from efd_pipelines.exposures.joins import JoinResult

EXPOSURE_TABLE = "exposure_efd"
WEEKS_OF_A_BACKFILL = 13
AGREES = "values_agree"
COMPARED = 10
"""Exposures of a week that the check computes again."""

_ELEMENTS_LISTED = 4
_TRAILING = re.compile(r"\d+$")
_ROWS_SHOWN = 100
_DESCRIPTION = """What telemetry says of each exposure of {instrument}: one row per exposure, one column per quantity.

How the columns are computed stands in the transformation configuration `{config}`. The results are in `{table}` of
ConsDB (EFD_CONSDB_URL), with where each value came from beside them. Times of exposures are TAI there and turned
into UTC; a window that crosses Monday 00:00 UTC takes the records of both weeks.

Kept up by the job `join`, minutes after an exposure has ended and its telemetry has arrived. Materialise a week to
bring all of its exposures up to date.

**When a run fails**, its last error says what to do; nothing half-done stays behind. A column that cannot be computed
does not hold up the others: it is in `skipped`, with the reason. `efd exposures explain` shows where a value is from.
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
        check_specs=[
            dg.AssetCheckSpec(
                AGREES,
                asset=exposure_key(join.instrument),
                description="Whether ConsDB has what the archive gives: nothing of the week is stale, and exposures "
                "chosen by chance, computed again, have the same values and numbers of samples. If not: "
                "`efd exposures verify`, `efd exposures explain`.",
            )
        ],
        description=_DESCRIPTION.format(
            instrument=join.instrument,
            config=join.config,
            table=f"{join.result_schema}.{EXPOSURE_TABLE}",
            problem=problem,
        ),
    )
    # With a check beside it, Dagster knows the result by its bare type only.
    def exposure_efd(context: dg.AssetExecutionContext, deployment: Deployment) -> dg.MaterializeResult:  # type: ignore[type-arg]
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
                metadata = {**_summary(result), "dagster/column_lineage": _lineage(configured, result.skipped)}
                context.add_asset_metadata(metadata, partition_key=key)
                context.log.info(f"Week of {key}: {counted(_figures(result))}")
            check = _check(archive, configured, [Week.parse(key) for key in context.partition_keys])
        return dg.MaterializeResult(check_results=[check])

    return exposure_efd


def _check(archive: "Archive", join: ExposureJoin, weeks: Sequence[Week]) -> dg.AssetCheckResult:
    from efd_pipelines.exposures.reconciling import reconcile

    found = [
        reconcile(archive, archive.settings, join, start=week.start, end=week.end, most=COMPARED) for week in weeks
    ]
    different = [
        {
            "exposure": one.exposure,
            "column": one.column,
            "in_consdb": one.stored,
            "from_archive": one.computed,
        }
        for each in found
        for one in each.differences
    ]
    kinds = {"exposure": "int", "column": "string", "in_consdb": "float", "from_archive": "float"}
    compared, stale = sum(each.compared for each in found), sum(each.stale for each in found)
    return dg.AssetCheckResult(
        check_name=AGREES,
        passed=all(each.ok for each in found),
        severity=dg.AssetCheckSeverity.ERROR if different else dg.AssetCheckSeverity.WARN,
        description=f"{compared} exposures computed again, {len(different)} values differ, {stale} exposures stale.",
        metadata={"compared": compared, "stale": stale, "differences": table(different[:_ROWS_SHOWN], kinds)},
    )


def _lineage(join: ExposureJoin, skipped: Mapping[str, str]) -> dg.TableColumnLineage:
    """From the topic's fields to the columns of `exposure_efd`; an array of many elements is one field."""
    from efd_pipelines.exposures.configuration import load_transformation

    return dg.TableColumnLineage(
        {
            column.name: [
                dg.TableColumnDep(asset_key=raw_archive.key, column_name=f"{topic.name}.{field}")
                for topic in column.topics
                for field in _fields(column.measured(topic))
            ]
            for column in load_transformation(join.config).columns
            if EXPOSURE_TABLE in column.tables and column.name not in skipped
        }
    )


def _fields(names: Sequence[str]) -> list[str]:
    if len(names) <= _ELEMENTS_LISTED:
        return list(names)
    return list(dict.fromkeys(_TRAILING.sub("", name) for name in names))


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
        column(one.name, one.datatype, f"{one.description} {_origin(one)}", one.ivoa.unit)
        for one in transformation.columns
        if EXPOSURE_TABLE in one.tables
    ]
    return [*fixed, *columns], ""


def _origin(column: "ExposureColumn") -> str:
    """Where a column comes from, in words: the open-source UI keeps column lineage and does not draw it."""
    sources = "; ".join(f"{topic.name}: {', '.join(_fields(column.measured(topic)))}" for topic in column.topics)
    chosen = ", ".join(str(value) for value in column.subset_values)
    where = f", where {column.subset_field} is {chosen}" if column.subset_field else ""
    return f"({column.function} of {sources}{where})"


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
    names = ("exposures", "visits", "columns", "values", "nulls", "unchanged", "unended", "waiting")
    return {**{name: getattr(result, name) for name in names}, "seconds": round(result.seconds, 3)}


def _summary(result: "JoinResult") -> Metadata:
    skipped = [{"column": name, "reason": reason} for name, reason in sorted(result.skipped.items())]
    return {**_figures(result), "skipped": table(skipped, {"column": "string", "reason": "string"})}
