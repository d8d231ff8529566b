"""Records: what was let go, when and why, and which windows late records have touched since.

The ledger says which weeks, how many rows and when; the mark on each certificate says why, by which policy, and what
covers it. A record of a week that has expired comes to an archive whose tiers cannot be computed again: it is kept as
it is, and the window that it belongs to is told by `late_windows`, for whoever reads that window's summary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efd_pipelines.archive.expiry import Mark, is_expired, read_mark
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.reading import read_file
from efd_pipelines.archive.tables import open_table
from efd_pipelines.retention.policy import LEVELS
from efd_pipelines.tiers.tier import Tier
from efd_pipelines.tiers.windows import KEYS, find_windows
from efd_pipelines.times import Week, from_microseconds
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive


_GONE = """
    WITH of AS (
        SELECT "table", dataset, week, commit_kind = 'expire' AS is_expiry, rows, bytes, files, "at", run FROM ledger
        WHERE week NOT IN ('', 'quarantine', 'dead')
    )
    SELECT "table" AS level, dataset, week, coalesce(-sum(rows) FILTER (is_expiry), 0)::BIGINT AS rows,
           coalesce(-sum(bytes) FILTER (is_expiry), 0)::BIGINT AS bytes,
           coalesce(-sum(files) FILTER (is_expiry), 0)::BIGINT AS files,
           max("at") FILTER (is_expiry) AS "at", any_value(run) FILTER (is_expiry) AS run, sum(rows)::BIGINT AS late
    FROM of GROUP BY ALL HAVING bool_or(is_expiry) ORDER BY "at", level, dataset, week
"""


_HELD = 'SELECT "table", dataset, week FROM ledger GROUP BY ALL HAVING sum(rows) > 0'


@dataclass(frozen=True, slots=True)
class Gone:
    """A level of a dataset's week that was let go; `late` rows have come since."""

    level: str
    topic: str
    week: str
    rows: int
    bytes: int
    files: int
    at: datetime
    run: str
    late: int


def gone(archive: Archive, datasets: Collection[Dataset] | None = None) -> list[Gone]:
    """What was let go of the datasets (all by default), the oldest first.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    archive.ledger.catch_up_pending()
    names = None if datasets is None else {dataset.text for dataset in datasets}
    rows = archive.ledger.sql(_GONE).to_pylist()
    return [
        Gone(row["level"], row["dataset"], *(row[name] for name in Gone.__slots__[2:]))
        for row in rows
        if names is None or row["dataset"] in names
    ]


def reasons(archive: Archive, found: Collection[Gone]) -> list[Mark | None]:
    """Why each was let go, by its certificate; None where that has no mark.

    Raises:
        DamagedCertificate: one cannot be read.
        StoreUnavailable: the store did not answer.
    """
    with ThreadPoolExecutor(archive.store.asked_at_once) as pool:
        marks = pool.map(lambda one: read_mark(archive, one.level, Dataset.parse(one.topic), one.week), found)
        return list(marks)


@dataclass(frozen=True, slots=True)
class LateWindow:
    """A window of a tier that late records belong to, which its summary does not have."""

    topic: str
    week: str
    time: datetime
    sal_index: int | None
    records: int


def late_windows(archive: Archive, dataset: Dataset, week: Week, tier: Tier) -> list[LateWindow]:
    """The windows of a tier in an expired week that records have come for since; none of a week that has not expired.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    snapshot = open_table(archive.store, archive.relative(dataset, RAW))
    if snapshot is None or not is_expired(snapshot, week):
        return []
    schema = pa.schema([column for column in snapshot.schema if column.name in KEYS])
    parts = [read_file(snapshot, file, schema) for file in snapshot.files({week.key})]
    found = find_windows(pa.concat_tables([schema.empty_table(), *parts]), tier.window_us)
    index = found.sal_indices()
    indices: list[Any] = [None] * len(found) if index is None else index.to_pylist()
    return [
        LateWindow(dataset.text, week.key, from_microseconds(time_us), sal_index, count)
        for time_us, sal_index, count in zip(found.time_us.tolist(), indices, found.counts.tolist(), strict=True)
    ]


def without_tiers(archive: Archive, found: Collection[Gone]) -> list[Gone]:
    """Those of which no coarser level has rows of the week: they are nowhere any more.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    held = {tuple(row.values()) for row in archive.ledger.sql(_HELD).to_pylist()}
    return [
        one
        for one in found
        if not any((level, one.topic, one.week) in held for level in LEVELS[LEVELS.index(one.level) + 1 :])
    ]


def by_level(found: Collection[Gone]) -> Mapping[str, Mapping[str, int]]:
    """Weeks of datasets, rows and bytes that were let go, by level."""
    sums: dict[str, dict[str, int]] = {}
    for one in found:
        of = sums.setdefault(one.level, {"weeks": 0, "rows": 0, "bytes": 0})
        of["weeks"] += 1
        of["rows"] += one.rows
        of["bytes"] += one.bytes
    return sums
