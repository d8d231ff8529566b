"""Nested types: from the JSON text that the archive keeps of a nested value back to what fastavro writes.

Reading them: `messages.py`, whose `json_text` this undoes. Where a union has several branches, the first that takes the
value is taken: which it was, the text does not say, and the archive would make the same text of it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PLAIN = ("null", "boolean", "int", "long", "float", "double", "string", "bytes")
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": -float("inf")}


@dataclass(frozen=True, slots=True)
class NestedTypes:
    """The named types of a schema, and how values that the archive keeps as JSON text become theirs."""

    named: Mapping[str, Any]

    @classmethod
    def of(cls, fields: Any) -> NestedTypes:
        named: dict[str, Any] = {}

        def look(declared: Any) -> None:
            if isinstance(declared, list):
                for each in declared:
                    look(each)
            elif isinstance(declared, dict):
                if "name" in declared and declared.get("type") in ("record", "enum", "fixed"):
                    named[str(declared["name"]).rpartition(".")[2]] = declared
                for key in ("type", "items", "values", "fields"):
                    look(declared.get(key))

        look(fields)
        return cls(named)

    def nested(self, declared: Any, value: Any) -> Any:
        """A field's value; what is plain stays as it is."""
        if value is None or (isinstance(declared, str) and declared in _PLAIN):
            return value
        if isinstance(declared, list):
            branches = [branch for branch in declared if branch != "null"]
            return self.nested(branches[0], value) if len(branches) == 1 else self._of(declared, json.loads(value))
        kind = declared.get("type") if isinstance(declared, dict) else None
        if kind in ("enum", "fixed", *_PLAIN) or isinstance(value, list):
            return value
        return self._of(declared, json.loads(value))

    def _of(self, declared: Any, value: Any) -> Any:
        """A parsed JSON value as Avro's type has it: bytes are Latin-1 text there, what is no number has a name."""
        if value is None:
            return None
        if isinstance(declared, list):
            return self._of(next((one for one in declared if self._takes(one, value)), declared[-1]), value)
        declared = self._resolved(declared)
        kind = declared.get("type") if isinstance(declared, dict) else declared
        if kind == "record":
            return {one["name"]: self._of(one["type"], value.get(one["name"])) for one in declared["fields"]}
        if kind == "map":
            return {name: self._of(declared["values"], item) for name, item in value.items()}
        if kind == "array":
            return [self._of(declared["items"], item) for item in value]
        if kind in ("bytes", "fixed") and isinstance(value, str):
            return value.encode("latin-1")
        if kind in ("float", "double") and isinstance(value, str):
            return _NOT_FINITE[value]
        return value

    def _takes(self, declared: Any, value: Any) -> bool:
        """Whether a branch of a union takes a JSON value."""
        declared = self._resolved(declared)
        kind = declared.get("type") if isinstance(declared, dict) else declared
        if isinstance(value, bool):
            return kind == "boolean"
        if isinstance(value, int):
            return kind in ("long", "float", "double") or (kind == "int" and -(2**31) <= value < 2**31)
        if isinstance(value, float):
            return kind in ("float", "double")
        if isinstance(value, str):
            return kind in ("string", "enum", "bytes", "fixed")
        return kind in (("array",) if isinstance(value, list) else ("record", "map"))

    def _resolved(self, declared: Any) -> Any:
        if isinstance(declared, str) and declared not in _PLAIN:
            return self.named.get(declared.rpartition(".")[2], declared)
        return declared
