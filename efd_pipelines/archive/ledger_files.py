"""Ledger files: the Parquet files of the ledger's table as rows, each whole, or all of them in turn.

What belongs here: how a file is read, whatever release wrote it and wherever it lies. Which files there are, and which
of their rows count: `ledger_table.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.ledger_rows import HISTORY, NAMES, SCHEMA, SEALED, history_of
from efd_pipelines.archive.store import Store
from efd_pipelines.arrays import no_rows
from efd_pipelines.errors import StoreUnavailable

if TYPE_CHECKING:
    import polars as pl

RELATIVE = "ledger/commits"
ROWS_AT_ONCE = 100_000
_ROWS_AHEAD = 200_000
_READ_AT_ONCE = {False: 1, True: 16}
"""Files, of which there are some for each month; on S3 each takes 60 ms of waiting."""


class LedgerFiles:
    """The files of one store's ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._types: dict[tuple[str, ...], pl.Schema] = {}

    def _types_of(self, schema: pa.Schema) -> pl.Schema:
        """Polars's types of some of the ledger's columns."""
        import polars as pl

        names = tuple(schema.names)
        if names not in self._types:
            self._types[names] = pl.DataFrame(no_rows(schema)).schema
        return self._types[names]

    def read(self, file: DataFile, schema: pa.Schema = SCHEMA) -> pl.DataFrame:
        """A file's rows; what a file of an older release lacks is null.

        From a disk Polars reads them, in a quarter of the time and the memory; from S3 pyarrow, which asks for the
        columns alone.
        """
        import polars as pl

        relative = f"{RELATIVE}/{file.path}"
        types = self._types_of(schema)
        path = self._store.path(relative)
        with self._store.errors(f"read {relative}"):
            try:
                if self._store.is_remote:
                    with pq.ParquetFile(path, filesystem=self._store.arrow_fs) as parquet:
                        there = set(parquet.schema_arrow.names)
                        part = pl.DataFrame(parquet.read(columns=[name for name in types if name in there]))
                else:
                    scanned = pl.scan_parquet(path, glob=False)
                    there = set(scanned.collect_schema())
                    names = [name for name in types if name in there]
                    part = scanned.select(names).collect(engine="in-memory")
            except pl.exceptions.PolarsError as error:
                raise StoreUnavailable(f"{relative} cannot be read: {error}") from error
        found = part if "month" not in types else part.with_columns(pl.lit(file.week).alias("month"))
        lacking = [pl.lit(None, kind).alias(name) for name, kind in types.items() if name not in found.columns]
        found = found.with_columns(lacking).select(list(types)) if lacking or list(types) != found.columns else found
        return found if found.schema == types else found.cast(types)

    def all(self, files: Sequence[DataFile], schema: pa.Schema) -> pl.DataFrame:
        import polars as pl

        with ThreadPoolExecutor(_READ_AT_ONCE[self._store.is_remote]) as pool:
            parts = list(pool.map(lambda file: self.read(file, schema), files))
        return pl.concat([pl.DataFrame(no_rows(schema)), *parts])

    def each(self, files: Iterable[DataFile], schema: pa.Schema) -> Iterator[tuple[DataFile, pl.DataFrame]]:
        """Each file with its rows, in turn, a large one's in pieces; the next ones are on their way, as far as there is
        memory for them."""
        with ThreadPoolExecutor(_READ_AT_ONCE[self._store.is_remote]) as pool:
            ahead: deque[tuple[DataFile, Future[Iterator[pl.DataFrame]]]] = deque()
            for file in files:
                ahead.append((file, pool.submit(self._named, file, schema)))
                while sum(of.rows for of, _ in ahead) > _ROWS_AHEAD:
                    first, pieces = ahead.popleft()
                    yield from ((first, piece) for piece in pieces.result())
            while ahead:
                first, pieces = ahead.popleft()
                yield from ((first, piece) for piece in pieces.result())

    def _named(self, file: DataFile, schema: pa.Schema) -> Iterator[pl.DataFrame]:
        """A file's rows, their names as categories; what a file of an older release lacks is null.

        A small file has been read when this returns, a large one is while its pieces are taken.
        """
        pieces = self._pieces(file, schema)
        return pieces if file.rows > ROWS_AT_ONCE else iter(list(pieces))

    def _pieces(self, file: DataFile, schema: pa.Schema) -> Iterator[pl.DataFrame]:
        import polars as pl

        relative = f"{RELATIVE}/{file.path}"
        types = {
            name: pl.Categorical() if name in NAMES else kind
            for name, kind in pl.DataFrame(no_rows(schema)).schema.items()
        }
        with (
            self._store.errors(f"read {relative}"),
            pq.ParquetFile(
                self._store.path(relative), filesystem=self._store.arrow_fs, read_dictionary=list(NAMES)
            ) as parquet,
        ):
            there = set(parquet.schema_arrow.names)
            names = [name for name in types if name in there]
            start = 0
            for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=self._store.is_remote):
                part = self._typed(pl.DataFrame(batch), types, file)
                yield self._with_history(file, part, start) if HISTORY in types else part
                start += part.height

    def _typed(self, part: pl.DataFrame, types: Mapping[str, Any], file: DataFile) -> pl.DataFrame:
        """Columns in their order and types: what the file lacks is null, its month is in its path."""
        import polars as pl

        if part.schema == types:
            return part
        columns = [
            pl.lit(file.week if name == "month" else None, kind)
            if name not in part.columns
            else pl.col(name).cast(kind)
            for name, kind in types.items()
        ]
        return part.select(column.alias(name) for name, column in zip(types, columns, strict=True))

    def _with_history(self, file: DataFile, rows: pl.DataFrame, start: int) -> pl.DataFrame:
        """Rows (the file's from `start` on) with the count of history in sealed rows that an older release wrote: it
        stands in their text alone."""
        import polars as pl

        is_unknown = (rows["commit_kind"] == SEALED) & rows[HISTORY].is_null()
        if not is_unknown.any():
            return rows
        texts = self.read(file, pa.schema([SCHEMA.field("sealed")]))["sealed"].slice(start, rows.height)
        return rows.with_columns(pl.when(is_unknown).then(history_of(texts)).otherwise(pl.col(HISTORY)).alias(HISTORY))
