"""The audit: whether the archive holds what it says, each record once.

The plain audit takes seconds for all topics: it asks the ledger for every commit and every file that counts, the
store for the directories of these files, and each table's log only for what the ledger does not know. Where Kafka is
given, it also counts what Kafka still has (`recount.py`). The deep audit reads every file (`deep_audit.py`). All say
what, where, and what to do (`findings.py`).
What belongs here: what the ledger, the directories and the logs' listings can show.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from efd_pipelines.archive.certificate_audit import audit_certified
from efd_pipelines.archive.findings import DEEPER, REINDEX, RESTORE, RESTORE_LOG, Audit, Finding, counted, some
from efd_pipelines.archive.ledger import RAW, relative_of
from efd_pipelines.archive.losses import missing_records
from efd_pipelines.archive.slices import DEAD, QUARANTINE, Slice
from efd_pipelines.archive.tables import Commit, DamagedTable, log_versions, read_log
from efd_pipelines.errors import KafkaUnavailable, UnknownDataset
from efd_pipelines.times import from_microseconds
from efd_pipelines.topics.names import Dataset, nearest

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.recount import Feed
    from efd_pipelines.settings import Settings

__all__ = ["Audit", "Finding", "gaps", "verify"]

_COLUMNS = (
    "commit_kind",
    "rows",
    "bytes",
    "files",
    "records",
    "positions",
    "gaps",
    "names",
    "time_min",
    "time_max",
    "at",
)
_LOG_KEPT_US = 29 * 86_400_000_000
_ASKED_AT_ONCE = {False: 2, True: 16}
_GONE = "Kafka no longer had them; `efd archive gaps` says who may."

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")


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
        StoreUnavailable: the store did not answer.
    """
    announced = archive.ledger.announced_tables()
    entries = _entries(archive, datasets)
    audit = Audit(topics=len(entries.datasets))
    _audit_balance(audit, entries, week)
    _audit_gaps(audit, entries)
    _audit_positions(audit, entries)
    _audit_slices(audit, entries, week)
    _audit_store(audit, entries, archive, week, since)
    _audit_logs(audit, entries, archive, announced)
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


@dataclass(frozen=True)
class Entries:
    """The ledger's rows of the raw tables of some datasets, each once."""

    frame: pl.DataFrame
    datasets: Sequence[Dataset]

    @cached_property
    def commits(self) -> pl.DataFrame:
        """A row per commit: dataset, version, kind, rows (added less removed), records, at."""
        import polars as pl

        return self.frame.group_by("dataset", "version", maintain_order=True).agg(
            pl.col("commit_kind").first().alias("kind"),
            pl.col("rows").sum(),
            pl.col("records").sum(),
            pl.col("at").min().cast(pl.Int64),
        )

    @cached_property
    def live(self) -> pl.DataFrame:
        """The files that count: dataset, week, slice, hash, and how often each was added more than removed."""
        import polars as pl

        names = self.frame.filter(pl.col("names") != "[]").select("dataset", "week", "slice", "names")
        files = names.with_columns(pl.col("names").str.strip_chars('["]').str.split('","')).explode("names")
        digest = pl.col("names").str.slice(1).alias("hash")
        sign = pl.when(pl.col("names").str.starts_with("+")).then(1).otherwise(-1).alias("times")
        # By one number instead of four texts, which are looked at again only for the few files that are left.
        files = files.with_columns(digest, sign).with_columns(pl.struct("dataset", "week", "hash").hash().alias("key"))
        left = files.group_by("key").agg(pl.col("times").sum()).filter(pl.col("times") != 0)
        there = files.drop("times", "names").join(left, on="key").unique("key").drop("key")
        return there.select("dataset", "week", "slice", "hash", "times").sort("dataset", "week", "slice", "hash")

    @cached_property
    def slices(self) -> pl.DataFrame:
        """What each slice holds: dataset, week, slice, rows, bytes, files; `known` where all its files' names are."""
        import polars as pl

        held = self.frame.filter(pl.col("week") != "")
        return held.group_by("dataset", "week", "slice", maintain_order=True).agg(
            pl.col("rows").sum(),
            pl.col("bytes").sum(),
            pl.col("files").sum(),
            pl.col("names").is_not_null().all().alias("known"),
            pl.col("time_min").min().cast(pl.Int64),
            pl.col("time_max").max().cast(pl.Int64),
        )

    @cached_property
    def positions(self) -> pl.DataFrame:
        """A row per position that a commit reached: dataset, version, records, kind, partition, position, before.

        `partition` is `<source>:<number>`, `before` its position in the commit before, null in the first; `is_one`
        says that the commit moved no other. Rows are in no order.
        """
        import polars as pl

        # A commit's positions and records stand on the same row of the ledger.
        moved = self.frame.filter(pl.col("positions") != "{}").select(
            "dataset",
            "version",
            "records",
            pl.col("commit_kind").alias("kind"),
            pl.col("positions").str.strip_chars("{}"),
            (~pl.col("positions").str.contains(",", literal=True)).alias("is_one"),
        )
        # Most commits move one partition: only the others are worth taking apart.
        several = moved.filter(~pl.col("is_one")).with_columns(pl.col("positions").str.split(",")).explode("positions")
        named = pl.concat([moved.filter("is_one"), several]).with_columns(
            pl.col("positions").str.splitn('":', 2).struct.rename_fields(["partition", "position"])
        )
        named = named.unnest("positions").with_columns(
            pl.col("partition").str.strip_chars('" '), pl.col("position").str.strip_chars(" ").cast(pl.Int64)
        )
        ordered = named.with_columns(pl.struct("dataset", "partition").hash().alias("key")).sort("key", "version")
        follows = pl.col("key") == pl.col("key").shift(1)
        before = pl.when(follows).then(pl.col("position").shift(1)).alias("before")
        return ordered.with_columns(before).drop("key")

    def gaps(self) -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
        """The recorded gaps by dataset and the version that noticed them."""
        import polars as pl

        noted = self.frame.filter(pl.col("gaps").is_not_null() & (pl.col("gaps") != "[]")).sort("dataset", "version")
        for dataset, version, text in noted.select("dataset", "version", "gaps").iter_rows():
            yield dataset, version, json.loads(text)

    def around(self, dataset: str, version: int) -> tuple[int | None, int | None, int]:
        """The last event time archived before a version, the first from it on, and the history rows between them."""
        import polars as pl

        good = self.frame.filter((pl.col("dataset") == dataset) & ~pl.col("week").is_in(["", QUARANTINE, DEAD]))
        good = good.with_columns(pl.col("time_min").cast(pl.Int64), pl.col("time_max").cast(pl.Int64))
        is_fill = pl.col("commit_kind") == "fill"
        before = _whole(good.filter((pl.col("version") < version) & ~is_fill)["time_max"].max())
        after = _whole(good.filter((pl.col("version") >= version) & ~is_fill)["time_min"].min())
        if before is None or after is None:
            return before, after, 0
        filled = good.filter(is_fill & (pl.col("time_max") >= before) & (pl.col("time_min") <= after))
        return before, after, int(filled["rows"].sum())


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _entries(archive: Archive, datasets: Collection[Dataset] | None) -> Entries:
    """What the ledger has, after entering what killed runs did not."""
    import polars as pl

    archive.ledger.catch_up_pending()
    frame = archive.ledger.frame(_COLUMNS).filter(pl.col("table") == RAW)
    there = sorted(frame["dataset"].unique().to_list())
    wanted = there if datasets is None else sorted({dataset.text for dataset in datasets})
    unknown = sorted(set(wanted) - set(there))
    if unknown:
        raise UnknownDataset(f"{unknown[0]} is not in the archive{nearest(unknown[0], there)}")
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
    audit.records += int(entries.commits["records"].sum())
    wrong = entries.commits.with_columns(_surplus().alias("surplus")).filter(pl.col("surplus") != 0)
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
    _audit_times(audit, held)


def _audit_times(audit: Audit, held: pl.DataFrame) -> None:
    """Slices lie in their weeks, and their rows in them."""
    import polars as pl

    good = held.filter(~pl.col("week").is_in([QUARANTINE, DEAD]) & (pl.col("slice") != ""))
    bounds = _bounds(good.select("week", "slice").unique().iter_rows())
    keys = pl.DataFrame(bounds, schema=["week", "slice", "of", "start", "end"], orient="row", infer_schema_length=None)
    if not bounds:
        return
    for dataset, week, key in (
        good.join(keys.filter(pl.col("of") != pl.col("week")), on=["week", "slice"])
        .select("dataset", "week", "slice")
        .iter_rows()
    ):
        audit.found(dataset, week, "foreign", f"slice {key} does not belong to week {week}")
    outside = good.join(keys, on=["week", "slice"]).filter(
        (pl.col("time_min") < pl.col("start")) | (pl.col("time_max") >= pl.col("end"))
    )
    for dataset, week, key in outside.select("dataset", "week", "slice").iter_rows():
        audit.found(dataset, week, "foreign", f"rows of slice {key} do not belong to it, by their files' statistics")


def _bounds(keys: Iterable[tuple[str, str]]) -> list[tuple[str, str, str, int, int]]:
    """Of each slice: the week that it belongs to, its start and its end; a key that is none belongs nowhere."""
    found = []
    for week, key in keys:
        try:
            of = Slice.parse(key)
        except ValueError:
            found.append((week, key, "", 0, 0))
        else:
            found.append((week, key, of.week.key, of.start_us, of.end_us))
    return found


def _audit_store(audit: Audit, entries: Entries, archive: Archive, week: str | None, since: str | None) -> None:
    """Every file that counts is in its directory, once, with as many bytes as its slice must have."""
    import polars as pl

    live = entries.live if week is None else entries.live.filter(pl.col("week") == week)
    for dataset, of, key, digest, times in live.filter(pl.col("times") != 1).iter_rows():
        audit.duplicates += 1 if times > 1 else 0
        detail = f"file {key}-{digest}.parquet was added {times} times more than removed"
        audit.found(dataset, of, "doubled" if times > 1 else "ledger", detail, DEEPER)
    if since is not None:  # the names of quarantine and of the dead come after all dates
        live = live.filter(pl.col("week") >= since)
    wanted = live.filter(pl.col("times") == 1).group_by("dataset", "week", maintain_order=True).agg("slice", "hash")
    held = entries.slices.filter("known")
    sizes = {(d, w, s): (rows, size) for d, w, s, rows, size in held.select(
        "dataset", "week", "slice", "rows", "bytes").iter_rows()}  # fmt: skip
    places = list(wanted.iter_rows())
    listings = _asked(archive, lambda of: archive.store.sizes(_directory(of[0], of[1])), places)
    for (dataset, of, keys, digests), listing in zip(places, listings, strict=True):
        _compare(audit, dataset, of, zip(keys, digests, strict=True), listing, sizes)


def _directory(dataset: str, week: str) -> str:
    return f"{relative_of(RAW, Dataset.parse(dataset))}/week={week}"


def _compare(
    audit: Audit,
    dataset: str,
    week: str,
    files: Iterable[tuple[str, str]],
    listing: Mapping[str, int],
    held: Mapping[tuple[str, str, str], tuple[int, int]],
) -> None:
    found: dict[str, list[int | None]] = {}
    gone: dict[str, list[str]] = {}
    for key, digest in files:
        name = f"{key}-{digest}.parquet"
        size = listing.get(name)
        found.setdefault(key, []).append(size)
        if size is None:
            gone.setdefault(key, []).append(name)
    for key, names in gone.items():
        rows = held.get((dataset, week, key), (0, 0))[0]
        whole = len(names) == len(found[key])
        audit.missing += rows if whole else len(names)
        detail = f"{some(names)}: not in the store"
        audit.found(dataset, week, "unreadable", f"{detail}; {counted(rows, 'row')}" if whole else detail, RESTORE)
    for key, sizes in found.items():
        if key in gone or (dataset, week, key) not in held:
            continue
        expected = held[dataset, week, key][1]
        there = sum(size or 0 for size in sizes)
        if there != expected:
            detail = f"slice {key} has {there:,} bytes in the store, {expected:,} were written"
            audit.found(dataset, week, "size", detail, RESTORE)


def _audit_logs(audit: Audit, entries: Entries, archive: Archive, announced: Collection[tuple[str, Dataset]]) -> None:
    """What the tables' logs have and the ledger has not, and the other way round.

    `announced` was asked for before the ledger was read: what a run committed meanwhile is no fault.
    """
    import polars as pl

    by_dataset = entries.commits.group_by("dataset", maintain_order=True).agg(
        pl.col("version").sort(), pl.col("at").sort_by("version").last()
    )
    known = {dataset: (versions, at) for dataset, versions, at in by_dataset.iter_rows()}
    unknown = _asked(archive, lambda of: _unknown_commits(archive, of, *known[of.text]), entries.datasets)
    lagging: list[Dataset] = []
    for dataset, found in zip(entries.datasets, unknown, strict=True):
        if found.is_ahead:
            newest = known[dataset.text][0][-1]
            audit.found(dataset.text, "", "ledger", f"the log has no version {newest}, the ledger has", REINDEX)
        if found.damage:
            audit.found(dataset.text, "", "log", found.damage, RESTORE_LOG)
        for made in found.commits:
            lagging += _audit_unknown(audit, dataset, made, known[dataset.text][0][-1], (RAW, dataset) in announced)
    if lagging:
        archive.ledger.catch_up(dict.fromkeys((RAW, dataset) for dataset in lagging))


@dataclass(frozen=True, slots=True)
class _Unknown:
    """Commits that a log has and the ledger has not; `is_ahead` where the ledger has one that the log has not."""

    commits: Sequence[Commit]
    is_ahead: bool = False
    damage: str = ""


def _unknown_commits(archive: Archive, dataset: Dataset, versions: Sequence[int], at_us: int) -> _Unknown:
    relative, newest = relative_of(RAW, dataset), versions[-1]
    store = archive.store
    missing = set(range(newest)) - set(versions)
    if missing:  # few: commits that only add columns, and those older than the log
        missing &= set(log_versions(store, relative))
    found: list[Commit] = []
    try:
        for version in sorted(missing):
            found += itertools.islice(read_log(store, relative, version), 1)
        if store.size(f"{relative}/_delta_log/{newest:020d}.json") is None:
            return _Unknown(found, is_ahead=at_us > time.time() * 1e6 - _LOG_KEPT_US)
        found += read_log(store, relative, newest + 1)
    except DamagedTable as error:
        return _Unknown(found, damage=error.message)
    return _Unknown(found)


def _audit_unknown(audit: Audit, dataset: Dataset, made: Commit, newest: int, announced: bool) -> Iterator[Dataset]:
    """Says what a commit is that the ledger does not have; gives the dataset where it should."""
    kind = made.note.get("kind")
    if not kind:
        if made.added or made.removed or made.transactions:
            what = f"adds {len(made.added)} and removes {len(made.removed)} files"
            audit.found(dataset.text, "", "foreign", f"version {made.version} was not made by this project: it {what}")
        return
    if made.version < newest and not announced:
        detail = f"version {made.version} ({kind}) is in the log and not in the ledger"
        audit.found(dataset.text, "", "ledger", detail, REINDEX)
        return
    if not announced:
        audit.note(dataset.text, "", "ledger", f"version {made.version} ({kind}) was entered into the ledger")
    yield dataset


def _recounted(audit: Audit, entries: Entries, settings: Settings) -> Sequence[Feed]:
    """Counts again what Kafka has; its topics, none where it does not answer."""
    from efd_pipelines.archive.recount import recount

    try:
        return recount(settings, audit, entries)
    except KafkaUnavailable as error:
        audit.note("", "", "kafka", f"Kafka was not asked: {error.message}", error.remedy)
        return []


def _asked(archive: Archive, question: Callable[[Any], Answer], things: Sequence[Any]) -> list[Answer]:
    """The answers of the store, many asked at once where it is far away."""
    with ThreadPoolExecutor(_ASKED_AT_ONCE[archive.store.is_remote]) as pool:
        return list(pool.map(question, things))
