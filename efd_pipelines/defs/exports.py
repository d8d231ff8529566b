"""Exports: plain directories of Parquet, from a form in the launchpad.

The work is `exports/export.py`; whatever of the request cannot be meant is refused there, before anything is written.
"""

from enum import Enum
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from efd_pipelines.defs.archive import logged
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import megabytes
from efd_pipelines.errors import UsageError
from efd_pipelines.resources import Deployment

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exports import ExportResult

TierName = Enum("TierName", {"raw": "raw", "1s": "1s"})
"""What the form offers; Dagster shows and takes the names."""


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
    tier: TierName = Field(
        default=TierName.raw, description="raw: every record. 1s: summaries of telemetry that is faster than 1 Hz."
    )
    out: str = Field(default="", description="Where to: a directory that is empty or not there, or s3://bucket/prefix")


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
    for name, given in (("from", config.start), ("to", config.to), ("out", config.out)):
        if not given:
            raise UsageError(f"`{name}` of the export is empty", remedy=f"Give it in the launchpad: {_meaning(name)}.")

    from efd_pipelines.exports import export

    result = export(
        archive,
        config.topics,
        config.start,
        config.to,
        config.fields or None,
        str(config.tier.value),
        out=config.out,
        progress=logged(context, "rows"),
    )
    context.add_output_metadata(_shown(result))
    context.log.info(f"{result.rows:,} rows in {result.files} files: {result.manifest}")


def _meaning(name: str) -> str:
    field = next(field for key, field in ExportConfig.model_fields.items() if name in (key, field.alias))
    return str(field.description)


def _shown(result: "ExportResult") -> dict[str, dg.MetadataValue]:
    example = 'import dask.dataframe as dd\nframe = dd.read_parquet("{}", index="time", calculate_divisions=True)'
    opened = "\n\n".join(f"```python\n{example.format(directory)}\n```" for directory in result.directories[:1])
    return {
        "rows": dg.MetadataValue.int(result.rows),
        "mb": dg.MetadataValue.float(megabytes(result.bytes)),
        "files": dg.MetadataValue.int(result.files),
        "manifest": dg.MetadataValue.path(result.manifest),
        "directories": dg.MetadataValue.md("\n".join(f"- `{directory}`" for directory in result.directories)),
        "open_it": dg.MetadataValue.md(opened),
        "notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in result.notes) or "none"),
    }
