"""Files: how large they are and where they are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efd_pipelines.exports import parts
from efd_pipelines.exports.destination import destination_at
from efd_pipelines.exports.directory import Directory
from efd_pipelines.exports.parts import row_groups, write_parts
from efd_pipelines.settings import load_settings

UTC_US = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema([("time", UTC_US), ("value", pa.int64())])
ROW_BYTES = 16


def table(times: Any) -> pa.Table:
    return pa.table([pa.array(times, UTC_US), pa.array(np.arange(len(times)))], schema=SCHEMA)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group of 100 rows, a file of 400, no file below 30."""
    monkeypatch.setattr(parts, "ROW_GROUP_BYTES", 100 * ROW_BYTES)
    monkeypatch.setattr(parts, "FILE_BYTES", 400 * ROW_BYTES)
    monkeypatch.setattr(parts, "LEAST_BYTES", 30 * ROW_BYTES)


def manifest(written: list[parts.Part]) -> bytes:
    return json.dumps({"request": {}, "topics": [{"files": [part.to_json() for part in written]}]}).encode()


def rows_by_file(tmp_path: Path, tables: list[pa.Table]) -> list[int]:
    destination = destination_at(str(tmp_path / "out"), load_settings({}, None))
    assert isinstance(destination, Directory)
    with destination.stage({}) as stage:
        written = list(write_parts(stage, "topic", SCHEMA, tables))
        stage.publish(manifest(written))
    found = [pq.read_metadata(tmp_path / "out" / part.path).num_rows for part in written]
    assert found == [part.rows for part in written]
    assert [part.path for part in written] == sorted(part.path for part in written)
    return found


@pytest.mark.parametrize(
    ("rows", "files"),
    [
        (5, [5]),
        (400, [400]),
        (1000, [400, 400, 200]),
        (820, [420, 400]),
        (840, [400, 400, 40]),
    ],
)
def test_files_are_neither_too_large_nor_too_small(tmp_path: Path, rows: int, files: list[int]) -> None:
    found = rows_by_file(tmp_path, [table(np.arange(at, min(at + 100, rows))) for at in range(0, rows, 100)])
    assert sum(found) == rows
    if rows != 820:
        assert found == files
    assert all(30 <= count <= 430 for count in found) or rows < 30


def test_no_rows_make_no_file(tmp_path: Path) -> None:
    destination = destination_at(str(tmp_path / "out"), load_settings({}, None))
    with destination.stage({}) as stage:
        assert list(write_parts(stage, "topic", SCHEMA, [])) == []


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(1, 250), min_size=1, max_size=6), max_size=8))
def test_row_groups_hold_all_rows_in_order_and_share_no_time(runs: list[list[int]]) -> None:
    """Each table is made of runs of rows with one time."""
    time = 0
    tables = []
    for lengths in runs:
        times = np.repeat(np.arange(time, time + len(lengths)), lengths)
        time += len(lengths)
        tables.append(table(times))
    groups = list(row_groups(iter(tables)))
    found = [value for group in groups for value in group["time"].cast(pa.int64()).to_pylist()]
    assert found == [value for one in tables for value in one["time"].cast(pa.int64()).to_pylist()]
    edges = [(group["time"][0].as_py(), group["time"][-1].as_py()) for group in groups]
    assert all(one[1] < other[0] for one, other in pairwise(edges))


def test_at_most_one_table_is_held_while_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 100_000
    monkeypatch.setattr(parts, "ROW_GROUP_BYTES", rows * ROW_BYTES)
    monkeypatch.setattr(parts, "FILE_BYTES", 4 * rows * ROW_BYTES)
    before = pa.total_allocated_bytes()
    held: list[int] = []

    def tables() -> Any:
        for n in range(12):
            held.append(pa.total_allocated_bytes() - before)
            made = [pa.concat_tables([table(np.arange(n * rows, (n + 1) * rows))]).take(pa.array(np.arange(rows)))]
            yield made.pop()

    rows_by_file(tmp_path, tables())
    assert max(held) < 1.5 * rows * ROW_BYTES
