"""JSON values as rows: nothing rounded, nothing lost."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efd_pipelines.avro.attempts import LONGEST_FLAT
from efd_pipelines.avro.frames import TOMBSTONE
from efd_pipelines.avro.json import read_json
from efd_pipelines.topics.layout import plan_layout

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
NESTED = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner))
OBJECTS = st.dictionaries(st.sampled_from("abc"), NESTED, max_size=3)


def rows_of(*values: Any) -> list[dict[str, Any]]:
    read = read_json([json.dumps(value).encode() for value in values])
    assert read.dead == []
    return list(read.rows(plan_layout(read.schema, arrays="list")).to_pylist())


@settings(deadline=None)
@given(objects=st.lists(OBJECTS, max_size=6))
def test_every_value_comes_back(objects: list[dict[str, Any]]) -> None:
    """As itself, or as JSON text where its field is nested or mixed."""
    read = read_json([json.dumps(value).encode() for value in objects])
    texts = {field.name for field in read.schema.fields if field.type == "json"}
    assert read.dead == []
    # A table without columns has no rows either.
    rows = read.rows(plan_layout(read.schema, arrays="list")).to_pylist() if read.schema.fields else [{}] * len(objects)
    for row, value in zip(rows, objects, strict=True):
        back = {
            name: json.loads(inner) if name in texts and inner is not None else inner for name, inner in row.items()
        }
        assert {name: inner for name, inner in back.items() if inner is not None} == {
            name: inner for name, inner in value.items() if inner is not None
        }


def test_whole_numbers_are_long_and_mixed_ones_double() -> None:
    assert rows_of({"a": 1, "b": 1}, {"a": 2, "b": 2.5}) == [{"a": 1, "b": 1.0}, {"a": 2, "b": 2.5}]
    read = read_json([b'{"a": 1, "b": 1, "c": [1]}', b'{"a": 2, "b": 2.5, "c": [0.5, 1]}'])
    assert [(field.name, field.type, field.array, field.length) for field in read.schema.fields] == [
        ("a", "long", False, None),
        ("b", "double", False, None),
        ("c", "double", True, 2),
    ]
    assert read.schema.token == 0


def test_a_number_that_a_double_cannot_hold_is_kept_as_text() -> None:
    assert rows_of({"a": 2**53 + 1}, {"a": 0.5}) == [{"a": "9007199254740993"}, {"a": "0.5"}]
    assert rows_of({"a": 2**64}) == [{"a": "18446744073709551616"}]


def test_a_list_that_would_take_too_many_columns_is_kept_as_text() -> None:
    values = list(range(LONGEST_FLAT + 1))
    assert rows_of({"a": values, "n": 1}) == [{"a": json.dumps(values, separators=(",", ":")), "n": 1}]


def test_a_number_that_is_none_stays_none_of_the_others() -> None:
    rows = read_json([b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": null}'])
    values = rows.rows(plan_layout(rows.schema))["a"].to_pylist()
    assert math.isnan(values[0])
    assert values[1:] == [-math.inf, None]


@pytest.mark.parametrize("value", [b"", b"{", b"[1]", b"3", b"\xff", b'{"a": "\\ud800"}', b'{"a":' * 100_000, None])
def test_what_is_no_json_object_is_dead_and_takes_nothing_with_it(value: bytes | None) -> None:
    read = read_json([b'{"a": "x"}', value, b'{"a": "y"}'])
    assert [index for index, _ in read.dead] == [1]
    assert read.rows(plan_layout(read.schema))["a"].to_pylist() == ["x", "y"]
    if value is None:
        assert read.dead == [(1, TOMBSTONE)]
