"""Casting: InfluxDB's values in the types in which they were sent, exactly or wider."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.history.casting import cast_back, exactly
from efd_pipelines.topics.layout import Column, column_of, plan_layout
from efd_pipelines.topics.schemas import TopicSchema, parse_schema

FLOAT, DOUBLE, INT, LONG = pa.float32(), pa.float64(), pa.int32(), pa.int64()


def schema(**fields: Any) -> TopicSchema:
    """A record's schema; an array is a type and a length."""
    declared = [
        {"name": name, "type": {"type": "array", "items": of[0]}, "default": [0] * of[1]}
        if isinstance(of, tuple)
        else {"name": name, "type": of}
        for name, of in fields.items()
    ]
    return parse_schema(json.dumps({"type": "record", "name": "x", "namespace": "lsst.sal.Test", "fields": declared}))


def points(**fields: Any) -> pa.Table:
    """Columns as InfluxDB has them."""
    return pa.table({name: of if isinstance(of, pa.Array) else pa.array(of) for name, of in fields.items()})


def cast(table: pa.Table, of: TopicSchema | None = None, held: Sequence[Column] = (), arrays: Any = None) -> pa.Table:
    return cast_back(table, schema=of, held=held, arrays=arrays).table


def test_values_go_back_to_their_declared_types() -> None:
    of = schema(f="float", d="double", i="int", n="long", b="boolean", s="string", a=("float", 3))
    exact = float(np.float32(0.1))
    found = cast(points(f=[exact], d=[0.1], i=[7], n=[2**60], b=[True], s=[""], a0=[1.0], a1=[exact], a2=[-0.0]), of)
    assert found.schema.types == [FLOAT, DOUBLE, INT, LONG, pa.bool_(), pa.string(), FLOAT, FLOAT, FLOAT]
    row = found.to_pylist()[0]
    assert row == {"f": exact, "d": 0.1, "i": 7, "n": 2**60, "b": True, "s": "", "a0": 1.0, "a1": exact, "a2": 0.0}
    assert str(row["a2"]) == "-0.0"


def test_what_influxdb_dropped_is_null_in_its_column() -> None:
    found = cast(points(i=[1, 2]), schema(x="float", a=("double", 2), i="int"))
    assert found.to_pylist() == [{"x": None, "a0": None, "a1": None, "i": n} for n in (1, 2)]
    assert found.schema.types == [FLOAT, DOUBLE, DOUBLE, INT]


def test_a_value_that_does_not_fit_makes_its_column_wider() -> None:
    found = cast(points(f=[0.1, 1.0], i=[2**40, 1]), schema(f="float", i="int"))
    assert found.schema.types == [DOUBLE, LONG]
    assert found.to_pylist() == [{"f": 0.1, "i": 2**40}, {"f": 1.0, "i": 1}]


def test_a_value_of_another_kind_gets_a_column_of_its_own() -> None:
    found = cast(points(i=[1.5], s=[3.0]), schema(i="int", s="string"))
    assert found.to_pylist() == [{"i": None, "s": None, "i__double": 1.5, "s__double": 3.0}]
    assert column_of(found.schema.field("i__double")) == Column("i__double", "i", None, DOUBLE)


def test_whole_floats_of_an_int_are_ints_and_ones_and_zeros_of_a_boolean_are_booleans() -> None:
    found = cast(points(i=[1.0, 2.0], b=[1, 0]), schema(i="int", b="boolean"))
    assert found.to_pylist() == [{"i": 1, "b": True}, {"i": 2, "b": False}]


def test_a_field_that_nobody_declares_any_more_is_kept() -> None:
    found = cast(points(old=[1.5], i=[1]), schema(i="int"))
    assert found.to_pylist() == [{"i": 1, "old": 1.5}]


def test_an_array_that_was_longer_keeps_its_elements() -> None:
    found = cast_back(
        points(a0=[1.0], a1=[2.0], a2=[3.0], a50=[4.0]), schema=schema(a=("float", 2)), held=(), arrays=None
    )
    assert [(one.field, one.element) for one in found.columns] == [("a", 0), ("a", 1), ("a", 2), ("a50", None)]


def test_the_tables_columns_keep_names_and_width() -> None:
    held = [Column("value__", "Value", None, DOUBLE), Column("i", "i", None, LONG)]
    found = cast(points(Value=[0.5], i=[1]), schema(value="float", Value="float", i="int"), held, "flat")
    assert found["value__"].to_pylist() == [0.5]
    assert found.schema.field("i").type == LONG


def test_a_table_without_a_known_schema_is_filled_by_its_columns() -> None:
    held = [Column("a0", "a", 0, FLOAT), Column("a1", "a", 1, FLOAT), Column("s", "s", None, pa.string())]
    found = cast(points(a0=[1.0], a1=[2.0], s=["x"]), None, held, "flat")
    assert found.schema.types == [FLOAT, FLOAT, pa.string()]


def test_a_dataset_that_nobody_knows_gets_influxdbs_types() -> None:
    found = cast(points(a=[1.0], i=[1], s=["x"], b=[True]))
    assert found.schema.types == [DOUBLE, LONG, pa.string(), pa.bool_()]


def test_names_that_two_fields_flatten_to_are_left_out_and_said() -> None:
    of = schema(clocklo=("float", 12), clocklo1=("float", 2))
    found = cast_back(points(clocklo10=[1.0], clocklo9=[2.0]), schema=of, held=(), arrays=None)
    assert found.ambiguous == ("clocklo10",)
    row = found.table.to_pylist()[0]
    assert row["clocklo9"] == 2.0
    assert [value for name, value in row.items() if name != "clocklo9"] == [None] * 13


def test_lists_are_put_together_again() -> None:
    of = schema(a=("float", 3), i="int")
    table = points(a0=pa.array([1.0, None]), a1=pa.array([None, None], DOUBLE), a2=pa.array([3.0, None]), i=[1, 2])
    found = cast(table, of, (), "list")
    assert found.schema.types == [pa.list_(FLOAT), INT]
    assert found.to_pylist() == [{"a": [1.0, None, 3.0], "i": 1}, {"a": None, "i": 2}]


def test_a_schema_of_too_many_columns_keeps_lists_from_the_start() -> None:
    found = cast_back(points(a0=[1.0], a1=[2.0]), schema=schema(a=("double", 2001)), held=(), arrays=None)
    assert found.arrays == "list"
    assert found.table["a"].to_pylist() == [[1.0, 2.0]]


def test_thousands_of_fields_without_a_schema_are_taken_for_arrays() -> None:
    table = points(**{f"a{n}": [float(n)] for n in range(2001)}, i=[1])
    found = cast_back(table, schema=None, held=(), arrays=None)
    assert found.arrays == "list"
    assert found.table["a"].to_pylist() == [[float(n) for n in range(2001)]]
    assert found.table["i"].to_pylist() == [1]


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none()), st.sampled_from([FLOAT, INT, LONG, DOUBLE])
)
def test_exactly_changes_no_value(values: list[float | None], kind: pa.DataType) -> None:
    found = exactly(pa.chunked_array([pa.array(values, DOUBLE)]), kind)
    if found is not None:
        assert found.type == kind
        assert [None if one is None else float(one) for one in found.to_pylist()] == values


@pytest.mark.parametrize(
    ("value", "kind", "fits"), [(2**24 + 1, FLOAT, False), (2**53 + 1, DOUBLE, False), (2**53, DOUBLE, True)]
)
def test_an_int_in_a_float_column_must_be_whole_there(value: int, kind: pa.DataType, fits: bool) -> None:
    assert (exactly(pa.chunked_array([pa.array([value])]), kind) is not None) == fits


def test_flattening_by_influxdb_and_back_is_the_layout() -> None:
    of = schema(z=("float", 156), i="int")
    layout = plan_layout(of)
    table = points(**{f"z{n}": [float(n)] for n in range(156)}, i=[1])
    assert cast(table, of).schema.equals(layout.arrow_schema(), check_metadata=True)
