"""Encoding: how records of a schema fit a table, decided once and for all that come."""

from __future__ import annotations

import json
from typing import Any

import pytest

from efd_pipelines.archive.encoding import HeldColumns
from efd_pipelines.topics.schemas import parse_schema

ARRAY = {"type": "array", "items": "float"}
SCHEMAS: dict[str, list[tuple[str, Any]]] = {
    "plain": [("a", "int"), ("b", ["null", "string"]), ("c", {**ARRAY, "default": []})],
    "arrays": [("force", {**ARRAY, "length": 3}), ("force1", "double"), ("Force0", "float")],
    "case": [("Source", "string"), ("source", "int"), ("SOURCE", "long")],
    "system": [("kafka_offset", "long"), ("time", "double")],
}


def text_of(fields: list[tuple[str, Any]]) -> str:
    return json.dumps(
        {"type": "record", "name": "x", "fields": [{"name": name, "type": kind} for name, kind in fields]}
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_later_records_fit_the_table_that_the_first_have_made_in_the_same_way(name: str) -> None:
    schema = parse_schema(text_of(SCHEMAS[name]))
    first = HeldColumns(()).fit(schema, None)
    again = HeldColumns(first.after.columns).fit(schema, first.layout.arrays)
    assert first.after.fit(schema, first.layout.arrays) is first
    assert (again.layout, again.after.columns) == (first.layout, first.after.columns)
    assert again.form.schema.equals(first.form.schema, check_metadata=True)


def test_a_narrower_schema_is_decoded_into_the_tables_wider_columns() -> None:
    wide = HeldColumns(()).fit(parse_schema(text_of([("a", "long"), ("b", "double")])), None).after
    fit = wide.fit(parse_schema(text_of([("a", "int"), ("b", "float")])), "flat")
    assert [str(column.type) for column in fit.layout.columns] == ["int64", "double"]
    assert fit.after is wide
