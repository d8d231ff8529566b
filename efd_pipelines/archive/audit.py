"""The audit: whether the archive holds what it says, each record once.

The plain audit takes seconds for all topics: it asks the ledger for every commit and every file that counts, the
store for the directories of these files, and each table's log only for what the ledger does not know. Where Kafka is
given, it also counts what Kafka still has (`recount.py`). The deep audit reads every file (`deep_audit.py`). All say
what, where, and what to do (`findings.py`).
What belongs here: what the ledger can show by itself (`entries.py`). The directories and logs: `stored_audit.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.certificate_audit import audit_certified
from efd_pipelines.archive.entries import COLUMNS, Entries
from efd_pipelines.archive.expiry import KIND as EXPIRE
from efd_pipelines.archive.findings import DEEPER, REINDEX, Audit, Finding, counted
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.losses import missing_records
from efd_pipelines.archive.slices import DEAD, QUARANTINE, Slice
from efd_pipelines.archive.stored_audit import audit_logs, audit_store, audit_tables
from efd_pipelines.errors import ArchiveError, KafkaUnavailable, UnknownDataset
from efd_pipelines.times import Week, from_microseconds
from efd_pipelines.topics.names import Dataset, nearest

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.recount import Feed
    from efd_pipelines.settings import Settings

__all__ = ["Audit", "Finding", "gaps", "verify"]

_GONE = "Kafka no longer had them; `efd archive gaps` says who may."


def verify(
    archive: Archive,
    *,
    deep: bool = False,
    week: str | None = None,
    since: str | None = None,
    datasets: Collection[Dataset] | None = None,
    settings: Settings | None = None,
) -> Audit:
    """Audits the datasets (all by default).

    Args:
        deep: also read every file that counts.
        week: only the files and rows of this week; the balance of records and rows is always that of the whole.
        since: in the store, look only for files of the weeks from this one on, and of those outside all weeks.
        settings: where given, Kafka is asked what it still has.

    Raises:
        UnknownDataset: one that is not in the archive.
        ArchiveError: one that is, and the ledger has no row of it.
        StoreUnavailable: the store did not answer.
    """
    announced = archive.ledger.announced_tables()
    entries = _entries(archive, datasets)
    audit = Audit(topics=len(entries.datasets))
    _audit_balance(audit, entries, week)
    _audit_gaps(audit, entries)
    _audit_positions(audit, entries)
    _audit_slices(audit, entries, week)
    audit_store(audit, entries, archive, week, since)
    if datasets is None:
        audit_tables(audit, entries, archive)
    audit_logs(audit, entries, archive, announced)
    audit_certified(audit, entries, archive, week)
    feeds = _recounted(audit, entries, settings) if settings is not None else []
    if deep:
        from efd_pipelines.archive.deep_audit import deep_audit

        deep_audit(archive, audit, entries.datasets, week, feeds)
    audit.problems = list(dict.fromkeys(audit.problems))
    audit.notes = list(dict.fromkeys(audit.notes))
    return audit


def gaps(archive: Archive, datasets: Sequence[Dataset] | None = None) -> list[dict[str, Any]]:
    """Every recorded gap: topic, source, partition, first, end, reason, noticed, and between which event times.

    `from` is that of the last row archived before the gap was noticed, `to` of the first one after; None where there
    is none. `filled` counts the rows of history that lie between them by now. Who still has what is missing:
    `efd_pipelines.history.holders`.

    Raises:
        UnknownDataset: one that is not in the archive.
    """
    entries = _entries(archive, datasets)
    return [
        {"topic": topic, **gap, "from": _time(before), "to": _time(after), "filled": filled}
        for topic, version, of in entries.gaps()
        for before, after, filled in [entries.around(topic, version)]
        for gap in of
    ]


def _time(time_us: int | None) -> datetime | None:
    return None if time_us is None else from_microseconds(time_us)


def _entries(archive: Archive, datasets: Collection[Dataset] | None) -> Entries:
    """What the ledger has, after entering what killed runs did not."""
    import polars as pl

    archive.ledger.catch_up_pending()
    frame = archive.ledger.frame(COLUMNS).filter(pl.col("table") == RAW)
    there = sorted(frame["dataset"].unique().to_list())
    wanted = there if datasets is None else sorted({dataset.text for dataset in datasets})
    unknown = sorted(set(wanted) - set(there))
    for text in unknown:
        if archive.store.list(f"{archive.relative(Dataset.parse(text))}/_delta_log"):
            raise ArchiveError(f"{text} has a table, and the ledger has no row of it", remedy=REINDEX)
        raise UnknownDataset(f"{text} is not in the archive{nearest(text, there)}")
    if datasets is not None:
        frame = frame.filter(pl.col("dataset").is_in(wanted))
    return Entries(frame, [Dataset.parse(text) for text in wanted])


def _audit_balance(audit: Audit, entries: Entries, week: str | None) -> None:
    """Rows and records, commit by commit: what a drain read it kept, what is rearranged stays as much."""
    import polars as pl

    held = entries.slices if week is None else entries.slices.filter(pl.col("week") == week)
    audit.rows += int(held["rows"].sum())
    outside = entries.slices.group_by("week").agg(pl.col("rows").sum())
    by_week = dict(outside.iter_rows())
    audit.dead_letters += by_week.get(DEAD, 0)
    audit.quarantined += by_week.get(QUARANTINE, 0)
    audit.records += int(entries.frame["records"].sum())
    let_go = entries.plain.filter(pl.col("commit_kind") == EXPIRE)
    audit.expired -= int((let_go if week is None else let_go.filter(pl.col("week") == week))["rows"].sum())
    wrong = entries.commits.with_columns(_surplus().alias("surplus")).filter(pl.col("surplus") != 0)
    wrong = wrong.sort("dataset", "version")
    for dataset, version, kind, rows, records, surplus in wrong.select(
        "dataset", "version", "kind", "rows", "records", "surplus"
    ).iter_rows():
        audit.missing += max(0, -surplus)
        audit.duplicates += max(0, surplus)
        detail = f"version {version} ({kind}) has {counted(records, 'record')} and {counted(rows, 'row')}"
        audit.found(dataset, "", "lost" if surplus < 0 else "doubled", detail, DEEPER)


def _surplus() -> pl.Expr:
    """Rows of a commit beyond what its kind may change."""
    import polars as pl

    rows, records, kind = pl.col("rows"), pl.col("records"), pl.col("kind")
    return pl.when(kind.is_in(["expire", "merge", "seal"])).then(pl.max_horizontal(rows, 0)).otherwise(rows - records)


def _audit_gaps(audit: Audit, entries: Entries) -> None:
    for topic, version, of in entries.gaps():
        filled = entries.around(topic, version)[2]
        for gap in of:
            missing = missing_records(gap)
            from_history = min(missing, filled)
            filled, missing = filled - from_history, missing - from_history
            audit.missing += missing
            detail = f"partition {gap['partition']}: offsets {gap['first']} to {gap['end'] - 1}: {gap['reason']}"
            if from_history:
                detail += f"; {counted(from_history, 'row')} came from history"
            if missing:
                audit.found(topic, "", "gap", detail, _GONE)
            else:
                audit.note(topic, "", "gap", detail)


def _audit_positions(audit: Audit, entries: Entries) -> None:
    """Positions rise, and no commit has more records than offsets."""
    import polars as pl

    moves = entries.positions
    back = moves.filter(pl.col("position") < pl.col("before"))
    for dataset, version, partition, position, before in back.select(
        "dataset", "version", "partition", "position", "before"
    ).iter_rows():
        detail = f"version {version} sets {partition} back from {before} to {position}"
        audit.found(dataset, "", "position", detail, REINDEX)
    steps = moves.filter(pl.col("kind") == "drain").with_columns(offsets=pl.col("position") - pl.col("before"))
    several = (
        steps.filter(~pl.col("is_one"))
        .group_by("dataset", "version")
        .agg(pl.col("records").first(), pl.col("before").is_not_null().all(), pl.col("offsets").sum())
        .filter("before")
    )
    columns = ["dataset", "version", "offsets", "records"]
    over = pl.concat([steps.filter(pl.col("is_one")).select(columns), several.select(columns)])
    over = over.filter(pl.col("records") > pl.col("offsets"))
    for dataset, version, offsets, records in over.select("dataset", "version", "offsets", "records").iter_rows():
        audit.duplicates += records - offsets
        detail = f"version {version} has {records:,} records of {offsets:,} offsets"
        audit.found(dataset, "", "doubled", detail, DEEPER)


def _audit_slices(audit: Audit, entries: Entries, week: str | None) -> None:
    """What the ledger says of slices can be, and belongs to their weeks."""
    import polars as pl

    held = entries.slices if week is None else entries.slices.filter(pl.col("week") == week)
    empty = pl.col("files") == 0
    wrong = held.filter(
        (pl.col("files") < 0)
        | (pl.col("rows") < 0)
        | (empty & ((pl.col("rows") != 0) | (pl.col("bytes") != 0)))
        | (~empty & (pl.col("bytes") <= 0))
    )
    for dataset, of, key, rows, size, files in wrong.select(
        "dataset", "week", "slice", "rows", "bytes", "files"
    ).iter_rows():
        detail = f"slice {key} has {rows:,} rows and {size:,} bytes in {counted(files, 'file')}, by the ledger"
        audit.found(dataset, of, "ledger", detail, REINDEX)
    _audit_times(audit, entries.times if week is None else entries.times.filter(pl.col("week") == week))


def _audit_times(audit: Audit, times: pl.DataFrame) -> None:
    """Slices lie in their weeks, and their rows in them."""
    import polars as pl

    bounds = _bounds(times.select("week", "slice").unique().iter_rows())
    keys = pl.DataFrame(bounds, schema=["week", "slice", "of", "start", "end"], orient="row", infer_schema_length=None)
    if not bounds:
        return
    good = times.join(keys, on=["week", "slice"]).sort("dataset", "week", "slice")
    for dataset, week, key in (
        good.filter(pl.col("of") != pl.col("week")).select("dataset", "week", "slice").iter_rows()
    ):
        audit.found(dataset, week, "foreign", f"slice {key} does not belong to week {week}")
    outside = good.filter((pl.col("time_min") < pl.col("start")) | (pl.col("time_max") >= pl.col("end")))
    for dataset, week, key in outside.select("dataset", "week", "slice").iter_rows():
        what = f"slice {key}" if key else "the week"
        audit.found(dataset, week, "foreign", f"rows of {what} do not belong to it, by their files' statistics")


def _bounds(keys: Iterable[tuple[str, str]]) -> list[tuple[str, str, str, int, int]]:
    """Of each slice: the week that it belongs to, its start and its end; a key that is none belongs nowhere."""
    found: list[tuple[str, str, str, int, int]] = []
    for week, key in keys:
        if not key:  # of a week that has collapsed
            whole = Week.parse(week)
            found.append((week, key, week, whole.start_us, whole.end_us))
            continue
        try:
            of = Slice.parse(key)
        except ValueError:
            found.append((week, key, "", 0, 0))
        else:
            found.append((week, key, of.week.key, of.start_us, of.end_us))
    return found


def _recounted(audit: Audit, entries: Entries, settings: Settings) -> Sequence[Feed]:
    """Counts again what Kafka has; its topics, none where it does not answer."""
    from efd_pipelines.archive.recount import recount

    try:
        return recount(settings, audit, entries)
    except KafkaUnavailable as error:
        audit.note("", "", "kafka", f"Kafka was not asked: {error.message}", error.remedy)
        return []
