"""Restoring: records of the archive given back to where they were lost, from a form in the launchpad.

`restore_weeks`, the op of the job `restore`, calls the functions that `efd archive restore` calls. The form is a dry
run unless it is told otherwise, and says how much there is. A run that was cut off goes on when it is launched again.
"""

from enum import Enum
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from efd_pipelines.defs.archive import logged
from efd_pipelines.defs.events import counted
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import Metadata, megabytes, table
from efd_pipelines.errors import DataError, UsageError
from efd_pipelines.partitions import check_components
from efd_pipelines.resources import Deployment

if TYPE_CHECKING:
    from efd_pipelines.restoring.asked import Asked
    from efd_pipelines.restoring.restore import RestoreResult

RestoreTo = Enum("RestoreTo", {"influx": "influx", "lines": "lines", "kafka": "kafka"})
"""What the form offers; Dagster shows and takes the names."""

_WEEKS_SHOWN = 500
_COLUMNS = {
    "topic": "string",
    "week": "string",
    "archived": "int",
    "restored": "int",
    "before": "int",
    "left_out": "int",
    "expected": "int",
    "counted": "int",
    "whole": "bool",
}


class RestoreConfig(dg.Config):
    """What is given back, and where to."""

    dry_run: bool = Field(default=True, description="Only say how much there is. Nothing is written.")
    component: str = Field(default="", description="The component, e.g. MTMount.")
    first_week: str = Field(default="", description="Monday of the first week, e.g. 2026-11-16.")
    last_week: str = Field(default="", description="Monday of the last week; empty: the first alone.")
    to: RestoreTo = Field(
        default=RestoreTo.influx, description="influx: EFD_INFLUX_URL. lines: files. kafka: EFD_KAFKA_BOOTSTRAP."
    )
    database: str = Field(default="", description="influx, lines: the database; empty: efd, or the namespace.")
    out: str = Field(default="", description="lines: the directory.")
    prefix: str = Field(default="", description="kafka: other topics, e.g. `restored.`; empty: the same ones.")
    tags: list[str] = Field(default=[], description="influx, lines: fields that are tags. SAL topics have none.")
    with_history: bool = Field(default=False, description="kafka: also rows that came from InfluxDB.")
    values_s: float = Field(default=1_000_000.0, description="At most so many values a second.")
    again: bool = Field(default=False, description="Also what is known to have been restored.")


@dg.op(pool="history", out=dg.Out(dg.Nothing))
def restore_weeks(context: dg.OpExecutionContext, config: RestoreConfig, deployment: Deployment) -> None:
    """Gives a component's weeks back to InfluxDB, files of line protocol or Kafka; or only says how much they are."""
    with explained():
        _restore(context, config, deployment)


def _restore(context: dg.OpExecutionContext, config: RestoreConfig, deployment: Deployment) -> None:
    from efd_pipelines.restoring.asked import target_of
    from efd_pipelines.restoring.restore import estimate, planned
    from efd_pipelines.restoring.restore import restore as give_back

    asked = _asked(config)
    check_components(context.instance, {asked.component})
    archive = deployment.archive()
    with target_of(asked, archive, archive.settings) as target:
        portions = planned(archive, asked.component, asked.weeks, target)
        if config.dry_run:
            found = estimate(portions, asked.values_s)
            figures: Metadata = {name: getattr(found, name) for name in ("topics", "portions", "rows", "values")}
            figures |= {"mb": megabytes(found.bytes), "hours": round(found.hours, 3)}
            figures |= {"quarantined": found.quarantined, "dead": found.dead}
            context.add_output_metadata(figures)
            context.log.info(f"To {asked.to} would go {counted(figures)}; set dry_run to false to give it back.")
            return
        result = give_back(portions, target, again=config.again, progress=logged(context, "rows"))
    _show(context, asked, result)


def _asked(config: RestoreConfig) -> "Asked":
    from efd_pipelines.restoring.asked import Asked, weeks_of

    for name in ("component", "first_week"):
        if not getattr(config, name):
            raise UsageError(f"`{name}` of the restore is empty", remedy="Fill it in in the launchpad.")
    return Asked(
        component=config.component,
        weeks=tuple(weeks_of(config.first_week, config.last_week)),
        to=str(config.to.value),
        out=config.out,
        database=config.database,
        prefix=config.prefix or None,
        tags=tuple(config.tags),
        with_history=config.with_history,
        values_s=config.values_s,
    )


def _show(context: dg.OpExecutionContext, asked: "Asked", result: "RestoreResult") -> None:
    figures: Metadata = {name: getattr(result, name) for name in ("topics", "rows", "before", "left_out", "values")}
    figures |= {"mb": megabytes(result.bytes), "seconds": round(result.seconds, 3)}
    rows = [{**{name: getattr(week, name, None) for name in _COLUMNS}, "whole": week.is_whole} for week in result.weeks]
    notes = dg.MetadataValue.md("\n".join(f"- {note}" for note in result.notes) or "none")
    context.add_output_metadata({**figures, "counts": table(rows[:_WEEKS_SHOWN], _COLUMNS), "notes": notes})
    context.log.info(f"To {asked.to} went {counted(figures)}.")
    if not result.ok:
        wrong = next(week for week in result.weeks if not week.is_whole)
        raise DataError(
            f"The counts differ, first those of {wrong.topic} in the week of {wrong.week}",
            remedy="Launch it again with `again`, which also gives back what is known to be there.",
        )


@dg.job(tags={"dagster/max_runtime": "172800"})
def restore() -> None:
    """Gives records back to where they were lost; a dry run unless the launchpad's form says otherwise.

    The archive is the live backup: a database of InfluxDB gets the points that it had, a Kafka topic its records with
    their keys and time stamps. What is done is passed over when it is launched again; at the end the counts are
    compared, topic by topic and week by week.
    """
    restore_weeks()
