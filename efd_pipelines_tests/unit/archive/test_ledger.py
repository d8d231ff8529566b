"""The ledger: it may lag, never lead, and repeated rows count once."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.ledger import RAW, RELATIVE, Ledger, hash_of_path, rows_of
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.topics.layout import TIME
from efd_pipelines.topics.names import Dataset

DATASET = Dataset("lsst.sal.Test.x")
START_US = 1_795_132_800_000_000


def committed(archive: Archive, position: int) -> Commit:
    """One row of the dataset, visible in its table and not yet in the ledger."""
    relative = archive.relative(DATASET)
    table = pa.table({"time": pa.array([START_US + position], TIME)})
    snapshot = open_table(archive.store, relative)
    file = write_data_file(archive.store, relative, "2026-11-16", "2026-11-17", table)
    return commit(
        archive.store,
        relative,
        snapshot,
        add=[file],
        transactions={"kafka:c/t:0": (None if snapshot is None else position - 1, position)},
        schema=table.schema,
        note={"kind": "drain", "records": 1, "run": "r", "epochs": {"c/t:0": position + 100}},
    )


def test_rows_are_counted_once_however_often_they_are_appended(archive: Archive) -> None:
    made = committed(archive, 1)
    for _ in range(3):
        archive.ledger.append(rows_of(RAW, DATASET, made))
    assert archive.ledger.table().num_rows == 1


def test_what_the_ledger_lacks_is_found_in_the_log(archive: Archive) -> None:
    for position in (1, 2, 3):
        committed(archive, position)
    assert archive.ledger.catch_up([(RAW, DATASET)]) == 3
    assert archive.ledger.catch_up([(RAW, DATASET)]) == 0
    latest = archive.ledger.latest().to_pylist()
    assert len(latest) == 1
    assert (latest[0]["version"], json.loads(latest[0]["positions"])) == (2, {"c/t:0": 3})
    assert json.loads(latest[0]["epochs"]) == {"c/t:0": 103}


def test_each_partition_of_each_source_has_its_newest_position_and_the_epoch_there(archive: Archive) -> None:
    odd = 'a "quoted" \\ {name}: 1,/t#2'
    other = Dataset("lsst.sal.Test.y")
    moves: list[tuple[Dataset, dict[str, int], dict[str, int]]] = [
        (DATASET, {"c/t:0": 5, "c/t:1": 7}, {"c/t:0": 1}),
        (DATASET, {"c/t:1": 70, f"{odd}:0": 3}, {f"{odd}:0": 4}),
        (DATASET, {"c/t:0": 2**63 - 1}, {}),
        (DATASET, {}, {}),
        (other, {"c/t:0": 1}, {"c/t:0": 9}),
    ]
    for version, (dataset, positions, epochs) in enumerate(moves):
        moved = {f"kafka:{of}": to for of, to in positions.items()}
        note = {"kind": "drain", "epochs": epochs}
        archive.ledger.append(rows_of(RAW, dataset, Commit(version, START_US + version, (), (), moved, note)))
    mine, others = archive.ledger.latest().to_pylist()
    assert json.loads(mine["positions"]) == {"c/t:0": 2**63 - 1, "c/t:1": 70, f"{odd}:0": 3}
    # Where the position is the newest, no epoch was told of two of them.
    assert json.loads(mine["epochs"]) == {f"{odd}:0": 4}
    assert (mine["version"], mine["component"]) == (3, "Test")
    assert (json.loads(others["positions"]), json.loads(others["epochs"])) == ({"c/t:0": 1}, {"c/t:0": 9})


def test_a_run_that_dies_after_its_commit_leaves_an_announcement(archive: Archive) -> None:
    with pytest.raises(KeyboardInterrupt):
        commit_and_die(archive)
    assert archive.ledger.table().num_rows == 0
    assert Ledger(archive.store).catch_up_pending() == 1
    assert archive.ledger.table().num_rows == 1


def commit_and_die(archive: Archive) -> None:
    with archive.ledger.announced("r", [(RAW, DATASET)]):
        committed(archive, 1)
        raise KeyboardInterrupt


def test_a_run_that_ends_well_takes_its_announcement_back(archive: Archive) -> None:
    with archive.ledger.announced("r", [(RAW, DATASET)]) as rows:
        rows += rows_of(RAW, DATASET, committed(archive, 1))
    assert archive.store.list("ledger/pending") == []
    assert archive.ledger.table().num_rows == 1


def test_compaction_makes_one_file_and_changes_no_row(archive: Archive) -> None:
    for position in range(1, 71):
        archive.ledger.append(rows_of(RAW, DATASET, committed(archive, position)))
    before = archive.ledger.table()
    assert archive.ledger.compact() == 70
    assert archive.ledger.table().equals(before)
    assert archive.ledger.compact() == 0


def test_some_months_and_columns_can_be_read_alone(archive: Archive) -> None:
    made = committed(archive, 1)
    archive.ledger.append(rows_of(RAW, DATASET, made))
    part = archive.ledger.table(columns=["rows", "names"])
    assert part.column_names == ["table", "dataset", "version", "week", "slice", "rows", "names"]
    assert part["names"].to_pylist() == [json.dumps([f"+{hash_of_path(made.added[0].path)}"])]
    month = archive.ledger.table()["month"][0].as_py()
    assert archive.ledger.table([month], ["rows"])["rows"].to_pylist() == [1]
    assert archive.ledger.table(["2021-09"]).num_rows == 0


def test_what_an_older_release_wrote_is_read_with_nulls(archive: Archive) -> None:
    archive.ledger.append(rows_of(RAW, DATASET, committed(archive, 1)))
    newer = archive.ledger.table()
    older = newer.set_column(newer.column_names.index("version"), "version", pa.array([7])).drop_columns(
        ["names", "month"]
    )
    month = newer["month"][0].as_py()
    file = write_data_file(archive.store, RELATIVE, month, "c", older, partition="month")
    snapshot = open_table(archive.store, RELATIVE, partition="month")
    commit(
        archive.store,
        RELATIVE,
        snapshot,
        add=[file],
        transactions={},
        schema=older.schema,
        note={"kind": "append"},
        partition="month",
    )
    assert archive.ledger.table(columns=["names"])["names"].is_null().to_pylist() == [False, True]
