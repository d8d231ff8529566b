"""Windows: where they begin and end, what is in them, and that a record is counted once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.tiers.windows import find_windows
from efd_pipelines_tests.unit.tiers.builders import MONDAY_US, SECOND_US, rows


def repeated(table: pa.Table, row: int) -> pa.Table:
    """The table with one of its records delivered again."""
    again = table.slice(row, 1)
    offset = again.schema.get_field_index("kafka_offset")
    later = pa.array([10_000 + row], pa.int64())
    return pa.concat_tables([table, again.set_column(offset, again.schema.field(offset), later)])


def test_a_window_has_its_begin_and_not_its_end() -> None:
    times = [MONDAY_US - 1, MONDAY_US, MONDAY_US + SECOND_US - 1, MONDAY_US + SECOND_US]
    windows = find_windows(rows(times, {}), SECOND_US)
    assert windows.time_us.tolist() == [MONDAY_US - SECOND_US, MONDAY_US, MONDAY_US + SECOND_US]
    assert windows.counts.tolist() == [1, 2, 1]


def test_gaps_stay_gaps() -> None:
    windows = find_windows(rows([MONDAY_US, MONDAY_US + 10 * SECOND_US], {}), SECOND_US)
    assert windows.time_us.tolist() == [MONDAY_US, MONDAY_US + 10 * SECOND_US]


def test_each_sal_index_has_its_windows() -> None:
    table = rows([MONDAY_US, MONDAY_US + 1, MONDAY_US + 2], {}, sal_index=[2, 1, 2])
    windows = find_windows(table, SECOND_US)
    indices = windows.sal_indices()
    assert indices is not None
    assert indices.to_pylist() == [1, 2]
    assert windows.counts.tolist() == [1, 2]
    assert windows.first_rows.tolist() == [1, 0]


def test_rows_without_sal_index_are_a_group_of_their_own() -> None:
    table = rows([MONDAY_US, MONDAY_US + 1], {}, sal_index=[1, None])  # type: ignore[list-item]
    indices = find_windows(table, SECOND_US).sal_indices()
    assert indices is not None
    assert indices.to_pylist() == [None, 1]


def test_a_record_that_came_twice_counts_once() -> None:
    table = repeated(rows(MONDAY_US + np.arange(5), {}), 3)
    windows = find_windows(table, SECOND_US)
    assert windows.counts.tolist() == [5]
    assert windows.order.tolist() == [0, 1, 2, 3, 4]
    assert windows.ranks(6).tolist() == [0, 1, 2, 3, 4, -1]


def test_a_record_that_came_twice_counts_in_each_window_that_it_is_in() -> None:
    table = rows([MONDAY_US, MONDAY_US + SECOND_US], {})
    stamp = table.schema.get_field_index("private_sndStamp")
    number = table.schema.get_field_index("private_seqNum")
    table = table.set_column(stamp, table.schema.field(stamp), pa.array([1.0, 1.0]))
    table = table.set_column(number, table.schema.field(number), pa.array([1, 1], pa.int32()))
    assert find_windows(table, SECOND_US).counts.tolist() == [1, 1]


def test_rows_that_do_not_say_which_record_they_are_all_count() -> None:
    table = rows([MONDAY_US] * 3, {})
    stamp = table.schema.get_field_index("private_sndStamp")
    unknown = table.set_column(stamp, table.schema.field(stamp), pa.nulls(3, pa.float64()))
    assert find_windows(unknown, SECOND_US).counts.tolist() == [3]
    without = table.drop_columns(["private_sndStamp", "private_seqNum"])
    assert find_windows(without, SECOND_US).counts.tolist() == [3]


def test_rows_of_the_same_time_are_ordered_by_source_partition_and_offset() -> None:
    table = rows([MONDAY_US] * 4, {})
    for name, values in (
        ("archive_source", ["b/1", "a/1", "b/1", "b/1"]),
        ("kafka_partition", [1, 5, 0, 0]),
        ("kafka_offset", [0, 9, 8, 3]),
    ):
        position = table.schema.get_field_index(name)
        column = pa.array(values, table.schema.field(position).type)
        table = table.set_column(position, table.schema.field(position), column)
    assert find_windows(table, SECOND_US).order.tolist() == [1, 3, 2, 0]


def test_no_rows_have_no_windows() -> None:
    windows = find_windows(rows([], {}, sal_index=[]), SECOND_US)
    assert len(windows) == 0
    assert windows.longest == 0


@given(
    st.lists(st.integers(MONDAY_US - 5 * SECOND_US, MONDAY_US + 5 * SECOND_US), max_size=60),
    st.sampled_from([SECOND_US, 60 * SECOND_US, 3600 * SECOND_US]),
)
def test_every_row_is_in_the_window_of_its_time(times: list[int], window_us: int) -> None:
    windows = find_windows(rows(times, {}), window_us)
    seen: list[int] = []
    for n in range(len(windows)):
        members = windows.order[windows.starts[n] : windows.ends[n]].tolist()
        inside = [times[row] for row in members]
        assert inside == sorted(inside)
        assert all(windows.time_us[n] <= time < windows.time_us[n] + window_us for time in inside)
        assert windows.time_us[n] % window_us == 0
        seen += members
    assert sorted(seen) == list(range(len(times)))
