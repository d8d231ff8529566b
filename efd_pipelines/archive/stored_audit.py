"""The store audited: whether every file that counts is there, and whether the tables' logs say what the ledger says.

Of files the directories are listed, of logs the newest version is looked for: nothing is opened that the ledger knows.
What nobody of here has put there shows as well: files with other names than ours, tables that the ledger has not.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from efd_pipelines.archive.delta_log import Commit, DamagedTable, log_versions, read_log
from efd_pipelines.archive.entries import Entries
from efd_pipelines.archive.findings import DEEPER, LEADING, REINDEX, REMOVE, RESTORE, RESTORE_LOG, Audit, counted, some
from efd_pipelines.archive.ledger import RAW, relative_of
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.errors import UsageError
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

_LOG_KEPT_US = 29 * 86_400_000_000
_OURS = re.compile(r"(quarantine|dead|\d{4}-\d\d-\d\d(W|T\d\d)?)-([0-9a-f]{32}|[0-9a-f]{24})\.parquet")
"""What our files are called, `<slice>-<hash of the content>.parquet`; in the first release hashes were shorter.
Replaced ones stay until they are cleaned up."""

Answer = TypeVar("Answer")


def audit_store(audit: Audit, entries: Entries, archive: Archive, week: str | None, since: str | None) -> None:
    """Every file that counts is in its directory, once, with as many bytes as its slice must have."""
    import polars as pl

    live = entries.live if week is None else entries.live.filter(pl.col("week") == week)
    columns = ("dataset", "week", "slice", "hash", "times")
    for dataset, of, key, digest, times in live.filter(pl.col("times") != 1).select(columns).iter_rows():
        audit.duplicates += 1 if times > 1 else 0
        detail = f"file {key}-{digest}.parquet was added {times} times more than removed"
        audit.found(dataset, of, "doubled" if times > 1 else "ledger", detail, DEEPER)
    if since is not None:  # the names of quarantine and of the dead come after all dates
        live = live.filter(pl.col("week") >= since)
    counting = live.filter(pl.col("times") == 1)
    wanted = counting.group_by("dataset", "week", maintain_order=True).agg("slice", "of", "hash")
    held = entries.slices.filter("known")
    sizes = {(d, w, s): (rows, size) for d, w, s, rows, size in held.select(
        "dataset", "week", "slice", "rows", "bytes").iter_rows()}  # fmt: skip
    places = list(wanted.iter_rows())
    listings = _asked(archive, lambda of: archive.store.sizes(_directory(of[0], of[1])), places)
    for (dataset, week_of, keys, units, digests), listing in zip(places, listings, strict=True):
        _compare(audit, dataset, week_of, zip(keys, units, digests, strict=True), listing, sizes)


def _directory(dataset: str, week: str) -> str:
    return f"{relative_of(RAW, Dataset.parse(dataset))}/week={week}"


def _compare(
    audit: Audit,
    dataset: str,
    week: str,
    files: Iterable[tuple[str, str, str]],
    listing: Mapping[str, int],
    held: Mapping[tuple[str, str, str], tuple[int, int]],
) -> None:
    _audit_names(audit, dataset, week, listing)
    found: dict[str, list[int | None]] = {}
    gone: dict[str, list[str]] = {}
    for key, unit, digest in files:
        name = f"{key}-{digest}.parquet"
        size = listing.get(name)
        found.setdefault(unit, []).append(size)
        if size is None:
            gone.setdefault(unit, []).append(name)
    for key, names in gone.items():
        rows = held.get((dataset, week, key), (0, 0))[0]
        whole = len(names) == len(found[key])
        audit.missing += rows if whole else len(names)
        audit.gone |= {(dataset, f"week={week}/{name}"): None if whole else 1 for name in names}
        detail = f"{some(names)}: not in the store"
        audit.found(dataset, week, "unreadable", f"{detail}; {counted(rows, 'row')}" if whole else detail, RESTORE)
    for key, sizes in found.items():
        if key in gone or (dataset, week, key) not in held:
            continue
        expected = held[dataset, week, key][1]
        there = sum(size or 0 for size in sizes)
        if there != expected:
            what = f"slice {key}" if key else "the week"
            detail = f"{what} has {there:,} bytes in the store, {expected:,} were written"
            audit.found(dataset, week, "size", detail, RESTORE)


def audit_directories(audit: Audit, archive: Archive, dataset: Dataset, week: str | None) -> None:
    """A dataset has no directories but ours, and nothing else in them, also where none of their files counts."""
    relative = relative_of(RAW, dataset)
    for name in archive.store.list(relative):
        of = name.removeprefix("week=")
        if name.startswith("_"):  # the log, and certificates
            continue
        if not _is_week(of) or of == name:
            audit.found(dataset.text, "", "foreign", f"{relative}/{name}: not written by this project", REMOVE)
        elif week in (None, of):
            _audit_names(audit, dataset.text, of, archive.store.sizes(f"{relative}/{name}"))


def _is_week(text: str) -> bool:
    if text in (QUARANTINE, DEAD):
        return True
    try:
        return Week.parse(text).key == text
    except UsageError:
        return False


def _audit_names(audit: Audit, dataset: str, week: str, names: Iterable[str]) -> None:
    """A week's directory has no files but ours: whoever reads it as it lies would read the others, too."""
    foreign = sorted(name for name in names if not _OURS.fullmatch(name))
    if foreign:
        audit.found(dataset, week, "foreign", f"{some(foreign)}: not written by this project", REMOVE)


def audit_tables(audit: Audit, entries: Entries, archive: Archive) -> None:
    """Every table of raw data that there is, the ledger has: without a row of it nobody would look at it."""
    known = {dataset.path for dataset in entries.datasets}
    components = archive.store.list(RAW)
    listings = _asked(archive, lambda component: archive.store.list(f"{RAW}/{component}"), components)
    there = [f"{component}/{name}" for component, of in zip(components, listings, strict=True) for name in of]
    unknown = [path for path in there if path not in known and archive.store.list(f"{RAW}/{path}/_delta_log")]
    if not unknown:
        return
    # A run announces a table before it makes it, and takes that back when the ledger has it: so it is asked for first.
    announced = {dataset.path for _, dataset in archive.ledger.announced_tables()}
    entered = {Dataset.parse(text).path for text in archive.ledger.dataset_names(RAW)}
    lacking = [f"{RAW}/{path}" for path in unknown if path not in announced | entered]
    if lacking:
        detail = f"the ledger has no row of {counted(len(lacking), 'table')}: {some(lacking)}"
        audit.found("", "", "ledger", detail, REINDEX)


def audit_logs(audit: Audit, entries: Entries, archive: Archive, announced: Collection[tuple[str, Dataset]]) -> None:
    """What the tables' logs have and the ledger has not, and the other way round.

    `announced` was asked for before the ledger was read: what a run committed meanwhile is no fault.
    """
    known = {row["dataset"]: _known(row) for row in entries.versions.iter_rows(named=True)}
    unknown = _asked(archive, lambda of: _unknown_commits(archive, of, known[of.text]), entries.datasets)
    lagging: list[Dataset] = []
    for dataset, found in zip(entries.datasets, unknown, strict=True):
        if found.is_ahead:
            newest = known[dataset.text].newest
            audit.found(dataset.text, "", "ledger", f"the log has no version {newest}, the ledger has", LEADING)
        if found.damage:
            audit.found(dataset.text, "", "log", found.damage, RESTORE_LOG)
        for made in found.commits:
            lagging += _audit_unknown(audit, dataset, made, known[dataset.text].newest, (RAW, dataset) in announced)
    if lagging:
        archive.ledger.catch_up(dict.fromkeys((RAW, dataset) for dataset in lagging))


@dataclass(frozen=True, slots=True)
class _Unknown:
    """Commits that a log has and the ledger has not; `is_ahead` where the ledger has one that the log has not."""

    commits: Sequence[Commit]
    is_ahead: bool = False
    damage: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the ledger knows of a table's log: `missing` are versions before the newest that it does not."""

    newest: int
    at_us: int
    missing: frozenset[int]


def _known(row: Mapping[str, Any]) -> _Known:
    missing = set() if row["versions"] is None else set(range(row["newest"])) - set(row["versions"])
    for first, last in row["ranges"] or () if missing else ():
        missing -= set(range(first, last + 1))
    return _Known(row["newest"], row["at"], frozenset(missing))


def _unknown_commits(archive: Archive, dataset: Dataset, known: _Known) -> _Unknown:
    relative, newest, missing = relative_of(RAW, dataset), known.newest, set(known.missing)
    store = archive.store
    if missing:  # few: commits that only add columns, and those older than the log
        missing &= set(log_versions(store, relative))
    found: list[Commit] = []
    try:
        for version in sorted(missing):
            found += itertools.islice(read_log(store, relative, version), 1)
        if store.size(f"{relative}/_delta_log/{newest:020d}.json") is None:
            if not store.list(f"{relative}/_delta_log"):
                return _Unknown(found, damage=f"the log of {relative} is gone: nothing can read its files")
            return _Unknown(found, is_ahead=known.at_us > time.time() * 1e6 - _LOG_KEPT_US)
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


def _asked(archive: Archive, question: Callable[[Any], Answer], things: Sequence[Any]) -> list[Answer]:
    """The answers of the store, many asked at once where it is far away."""
    with ThreadPoolExecutor(archive.store.asked_at_once) as pool:
        return list(pool.map(question, things))
