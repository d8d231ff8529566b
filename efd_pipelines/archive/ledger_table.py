"""The ledger's table: rows appended by many, read whole or in part, compacted and collapsed by one at a time.

What belongs here: what is true of the table as a table. How its files are read: `ledger_files.py`; what their rows say:
`ledger_rows.py`; what they answer: `ledger.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.files import DataFile, write_data_file
from efd_pipelines.archive.ledger_files import RELATIVE, ROWS_AT_ONCE, LedgerFiles
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
from efd_pipelines.arrays import no_rows, table_of
from efd_pipelines.errors import StaleWriter, StoreUnavailable

if TYPE_CHECKING:
    import polars as pl

__all__ = ["RELATIVE", "Edition", "LedgerTable"]

_MAX_SMALL_FILES = 64
_SMALL_ROWS = 100_000
_FILE_ROWS = 500_000


def _place(rows: pl.DataFrame) -> pl.Series:
    """The table and the week of each row as one number, in frames whose names are categories."""
    import polars as pl

    table, week = (pl.col(name).to_physical().cast(pl.UInt64) for name in ("table", "week"))
    return rows.select((table * 2**32 + week).alias("place")).to_series()


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the ledger's rows lie: `files` that have some that are wanted; `touched` those with rows of tables' weeks
    (`is_open`) that have sealed rows and others, which these may cover. Categories keep their numbers while there is
    something that has them: `names`.
    """

    files: set[str]
    touched: set[str]
    is_open: pl.Series
    sealed: SealedPlaces
    names: pl.Series

    def counting(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of a touched file without those that sealed rows cover."""
        import polars as pl

        is_open = _place(rows).is_in(self.is_open.implode())
        return pl.concat([rows.filter(~is_open), self.sealed.uncovered(rows.filter(is_open))])


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
        self._files = LedgerFiles(store)
        self._whole: tuple[int, pa.Table] | None = None

    def append(self, rows: Sequence[LedgerRow]) -> None:
        """Adds rows; safe to repeat."""
        if not rows:
            return
        months: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            entered = row.as_dict()
            months.setdefault(entered["month"], []).append(entered)
        for month, of in months.items():
            self._append_month(month, table_of(of, SCHEMA).drop_columns(["month"]))

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
            return no_rows(schema)
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
        return self._files.all([] if snapshot is None else snapshot.files(months), part_of_schema(columns))

    def frame(self, columns: Collection[str]) -> pl.DataFrame:
        """Some columns of all rows that count, in no order: sorting them takes longer than an audit may.

        What tells rows apart is always among the columns.
        """
        whole = self._parts(self._snapshot(), [*columns, "commit_kind"])
        return counting(whole).select(name for name in SCHEMA.names if name in (*columns, *KEY))

    def in_parts(
        self, columns: Collection[str], weeks: Collection[str] | None = None, months: Collection[str] | None = None
    ) -> Iterator[pl.DataFrame]:
        """Some columns of all rows that count, some rows at a time: ten years of them take much memory.

        What tells rows apart is always among the columns; names (`NAMES`) are categories, since texts take many times
        as long.

        Args:
            weeks: only rows of these.
            months: only rows of commits of these.
        """
        import polars as pl

        snapshot = self._snapshot()
        # A week's rows are entered in its own month or later.
        first = "" if weeks is None else min(weeks, default="")[:7]
        files = [] if snapshot is None else [file for file in snapshot.files(months) if file.week >= first]
        files.sort(key=lambda file: (file.week, file.path))
        places = self._places(files, weeks)
        schema = part_of_schema([*columns, "commit_kind"])
        parts: list[pl.DataFrame] = []
        wanted = [file for file in files if file.path in places.files]
        for _, of_month in groupby(self._files.each(wanted, schema), key=lambda one: one[0].week):
            # Commits are entered by the month in which they were made: what stands twice does so within one month.
            seen = Seen()
            for file, rows in of_month:
                if weeks is not None:
                    rows = rows.filter(pl.col("week").is_in(list(weeks)))
                rows = places.counting(rows) if file.path in places.touched else rows
                if parts and sum(part.height for part in parts) + rows.height > ROWS_AT_ONCE:
                    yield pl.concat(parts)
                    parts.clear()
                parts.append(seen.new(rows))
        if parts:
            yield pl.concat(parts)

    def _places(self, files: Sequence[DataFile], weeks: Collection[str] | None) -> _Places:
        """Where rows of some weeks lie, and which of them sealed rows may cover."""
        import polars as pl

        names = pl.Series([RAW], dtype=pl.Categorical())
        by = ("table", "week", "commit_kind")
        schema = pa.schema([column for column in SCHEMA if column.name in by])
        places: dict[bool, set[int]] = {True: set(), False: set()}
        files_of: dict[int, set[str]] = {}
        for file, rows in self._files.each(files, schema):
            found = rows.group_by(by).len()
            found = found if weeks is None else found.filter(pl.col("week").is_in(list(weeks)))
            for place, kind in zip(_place(found), found["commit_kind"], strict=True):
                files_of.setdefault(place, set()).add(file.path)
                if kind != GAP:
                    places[kind == SEALED].add(place)
        both = places[True] & places[False]
        touched = {path for place in both for path in files_of[place]}
        is_open, narrow = pl.Series(sorted(both), dtype=pl.UInt64), part_of_schema(["commit_kind"])
        sealed = SealedPlaces.of(
            sealed_places(rows.filter(_place(rows).is_in(is_open.implode())))
            for _, rows in self._files.each([file for file in files if file.path in touched], narrow)
        )
        return _Places({path for of in files_of.values() for path in of}, touched, is_open, sealed, names)

    def dataset_names(self, table: str) -> set[str]:
        """The datasets that rows of a table are of."""
        import polars as pl

        schema = pa.schema([column for column in SCHEMA if column.name in ("table", "dataset")])
        snapshot = self._snapshot()
        rows = self._files.all([] if snapshot is None else snapshot.files(), schema)
        return set(rows.filter(pl.col("table") == table)["dataset"].unique())

    def newest_week(self) -> str | None:
        """The newest week of which archives hold rows."""
        import polars as pl

        columns = ("table", "week", "commit_kind", "rows")
        schema = pa.schema([column for column in SCHEMA if column.name in columns])
        snapshot = self._snapshot()
        held: dict[str, int] = {}
        for _, part in self._files.each([] if snapshot is None else snapshot.files(), schema):
            raw = part.filter(pl.col("table") == RAW).group_by("week").agg(pl.col("rows").sum())
            for week, rows in raw.iter_rows():
                held[week] = held.get(week, 0) + rows
        return max((week for week, rows in held.items() if rows > 0 and week.startswith("2")), default=None)

    def at(
        self, snapshot: TableSnapshot, wanted: Callable[[pl.DataFrame], pl.DataFrame], since: str = ""
    ) -> pl.DataFrame:
        """The rows that count at one version of the ledger, of those that `wanted` leaves of a file's; sorted.

        `since` is the first month of commits.
        """
        import polars as pl

        parts = [wanted(self._files.read(file)) for file in snapshot.files() if file.week >= since]
        return counting(pl.concat([pl.DataFrame(no_rows(SCHEMA)), *parts])).sort(KEY)

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

        parts, damaged = [pl.DataFrame(no_rows(SCHEMA))], False
        for file in snapshot.files() if snapshot is not None else []:
            try:
                parts.append(self._files.read(file))
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
            keys = self._files.read(file, narrow).with_row_index("_row")
            left = uncovered(keys, places)["_row"]
            if len(left) == file.rows:
                continue
            covered += file.rows - len(left)
            removed.append(file)
            kept.setdefault(file.week, []).append(self._files.read(file)[left.sort()])
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

        whole = counting(pl.concat([self._files.read(file) for file in files])).sort(KEY)
        self._replace(snapshot, list(self._written(month, [whole])), files, "compact")
        return len(files)
