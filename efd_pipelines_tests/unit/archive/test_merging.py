"""Merging: few files, the same rows, and bytes that depend on the rows alone.

Where something is in its way: `test_merging_faults.py`.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from efd_pipelines.archive import form, merging, runs
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.dead_letters import dead_frames, dead_letters
from efd_pipelines.archive.files import DataFile, sort_rows, write_data_file
from efd_pipelines.archive.form import row_groups, survey
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.merging import (
    CROWDED,
    MAX_FILES,
    crowded,
    files_to_merge,
    merge,
    outside_to_merge,
    without_superseded,
)
from efd_pipelines.archive.reading import read_file
from efd_pipelines.archive.runs import Room, Run, merged
from efd_pipelines.archive.sealing import seal
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.settings import load_settings
from efd_pipelines.topics.layout import TIME
from efd_pipelines_tests.unit.archive.builders import Topic, schema_of
from efd_pipelines_tests.unit.archive.small_files import (
    LATER,
    PLAIN,
    SECOND_US,
    WEEK,
    files_of,
    opened,
    seconds,
    topic_with,
)

NOON = WEEK.start + timedelta(hours=12)


DAY_US = 86_400 * SECOND_US


FLOATS = {"type": "array", "items": "float", "default": [0.0, 0.0]}


def test_a_finished_slice_becomes_one_file_with_the_same_rows(archive: Archive) -> None:
    topic = topic_with(archive, 5)
    before = archive.read(topic.dataset)
    originals = [file.uri for file in files_of(topic)]
    result = merge(archive, now=LATER)
    (file,) = files_of(topic)
    assert (result.slices, result.files_before, result.files_after, result.rows) == (1, 5, 1, 50)
    assert archive.read(topic.dataset).equals(before)
    with duckdb.connect() as connection:
        expected = connection.sql(
            f"SELECT * FROM read_parquet({originals}, hive_partitioning = false) ORDER BY salIndex, time, kafka_offset"
        ).to_arrow_table()
    assert pq.read_table(file.uri, partitioning=None).to_pylist() == expected.to_pylist()
    assert [(row.files, row.rows) for row in _in_ledger(archive)] == [(1, 50)]
    assert merge(archive, now=LATER).slices == 0


def _in_ledger(archive: Archive) -> list[Any]:
    query = "SELECT slice, sum(files)::INT AS files, sum(rows)::INT AS rows FROM ledger GROUP BY slice"
    return list(archive.ledger.sql(query).to_pandas().itertuples())


def test_a_slice_is_finished_when_the_slow_class_has_been_read(archive: Archive) -> None:
    topic_with(archive, 2)
    midnight = WEEK.start + timedelta(days=1)
    assert merge(archive, now=midnight + timedelta(minutes=119)).slices == 0
    assert merge(archive, now=midnight + timedelta(minutes=120)).slices == 1


def test_a_running_slice_is_merged_beyond_eight_files(archive: Archive) -> None:
    topic = topic_with(archive, CROWDED)
    assert merge(archive, now=NOON).slices == 0
    topic.send(PLAIN, seconds(200, 10), value=np.ones(10))
    topic.drain()
    assert merge(archive, now=NOON).slices == 1
    assert len(files_of(topic)) <= CROWDED
    assert archive.read(topic.dataset).num_rows == 90


def test_a_growing_slice_has_sixteen_files_at_most_and_is_rewritten_seldom() -> None:
    """A slice of a week in the fast class: a file every two minutes, and every ten a round, which is slow."""
    files: list[DataFile] = []
    written, drains, most, merges_at = 0, 7 * 24 * 30, 0, -1
    for minute in range(2 * drains):
        if minute % 2 == 0:
            files.append(DataFile(f"{minute}.parquet", WEEK.key, f"{WEEK}W", 1, 1000))
        if minute % 10 == 0 and len(files) > CROWDED and merges_at < minute:
            merges_at = minute + 5
        while minute == merges_at and (chosen := files_to_merge(files, finished=False)):
            size = sum(file.size_bytes for file in chosen)
            files = [file for file in files if file not in chosen]
            files.append(DataFile(f"m{minute}-{size}.parquet", WEEK.key, f"{WEEK}W", len(chosen), size))
            written += size
        most = max(most, len(files))
    assert sum(file.size_bytes for file in files) == drains * 1000
    assert CROWDED < most <= MAX_FILES
    assert written < 6 * drains * 1000


def changing_topic(root: Path, seed: int) -> Topic:
    """Records of two salIndex over two days, with fields that come and go and arrays that grow, in random batches."""
    topic = Topic(Archive(load_settings({}, None, archive=str(root))))
    old = schema_of("x", ("count", "int"), ("text", "string"), ("some", FLOATS))
    new = schema_of("x", ("level", "double"), ("some", FLOATS), ("count", "long"), doc="newer")
    rng = np.random.default_rng(1)
    times = WEEK.start_us + np.sort(rng.integers(0, 2 * DAY_US, 600))
    for n in range(0, 600, 100):
        some, length = times[n : n + 100].tolist(), 4 if n == 100 else 2
        common = {"sal_index": rng.integers(1, 3, 100), "some": rng.normal(size=(100, length)), "count": np.arange(100)}
        if n % 200:
            topic.send(new, some, level=rng.normal(size=100), **common)
        else:
            topic.send(old, some, text=["x" * (n % 7) for n in range(100)], **common)
    batches = np.random.default_rng(seed)
    while topic.position < len(topic.values):
        topic.drain(int(batches.integers(5, 200)))
        if batches.random() < 0.3:
            merge(topic.archive, now=NOON)
    return topic


def test_the_same_records_give_the_same_bytes_whatever_the_batches(tmp_path: Path) -> None:
    found = []
    for seed in range(4):
        topic = changing_topic(tmp_path / str(seed), seed)
        before = topic.archive.read(topic.dataset)
        merge(topic.archive, now=LATER)
        after = topic.archive.read(topic.dataset)
        assert after.to_pylist() == before.to_pylist()
        found.append([Path(file.uri).read_bytes() for file in files_of(topic)])
    assert len(found[0]) == 2
    assert all(other == found[0] for other in found[1:])


def test_columns_are_the_newest_schemas_then_others_then_the_systems(tmp_path: Path) -> None:
    topic = changing_topic(tmp_path, 1)
    merge(topic.archive, now=LATER)
    names = [pq.read_schema(file.uri).names for file in files_of(topic)]
    system = ["kafka_partition", "kafka_offset", "kafka_timestamp", "kafka_key", "archive_source", "archive_schema"]
    private = ["salIndex", *(f"private_{name}" for name in ("sndStamp", "efdStamp", "seqNum", "origin", "identity"))]
    newest = ["time", *private, "level", "some0", "some1", "count"]
    assert sorted(names) == sorted([[*newest, "text", *system], [*newest, "some2", "some3", "text", *system]])


@pytest.mark.parametrize("held", [0, 1 << 30])
def test_runs_that_overlap_come_out_in_order(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(runs, "_CHUNK_BYTES", 500)
    monkeypatch.setattr(runs, "WINDOW_BYTES", 1000)
    rng = np.random.default_rng(3)
    indices = [None, 1, 1, 2, 3]
    parts = [
        sort_rows(
            pa.table(
                {
                    "time": pa.array(rng.integers(0, 50, count), TIME),
                    "salIndex": pa.array([indices[n] for n in rng.integers(0, 5, count)], pa.int32()),
                    "archive_source": pa.array(["a" if n else "b" for n in rng.integers(0, 2, count)]),
                    "kafka_partition": pa.array(rng.integers(0, 2, count).astype(np.int32)),
                    "kafka_offset": pa.array(1000 * part + np.arange(count)),
                }
            )
        )
        for part, count in enumerate(rng.integers(1, 90, 12))
    ]
    files = [write_data_file(archive.store, "raw/Test/y", "2026-11-16", "2026-11-16", part) for part in parts]
    commit(archive.store, "raw/Test/y", None, add=files, transactions={}, schema=parts[0].schema)
    snapshot = open_table(archive.store, "raw/Test/y")
    assert snapshot is not None
    room = Room(tmp_path, held)
    given = [Run(snapshot, file, parts[0].schema, survey(snapshot, file).low, room) for file in files]
    windows = list(merged(given))
    assert len(windows) > 3
    assert pa.concat_tables(windows).combine_chunks().equals(sort_rows(pa.concat_tables(parts)).combine_chunks())
    assert room.free_bytes == held


def test_row_groups_do_not_depend_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "ROW_GROUP_BYTES", 1000)
    rng = np.random.default_rng(5)
    texts = ["x" * n for n in rng.integers(0, 200, 300)]
    whole = pa.table({"number": pa.array(np.arange(300)), "text": pa.array(texts)})
    expected = [group.to_pylist() for group in row_groups([whole])]
    assert len(expected) > 20
    assert sum(map(len, expected)) == 300
    for _ in range(5):
        cuts = [0, *sorted(rng.integers(0, 301, 9).tolist()), 300]
        windows = [whole.slice(low, high - low) for low, high in itertools.pairwise(cuts)]
        assert [group.to_pylist() for group in row_groups(windows)] == expected


def test_many_files_are_merged_in_turns(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "FAN_IN", 4)
    topic = topic_with(archive, 11)
    before = archive.read(topic.dataset)
    result = merge(archive, now=LATER)
    assert result.commits > 2
    assert len(files_of(topic)) == 1
    assert archive.read(topic.dataset).equals(before)


def test_a_late_record_is_merged_into_its_slice(archive: Archive) -> None:
    topic = topic_with(archive, 3)
    merge(archive, now=LATER)
    topic.send(PLAIN, seconds(5, 1), value=[0.5])
    topic.drain()
    assert len(files_of(topic)) == 2
    merge(archive, now=LATER)
    (file,) = files_of(topic)
    times = pq.read_table(file.uri, columns=["time"], partitioning=None)["time"].to_pylist()
    assert times == sorted(times)
    assert file.rows == 31


def test_rows_of_history_give_way_to_kafkas(archive: Archive) -> None:
    topic = topic_with(archive, 1)
    snapshot = opened(topic)
    (file,) = snapshot.files()
    rows = pq.read_table(file.uri, partitioning=None)
    sources = pa.array(["influx:efd"] * rows.num_rows)
    nothing = {name: pa.nulls(rows.num_rows, rows.schema.field(name).type) for name in ("kafka_offset", "value")}
    history = rows.set_column(rows.schema.get_field_index("archive_source"), "archive_source", sources)
    for name, nulls in nothing.items():
        history = history.set_column(rows.schema.get_field_index(name), rows.schema.field(name), nulls)
    later = history.set_column(
        history.schema.get_field_index("private_seqNum"), "private_seqNum", pa.array(np.arange(900, 910))
    )
    both = sort_rows(pa.concat_tables([history.slice(0, 4), later.slice(0, 2)]).cast(rows.schema))
    made = commit(
        archive.store,
        topic.relative,
        snapshot,
        add=[write_data_file(archive.store, topic.relative, WEEK.key, "2026-11-16", both)],
        transactions={"fill": (None, 1)},
        schema=rows.schema,
        note={"kind": "fill"},
    )
    archive.ledger.append(rows_of(RAW, topic.dataset, made))
    result = merge(archive, now=LATER)
    assert result.superseded == 4
    kept = archive.read(topic.dataset)
    assert kept.num_rows == 12
    assert sorted(kept["archive_source"].to_pylist()).count("influx:efd") == 2
    assert kept["value"].null_count == 2


def test_a_row_without_its_identity_supersedes_nothing() -> None:
    rows = pa.table(
        {
            "archive_source": ["influx:efd", "c/t"],
            "salIndex": [1, 1],
            "private_sndStamp": pa.array([None, None], pa.float64()),
            "private_seqNum": [1, 1],
            "private_origin": [1, 1],
        }
    )
    assert without_superseded(rows).num_rows == 2
    known = rows.set_column(2, "private_sndStamp", pa.array([2.0, 2.0]))
    assert without_superseded(known)["archive_source"].to_pylist() == ["c/t"]


def test_small_files_of_quarantine_and_of_the_dead_are_put_together(archive: Archive) -> None:
    topic = Topic(archive)
    for n in range(MAX_FILES + 1):
        topic.send(PLAIN, [n, WEEK.start_us + n], value=[n, n])
        topic.values[-1] = b"no frame %d" % n
        topic.drain()
    dead, lost = dead_frames(archive, topic.dataset).sort_by("kafka_offset"), quarantine_of(topic)
    assert merge(archive, now=NOON).slices == 2
    assert len(files_of(topic)) == 2
    assert dead_frames(archive, topic.dataset).sort_by("kafka_offset").to_pylist() == dead.to_pylist()
    assert quarantine_of(topic).to_pylist() == lost.to_pylist()
    assert not crowded(archive, now=NOON)
    assert len(dead_letters(archive)) == 1


def quarantine_of(topic: Topic) -> pa.Table:
    snapshot = opened(topic)
    parts = [read_file(snapshot, file, snapshot.schema) for file in snapshot.files({QUARANTINE})]
    return pa.concat_tables(parts).sort_by("kafka_offset")


def test_large_files_of_the_dead_stay_as_they_are() -> None:
    files = [DataFile(f"{n}.parquet", DEAD, DEAD, 1, 5 << 20) for n in range(40)]
    assert len(outside_to_merge(files)) == 3
    assert outside_to_merge([replace(file, size_bytes=10 << 20) for file in files]) == []
    assert outside_to_merge(files[:16]) == []


def test_a_sealed_week_is_not_looked_at_again(archive: Archive) -> None:
    topic_with(archive, 3)
    assert crowded(archive, now=LATER)
    seal(archive, archive.settings, week=WEEK, now=LATER)
    assert not crowded(archive, now=LATER)


def test_no_more_than_the_room_is_held(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = topic_with(archive, 6, count=200)
    before = archive.read(topic.dataset)
    monkeypatch.setattr(runs, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(merging, "Room", partial(Room, free_bytes=0))
    merge(archive, now=LATER)
    assert archive.read(topic.dataset).equals(before)
