"""The audit: whether the archive holds what it says, each record once.

The plain audit asks the ledger (and Kafka, where it is reachable): seconds for all topics. The deep audit reads
every file that counts and compares it with the tables' logs and the ledger. Both say what, where, and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.positions import ENDED
from efd_pipelines.archive.reading import conform
from efd_pipelines.archive.slices import DEAD, QUARANTINE, Slice
from efd_pipelines.archive.tables import TableSnapshot, slice_of_path
from efd_pipelines.errors import StoreUnavailable, UnknownDataset
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

_REPORT = "Report it with this output: the archive must not be like this."
_KEEP = "Restore the file from a copy of the store; until then its rows are missing."
_COORDINATES = ("archive_source", "kafka_partition", "kafka_offset")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    topic: str
    week: str
    kind: str
    detail: str
    remedy: str


@dataclass(slots=True)
class Audit:
    """What the audit found. `records` came from Kafka, `rows` are kept; both over all weeks asked for."""

    topics: int = 0
    records: int = 0
    rows: int = 0
    missing: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    quarantined: int = 0
    problems: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    archive: Archive, *, deep: bool = False, week: str | None = None, datasets: Collection[Dataset] | None = None
) -> Audit:
    """Recounts and audits the datasets (all by default).

    Raises:
        UnknownDataset: one that is not in the archive.
        StoreUnavailable: the store did not answer.
    """
    archive.ledger.catch_up_pending()
    audit = Audit()
    counts = _ledger_counts(archive)
    wanted = {dataset.text for dataset in datasets} if datasets is not None else set(counts)
    unknown = sorted(wanted - set(counts))
    if unknown:
        raise UnknownDataset(f"{unknown[0]} is not in the archive")
    for text in sorted(wanted):
        _audit_counts(audit, text, counts[text], week)
    if deep:
        for text in sorted(wanted):
            _audit_files(archive, audit, Dataset.parse(text), counts[text], week)
    return audit


def _ledger_counts(archive: Archive) -> dict[str, dict[str, Any]]:
    """By dataset: records, rows and files by week, gaps and positions, as the ledger has them."""
    ledger = archive.ledger.table()
    raw = ledger.filter(pc.equal(ledger["table"], RAW))
    found: dict[str, dict[str, Any]] = {}
    for row in raw.select(["dataset", "week", "rows", "files", "records", "gaps", "positions"]).to_pylist():
        of = found.setdefault(row["dataset"], {"records": 0, "rows": {}, "files": {}, "gaps": [], "positions": {}})
        of["records"] += row["records"]
        if row["week"]:
            of["rows"][row["week"]] = of["rows"].get(row["week"], 0) + row["rows"]
            of["files"][row["week"]] = of["files"].get(row["week"], 0) + row["files"]
        of["gaps"] += json.loads(row["gaps"]) if row["gaps"] != "[]" else []
        if row["positions"] != "{}":
            for partition, position in json.loads(row["positions"]).items():
                of["positions"][partition] = max(position, of["positions"].get(partition, 0))
    return found


def _audit_counts(audit: Audit, topic: str, counts: dict[str, Any], week: str | None) -> None:
    rows = counts["rows"]
    audit.topics += 1
    audit.records += counts["records"]
    audit.rows += sum(of for name, of in rows.items() if week in (None, name))
    audit.dead_letters += rows.get(DEAD, 0)
    audit.quarantined += rows.get(QUARANTINE, 0)
    whole = sum(rows.values())
    if whole != counts["records"]:
        kind = "lost" if whole < counts["records"] else "doubled"
        audit.missing += max(0, counts["records"] - whole)
        audit.duplicates += max(0, whole - counts["records"])
        detail = f"{counts['records']} records were read from Kafka, {whole} rows are kept"
        audit.problems.append(Finding(topic, "", kind, detail, "`efd archive verify --deep` says where. " + _REPORT))
    for gap in counts["gaps"]:
        count = gap["end"] - gap["first"]
        audit.missing += count
        detail = f"partition {gap['partition']}: offsets {gap['first']} to {gap['end'] - 1}: {gap['reason']}"
        remedy = "Kafka no longer has them; `efd archive gaps` says who may."
        audit.problems.append(Finding(topic, "", "gap", detail, remedy))


def _audit_files(archive: Archive, audit: Audit, dataset: Dataset, counts: dict[str, Any], week: str | None) -> None:
    """Reads every file that counts of one dataset."""
    snapshot = archive.snapshot(dataset)
    files = [file for file in snapshot.files() if week in (None, file.week)]
    found: list[pa.Table] = []
    rows_by_week: dict[str, int] = {}
    for file in files:
        rows_by_week[file.week] = rows_by_week.get(file.week, 0) + file.rows
        try:
            coordinates = _audit_file(audit, snapshot, dataset, file)
        except (StoreUnavailable, pa.ArrowException) as error:
            detail = getattr(error, "message", str(error))
            audit.missing += file.rows
            audit.problems.append(Finding(dataset.text, file.week, "unreadable", f"{file.path}: {detail}", _KEEP))
            continue
        found.append(coordinates)
    for name in sorted(set(rows_by_week) | {of for of in counts["rows"] if week in (None, of)}):
        logged, indexed = rows_by_week.get(name, 0), counts["rows"].get(name, 0)
        if logged != indexed:
            detail = f"the table has {logged} rows, the ledger says {indexed}"
            remedy = "Run again: the ledger may have been behind. If it stays, " + _REPORT.lower()
            audit.problems.append(Finding(dataset.text, name, "ledger", detail, remedy))
    if found:
        _audit_coordinates(audit, snapshot, dataset, pa.concat_tables(found))


def _audit_file(audit: Audit, snapshot: TableSnapshot, dataset: Dataset, file: DataFile) -> pa.Table:
    """Checks one file against the log; gives its rows' coordinates."""
    store, relative = snapshot.store, f"{snapshot.relative}/{file.path}"
    size = store.size(relative)
    if size is None:
        raise StoreUnavailable(f"{file.path} is not in the store")
    if size != file.size_bytes:
        detail = f"{file.path} has {size} bytes, {file.size_bytes} were written"
        audit.problems.append(Finding(dataset.text, file.week, "size", detail, _KEEP))
    with store.errors(f"read {relative}"):
        # Reading all columns decompresses every page: a bit that flipped is seen.
        rows = pq.read_table(store.path(relative), filesystem=store.arrow_fs, partitioning=None)
    if rows.num_rows != file.rows:
        detail = f"{file.path} has {rows.num_rows} rows, the log says {file.rows}"
        audit.problems.append(Finding(dataset.text, file.week, "rows", detail, _KEEP))
    for detail in _foreign_times(rows, file):
        audit.problems.append(Finding(dataset.text, file.week, "foreign", detail, _REPORT))
    schema = pa.schema([snapshot.schema.field(name) for name in _COORDINATES])
    return conform(rows.select([name for name in _COORDINATES if name in rows.column_names]), schema, rows.num_rows)


def _foreign_times(rows: pa.Table, file: DataFile) -> Iterator[str]:
    """Rows that do not belong to the file's slice and week."""
    if file.week in (QUARANTINE, DEAD) or not rows.num_rows:
        return
    key = slice_of_path(file.path)
    of = Slice.parse(key)
    times = rows["time"].cast(pa.int64())
    outside = pc.sum(pc.or_kleene(pc.less(times, of.start_us), pc.greater_equal(times, of.end_us))).as_py() or 0
    outside += times.null_count
    if outside:
        yield f"{file.path}: {outside} rows do not belong to slice {key}"
    if of.week.key != file.week:
        yield f"{file.path}: slice {key} does not belong to week {file.week}"


def _audit_coordinates(audit: Audit, snapshot: TableSnapshot, dataset: Dataset, rows: pa.Table) -> None:
    """Each coordinate once, and none at or beyond its source's position."""
    repeated = rows.group_by(list(_COORDINATES)).aggregate([([], "count_all")])
    doubled = repeated.filter(pc.greater(repeated["count_all"], 1))
    if doubled.num_rows:
        audit.duplicates += int(pc.sum(pc.subtract(doubled["count_all"], 1)).as_py())
        first = doubled.slice(0, 1).to_pylist()[0]
        detail = f"{doubled.num_rows} records stand more than once, the first at {_coordinate(first)}"
        audit.problems.append(Finding(dataset.text, "", "doubled", detail, _REPORT))
    ends = rows.group_by(["archive_source", "kafka_partition"]).aggregate([("kafka_offset", "max")])
    for row in ends.to_pylist():
        reached = snapshot.transaction_version(f"kafka:{row['archive_source']}:{row['kafka_partition']}")
        if reached is not None and reached != ENDED and row["kafka_offset_max"] >= reached:
            detail = f"offset {row['kafka_offset_max']} of {row['archive_source']} is kept, the position is {reached}"
            audit.problems.append(Finding(dataset.text, "", "position", detail, _REPORT))


def _coordinate(row: dict[str, Any]) -> str:
    return f"{row['archive_source']}, partition {row['kafka_partition']}, offset {row['kafka_offset']}"


def gaps(archive: Archive, datasets: Sequence[Dataset] | None = None) -> list[dict[str, Any]]:
    """Every recorded gap: topic, source, partition, first, end, reason, noticed."""
    archive.ledger.catch_up_pending()
    wanted = None if datasets is None else {dataset.text for dataset in datasets}
    counts = _ledger_counts(archive)
    return [
        {"topic": topic, **gap}
        for topic in sorted(counts)
        if wanted is None or topic in wanted
        for gap in counts[topic]["gaps"]
    ]
