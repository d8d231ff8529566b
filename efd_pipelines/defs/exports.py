"""Exports: plain directories of Parquet, from a form in the launchpad, or again and again by the configuration.

The work is `exports/export.py`; whatever of the request cannot be meant is refused there, before anything is written.
"""

from datetime import UTC
from enum import Enum
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from efd_pipelines.configuration import Configuration, ExportRequest
from efd_pipelines.defs.archive import logged
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import Metadata, megabytes
from efd_pipelines.errors import UsageError
from efd_pipelines.resources import Deployment
from efd_pipelines.times import parse_time

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exports import ExportResult
    from efd_pipelines.exports.request import Request

TierName = Enum("TierName", {"raw": "raw", "1s": "1s", "1m": "1m", "1h": "1h"})
"""What the form offers; Dagster shows and takes the names."""

ArraysName = Enum("ArraysName", {"archived": "archived", "flat": "flat", "list": "list"})
TimeScaleName = Enum("TimeScaleName", {"utc": "utc", "tai": "tai", "both": "both"})

_PLACE = "Where to: a directory that is empty or not there, or s3://bucket/prefix"


class ExportConfig(dg.Config):
    """What to export, and where to."""

    topics: list[str] = Field(
        default=[], description="Datasets or globs, e.g. lsst.sal.MTM1M3.forceActuatorData or lsst.sal.ESS.*"
    )
    fields: list[str] = Field(
        default=[], description="Fields or globs, e.g. elevation*; empty: all. time and salIndex are always there."
    )
    start: str = Field(default="", alias="from", description="Beginning, UTC, e.g. 2026-11-21T02:00")
    to: str = Field(default="", description="End, UTC, excluded, e.g. 2026-11-21T03:00")
    out: str = Field(default="", description=_PLACE)
    tier: TierName = Field(
        default=TierName.raw,
        description="raw: every record. 1s, 1m, 1h: summaries of telemetry that is faster than the window.",
    )
    day_obs: str = Field(
        default="", description="Instead of from and to: an observing day, 20261121, or 20261121..20261123"
    )
    exposures: str = Field(
        default="", description="Only during exposures: lsstcam, or lsstcam:2026112100001..2026112100050"
    )
    visits: str = Field(default="", description="Only during visits: the same")
    padding_s: float = Field(default=0.0, description="Seconds more on both sides of each exposure")
    resample: str = Field(default="", description="Summaries in windows of another length, e.g. 10s or 5min")
    arrays: ArraysName = Field(
        default=ArraysName.archived, description="Arrays as archived, an element a column (flat), or lists"
    )
    time_scale: TimeScaleName = Field(
        default=TimeScaleName.utc, description="utc: column time. tai: tai_time, as ConsDB has it. both."
    )
    keep_days: float = Field(default=0.0, description="After so many days it may be removed; 0: never")
    limit_gb: float = Field(default=100.0, description="An export that would be larger is refused; 0: no limit")
    only_estimate: bool = Field(default=False, description="Only say how large it would be")


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def export_dataset(context: dg.OpExecutionContext, config: ExportConfig, deployment: Deployment) -> None:
    """Writes topics of a time range as sorted Parquet that Dask, pandas and DuckDB open as it lies."""
    with explained():
        _export(context, config, deployment.archive())


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def export_if_asked(context: dg.OpExecutionContext, config: ExportConfig, deployment: Deployment) -> None:
    """The same, where topics are given; without, there is nothing to do."""
    if not config.topics:
        context.log.info("No topics are given: nothing is exported.")
        return
    with explained():
        _export(context, config, deployment.archive())


def _export(context: dg.OpExecutionContext, config: ExportConfig, archive: "Archive") -> None:
    from efd_pipelines.exports.export import foresee, make

    request = _request(config)
    expected = foresee(archive, request)
    context.log.info(
        f"About {expected.rows:,} rows in {expected.files:,} files, {megabytes(expected.bytes):,.0f} MB,"
        f" {expected.seconds:,.0f} s"
    )
    if config.only_estimate:
        figures: Metadata = {"rows": expected.rows, "mb": megabytes(expected.bytes), "files": expected.files}
        context.add_output_metadata({**figures, "seconds": expected.seconds})
        return
    result = make(
        archive,
        request,
        config.out,
        limit_bytes=round(config.limit_gb * 1e9) or None,
        keep_days=config.keep_days or None,
        progress=logged(context, "rows"),
    )
    context.add_output_metadata(_shown(result))
    context.log.info(f"{result.rows:,} rows in {result.files} files: {result.manifest}")


def _request(config: ExportConfig) -> "Request":
    from efd_pipelines.exports.request import Request

    has_times = bool(config.day_obs or ":" in config.exposures or ":" in config.visits)
    wanted = [("from", config.start), ("to", config.to)] if not has_times else []
    for name, given in (*wanted, *([] if config.only_estimate else [("out", config.out)])):
        if not given:
            raise UsageError(f"`{name}` of the export is empty", remedy=f"Give it in the launchpad: {_meaning(name)}.")
    return Request.of(
        config.topics,
        config.start or None,
        config.to or None,
        config.fields or None,
        str(config.tier.value),
        resample=config.resample or None,
        arrays=str(config.arrays.value),
        time_scale=str(config.time_scale.value),
        day_obs=config.day_obs or None,
        exposures=config.exposures or None,
        visits=config.visits or None,
        padding_s=config.padding_s,
    )


def _meaning(name: str) -> str:
    field = next(field for key, field in ExportConfig.model_fields.items() if name in (key, field.alias))
    return str(field.description)


def _shown(result: "ExportResult") -> dict[str, dg.MetadataValue]:
    opened = "\n\n".join(
        f"```{'sql' if tool == 'duckdb' else 'python'}\n{text}```" for tool, text in result.open_it.items()
    )
    return {
        "rows": dg.MetadataValue.int(result.rows),
        "mb": dg.MetadataValue.float(megabytes(result.bytes)),
        "files": dg.MetadataValue.int(result.files),
        "manifest": dg.MetadataValue.path(result.manifest),
        "directories": dg.MetadataValue.md("\n".join(f"- `{directory}`" for directory in result.directories)),
        "open_it": dg.MetadataValue.md(opened),
        "notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in result.notes) or "none"),
    }


class RequestedConfig(dg.Config):
    """Which of the configured exports are made, and of which period."""

    names: list[str] = Field(default=[], description="Names in the section `exports` of EFD_CONFIG. Empty: all.")
    at: str = Field(default="", description="Of the last whole period before this time, UTC. Empty: now.")


@dg.op(out=dg.Out(dg.Nothing))
def make_requested_exports(context: dg.OpExecutionContext, config: RequestedConfig, deployment: Deployment) -> None:
    """Makes exports that the configuration asks for, of their last whole period; removes those kept for long enough."""
    from datetime import datetime

    from efd_pipelines.exports import requested

    with explained():
        archive = deployment.archive()
        at = parse_time(config.at) if config.at else datetime.now(UTC)
        for asked in requested.named(archive.settings.configuration.exports, config.names):
            ran = requested.run(archive, asked, at, progress=logged(context, "rows"))
            made = "made" if ran.result.made else "stands already"
            context.log.info(f"{ran.name} of {ran.period} {made}: {ran.result.rows:,} rows, {ran.result.manifest}")
            for gone in ran.expired:
                context.log.info(f"Removed {gone.place}: {gone.why}")
            shown = {f"{ran.name}_{key}": value for key, value in _shown(ran.result).items() if key != "open_it"}
            context.add_output_metadata({**shown, f"{ran.name}_removed": len(ran.expired)})


@dg.job
def requested_exports() -> None:
    """Makes the exports that the section `exports` of EFD_CONFIG asks for again and again, each by its own schedule.

    The same period again does nothing, or renews the export where the archive has more; what was interrupted goes on.
    """
    make_requested_exports()


def export_schedules(configuration: Configuration) -> list[dg.ScheduleDefinition]:
    """A schedule for each configured export that has one."""
    return [_schedule(asked) for asked in configuration.exports if asked.schedule is not None]


def _schedule(asked: ExportRequest) -> dg.ScheduleDefinition:
    def due(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        at = context.scheduled_execution_time.astimezone(UTC)
        config = {"names": [asked.name], "at": at.isoformat()}
        return dg.RunRequest(
            run_key=f"{asked.name} {at:%Y-%m-%dT%H:%M}",
            run_config={"ops": {"make_requested_exports": {"config": config}}},
        )

    return dg.ScheduleDefinition(
        name=f"export_{asked.name}",
        job=requested_exports,
        cron_schedule=str(asked.schedule),
        execution_timezone="UTC",
        execution_fn=due,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Exports {', '.join(asked.topics)} of the last whole {asked.period} to {asked.out}.",
    )
