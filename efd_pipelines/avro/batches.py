"""Whole batches: the fast decoder, pyruhvro, which makes Arrow arrays of many bodies at once.

What pyruhvro 0.4 leaves open is closed here, without trusting it. It ignores bytes after a message, wraps numbers that
are too large, and does not look at the sizes that blocks of an array claim: of every row, the bytes that its values
take when written are counted, and unless they are as many as the body has, the row is not taken. (What stays open is
the excess of a number's tenth byte, which fastavro drops as well.) It lets an `int` wrap around: an `int` is read as
a `long` and its range checked. It takes any bytes for text: strings are validated. One bad body spoils the whole
call: the batch is halved until the bad ones stand alone. It panics at types that it does not know: it is only given
scalars, nullable scalars and arrays of them, which is everything that SAL writes.
"""

from __future__ import annotations

import functools
import json
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

_SCALARS = frozenset({"boolean", "int", "long", "float", "double", "string"})
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a schema is given to pyruhvro: fields by place; `ints` are read wider than they are, `texts` validated."""

    text: str
    names: tuple[str, ...]
    nullable: tuple[bool, ...]
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
        for first, end in _chunks(reading.sizes):
            reading.read(first, end)
        return reading.attempt()


class _Reading:
    """One batch of bodies on its way."""

    def __init__(self, plan: _Plan, bodies: Sequence[bytes], flattening: Flattening) -> None:
        self.plan = plan
        self.bodies = bodies
        self.sizes = np.fromiter(map(len, bodies), np.int64, len(bodies))
        self.flattening = flattening
        self.refused: dict[int, str] = {}
        self.tables: list[pa.Table] = []
        self.good: list[NDArray[np.int64]] = []

    def attempt(self) -> Attempt:
        if not self.tables:
            table, good = self.flattening.schema.empty_table(), np.empty(0, np.int64)
        else:
            table, good = pa.concat_tables(self.tables), np.concatenate(self.good)
        return Attempt(table, good, self.refused, self.flattening.lengths)

    def read(self, first: int, end: int) -> None:
        """Make rows of the bodies from `first` to before `end`."""
        indices = np.arange(first, end, dtype=np.int64)
        batch = _read(self.bodies[first:end], self.plan.text)
        if isinstance(batch, str):
            self._refuse_unreadable(first, end, batch)
            indices = np.array([index for index in range(first, end) if index not in self.refused], np.int64)
            batch = _read([self.bodies[index] for index in indices.tolist()], self.plan.text)
        if isinstance(batch, str):
            self.refused.update(dict.fromkeys(indices.tolist(), batch))
        elif len(indices):
            self._flatten(indices, batch)

    def _refuse_unreadable(self, first: int, end: int, reason: str) -> None:
        """Find those that pyruhvro does not read, by halves: it stops at the first, so many of them cost little."""
        pending = [(first, end, reason)]
        while pending:
            first, end, reason = pending.pop()
            if end - first == 1:
                self.refused[first] = reason
                continue
            middle = (first + end) // 2
            for half in ((first, middle), (middle, end)):
                batch = _read(self.bodies[slice(*half)], self.plan.text)
                if isinstance(batch, str):
                    pending.append((*half, batch))

    def _flatten(self, indices: NDArray[np.int64], batch: pa.RecordBatch) -> None:
        written = np.zeros(len(indices), np.int64)
        for values, nullable in zip(batch.columns, self.plan.nullable, strict=True):
            written += _written_bytes(values) + nullable
        sound = np.equal(written, self.sizes[indices])
        self._refuse(indices, ~sound, "the message takes other bytes than there are")
        for place, name in enumerate(self.plan.names):
            if name in self.plan.ints:
                sound &= self._checked(indices, sound, _fits_int(batch.column(place)), f"{name}: does not fit an int")
            elif name in self.plan.texts:
                sound &= self._checked(indices, sound, _is_text(batch.column(place)), f"{name}: not UTF-8")
        if not sound.all():
            indices, batch = indices[sound], batch.filter(pa.array(sound))
        if len(indices):
            fields = dict(zip(self.plan.names, batch.columns, strict=True))
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
    return _Plan(
        text=json.dumps({"type": "record", "name": "message", "fields": fields}),
        names=tuple(str(field["name"]) for field in document["fields"]),
        nullable=tuple(isinstance(field["type"], list) for field in fields),
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


def _read(bodies: Sequence[bytes], text: str) -> pa.RecordBatch | str:
    """What pyruhvro makes of the bodies, or why it does not."""
    try:
        return pyruhvro.deserialize_array(list(bodies), text)
    except ValueError as error:
        return str(error)
    except BaseException as error:
        # Rust's panics are no `Exception`, and their class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        return f"pyruhvro panicked: {error}"


def _written_bytes(values: pa.Array) -> NDArray[np.int64]:
    """How many bytes each row's value takes when it is written; 0 for null."""
    kind = values.type
    sizes: NDArray[np.int64]
    if width := _width(kind):
        sizes = np.full(len(values), width, np.int64)
    elif pa.types.is_list(kind):
        sizes = _written_bytes_of_lists(values)
    elif pa.types.is_string(kind):
        lengths = pc.fill_null(pc.binary_length(values), 0).to_numpy().astype(np.int64)
        sizes = lengths + _varint_bytes(lengths)
    else:
        sizes = _varint_bytes(pc.fill_null(values, 0).to_numpy())
    if values.null_count:
        sizes[values.is_null().to_numpy(zero_copy_only=False)] = 0
    return sizes


def _written_bytes_of_lists(values: pa.ListArray) -> NDArray[np.int64]:
    """One block of count and items, then a block of none."""
    offsets = values.offsets.to_numpy()
    counts = np.diff(offsets).astype(np.int64)
    if width := _width(values.type.value_type):
        items = counts * width
    else:
        ends = np.concatenate([[0], np.cumsum(_written_bytes(values.values))])
        items = ends[offsets[1:]] - ends[offsets[:-1]]
    sizes: NDArray[np.int64] = items + np.where(counts > 0, _varint_bytes(counts), 0) + 1
    return sizes


def _width(kind: pa.DataType) -> int:
    """Bytes of a type that always takes as many; 0 of others."""
    return 1 if pa.types.is_boolean(kind) else kind.bit_width // 8 if pa.types.is_floating(kind) else 0


def _varint_bytes(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many bytes Avro writes for each number."""
    unsigned: NDArray[np.uint64] = ((values << 1) ^ (values >> 63)).view(np.uint64)
    sizes = np.ones(len(values), np.int64)
    largest = int(unsigned.max(initial=0))
    for bits in range(7, largest.bit_length(), 7):
        sizes += unsigned >= np.uint64(1 << bits)
    return sizes


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


def _chunks(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First and end of runs of bodies that are about `CHUNK_BYTES` together."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + CHUNK_BYTES, side="right")))
        yield first, end
        first = end
