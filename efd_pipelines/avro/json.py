"""JSON: values that are JSON objects → rows, for topics whose value format is `json`.

There is no schema to go by, so one is inferred from the values themselves: numbers that are all whole become
`long`, other numbers `double`, lists of one kind arrays, anything nested, mixed or very long JSON text. Nothing is
rounded: a whole number that a double cannot hold makes its field text. Every field may be missing, so all are nullable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.avro.attempts import LONGEST_FLAT
from efd_pipelines.avro.columns import Flattening
from efd_pipelines.avro.frames import TOMBSTONE
from efd_pipelines.avro.messages import field_array
from efd_pipelines.topics.layout import Layout
from efd_pipelines.topics.schemas import Field, FieldType, TopicSchema

_EXACT_IN_DOUBLE = 2**53
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONG = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True, eq=False)
class JsonRows:
    """The values that are JSON objects, and the schema that holds them all.

    Args:
        good: indices of the values that became rows, ascending.
        dead: index and reason of every other value, ascending.
    """

    schema: TopicSchema
    good: NDArray[np.int64]
    dead: list[tuple[int, str]]
    objects: list[Mapping[str, Any]]

    def rows(self, layout: Layout) -> pa.Table:
        """The layout's columns, a row for each index in `good`."""
        fields = {
            field.name: field_array(field, [_fitted(field, value.get(field.name)) for value in self.objects])
            for field in self.schema.fields
        }
        return Flattening(layout).table(fields, len(self.objects))


def read_json(values: Sequence[bytes | None]) -> JsonRows:
    """Rows of JSON values; what is none is dead."""
    good: list[int] = []
    dead: list[tuple[int, str]] = []
    objects: list[Mapping[str, Any]] = []
    for index, value in enumerate(values):
        parsed = _object(value)
        if isinstance(parsed, str):
            dead.append((index, parsed))
        else:
            good.append(index)
            objects.append(parsed)
    return JsonRows(infer_schema(objects), np.array(good, dtype=np.int64), dead, objects)


def infer_schema(objects: Sequence[Mapping[str, Any]]) -> TopicSchema:
    """The narrowest schema that holds all the objects without loss; its token is 0, that of JSON rows."""
    names: dict[str, list[Any]] = {}
    for value in objects:
        for name, inner in value.items():
            if inner is not None:
                names.setdefault(name, []).append(inner)
    fields = tuple(_field(name, values) for name, values in names.items())
    return TopicSchema(text="", token=0, namespace="", name="", description="", fields=fields)


def _object(value: bytes | None) -> Mapping[str, Any] | str:
    if value is None:
        return TOMBSTONE
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(parsed, dict):
        return f"not a JSON object but a {type(parsed).__name__}"
    if _SURROGATE.search(value) and not _is_text(parsed):
        return "not text: it has half of a surrogate pair"
    return parsed


def _is_text(parsed: Any) -> bool:
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _field(name: str, values: Sequence[Any]) -> Field:
    if all(isinstance(value, list) for value in values):
        items = [item for value in values for item in value]
        kind = _kind(items) if items else "double"
        longest = max(map(len, values))
        if kind != "json" and longest <= LONGEST_FLAT:
            return Field(name, kind, array=True, length=longest, nullable=True)
        return Field(name, "json", nullable=True)
    return Field(name, _kind(values), nullable=True)


def _kind(values: Sequence[Any]) -> FieldType:
    """The type that holds all the values."""
    types = {type(value) for value in values}
    if types == {bool}:
        return "boolean"
    if types == {str}:
        return "string"
    if types == {int}:
        return "long" if all(value in _LONG for value in values) else "json"
    if types <= {int, float}:
        exact = all(isinstance(value, float) or abs(value) <= _EXACT_IN_DOUBLE for value in values)
        return "double" if exact else "json"
    return "json"


def _fitted(field: Field, value: Any) -> Any:
    if field.type == "double" and value is not None:
        return [float(item) for item in value] if field.array else float(value)
    return value
