"""Verification: proof that what is let go can be had at a coarser window.

Raw records go when every tier of the dataset has the week whole: after them no median can be computed again. Each
tier's files must have the bytes that were written, and each window that the raw records make, found anew from their
times, must be there with its count, and none besides; with `values`, every statistic is computed again and compared. A
tier goes when the next one has each of its windows: counts add up, and with `values` extremes and first samples agree.
Nothing is taken on trust: not the ledger, not what a tier recorded. Some hours at a time: memory stays small.
What is doubtful is refused with a reason (`refusal.py`); what is done about it: `plan.py`, `enforce.py`. Raw records
against a tier: `recount.py`; a tier against the next: `rollup.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efd_pipelines.archive.certificates import Certificate
from efd_pipelines.archive.expiry import certificate_of_tier, certified, is_expired
from efd_pipelines.archive.files import DataFile, content_hash
from efd_pipelines.archive.ledger import RAW, hash_of_path
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.errors import ArchiveError
from efd_pipelines.retention.due import Due, finer, tiers_of
from efd_pipelines.retention.recount import Recount
from efd_pipelines.retention.refusal import Depth, Refused
from efd_pipelines.retention.rollup import rolled_up
from efd_pipelines.tiers.tier import Tier

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.topics.names import Dataset


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was proved of a week: its certificate, and of each coarser tier version, windows and records looked at.

    `files` are those of the coarser tiers that were looked at.
    """

    certificate: Certificate
    covered_by: Mapping[str, Mapping[str, int]]
    files: Mapping[str, frozenset[str]]


class Tables:
    """The tables of datasets, each opened once: what is found in them is looked at again before anything goes."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._opened: dict[str, TableSnapshot | None] = {}

    def of(self, dataset: Dataset, level: str) -> TableSnapshot | None:
        """The table of a level, None where there is none."""
        relative = self.archive.relative(dataset, level)
        if relative not in self._opened:
            self._opened[relative] = open_table(self.archive.store, relative)
        return self._opened[relative]

    def forget(self, dataset: Dataset, level: str) -> None:
        """It has been changed: open it anew when it is asked for."""
        self._opened.pop(self.archive.relative(dataset, level), None)


def verified(tables: Tables, one: Due, depth: Depth, *, going: bool = False) -> Evidence:
    """Proof that something that is due may go.

    Args:
        going: the next finer level is there yet, and will have gone when this goes.

    Raises:
        Refused: it may not.
        StoreUnavailable: the store did not answer.
    """
    try:
        return _raw(tables, one, depth) if one.level == RAW else _tier(tables, one, depth, going)
    except Refused:
        raise
    except ArchiveError as error:
        raise Refused("damaged", error.message, remedy=error.remedy) from error


def _opened(tables: Tables, one: Due, level: str) -> TableSnapshot:
    snapshot = tables.of(one.dataset, level)
    if snapshot is None:
        raise Refused("uncovered", f"{one.dataset} has no table of {level}", remedy="Build it: `efd tiers run`.")
    return snapshot


def _raw(tables: Tables, one: Due, depth: Depth) -> Evidence:
    snapshot = _opened(tables, one, RAW)
    if is_expired(snapshot, one.week):
        raise Refused("late", "these are late records of a week that has expired; they are kept as they are")
    try:
        certificate = certified(tables.archive, one.dataset, one.week, snapshot)
    except ArchiveError as error:
        raise Refused("unsealed", error.message, remedy=error.remedy) from error
    covered, seen = {}, {}
    for tier in _coarser(tables.archive, one):
        table = _opened(tables, one, tier.name)
        files = _whole_files(table, one, tier.name, depth)
        windows, records = (0, 0) if depth == "metadata" else Recount(snapshot, table, files, one, tier, depth).all()
        covered[tier.name] = {"version": table.version, "windows": windows, "records": records}
        seen[tier.name] = frozenset(file.path for file in files)
    return Evidence(certificate, covered, seen)


def still_covered(tables: Tables, one: Due, evidence: Evidence) -> None:
    """Looks whether the files by which something was found to be covered still count.

    Raises:
        Refused: some do not.
    """
    for level, seen in evidence.files.items():
        now = {file.path for file in _opened(tables, one, level).files({one.week.key})}
        if not seen <= now:
            raise Refused("uncovered", f"{level} was changed while it was looked at")


def _coarser(archive: Archive, one: Due) -> list[Tier]:
    found = tiers_of(one.dataset, archive.settings.configuration, one.level)
    if not found:
        raise Refused("uncovered", f"No tier is coarser than {one.level} of {one.dataset}")
    return found


def _whole_files(table: TableSnapshot, one: Due, level: str, depth: Depth) -> list[DataFile]:
    """The files of the week, each with the bytes that were written."""
    if is_expired(table, one.week):
        raise Refused("uncovered", f"{level} of this week has expired")
    files = table.files({one.week.key})
    if not files:
        raise Refused("uncovered", f"{level} has nothing of this week", remedy="Build it: `efd tiers run`.")
    if depth != "metadata":
        for file in files:
            _check_bytes(table, file)
    return files


def _check_bytes(table: TableSnapshot, file: DataFile) -> bytes:
    relative = f"{table.relative}/{file.path}"
    data = table.store.try_read(relative)
    if data is None:
        raise Refused("damaged", f"{relative} is not in the store")
    if content_hash(data) != hash_of_path(file.path):
        raise Refused("damaged", f"{relative} does not have the bytes that were written")
    return data


def _tier(tables: Tables, one: Due, depth: Depth, going: bool) -> Evidence:
    """A tier's week, against the next tier's."""
    raw = _opened(tables, one, RAW)
    before = finer(one.level)
    if not going and before is not None and not _has_gone(tables, one, before, raw):
        raise Refused("finer", f"{before} of this week is still there, and goes first")
    table, coarser = _opened(tables, one, one.level), _coarser(tables.archive, one)[0]
    files = _whole_files(table, one, one.level, depth)
    above = _opened(tables, one, coarser.name)
    others = _whole_files(above, one, coarser.name, depth)
    windows = records = 0
    if depth != "metadata":
        windows, records = rolled_up(table, files, above, others, coarser, values=depth == "values")
    sha256 = {file.path: _sha256(table, file) if depth == "values" else "" for file in files}
    certificate = certificate_of_tier(table, one.dataset, one.week.key, sha256)
    covered = {coarser.name: {"version": above.version, "windows": windows, "records": records}}
    return Evidence(certificate, covered, {coarser.name: frozenset(file.path for file in others)})


def _has_gone(tables: Tables, one: Due, level: str, raw: TableSnapshot) -> bool:
    if level == RAW:
        return is_expired(raw, one.week)
    table = tables.of(one.dataset, level)
    return table is not None and is_expired(table, one.week)


def _sha256(table: TableSnapshot, file: DataFile) -> str:
    return hashlib.sha256(_check_bytes(table, file)).hexdigest()
