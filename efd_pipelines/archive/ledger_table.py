"""The ledger's table: rows appended by many, read whole or in part, compacted and collapsed by one at a time.

What belongs here: what is true of the table as a table. What its rows say: `ledger_rows.py`; what they answer:
`ledger.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from efd_pipelines.archive.files import DataFile, write_data_file
from efd_pipelines.archive.ledger_rows import (
    GAP,
    KEY,
    RAW,
    SCHEMA,
    SEALED,
    LedgerRow,
    SealedPlaces,
    Seen,
    counting,
    part_of_schema,
    sealed_places,
    uncovered,
)
from efd_pipelines.archive.store import Store
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table
from efd_pipelines.errors import StaleWriter, StoreUnavailable

if TYPE_CHECKING:
    import polars as pl

RELATIVE = "ledger/commits"
_MAX_SMALL_FILES = 64
_SMALL_ROWS = 100_000
_FILE_ROWS = 500_000
_ROWS_AT_ONCE = 125_000
_READ_AT_ONCE = {False: 1, True: 16}
"""Files, of which there are some for each month; on S3 each takes 60 ms of waiting."""


def _of_weeks(rows: pl.DataFrame, weeks: Collection[str]) -> pl.DataFrame:
    import polars as pl

    return rows.filter(pl.col("week").is_in(list(weeks)))


@dataclass(frozen=True, slots=True)
class Edition:
    """The ledger's table at one version, and its rows; `is_damaged` where some of its files could not be read."""

    snapshot: TableSnapshot | None
    rows: pa.Table
    is_damaged: bool


class LedgerTable:
    """The table of one store's ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._whole: tuple[int, pa.Table] | None = None

    def append(self, rows: Sequence[LedgerRow]) -> None:
        """Adds rows; safe to repeat."""
        if not rows:
            return
        table = pa.Table.from_pylist([row.as_dict() for row in rows], schema=SCHEMA)
        for month in pc.unique(table["month"]).to_pylist():
            self._append_month(month, table.filter(pc.equal(table["month"], month)).drop_columns(["month"]))

    def _append_month(self, month: str, table: pa.Table) -> None:
        file = write_data_file(self._store, RELATIVE, month, "c", table, partition="month")
        for _ in range(20):
            try:
                commit(
                    self._store,
                    RELATIVE,
                    self._snapshot(),
                    add=[file],
                    transactions={},
                    schema=table.schema,
                    note={"kind": "append"},
                    partition="month",
                )
            except StaleWriter:
                continue
            return
        raise StaleWriter("The ledger could not be appended to in 20 attempts")

    def _snapshot(self) -> TableSnapshot | None:
        return open_table(self._store, RELATIVE, partition="month")

    def table(self, months: Collection[str] | None = None, columns: Collection[str] | None = None) -> pa.Table:
        """All rows (of commits of some months) that count, sorted; columns of `SCHEMA`, or some of them.

        A week's rows may stand in any month from its own on: late records, merging and healing come later.
        What tells rows apart (table, dataset, version, week, slice) is always among the columns.
        """
        snapshot = self._snapshot()
        schema = SCHEMA if columns is None else part_of_schema(columns)
        if snapshot is None:
            return _no_rows(schema)
        if self._whole is not None and self._whole[0] == snapshot.version and months is None:
            known = self._whole[1]
            if set(schema.names) <= set(known.column_names):
                return known.select(schema.names)
        rows = counting(self._parts(snapshot, [*schema.names, "commit_kind"], months)).sort(KEY)
        found = rows.select(schema.names).to_arrow().cast(schema)
        if months is None:
            self._whole = snapshot.version, found
        return found

    def _parts(
        self, snapshot: TableSnapshot | None, columns: Collection[str], months: Collection[str] | None = None
    ) -> pl.DataFrame:
        return self._all([] if snapshot is None else snapshot.files(months), part_of_schema(columns))

    def _all(self, files: Sequence[DataFile], schema: pa.Schema) -> pl.DataFrame:
        import polars as pl

        with ThreadPoolExecutor(_READ_AT_ONCE[self._store.is_remote]) as pool:
            parts = list(pool.map(lambda file: self._read(file, schema), files))
        return pl.concat([pl.DataFrame(_no_rows(schema)), *parts])

    def frame(self, columns: Collection[str]) -> pl.DataFrame:
        """Some columns of all rows that count, in no order: sorting them takes longer than an audit may.

        What tells rows apart is always among the columns.
        """
        whole = self._parts(self._snapshot(), [*columns, "commit_kind"])
        return counting(whole).select(name for name in SCHEMA.names if name in (*columns, *KEY))

    def in_parts(self, columns: Collection[str], since: str = "") -> Iterator[pl.DataFrame]:
        """Some columns of all rows that count, some files at a time: ten years of them take much memory.

        What tells rows apart is always among the columns. `since` is the first month (`2026-11`) of commits.
        """
        import polars as pl

        snapshot = self._snapshot()
        months: dict[str, list[DataFile]] = {}
        for file in snapshot.files() if snapshot is not None else ():
            months.setdefault(file.week, []).append(file)
        open_weeks, sealed_in = self._open_weeks([file for of in months.values() for file in of])
        narrow, schema = part_of_schema(["commit_kind"]), part_of_schema([*columns, "commit_kind"])
        places = SealedPlaces.of(
            sealed_places(_of_weeks(self._read(file, narrow), open_weeks)) for file in sealed_in if open_weeks
        )
        parts: list[pl.DataFrame] = []
        for _, files in sorted((month, of) for month, of in months.items() if month >= since):
            # Commits are entered by the month in which they were made: what stands twice does so within one month.
            seen = Seen()
            for rows in (part for file in files for part in self._slices(file, schema)):
                if len(places.places):
                    is_open = rows["week"].is_in(list(open_weeks))
                    rows = pl.concat([rows.filter(~is_open), places.uncovered(rows.filter(is_open))])
                if parts and sum(part.height for part in parts) + rows.height > _ROWS_AT_ONCE:
                    yield pl.concat(parts)
                    parts.clear()
                parts.append(seen.new(rows))
        if parts:
            yield pl.concat(parts)

    def _slices(self, file: DataFile, schema: pa.Schema) -> Iterator[pl.DataFrame]:
        """A file's rows, a large one's in parts."""
        if file.rows <= _ROWS_AT_ONCE:
            yield self._read(file, schema)
            return
        for start in range(0, file.rows, _ROWS_AT_ONCE):
            yield self._read(file, schema, (start, _ROWS_AT_ONCE))

    def _open_weeks(self, files: Sequence[DataFile]) -> tuple[set[str], list[DataFile]]:
        """The weeks with rows that a sealed row may cover, and the files in which they have sealed rows, too."""
        import polars as pl

        columns = ("table", "week", "commit_kind")
        schema = pa.schema([column for column in SCHEMA if column.name in columns])
        open_weeks: set[str] = set()
        sealed: list[tuple[DataFile, set[str]]] = []
        for file in files:
            found = self._read(file, schema).filter(pl.col("table") == RAW).unique(columns)
            is_sealed = found["commit_kind"] == SEALED
            sealed.append((file, set(found.filter(is_sealed)["week"])))
            open_weeks |= set(found.filter(~is_sealed & (found["commit_kind"] != GAP))["week"])
        return open_weeks, [file for file, weeks in sealed if weeks & open_weeks]

    def dataset_names(self, table: str) -> set[str]:
        """The datasets that rows of a table are of."""
        import polars as pl

        schema = pa.schema([column for column in SCHEMA if column.name in ("table", "dataset")])
        snapshot = self._snapshot()
        rows = self._all([] if snapshot is None else snapshot.files(), schema)
        return set(rows.filter(pl.col("table") == table)["dataset"].unique())

    def newest_week(self) -> str | None:
        """The newest week of which archives hold rows."""
        import polars as pl

        columns = ("table", "week", "commit_kind", "rows")
        schema = pa.schema([column for column in SCHEMA if column.name in columns])
        snapshot = self._snapshot()
        held: dict[str, int] = {}
        for file in snapshot.files() if snapshot is not None else ():
            raw = self._read(file, schema).filter((pl.col("table") == RAW) & pl.col("week").str.starts_with("2"))
            for week, rows in raw.group_by("week").agg(pl.col("rows").sum()).iter_rows():
                held[week] = held.get(week, 0) + rows
        return max((week for week, rows in held.items() if rows > 0), default=None)

    def at(self, snapshot: TableSnapshot, wanted: pl.Expr) -> pl.DataFrame:
        """The rows that count at one version of the ledger, of those that are wanted; sorted."""
        import polars as pl

        parts = [self._read(file).filter(wanted) for file in snapshot.files()]
        return counting(pl.concat([pl.DataFrame(_no_rows(SCHEMA)), *parts])).sort(KEY)

    def _read(
        self, file: DataFile, schema: pa.Schema = SCHEMA, some: tuple[int, int | None] = (0, None)
    ) -> pl.DataFrame:
        """A file's rows, or so many (`some`: the first, how many); what a file of an older release lacks is null.

        From a disk Polars reads them, in a quarter of the time and the memory; from S3 pyarrow, which asks for the
        columns alone.
        """
        import polars as pl

        relative = f"{RELATIVE}/{file.path}"
        types = pl.DataFrame(_no_rows(schema)).schema
        path = self._store.path(relative)
        with self._store.errors(f"read {relative}"):
            try:
                if self._store.is_remote:
                    with pq.ParquetFile(path, filesystem=self._store.arrow_fs) as parquet:
                        there = set(parquet.schema_arrow.names)
                        part = pl.DataFrame(parquet.read(columns=[name for name in types if name in there]))
                        part = part.slice(*some)
                else:
                    there = set(pl.read_parquet_schema(path))
                    names = [name for name in types if name in there]
                    part = pl.scan_parquet(path).select(names).slice(*some).collect()
            except pl.exceptions.PolarsError as error:
                raise StoreUnavailable(f"{relative} cannot be read: {error}") from error
        found = part if "month" not in types else part.with_columns(pl.lit(file.week).alias("month"))
        lacking = [pl.lit(None, kind).alias(name) for name, kind in types.items() if name not in found.columns]
        found = found.with_columns(lacking).select(list(types)) if lacking or list(types) != found.columns else found
        return found if found.schema == types else found.cast(types)

    def edition(self) -> Edition:
        """The ledger as it is now, as far as it can be read.

        Raises:
            StoreUnavailable: the store does not answer, or the ledger's own log cannot be read.
        """
        try:
            snapshot = self._snapshot()
        except StoreUnavailable as error:
            remedy = f"If the store answers, move {self._store.uri(RELATIVE)} away and run again: it is made anew."
            raise StoreUnavailable(error.message, remedy=remedy) from error
        import polars as pl

        parts, damaged = [pl.DataFrame(_no_rows(SCHEMA))], False
        for file in snapshot.files() if snapshot is not None else []:
            try:
                parts.append(self._read(file))
            except StoreUnavailable:
                self._store.list(RELATIVE)  # raises where the store does not answer at all
                damaged = True
        rows = counting(pl.concat(parts)).sort(KEY).to_arrow().cast(SCHEMA)
        return Edition(snapshot, rows, damaged)

    def replace(self, edition: Edition, rows: pa.Table) -> None:
        """Puts rows in the place of all that an edition has; what was appended since stays.

        Raises:
            StaleWriter: another process compacts or replaces.
        """
        snapshot = edition.snapshot
        months = pc.unique(rows["month"]).to_pylist()
        added = []
        for month in months:
            part = rows.filter(pc.equal(rows["month"], month)).drop_columns(["month"])
            added.append(write_data_file(self._store, RELATIVE, month, "c", part, partition="month"))
        removed = [] if snapshot is None else snapshot.files()
        reached = None if snapshot is None else snapshot.transaction_version("compact")
        commit(
            self._store,
            RELATIVE,
            snapshot,
            add=added,
            remove=removed,
            transactions={"compact": (reached, (reached or 0) + 1)},
            schema=rows.drop_columns(["month"]).schema,
            note={"kind": "reindex"},
            partition="month",
            rearranges=snapshot is not None,
        )
        self._whole = None

    def put_sealed(self, snapshot: TableSnapshot, rows: pa.Table) -> int:
        """Puts sealed rows, and what else is in `rows`, in the place of those that they cover; how many these were.

        `snapshot` is the table that `rows` were made from. One commit, under the guard of compaction: who reads sees
        the one or the other. What runs append meanwhile stays.

        Raises:
            StaleWriter: another process compacts, collapses or replaces.
        """
        import polars as pl

        places = sealed_places(pl.DataFrame(rows))
        narrow = part_of_schema(["commit_kind"])
        removed: list[DataFile] = []
        kept: dict[str, list[pl.DataFrame]] = {}
        covered = 0
        for file in snapshot.files():
            keys = self._read(file, narrow).with_row_index("_row")
            left = uncovered(keys, places)["_row"]
            if len(left) == file.rows:
                continue
            covered += file.rows - len(left)
            removed.append(file)
            kept.setdefault(file.week, []).append(self._read(file)[left.sort()])
        for (month,), part in pl.DataFrame(rows).group_by("month", maintain_order=True):
            kept.setdefault(str(month), []).append(part)
        added = [file for month, parts in sorted(kept.items()) for file in self._written(month, parts)]
        self._replace(snapshot, added, removed, "collapse")
        return covered

    def _written(self, month: str, parts: Sequence[pl.DataFrame]) -> Iterator[DataFile]:
        """The rows as files: one, or more where they are many."""
        import polars as pl

        whole = pl.concat(parts).to_arrow().cast(SCHEMA).drop_columns(["month"])
        for start in range(0, whole.num_rows, _FILE_ROWS):
            yield write_data_file(self._store, RELATIVE, month, "c", whole.slice(start, _FILE_ROWS), partition="month")

    def _replace(
        self, snapshot: TableSnapshot, added: Sequence[DataFile], removed: Sequence[DataFile], kind: str
    ) -> None:
        reached = snapshot.transaction_version("compact")
        commit(
            self._store,
            RELATIVE,
            snapshot,
            add=added,
            remove=removed,
            transactions={"compact": (reached, (reached or 0) + 1)},
            schema=SCHEMA.remove(SCHEMA.get_field_index("month")),
            note={"kind": kind},
            partition="month",
            rearranges=True,
        )
        self._whole = None

    def compact(self) -> int:
        """Makes one of a month's small files where they are more than 64; how many were replaced.

        Guarded by `compact`: a drain every two minutes makes thousands of files a day, and every reader reads all.

        Raises:
            StaleWriter: another process is compacting.
        """
        snapshot = self._snapshot()
        if snapshot is None:
            return 0
        replaced = 0
        by_month: dict[str, list[DataFile]] = {}
        for file in snapshot.files():
            by_month.setdefault(file.week, []).append(file)
        for month, files in by_month.items():
            small = [file for file in files if file.rows < _SMALL_ROWS]
            if len(small) > _MAX_SMALL_FILES:
                replaced += self._compact(month, small)
        return replaced

    def _compact(self, month: str, files: Sequence[DataFile]) -> int:
        snapshot = self._snapshot()
        if snapshot is None:
            return 0
        import polars as pl

        whole = counting(pl.concat([self._read(file) for file in files])).sort(KEY)
        self._replace(snapshot, list(self._written(month, [whole])), files, "compact")
        return len(files)


def _no_rows(schema: pa.Schema) -> pa.Table:
    """`Schema.empty_table` would import pandas, which takes longer than a small drain's own work."""
    return pa.Table.from_batches([], schema=schema)
