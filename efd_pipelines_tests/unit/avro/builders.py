"""Schemas, messages and bodies for tests of decoding; fastavro writes them, so ours never checks itself."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import pyarrow as pa
from hypothesis import strategies as st

from efd_pipelines.topics.layout import Layout
from efd_pipelines.topics.schemas import TopicSchema, parse_schema

ZEROS: Mapping[str, Any] = {
    "boolean": False,
    "int": 0,
    "long": 0,
    "float": 0.0,
    "double": 0.0,
    "string": "",
    "bytes": b"",
}
VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32),
    "double": st.floats(),
    "string": st.text(max_size=12),
    "bytes": st.binary(max_size=12),
}


def array_of(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def a_schema(*fields: tuple[str, Any] | tuple[str, Any, Any]) -> TopicSchema:
    """A record with fields of (name, type) or (name, type, default)."""
    documents = []
    for name, kind, *default in fields:
        document = {"name": name, "type": kind, "units": "m", "description": "of a test"}
        if default:
            document["default"] = default[0]
        documents.append(document)
    record = {"type": "record", "name": "t", "namespace": "lsst.sal.Test", "fields": documents}
    return parse_schema(json.dumps(record))


def bodies_of(schema: TopicSchema, messages: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """The messages as fastavro writes them."""
    parsed = fastavro.parse_schema(json.loads(schema.text))
    return [_written(parsed, message) for message in messages]


def _written(parsed: Any, message: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed, message)
    return out.getvalue()


def messages_of(table: pa.Table, schema: TopicSchema, layout: Layout) -> list[dict[str, Any]]:
    """A decoded table's rows as messages again: what was flattened is an array, up to its first null."""
    columns = {column.name: table[column.name].to_pylist() for column in layout.columns}
    messages = []
    for row in range(table.num_rows):
        message: dict[str, Any] = {}
        for field in schema.fields:
            mine = [column for column in layout.columns if column.field == field.name]
            if not field.array or (mine and mine[0].element is None):
                message[field.name] = columns[mine[0].name][row]
            else:
                items = [columns[column.name][row] for column in mine]
                message[field.name] = items[: items.index(None)] if None in items else items
        messages.append(message)
    return messages


@st.composite
def field_types(draw: st.DrawFn) -> Any:
    """What SAL and CCS write: scalars, nullable scalars in either order, arrays of scalars."""
    scalar = draw(st.sampled_from(sorted(ZEROS)))
    shape = draw(st.sampled_from(["scalar", "nullable", "nullable last", "array", "array"]))
    if shape == "scalar":
        return scalar
    if shape == "nullable":
        return ["null", scalar]
    return [scalar, "null"] if shape == "nullable last" else array_of(scalar)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, str):
        return VALUES[kind]
    if isinstance(kind, list):
        scalar = next(branch for branch in kind if branch != "null")
        return st.none() | VALUES[scalar]
    return st.lists(VALUES[kind["items"]], max_size=5)


@st.composite
def topics(draw: st.DrawFn, kinds: st.SearchStrategy[Any] | None = None) -> tuple[TopicSchema, list[dict[str, Any]]]:
    """A schema and some messages of it; the lengths of arrays vary, and pass the declared ones."""
    chosen = ["boolean", *draw(st.lists(kinds or field_types(), max_size=7))]
    fields = []
    for place, kind in enumerate(chosen):
        if isinstance(kind, dict):
            declared = draw(st.integers(0, 4))
            # A default of bytes is written as text in a schema's JSON.
            zero: Any = "" if kind["items"] == "bytes" else ZEROS[kind["items"]]
            fields.append((f"f{place}", kind, [zero] * declared))
        else:
            fields.append((f"f{place}", kind))  # type: ignore[arg-type]
    schema = a_schema(*fields)
    record = st.fixed_dictionaries({f"f{place}": values_of(kind) for place, kind in enumerate(chosen)})
    return schema, draw(st.lists(record, max_size=12))
