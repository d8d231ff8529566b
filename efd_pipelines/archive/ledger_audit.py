"""The ledger audited against one table: what it says of slices, files and commits, the table and its log say, too.

Reads the log's entries that are still there, and no data. Files, rows and positions: `deep_audit.py`. What the ledger
shows by itself: `audit.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from efd_pipelines.archive.delta_log import Commit, DamagedTable, read_log
from efd_pipelines.archive.entries import add_up
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.findings import REINDEX, RESTORE_LOG, Audit
from efd_pipelines.archive.ledger import RAW, hash_of_path, rows_of
from efd_pipelines.archive.ledger_rows import GAP, SEALED, sealed_versions
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.topics.names import Dataset

Entry = dict[str, Any]
"""A row of the ledger."""


class LedgerAudit:
    """Audits the ledger's rows of one dataset; `entries` are they, and what others have committed since."""

    def __init__(self, audit: Audit, dataset: Dataset, week: str | None, entries: list[Entry]) -> None:
        self._audit = audit
        self._dataset = dataset
        self._week = week
        self.entries = entries

    def check(self, snapshot: TableSnapshot, versions: Sequence[int], files: Sequence[DataFile]) -> None:
        """Compares with the log, of which `versions` are there, and with the files that count."""
        self._check_log(snapshot, versions)
        self._go_to(snapshot, versions)
        self._check_slices(files)
        self._check_names(files)

    def _found(self, week: str, kind: str, detail: str, remedy: str) -> None:
        self._audit.found(self._dataset.text, week, kind, detail, remedy)

    def _check_slices(self, files: Sequence[DataFile]) -> None:
        """Rows, bytes and files of each slice are the table's; a week that has collapsed is one slice."""
        whole = self._collapsed
        table: dict[tuple[str, str], list[int]] = {}
        for file in files:
            add_up(table, (file.week, "" if file.week in whole else file.slice), file.rows, file.size_bytes, 1)
        ledger: dict[tuple[str, str], list[int]] = {}
        for row in self.entries:
            if row["week"] and self._week in (None, row["week"]):
                place = row["week"], "" if row["week"] in whole else row["slice"]
                add_up(ledger, place, row["rows"], row["bytes"], row["files"])
        for week, key in sorted(set(table) | set(ledger)):
            there, said = table.get((week, key), [0, 0, 0]), ledger.get((week, key), [0, 0, 0])
            if there != said:
                words = ("rows", "bytes", "files")
                differing = [f"{a:,} {w}, not {b:,}" for a, b, w in zip(there, said, words, strict=True) if a != b]
                what = f"slice {key}" if key else "the week"
                detail = f"{what}: the table has {'; '.join(differing)} as the ledger says"
                self._found(week, "ledger", detail, REINDEX)

    @property
    def _collapsed(self) -> dict[str, int]:
        """The weeks that have collapsed, with the version up to which they have."""
        return {row["week"]: row["version"] for row in self.entries if row["commit_kind"] == SEALED}

    def _check_names(self, files: Sequence[DataFile]) -> None:
        """The ledger names the table's files, in weeks of which it knows all names."""
        named: dict[str, dict[str, int]] = {}
        unknown = set()
        for row in self.entries:
            if row["names"] is None:
                unknown.add(row["week"])
                continue
            of = named.setdefault(row["week"], {})
            for name in json.loads(row["names"]):
                digest = hash_of_path(name)
                of[digest.lstrip("+-")] = of.get(digest.lstrip("+-"), 0) + (1 if name[0] == "+" else -1)
        there: dict[str, set[str]] = {}
        for file in files:
            there.setdefault(file.week, set()).add(hash_of_path(file.path))
        for week in sorted(set(named) | set(there)):
            if week in unknown or not week or self._week not in (None, week):
                continue
            live = {digest for digest, count in named.get(week, {}).items() if count > 0}
            if live != there.get(week, set()):
                self._found(week, "ledger", "the ledger names other files than the table", REINDEX)

    def _go_to(self, snapshot: TableSnapshot, versions: Sequence[int]) -> None:
        """Takes the ledger to where the table is: others go on writing while everything is read.

        What the ledger lacked when the audit began, the plain audit has found and entered.
        """
        self.entries = [row for row in self.entries if row["version"] <= snapshot.version]
        known = {row["version"] for row in self.entries}
        for row in self.entries:
            if row["commit_kind"] == SEALED:
                known |= sealed_versions(row["sealed"])
        for made in self._commits(snapshot, [version for version in versions if version not in known]):
            if made.note.get("kind"):
                self.entries += [row.as_dict() for row in rows_of(RAW, self._dataset, made)]

    def _check_log(self, snapshot: TableSnapshot, versions: Sequence[int]) -> None:
        """Every commit that the log still has and the ledger has, too, stands there as it was made."""
        relative = snapshot.relative
        gone = sorted(set(range(versions[0], versions[-1] + 1)) - set(versions)) if versions else []
        if gone:
            self._found("", "log", f"the log of {relative} lacks version {gone[0]}", RESTORE_LOG)
        by_version: dict[int, list[Entry]] = {}
        for row in self.entries:
            if row["commit_kind"] not in (SEALED, GAP):
                by_version.setdefault(row["version"], []).append(row)
        for made in self._commits(snapshot, versions):
            if made.version in by_version:
                self._compare_commit(made, by_version[made.version])

    def _commits(self, snapshot: TableSnapshot, versions: Sequence[int]) -> Iterator[Commit]:
        for version in versions:
            if version > snapshot.version:
                return
            try:
                made = next(iter(read_log(snapshot.store, snapshot.relative, version)), None)
            except DamagedTable as error:
                self._found("", "log", error.message, RESTORE_LOG)
                continue
            if made is not None:
                yield made

    def _compare_commit(self, made: Commit, entered: Sequence[Entry]) -> None:
        if not made.note.get("kind"):
            return
        collapsed = self._collapsed
        should = {
            (row.week, row.slice): row.as_dict()
            for row in rows_of(RAW, self._dataset, made)
            if made.version > collapsed.get(row.week, -1)
        }
        for row in entered:
            expected = should.pop((row["week"], row["slice"]), None)
            if expected is None:
                detail = f"version {made.version}: the ledger has {row['slice'] or 'a row'}, the log has not"
                self._found(row["week"], "ledger", detail, REINDEX)
                continue
            differing = [name for name, value in expected.items() if not _agree(row[name], value)]
            if differing:
                name = differing[0]
                detail = f"version {made.version}: {name} is {row[name]!r} in the ledger, {expected[name]!r} in the log"
                self._found(row["week"], "ledger", detail, REINDEX)
        for week, key in should:
            detail = f"version {made.version}: the log has slice {key or '-'}, the ledger has not"
            self._found(week, "ledger", detail, REINDEX)


def _agree(entered: Any, expected: Any) -> bool:
    """Times are numbers in one and datetimes in the other; what an older release did not write is null."""
    if entered is None:
        return expected in (None, 0, "", "[]", "{}") or isinstance(expected, str)
    if hasattr(entered, "timestamp") and isinstance(expected, int):
        from efd_pipelines.times import microseconds

        return microseconds(entered) == expected
    return bool(entered == expected)
