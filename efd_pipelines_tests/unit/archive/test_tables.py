"""Tables: what delta-rs does and does not do (the archive's promises rest on it), and our guards over it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import CommitProperties, Transaction, create_table_with_add_actions

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.delta_log import Commit, log_versions, read_log
from efd_pipelines.archive.files import DataFile, write_data_file
from efd_pipelines.archive.reading import read
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table, widen
from efd_pipelines.archive.widening import widen_table
from efd_pipelines.errors import StaleWriter
from efd_pipelines.topics.layout import TIME, Column

RELATIVE = "raw/Test/x"
WEEK, SLICE = "2026-11-16", "2026-11-17"
START_US = 1_795_132_800_000_000
KAFKA = "kafka:c/t:0"


def rows(*values: int, kind: pa.DataType | None = None) -> pa.Table:
    times = pa.array([START_US + value for value in values], TIME)
    return pa.table({"time": times, "value": pa.array(values, kind or pa.int32())})


def write(archive: Archive, table: pa.Table, week: str = WEEK, key: str = SLICE) -> DataFile:
    return write_data_file(archive.store, RELATIVE, week, key, table)


def put(
    archive: Archive,
    snapshot: TableSnapshot | None,
    app: dict[str, tuple[int | None, int]],
    *add: DataFile,
    remove: tuple[DataFile, ...] = (),
    schema: pa.Schema | None = None,
    rearranges: bool = False,
) -> Commit:
    return commit(
        archive.store,
        RELATIVE,
        snapshot,
        add=add,
        remove=remove,
        transactions=app,
        schema=schema or rows().schema,
        description={"slice": "day"},
        note={"kind": "drain"},
        rearranges=rearranges,
    )


def opened(archive: Archive) -> TableSnapshot:
    snapshot = open_table(archive.store, RELATIVE)
    assert snapshot is not None
    return snapshot


def values(archive: Archive) -> list[int]:
    return sorted(read(opened(archive))["value"].to_pylist())


def test_one_commit_makes_files_of_several_weeks_and_positions_visible(archive: Archive) -> None:
    files = [write(archive, rows(1)), write(archive, rows(2), "quarantine", "quarantine")]
    made = put(archive, None, {KAFKA: (None, 7), "kafka:c/t:1": (None, 9)}, *files)
    snapshot = opened(archive)
    assert (made.version, snapshot.version) == (0, 0)
    assert [snapshot.transaction_version(app) for app in (KAFKA, "kafka:c/t:1", "other")] == [7, 9, None]
    assert [(file.week, file.slice, file.rows) for file in snapshot.files()] == [
        (WEEK, SLICE, 1),
        ("quarantine", "quarantine", 1),
    ]
    assert snapshot.description == {"slice": "day"}


def test_a_second_creator_is_refused(archive: Archive) -> None:
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1)))
    with pytest.raises(StaleWriter, match="created by another writer"):
        put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(2)))
    assert values(archive) == [1]


def test_a_stale_writer_is_refused_whether_it_raced_or_came_late(archive: Archive) -> None:
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1)))
    one, other = opened(archive), opened(archive)
    put(archive, one, {KAFKA: (1, 2)}, write(archive, rows(2)))
    with pytest.raises(StaleWriter):
        put(archive, other, {KAFKA: (1, 2)}, write(archive, rows(3)))
    with pytest.raises(StaleWriter):
        put(archive, opened(archive), {KAFKA: (1, 2)}, write(archive, rows(3)))
    with pytest.raises(StaleWriter):
        put(archive, opened(archive), {KAFKA: (2, 1)}, write(archive, rows(3)))
    assert values(archive) == [1, 2]


def test_delta_itself_lets_a_fresh_writer_repeat_a_version(archive: Archive) -> None:
    """Why `commit` checks the version in the snapshot: delta-rs only sees the race."""
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1)))
    delta = DeltaTable(archive.store.uri(RELATIVE))
    again = CommitProperties(app_transactions=[Transaction(KAFKA, 1)])
    delta.create_write_transaction([], "append", delta.schema(), ["week"], commit_properties=again)
    racing = DeltaTable(archive.store.uri(RELATIVE), version=0)
    with pytest.raises(CommitFailedError):
        racing.create_write_transaction([], "append", racing.schema(), ["week"], commit_properties=again)


def test_a_commit_whose_answer_was_lost_is_known_for_ones_own(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """delta-rs asks again, finds the version there, and says that another writer was faster."""

    def losing(work: Callable[..., Any]) -> Callable[..., Any]:
        def lost(*args: Any, **named: Any) -> None:
            work(*args, **named)
            raise CommitFailedError("a concurrent transaction")

        return lost

    creating = "efd_pipelines.archive.tables.create_table_with_add_actions"
    monkeypatch.setattr(creating, losing(create_table_with_add_actions))
    created = put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1)))
    monkeypatch.setattr(DeltaTable, "create_write_transaction", losing(DeltaTable.create_write_transaction))
    snapshot = opened(archive)
    made = put(archive, snapshot, {KAFKA: (1, 2)}, write(archive, rows(2)))
    after = put(archive, snapshot.after(made), {KAFKA: (2, 3)}, write(archive, rows(3)))
    assert (created.version, made.version, after.version) == (0, 1, 2)
    assert values(archive) == [1, 2, 3]
    with pytest.raises(StaleWriter):
        put(archive, snapshot, {KAFKA: (1, 2)}, write(archive, rows(4)))
    assert values(archive) == [1, 2, 3]


def test_writers_of_other_sources_commit_beside_each_other(archive: Archive) -> None:
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1)))
    one, other = opened(archive), opened(archive)
    first = put(archive, one, {KAFKA: (1, 2)}, write(archive, rows(2)))
    second = put(archive, other, {"kafka:c/u:0": (None, 5)}, write(archive, rows(3)))
    assert (first.version, second.version) == (1, 2)
    assert values(archive) == [1, 2, 3]


def test_two_that_replace_the_same_files_do_not_double_their_rows(archive: Archive) -> None:
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1)))
    one, other = opened(archive), opened(archive)
    old = tuple(one.files())
    put(archive, one, {"slice:a": (None, 1)}, write(archive, rows(1, 1)), remove=old)
    with pytest.raises(StaleWriter):
        put(archive, other, {"slice:a": (None, 1)}, write(archive, rows(1, 1, 1)), remove=old)
    with pytest.raises(StaleWriter, match="replaced by another"):
        put(archive, opened(archive), {"slice:a": (1, 2)}, write(archive, rows(9)), remove=old)
    assert values(archive) == [1, 1]


def test_an_append_goes_through_while_others_files_are_replaced(archive: Archive) -> None:
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1)))
    older = opened(archive)
    old = tuple(older.files())
    sorted_again = write_data_file(archive.store, RELATIVE, WEEK, f"{SLICE}T00", rows(1))
    put(archive, opened(archive), {"slice:a": (None, 1)}, sorted_again, remove=old, rearranges=True)
    put(archive, older, {KAFKA: (1, 2)}, write(archive, rows(2)))
    assert values(archive) == [1, 2]


def test_a_file_that_is_not_in_the_store_is_not_committed(archive: Archive) -> None:
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1)))
    lost = write(archive, rows(2))
    archive.store.delete(f"{RELATIVE}/{lost.path}")
    with pytest.raises(StaleWriter, match="not in the store"):
        put(archive, opened(archive), {KAFKA: (1, 2)}, lost)


def test_a_file_that_takes_its_own_place_stays(archive: Archive) -> None:
    same, other = write(archive, rows(1)), write(archive, rows(2))
    put(archive, None, {}, same, other)
    made = put(archive, opened(archive), {"dead": (None, 1)}, same, write(archive, rows(3)), remove=(same, other))
    assert [file.path for file in made.removed] == [other.path]
    assert read(opened(archive))["value"].to_pylist() == [1, 3]


def test_new_columns_are_added_and_old_files_read_null(archive: Archive) -> None:
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1)))
    field = pa.field("new", pa.float32(), metadata={"units": "N", "description": "force", "field": "new"})
    more = rows(2).append_column(field, pa.array([2.5], pa.float32()))
    put(archive, opened(archive), {KAFKA: (1, 2)}, write(archive, more), schema=more.schema)
    table = read(opened(archive))
    assert table["new"].to_pylist() == [None, 2.5]
    assert opened(archive).schema.field("new").metadata == {b"units": b"N", b"description": b"force", b"field": b"new"}


def test_widening_changes_the_schema_keeps_every_file_and_rewrites_the_narrow_ones(archive: Archive) -> None:
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1, 2)))
    stale = opened(archive)
    only_schema = widen(opened(archive), rows(kind=pa.int64()).schema)
    assert only_schema.schema.field("value").type == pa.int64()
    assert len(only_schema.files()) == 1
    with pytest.raises(StaleWriter):
        put(archive, stale, {KAFKA: (1, 2)}, write(archive, rows(3)))
    wide, made = widen_table(opened(archive), [Column("value", "value", None, pa.int64())], "run")
    assert (len(made), made[0].note["kind"]) == (1, "widen")
    put(
        archive,
        wide,
        {KAFKA: (1, 2)},
        write(archive, rows(2**40, kind=pa.int64())),
        schema=rows(kind=pa.int64()).schema,
    )
    assert values(archive) == [1, 2, 2**40]


def test_the_log_tells_what_each_commit_added_and_removed(archive: Archive) -> None:
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1, 2)))
    put(
        archive, opened(archive), {"slice:a": (None, 1)}, write(archive, rows(3)), remove=tuple(opened(archive).files())
    )
    first, second = read_log(archive.store, RELATIVE, 0)
    assert log_versions(archive.store, RELATIVE) == [0, 1]
    assert (first.transactions, first.added[0].rows, first.note["kind"]) == ({KAFKA: 1}, 2, "drain")
    assert [(file.rows, file.time_min_us) for file in second.removed] == [(2, START_US + 1)]


def test_same_rows_give_the_same_bytes_and_name(archive: Archive) -> None:
    one, other = write(archive, rows(1, 2, 3)), write(archive, pa.concat_tables([rows(1), rows(2, 3)]))
    assert one == other
    labels = [("units", "N"), ("description", "force"), ("field", "value")]
    named = [
        rows(1).cast(pa.schema([rows().schema.field("time"), pa.field("value", pa.int32(), metadata=dict(order))]))
        for order in (labels, reversed(labels))
    ]
    assert write(archive, named[0]) == write(archive, named[1])
    assert not [name for name in archive.store.list(f"{RELATIVE}/week={WEEK}") if "tmp" in name]


def test_of_many_that_create_a_table_at_once_one_does(archive: Archive) -> None:
    for attempt in range(20):
        relative = f"raw/Test/x{attempt}"
        made: list[int] = []
        refused: list[StaleWriter] = []
        together = threading.Barrier(3)

        def create(
            number: int,
            relative: str = relative,
            made: list[int] = made,
            refused: list[StaleWriter] = refused,
            together: threading.Barrier = together,
        ) -> None:
            file = write_data_file(archive.store, relative, WEEK, SLICE, rows(number))
            together.wait()
            try:
                commit(archive.store, relative, None, add=[file], transactions={KAFKA: (None, 1)}, schema=rows().schema)
            except StaleWriter as error:
                refused.append(error)
            else:
                made.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(made), len(refused)) == (1, 2)
        snapshot = open_table(archive.store, relative)
        assert snapshot is not None
        assert read(snapshot)["value"].to_pylist() == made


def test_a_second_commit_with_a_snapshot_is_refused_where_others_came_between(archive: Archive) -> None:
    put(archive, None, {KAFKA: (None, 1)}, write(archive, rows(1)))
    mine = opened(archive)
    mine = mine.after(put(archive, mine, {KAFKA: (1, 2)}, write(archive, rows(2))))
    mine = mine.after(put(archive, mine, {KAFKA: (2, 3)}, write(archive, rows(3))))
    assert sorted(file.rows for file in mine.files()) == [1, 1, 1]
    # What was looked up of the table, its columns say, may be another's by now.
    widen(opened(archive), rows(kind=pa.int64()).schema)
    with pytest.raises(StaleWriter):
        put(archive, mine, {KAFKA: (3, 4)}, write(archive, rows(4)))
    again = opened(archive)
    put(archive, again, {KAFKA: (3, 4)}, write(archive, rows(4, kind=pa.int64())), schema=again.schema)
    assert values(archive) == [1, 2, 3, 4]
