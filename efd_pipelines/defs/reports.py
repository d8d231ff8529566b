"""Reports: what keeping the engineering data costs, by week.

The report itself is made and kept by `storage/throughput.py`; here it is shown.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from efd_pipelines.defs.archive import raw_archive
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import OWNERS, Metadata, column, column_schema, drawing_address, picture_address
from efd_pipelines.defs.tiers import tier_1s
from efd_pipelines.partitions import WEEKS
from efd_pipelines.resources import Deployment
from efd_pipelines.times import Week

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.storage.throughput import StorageReport

_DPI = 90
"""The picture is ten inches wide, the UI's window for Markdown eleven hundred pixels; wider ones are cut."""

ANSWERED = "every_store_answered"

_OF_THE_WEEK = dg.MultiToSingleDimensionPartitionMapping("week")


@dg.asset(
    partitions_def=WEEKS,
    deps=[
        dg.AssetDep(raw_archive, partition_mapping=_OF_THE_WEEK),
        dg.AssetDep(tier_1s, partition_mapping=_OF_THE_WEEK),
    ],
    group_name="reports",
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    backfill_policy=dg.BackfillPolicy.multi_run(52),
    check_specs=[
        dg.AssetCheckSpec(
            ANSWERED,
            asset="storage_throughput",
            description="Whether every store and table that the report is made of could be asked. If not: the report "
            "was made without it, and `missing` says what and why; mend that and run the partition again.",
        )
    ],
    metadata=column_schema(
        [
            column("week", "string", "Monday of the week"),
            column("store", "string", "received (Avro bytes from Kafka), archive, tier_1s …, kafka, influxdb …"),
            column("topic", "string", "Dataset; empty where the store does not tell topics apart"),
            column("component", "string", "Its component (CSC)"),
            column("subsystem", "string", "Its component's group"),
            column("kind", "string", "telemetry, event, command, ack or metric"),
            column("place", "string", "Database, schema or cluster within the store"),
            column("how", "string", "How it was measured"),
            column("records", "int64", "Records, rows or windows"),
            column("bytes", "int64", "Bytes, in the store's own encoding", "byte"),
            column("files", "int64", "Files, or shards"),
        ]
    ),
)
# With a check beside it, Dagster knows the result by its bare type only.
def storage_throughput(context: dg.AssetExecutionContext, deployment: Deployment) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """The weekly storage report: rows, messages, Avro and Parquet bytes of each component and topic, and their shares.

    Open a week's partition and its `report` to read it, with its pictures. The same is kept as files, whose addresses
    are in `files`: `throughput.html`, a page with all charts, movers, rates and advice, that opens from a disk;
    `throughput.md` and `throughput.png`; and `throughput.parquet` with the columns below, a row per store and topic.
    What could not be asked is in `missing`, and the run warns of it. Made each night for the week that the day before
    was in, so that Monday's is of the whole week.
    """
    from efd_pipelines.storage.throughput import storage_report

    with explained():
        archive = deployment.archive()
        missing = []
        for key in context.partition_keys:
            report = storage_report(archive, week=Week.parse(key))
            _warn(context.log, report)
            missing += [f"{key}: {line}" for line in report.missing]
            context.add_asset_metadata(_shown(report), partition_key=key)
    return dg.MaterializeResult(check_results=[answered(missing)])


def answered(missing: Sequence[str]) -> dg.AssetCheckResult:
    """Whether the reports lack nothing: a warning, as they were made all the same."""
    return dg.AssetCheckResult(
        check_name=ANSWERED,
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(missing) or "Every store was asked and answered.",
        metadata={"missing": len(missing)},
    )


class ReportConfig(dg.Config):
    """Which weeks are reported."""

    weeks: list[str] = Field(
        default=[], description="Mondays, e.g. 2026-11-16; empty: the weeks that this run has archived, or the newest."
    )


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def report_storage(context: dg.OpExecutionContext, config: ReportConfig, deployment: Deployment) -> None:
    """Makes the storage reports of weeks."""
    from efd_pipelines.storage.throughput import storage_report

    with explained():
        archive = deployment.archive()
        weeks = [Week.parse(key) for key in config.weeks] or _weeks_of_run(archive, context.run_id)
        for report in [storage_report(archive, week=week) for week in weeks] or [storage_report(archive)]:
            _warn(context.log, report)
            context.log.info(f"{report.key}: {report.total_mb:,.1f} MB; {', '.join(report.files)}")
            context.log_event(
                dg.AssetMaterialization(
                    asset_key=storage_throughput.key,
                    partition=Week.parse(report.key).key,
                    metadata=_shown(report),
                )
            )


def _weeks_of_run(archive: "Archive", run: str) -> list[Week]:
    """The weeks that a run has put rows into."""
    ledger = archive.ledger.table()
    weeks = {week for week, of in zip(ledger["week"].to_pylist(), ledger["run"].to_pylist(), strict=True) if of == run}
    return sorted(Week.parse(week) for week in weeks - {"", "quarantine", "dead"})


def _warn(log: dg.DagsterLogManager, report: "StorageReport") -> None:
    """A report that lacks something is made all the same, and its run ends with a warning."""
    for line in report.missing:
        log.warning(f"The storage report of {report.key} lacks something. {line}")


def _shown(report: "StorageReport") -> Metadata:
    from efd_pipelines.storage.changes import changes
    from efd_pipelines.storage.chart import picture
    from efd_pipelines.storage.render import drawings, markdown

    changed = changes(report.gathered)
    drawn = picture_address(picture(report, dpi=_DPI))
    charts = {key: drawing_address(svg) for key, svg in drawings(report).items()}
    return {
        "report": dg.MetadataValue.md(markdown(report, picture=drawn, charts=charts)),
        "total_mb": report.total_mb,
        "rows": int(report.total("rows")),
        "messages": int(report.total("messages")),
        "avro_mb": round(report.total("avro_mb"), 6),
        "parquet_mb": round(report.total("parquet_mb"), 6),
        "tier_mb": round(report.total("tier_mb"), 6),
        "components": int(report.components["csc"].nunique()),
        "topics": len(report.topics),
        "new_topics": len(changed.new),
        "vanished_topics": len(changed.vanished),
        **_of_details(report),
        "missing": dg.MetadataValue.md("\n".join(f"- {line}" for line in report.missing) or "Nothing."),
        "page": dg.MetadataValue.path(next((file for file in report.files if file.endswith(".html")), "")),
        "files": dg.MetadataValue.md("\n".join(f"- `{file}`" for file in report.files)),
    }


def _of_details(report: "StorageReport") -> Metadata:
    """Rates, and what the largest change would save, as numbers that the UI plots over weeks."""
    found: Metadata = {}
    if report.details is not None and report.details.rates is not None:
        rates = report.details.rates
        found |= {"mean_mb_s": round(rates.mean_mb_s, 6), "peak_hour_mb_s": round(rates.peak_mb_s, 6)}
    if report.details is not None and report.details.advice is not None and report.details.advice.changes:
        found["largest_saving_tb_year"] = round(report.details.advice.changes[0].tb_year, 6)
    return found
