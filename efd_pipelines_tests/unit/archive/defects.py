"""Defects: what can be wrong with an archive, each put into a healthy one at a place drawn at random.

A defect is a function that takes a `Scene` and breaks something. `PLAIN` are those that metadata show, `DEEP` those
that only reading shows. Some are done behind the archive's back (files, logs), some in its own name: a commit that says
it is a merge and is none, with everything about it in order.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import DataFile, content_hash, sort_rows, time_range, write_data_file
from efd_pipelines.archive.ledger import RAW, RELATIVE, rows_of
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table
from efd_pipelines.times import Week
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


def _set(row: dict[str, Any], name: str, change: Callable[[Any], Any]) -> None:
    row[name] = change(row[name])


# What metadata show


def a_file_is_gone(scene: Scene) -> None:
    scene.path(scene.any_file()).unlink()


def a_file_of_the_dead_is_gone(scene: Scene) -> None:
    scene.path(scene.file_of(DEAD)).unlink()


def a_file_is_cut(scene: Scene) -> None:
    path = scene.path(scene.any_file())
    data = path.read_bytes()
    path.write_bytes(data[: scene.dice.randrange(len(data))])


def a_file_has_grown(scene: Scene) -> None:
    path = scene.path(scene.any_file())
    path.write_bytes(path.read_bytes() + scene.dice.randbytes(scene.dice.randint(1, 100)))


def a_week_is_gone(scene: Scene) -> None:
    for file in scene.path(scene.any_file()).parent.iterdir():
        file.unlink()


def the_ledger_has_more_rows(scene: Scene) -> None:
    scene.ledger_changed(lambda rows: _set(rows[0], "rows", lambda rows: rows + 3), commit_kind="drain")


def the_ledger_has_fewer_rows(scene: Scene) -> None:
    scene.ledger_changed(lambda rows: _set(rows[0], "rows", lambda rows: rows - 1), commit_kind="drain")


def the_ledger_has_other_bytes(scene: Scene) -> None:
    scene.ledger_changed(lambda rows: _set(rows[0], "bytes", lambda size: size + 7), commit_kind="drain")


def the_ledger_lacks_a_commit(scene: Scene) -> None:
    versions = sorted({row["version"] for row in scene.drains()})[:-1]
    version = scene.dice.choice(versions)
    scene.ledger_changed(list.clear, version=version)


def the_ledger_leads(scene: Scene) -> None:
    def add(rows: list[dict[str, Any]]) -> None:
        last = max(rows, key=lambda row: int(row["version"]))
        rows.append({**last, "version": last["version"] + 5, "week": "", "slice": "", "rows": 0, "bytes": 0,
                     "files": 0, "records": 0, "names": "[]"})  # fmt: skip

    scene.ledger_changed(add)


def the_ledger_sets_a_position_back(scene: Scene) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        moved = sorted((row for row in rows if row["positions"] != "{}"), key=lambda row: int(row["version"]))
        positions = json.loads(moved[-1]["positions"])
        moved[-1]["positions"] = json.dumps(dict.fromkeys(positions, 1))

    scene.ledger_changed(change)


def the_ledger_has_too_low_a_position(scene: Scene) -> None:
    """As if fewer offsets had been read than records were kept."""

    def change(rows: list[dict[str, Any]]) -> None:
        moved = sorted((row for row in rows if row["positions"] != "{}"), key=lambda row: int(row["version"]))
        before = json.loads(moved[-2]["positions"])
        moved[-1]["positions"] = json.dumps({name: position + 1 for name, position in before.items()})

    scene.ledger_changed(change)


def another_program_adds_a_copy(scene: Scene) -> None:
    file = scene.any_file()
    copy = scene.path(file).with_name(f"part-{scene.dice.randrange(10**9)}-c000.parquet")
    copy.write_bytes(scene.path(file).read_bytes())
    stats = json.dumps({"numRecords": file.rows})
    scene.foreign_commit(
        [AddAction(f"week={file.week}/{copy.name}", file.size_bytes, {"week": file.week}, 0, True, stats)]
    )


def another_program_removes_a_file(scene: Scene) -> None:
    file = scene.any_file()
    scene.foreign_commit([RemoveAction(file.path, True, 0, size=file.size_bytes, partition_values={"week": file.week})])


def another_program_moves_a_position(scene: Scene) -> None:
    name = next(iter(json.loads(scene.drains()[-1]["positions"]) or {"cluster/topic:0": 0}))
    scene.foreign_commit([], Transaction(f"kafka:{name}", 10_000 + scene.dice.randrange(1000)))


def another_program_deletes_rows(scene: Scene) -> None:
    scene.table.delta.delete(f"private_seqNum % {scene.dice.randint(2, 5)} = 0")


def another_program_writes_rows(scene: Scene) -> None:
    file = scene.any_file()
    rows = scene.read(file).append_column("week", pa.repeat(file.week, file.rows))
    deltalake.write_deltalake(scene.table.delta, rows, mode="append", schema_mode="merge")


def a_merge_keeps_what_it_replaced(scene: Scene) -> None:
    file = scene.any_file(4)
    made = write_data_file(
        scene.archive.store, scene.relative, file.week, file.slice, sort_rows(scene.read(file).slice(0, 3))
    )
    scene.committed([made], [])


def a_move_loses_a_file(scene: Scene) -> None:
    scene.committed([], [scene.any_file()], kind="replay")


def a_gap_was_noted(scene: Scene) -> None:
    gap = {"source": "cluster/topic", "partition": 0, "first": 3, "end": 9, "reason": "expired", "noticed": "2026"}
    scene.ledger_changed(lambda rows: _set(rows[0], "gaps", lambda _: json.dumps([gap])))


def the_newest_version_is_gone(scene: Scene) -> None:
    scene.log(scene.table.version).unlink()


def a_slice_stands_in_another_week(scene: Scene) -> None:
    file = scene.any_file()
    week = Week.parse(file.week).previous().key
    made = write_data_file(scene.archive.store, scene.relative, week, file.slice, scene.read(file))
    scene.committed([made], [file])


def rows_stand_in_another_slice(scene: Scene) -> None:
    """With statistics that say so."""
    one = scene.any_file()
    other = next(file for file in scene.table.files() if file.slice != one.slice and file.week == one.week)
    made = write_data_file(scene.archive.store, scene.relative, one.week, other.slice, scene.read(one))
    scene.committed([made], [one])


# What only reading shows


def a_bit_has_flipped(scene: Scene) -> None:
    path = scene.path(scene.any_file())
    data = bytearray(path.read_bytes())
    data[scene.dice.randrange(len(data))] ^= 1 << scene.dice.randrange(8)
    path.write_bytes(data)


def a_page_is_overwritten(scene: Scene) -> None:
    path = scene.path(scene.any_file())
    data = bytearray(path.read_bytes())
    at = scene.dice.randrange(len(data) - 16)
    data[at : at + 16] = scene.dice.randbytes(16)
    path.write_bytes(data)


def a_value_changed_under_the_same_name(scene: Scene) -> None:
    """A file of the same size and rows, with another value."""
    file = scene.any_file()
    rows = scene.read(file)
    values = rows["value"].to_numpy().copy()
    values[scene.dice.randrange(len(values))] += 1
    path, size = scene.path(file), file.size_bytes
    pq.write_table(rows.set_column(rows.column_names.index("value"), "value", pa.array(values)), path)
    data = path.read_bytes()
    path.write_bytes(data[:size] + b"\0" * max(0, size - len(data)))


def rows_stand_twice(scene: Scene) -> None:
    """As many rows as before: some stand twice, others are gone."""
    count = scene.dice.randint(1, 3)
    scene.rewritten(lambda rows: pa.concat_tables([rows.slice(count), rows.slice(rows.num_rows - count)]))


def rows_are_beyond_the_position(scene: Scene) -> None:
    scene.rewritten(lambda rows: _with(rows, "kafka_offset", rows["kafka_offset"].to_numpy() + 100_000))


def rows_are_of_a_foreign_source(scene: Scene) -> None:
    scene.rewritten(lambda rows: _with(rows, "archive_source", ["elsewhere/other"] * rows.num_rows))


def rows_have_no_coordinates(scene: Scene) -> None:
    scene.rewritten(lambda rows: _with(rows, "kafka_offset", pa.nulls(rows.num_rows, pa.int64())))


def rows_are_not_sorted(scene: Scene) -> None:
    scene.rewritten(lambda rows: rows.take(list(range(rows.num_rows))[::-1]), sort=False)


def rows_have_an_unknown_schema(scene: Scene) -> None:
    token = scene.dice.getrandbits(62)
    scene.rewritten(lambda rows: _with(rows, "archive_schema", np.full(rows.num_rows, token)))


def schemas_are_swapped(scene: Scene) -> None:
    tokens = _tokens(scene)
    file = scene.dice.choice([f for f in scene.table.files() if f.week not in (DEAD, QUARANTINE)])

    def swap(rows: pa.Table) -> pa.Table:
        return _with(rows, "archive_schema", [tokens[token] for token in rows["archive_schema"].to_pylist()])

    scene.rewritten(swap, file)


def a_stamp_changed(scene: Scene) -> None:
    scene.rewritten(
        lambda rows: _with(rows, "private_efdStamp", rows["private_efdStamp"].to_numpy() + scene.dice.choice([1e-3, 1]))
    )


def a_time_changed(scene: Scene) -> None:
    def change(rows: pa.Table) -> pa.Table:
        times = rows["time"].cast(pa.int64()).to_numpy().copy()
        times[scene.dice.randrange(len(times))] += 5
        return _with(rows, "time", times)

    scene.rewritten(change)


def a_required_value_is_gone(scene: Scene) -> None:
    scene.rewritten(
        lambda rows: _with(rows, "extra", pa.nulls(rows.num_rows, pa.int32())), _with_column(scene, "extra")
    )


def a_column_has_another_type(scene: Scene) -> None:
    file = scene.any_file(4)
    rows = scene.read(file)
    changed = rows.set_column(rows.column_names.index("value"), "value", rows["value"].cast(pa.string()))
    made = write_data_file(scene.archive.store, scene.relative, file.week, file.slice, changed)
    scene.committed([made], [file])


def a_file_has_a_column_too_many(scene: Scene) -> None:
    file = scene.any_file(4)
    rows = scene.read(file)
    made = write_data_file(
        scene.archive.store,
        scene.relative,
        file.week,
        file.slice,
        rows.append_column("foreign", pa.array([1] * file.rows)),
    )
    scene.committed([made], [file])


def statistics_lie(scene: Scene) -> None:
    """A reader that trusts them skips the file."""
    file = scene.any_file(4)
    rows = scene.read(file)
    low, high = time_range(rows)
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    data = bytes(sink.getvalue())
    path = f"week={file.week}/{file.slice}-{content_hash(data)}.parquet"
    scene.archive.store.write_bytes(f"{scene.relative}/{path}", data)
    lying = DataFile(path, file.week, file.slice, file.rows, len(data), low, (high or 0) - 1000)
    scene.committed([lying], [file])


def the_log_has_other_rows(scene: Scene) -> None:
    def change(add: dict[str, Any]) -> None:
        stats = json.loads(add["stats"])
        stats["numRecords"] += 2
        add["stats"] = json.dumps(stats)

    _edit_log(scene, change)


def the_log_has_another_size(scene: Scene) -> None:
    def change(add: dict[str, Any]) -> None:
        add["size"] += 9

    _edit_log(scene, change)


def a_version_of_the_log_is_gone(scene: Scene) -> None:
    scene.log(scene.dice.randrange(0, scene.table.version)).unlink()


def a_version_of_the_log_cannot_be_read(scene: Scene) -> None:
    path = scene.log(scene.dice.randrange(0, scene.table.version))
    path.write_bytes(b"\xff\xfe{" + path.read_bytes()[3:])


def the_ledger_has_other_times(scene: Scene) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        timed = next(row for row in rows if row["time_min"] is not None)
        timed["time_max"] = timed["time_min"]

    scene.ledger_changed(change, commit_kind="drain")


def the_ledger_leads_a_position(scene: Scene) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        moved = sorted((row for row in rows if row["positions"] != "{}"), key=lambda row: int(row["version"]))
        positions = json.loads(moved[-1]["positions"])
        moved[-1]["positions"] = json.dumps({name: position + 50 for name, position in positions.items()})

    scene.ledger_changed(change)


def the_ledger_names_other_schemas(scene: Scene) -> None:
    scene.ledger_changed(
        lambda rows: _set(next(row for row in rows if row["schemas"] != "[]"), "schemas", lambda _: "[17]"),
        commit_kind="drain",
    )


def rows_moved_to_quarantine(scene: Scene) -> None:
    file = scene.any_file()
    made = write_data_file(scene.archive.store, scene.relative, QUARANTINE, QUARANTINE, scene.read(file))
    scene.committed([made], [file])


def rows_moved_to_the_dead(scene: Scene) -> None:
    file = scene.any_file()
    made = write_data_file(scene.archive.store, scene.relative, DEAD, DEAD, scene.read(file))
    scene.committed([made], [file])


def a_schemas_text_is_another(scene: Scene) -> None:
    """The table of schemas rewritten with a unit changed in one text."""
    uri = scene.archive.store.uri("schemas")
    delta = deltalake.DeltaTable(uri)
    whole = pq.read_table(delta.file_uris())
    texts = whole["text"].to_pylist()
    at = scene.dice.randrange(len(texts))
    texts[at] = texts[at].replace('"lsst.sal.Test"', '"lsst.sal.Other"')
    deltalake.write_deltalake(
        uri, whole.set_column(whole.column_names.index("text"), "text", pa.array(texts)), mode="overwrite"
    )


def a_schema_is_gone(scene: Scene) -> None:
    uri = scene.archive.store.uri("schemas")
    whole = pq.read_table(deltalake.DeltaTable(uri).file_uris())
    token = scene.dice.choice(list(_tokens(scene)))
    deltalake.write_deltalake(
        uri, whole.filter(pa.array([other != token for other in whole["token"].to_pylist()])), mode="overwrite"
    )


# What a certificate shows


def a_certificate_is_gone(scene: Scene) -> None:
    scene.certificate.unlink()


def a_certificate_cannot_be_read(scene: Scene) -> None:
    scene.certificate.write_bytes(scene.certificate.read_bytes()[: scene.dice.randint(0, 100)])


def a_certificate_has_other_rows(scene: Scene) -> None:
    scene.certificate_changed(lambda document: _set(document, "rows", lambda rows: rows - 1))


def a_certificate_has_another_hash(scene: Scene) -> None:
    def change(document: dict[str, Any]) -> None:
        scene.dice.choice(document["files"])["sha256"] = f"{scene.dice.getrandbits(256):064x}"

    scene.certificate_changed(change)


def a_certificate_has_other_rows_of_a_file(scene: Scene) -> None:
    scene.certificate_changed(
        lambda document: _set(scene.dice.choice(document["files"]), "rows", lambda rows: rows + 1)
    )


def a_certificate_is_of_another_topic(scene: Scene) -> None:
    scene.certificate_changed(lambda document: _set(document, "dataset", lambda _: "lsst.sal.Test.y"))


def a_certificate_is_an_older_one(scene: Scene) -> None:
    scene.certificate_changed(lambda document: _set(document, "seal", lambda seal: seal - 1))


def a_certificate_has_other_positions(scene: Scene) -> None:
    scene.certificate_changed(
        lambda document: _set(scene.dice.choice(document["origins"]), "position", lambda reached: reached + 9)
    )


def _with(rows: pa.Table, name: str, values: Any) -> pa.Table:
    column = rows.schema.field(name)
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return rows.set_column(rows.column_names.index(name), column, array.cast(column.type))


def _tokens(scene: Scene) -> dict[int, int]:
    """Each schema of the dataset's rows, with another one."""
    found = sorted({token for row in scene.drains() for token in json.loads(row["schemas"])})
    return dict(zip(found, [*found[1:], found[0]], strict=True))


def _with_column(scene: Scene, name: str) -> DataFile:
    files = [f for f in scene.table.files() if f.week not in (DEAD, QUARANTINE)]
    having = [file for file in files if name in pq.read_schema(scene.path(file)).names]
    whole = [file for file in having if not scene.read(file)[name].null_count]
    return scene.dice.choice(whole)


def _edit_log(scene: Scene, change: Callable[[dict[str, Any]], None]) -> None:
    versions = [v for v in range(scene.table.version + 1) if '"add"' in scene.log(v).read_text()]
    path = scene.log(scene.dice.choice(versions))
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    change(scene.dice.choice([action["add"] for action in actions if "add" in action]))
    path.write_text("\n".join(json.dumps(action) for action in actions) + "\n")


PLAIN = (
    a_file_is_gone,
    a_file_of_the_dead_is_gone,
    a_file_is_cut,
    a_file_has_grown,
    a_week_is_gone,
    the_ledger_has_more_rows,
    the_ledger_has_fewer_rows,
    the_ledger_has_other_bytes,
    the_ledger_lacks_a_commit,
    the_ledger_leads,
    the_ledger_sets_a_position_back,
    the_ledger_has_too_low_a_position,
    another_program_adds_a_copy,
    another_program_removes_a_file,
    another_program_moves_a_position,
    another_program_deletes_rows,
    another_program_writes_rows,
    a_merge_keeps_what_it_replaced,
    a_move_loses_a_file,
    a_gap_was_noted,
    the_newest_version_is_gone,
    a_slice_stands_in_another_week,
    rows_stand_in_another_slice,
)
DEEP = (
    a_bit_has_flipped,
    a_page_is_overwritten,
    a_value_changed_under_the_same_name,
    rows_stand_twice,
    rows_are_beyond_the_position,
    rows_are_of_a_foreign_source,
    rows_have_no_coordinates,
    rows_are_not_sorted,
    rows_have_an_unknown_schema,
    schemas_are_swapped,
    a_stamp_changed,
    a_time_changed,
    a_required_value_is_gone,
    a_column_has_another_type,
    a_file_has_a_column_too_many,
    statistics_lie,
    the_log_has_other_rows,
    the_log_has_another_size,
    a_version_of_the_log_is_gone,
    a_version_of_the_log_cannot_be_read,
    the_ledger_has_other_times,
    the_ledger_leads_a_position,
    the_ledger_names_other_schemas,
    rows_moved_to_quarantine,
    rows_moved_to_the_dead,
    a_schemas_text_is_another,
    a_schema_is_gone,
)
CERTIFIED_PLAIN = (a_certificate_is_gone, a_certificate_cannot_be_read, a_certificate_has_other_rows)
CERTIFIED_DEEP = (
    a_certificate_has_another_hash,
    a_certificate_has_other_rows_of_a_file,
    a_certificate_is_of_another_topic,
    a_certificate_is_an_older_one,
    a_certificate_has_other_positions,
)
