"""Cleaning: removing files that no longer count, once nobody can be reading or about to commit them.

A file goes when no commit of the last 7 days (or more, `sealing.replaced_days`) added or removed it, it was written
longer ago than that, and it is not in the table now: what merging replaced, and what killed writers left behind.
delta-rs finds them (a full vacuum as a dry run: a lite one forgets replaced files at the next checkpoint); they are
looked at again and removed here, since its own vacuum would trust its listing. Never a directory; never the log, the
certificates.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efd_pipelines.archive.ledger import RELATIVE as LEDGER
from efd_pipelines.archive.ledger import relative_of
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

_log = logging.getLogger(__name__)
_HOURS_PER_DAY = 24
_S_PER_HOUR = 3600


@dataclass(slots=True)
class CleanResult:
    """What was removed: files and their bytes, of how many tables. `busy` tables were left for the next time."""

    tables: int = 0
    files: int = 0
    bytes: int = 0
    busy: int = 0
    seconds: float = 0.0


def clean(archive: Archive, *, datasets: Collection[Dataset] | None = None, run: str = "") -> CleanResult:
    """Removes what no longer counts of the datasets' tables and their tiers; without `datasets`, of the ledger too.

    Safe to be killed, repeated, and run beside drains and merges.

    Raises:
        StoreUnavailable: what was removed before stays removed, the rest waits.
    """
    started = time.monotonic()
    archive.prepare()
    result = CleanResult()
    hours = int(archive.settings.configuration.sealing.replaced_days * _HOURS_PER_DAY)
    for table, dataset in _tables(archive, datasets):
        snapshot = open_table(archive.store, relative_of(table, dataset))
        if snapshot is None:
            continue
        # A writer may be about to commit, under the same name, what a killed one left behind.
        if (table, dataset) in archive.ledger.announced_tables():
            result.busy += 1
            continue
        _clean(snapshot, hours, result)
    if datasets is None:
        index = open_table(archive.store, LEDGER, partition="month")
        if index is not None:
            _clean(index, hours, result)
    result.seconds = time.monotonic() - started
    _log.info("run %s removed %d files, %d bytes", run, result.files, result.bytes)
    return result


def clean_table(snapshot: TableSnapshot, days: float) -> CleanResult:
    """The same for one table that is not the ledger's to know, of which the caller is the only writer.

    Raises:
        StoreUnavailable: what was removed before stays removed.
    """
    result = CleanResult()
    _clean(snapshot, int(days * _HOURS_PER_DAY), result)
    return result


def _tables(archive: Archive, datasets: Collection[Dataset] | None) -> Iterator[tuple[str, Dataset]]:
    latest = archive.ledger.latest()
    for table, text in zip(latest["table"].to_pylist(), latest["dataset"].to_pylist(), strict=True):
        dataset = Dataset.parse(text)
        if datasets is None or dataset in datasets:
            yield table, dataset


def _clean(snapshot: TableSnapshot, hours: int, result: CleanResult) -> None:
    store = snapshot.store
    with store.errors(f"look for replaced files of {snapshot.relative}"):
        candidates = snapshot.delta.vacuum(
            retention_hours=hours, dry_run=True, enforce_retention_duration=False, full=True
        )
    result.tables += 1
    old = dict(_written_before(snapshot, candidates, hours))
    fresh = open_table(store, snapshot.relative, partition=snapshot.partition) if old else None
    if fresh is None:
        return
    counting = {file.path for file in fresh.files()}
    gone = [path for path in old if path not in counting]
    store.delete_all([f"{snapshot.relative}/{path}" for path in gone])
    result.files += len(gone)
    result.bytes += sum(old[path] for path in gone)


def _written_before(snapshot: TableSnapshot, candidates: Sequence[str], hours: int) -> Iterator[tuple[str, int]]:
    """The candidates that were still written longer ago, looked at once more: path and bytes."""
    before = time.time() - hours * _S_PER_HOUR
    by_directory: dict[str, set[str]] = {}
    for path in candidates:
        directory, _, name = path.rpartition("/")
        if directory.startswith(f"{snapshot.partition}="):
            by_directory.setdefault(directory, set()).add(name)
    for directory, names in sorted(by_directory.items()):
        for entry in snapshot.store.entries(f"{snapshot.relative}/{directory}"):
            if entry.name in names and entry.written_s < before:
                yield f"{directory}/{entry.name}", entry.size_bytes
