"""The ledger: one table that indexes the commits of all tables of the archive.

It answers what would need thousands of tables to be opened: backlog, status, the plain audit, the storage report,
what a tier still has to do. A row per dataset, table version, week and slice; appended after the commits, once per
run and batch. It is derived and may lag, never lead: the rows of a commit are computed from its log entry
(`rows_of`), by the writer or by whoever finds that the ledger lacks it (`catch_up`). A writer names the tables it
is about to commit to in `ledger/pending/<run>.json` and takes the name back after its append, so that a
process killed between commit and append leaves nothing that readers would not look up.
Repeated rows are harmless: reading counts (table, dataset, version, week, slice) once.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from efd_pipelines.archive.files import DataFile, write_data_file
from efd_pipelines.archive.reading import conform
from efd_pipelines.archive.store import Store
from efd_pipelines.archive.tables import (
    Commit,
    TableSnapshot,
    commit,
    log_versions,
    open_table,
    read_log,
)
from efd_pipelines.errors import StaleWriter, StoreUnavailable
from efd_pipelines.times import from_microseconds
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    import polars as pl

RELATIVE = "ledger/commits"
PENDING = "ledger/pending"
RAW = "raw"
_UTC = pa.timestamp("us", tz="UTC")
_STALE_MARKER_S = 3600.0
_MAX_SMALL_FILES = 64
_SMALL_ROWS = 100_000

SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("dataset", pa.string()),
        ("component", pa.string()),
        ("kind", pa.string()),
        ("version", pa.int64()),
        ("week", pa.string()),
        ("slice", pa.string()),
        ("commit_kind", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("files", pa.int64()),
        ("avro_bytes", pa.int64()),
        ("time_min", _UTC),
        ("time_max", _UTC),
        ("records", pa.int64()),
        ("positions", pa.string()),
        ("epochs", pa.string()),
        ("gaps", pa.string()),
        ("schemas", pa.string()),
        ("names", pa.string()),
        ("at", _UTC),
        ("run", pa.string()),
        ("month", pa.string()),
    ]
)
_KEY = ["table", "dataset", "version", "week", "slice"]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What one commit changed in one slice; `rows`, `bytes` and `files` are negative where it removed.

    `names` has each file's hash, as `hash_of_path` gives it, after `+` where it was added, `-` where removed: so the
    plain audit knows what must be in the store without opening a table.
    """

    table: str
    dataset: Dataset
    version: int
    week: str
    slice: str
    commit_kind: str
    rows: int
    bytes: int
    files: int
    avro_bytes: int
    time_min_us: int | None
    time_max_us: int | None
    records: int
    positions: Mapping[str, int]
    epochs: Mapping[str, int]
    gaps: Sequence[Mapping[str, Any]]
    schemas: Sequence[int]
    at_us: int
    run: str
    names: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "dataset": self.dataset.text,
            "component": self.dataset.component,
            "kind": self.dataset.kind.value,
            "version": self.version,
            "week": self.week,
            "slice": self.slice,
            "commit_kind": self.commit_kind,
            "rows": self.rows,
            "bytes": self.bytes,
            "files": self.files,
            "avro_bytes": self.avro_bytes,
            "time_min": self.time_min_us,
            "time_max": self.time_max_us,
            "records": self.records,
            "positions": json.dumps(dict(self.positions), separators=(",", ":"), sort_keys=True),
            "epochs": json.dumps(dict(self.epochs), separators=(",", ":"), sort_keys=True),
            "gaps": json.dumps(list(self.gaps), separators=(",", ":")),
            "schemas": json.dumps(sorted(self.schemas), separators=(",", ":")),
            "names": json.dumps(list(self.names), separators=(",", ":")),
            "at": self.at_us,
            "run": self.run,
            "month": from_microseconds(self.at_us).strftime("%Y-%m"),
        }


def rows_of(table: str, dataset: Dataset, made: Commit) -> list[LedgerRow]:
    """The ledger's rows of one commit: one per week and slice; one with neither where only positions moved.

    What belongs to the commit as a whole (records, positions, gaps, schemas) stands on the first row alone.
    """
    slices = sorted({(file.week, file.slice) for file in (*made.added, *made.removed)})
    if not slices:  # a seal is of a week, and changes no file
        slices = [(str(made.note.get("week", "")), "")]
    return [_row(table, dataset, made, week, key, first=n == 0) for n, (week, key) in enumerate(slices)]


def _row(table: str, dataset: Dataset, made: Commit, week: str, key: str, *, first: bool) -> LedgerRow:
    added = [file for file in made.added if (file.week, file.slice) == (week, key)]
    removed = [file for file in made.removed if (file.week, file.slice) == (week, key)]
    note = made.note
    return LedgerRow(
        table=table,
        dataset=dataset,
        version=made.version,
        week=week,
        slice=key,
        commit_kind=str(note.get("kind", "")),
        rows=sum(file.rows for file in added) - sum(file.rows for file in removed),
        bytes=sum(file.size_bytes for file in added) - sum(file.size_bytes for file in removed),
        files=len(added) - len(removed),
        avro_bytes=int(note.get("avro_bytes", {}).get(f"{week}|{key}", 0)),
        time_min_us=min((f.time_min_us for f in (*added, *removed) if f.time_min_us is not None), default=None),
        time_max_us=max((f.time_max_us for f in (*added, *removed) if f.time_max_us is not None), default=None),
        records=int(note.get("records", 0)) if first else 0,
        positions=_positions(made) if first else {},
        epochs=note.get("epochs", {}) if first else {},
        gaps=note.get("gaps", []) if first else [],
        schemas=note.get("schemas", []) if first else [],
        names=[
            *(f"+{hash_of_path(file.path)}" for file in added),
            *(f"-{hash_of_path(file.path)}" for file in removed),
        ],
        at_us=made.at_us,
        run=str(note.get("run", "")),
    )


def _positions(made: Commit) -> dict[str, int]:
    return {app.removeprefix("kafka:"): to for app, to in made.transactions.items() if app.startswith("kafka:")}


class Ledger:
    """The ledger of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._whole: tuple[int, pa.Table] | None = None

    @contextlib.contextmanager
    def announced(self, run: str, tables: Iterable[tuple[str, Dataset]]) -> Iterator[list[LedgerRow]]:
        """Announces the tables that are about to be committed to; the rows put into the list are appended at the end.

        Where the process dies in between, the announcement stays and `catch_up_pending` finds what was committed.
        """
        name = f"{PENDING}/{run or 'run'}-{uuid.uuid4().hex[:12]}.json"
        named = [[table, dataset.text] for table, dataset in tables]
        self._store.write_bytes(name, json.dumps({"at": time.time(), "tables": named}).encode())
        rows: list[LedgerRow] = []
        try:
            yield rows
        finally:
            self.append(rows)
        self._store.delete(name)
        # Another run may be at it, or have been faster: then the next one finds whether there is still need.
        with contextlib.suppress(StaleWriter):
            self.compact()

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
        """All rows (of commits of some months), each counted once, sorted; columns of `SCHEMA`, or some of them.

        A week's rows may stand in any month from its own on: late records, merging and healing come later.
        What tells rows apart (table, dataset, version, week, slice) is always among the columns.
        """
        snapshot = self._snapshot()
        schema = SCHEMA if columns is None else _part_of_schema(columns)
        if snapshot is None:
            return schema.empty_table()
        if self._whole is not None and self._whole[0] == snapshot.version and months is None:
            return self._whole[1].select(schema.names)
        parts = [self._read(file, schema) for file in snapshot.files(months)]
        found = once(pa.concat_tables([schema.empty_table(), *parts]))
        if months is None and columns is None:
            self._whole = snapshot.version, found
        return found

    def frame(self, columns: Collection[str]) -> pl.DataFrame:
        """Some columns of all rows, each row once, in no order: sorting them takes longer than an audit may.

        What tells rows apart is always among the columns.
        """
        import polars as pl

        snapshot = self._snapshot()
        schema = _part_of_schema([*columns, "month"])
        parts = [self._read(file, schema) for file in snapshot.files()] if snapshot is not None else []
        whole = pl.DataFrame(pa.concat_tables([schema.empty_table(), *parts]))
        return (
            whole.drop("month").with_columns(pl.struct(_KEY).hash().alias("key")).unique("key", keep="any").drop("key")
        )

    def _read(self, file: DataFile, schema: pa.Schema = SCHEMA) -> pa.Table:
        """A file's rows; what a file of an older release lacks is null."""
        relative = f"{RELATIVE}/{file.path}"
        with (
            self._store.errors(f"read {relative}"),
            pq.ParquetFile(self._store.path(relative), filesystem=self._store.arrow_fs) as parquet,
        ):
            part = parquet.read(columns=[name for name in schema.names if name != "month"])
            count = parquet.metadata.num_rows
        return conform(part.append_column("month", pa.repeat(file.week, count)), schema, count)

    def sql(self, query: str, **relations: pa.Table) -> pa.Table:
        """Answer of DuckDB to a query of ours over `ledger` and the relations given."""
        import duckdb

        with duckdb.connect(config={"threads": 2, "autoinstall_known_extensions": False}) as connection:
            connection.register("ledger", self.table())
            for name, relation in relations.items():
                connection.register(name, relation)
            return connection.sql(query).to_arrow_table()

    def datasets_with_rows(self, week: str) -> list[Dataset]:
        """The datasets that have rows of a week, in quarantine or among the dead, sorted."""
        found = self.sql(
            """
            SELECT dataset FROM ledger JOIN wanted USING (week)
            WHERE "table" = 'raw' GROUP BY dataset HAVING sum(rows) > 0 ORDER BY dataset
            """,
            wanted=pa.table({"week": [week]}),
        )
        return [Dataset.parse(text) for text in found["dataset"].to_pylist()]

    def latest(self) -> pa.Table:
        """One row per table and dataset: table, dataset, component, kind, version, last_at, positions, epochs.

        The last two are JSON texts of what each `<source>:<partition>` has reached.
        """
        return self.sql(
            """
            WITH moved AS (
                SELECT "table", dataset,
                       unnest(map_entries(CAST(CAST(positions AS JSON) AS MAP(VARCHAR, BIGINT)))) AS moved_to,
                       CAST(CAST(epochs AS JSON) AS MAP(VARCHAR, BIGINT)) AS epochs
                FROM ledger WHERE positions <> '{}'
            ), reached AS (
                SELECT "table", dataset, moved_to.key AS partition, max(moved_to.value) AS position,
                       arg_max(epochs[moved_to.key], moved_to.value) AS epoch
                FROM moved GROUP BY ALL
            ), collected AS (
                SELECT "table", dataset, json_group_object(partition, position)::VARCHAR AS positions
                FROM reached GROUP BY ALL
            ), led AS (
                SELECT "table", dataset, json_group_object(partition, epoch)::VARCHAR AS epochs
                FROM reached WHERE epoch IS NOT NULL GROUP BY ALL
            )
            SELECT l."table", l.dataset, any_value(l.component) AS component, any_value(l.kind) AS kind,
                   max(l.version) AS version, max(l."at") AS last_at,
                   coalesce(any_value(c.positions), '{}') AS positions, coalesce(any_value(e.epochs), '{}') AS epochs
            FROM ledger l LEFT JOIN collected c USING ("table", dataset) LEFT JOIN led e USING ("table", dataset)
            GROUP BY l."table", l.dataset ORDER BY l."table", l.dataset
            """
        )

    def catch_up(self, tables: Iterable[tuple[str, Dataset]]) -> int:
        """Appends the rows of commits that the ledger lacks, found in the tables' logs; how many commits."""
        wanted = list(tables)
        known = self._known_versions(wanted)
        rows: list[LedgerRow] = []
        found = 0
        for table, dataset in wanted:
            for made in self._missing(table, dataset, known.get((table, dataset.text), set())):
                rows += rows_of(table, dataset, made)
                found += 1
        self.append(rows)
        return found

    def _known_versions(self, wanted: Sequence[tuple[str, Dataset]]) -> dict[tuple[str, str], set[int]]:
        whole = self.table()
        names = pa.array(sorted({dataset.text for _, dataset in wanted}), pa.string())
        part = whole.filter(pc.is_in(whole["dataset"], value_set=names))
        known: dict[tuple[str, str], set[int]] = {}
        for table, dataset, version in zip(
            part["table"].to_pylist(), part["dataset"].to_pylist(), part["version"].to_pylist(), strict=True
        ):
            known.setdefault((table, dataset), set()).add(version)
        return known

    def _missing(self, table: str, dataset: Dataset, known: set[int]) -> Iterator[Commit]:
        relative = relative_of(table, dataset)
        missing = [version for version in log_versions(self._store, relative) if version not in known]
        for version in missing:
            made = next(iter(read_log(self._store, relative, version)), None)
            if made is not None and made.note.get("kind"):
                yield made

    def catch_up_pending(self) -> int:
        """Looks up the tables that other runs announced and have not taken back; how many commits were missing."""
        names = self._store.list(PENDING)
        announced = {name: self._announcement(name) for name in names}
        tables = {(table, Dataset.parse(text)) for at, named in announced.values() for table, text in named}
        found = self.catch_up(sorted(tables)) if tables else 0
        for name, (at, _) in announced.items():
            if time.time() - at > _STALE_MARKER_S:
                self._store.delete(f"{PENDING}/{name}")
        return found

    def announced_tables(self) -> set[tuple[str, Dataset]]:
        """The tables to which runs may be committing: the ledger may lack their newest versions."""
        named = [self._announcement(name)[1] for name in self._store.list(PENDING)]
        return {(table, Dataset.parse(text)) for of in named for table, text in of}

    def _announcement(self, name: str) -> tuple[float, list[tuple[str, str]]]:
        data = self._store.try_read(f"{PENDING}/{name}")
        if data is None:
            return time.time(), []
        content = json.loads(data)
        return float(content["at"]), [(table, dataset) for table, dataset in content["tables"]]

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
        parts, damaged = [SCHEMA.empty_table()], False
        for file in snapshot.files() if snapshot is not None else []:
            try:
                parts.append(self._read(file))
            except StoreUnavailable:
                self._store.list(RELATIVE)  # raises where the store does not answer at all
                damaged = True
        return Edition(snapshot, once(pa.concat_tables(parts)), damaged)

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
        reached = snapshot.transaction_version("compact")
        whole = once(pa.concat_tables([self._read(file) for file in files])).drop_columns(["month"])
        merged = write_data_file(self._store, RELATIVE, month, "c", whole, partition="month")
        commit(
            self._store,
            RELATIVE,
            snapshot,
            add=[merged],
            remove=files,
            transactions={"compact": (reached, (reached or 0) + 1)},
            schema=whole.schema,
            note={"kind": "compact"},
            partition="month",
            rearranges=True,
        )
        return len(files)


@dataclass(frozen=True, slots=True)
class Edition:
    """The ledger's table at one version, and its rows; `is_damaged` where some of its files could not be read."""

    snapshot: TableSnapshot | None
    rows: pa.Table
    is_damaged: bool


def relative_of(table: str, dataset: Dataset) -> str:
    """Where a dataset's table lies: `raw/…`, or `tiers/<tier>/…`."""
    return f"raw/{dataset.path}" if table == RAW else f"tiers/{table}/{dataset.path}"


def hash_of_path(path: str) -> str:
    """The hash of its content that a file's name carries."""
    return path.rpartition("-")[2].removesuffix(".parquet")


def _part_of_schema(columns: Collection[str]) -> pa.Schema:
    return pa.schema([column for column in SCHEMA if column.name in columns or column.name in _KEY])


def once(table: pa.Table) -> pa.Table:
    """Ledger rows, each (table, dataset, version, week, slice) once, in the order of datasets and versions."""
    import polars as pl

    frame = pl.DataFrame(table)
    found = frame.unique(subset=_KEY, keep="first", maintain_order=True).sort(_KEY)
    return found.to_arrow().cast(table.schema)
