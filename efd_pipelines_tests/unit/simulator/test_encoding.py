"""Bodies are, byte for byte, what fastavro writes from the same values."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efd_pipelines.errors import SchemaError
from efd_pipelines.simulator.encoding import AvroEncoder, frame_head, zigzag

INTEGERS = {"int": st.integers(-(2**31), 2**31 - 1), "long": st.integers(-(2**63), 2**63 - 1)}
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    **INTEGERS,
    "float": st.floats(width=32),
    "double": st.floats(),
    "boolean": st.booleans(),
    "string": st.text(max_size=9),
}
NUMPY = {"int": np.int64, "long": np.int64, "float": np.float32, "double": np.float64, "boolean": np.bool_}


def record_schema(*fields: dict[str, Any]) -> str:
    return json.dumps({"type": "record", "name": "r", "namespace": "lsst.sal.A", "fields": list(fields)})


def written_by_fastavro(schema: str, records: list[dict[str, Any]]) -> list[bytes]:
    parsed = fastavro.parse_schema(json.loads(schema))
    bodies = []
    for record in records:
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, parsed, record)
        bodies.append(stream.getvalue())
    return bodies


@st.composite
def batches(draw: st.DrawFn) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """A schema of SAL's shapes, columns for it, and the same as records."""
    count = draw(st.integers(1, 5))
    fields: list[dict[str, Any]] = []
    columns: dict[str, Any] = {}
    records: list[dict[str, Any]] = [{} for _ in range(count)]
    for number in range(draw(st.integers(1, 6))):
        name, kind = f"f{number}", draw(st.sampled_from(sorted(SCALARS)))
        shape = draw(st.sampled_from(["scalar", "array", "nullable", "constant"]))
        if shape == "array" and kind != "string":
            length = draw(st.integers(0, 4))
            values = [draw(st.lists(SCALARS[kind], min_size=length, max_size=length)) for _ in range(count)]
            fields.append({"name": name, "type": {"type": "array", "items": kind}})
            columns[name] = np.array(values, dtype=NUMPY[kind]).reshape(count, length)
        elif shape == "nullable":
            maybe: st.SearchStrategy[Any] = st.none() | SCALARS[kind]
            values = draw(st.lists(maybe, min_size=count, max_size=count))
            fields.append({"name": name, "type": ["null", kind], "default": None})
            columns[name] = list(values)
        elif shape == "constant":
            value = draw(SCALARS[kind])
            values = [value] * count
            fields.append({"name": name, "type": kind})
            columns[name] = value
        else:
            values = draw(st.lists(SCALARS[kind], min_size=count, max_size=count))
            fields.append({"name": name, "type": kind})
            columns[name] = values if kind == "string" else np.array(values, dtype=NUMPY[kind])
        for record, value in zip(records, values, strict=True):
            record[name] = value
    return record_schema(*fields), columns, records


@given(batches())
@settings(max_examples=300, deadline=None)
def test_bodies_are_fastavros(batch: tuple[str, dict[str, Any], list[dict[str, Any]]]) -> None:
    schema, columns, records = batch

    assert AvroEncoder(schema).encode(columns, len(records)) == written_by_fastavro(schema, records)


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_single_integer_is_fastavros(value: int) -> None:
    assert zigzag(value) == written_by_fastavro(record_schema({"name": "x", "type": "long"}), [{"x": value}])[0]


def test_fields_that_are_left_out_have_their_defaults() -> None:
    fields: list[dict[str, Any]] = [
        {"name": "a", "type": "int", "default": 7},
        {"name": "b", "type": {"type": "array", "items": "float"}, "default": [0.0, 0.0]},
        {"name": "c", "type": "string", "default": ""},
        {"name": "d", "type": ["null", "double"], "default": None},
    ]
    schema = record_schema(*fields)

    expected = {"a": 7, "b": [0.0, 0.0], "c": "", "d": None}
    assert AvroEncoder(schema).encode({}, 2) == written_by_fastavro(schema, [expected, expected])


def test_masked_values_are_null_and_nan_is_not() -> None:
    schema = record_schema({"name": "x", "type": ["null", "double"], "default": None})
    values = np.ma.masked_array([1.0, 2.0, np.nan], [False, True, False])

    bodies = AvroEncoder(schema).encode({"x": values}, 3)

    assert bodies == written_by_fastavro(schema, [{"x": 1.0}, {"x": None}, {"x": float("nan")}])


def test_no_records_have_no_bodies() -> None:
    assert AvroEncoder(record_schema({"name": "x", "type": "int"})).encode({"x": np.empty(0)}, 0) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"y": 1},
        {"x": np.arange(3)},
        {"x": np.array([0.5, 1.5])},
        {"x": np.array([2**31, 0])},
        {"x": ["a", "b"]},
        {"x": None},
    ],
)
def test_what_does_not_fit_the_schema_is_refused(columns: dict[str, Any]) -> None:
    encoder = AvroEncoder(record_schema({"name": "x", "type": "int"}))

    with pytest.raises(SchemaError):
        encoder.encode(columns, 2)


def test_a_frame_begins_with_zero_and_the_big_endian_id() -> None:
    assert frame_head(258) == b"\x00\x00\x00\x01\x02"
