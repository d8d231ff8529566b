"""Schemas: a topic's Avro schema as the archive sees it.

A SAL record is flat: scalars and arrays of scalars, each with units and a description; the length of an
array stands nowhere but in its default (efd-facts §1.5). Anything else that other namespaces may send (nested
records, maps, several-branched unions) is of the type `json`: its value is kept as JSON text.
Reading frames with a schema: `efd_pipelines.avro`. How it becomes columns: `layout.py`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from efd_pipelines.errors import SchemaError

FieldType = Literal["boolean", "int", "long", "float", "double", "string", "bytes", "json"]
_SCALARS: Mapping[str, FieldType] = {
    "boolean": "boolean",
    "int": "int",
    "long": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "bytes": "bytes",
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record: `type` is that of the items where it is an array."""

    name: str
    type: FieldType
    array: bool = False
    length: int | None = None
    nullable: bool = False
    units: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class TopicSchema:
    """A record schema; `token` identifies its text in the archive (`archive_schema`)."""

    text: str
    token: int
    namespace: str
    name: str
    description: str
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


def schema_token(document: Any) -> int:
    """The first 64 bits, signed, of the SHA-256 of the schema's JSON with sorted keys and no white space."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:8], "big", signed=True)


@functools.lru_cache(maxsize=8192)
def parse_schema(text: str) -> TopicSchema:
    """The schema of an Avro record's JSON text.

    Raises:
        SchemaError: it is no JSON, or no record.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"A schema is no JSON ({error})") from error
    if (
        not isinstance(document, dict)
        or document.get("type") != "record"
        or not isinstance(document.get("fields"), list)
    ):
        raise SchemaError("A topic's schema must be an Avro record with fields")
    try:
        fields = tuple(_field(field) for field in document["fields"])
    except (KeyError, TypeError, AttributeError) as error:
        raise SchemaError(
            f"The schema of {document.get('name')} has a field that cannot be read ({error!r})"
        ) from error
    name = str(document.get("name", ""))
    namespace = str(document.get("namespace", "")) or name.rpartition(".")[0]
    return TopicSchema(
        text=text,
        token=schema_token(document),
        namespace=namespace,
        name=name.rpartition(".")[2],
        description=str(document.get("description") or document.get("doc") or ""),
        fields=fields,
    )


def _field(field: Mapping[str, Any]) -> Field:
    kind, array, nullable = _type(field["type"])
    default = field.get("default")
    return Field(
        name=str(field["name"]),
        type=kind,
        array=array,
        length=len(default) if array and isinstance(default, list) else None,
        nullable=nullable,
        units=str(field.get("units") or field.get("unit") or ""),
        description=str(field.get("description") or field.get("doc") or ""),
    )


def _type(declared: Any) -> tuple[FieldType, bool, bool]:
    """Type, whether an array, whether it may be null."""
    if isinstance(declared, list):
        return _union(declared)
    if isinstance(declared, dict):
        inner = declared["type"]
        if inner == "array":
            items, nested, nullable_items = _type(declared["items"])
            plain = not nested and items != "json" and not nullable_items
            return (items, True, False) if plain else ("json", False, False)
        if inner == "enum":
            return "string", False, False
        if inner == "fixed":
            return "bytes", False, False
        return _type(inner) if isinstance(inner, str) and inner in _SCALARS else ("json", False, False)
    return _SCALARS.get(declared, "json"), False, False


def _union(branches: list[Any]) -> tuple[FieldType, bool, bool]:
    rest = [branch for branch in branches if branch != "null"]
    nullable = len(rest) < len(branches)
    if len(rest) != 1:
        return "json", False, True
    kind, array, _ = _type(rest[0])
    return kind, array, nullable


def schema_difference(old: TopicSchema, new: TopicSchema) -> list[str]:
    """What changed from one schema to the next, a line each, as people read it."""
    before = {field.name: field for field in old.fields}
    after = {field.name: field for field in new.fields}
    lines = [f"{name}: new, {_described(after[name])}" for name in after if name not in before]
    lines += [f"{name}: gone, was {_described(before[name])}" for name in before if name not in after]
    for name, field in after.items():
        if name in before and _described(before[name]) != _described(field):
            lines.append(f"{name}: {_described(before[name])} → {_described(field)}")
    return lines


def _described(field: Field) -> str:
    kind = f"{field.type}[{'' if field.length is None else field.length}]" if field.array else field.type
    null = ", may be null" if field.nullable else ""
    return f"{kind} in {field.units}{null}" if field.units else f"{kind}{null}"
