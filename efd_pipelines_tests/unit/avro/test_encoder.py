"""The encoder: what fastavro wrote and we decoded becomes the same bytes again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from efd_pipelines.avro.decoder import Decoded, decode
from efd_pipelines.avro.encoder import RowEncoder, json_values
from efd_pipelines.avro.frames import frame
from efd_pipelines.avro.json import read_json
from efd_pipelines.topics.layout import Arrays, Layout, plan_layout
from efd_pipelines.topics.schemas import TopicSchema, parse_schema
from efd_pipelines_tests.unit.avro.builders import SPECIAL, ZEROS, a_schema, array_of, bodies_of, random_message, topics


def decoded(bodies: Sequence[bytes], schema: TopicSchema, arrays: Arrays | None) -> tuple[Decoded, Layout]:
    layout = plan_layout(schema, arrays=arrays)
    result = decode(bodies, schema, layout)
    if result.lengths:
        layout = plan_layout(schema, arrays=arrays, lengths=result.lengths)
        result = decode(bodies, schema, layout)
    assert result.dead == []
    return result, layout


def assert_same_bytes(schema: TopicSchema, messages: Sequence[Any], arrays: Arrays | None) -> None:
    bodies = bodies_of(schema, messages)
    result, layout = decoded(bodies, schema, arrays)
    encoder = RowEncoder.of(schema, layout.columns, layout.arrays)
    assert encoder.frames(result.table, 77) == [frame(77, body) for body in bodies]


@pytest.mark.parametrize("arrays", ["flat", "list"])
@settings(max_examples=60)
@given(topics())
def test_messages_become_the_same_bytes_again(arrays: Arrays, drawn: tuple[TopicSchema, list[dict[str, Any]]]) -> None:
    assert_same_bytes(*drawn, arrays)


@pytest.mark.parametrize("arrays", ["flat", "list"])
def test_extreme_values_of_every_type_become_the_same_bytes_again(arrays: Arrays) -> None:
    random = np.random.default_rng(5)
    fields: list[Any] = []
    for kind in ZEROS:
        zero = "" if kind == "bytes" else ZEROS[kind]
        fields += [(f"{kind}Scalar", kind), (f"{kind}Nullable", ["null", kind]), (f"{kind}Last", [kind, "null"])]
        fields.append((f"{kind}Array", array_of(kind), [zero] * 3))
    schema = a_schema(*fields)
    assert set(SPECIAL) == set(ZEROS)
    assert_same_bytes(schema, [random_message(schema, random) for _ in range(300)], arrays)


def test_a_record_of_an_older_schema_is_narrow_again_in_a_widened_table() -> None:
    old, new = (a_schema(("x", kind), ("xs", array_of(kind), [0, 0])) for kind in ("int", "long"))
    messages = [{"x": -5, "xs": [1, -(2**31)]}, {"x": 2**31 - 1, "xs": [7]}]
    bodies = bodies_of(old, messages)
    wide = plan_layout(new)
    table = decode(bodies, old, plan_layout(old)).table
    table = pa.table([table[column.name].cast(column.type) for column in wide.columns], wide.arrow_schema())
    assert RowEncoder.of(old, wide.columns, "flat").frames(table, 1) == [frame(1, body) for body in bodies]


def test_nested_types_come_back_from_the_text_that_the_archive_keeps() -> None:
    point = {"type": "record", "name": "p", "fields": [{"name": "x", "type": "double"}, {"name": "b", "type": "bytes"}]}
    fields = [
        {"name": "where", "type": point},
        {"name": "many", "type": {"type": "map", "values": "long"}},
        {"name": "state", "type": {"type": "enum", "name": "e", "symbols": ["ON", "OFF"]}},
        {"name": "four", "type": {"type": "fixed", "name": "f", "size": 4}},
        {"name": "either", "type": ["null", "string", "long"]},
        {"name": "plain", "type": "float"},
        {"name": "maybe", "type": ["null", "p"]},
    ]
    schema = parse_schema(json.dumps({"type": "record", "name": "t", "namespace": "lsst.x", "fields": fields}))
    messages = [
        {
            "where": {"x": float("nan"), "b": b"\xff\0"},
            "many": {"a": 1},
            "state": "OFF",
            "four": b"abcd",
            "either": text,
            "plain": 0.5,
            "maybe": None if text is None else {"x": 1.5, "b": b""},
        }
        for text in (None, "words", 12)
    ]
    assert_same_bytes(schema, messages, None)


def test_what_a_history_dropped_is_nan_and_arrays_have_their_declared_length() -> None:
    schema = a_schema(("x", "float"), ("xs", array_of("double"), [0.0] * 3), ("n", "int"), ("s", "string"))
    layout = plan_layout(schema)
    rows = pa.table(
        {column.name: pa.array([1.0 if column.name == "xs1" else None], column.type) for column in layout.columns}
    )
    found = RowEncoder.of(schema, layout.columns, "flat", is_whole=True).frames(rows, 1)
    nan = float("nan")
    expected = bodies_of(schema, [{"x": nan, "xs": [nan, 1.0, nan], "n": 0, "s": ""}])
    assert found == [frame(1, body) for body in expected]


def test_rows_of_json_topics_are_the_same_objects_again() -> None:
    objects = [
        {"a": 1, "b": [1.5, 2.0], "c": "x", "d": {"e": [1, {"f": None}]}, "g": True},
        {"a": -3, "c": "", "b": [0.25]},
        {"g": False, "c": 'q"\\\n'},
    ]
    values = [json.dumps(one).encode() for one in objects]
    read = read_json(values)
    layout = plan_layout(read.schema)
    again = json_values(read.rows(layout), layout.columns)
    assert [json.loads(one) for one in again] == objects
