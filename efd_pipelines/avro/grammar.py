"""Grammar: what a schema says about bytes, and nothing else.

Schemas carry units, descriptions, defaults and logical types that decoding must not stumble over; here they
are reduced to types. `Grammar.check` walks a body strictly, byte by byte: libraries are lenient in ways that
make wrong values of garbage (pyruhvro 0.4 and fastavro 1.13: negative union and enumeration indices count from
the end, booleans other than 0 and 1, varints of any length). It is slow and asked only in doubt.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from efd_pipelines.errors import SchemaError

_MAX_VARINT_BYTES = 10
_FIXED_WIDTH = {"null": 0, "float": 4, "double": 8}
_PRIMITIVE = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_STRUCTURE = ("type", "name", "namespace", "fields", "items", "values", "symbols", "size")


class Ungrammatical(ValueError):
    """A body that its schema does not describe; the text says where and why."""


def bare(declared: Any) -> Any:
    """A schema document without anything that does not change how bytes are read."""
    if isinstance(declared, list):
        return [bare(branch) for branch in declared]
    if not isinstance(declared, dict):
        return declared
    kept = {key: declared[key] for key in _STRUCTURE if key in declared}
    if isinstance(kept.get("type"), str) and kept["type"] in _PRIMITIVE:
        return kept["type"]
    for key in ("type", "items", "values"):
        if isinstance(kept.get(key), dict | list):
            kept[key] = bare(kept[key])
    if "fields" in kept:
        kept["fields"] = [{"name": field["name"], "type": bare(field["type"])} for field in kept["fields"]]
    return kept


@dataclass(frozen=True, eq=False)
class Grammar:
    """The types of a schema, with its named types resolved."""

    document: Any
    named: dict[str, Any]

    def check(self, body: bytes) -> None:
        """See that the body is exactly one message.

        Raises:
            Ungrammatical: it is not.
        """
        walk = _Walk(self.named, body)
        try:
            walk.value(self.document, "")
        except IndexError:
            raise Ungrammatical(f"{walk.where or 'message'}: ends after {len(body)} bytes, too early") from None
        if walk.at != len(body):
            raise Ungrammatical(f"{len(body) - walk.at} bytes are left over after the message")


@functools.lru_cache(maxsize=4096)
def grammar(text: str) -> Grammar:
    """The grammar of a schema's text.

    Raises:
        SchemaError: it is no Avro schema, or cannot be decoded safely: an array of nothing may claim any number of
            items, and a type that contains itself may nest without end.
    """
    named: dict[str, Any] = {}
    try:
        document = bare(json.loads(text))
        _name(document, "", named)
        _refuse_unbounded(document, named, ())
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SchemaError(f"A schema is not Avro's ({error!r}); its messages are not decoded") from error
    return Grammar(document, named)


def _name(declared: Any, namespace: str, named: dict[str, Any]) -> None:
    """Note the named types under their full names."""
    if isinstance(declared, list):
        for branch in declared:
            _name(branch, namespace, named)
    elif isinstance(declared, dict):
        if "name" in declared:
            name = str(declared["name"])
            namespace = declared.get("namespace") or (name.rpartition(".")[0] if "." in name else namespace)
            short = name.rpartition(".")[2]
            named[f"{namespace}.{short}" if namespace else short] = declared
            named.setdefault(short, declared)
        for inner in [declared.get("type"), declared.get("items"), declared.get("values")]:
            _name(inner, namespace, named)
        for field in declared.get("fields", []):
            _name(field["type"], namespace, named)


def _refuse_unbounded(declared: Any, named: dict[str, Any], above: tuple[int, ...]) -> int:
    """The fewest bytes that a value takes."""
    if isinstance(declared, str):
        if declared in _PRIMITIVE:
            return _FIXED_WIDTH.get(declared, 1)
        if declared not in named:
            raise SchemaError(f"A schema refers to a type {declared!r} that it does not define")
        declared = named[declared]
    if isinstance(declared, list):
        return 1 + min((_refuse_unbounded(branch, named, above) for branch in declared), default=0)
    if not isinstance(declared, dict):
        raise SchemaError(f"A schema has {declared!r} where a type is due")
    if id(declared) in above:
        raise SchemaError(f"The type {declared.get('name')} contains itself; such messages are not decoded")
    above = (*above, id(declared))
    kind = declared.get("type")
    if kind == "record":
        names = [field["name"] for field in declared.get("fields", [])]
        if len(set(names)) < len(names):
            raise SchemaError(f"A schema has a record {declared.get('name')} with two fields of the same name")
        return sum(_refuse_unbounded(field["type"], named, above) for field in declared.get("fields", []))
    if kind == "array":
        if not _refuse_unbounded(declared.get("items"), named, above):
            raise SchemaError("A schema has an array of items without bytes; such messages are not decoded")
        return 1
    if kind == "map":
        _refuse_unbounded(declared.get("values"), named, above)
        return 1
    if kind == "enum":
        return 1
    if kind == "fixed":
        return int(declared["size"])
    return _refuse_unbounded(kind, named, above)


class _Walk:
    """One way through a body."""

    def __init__(self, named: dict[str, Any], body: bytes) -> None:
        self.named = named
        self.body = body
        self.at = 0
        self.where = ""

    def value(self, declared: Any, where: str) -> None:
        self.where = where
        if isinstance(declared, str):
            if declared in _PRIMITIVE:
                self._primitive(declared, where)
            else:
                self.value(self.named[declared], where)
        elif isinstance(declared, list):
            branch = self._varint(where)
            if not 0 <= branch < len(declared):
                raise Ungrammatical(f"{where}: branch {branch} of a union of {len(declared)}")
            self.value(declared[branch], where)
        else:
            self._complex(declared, where)

    def _complex(self, declared: Any, where: str) -> None:
        kind = declared["type"]
        if kind == "record":
            for field in declared["fields"]:
                self.value(field["type"], f"{where}.{field['name']}" if where else str(field["name"]))
        elif kind == "array":
            self._blocks(where, lambda: self.value(declared["items"], where))
        elif kind == "map":
            self._blocks(where, lambda: self._entry(declared["values"], where))
        elif kind == "enum":
            symbol = self._varint(where)
            if not 0 <= symbol < len(declared["symbols"]):
                raise Ungrammatical(f"{where}: symbol {symbol} of {len(declared['symbols'])}")
        elif kind == "fixed":
            self._skip(int(declared["size"]))
        else:
            self.value(kind, where)

    def _entry(self, values: Any, where: str) -> None:
        self._primitive("string", where)
        self.value(values, where)

    def _blocks(self, where: str, item: Any) -> None:
        while count := self._varint(where):
            if count < 0:
                size, began = self._varint(where), self.at
            for _ in range(abs(count)):
                item()
            if count < 0 and self.at - began != size:
                raise Ungrammatical(f"{where}: a block of {self.at - began} bytes that says {size}")

    def _primitive(self, kind: str, where: str) -> None:
        if kind in _FIXED_WIDTH:
            self._skip(_FIXED_WIDTH[kind])
        elif kind == "boolean":
            if self.body[self.at] > 1:
                raise Ungrammatical(f"{where}: the boolean {self.body[self.at]}")
            self.at += 1
        elif kind in {"int", "long"}:
            value, bits = self._varint(where), 32 if kind == "int" else 64
            if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
                raise Ungrammatical(f"{where}: {value} does not fit an {kind}")
        else:
            self._text(kind, where)

    def _text(self, kind: str, where: str) -> None:
        length = self._varint(where)
        if length < 0:
            raise Ungrammatical(f"{where}: a {kind} of {length} bytes")
        began = self.at
        self._skip(length)
        if kind == "string":
            try:
                self.body[began : self.at].decode()
            except UnicodeDecodeError as error:
                raise Ungrammatical(f"{where}: not UTF-8 ({error.reason})") from None

    def _skip(self, length: int) -> None:
        if length > len(self.body) - self.at:
            raise IndexError
        self.at += length

    def _varint(self, where: str) -> int:
        encoded = shift = 0
        while True:
            byte = self.body[self.at]
            self.at += 1
            encoded |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (encoded >> 1) ^ -(encoded & 1)
            shift += 7
            if shift >= 7 * _MAX_VARINT_BYTES:
                raise Ungrammatical(f"{where}: a number of more than {_MAX_VARINT_BYTES} bytes")
