"""Files: rows in one order, same rows the same bytes and name, row groups of equal size."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.archive.files import ROW_GROUP_BYTES, content_hash, encode, sort_rows

ORDER = ("salIndex", "time", "archive_source", "kafka_partition", "kafka_offset")
ROWS = st.lists(
    st.tuples(
        st.integers(0, 1), st.integers(0, 3), st.sampled_from(["b", "a", ""]), st.integers(0, 1), st.integers(0, 4)
    ),
    max_size=8,
)


def table_of(rows: list[Any]) -> pa.Table:
    salindex, time, source, partition, offset = zip(*rows, strict=True) if rows else ((),) * 5
    return pa.table(
        {
            "time": pa.array(time, pa.timestamp("us", tz="UTC")),
            "salIndex": pa.array(salindex, pa.int64()),
            "kafka_partition": pa.array(partition, pa.int32()),
            "kafka_offset": pa.array(offset, pa.int64()),
            "archive_source": pa.array(source, pa.string()),
        }
    )


@given(rows=ROWS, is_sorted=st.booleans())
def test_rows_come_in_the_order_of_the_keys(rows: list[Any], is_sorted: bool) -> None:
    table = table_of(sorted(rows) if is_sorted else rows)
    expected = table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in ORDER]))
    assert sort_rows(table).equals(expected)


def test_rows_of_history_that_tie_are_in_the_order_of_their_values() -> None:
    """They have no offset: without an order of their own the same points would give other bytes in other batches."""
    rng = np.random.default_rng(1)
    table = table_of([(0, 1 + n // 40, "influx:efd", None, None) for n in range(120)])
    table = table.append_column("value", pa.array([[0.5, None, 2.5][n] for n in rng.integers(0, 3, 120)]))
    table = table.append_column("private_seqNum", pa.array(rng.permutation(120)))
    table = table.append_column("name", pa.array([["a", "b", None][n] for n in rng.integers(0, 3, 120)]))
    table = table.append_column("some", pa.array([[n] for n in range(120)]))
    expected = sort_rows(table)
    for _ in range(3):
        assert sort_rows(table.take(pa.array(rng.permutation(120)))).equals(expected)
    assert expected["time"].to_pylist() == table["time"].to_pylist()


def test_rows_without_a_time_are_sorted_too() -> None:
    table = table_of([(0, 1, "a", 0, 2), (0, 1, "a", 0, 1)])
    table = table.set_column(0, "time", pa.nulls(2, pa.timestamp("us", tz="UTC")))
    assert sort_rows(table)["kafka_offset"].to_pylist() == [1, 2]


def test_same_rows_are_the_same_bytes_and_others_are_not() -> None:
    one, other = table_of([(0, 1, "a", 0, 2)]), table_of([(0, 1, "a", 0, 3)])
    assert content_hash(encode(one)) == content_hash(encode(table_of([(0, 1, "a", 0, 2)])))
    assert content_hash(encode(one)) != content_hash(encode(other))


def test_no_row_group_is_a_small_rest() -> None:
    rows = ROW_GROUP_BYTES // 8 // 64 + 10
    wide = pa.table({f"f{n}": pa.array(np.arange(rows)) for n in range(64)})
    footer = pq.read_metadata(io.BytesIO(encode(wide)))
    counts = [footer.row_group(n).num_rows for n in range(footer.num_row_groups)]
    assert sum(counts) == rows
    assert len(counts) == 2
    assert max(counts) - min(counts) <= 1
