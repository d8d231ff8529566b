"""Whole batches: the fast decoder, pyruhvro, which makes Arrow arrays of many bodies at once.

What pyruhvro 0.4 leaves open is closed here, without trusting it. It ignores bytes after a message: every body is
followed by a seal of eight bytes that must come back as the value of a last field. It lets an `int` wrap around: an
`int` is read as a `long` and its range checked. It takes any bytes for text: strings are validated. One bad body
spoils the whole call: the batch is halved until the bad ones stand alone. It panics at types that it does not know:
it is only given scalars, nullable scalars and arrays of scalars, which is everything that SAL writes.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro
from numpy.typing import NDArray

from efd_pipelines.avro.attempts import Attempt
from efd_pipelines.avro.columns import Flattening
from efd_pipelines.avro.grammar import bare
from efd_pipelines.topics.layout import Layout
from efd_pipelines.topics.schemas import TopicSchema

# Small enough for the transposition to stay in the processor's cache, large enough for pyruhvro.
CHUNK_BYTES = 8 * 1024 * 1024
# Halving reads rows again; beyond this many times the batch, what is left goes to the thorough decoder.
_REREADING = 4

_SCALARS = frozenset({"boolean", "int", "long", "float", "double", "string"})
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1


def _seal() -> bytes:
    """Eight bytes that no body ends in: random, and all different, so that no shifted part of them is the same."""
    while True:
        seal = os.urandom(8)
        if len(set(seal)) == len(seal):
            return seal


_SEAL = _seal()
_SEAL_BITS = np.frombuffer(_SEAL, np.uint64)[0]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a schema is given to pyruhvro: fields by place; `ints` are read wider than they are, `texts` validated."""

    text: str
    names: tuple[str, ...]
    ints: frozenset[str]
    texts: frozenset[str]


class WholeBatches:
    """Decodes with pyruhvro."""

    def covers(self, schema: TopicSchema) -> bool:
        return _plan(schema.text) is not None

    def attempt(self, bodies: Sequence[bytes], schema: TopicSchema, layout: Layout) -> Attempt:
        plan = _plan(schema.text)
        assert plan is not None
        reading = _Reading(plan, bodies, Flattening(layout))
        for first, end in _chunks(bodies):
            reading.read(first, end)
        return reading.attempt()


class _Reading:
    """One batch of bodies on its way."""

    def __init__(self, plan: _Plan, bodies: Sequence[bytes], flattening: Flattening) -> None:
        self.plan = plan
        self.bodies = bodies
        self.flattening = flattening
        self.refused: dict[int, str] = {}
        self.tables: list[pa.Table] = []
        self.good: list[NDArray[np.int64]] = []
        self.budget = _REREADING * len(bodies)

    def attempt(self) -> Attempt:
        if not self.tables:
            table, good = self.flattening.schema.empty_table(), np.empty(0, np.int64)
        else:
            table, good = pa.concat_tables(self.tables), np.concatenate(self.good)
        return Attempt(table, good, self.refused, self.flattening.lengths)

    def read(self, first: int, end: int) -> None:
        """Make rows of the bodies from `first` to before `end`."""
        pieces = list(self._batches(first, end))
        if pieces:
            indices = np.concatenate([index for index, _ in pieces])
            batch = pieces[0][1] if len(pieces) == 1 else pa.concat_batches([batch for _, batch in pieces])
            self._flatten(indices, batch)

    def _batches(self, first: int, end: int) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
        """What pyruhvro reads, in order; what it does not, halved."""
        pending = [(first, end)]
        while pending:
            first, end = pending.pop()
            sealed = [body + _SEAL for body in self.bodies[first:end]]
            batch = _read(sealed, self.plan.text)
            if not isinstance(batch, str):
                yield np.arange(first, end, dtype=np.int64), batch
            elif end - first == 1:
                self.refused[first] = batch
            elif self.budget < end - first:
                self.refused.update(dict.fromkeys(range(first, end), batch))
            else:
                self.budget -= end - first
                middle = (first + end) // 2
                pending += [(middle, end), (first, middle)]

    def _flatten(self, indices: NDArray[np.int64], batch: pa.RecordBatch) -> None:
        seals = batch.column(batch.num_columns - 1).to_numpy().view(np.uint64)
        sound = seals == _SEAL_BITS
        self._refuse(indices, ~sound, "bytes are left over after the message")
        for place, name in enumerate(self.plan.names):
            if name in self.plan.ints:
                sound &= self._checked(indices, sound, _fits_int(batch.column(place)), f"{name}: does not fit an int")
            elif name in self.plan.texts:
                sound &= self._checked(indices, sound, _is_text(batch.column(place)), f"{name}: not UTF-8")
        if not sound.all():
            indices, batch = indices[sound], batch.filter(pa.array(sound))
        if len(indices):
            fields = dict(zip(self.plan.names, batch.columns, strict=False))
            for name in self.plan.ints:
                fields[name] = _as_int(fields[name])
            self.tables.append(self.flattening.table(fields, len(indices)))
            self.good.append(indices)

    def _checked(
        self, indices: NDArray[np.int64], sound: NDArray[np.bool_], passes: NDArray[np.bool_], reason: str
    ) -> NDArray[np.bool_]:
        self._refuse(indices, sound & ~passes, reason)
        return passes

    def _refuse(self, indices: NDArray[np.int64], which: NDArray[np.bool_], reason: str) -> None:
        self.refused.update(dict.fromkeys(indices[which].tolist(), reason))


@functools.lru_cache(maxsize=4096)
def _plan(text: str) -> _Plan | None:
    """How to give a schema to pyruhvro; None where it has something else than scalars and arrays of them."""
    document = bare(json.loads(text))
    fields: list[dict[str, Any]] = []
    of_kind: dict[str, set[str]] = {"int": set(), "string": set()}
    for place, field in enumerate(document.get("fields", [])):
        kind = _widened(field["type"])
        if kind is None:
            return None
        for scalar, names in of_kind.items():
            if f'"{scalar}"' in json.dumps(field["type"]):
                names.add(str(field["name"]))
        # Names of our own: the schema's may be what Avro's grammar does not allow.
        fields.append({"name": f"f{place}", "type": kind})
    if not fields:
        return None
    fields.append({"name": "seal", "type": "double"})
    return _Plan(
        text=json.dumps({"type": "record", "name": "message", "fields": fields}),
        names=tuple(str(field["name"]) for field in document["fields"]),
        ints=frozenset(of_kind["int"]),
        texts=frozenset(of_kind["string"]),
    )


def _widened(declared: Any) -> Any:
    """The type as pyruhvro shall read it, or None."""
    if isinstance(declared, str):
        return "long" if declared == "int" else declared if declared in _SCALARS else None
    if isinstance(declared, dict):
        if declared.get("type") != "array" or not isinstance(declared.get("items"), str):
            return None
        items = _widened(declared["items"])
        return None if items is None else {"type": "array", "items": items}
    if len(declared) != 2 or "null" not in declared:
        return None
    branches = ["null" if branch == "null" else _widened(branch) for branch in declared]
    return None if None in branches or branches[0] == branches[1] else branches


def _read(sealed: list[bytes], text: str) -> pa.RecordBatch | str:
    """What pyruhvro makes of the bodies, or why it does not."""
    try:
        return pyruhvro.deserialize_array(sealed, text)
    except ValueError as error:
        return str(error)
    except BaseException as error:
        # Rust's panics are no `Exception`, and their class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        return f"pyruhvro panicked: {error}"


def _fits_int(values: pa.Array) -> NDArray[np.bool_]:
    """Which rows have only values that fit 32 bits."""
    rows = len(values)
    items = values.values if pa.types.is_list(values.type) else values
    extremes = pc.min_max(items)
    low, high = extremes["min"].as_py(), extremes["max"].as_py()
    if low is None or (low >= _INT_MIN and high <= _INT_MAX):
        return np.ones(rows, np.bool_)
    outside: NDArray[np.bool_] = pc.fill_null(
        pc.or_(pc.less(items, _INT_MIN), pc.greater(items, _INT_MAX)), False
    ).to_numpy(zero_copy_only=False)
    return _rows_without(values, outside)


def _is_text(values: pa.Array) -> NDArray[np.bool_]:
    """Which rows have only strings that are UTF-8."""
    items = values.values if pa.types.is_list(values.type) else values
    try:
        items.validate(full=True)
    except pa.ArrowInvalid:
        wrong = np.array([not _is_utf8(item) for item in items.cast(pa.binary()).to_pylist()], dtype=np.bool_)
        return _rows_without(values, wrong)
    return np.ones(len(values), np.bool_)


def _is_utf8(item: bytes | None) -> bool:
    try:
        (item or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _rows_without(values: pa.Array, items: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows have none of these items: each row's one, or those of its list."""
    if not pa.types.is_list(values.type):
        return np.logical_not(items)
    owners = np.repeat(np.arange(len(values)), np.diff(values.offsets.to_numpy()))
    return np.equal(np.bincount(owners[items], minlength=len(values)), 0)


def _as_int(values: pa.Array) -> pa.Array:
    narrow = pa.list_(pa.int32()) if pa.types.is_list(values.type) else pa.int32()
    return pc.cast(values, narrow)


def _chunks(bodies: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """First and end of runs of bodies that are about `CHUNK_BYTES` together."""
    ends = np.cumsum(np.fromiter(map(len, bodies), np.int64, len(bodies)))
    first = 0
    while first < len(bodies):
        before = int(ends[first - 1]) if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + CHUNK_BYTES, side="right")))
        yield first, end
        first = end
