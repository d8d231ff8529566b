"""Summed rows: what the ledger's rows of one tier's weeks collapse into.

A tier has neither certificates nor positions: what a week's rows say together must be what the tier's table holds of
it, file by file, or the week is left as it is. The one row has the sums, the files, the newest version that changed
anything, and in `sealed` the versions that it covers. What let a week go stays a row of its own, and so does what came
after it.
What belongs here: rows in, rows out. Of archives: `sealed_rows.py`; putting the rows into the ledger: `collapse.py`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from efd_pipelines.archive.expiry import KIND as EXPIRE
from efd_pipelines.archive.ledger_rows import (
    REARRANGING,
    SEALED,
    Change,
    changes_text,
    hash_of_path,
    packed,
)
from efd_pipelines.archive.sealed_rows import Row, files_left, version_ranges, versions_of
from efd_pipelines.times import Week

if TYPE_CHECKING:
    from efd_pipelines.archive.files import DataFile


def summed(rows: Iterable[Row], weeks: Collection[str], files: Sequence[DataFile]) -> tuple[list[Row], list[Row], int]:
    """The rows of one tier's table with those of some weeks made one: all rows, those made, and how many weeks were
    left.

    Args:
        weeks: those that may collapse; one that has a single row has done so.
        files: the table's, of these weeks at least.
    """
    by_week: dict[str, list[Row]] = {}
    for row in rows:
        by_week.setdefault(row["week"], []).append(row)
    made, left = [], 0
    for week in sorted(by_week.keys() & set(weeks)):
        covered = _covered(by_week[week])
        if len(covered) < 2:
            continue
        if not _agrees(by_week[week], [file for file in files if file.week == week]):
            left += 1
            continue
        others = [row for row in by_week[week] if all(row is not one for one in covered)]
        made.append(_sum(covered))
        by_week[week] = [*others, made[-1]]
    return [row for of in by_week.values() for row in of], made, left


def _covered(rows: Sequence[Row]) -> list[Row]:
    """The rows before the week was let go."""
    let_go = min((row["version"] for row in rows if row["commit_kind"] == EXPIRE), default=None)
    return [row for row in rows if let_go is None or row["version"] < let_go]


def _agrees(rows: Sequence[Row], files: Sequence[DataFile]) -> bool:
    """Whether the rows together say what the table holds."""
    said = tuple(sum(row[name] for row in rows) for name in ("rows", "bytes", "files"))
    held = sum(file.rows for file in files), sum(file.size_bytes for file in files), len(files)
    named = _live(rows)
    return said == held and (named is None or sorted(named) == sorted(hash_of_path(file.path) for file in files))


def _live(rows: Sequence[Row]) -> dict[str, str] | None:
    """The files that rows leave, by hash, each with its slice; None where an older release did not name them."""
    counts = files_left(rows)
    if counts is None:
        return None
    slices = {
        hash_of_path(name[1:]): row["slice"] or name[1:].rpartition("-")[0]
        for row in rows
        for name in json.loads(row["names"])
    }
    return {digest: slices[digest] for digest, count in counts.items() if count > 0}


def _sum(covered: Sequence[Row]) -> Row:
    newest = max(covered, key=lambda row: (row["version"], row["slice"]))
    live = _live(covered)
    changed = max((_changed(row) for row in covered), default=-1)
    first = min((row["time_min"] for row in covered if row["time_min"] is not None), default=None)
    last = max((row["time_max"] for row in covered if row["time_max"] is not None), default=None)
    week = Week.parse(newest["week"])
    whole = Change(week.start_us if first is None else first, week.end_us - 1 if last is None else last, changed)
    versions = {version for row in covered for version in versions_of(row)}
    return {
        **newest,
        **{name: sum(row[name] for row in covered) for name in ("rows", "bytes", "files", "avro_bytes", "records")},
        "slice": "",
        "commit_kind": SEALED,
        "time_min": first,
        "time_max": last,
        "positions": "{}",
        "epochs": "{}",
        "gaps": "[]",
        "schemas": packed(sorted({token for row in covered for token in json.loads(row["schemas"] or "[]")})),
        "names": None if live is None else packed(sorted(f"+{of}-{digest}" for digest, of in live.items())),
        "at": max(row["at"] for row in covered),
        "changed": changed,
        # Who goes by versions does the whole week again: a stretch for each hour would be most of the ledger.
        "changes": changes_text([whole] if changed >= 0 else []),
        "sealed": packed({"versions": version_ranges(versions)}),
        "history": 0,
    }


def _changed(row: Row) -> int:
    """The newest version of a row that changed anything, −1 for none."""
    if row["commit_kind"] == SEALED:
        return int(row["changed"])
    return -1 if row["commit_kind"] in REARRANGING and row["rows"] >= 0 else int(row["version"])
