"""A healthy archive that a defect is put into, and what defects do to it.

Some is done behind the archive's back (files, logs), some in its own name: a commit that says it is a merge and is
none, with everything about it in order. The defects: the modules beside this one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import CommitProperties, Transaction

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import DataFile, sort_rows, write_data_file
from efd_pipelines.archive.ledger import RAW, RELATIVE, rows_of
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table
from efd_pipelines.topics.names import Dataset

Change = Callable[[pa.Table], pa.Table]


@dataclass
class Scene:
    """A healthy archive, and dice to choose where it is hurt."""

    archive: Archive
    dataset: Dataset
    dice: random.Random

    @property
    def relative(self) -> str:
        return self.archive.relative(self.dataset)

    @property
    def table(self) -> TableSnapshot:
        return self.archive.snapshot(self.dataset)

    def path(self, file: DataFile) -> Path:
        return Path(self.archive.store.path(f"{self.relative}/{file.path}"))

    def any_file(self, least_rows: int = 1) -> DataFile:
        """A file of a week."""
        files = [f for f in self.table.files() if f.week not in (DEAD, QUARANTINE) and f.rows >= least_rows]
        return self.dice.choice(files)

    def file_of(self, week: str) -> DataFile:
        return self.dice.choice(self.table.files({week}))

    def read(self, file: DataFile) -> pa.Table:
        return pq.read_table(self.path(file), partitioning=None)

    def log(self, version: int) -> Path:
        return Path(self.archive.store.path(f"{self.relative}/_delta_log/{version:020d}.json"))

    def rewritten(self, change: Change, file: DataFile | None = None, *, sort: bool = True, **of: Any) -> None:
        """A commit that says it is a merge, of a file whose rows are others than they were."""
        file = file or self.any_file(4)
        rows = change(self.read(file))
        made = write_data_file(
            self.archive.store, self.relative, file.week, file.slice, sort_rows(rows) if sort else rows
        )
        self.committed([replace(made, **of)], [file])

    def committed(self, add: list[DataFile], remove: list[DataFile], kind: str = "merge", **note: Any) -> None:
        snapshot = self.table
        guard = f"slice:{(add or remove)[0].slice}"
        reached = snapshot.transaction_version(guard)
        made = commit(
            self.archive.store,
            self.relative,
            snapshot,
            add=add,
            remove=remove,
            transactions={guard: (reached, (reached or 0) + 1)},
            schema=snapshot.schema,
            note={"kind": kind, "run": "defect", **note},
        )
        self.archive.ledger.append(rows_of(RAW, self.dataset, made))

    def foreign_commit(self, actions: list[Any], *transactions: Transaction) -> None:
        """A commit that another program makes."""
        delta = self.table.delta
        delta.create_write_transaction(
            actions,
            mode="append",
            schema=delta.schema(),
            partition_by=["week"],
            commit_properties=CommitProperties(app_transactions=list(transactions)),
        )

    @cached_property
    def _ledger_rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.archive.ledger.table().to_pylist()
        return rows

    def ledger_changed(self, change: Callable[[list[dict[str, Any]]], None], **of: Any) -> None:
        """The ledger with other rows of the dataset, chosen among those that have these values."""
        mine = [
            row
            for row in self._ledger_rows
            if row["dataset"] == self.dataset.text and all(row[name] == value for name, value in of.items())
        ]
        others = [row for row in self._ledger_rows if row not in mine]
        self.dice.shuffle(mine)
        change(mine)
        self._write_ledger([*others, *mine])

    def _write_ledger(self, rows: list[dict[str, Any]]) -> None:
        store = self.archive.store
        snapshot = open_table(store, RELATIVE, partition="month")
        assert snapshot is not None
        schema = self.archive.ledger.table().schema
        table = pa.Table.from_pylist(rows, schema=schema)
        month = rows[0]["month"]
        new = write_data_file(store, RELATIVE, month, "c", table.drop_columns(["month"]), partition="month")
        commit(
            store,
            RELATIVE,
            snapshot,
            add=[new],
            remove=snapshot.files(),
            transactions={},
            schema=table.drop_columns(["month"]).schema,
            note={"kind": "compact"},
            partition="month",
        )

    @property
    def certificate(self) -> Path:
        return next(Path(self.archive.store.path(f"{self.relative}/_certificates")).iterdir())

    def certificate_changed(self, change: Callable[[dict[str, Any]], None]) -> None:
        document = json.loads(self.certificate.read_bytes())
        change(document)
        self.certificate.write_text(json.dumps(document))

    def drains(self) -> list[dict[str, Any]]:
        return [
            row for row in self._ledger_rows if row["dataset"] == self.dataset.text and row["commit_kind"] == "drain"
        ]


def set_field(row: dict[str, Any], name: str, change: Callable[[Any], Any]) -> None:
    """Of a row of the ledger, or of a certificate."""
    row[name] = change(row[name])


def with_values(rows: pa.Table, name: str, values: Any) -> pa.Table:
    """The rows with other values of a column."""
    column = rows.schema.field(name)
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return rows.set_column(rows.column_names.index(name), column, array.cast(column.type))


def other_tokens(scene: Scene) -> dict[int, int]:
    """Each schema of the dataset's rows, with another one."""
    found = sorted({token for row in scene.drains() for token in json.loads(row["schemas"])})
    return dict(zip(found, [*found[1:], found[0]], strict=True))


def file_with(scene: Scene, name: str) -> DataFile:
    """A file of a week that has a value of the column in every row."""
    files = [f for f in scene.table.files() if f.week not in (DEAD, QUARANTINE)]
    having = [file for file in files if name in pq.read_schema(scene.path(file)).names]
    whole = [file for file in having if not scene.read(file)[name].null_count]
    return scene.dice.choice(whole)


def edit_log(scene: Scene, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes what the log says of a file that was added."""
    versions = [v for v in range(scene.table.version + 1) if '"add"' in scene.log(v).read_text()]
    path = scene.log(scene.dice.choice(versions))
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    change(scene.dice.choice([action["add"] for action in actions if "add" in action]))
    path.write_text("\n".join(json.dumps(action) for action in actions) + "\n")
