"""Writer schemas: the text of every schema that an archived record was written with, by its token.

A commit may refer to a token (`archive_schema`) only when its text is here: `remember` collects what is new, `keep`
writes it, before the commit. One Delta table at `schemas/`; a token that stands twice has the same text twice.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import TableNotFoundError

from efd_pipelines.archive.store import Store
from efd_pipelines.arrays import no_rows, table_of
from efd_pipelines.topics.schemas import TopicSchema, parse_schema

RELATIVE = "schemas"
_SCHEMA = pa.schema(
    [
        ("token", pa.int64()),
        ("registry", pa.string()),
        ("id", pa.int64()),
        ("namespace", pa.string()),
        ("name", pa.string()),
        ("units", pa.string()),
        ("text", pa.string()),
        ("seen", pa.timestamp("us", tz="UTC")),
    ]
)


class WriterSchemas:
    """The schemas table of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: set[tuple[int, str, int]] | None = None
        self._new: dict[tuple[int, str, int], TopicSchema] = {}
        self._texts: dict[int, str] = {}

    def remember(self, registry: str, schema_id: int, schema: TopicSchema) -> None:
        """Notes a schema that is about to be referred to."""
        with self._lock:
            if self._known is None:
                self._known = self._stored()
            key = (schema.token, registry, schema_id)
            if key not in self._known:
                self._new[key] = schema

    def keep(self) -> None:
        """Writes what was noted and is not there yet."""
        with self._lock:
            new, self._new = self._new, {}
            if not new:
                return
            try:
                self._write(new)
            except BaseException:
                self._new = new | self._new
                raise
            self._known = (self._known or set()) | set(new)

    def text(self, token: int) -> TopicSchema | None:
        """The schema of a token, None where it was never seen. The table is read again only for one that is new."""
        with self._lock:
            if token not in self._texts:
                table = self._table(["token", "text"])
                self._texts = dict(zip(table["token"].to_pylist(), table["text"].to_pylist(), strict=True))
            text = self._texts.get(token)
        return None if text is None else parse_schema(text)

    def texts(self) -> list[tuple[int, str]]:
        """Every token with its text, as often as it stands there."""
        table = self._table(["token", "text"])
        return list(zip(table["token"].to_pylist(), table["text"].to_pylist(), strict=True))

    def versions(self, schema: TopicSchema) -> list[TopicSchema]:
        """All schemas of the same record, whichever topic they were seen on."""
        table = self._table(["token", "namespace", "name", "text"])
        found = {
            row["token"]: row["text"]
            for row in table.to_pylist()
            if (row["namespace"], row["name"]) == (schema.namespace, schema.name)
        }
        return [parse_schema(text) for text in found.values()]

    def newest(self) -> dict[str, str]:
        """By topic (`namespace.name`), the text of the schema that was seen last."""
        table = self._table(["namespace", "name", "text", "seen"]).sort_by("seen")
        names = zip(table["namespace"].to_pylist(), table["name"].to_pylist(), strict=True)
        return {
            f"{namespace}.{name}": text
            for (namespace, name), text in zip(names, table["text"].to_pylist(), strict=True)
        }

    def tokens(self) -> set[int]:
        return set(self._table(["token"])["token"].to_pylist())

    def _write(self, new: dict[tuple[int, str, int], TopicSchema]) -> None:
        now = datetime.now(UTC)
        rows = [
            {
                "token": token,
                "registry": registry,
                "id": schema_id,
                "namespace": schema.namespace,
                "name": schema.name,
                "units": json.dumps({field.name: field.units for field in schema.fields if field.units}),
                "text": schema.text,
                "seen": now,
            }
            for (token, registry, schema_id), schema in new.items()
        ]
        with self._store.errors("write schemas"):
            write_deltalake(
                self._store.uri(RELATIVE),
                table_of(rows, _SCHEMA),
                mode="append",
                storage_options=self._store.storage_options,
            )

    def _stored(self) -> set[tuple[int, str, int]]:
        table = self._table(["token", "registry", "id"])
        return set(zip(*(table[name].to_pylist() for name in ("token", "registry", "id")), strict=True))

    def _table(self, columns: list[str]) -> pa.Table:
        with self._store.errors("read schemas"):
            try:
                delta = DeltaTable(self._store.uri(RELATIVE), storage_options=self._store.storage_options)
            except TableNotFoundError:
                return no_rows(pa.schema([_SCHEMA.field(name) for name in columns]))
            # `pa.table` would import pandas.
            files = pa.RecordBatchReader.from_stream(delta.get_add_actions()).read_all()
            paths = [f"{RELATIVE}/{path}" for path in files["path"].to_pylist()]
            parts = [
                pq.read_table(
                    self._store.path(path), columns=columns, filesystem=self._store.arrow_fs, partitioning=None
                )
                for path in paths
            ]
            return pa.concat_tables(parts)
