"""Rows in order of time, whatever the files look like."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.exports import stream
from efd_pipelines.exports.request import Request
from efd_pipelines.exports.selection import select
from efd_pipelines.exports.stream import RowGroup, Windows, window_end
from efd_pipelines.reading.scan import apart
from efd_pipelines_tests.unit.exports.builders import TEMPERATURE, ArchiveBuilder, at, messages, seconds

HOURS = 3600


def windows_of(builder: ArchiveBuilder, start: float, end: float) -> tuple[Windows, list[pa.Table]]:
    request = Request.of(TEMPERATURE, at(start), at(end), None, "raw")
    (selection,) = select(builder.archive, request)
    windows = Windows(selection.source, selection.files, selection.ranges)
    return windows, list(windows)


@st.composite
def batches(draw: st.DrawFn) -> list[list[tuple[int, int]]]:
    """Commits, each of some records (second, salIndex): late ones, same times and repetitions among them."""
    record = st.tuples(st.integers(0, 3 * HOURS), st.integers(1, 3))
    return draw(st.lists(st.lists(record, min_size=1, max_size=30), min_size=1, max_size=6))


@settings(max_examples=25, deadline=None)
@given(batches(), st.integers(0, 2 * HOURS), st.integers(1, 2 * HOURS), st.sampled_from([300, 3000, 1 << 20]))
def test_each_record_of_the_range_comes_once_in_order(
    commits: list[list[tuple[int, int]]], start: int, length: int, window_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "WINDOW_BYTES", window_bytes)
        builder = ArchiveBuilder(directory)
        offset = 0
        for records in commits:
            times = np.array([at(second).timestamp() * 1e6 for second, _ in records], np.int64)
            rows = messages(times, sal_index=[index for _, index in records], first_offset=offset)
            # Records of the same second and device are repetitions: their identity is made of nothing else.
            rows = rows.set_column(3, rows.schema.field(3), pa.array([second for second, _ in records], pa.int32()))
            builder.add(TEMPERATURE, rows, unit=SliceUnit.HOUR)
            offset += len(records)
        windows, tables = windows_of(builder, start, start + length)
    found = [
        (int(time.timestamp()) - int(at(0).timestamp()), index)
        for table in tables
        for time, index in zip(table["time"].to_pylist(), table["salIndex"].to_pylist(), strict=True)
    ]
    inside = [one for records in commits for one in records if start <= one[0] < start + length]
    assert found == sorted(set(inside))
    assert windows.repeated == len(inside) - len(set(inside))


def test_no_two_windows_share_a_time(builder: ArchiveBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WINDOW_BYTES", 2000)
    builder.add(TEMPERATURE, messages(np.repeat(seconds(0, 100), 3), sal_index=[1, 2, 3] * 100))
    _, tables = windows_of(builder, 0, 100)
    assert len(tables) > 5
    assert all(one["time"][-1].as_py() < other["time"][0].as_py() for one, other in pairwise(tables))


def test_windows_are_small_where_all_rows_crowd_in_one_moment(
    builder: ArchiveBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOW_BYTES", 4000)
    times = np.concatenate([seconds(0, 1000, 500), seconds(500, 500.001, 0.000_002)])
    builder.add(TEMPERATURE, messages(np.sort(times)))
    _, tables = windows_of(builder, 0, 1000)
    assert sum(table.num_rows for table in tables) == len(times)
    assert max(table.nbytes for table in tables) <= 2 * 4000


def test_a_moment_too_large_for_a_window_is_still_read(
    builder: ArchiveBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOW_BYTES", 100)
    builder.add(TEMPERATURE, messages(np.repeat(seconds(5, 6), 50), sal_index=list(range(50))))
    _, tables = windows_of(builder, 0, 100)
    assert [table.num_rows for table in tables] == [50]


def test_only_files_that_overlap_are_taken_together() -> None:
    spans = [(0, 10), (11, 20), (15, 30), (30, 31), (32, 40)]
    files = [a_file(f"f{n}", *span) for n, span in enumerate(spans)]
    groups = [[file.path for file in group] for group in apart(files[::-1])]
    assert groups == [["f0"], ["f1", "f2", "f3"], ["f4"]]


def test_a_window_ends_where_row_groups_begin_if_it_can() -> None:
    whole = stream.WINDOW_BYTES
    groups = [a_group(0, 99, whole // 2), a_group(100, 199, whole // 2), a_group(200, 299, whole // 2)]
    assert window_end(groups, 0, 300) == 200
    assert window_end(groups, 200, 300) == 300


def test_a_window_ends_within_a_row_group_that_is_too_large() -> None:
    assert window_end([a_group(0, 999, 4 * stream.WINDOW_BYTES)], 0, 1000) == pytest.approx(250, abs=2)


def test_a_row_group_is_decoded_once_where_files_follow_one_another(
    builder: ArchiveBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(8):
        builder.add(TEMPERATURE, messages(seconds(100 * n, 100 * n + 100), first_seq=100 * n))
    decoded: list[str] = []
    decode = Windows._decode

    def spy(self: Windows, group: RowGroup, start: int, end: int) -> Any:
        decoded.append(group.file.path)
        return decode(self, group, start, end)

    monkeypatch.setattr(Windows, "_decode", spy)
    monkeypatch.setattr(stream, "WINDOW_BYTES", 10_000)
    windows_of(builder, 0, 800)
    assert len(decoded) == len(set(decoded)) == 8


def a_file(path: str, low: int, high: int) -> DataFile:
    return DataFile(path, "2026-11-16", "2026-11-16", 5, 100, low, high)


def a_group(low: int, high: int, size: int) -> RowGroup:
    return RowGroup(a_file("f", low, high), 0, low, high, 100, size)
