"""Defects that metadata show: files that are gone, a ledger or a log that lies, commits of other programs."""

from __future__ import annotations

import json
import shutil
from typing import Any

import deltalake
import pyarrow as pa
from deltalake.transaction import AddAction, RemoveAction, Transaction

from efd_pipelines.archive.files import sort_rows, write_data_file
from efd_pipelines.archive.ledger import RELATIVE
from efd_pipelines.archive.slices import DEAD
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.archive.defects.scene import Scene, set_field


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
    scene.ledger_changed(lambda rows: set_field(rows[0], "rows", lambda rows: rows + 3), commit_kind="drain")


def the_ledger_has_fewer_rows(scene: Scene) -> None:
    scene.ledger_changed(lambda rows: set_field(rows[0], "rows", lambda rows: rows - 1), commit_kind="drain")


def the_ledger_has_other_bytes(scene: Scene) -> None:
    scene.ledger_changed(lambda rows: set_field(rows[0], "bytes", lambda size: size + 7), commit_kind="drain")


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


def the_log_is_gone(scene: Scene) -> None:
    shutil.rmtree(scene.log(0).parent)


def the_ledger_is_gone(scene: Scene) -> None:
    shutil.rmtree(scene.archive.store.path(RELATIVE))


def a_foreign_file_lies_in_a_week(scene: Scene) -> None:
    """No commit has it: only whoever reads the directory as it lies sees its rows."""
    path = scene.path(scene.any_file())
    name = scene.dice.choice([f"part-{scene.dice.randrange(10**5):05d}.parquet", f"copy of {path.name}", "notes.txt"])
    path.with_name(name).write_bytes(path.read_bytes())


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
    scene.ledger_changed(lambda rows: set_field(rows[0], "gaps", lambda _: json.dumps([gap])))


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
