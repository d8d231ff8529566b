"""The ledger: one table that indexes the commits of all tables of the archive.

It answers what would need thousands of tables to be opened: backlog, status, the plain audit, the storage report,
what a tier still has to do. A row per dataset, table version, week and slice; appended after the commits, once per
run and batch. It is derived and may lag, never lead: the rows of a commit are computed from its log entry
(`rows_of`), by the writer or by whoever finds that the ledger lacks it (`catch_up`). A writer names the tables it
is about to commit to in `ledger/pending/<run>.json` and takes the name back after its append, so that a
process killed between commit and append leaves nothing that readers would not look up.
When a week is sealed its rows become one (`collapse.py`); who goes by versions asks `changes`.
What belongs here: entering, and what many ask. The rows: `ledger_rows.py`; the table that has them: `ledger_table.py`.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.delta_log import Commit, log_versions, read_log
from efd_pipelines.archive.ledger_rows import (
    GAP,
    KEY,
    RAW,
    REARRANGING,
    SCHEMA,
    SEALED,
    LedgerRow,
    changes_of,
    hash_of_path,
    once,
    relative_of,
    rows_of,
    sealed_versions,
)
from efd_pipelines.archive.ledger_table import RELATIVE, LedgerTable
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.arrays import texts_of
from efd_pipelines.errors import StaleWriter
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    import polars as pl

__all__ = ["RAW", "RELATIVE", "SCHEMA", "Ledger", "LedgerRow", "hash_of_path", "once", "relative_of", "rows_of"]

PENDING = "ledger/pending"
_STALE_MARKER_S = 3600.0
_COLUMN = re.compile(r"\w+")
_ENTRY = r'("(?:[^"\\]|\\.)*"): ?(-?\d+)'
"""Of a JSON text of `positions`: a name, as it stands there, and a number."""


class Ledger(LedgerTable):
    """The ledger of one store."""

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

    def sql(self, query: str, **relations: pa.Table) -> pa.Table:
        """Answer of DuckDB to a query of ours over `ledger` and the relations given.

        Only the columns that the query names are read.
        """
        import duckdb

        named = set(_COLUMN.findall(query))
        with duckdb.connect(config={"threads": 2, "autoinstall_known_extensions": False}) as connection:
            connection.register("ledger", self.table(columns=[name for name in SCHEMA.names if name in named]))
            for name, relation in relations.items():
                connection.register(name, relation)
            return connection.sql(query).to_arrow_table()

    def changes(self, table: str, since: Mapping[Dataset, int], since_week: str | None = None) -> pa.Table:
        """What commits after a version of each dataset changed: dataset, version, week, slice, first_us, last_us.

        Consumers find their work by this. Commits that rearrange rows, or let a week go, change nothing; merges that
        leave rows of history out do. Where no time is known, the times are null and `slice` says what was touched. Of a
        week that is sealed, each stretch of time has the newest version that changed it. With `since_week`, only of
        weeks from that one on, and of a dataset's newest.
        """
        import polars as pl

        after = pl.DataFrame(
            {"dataset": [of.text for of in since], "after": list(since.values())},
            schema={"dataset": pl.String, "after": pl.Int64},
        )
        of = self.frame(["commit_kind", "rows", "time_min", "time_max", "changed", "month"])
        of = of.filter((pl.col("table") == table) & ~pl.col("week").is_in(["", QUARANTINE, DEAD]))
        of = of.join(after, on="dataset").filter(pl.col("version") > pl.col("after"))
        if since_week is not None:
            of = of.filter((pl.col("week") >= since_week) | (pl.col("week") == pl.col("week").max().over("dataset")))
        kind = pl.col("commit_kind")
        still = kind.is_in(REARRANGING) & (pl.col("rows") >= 0)
        plain = of.filter(~still & ~kind.is_in(["expire", SEALED, GAP])).select(
            "dataset",
            "version",
            "week",
            "slice",
            pl.col("time_min").cast(pl.Int64).alias("first_us"),
            pl.col("time_max").cast(pl.Int64).alias("last_us"),
        )
        collapsed = of.filter((kind == SEALED) & (pl.col("changed") > pl.col("after")))
        return pl.concat([plain, self._changes_of(collapsed)]).sort("dataset", "version", "first_us").to_arrow()

    def _changes_of(self, collapsed: pl.DataFrame) -> pl.DataFrame:
        """What sealed rows say that changed after each dataset's version."""
        import polars as pl

        found: list[tuple[str, int, str, str, int, int]] = []
        if collapsed.height:
            months = collapsed["month"].unique().to_list()
            texts = pl.DataFrame(self.table(months, ["commit_kind", "changes"]))
            texts = texts.filter(pl.col("commit_kind") == SEALED)
            rows = collapsed.join(texts.select(*KEY, "changes"), on=KEY)
            for dataset, week, after, text in rows.select("dataset", "week", "after", "changes").iter_rows():
                found += [
                    (dataset, one.version, week, "", one.first_us, one.last_us)
                    for one in changes_of(text)
                    if one.version > after
                ]
        schema = {
            "dataset": pl.String,
            "version": pl.Int64,
            "week": pl.String,
            "slice": pl.String,
            "first_us": pl.Int64,
            "last_us": pl.Int64,
        }
        return pl.DataFrame(found, schema=schema, orient="row")

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
        import polars as pl

        by = ["table", "dataset"]
        rows = self.frame(["component", "kind", "at", "positions", "epochs"])
        latest = rows.group_by(by).agg(
            pl.col("component").first(),
            pl.col("kind").first(),
            pl.col("version").max(),
            pl.col("at").max().alias("last_at"),
        )
        latest = latest.join(_reached(rows), on=by, how="left").sort(by)
        return latest.with_columns(pl.col("positions", "epochs").fill_null("{}")).to_arrow()

    def catch_up(self, tables: Iterable[tuple[str, Dataset]]) -> int:
        """Appends the rows of commits that the ledger lacks, found in the tables' logs; how many commits."""
        wanted = list(tables)
        known = self.known_versions(wanted)
        rows: list[LedgerRow] = []
        found = 0
        for table, dataset in wanted:
            for made in self._missing(table, dataset, known.get((table, dataset.text), set())):
                rows += rows_of(table, dataset, made)
                found += 1
        self.append(rows)
        return found

    def known_versions(self, wanted: Sequence[tuple[str, Dataset]]) -> dict[tuple[str, str], set[int]]:
        """The versions of tables that have been entered, those that sealed rows cover among them."""
        whole = self.table(columns=["commit_kind", "sealed"])
        names = texts_of(sorted({dataset.text for _, dataset in wanted}))
        part = whole.filter(pc.is_in(whole["dataset"], value_set=names))
        known: dict[tuple[str, str], set[int]] = {}
        for row in part.to_pylist():
            versions = known.setdefault((row["table"], row["dataset"]), set())
            versions.add(row["version"])
            if row["commit_kind"] == SEALED:
                versions |= sealed_versions(row["sealed"])
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


def _reached(rows: pl.DataFrame) -> pl.DataFrame:
    """By table and dataset, as JSON texts: how far each partition of a source has come, and its epoch there."""
    import polars as pl

    by = ["table", "dataset"]
    entries = rows.filter(pl.col("positions") != "{}").select(
        *by, "epochs", pl.col("positions").str.extract_all(_ENTRY).alias("entry")
    )
    moved = entries.explode("entry").select(
        *by,
        "epochs",
        pl.col("entry").str.extract(_ENTRY, 1).alias("partition"),
        pl.col("entry").str.extract(_ENTRY, 2).cast(pl.Int64).alias("position"),
    )
    newest = moved.group_by(*by, "partition").agg(
        pl.col("position").max(), pl.col("epochs").get(pl.col("position").arg_max())
    )
    positions: dict[tuple[str, str], dict[str, int]] = {}
    epochs: dict[tuple[str, str], dict[str, int]] = {}
    for table, dataset, quoted, position, known in newest.sort(*by, "partition").iter_rows():
        of, partition = (table, dataset), json.loads(quoted)
        positions.setdefault(of, {})[partition] = position
        epoch = json.loads(known or "{}").get(partition)
        epochs.setdefault(of, {}).update({} if epoch is None else {partition: epoch})
    found = [(*of, json.dumps(places), json.dumps(epochs[of])) for of, places in positions.items()]
    return pl.DataFrame(found, schema=dict.fromkeys((*by, "positions", "epochs"), pl.String), orient="row")
