"""Schemas, messages and bodies for tests of decoding; fastavro writes them, so ours never checks itself."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import numpy as np
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


SPECIAL: Mapping[str, Sequence[Any]] = {
    "float": [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, float(np.finfo(np.float32).max), 1e-45],
    "double": [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1.7976931348623157e308, 5e-324],
    "int": [-(2**31), 2**31 - 1, 0, -1],
    "long": [-(2**63), 2**63 - 1, 0, -1],
    "boolean": [True, False],
    "string": ["", "µm · 漢字", "x" * 300],
    "bytes": [b"", b"\xff\x00", bytes(300)],
}


def random_message(schema: TopicSchema, random: np.random.Generator) -> dict[str, Any]:
    """Values at the edges of their types and in between; arrays from empty to one item more than declared."""
    message: dict[str, Any] = {}
    for field in schema.fields:
        length = int(random.integers(0, (field.length or 0) + 2)) if field.array else 1
        values = _random_values(field.type, length, random)
        null = field.nullable and random.random() < 0.3
        message[field.name] = None if null else values if field.array else values[0]
    return message


def _random_values(kind: str, count: int, random: np.random.Generator) -> list[Any]:
    special = SPECIAL[kind]
    values = [special[pick] for pick in random.integers(0, len(special), count).tolist()]
    if kind in {"float", "double", "int", "long"}:
        numbers = random.normal(scale=1e6, size=count).astype({"float": "f4", "double": "f8"}.get(kind, "i4")).tolist()
        values = [one if random.random() < 0.5 else other for one, other in zip(values, numbers, strict=True)]
    return values
