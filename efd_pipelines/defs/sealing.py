"""Sealing: few files while a week runs; a day after it has ended, one per slice, audited and certified.

`merge_slices`, the op of the job `merge`, does the first all the time. `seal_weeks`, part of the daily round, seals
what has become due or was touched since, and tells Dagster; the asset's own run does the same for the partitions
asked for, and the sensor `summarise` tells of what was sealed elsewhere (`news_of_seals`). All of them call
`archive/merging.py`, `archive/sealing.py` and `archive/cleaning.py`.
"""

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from efd_pipelines.defs.archive import WEEKS_AT_ONCE, logged, partitions_of, raw_archive
from efd_pipelines.defs.events import DAY_S, counted, materialisation, months_since, told
from efd_pipelines.defs.failures import Explained, explained
from efd_pipelines.defs.metadata import OWNERS, Metadata, column, column_schema, megabytes, table
from efd_pipelines.partitions import COMPONENT_WEEKS, ComponentWeek, add_components
from efd_pipelines.resources import Deployment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.certificates import Certificate
    from efd_pipelines.archive.merging import MergeProblem
    from efd_pipelines.archive.sealing import SealProblem, SealResult

RECENT = timedelta(days=14)
"""Slices that may be growing, or have just ended; late records of older ones wait for the daily round."""

COLUMNS = (
    column("time", "timestamp[us, tz=UTC]", "Event time, UTC"),
    column("FIELD", "as declared", "The columns of `raw_archive`: the newest schema's of the week, then others"),
)
_TOPICS = {
    "topic": "string",
    "rows": "int",
    "mb": "float",
    "files": "int",
    "repeated": "int",
    "superseded": "int",
    "holes": "int",
    "numbers_missing": "int",
    "gaps": "int",
}


@dg.asset(
    partitions_def=COMPONENT_WEEKS,
    deps=[raw_archive],
    group_name="archive",
    kinds={"deltalake", "parquet"},
    owners=OWNERS,
    pool="compute",
    backfill_policy=dg.BackfillPolicy.multi_run(WEEKS_AT_ONCE),
    metadata=column_schema(COLUMNS),
)
def sealed_archive(context: dg.AssetExecutionContext, deployment: Deployment) -> dg.MaterializeResult[Any]:
    """A component's week, closed: one sorted file per slice, read once more, audited, and certified.

    The daily round seals each week a day after it has ended, and again when a late record came. A certificate,
    `<archive>/raw/<component>/<topic>/_certificates/<Monday>.json`, lists the files with their SHA-256, the rows and
    offsets of each Kafka partition, gaps, holes in the writers' own numbers, and schemas.

    **What do the numbers mean?** Table `topics`: `repeated` are records that were delivered more than once (kept),
    `superseded` rows of history that Kafka's replaced, `holes` stretches of numbers (`private_seqNum`) that a writer
    gave and no row has: lost before Kafka, or in one of the `gaps`.

    **May I read the directory as it lies?** `week=<Monday>` of a sealed week, a week later: then what was replaced has
    been cleaned up. Before that, take the certificate's list of files or a Delta reader.

    **When a run fails**, its last error says which topic's week is not as it should be, and what to do; the others are
    sealed.
    """
    from efd_pipelines.archive.sealing import seal

    with explained():
        partitions = partitions_of(context)
        archive = deployment.archive()
        problems: list[Any] = []
        for one in partitions:
            result = seal(
                archive,
                archive.settings,
                week=one.week,
                components={one.component},
                run=context.run.run_id,
                progress=logged(context, "topics"),
            )
            context.log.info(f"{one}: {counted(_summary(result))}")
            context.add_asset_metadata(_metadata(_certificates(archive, one)), partition_key=one.key)
            problems += _problems(result)
        _refuse(problems)
    return dg.MaterializeResult()


def no_merge(instance: dg.DagsterInstance, archive: "Archive", now: datetime) -> str | None:
    """Why no run of `merge` is to be requested; None where one is."""
    from efd_pipelines.archive.merging import crowded
    from efd_pipelines.defs.runs import in_progress

    if in_progress(instance, "merge"):
        return "A run of `merge` is under way."
    # The daily round looks at all: here, every ten minutes, the whole ledger would be read.
    recent = months_since((now - RECENT).timestamp())
    return None if crowded(archive, now=now, months=recent) else "No slice has too many files."


@dg.op(pool="compute", out=dg.Out(dg.Nothing))
def merge_slices(context: dg.OpExecutionContext, deployment: Deployment) -> None:
    """Merges the slices that have more than 8 files, and those that are over and have more than one."""
    from efd_pipelines.archive.merging import merge

    with explained():
        result = merge(deployment.archive(), run=context.run_id, progress=logged(context, "slices"))
        summary = {
            "slices": result.slices,
            "files_before": result.files_before,
            "files_after": result.files_after,
            "rows": result.rows,
            "mb": megabytes(result.bytes),
            "superseded": result.superseded,
            "seconds": round(result.seconds, 3),
        }
        context.add_output_metadata(summary)
        context.log.info(f"Merged {counted(summary)}")
        _refuse(result.problems)


@dg.op(pool="compute", ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def clean_archive(context: dg.OpExecutionContext, deployment: Deployment) -> None:
    """Removes files that were replaced, or left behind by killed runs, a week ago or more."""
    from efd_pipelines.archive.cleaning import clean

    with explained():
        result = clean(deployment.archive(), run=context.run_id)
        context.add_output_metadata({"files": result.files, "mb": megabytes(result.bytes), "tables": result.tables})


@dg.op(pool="compute", ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def seal_weeks(context: dg.OpExecutionContext, deployment: Deployment) -> None:
    """Seals all weeks that are due, and those that were touched since they were sealed."""
    from efd_pipelines.archive.sealing import seal, unsealed_weeks

    with explained():
        archive = deployment.archive()
        problems: list[Any] = []
        for week in unsealed_weeks(archive, archive.settings):
            result = seal(archive, archive.settings, week=week, run=context.run_id, progress=logged(context, "topics"))
            context.log.info(f"Week of {week}: {counted(_summary(result))}")
            _tell(context, archive, result)
            problems += _problems(result)
        _refuse(problems)


def _tell(context: dg.OpExecutionContext, archive: "Archive", result: "SealResult") -> None:
    """Tells Dagster of each component whose week was sealed."""
    from efd_pipelines.times import Week
    from efd_pipelines.topics.names import Dataset

    components = {Dataset.parse(one.dataset).component for one in result.certificates}
    add_components(context.instance, components)
    for component in sorted(components):
        one = ComponentWeek(component, Week.parse(result.week))
        context.log_event(materialisation(sealed_archive.key, one, _metadata(_certificates(archive, one))))


def news_of_seals(
    instance: dg.DagsterInstance, archive: "Archive", budget_s: float
) -> "Iterator[dg.AssetMaterialization]":
    """The weeks sealed in the last day that Dagster was not told of: from a shell, or by a run that died.

    One question to the newest months of the ledger and two to Dagster; certificates are read of what is new, for as
    long as `budget_s` allows. The next tick goes on.
    """
    from efd_pipelines.defs.runs import in_progress

    if in_progress(instance, "daily_round"):
        return  # it tells what it seals
    now = time.time()
    sealed = _sealed_since(archive, now - DAY_S)
    known = told(instance, sealed_archive.key, [one.key for one in sealed])
    for one, at_s in sorted(sealed.items()):
        if one.key in known and known[one.key].at_s >= at_s:
            continue
        if time.time() - now > budget_s:
            return
        add_components(instance, {one.component})
        yield materialisation(sealed_archive.key, one, _metadata(_certificates(archive, one)))


def _sealed_since(archive: "Archive", since_s: float) -> dict[ComponentWeek, float]:
    """When weeks of components were sealed last, in unix seconds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from efd_pipelines.times import Week

    found: dict[ComponentWeek, float] = {}
    rows = archive.ledger.table(months_since(since_s), ["component", "commit_kind", "at"])
    for row in rows.filter(pc.is_in(rows["commit_kind"], value_set=pa.array(["seal", "sealed"]))).to_pylist():
        one, at_s = ComponentWeek(row["component"], Week.parse(row["week"])), row["at"].timestamp()
        if at_s >= since_s:
            found[one] = max(at_s, found.get(one, 0.0))
    return found


def _certificates(archive: "Archive", of: ComponentWeek) -> "list[Certificate]":
    from efd_pipelines.archive.certificates import read_certificate

    found = [read_certificate(archive, dataset, of.week) for dataset in archive.datasets(of.component)]
    return [one for one in found if one is not None]


def _metadata(certificates: "Sequence[Certificate]") -> Metadata:
    topics: list[dict[str, Any]] = [
        {
            "topic": one.dataset,
            "rows": one.rows,
            "mb": megabytes(one.size_bytes),
            "files": len(one.files),
            "repeated": one.repeated,
            "superseded": one.superseded,
            "holes": one.holes_count,
            "numbers_missing": one.numbers_missing,
            "gaps": len(one.gaps),
        }
        for one in certificates
    ]
    sums = {name: sum(row[name] for row in topics) for name in _TOPICS if name not in ("topic", "mb")}
    size = sum(one.size_bytes for one in certificates)
    return {**sums, "bytes": size, "mb": megabytes(size), "certified": len(topics), "topics": table(topics, _TOPICS)}


def _summary(result: "SealResult") -> Metadata:
    return {
        "sealed": result.sealed,
        "already": result.already,
        "rows": result.rows,
        "files": result.files,
        "mb": megabytes(result.bytes),
        "holes": result.holes,
        "superseded": result.superseded,
        "seconds": round(result.seconds, 3),
    }


def _problems(result: "SealResult") -> "list[SealProblem | MergeProblem]":
    return [*result.merged.problems, *result.problems]


def _refuse(problems: "Sequence[SealProblem | MergeProblem]") -> None:
    """Fails the run where something is not as it should be; what could be done has been."""
    from efd_pipelines.archive.sealing import NotSealable

    if not problems:
        return
    columns = {"topic": "string", "detail": "string", "remedy": "string"}
    rows = [{name: getattr(problem, name) for name in columns} for problem in problems]
    first = problems[0]
    error = NotSealable(f"{len(problems)} topics could not be closed: {first.topic}: {first.detail}")
    error.remedy = first.remedy
    raise Explained(error, problems=table(rows, columns)) from None
