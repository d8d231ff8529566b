"""Single messages: the thorough decoder, fastavro, which reads one body at a time, of any Avro schema.

It takes what the fast one does not cover or refused. Whatever fastavro returns is written again and compared
with the body; where that differs, `grammar.py` decides whether the body is a message in another of Avro's
spellings or garbage that passes for one. A `float` is read as its four bytes: Python's are doubles, and a NaN that
signals comes out of one as another. Values of nested types become JSON text.
"""

from __future__ import annotations

import functools
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import fastavro
import numpy as np
import pyarrow as pa

from efd_pipelines.avro.attempts import Attempt, most_items
from efd_pipelines.avro.columns import Flattening
from efd_pipelines.avro.grammar import Grammar, Ungrammatical, grammar
from efd_pipelines.errors import SchemaError
from efd_pipelines.topics.layout import Layout
from efd_pipelines.topics.schemas import Field, TopicSchema

_ARROW: Mapping[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "json": pa.string(),
}
_NO_SCHEMA = (
    fastavro.schema.SchemaParseException,
    fastavro.schema.UnknownType,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)
_RAW_FLOAT: Any = {"type": "fixed", "name": "efd_pipelines.raw_float", "size": 4}
_INT = range(-(2**31), 2**31)
_ROWS = 4096
# Saying in the schema's words where a body goes wrong takes a millisecond a kilobyte.
_EXPLAINED = 200


@dataclass(frozen=True, slots=True, eq=False)
class _Compiled:
    grammar: Grammar
    schema: Any
    ints: tuple[str, ...]


class SingleMessages:
    """Decodes with fastavro."""

    def covers(self, schema: TopicSchema) -> bool:
        return True

    def attempt(self, bodies: Sequence[bytes], schema: TopicSchema, layout: Layout) -> Attempt:
        compiled = _compiled(schema.text, _names(schema, "int"), _names(schema, "float"))
        flattening = Flattening(layout)
        refused: dict[int, str] = {}
        good: list[int] = []
        tables = []
        most = _most(schema, layout)
        for indices, messages in _read(bodies, compiled, most, refused):
            tables.append(flattening.table(_fields(messages, schema), len(messages)))
            good += indices
        table = pa.concat_tables(tables) if tables else flattening.schema.empty_table()
        return Attempt(table, np.array(good, dtype=np.int64), refused, flattening.lengths)


@functools.lru_cache(maxsize=4096)
def _compiled(text: str, ints: tuple[str, ...], floats: tuple[str, ...]) -> _Compiled:
    reduced = grammar(text)
    try:
        return _Compiled(reduced, fastavro.parse_schema(_with_raw(reduced.document, floats)), ints)
    except _NO_SCHEMA as error:
        raise SchemaError(f"The schema cannot be compiled ({error!r})") from error


def _names(schema: TopicSchema, kind: str) -> tuple[str, ...]:
    return tuple(field.name for field in schema.fields if field.type == kind)


def _with_raw(document: Any, floats: Sequence[str]) -> Any:
    """The schema's document with the bytes of these fields' floats. A type is defined where it is first used."""
    fields, kind = [], _RAW_FLOAT
    for field in document["fields"]:
        if field["name"] in floats:
            field = {**field, "type": _replaced(field["type"], kind)}
            kind = _RAW_FLOAT["name"]
        fields.append(field)
    return {**document, "fields": fields}


def _replaced(declared: Any, kind: Any) -> Any:
    """A type with `kind` for `float`: the scalar, the branch of a union or the items of an array."""
    if declared == "float":
        return kind
    if isinstance(declared, list):
        return [_replaced(branch, kind) for branch in declared]
    return {**declared, "items": _replaced(declared["items"], kind)} if isinstance(declared, dict) else declared


def _read(
    bodies: Sequence[bytes], compiled: _Compiled, most: Mapping[str, int], refused: dict[int, str]
) -> Iterator[tuple[list[int], list[Mapping[str, Any]]]]:
    """Messages with their indices, some thousands at a time, so that Python objects of few are alive at once."""
    indices: list[int] = []
    messages: list[Mapping[str, Any]] = []
    for index, body in enumerate(bodies):
        try:
            message = _message(body, compiled, explain=len(refused) < _EXPLAINED)
            _check_lengths(message, most)
        except Ungrammatical as error:
            refused[index] = str(error)
            continue
        messages.append(message)
        indices.append(index)
        if len(messages) == _ROWS:
            yield indices, messages
            indices, messages = [], []
    if messages:
        yield indices, messages


def _message(body: bytes, compiled: _Compiled, *, explain: bool) -> Mapping[str, Any]:
    """The one message that the body is.

    Raises:
        Ungrammatical: it is none.
    """
    try:
        message = cast("Mapping[str, Any]", fastavro.schemaless_reader(io.BytesIO(body), compiled.schema, None))
        again = io.BytesIO()
        fastavro.schemaless_writer(again, compiled.schema, message)
        agrees = again.getvalue() == body
    except (ValueError, EOFError, IndexError, TypeError, OverflowError, KeyError) as error:
        if explain:
            compiled.grammar.check(body)
        raise Ungrammatical(f"fastavro cannot read it ({error!r})") from error
    if not agrees or not all(_fits_int(message[name]) for name in compiled.ints):
        compiled.grammar.check(body)
    return message


def _most(schema: TopicSchema, layout: Layout) -> dict[str, int]:
    """How many items each array may have."""
    widths = {field.name: 0 for field in schema.fields if field.array}
    for column in layout.columns:
        if column.field in widths and column.element is not None:
            widths[column.field] = max(widths[column.field], column.element + 1)
    return {name: most_items(layout, width) for name, width in widths.items()}


def _check_lengths(message: Mapping[str, Any], most: Mapping[str, int]) -> None:
    for name, items in most.items():
        if len(message[name] or ()) > items:
            raise Ungrammatical(f"{name}: {len(message[name])} items, where {items} columns are the most")


def _fits_int(value: Any) -> bool:
    """fastavro reads and writes an `int` of any size."""
    if isinstance(value, list):
        return all(each in _INT for each in value)
    return value is None or value in _INT


def _fields(messages: Sequence[Mapping[str, Any]], schema: TopicSchema) -> dict[str, pa.Array]:
    return {
        field.name: (_floats if field.type == "float" else field_array)(
            field, [message[field.name] for message in messages]
        )
        for field in schema.fields
    }


def _floats(field: Field, values: list[Any]) -> pa.Array:
    """A field's floats, of which there are bytes."""
    if not field.array:
        numbers = np.frombuffer(b"".join(value or bytes(4) for value in values), "<f4")
        return pa.array(numbers, mask=np.array([value is None for value in values], np.bool_))
    lengths = np.array([len(value or ()) for value in values], np.int32)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    items = np.frombuffer(b"".join(item for value in values for item in value or ()), "<f4")
    is_null = pa.array([value is None for value in values], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(items), mask=is_null if is_null.true_count else None)


def field_array(field: Field, values: list[Any]) -> pa.Array:
    """Python values of a field as an Arrow array."""
    kind = _ARROW[field.type]
    if field.type == "json":
        values = [None if value is None else json_text(value) for value in values]
    return pa.array(values, pa.list_(kind) if field.array else kind)


def json_text(value: Any) -> str:
    """A value of a nested type as JSON: bytes as Avro's JSON has them, what JSON has no number for by name."""
    return json.dumps(_jsonable(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, Mapping):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    return value
