"""The archive: every record of the EFD, kept for the lifetime of the observatory.

`drain_backlog`, the op of the job `drain`, feeds it all the time, many components in one run; the asset's own run does
the same for one component. Both call `archive/drain.py`, which alone knows where to read on.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from efd_pipelines.defs.events import DAY_S, RAW, counted, figures_of, log_untold
from efd_pipelines.defs.failures import Explained, explained
from efd_pipelines.defs.history import POOL as HISTORY_POOL
from efd_pipelines.defs.history import HealConfig, heal_partitions
from efd_pipelines.defs.metadata import OWNERS, Metadata, column, column_schema, megabytes, table
from efd_pipelines.defs.new_exposures import due_topics, waiting_topics
from efd_pipelines.defs.sources import kafka_topics
from efd_pipelines.partitions import COMPONENT_WEEKS, ComponentWeek, check_components
from efd_pipelines.resources import Deployment
from efd_pipelines.times import microseconds

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.drained import DrainResult

WEEKS_AT_ONCE = 13
"""Partitions of one run of a backfill: a quarter of a year. Each run costs seconds, each lost run its partitions."""

_LOG_EVERY_S = 10.0
COLUMNS = (
    column("time", "timestamp[us, tz=UTC]", "Event time, UTC: private_efdStamp, floored to the microsecond"),
    column("FIELD", "as declared", "Each field of the message; an array as FIELD0, FIELD1 …"),
    column("kafka_partition", "int32", "Partition of the topic that the record was read from"),
    column("kafka_offset", "int64", "Offset of the record in it"),
    column("kafka_timestamp", "timestamp[us, tz=UTC]", "Kafka's time stamp of the record"),
    column("kafka_key", "binary", "Key of the record"),
    column("archive_source", "string", "Where the row came from: cluster id/topic id of Kafka, influx:… or file:…"),
    column("archive_schema", "int64", "Token of the writer's schema, whose text is in the archive's `schemas`"),
    column("archive_frame", "binary", "Of dead letters only: the frame as it came"),
    column("archive_reason", "string", "Of dead letters only: why it could not be decoded"),
    column("archive_clock_error", "int64", "Of rows brought home from quarantine: µs that `time` was corrected by"),
)
"""Columns that each topic's table has."""


def partitions_of(context: dg.AssetExecutionContext) -> list[ComponentWeek]:
    """The partitions that a run is asked for.

    Raises:
        UsageError: a key that is no component and Monday, or of a component that nobody has heard of.
    """
    wanted = [ComponentWeek.parse(key) for key in context.partition_keys]
    check_components(context.instance, {partition.component for partition in wanted})
    return wanted


@dg.asset(
    partitions_def=COMPONENT_WEEKS,
    deps=[dg.AssetDep(kafka_topics, partition_mapping=dg.MultiToSingleDimensionPartitionMapping("component"))],
    group_name="archive",
    kinds={"kafka", "deltalake", "parquet"},
    owners=OWNERS,
    pool=HISTORY_POOL,
    backfill_policy=dg.BackfillPolicy.multi_run(WEEKS_AT_ONCE),
    metadata=column_schema(COLUMNS),
)
def raw_archive(
    context: dg.AssetExecutionContext, config: HealConfig, deployment: Deployment
) -> dg.MaterializeResult[Any]:
    """Every record that Kafka delivered, decoded, by component and week (Monday 00:00 UTC to the next).

    **Is last night archived?** The check `last_night` (tab Checks) says so for all components. For one: open its
    partition of this week; `last_record` is the newest record, `lag_s` its age, `changed_at` the last time that
    something was added. Records are archived within minutes by the job `drain`, which the sensor of that name starts.

    **Where are the files?** In `path` of each partition: a Delta table for each topic,
    `<archive>/raw/<component>/<topic>/`. Open it with a Delta reader, or ask for the files that count with
    `efd archive files <dataset>`: files that were replaced lie beside them until they are cleaned up. For a plain
    directory of Parquet, take the job `export`.

    **What do the numbers mean?** `rows` and `mb` are the week's now. `gaps` are stretches that Kafka had dropped before
    they were read, `dead_letters` frames that could not be decoded (kept whole), `quarantined` records with an
    impossible time (kept): all as noticed in that week.

    **When a run fails**, its last error says what happened and what to do. Nothing is lost by a failed run: reading
    goes on by itself where the archive ends, as soon as the cause is mended. Materialising a partition by hand reads
    the component's backlog now, and then heals the week: what Kafka no longer has comes from the history
    (EFD_HISTORY_*), where one is set. `history_rows` were filled in by this run, `history_left_h` hours of data were
    not asked for yet because time was up.
    """
    with explained():
        partitions = partitions_of(context)
        archive = deployment.archive()
        drained_us = _drain_partitions(context, archive, partitions)
        healed = heal_partitions(context, archive, partitions, config, drained_us)
        for one in figures_of(archive, RAW, partitions):
            metadata = one.metadata(RAW) | healed.get(one.partition.component, {})
            context.add_asset_metadata(metadata, partition_key=one.partition.key)
    return dg.MaterializeResult()


def _drain_partitions(
    context: dg.AssetExecutionContext, archive: "Archive", partitions: Sequence[ComponentWeek]
) -> int | None:
    """Reads the components' backlog, and says when; what only the history can have goes without it."""
    from efd_pipelines.archive.drain import drain
    from efd_pipelines.history.configured import is_configured
    from efd_pipelines.history.healing import KAFKA_KEEPS

    now = datetime.now(UTC)
    has_kafka = archive.settings.kafka_bootstrap and any(one.week.end + KAFKA_KEEPS > now for one in partitions)
    if is_configured(archive.settings) and not has_kafka:
        return None
    components = {partition.component for partition in partitions}
    progress = logged(context, "records")
    result = drain(archive, archive.settings, components=components, run=context.run.run_id, progress=progress)
    context.log.info(f"Archived {counted(_summary(result))}")
    return microseconds(now)


class DrainConfig(dg.Config):
    """Which part of the backlog is read."""

    group: str = Field(default="", description="Only components of this drain group (EFD_CONFIG); empty: all groups.")
    components: list[str] = Field(
        default=[], description="Only these components, all of their topics, e.g. MTM1M3. Empty: what is due."
    )
    everything: bool = Field(
        default=False, description="Also topics whose turn has not come: see `freshness` in EFD_CONFIG."
    )
    exposures: bool = Field(
        default=False, description="Also topics that exposure joins read, whether their turn has come or not."
    )
    until_caught_up: bool = Field(
        default=False, description="Read again until nothing is left, also of what arrives meanwhile."
    )


@dg.op(pool="kafka", ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def drain_backlog(context: dg.OpExecutionContext, config: DrainConfig, deployment: Deployment) -> None:
    """Reads what Kafka has and the archive has not, exactly once, and tells Dagster which weeks grew."""
    with explained():
        archive = deployment.archive()
        chosen = _chosen(context, config, archive)
        if chosen is None:
            context.log.info("Nothing is due.")
        else:
            _drain(context, archive, chosen, until_caught_up=config.until_caught_up)
        recent = time.time() - DAY_S
        told = log_untold(context, archive, raw_archive.key, RAW, since_s=recent, at_once=config.everything)
        context.log.info(f"{told} partitions changed since Dagster was last told.")


@dg.op(pool="kafka", ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def drain_whole_backlog(context: dg.OpExecutionContext, deployment: Deployment) -> None:
    """Reads all that Kafka has and the archive has not, until nothing is left."""
    with explained():
        archive = deployment.archive()
        _drain(context, archive, {}, until_caught_up=True)
        log_untold(context, archive, raw_archive.key, RAW, at_once=True)


def _chosen(context: dg.OpExecutionContext, config: DrainConfig, archive: "Archive") -> Mapping[str, Any] | None:
    """What to ask the drain for; None where nothing is due."""
    if config.components:
        return {"components": check_components(context.instance, config.components)}
    if config.everything and not config.group:
        return {}
    waiting = waiting_topics(archive)
    due = due_topics(archive, waiting, everything=config.everything, exposures=config.exposures)
    topics = due.get(config.group, [])
    return {"topics": topics} if topics else None


def _drain(
    context: dg.OpExecutionContext, archive: "Archive", chosen: Mapping[str, Any], *, until_caught_up: bool
) -> None:
    from efd_pipelines.archive.drain import drain
    from efd_pipelines.archive.drained import DrainIncomplete, DrainResult

    try:
        result = drain(
            archive,
            archive.settings,
            **chosen,
            until_caught_up=until_caught_up,
            run=context.run_id,
            progress=logged(context, "records"),
        )
    except DrainIncomplete as error:
        log_untold(context, archive, raw_archive.key, RAW, since_s=time.time() - DAY_S, at_once=True)
        raise Explained(error, problems=_problems(getattr(error, "result", DrainResult()))) from None
    context.add_output_metadata({**_summary(result), "problems": _problems(result)})
    for problem in result.problems:
        context.log.warning(f"{problem.topic}: {problem.kind}: {problem.detail}. {problem.remedy}")
    context.log.info(f"Archived {counted(_summary(result))}")


def _summary(result: "DrainResult") -> Metadata:
    return {
        "records": result.records,
        "rows": result.rows,
        "mb": megabytes(result.bytes),
        "avro_mb": megabytes(result.avro_bytes),
        "topics": result.topics,
        "commits": result.commits,
        "gaps": result.gaps,
        "dead_letters": result.dead_letters,
        "quarantined": result.quarantined,
        "seconds": round(result.seconds, 3),
    }


def _problems(result: "DrainResult") -> dg.MetadataValue:
    columns = {"topic": "string", "kind": "string", "detail": "string", "remedy": "string"}
    rows = [{name: getattr(problem, name) for name in columns} for problem in result.problems]
    return table(rows, columns)


def logged(context: dg.OpExecutionContext | dg.AssetExecutionContext, unit: str) -> Callable[..., None]:
    """Progress for a run's log: now and then, how much of how much is done."""
    last = time.monotonic()

    def progress(*given: Any) -> None:
        nonlocal last
        if time.monotonic() - last < _LOG_EVERY_S:
            return
        last = time.monotonic()
        what, done, of = given if isinstance(given[0], str) else ("", *given[:2])
        context.log.info(f"{what} {done:,} of {of:,} {unit}".strip())

    return progress
