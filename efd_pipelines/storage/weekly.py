"""Weekly sizes: the tidy table of what each store held of each topic in each week, since the beginning.

Everything that is reported, drawn or forecast of storage is made of this one table (`WEEKLY_SIZES`): a row per week,
store and topic. Of Kafka's records as they came, the archive and the tiers it is made of the ledger, for all weeks at
once; of stores that can only be asked what they hold now (Kafka, PostgreSQL), of what the weekly reports kept.
What belongs here: reading the table, and its sums. Its form: `tidy.py`; what the ledger says: `ledgered.py`; asking the
stores: `stores.py`; published sizes: `sizes.py`.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.storage.ledgered import Collected, Group, collected, own_topic
from efd_pipelines.storage.tidy import (
    ARCHIVE,
    INFLUXDB,
    KAFKA,
    LEDGER,
    POSTGRESQL,
    RECEIVED,
    WEEKLY_SIZES,
    tidy,
)
from efd_pipelines.times import Week

__all__ = [
    "ARCHIVE",
    "INFLUXDB",
    "KAFKA",
    "LEDGER",
    "POSTGRESQL",
    "RECEIVED",
    "WEEKLY_SIZES",
    "parts_of",
    "snapshots",
    "sums",
    "tidy",
    "weekly_parts",
    "weekly_sizes",
    "weekly_totals",
    "weeks_of",
]

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.archive import Archive

SNAPSHOTS = "stores.parquet"
"""What a weekly report keeps of stores that only know what they hold now; beside the report."""

DIRECTORY = "reports/storage"
_ROWS_AT_ONCE = 100_000


def weekly_sizes(
    archive: Archive, first: Week | None = None, last: Week | None = None, *, stores: Collection[str] | None = None
) -> pa.Table:
    """The tidy table (`WEEKLY_SIZES`) from `first` to `last`, both included; all weeks, and all stores, by default.

    Reads the ledger as it is: bring it up to date before, where a commit of a second ago matters.

    Raises:
        StoreUnavailable: the ledger cannot be read.
    """
    return _of_stores(pa.concat_tables([WEEKLY_SIZES.empty_table(), *weekly_parts(archive, first, last)]), stores)


def weekly_totals(
    archive: Archive, first: Week | None = None, last: Week | None = None, *, stores: Collection[str] | None = None
) -> pa.Table:
    """As `weekly_sizes`, summed over topics: `topic` is empty. What figures of the whole history are made of."""
    parts = weekly_parts(archive, first, last, lambda dataset: "")
    return _of_stores(pa.concat_tables([WEEKLY_SIZES.empty_table(), *parts]), stores)


def weekly_parts(
    archive: Archive, first: Week | None = None, last: Week | None = None, group: Group = own_topic
) -> Iterator[pa.Table]:
    """The tidy table some weeks at a time, so that ten years take no more memory than they must."""
    return parts_of(collected(archive, first, last, group), snapshots(archive, first, last))


def parts_of(found: Collected, asked: pa.Table, keys: Collection[str] | None = None) -> Iterator[pa.Table]:
    """The tidy table of what was collected from the ledger and what was kept of other stores, in parts."""
    weeks_asked = {week.key for week in weeks_of(asked)}
    weeks = sorted(weeks_asked | set(found.weeks)) if keys is None else sorted(keys)
    at_once = max(1, len(weeks) * _ROWS_AT_ONCE // max(found.height, 1))
    for n in range(0, len(weeks), at_once):
        some = weeks[n : n + at_once]
        part = found.rows(some)
        if not weeks_asked.isdisjoint(some):
            also = asked.filter(pc.is_in(asked["week"].cast(pa.string()), value_set=pa.array(some)))
            part = tidy(pa.concat_tables([part, also]))
        yield part


def snapshots(archive: Archive, first: Week | None = None, last: Week | None = None) -> pa.Table:
    """What the weekly reports kept of stores that only know what they hold now, in the tidy form."""
    import pyarrow.parquet as pq

    found = []
    for key in archive.store.list(DIRECTORY):
        data = archive.store.try_read(f"{DIRECTORY}/{key}/{SNAPSHOTS}") if _is_wanted(key, first, last) else None
        if data is not None:
            found.append(pq.read_table(io.BytesIO(data)).cast(WEEKLY_SIZES))
    return tidy(pa.concat_tables(found)) if found else WEEKLY_SIZES.empty_table()


def weeks_of(table: pa.Table) -> list[Week]:
    """The weeks of a tidy table, rising."""
    return [Week.parse(key) for key in sorted(pc.unique(table["week"].cast(pa.string())).to_pylist())]


def sums(table: pa.Table, by: Sequence[str]) -> pl.DataFrame:
    """`records`, `bytes` and `files` of a tidy table summed by some of its names, sorted by these; names as texts."""
    import polars as pl

    frame = pl.DataFrame(table.select([*by, "records", "bytes", "files"]))
    grouped = frame.group_by(by).agg(pl.col("records", "bytes", "files").sum())
    return grouped.with_columns(pl.col(by).cast(pl.String)).sort(by)


def _is_wanted(key: str, first: Week | None, last: Week | None) -> bool:
    return len(key) == len("2026-11-16") and ((first is None or key >= first.key) and (last is None or key <= last.key))


def _of_stores(table: pa.Table, stores: Collection[str] | None) -> pa.Table:
    if stores is None:
        return table
    return table.filter(pc.is_in(table["store"].cast(pa.string()), value_set=pa.array(list(stores), pa.string())))
