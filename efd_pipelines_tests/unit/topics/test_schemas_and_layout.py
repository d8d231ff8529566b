"""Schemas and how they become columns."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from efd_pipelines.errors import SchemaError
from efd_pipelines.simulator.sal import load_topics
from efd_pipelines.topics.layout import (
    MAX_FLAT_COLUMNS,
    RESERVED,
    arrow_field,
    column_of,
    plan_layout,
    wider,
)
from efd_pipelines.topics.schemas import parse_schema, schema_difference


def record(*fields: dict[str, Any]) -> str:
    return json.dumps({"type": "record", "name": "x", "namespace": "lsst.sal.Test", "fields": list(fields)})


def array(name: str, items: str = "float", length: int = 3) -> dict[str, Any]:
    return {"name": name, "type": {"type": "array", "items": items}, "default": [0] * length, "units": "N"}


def test_the_token_is_that_of_the_canonical_text() -> None:
    text = record({"name": "b", "type": "int", "default": 1})
    canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    expected = int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:8], "big", signed=True)
    assert parse_schema(text).token == expected
    assert parse_schema(json.dumps(json.loads(text), indent=4)).token == expected
    assert parse_schema(record({"name": "b", "type": "int", "default": 2})).token != expected


def test_array_lengths_units_and_null_are_read_from_the_schema() -> None:
    schema = parse_schema(record(array("force", length=156), {"name": "agent", "type": ["null", "string"]}))
    force, agent = schema.fields
    assert (force.array, force.length, force.type, force.units) == (True, 156, "float", "N")
    assert (agent.nullable, agent.type) == (True, "string")


@pytest.mark.parametrize("text", ["{", "[]", '"string"', '{"type": "record"}', '{"type":"record","fields":[{}]}'])
def test_what_is_no_record_schema_is_refused(text: str) -> None:
    with pytest.raises(SchemaError):
        parse_schema(text)


def test_anything_but_scalars_and_their_arrays_is_kept_as_json() -> None:
    nested = {"name": "n", "type": {"type": "record", "name": "y", "fields": []}}
    several = {"name": "s", "type": ["null", "int", "string"]}
    schema = parse_schema(record(nested, several, {"name": "m", "type": {"type": "map", "values": "int"}}))
    assert [field.type for field in schema.fields] == ["json", "json", "json"]


def test_a_difference_names_fields_and_what_changed() -> None:
    old = parse_schema(record(array("a"), {"name": "gone", "type": "int"}))
    new = parse_schema(record(array("a", length=4), {"name": "new", "type": "double"}))
    lines = schema_difference(old, new)
    assert lines == ["new: new, double", "gone: gone, was int", "a: float[3] in N → float[4] in N"]


def test_names_that_collide_without_case_get_an_unambiguous_form() -> None:
    schema = parse_schema(
        record(array("v", length=21), array("v2"), {"name": "Source", "type": "int"}, {"name": "source", "type": "int"})
    )
    names = [column.name for column in plan_layout(schema).columns]
    assert names[20:] == ["v20", "v2__0", "v2__1", "v2__2", "Source", "source__"]
    assert len({name.lower() for name in names}) == len(names)


def test_what_a_table_has_named_stays_when_a_field_comes_before_it() -> None:
    old = plan_layout(parse_schema(record(array("v2"), array("v", length=21))))
    held = [column_of(arrow_field(column)) for column in old.columns]
    new = plan_layout(
        parse_schema(record(array("v", length=21), array("v2"))), held=[column for column in held if column]
    )
    assert {(c.field, c.element): c.name for c in new.columns} == {(c.field, c.element): c.name for c in old.columns}


def test_a_retyped_field_gets_a_column_of_its_own_and_a_wider_one_does_not() -> None:
    old = plan_layout(parse_schema(record({"name": "a", "type": "int"}, {"name": "b", "type": "int"})))
    new = plan_layout(
        parse_schema(record({"name": "a", "type": "string"}, {"name": "b", "type": "long"})), held=old.columns
    )
    assert [column.name for column in new.columns] == ["a__string", "b"]


def test_longer_arrays_add_columns_behind_the_ones_there_are() -> None:
    schema = parse_schema(record(array("a")))
    layout = plan_layout(schema, held=plan_layout(schema).columns, lengths={"a": 5})
    assert [column.name for column in layout.columns] == ["a0", "a1", "a2", "a3", "a4"]


def test_only_int_and_float_widen() -> None:
    assert wider(pa.int32(), pa.int64()) == pa.int64()
    assert wider(pa.list_(pa.float64()), pa.list_(pa.float32())) == pa.list_(pa.float64())
    assert wider(pa.int64(), pa.float64()) is None
    assert wider(pa.string(), pa.binary()) is None


def test_every_topic_of_the_observatory_has_distinct_columns(shared: Path) -> None:
    topics = load_topics(shared / "sal" / "topics.json.gz")
    assert len(topics) == len(json.loads(gzip.decompress((shared / "sal" / "topics.json.gz").read_bytes())))
    for topic in topics.values():
        layout = plan_layout(parse_schema(topic.avro_schema()))
        names = [column.name.lower() for column in layout.columns]
        assert len(set(names)) == len(names), topic.name
        assert not {name.lower() for name in RESERVED} & set(names), topic.name
        assert layout.arrays == "list" or len(names) <= MAX_FLAT_COLUMNS, topic.name
