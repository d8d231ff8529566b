"""Sessions: statements answered by DuckDB over archive, tiers, ledger and ConsDB.

What there is:
- `raw.<component>.<name>`, or without `raw`: the records of a dataset; also `"lsst.sal.MTM1M3.forceActuatorData"`;
- `tier_1s.…`, `tier_1m.…`, `tier_1h.…`: its summaries; what is not summarised, unchanged from the archive;
- `datasets`: what there is, under which name; `ledger`: every commit; `consdb_tables`, and `consdb.<schema>.<table>`.

A view is made when a statement names it, since to open all tables of the observatory takes a minute, and shows the
table as it is when the statement begins. DuckDB may neither read nor write files, nor load extensions, nor see the
variables of Python; all it knows of is given to it here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import duckdb
import pyarrow as pa

from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.tables import open_table
from efd_pipelines.errors import DataError, UnknownDataset, UsageError
from efd_pipelines.sql.consdb import ConsdbTables
from efd_pipelines.sql.names import Named, Names
from efd_pipelines.sql.statements import first_lines, parsed, quoted, tables_in
from efd_pipelines.sql.views import rows_of
from efd_pipelines.tiers.tier import TIERS, aggregated
from efd_pipelines.topics.names import nearest

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

TABLES = {"raw": RAW, **{f"tier_{name}": name for name in TIERS}}
"""DuckDB's databases of the archive, with the archive's own names of them."""

CONSDB = "consdb"
_BATCH_ROWS = 65_536
_LOCKED = (
    "SET TimeZone = 'UTC'",
    "SET enable_external_access = false",
    "SET python_enable_replacements = false",
    "SET lock_configuration = true",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of an answer, as they are asked for: `schema`, and batches of Arrow, once."""

    reader: pa.RecordBatchReader

    @property
    def schema(self) -> pa.Schema:
        return self.reader.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, some at a time.

        Raises:
            DataError: DuckDB failed on the way.
        """
        while True:
            try:
                batch = self.reader.read_next_batch()
            except StopIteration:
                return
            except (pa.ArrowException, duckdb.Error, OSError) as error:
                raise DataError(f"The statement failed: {first_lines(error)}", remedy=_REMEDY) from error
            yield batch

    def table(self) -> pa.Table:
        """All rows."""
        return pa.Table.from_batches(list(self.batches()), self.schema)


_REMEDY = 'Mend the statement; `efd sql "FROM datasets"` lists what there is, `DESCRIBE <name>` its columns.'


class SqlSession:
    """A DuckDB in memory over an archive. For one thread."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._connection, self._parser = duckdb.connect(":memory:"), duckdb.connect(":memory:")
        for name in (*TABLES, CONSDB):
            self._connection.execute(f"ATTACH ':memory:' AS {name}")
        self._connection.execute("USE raw")
        for setting in _LOCKED:
            self._connection.execute(setting)
        self._names: Names | None = None
        self._versions: dict[str, tuple[str, int]] = {}
        self._consdb: ConsdbTables | None = None
        self._copied: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()
        self._parser.close()
        if self._consdb is not None:
            self._consdb.close()

    def ask(self, statement: str) -> Answer:
        """The answer to one statement.

        Raises:
            UsageError: it is no SQL, no question, or names what there is not.
            DataError: DuckDB failed on it.
            StoreUnavailable, DatabaseUnavailable: as named.
        """
        questions = parsed(statement)
        if len(questions) != 1:
            raise UsageError(f"These are {len(questions)} statements", remedy="Give one.")
        for parts in tables_in(self._parser, questions[0]):
            self._bring(parts)
        try:
            found = self._connection.sql(questions[0])
            return Answer(found.to_arrow_reader(_BATCH_ROWS))
        except duckdb.Error as error:
            wrong = isinstance(error, duckdb.ProgrammingError | duckdb.NotSupportedError | duckdb.PermissionException)
            kind = UsageError if wrong else DataError
            raise kind(f"DuckDB answers: {first_lines(error)}{self._hint(questions[0])}", remedy=_REMEDY) from error

    @property
    def names(self) -> Names:
        """What the datasets are called."""
        if self._names is None:
            self._names = Names.of(self._archive.datasets())
        return self._names

    def _bring(self, parts: Sequence[str]) -> None:
        """Makes the view or table of a name, if it is one of ours."""
        if len(parts) == 1:
            self._bring_named(parts[0])
        elif len(parts) == 2:
            first, second = parts
            if first.lower() in TABLES and second in self.names.by_text:
                self._show(first.lower(), "main", second, self.names.by_text[second])
            elif (found := self.names.find(first, second)) is not None:
                self._show("raw", found.schema, found.view, found)
            elif (first.lower(), second.lower()) in self._of_consdb(first):
                self._copy(first.lower(), second.lower())
                self._execute(f"CREATE SCHEMA IF NOT EXISTS {quoted('raw', first.lower())}")
                self._view("raw", first.lower(), second.lower(), quoted(CONSDB, first.lower(), second.lower()))
        elif len(parts) == 3 and parts[0].lower() in TABLES:
            found = self.names.find(parts[1], parts[2])
            if found is not None:
                self._show(parts[0].lower(), found.schema, found.view, found)
        elif len(parts) == 3 and parts[0].lower() == CONSDB:
            self._copy(parts[1].lower(), parts[2].lower())

    def _bring_named(self, name: str) -> None:
        if name.lower() == "datasets":
            self._give("datasets", self._datasets())
        elif name.lower() == "ledger":
            self._archive.ledger.catch_up_pending()
            self._give("ledger", self._archive.ledger.table())
        elif name.lower() == "consdb_tables":
            names = sorted(self._tables().names())
            self._give("consdb_tables", pa.table({"schema": [a for a, _ in names], "name": [b for _, b in names]}))
        elif name in self.names.by_text:
            self._show("raw", "main", name, self.names.by_text[name])

    def _datasets(self) -> pa.Table:
        configuration, rows = self._archive.settings.configuration, []
        for named in self.names.by_text.values():
            tiers = [name for name, tier in TIERS.items() if aggregated(named.dataset, configuration, tier)]
            rows.append((named.text, named.dataset.text, named.dataset.component, named.dataset.kind.value, tiers))
        columns = zip(*rows, strict=True) if rows else ([],) * 5
        names = ("name", "dataset", "component", "kind", "tiers")
        types = (pa.string(), pa.string(), pa.string(), pa.string(), pa.list_(pa.string()))
        arrays = [pa.array(list(values), kind) for values, kind in zip(columns, types, strict=True)]
        return pa.Table.from_arrays(arrays, names=list(names))

    def _show(self, database: str, schema: str, view: str, named: Named) -> None:
        """Makes or renews the view of a dataset's table."""
        tier = TIERS.get(TABLES[database])
        summarised = tier is not None and aggregated(named.dataset, self._archive.settings.configuration, tier)
        relative = self._archive.relative(named.dataset, TABLES[database] if summarised else RAW)
        snapshot = open_table(self._archive.store, relative)
        if snapshot is None:
            raise UnknownDataset(
                f"{named.dataset} has no {TABLES[database]} tier yet", remedy="`efd tiers run` computes it."
            )
        source = f"{database}.{schema}.{view}"
        if self._versions.get(source) != (relative, snapshot.version):
            self._connection.register(source, rows_of(snapshot))
            if source not in self._versions:
                self._execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(database, schema)}")
                self._view(database, schema, view, quoted("temp", "main", source))
            self._versions[source] = relative, snapshot.version

    def _give(self, name: str, rows: pa.Table) -> None:
        self._connection.register(f"given {name}", rows)
        self._view("raw", "main", name, quoted("temp", "main", f"given {name}"))

    def _view(self, database: str, schema: str, view: str, source: str) -> None:
        self._execute(f"CREATE OR REPLACE VIEW {quoted(database, schema, view)} AS SELECT * FROM {source}")  # noqa: S608

    def _execute(self, statement: str) -> None:
        self._connection.execute(statement)

    def _tables(self) -> ConsdbTables:
        if self._consdb is None:
            self._consdb = ConsdbTables(self._archive.settings)
        return self._consdb

    def _of_consdb(self, schema: str) -> Sequence[tuple[str, str]]:
        """Tables of a schema of ConsDB; it is only asked for names that can be its own."""
        return list(self._tables().names()) if schema.lower().startswith(("cdb_", "efd_")) else []

    def _copy(self, schema: str, name: str) -> None:
        """Brings a table of ConsDB, once."""
        if (schema, name) in self._copied:
            return
        known = self._tables().names()
        if (schema, name) not in known:
            names = [".".join(one) for one in known]
            raise UnknownDataset(
                f"ConsDB has no table {schema}.{name}{nearest(f'{schema}.{name}', names)}",
                remedy='`efd sql "FROM consdb_tables"` lists what it has.',
            )
        kinds, batches = self._tables().read(schema, name)
        source = f"consdb {schema}.{name}"
        self._connection.register(source, pa.RecordBatchReader.from_batches(kinds, batches))
        self._execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(CONSDB, schema)}")
        self._execute(f"CREATE TABLE {quoted(CONSDB, schema, name)} AS SELECT * FROM {quoted('temp', 'main', source)}")  # noqa: S608
        self._connection.unregister(source)
        self._copied.add((schema, name))

    def _hint(self, statement: str) -> str:
        """The nearest names, where the statement names a table that there is not."""
        known = {one.text for one in self.names.by_text.values()}
        for parts in tables_in(self._parser, statement):
            name = ".".join(parts[1:] if parts[0].lower() in TABLES else parts)
            if len(parts) > 1 and name not in known and (hint := nearest(name, known)):
                return hint
        return ""
