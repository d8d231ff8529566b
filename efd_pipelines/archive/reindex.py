"""Reindexing: the ledger made anew from the tables that it indexes.

A table's log gives the rows of every commit that it still has, and the table itself what it holds: the difference is
what commits older than the log left, and becomes one row per slice. What the old ledger knows of those is kept where
it agrees with that; gaps always are, since nothing else remembers them. The rows of sealed weeks collapse again
(`collapse.py`). All of it replaces the old ledger in one commit, under the guard of compaction; what runs append
meanwhile stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.collapse import Row, as_rows, collapsed, proof
from efd_pipelines.archive.delta_log import Commit, DamagedTable, log_versions, read_log
from efd_pipelines.archive.entries import add_up
from efd_pipelines.archive.expiry import KIND as EXPIRE
from efd_pipelines.archive.expiry import is_expired, read_mark
from efd_pipelines.archive.findings import RESTORE_LOG
from efd_pipelines.archive.ledger import RAW, SCHEMA, LedgerRow, once, relative_of, rows_of
from efd_pipelines.archive.ledger_rows import GAP, SEALED, sealed_versions
from efd_pipelines.archive.summed_rows import summed
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.errors import ArchiveError, NameRejected, StoreUnavailable
from efd_pipelines.times import microseconds, parse_time
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

KIND = "reindex"
_TIERS = "tiers"
_Name = tuple[str, str]
"""`raw` or a tier, and a dataset."""

Progress = Callable[[int, int], None]
"""Called with the tables read so far, and how many there are."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A table that could not be read; what the old ledger says of it stays."""

    table: str
    detail: str
    remedy: str


@dataclass(slots=True)
class Reindexed:
    """What a reindexing did; `changed` counts rows that the old ledger did not have, or had otherwise."""

    tables: int = 0
    commits: int = 0
    rows: int = 0
    changed: int = 0
    dropped: int = 0
    seconds: float = 0.0
    problems: list[Unread] = field(default_factory=list)


def reindex(archive: Archive, *, progress: Progress | None = None) -> Reindexed:
    """Makes the ledger anew.

    Raises:
        StaleWriter: another process compacts or reindexes the ledger.
        StoreUnavailable: the store did not answer; the ledger is as it was.
    """
    started = time.monotonic()
    archive.prepare()
    result = Reindexed()
    edition = archive.ledger.edition()
    old = _by_table(edition.rows)
    new: dict[_Name, pa.Table] = {}
    # Tiers come last: their weeks collapse where the archive's have.
    places = sorted(_tables(archive), key=lambda place: (place[0] != RAW, place))
    for n, (table, relative) in enumerate(places):
        try:
            name, rows, snapshot = _rows_of_table(archive, table, relative, old, result)
        except (ArchiveError, NameRejected, StoreUnavailable) as error:
            archive.store.list(relative)  # raises where the store does not answer at all
            result.problems.append(Unread(relative, error.message, error.remedy))
            new |= {of: rows for of, rows in old.items() if relative_of(of[0], Dataset.parse(of[1])) == relative}
            continue
        if table == RAW:
            rows, _ = collapsed(rows, proof(archive, Dataset.parse(name[1])))
        else:
            weeks = _collapsed_weeks(new.get((RAW, name[1]), SCHEMA.empty_table()))
            rows, _, _ = summed(rows, weeks, snapshot.files(weeks) if weeks else [])
        new[name] = once(pa.Table.from_pylist(rows, schema=SCHEMA))
        if progress:
            progress(n + 1, len(places))
    new |= _lost(old, {relative for _, relative in places}, result)
    _count(result, old, new)
    if result.changed or result.dropped or edition.is_damaged:
        archive.ledger.replace(edition, pa.concat_tables([SCHEMA.empty_table(), *new.values()]))
    result.seconds = time.monotonic() - started
    return result


def _lost(old: Mapping[_Name, pa.Table], places: Collection[str], result: Reindexed) -> dict[_Name, pa.Table]:
    """What the old ledger says of tables that had files and are not there: nothing else remembers them."""
    found = {
        name: rows
        for name, rows in old.items()
        if relative_of(name[0], Dataset.parse(name[1])) not in places and (pc.sum(rows["files"]).as_py() or 0) > 0
    }
    for table, text in found:
        relative = relative_of(table, Dataset.parse(text))
        detail = f"{relative} has no log, and files by the ledger, which keeps what it says of them"
        result.problems.append(Unread(relative, detail, RESTORE_LOG))
    return found


def _by_table(rows: pa.Table) -> dict[_Name, pa.Table]:
    """The rows of each table; they are sorted by it."""
    ends = rows.group_by(["table", "dataset"], use_threads=False).aggregate([([], "count_all")])
    found: dict[_Name, pa.Table] = {}
    start = 0
    for row in ends.to_pylist():
        found[row["table"], row["dataset"]] = rows.slice(start, row["count_all"])
        start += row["count_all"]
    return found


def _count(result: Reindexed, old: Mapping[_Name, pa.Table], new: Mapping[_Name, pa.Table]) -> None:
    for name in {**old, **new}:
        before, after = old.get(name), new.get(name)
        result.rows += 0 if after is None else after.num_rows
        if before is not None and after is not None and before.equals(after):
            continue
        had = {} if before is None else {_key(row): row for row in before.to_pylist()}
        has = {} if after is None else {_key(row): row for row in after.to_pylist()}
        result.changed += sum(1 for key, row in has.items() if had.get(key) != row)
        result.dropped += len(had.keys() - has.keys())


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("version", "week", "slice"))


def _tables(archive: Archive) -> Iterator[tuple[str, str]]:
    """Every table of raw data and of tiers in the store: (`raw` or the tier, place)."""
    roots = [(RAW, RAW), *((tier, f"{_TIERS}/{tier}") for tier in archive.store.list(_TIERS))]
    for table, root in roots:
        for component in archive.store.list(root):
            for name in archive.store.list(f"{root}/{component}"):
                if archive.store.list(f"{root}/{component}/{name}/_delta_log"):
                    yield table, f"{root}/{component}/{name}"


def _rows_of_table(
    archive: Archive, table: str, relative: str, old: Mapping[_Name, pa.Table], result: Reindexed
) -> tuple[_Name, list[Row], TableSnapshot]:
    snapshot = open_table(archive.store, relative)
    if snapshot is None:
        raise DamagedTable(f"{relative} is no table")
    dataset = _dataset(snapshot)
    if relative_of(table, dataset) != relative:
        raise DamagedTable(f"{relative} says that it is {dataset}")
    versions = [version for version in log_versions(archive.store, relative) if version <= snapshot.version]
    commits = [made for version in versions for made in _one(archive, relative, version)]
    ours = [made for made in commits if made.note.get("kind")]
    rows = [row.as_dict() for made in ours for row in rows_of(table, dataset, made)]
    result.tables += 1
    result.commits += len(ours)
    first = versions[0] if versions else snapshot.version + 1
    known = old.get((table, dataset.text), SCHEMA.empty_table())
    if first > 0:
        rows = _with_earlier(table, dataset, snapshot, commits, rows, _earlier(known, first))
        rows = [*_expired(archive, table, dataset, snapshot, rows, first), *rows]
    return (table, dataset.text), rows, snapshot


def _collapsed_weeks(rows: pa.Table) -> set[str]:
    return {row["week"] for row in rows.select(["week", "commit_kind"]).to_pylist() if row["commit_kind"] == SEALED}


def _earlier(known: pa.Table, first: int) -> list[Row]:
    """The old ledger's rows of commits that the log no longer has; of a week that has collapsed, all."""
    rows = as_rows(known)
    kept = {
        row["week"]: row["version"]
        for row in rows
        if row["commit_kind"] == SEALED and min(sealed_versions(row["sealed"])) < first
    }
    return [
        row
        for row in rows
        if (row["version"] < first and row["commit_kind"] != SEALED)
        or (row["commit_kind"] in (SEALED, GAP) and row["version"] <= kept.get(row["week"], -1))
    ]


def _with_earlier(
    table: str,
    dataset: Dataset,
    snapshot: TableSnapshot,
    commits: Sequence[Commit],
    rows: list[Row],
    earlier: list[Row],
) -> list[Row]:
    """The rows of the log, and those before it where all together say what the table holds."""
    whole = as_rows(once(pa.Table.from_pylist([*earlier, *rows], schema=SCHEMA)))
    collapsed_weeks = {row["week"] for row in whole if row["commit_kind"] == SEALED}

    def unit(week: str, key: str) -> tuple[str, str]:
        return week, "" if week in collapsed_weeks else key

    held: dict[tuple[str, str], list[int]] = {}
    for file in snapshot.files():
        add_up(held, unit(file.week, file.slice), file.rows, file.size_bytes, 1)
    said: dict[tuple[str, str], list[int]] = {}
    for row in whole:
        if row["week"]:
            add_up(said, unit(row["week"], row["slice"]), row["rows"], row["bytes"], row["files"])
    if held == said or not (earlier or commits):
        return whole
    return [*_base(table, dataset, snapshot, commits, earlier), *rows]


def _expired(
    archive: Archive, table: str, dataset: Dataset, snapshot: TableSnapshot, rows: Sequence[Row], first: int
) -> Iterator[Row]:
    """A row of each week that was let go and of which neither the log nor the old ledger says so any more."""
    known = {row["week"] for row in rows if row["commit_kind"] == EXPIRE}
    place = f"{relative_of(table, dataset)}/_certificates"
    weeks = [name.removesuffix(".json") for name in archive.store.list(place) if name.endswith(".json")]
    for week in weeks:
        mark = read_mark(archive, table, dataset, week) if week not in known and is_expired(snapshot, week) else None
        if mark is None:
            continue
        let_go = LedgerRow(
            table=table,
            dataset=dataset,
            version=first - 1,
            week=week,
            slice="",
            commit_kind=EXPIRE,
            rows=0,
            bytes=0,
            files=0,
            avro_bytes=0,
            time_min_us=None,
            time_max_us=None,
            records=0,
            positions={},
            epochs={},
            gaps=[],
            schemas=[],
            at_us=microseconds(parse_time(mark.at)),
            run=mark.run,
        )
        yield let_go.as_dict()


def _one(archive: Archive, relative: str, version: int) -> Iterator[Commit]:
    for made in read_log(archive.store, relative, version):
        yield made
        return


def _dataset(snapshot: TableSnapshot) -> Dataset:
    text = snapshot.description.get("dataset")
    if not isinstance(text, str):
        raise DamagedTable(f"The description of {snapshot.relative} does not say of what dataset it is")
    return Dataset.parse(text)


def _base(
    table: str, dataset: Dataset, snapshot: TableSnapshot, commits: Sequence[Commit], earlier: list[Row]
) -> list[Row]:
    """What the commits before the log left, one row per slice."""
    left: dict[tuple[str, str], list[int]] = {}
    files = snapshot.files()
    for file in files:
        add_up(left, (file.week, file.slice), file.rows, file.size_bytes, 1)
    for made in commits:
        for sign, of in ((-1, made.added), (1, made.removed)):
            for file in of:
                add_up(left, (file.week, file.slice), sign * file.rows, sign * file.size_bytes, sign)
    whole = sum(of[0] for of in left.values())
    first = commits[0]
    found: list[Row] = []
    for week, key in sorted(left) or [("", "")]:
        rows, size, count = left.get((week, key), (0, 0, 0))
        mine = [file for file in files if (file.week, file.slice) == (week, key)]
        made_up = LedgerRow(
            table=table,
            dataset=dataset,
            version=first.version - 1,
            week=week,
            slice=key,
            commit_kind=KIND,
            rows=rows,
            bytes=size,
            files=count,
            avro_bytes=0,
            time_min_us=min((f.time_min_us for f in mine if f.time_min_us is not None), default=None),
            time_max_us=max((f.time_max_us for f in mine if f.time_max_us is not None), default=None),
            records=0 if found else whole,
            positions={} if found else _positions(snapshot, earlier),
            epochs={},
            gaps=[] if found else [gap for row in earlier for gap in json.loads(row["gaps"])],
            schemas=[],
            at_us=first.at_us,
            run=KIND,
        )
        found.append({**made_up.as_dict(), "names": None})
    return found


def _positions(snapshot: TableSnapshot, earlier: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How far each partition has been read, of those that the old ledger or the rows of the table know."""
    partitions = {partition for row in earlier for partition in json.loads(row["positions"])}
    reached = {partition: snapshot.transaction_version(f"kafka:{partition}") for partition in partitions}
    return {partition: position for partition, position in reached.items() if position is not None}
