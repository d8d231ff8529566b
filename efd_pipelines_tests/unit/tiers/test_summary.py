"""Rows of a tier, against DuckDB and by hand."""

from __future__ import annotations

import math
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efd_pipelines.tiers.columns import TierForm
from efd_pipelines.tiers.rows import TableRows
from efd_pipelines.tiers.summary import summarise
from efd_pipelines.topics.layout import Arrays
from efd_pipelines_tests.unit.tiers.builders import HOUR_US, MONDAY_US, SECOND_US, message, rows

NAN = math.nan


def summary_of(
    table: pa.Table, window_us: int = SECOND_US, arrays: Arrays = "flat", *, quartiles: bool = False
) -> pa.Table:
    return summarise(TableRows(table), window_us, form=TierForm.of(table.schema, arrays, quartiles=quartiles))


def only_row(table: pa.Table, arrays: Arrays = "flat") -> dict[str, Any]:
    (row,) = summary_of(table, arrays=arrays).to_pylist()
    return dict(row)


def one_window(**columns: Any) -> pa.Table:
    """Rows of one second."""
    count = len(next(iter(columns.values())))
    return rows(MONDAY_US + np.arange(count), columns)


def replaced(table: pa.Table, name: str, column: pa.Field[Any], values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), column, values)


def statistics_of(row: dict[str, Any], name: str) -> list[Any]:
    return [row[f"{s}_{name}"] for s in ("first", "min", "max", "mean", "median", "stdev")]


DUCKDB = """
    SELECT "salIndex", epoch_us("time") - epoch_us("time") % {window_us} AS start, count(*) AS count,
           count(v) AS present, min(v) AS min, max(v) AS max, avg(v) AS mean, median(v) AS median,
           stddev_samp(v) AS stdev, min(i) AS least, max(i) AS most, median(i) AS middle,
           quantile_cont(v, 0.25) AS q1, quantile_cont(v, 0.75) AS q3,
           quantile_cont(i::DOUBLE, 0.25) AS low, quantile_cont(i::DOUBLE, 0.75) AS high
    FROM (SELECT "time", "salIndex", CASE WHEN isnan(x) THEN NULL ELSE x END AS v, i FROM samples)
    GROUP BY ALL ORDER BY "salIndex", start
"""
SAMPLES = st.lists(
    st.tuples(
        st.integers(MONDAY_US - 3 * SECOND_US, MONDAY_US + 3 * SECOND_US),
        st.integers(1, 3),
        st.one_of(st.floats(-1e6, 1e6), st.just(NAN), st.just(-0.0)),
        st.integers(-(2**31), 2**31 - 1),
    ),
    min_size=1,
    max_size=80,
)


@settings(deadline=None)
@given(SAMPLES, st.sampled_from([SECOND_US, 2 * SECOND_US, 60 * SECOND_US]))
def test_summaries_agree_with_duckdb(samples: list[tuple[int, int, float, int]], window_us: int) -> None:
    times, indices, doubles, integers = zip(*samples, strict=True)
    columns = {"x": pa.array(doubles, pa.float64()), "i": pa.array(integers, pa.int32())}
    table = rows(times, columns, sal_index=indices)
    found = summary_of(table, window_us, quartiles=True).to_pylist()
    with duckdb.connect() as connection:
        connection.register("samples", table)
        expected = connection.sql(DUCKDB.format(window_us=window_us)).to_arrow_table().to_pylist()
    assert [(row["salIndex"], row["count"]) for row in found] == [(e["salIndex"], e["count"]) for e in expected]
    for row, e in zip(found, expected, strict=True):
        assert row["time"].timestamp() * 1e6 == e["start"]
        assert (row["min_x"], row["max_x"], row["median_x"]) == (e["min"], e["max"], e["median"])
        assert (row["min_i"], row["max_i"], row["median_i"]) == (e["least"], e["most"], e["middle"])
        assert row["mean_x"] == (None if e["mean"] is None else pytest.approx(e["mean"], rel=1e-12, abs=1e-9))
        assert row["stdev_x"] == (None if e["present"] < 2 else pytest.approx(e["stdev"], rel=1e-9, abs=1e-9))
        for name in ("q1", "q3"):
            assert row[f"{name}_x"] == (None if e[name] is None else pytest.approx(e[name], rel=1e-14, abs=1e-9))
        assert (row["q1_i"], row["q3_i"]) == (e["low"], e["high"])


def test_the_order_in_which_rows_came_does_not_matter() -> None:
    random = np.random.default_rng(1)
    count = 500
    table = rows(
        MONDAY_US + random.integers(0, 5 * SECOND_US, count),
        {"x": random.normal(size=count).astype(np.float32), "s": [f"{n}" for n in range(count)]},
        sal_index=random.integers(1, 4, count).tolist(),
    )
    assert summary_of(table.take(random.permutation(count))).equals(summary_of(table))


def test_the_size_of_tiles_and_pieces_does_not_matter() -> None:
    random = np.random.default_rng(2)
    columns = {f"x{n}": random.normal(size=3000) for n in range(7)}
    table = rows(MONDAY_US + np.arange(3000) * 20_000, columns)
    whole = summary_of(table)
    parts = [TableRows(table.slice(0, 1500)), TableRows(table.slice(1500))]
    halves = pa.concat_tables([summarise(part, SECOND_US, tile_bytes=1) for part in parts])
    assert halves.equals(whole)


def test_nan_is_no_sample_but_stays_the_first() -> None:
    row = only_row(one_window(x=pa.array([NAN, 2.0, 4.0], pa.float32())))
    assert row["count"] == 3
    assert math.isnan(row["first_x"])
    assert statistics_of(row, "x")[1:] == [2.0, 4.0, 3.0, 3.0, pytest.approx(math.sqrt(2.0))]


def test_only_nan_gives_null() -> None:
    row = only_row(one_window(x=pa.array([NAN, NAN])))
    assert statistics_of(row, "x")[1:] == [None] * 5


def test_one_sample_has_no_stdev() -> None:
    row = only_row(one_window(x=pa.array([7.0]), i=pa.array([3], pa.int32())))
    assert statistics_of(row, "x") == [7.0, 7.0, 7.0, 7.0, 7.0, None]
    assert statistics_of(row, "i") == [3, 3, 3, 3.0, 3.0, None]


def test_null_is_no_sample_and_stays_null() -> None:
    row = only_row(
        one_window(
            x=pa.array([None, NAN, 3.0]), i=pa.array([None, 2**62, 2**62 + 1], pa.int64()), s=pa.array([None, "b", "c"])
        )
    )
    assert statistics_of(row, "x") == [None, 3.0, 3.0, 3.0, 3.0, None]
    assert statistics_of(row, "i")[:3] == [None, 2**62, 2**62 + 1]
    assert row["first_s"] is None


def test_results_are_rounded_once_to_the_fields_own_type() -> None:
    values = np.array([0.1, 0.2, 0.30000001192092896, 1e-3], np.float32)
    row = only_row(one_window(x=pa.array(values)))
    exact = values.astype(np.float64)
    assert row["mean_x"] == np.float32(exact.mean())
    assert row["median_x"] == np.float32(np.median(exact))
    assert row["stdev_x"] == np.float32(exact.std(ddof=1))


def test_booleans_strings_and_private_fields_have_their_first_only() -> None:
    row = only_row(one_window(ok=[True, False], state=["on", "off"], raw=[b"\x00", b"\x01"]))
    assert (row["first_ok"], row["first_state"], row["first_raw"]) == (True, "on", b"\x00")
    assert row["first_private_seqNum"] == 0
    assert not [name for name in row if name.startswith(("min_", "mean_"))]


def test_the_first_values_are_those_of_one_record() -> None:
    table = rows([MONDAY_US + 5, MONDAY_US + 1], {"x": [5.0, 1.0], "s": ["later", "earlier"]})
    row = only_row(table)
    assert (row["first_x"], row["first_s"], row["first_private_seqNum"]) == (1.0, "earlier", 1)


def test_each_window_says_how_long_it_is() -> None:
    table = rows([MONDAY_US, MONDAY_US + 61 * SECOND_US], {"x": [1.0, 2.0]})
    assert summary_of(table, 60 * SECOND_US)["window_size"].to_pylist() == [60.0, 60.0]


def test_lists_are_summarised_element_by_element() -> None:
    lists = pa.array([[1.0, 10.0], [3.0], None, [5.0, NAN, 7.0]], pa.list_(pa.float32()))
    row = only_row(one_window(x=lists))
    assert row["first_x"] == [1.0, 10.0]
    assert row["min_x"] == [1.0, 10.0, 7.0]
    assert row["median_x"] == [3.0, 10.0, 7.0]
    assert row["stdev_x"] == [2.0, None, None]


def test_lists_of_integers_are_exact() -> None:
    lists = pa.array([[2**62, 1], [2**62 + 1]], pa.list_(pa.int64()))
    row = only_row(one_window(x=lists))
    assert (row["min_x"], row["max_x"]) == ([2**62, 1], [2**62 + 1, 1])
    assert row["mean_x"] == [2.0**62, 1.0]


def test_a_windows_list_is_as_long_as_its_longest() -> None:
    times = [MONDAY_US, MONDAY_US + SECOND_US, MONDAY_US + 2 * SECOND_US, MONDAY_US + 3 * SECOND_US]
    lists = pa.array([[1, 2, 3], [], None, [4]], pa.list_(pa.int32()))
    found = summary_of(rows(times, {"x": lists}))
    assert found["max_x"].to_pylist() == [[1, 2, 3], [], None, [4]]
    assert found["mean_x"].to_pylist() == [[1.0, 2.0, 3.0], [], None, [4.0]]


def test_flattened_arrays_can_become_lists_again() -> None:
    table = one_window(x0=[1.0, 3.0], x1=[10.0, 30.0], ok0=[True, False], ok1=[False, False], y=[0.0, 0.0])
    for name, field, element in (("x0", "x", 0), ("x1", "x", 1), ("ok0", "ok", 0), ("ok1", "ok", 1)):
        kind = table.schema.field(name).type
        table = replaced(table, name, message(name, kind, field=field, element=element), table[name])
    row = only_row(table, "list")
    assert (row["first_x"], row["mean_x"], row["max_x"]) == ([1.0, 10.0], [2.0, 20.0], [3.0, 30.0])
    assert row["first_ok"] == [True, False]
    assert row["mean_y"] == 0.0
    flat = only_row(table, "flat")
    assert (flat["mean_x0"], flat["mean_x1"]) == (2.0, 20.0)


def test_quartiles_are_those_of_the_samples_that_are_there() -> None:
    lists = pa.array([[1.0], [2.0, 8.0], None, [3.0, NAN], [4.0, 6.0]], pa.list_(pa.float32()))
    integers = pa.array([4, None, 1, 2, 3], pa.int64())
    table = one_window(x=pa.array([NAN, 3.0, 1.0, 2.0, None], pa.float32()), i=integers, one=lists, s=["x"] * 5)
    (row,) = summary_of(table, quartiles=True).to_pylist()
    assert (row["q1_x"], row["q3_x"]) == (1.5, 2.5)
    assert (row["q1_i"], row["q3_i"]) == (1.75, 3.25)
    assert (row["q1_one"], row["q3_one"]) == ([1.75, 6.5], [3.25, 7.5])
    assert [name for name in row if name.startswith("q")] == [
        f"{q}_{n}" for n in ("x", "i", "one") for q in ("q1", "q3")
    ]
    (row,) = summary_of(one_window(x=[NAN, NAN], y=[7.0, NAN]), quartiles=True).to_pylist()
    assert (row["q1_x"], row["q3_x"], row["q1_y"], row["q3_y"]) == (None, None, 7.0, 7.0)


def test_no_rows_give_an_empty_table_with_all_columns() -> None:
    empty = rows(
        [], {"x": pa.array([], pa.float32()), "l": pa.array([], pa.list_(pa.int32())), "s": pa.array([], pa.string())}
    )
    found = summary_of(empty)
    assert found.num_rows == 0
    assert found.schema.equals(
        summary_of(one_window(x=pa.array([1.0], pa.float32()), l=pa.array([[1]], pa.list_(pa.int32())), s=["x"])).schema
    )


@pytest.mark.parametrize("window_us", [SECOND_US, 60 * SECOND_US, HOUR_US])
def test_counts_add_up_to_the_rows(window_us: int) -> None:
    table = rows(MONDAY_US + np.arange(0, 2 * HOUR_US, 700_001), {"x": np.zeros(10286)})
    found = summary_of(table, window_us)
    assert sum(found["count"].to_pylist()) == table.num_rows
