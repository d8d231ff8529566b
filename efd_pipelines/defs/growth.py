"""Growth: what each year needs, what the coming year brings, and whether the stores have room for it.

`forecasting/report.py` answers; here it is shown, and warned of.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from efd_pipelines.defs.checks import loudly
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import OWNERS, Metadata, column, column_schema, picture_address, table
from efd_pipelines.defs.reports import storage_throughput
from efd_pipelines.resources import Deployment

if TYPE_CHECKING:
    from efd_pipelines.forecasting.capacity import StoreRoom
    from efd_pipelines.forecasting.report import GrowthReport

_DPI = 90
_STORE = {
    "store": "string",
    "used_tb": "float",
    "capacity_tb": "float",
    "tb_per_year": "float",
    "months_to_full": "float",
    "months_at_least": "float",
}
_DATABASE = {"name": "string", "subsystem": "string", "first_year": "int", "last_year": "int", "size_tb": "float"}


@dg.asset(
    deps=[dg.AssetDep(storage_throughput, partition_mapping=dg.AllPartitionMapping())],
    group_name="reports",
    kinds={"polars", "parquet"},
    owners=OWNERS,
    metadata=column_schema(
        [
            column("basis", "string", "`assumptions` of the configuration, or `live` rates"),
            column("year", "int64", "Year, at its end"),
            column("replication_factor", "int64", "Copies of everything in the cluster"),
            column("increase_tb", "double", "What the year adds, before replication", "TB"),
            column("stored_tb", "double", "What is stored, before replication", "TB"),
            column("margin_tb", "double", "What is kept free, before replication", "TB"),
            column("storage_per_data_node_tb", "double", "What each data node must hold", "TB"),
            column("total_cluster_storage_tb", "double", "What all of them must hold", "TB"),
            column("data_nodes", "int64", "Data nodes"),
            column("disks_per_node", "int64", "Disks of a node"),
        ]
    ),
)
def storage_growth(context: dg.AssetExecutionContext, deployment: Deployment) -> dg.MaterializeResult[Any]:
    """Storage that each year needs, by the configuration's assumptions and by live rates, with a forecast of the coming
    year, a proposal of databases, and the time until each store is full.

    Open `report` to read it, with its picture. The same is kept as files, whose addresses are in `files`. Made each
    Monday when the week's report is there. What if: `efd report growth --reduce MTM1M3=0.5 --replication 4`.
    """
    from efd_pipelines.forecasting.report import growth_report, keep

    with explained():
        archive = deployment.archive()
        report = keep(archive, growth_report(archive.settings.configuration, archive, now=datetime.now(UTC)))
    for line in report.missing:
        context.log.warning(line)
    return dg.MaterializeResult(metadata=shown(report))


@dg.asset_check(
    asset=storage_growth,
    description="Whether no store may be full within `growth.warn_months` (6), at the upper end of the forecast's "
    "interval. If not: `efd report growth` says when and of what; let it have more room, or send or keep less "
    "(`--reduce`, `--retention` say what that would do). Capacities are in the configuration, `growth.stores`.",
)
def stores_have_room(context: dg.AssetCheckExecutionContext, deployment: Deployment) -> dg.AssetCheckResult:
    from efd_pipelines.forecasting.report import growth_report

    with explained():
        archive = deployment.archive()
        report = growth_report(archive.settings.configuration, archive)
    stores = list(report.live.stores) if report.live else []
    return loudly(context, has_room(stores, report.assumptions.warn_months))


def has_room(stores: "list[StoreRoom]", warn_months: float) -> dg.AssetCheckResult:
    """Whether no store may be full before so many months have passed."""
    from efd_pipelines.forecasting.render import months, size

    soon = [one for one in stores if one.warns(warn_months)]
    unknown = [one.store for one in stores if one.capacity_tb is None]
    text = " ".join(
        f"{one.store} may be full in {months(one.months_at_least)}: it has {size(one.used_tb)} of "
        f"{size(one.capacity_tb or 0.0)}, and {size(one.tb_per_year)} a year come."
        for one in soon
    )
    if soon:
        text += " `efd report growth` says of what; `--reduce` and `--retention` say what would help."
    else:
        text = f"No store is full within {warn_months:g} months."
    if unknown:
        text += f" Nobody gave a capacity of {', '.join(unknown)} (growth.stores)."
    return dg.AssetCheckResult(
        check_name="stores_have_room",
        passed=not soon,
        severity=dg.AssetCheckSeverity.WARN,
        description=text,
        metadata={"stores": table([_as_row(one) for one in stores], _STORE), "capacities_not_known": len(unknown)},
    )


def shown(report: "GrowthReport") -> Metadata:
    """The asset's metadata."""
    from efd_pipelines.forecasting.render import markdown, picture

    drawn = picture_address(picture(report, dpi=_DPI))
    facts: Metadata = {
        "report": dg.MetadataValue.md(markdown(report, picture=drawn)),
        "cluster_tb_last_year": report.projection.rows[-1].total_cluster_storage_tb,
        "databases": table([{name: getattr(one, name) for name in _DATABASE} for one in report.databases], _DATABASE),
        "missing": len(report.missing),
        "files": dg.MetadataValue.md("\n".join(f"- `{file}`" for file in report.files)),
    }
    if report.live:
        made = report.live.forecast
        facts |= {
            "stored_gb": round(report.live.series.stored_bytes / 1e9, 6),
            "forecast_year_gb": round(made.year / 1e9, 6),
            "forecast_year_lower_gb": round(made.year_lower / 1e9, 6),
            "forecast_year_upper_gb": round(made.year_upper / 1e9, 6),
            "forecast_method": made.method,
            "weeks": len(report.live.series.weeks),
            "stores": table([_as_row(one) for one in report.live.stores], _STORE),
        }
    return facts


def _as_row(store: "StoreRoom") -> dict[str, Any]:
    facts = {name: getattr(store, name) for name in _STORE}
    return {name: round(fact, 6) if isinstance(fact, float) else fact for name, fact in facts.items()}


weekly_growth = dg.define_asset_job(
    "weekly_growth",
    selection=dg.AssetSelection.assets(storage_growth),
    description="Growth and forecast of storage, and whether the stores have room for it.",
)

growth_schedule = dg.ScheduleDefinition(
    name="weekly_growth",
    job=weekly_growth,
    cron_schedule="30 3 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Each Monday, when the report of the finished week is made.",
)
