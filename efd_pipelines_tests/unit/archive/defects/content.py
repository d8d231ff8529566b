"""Defects that only reading shows: flipped bits, changed values, logs and schemas that say something else."""

from __future__ import annotations

import json
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from efd_pipelines.archive.files import DataFile, content_hash, time_range, write_data_file
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines_tests.unit.archive.defects.scene import (
    Scene,
    edit_log,
    file_with,
    other_tokens,
    set_field,
    with_values,
)


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
    scene.rewritten(lambda rows: with_values(rows, "kafka_offset", rows["kafka_offset"].to_numpy() + 100_000))


def rows_are_of_a_foreign_source(scene: Scene) -> None:
    scene.rewritten(lambda rows: with_values(rows, "archive_source", ["elsewhere/other"] * rows.num_rows))


def rows_have_no_coordinates(scene: Scene) -> None:
    scene.rewritten(lambda rows: with_values(rows, "kafka_offset", pa.nulls(rows.num_rows, pa.int64())))


def rows_are_not_sorted(scene: Scene) -> None:
    scene.rewritten(lambda rows: rows.take(list(range(rows.num_rows))[::-1]), sort=False)


def rows_have_an_unknown_schema(scene: Scene) -> None:
    token = scene.dice.getrandbits(62)
    scene.rewritten(lambda rows: with_values(rows, "archive_schema", np.full(rows.num_rows, token)))


def schemas_are_swapped(scene: Scene) -> None:
    others = other_tokens(scene)
    file = scene.dice.choice([f for f in scene.table.files() if f.week not in (DEAD, QUARANTINE)])

    def swap(rows: pa.Table) -> pa.Table:
        return with_values(rows, "archive_schema", [others[token] for token in rows["archive_schema"].to_pylist()])

    scene.rewritten(swap, file)


def a_stamp_changed(scene: Scene) -> None:
    scene.rewritten(
        lambda rows: with_values(
            rows, "private_efdStamp", rows["private_efdStamp"].to_numpy() + scene.dice.choice([1e-3, 1])
        )
    )


def a_time_changed(scene: Scene) -> None:
    def change(rows: pa.Table) -> pa.Table:
        times = rows["time"].cast(pa.int64()).to_numpy().copy()
        times[scene.dice.randrange(len(times))] += 5
        return with_values(rows, "time", times)

    scene.rewritten(change)


def a_required_value_is_gone(scene: Scene) -> None:
    scene.rewritten(
        lambda rows: with_values(rows, "extra", pa.nulls(rows.num_rows, pa.int32())), file_with(scene, "extra")
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

    edit_log(scene, change)


def the_log_has_another_size(scene: Scene) -> None:
    def change(add: dict[str, Any]) -> None:
        add["size"] += 9

    edit_log(scene, change)


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
        lambda rows: set_field(next(row for row in rows if row["schemas"] != "[]"), "schemas", lambda _: "[17]"),
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


def a_foreign_directory_lies_in_a_table(scene: Scene) -> None:
    path = scene.path(scene.any_file())
    directory = path.parent.with_name(scene.dice.choice(["week=2026-11-17", "backup", "week=all"]))
    directory.mkdir()
    (directory / path.name).write_bytes(path.read_bytes())


def a_foreign_file_lies_in_a_week_without_rows(scene: Scene) -> None:
    path = scene.path(scene.any_file())
    directory = path.parent.with_name("week=2025-01-06")
    directory.mkdir()
    (directory / "part-0.parquet").write_bytes(path.read_bytes())


def a_schema_is_gone(scene: Scene) -> None:
    uri = scene.archive.store.uri("schemas")
    whole = pq.read_table(deltalake.DeltaTable(uri).file_uris())
    token = scene.dice.choice(list(other_tokens(scene)))
    deltalake.write_deltalake(
        uri, whole.filter(pa.array([other != token for other in whole["token"].to_pylist()])), mode="overwrite"
    )
