"""Lines: rows of an Arrow table as line protocol, `measurement[,tag=value…] field=value[,field=value…] stamp`.

Of tiers and of raw rows alike; the caller chooses the columns, their names, the tags and the stamps. A float is written
so that the float64 that InfluxDB keeps is the column's value exactly (a float32 as the float64 that it is); integers
have their `i`, texts their quotes. Null, NaN and the infinities leave the line, and a line without any field is none.
Arrays in lists become fields `name0…nameN-1`, as in the EFD. Bytes have no type in InfluxDB: columns of them are left
out. Writing lines to a server: `influx.py`. The compiled part: `kernel.py`.
Source of the grammar: InfluxDB 1.8's documentation of the line protocol.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from efd_pipelines.errors import DataError, NameRejected

BATCH_BYTES = 4 * 1024 * 1024
BATCH_LINES = 10_000

_ESCAPED_IN_NAMES = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ "})
_ESCAPED_IN_MEASUREMENTS = str.maketrans({",": "\\,", " ": "\\ "})
_LIST_CELLS = 8_000_000


class Unserialisable(DataError):
    """A value that line protocol has no way to write."""

    remedy = "Leave the column or the row out."


@dataclass(frozen=True, slots=True, eq=False)
class LineBatch:
    """Whole lines, and what they were made of.

    Line `n` is `data[starts[n]:starts[n + 1]]`, its line feed included, and was made of row `rows[n]` of the table
    (from 0). `marks[n]` tells sets of fields apart: lines with the same fields have the same mark. `fields` is how many
    values all lines have together.
    """

    data: memoryview
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    marks: NDArray[np.int64]
    fields: int

    def __len__(self) -> int:
        return len(self.rows)

    def line(self, n: int) -> bytes:
        return bytes(self.data[self.starts[n] : self.starts[n + 1]])

    def part(self, first: int, end: int) -> LineBatch:
        """Some lines that lie together; `fields` is in proportion."""
        begin, stop = int(self.starts[first]), int(self.starts[end])
        return LineBatch(
            self.data[begin:stop],
            self.starts[first : end + 1] - begin,
            self.rows[first:end],
            self.marks[first:end],
            self.fields * (end - first) // max(1, len(self)),
        )

    def chosen(self, wanted: NDArray[np.bool_]) -> LineBatch:
        """The lines that are wanted."""
        if wanted.all():
            return self
        places = np.flatnonzero(wanted)
        lines = [self.data[self.starts[n] : self.starts[n + 1]] for n in places]
        starts = np.zeros(len(places) + 1, np.int64)
        np.cumsum([len(line) for line in lines], out=starts[1:])
        fields = self.fields * len(places) // max(1, len(self))
        return LineBatch(memoryview(b"".join(lines)), starts, self.rows[places], self.marks[places], fields)

    def hashes(self) -> NDArray[np.int64]:
        """A number for each line, the same for the same line."""
        data = self.data
        ends = itertools.pairwise(self.starts.tolist())
        found = np.fromiter((xxhash.xxh3_64_intdigest(data[s:e]) for s, e in ends), np.uint64, len(self))
        return found.view(np.int64)


def serialise(
    rows: pa.Table,
    measurement: str,
    *,
    stamps: NDArray[np.int64] | None = None,
    tags: Sequence[str] = ("salIndex",),
    names: Mapping[str, str] | None = None,
    batch_bytes: int = BATCH_BYTES,
    batch_lines: int = BATCH_LINES,
) -> Iterator[LineBatch]:
    """The rows as lines, in their order, some megabytes at a time.

    Args:
        rows: every column but `time` and the tags is a field; columns of bytes and of nothing but null are left out.
        stamps: the time of each row, in the unit that the writer says; the column `time` in nanoseconds by default.
        tags: columns that are tags, as far as there are such columns; a null tag leaves the line.
        names: what fields are called, by column; as the columns by default.
        batch_bytes, batch_lines: the most that a batch has, save for a single line that is longer.

    Raises:
        NameRejected: a name that line protocol cannot carry.
        Unserialisable: a tag's value, or a type, that it cannot carry.
    """
    from efd_pipelines.publishing import kernel

    if not rows.num_rows:
        return
    if stamps is None:
        stamps = rows["time"].cast(pa.int64()).to_numpy() * 1000
    stamps = np.ascontiguousarray(stamps, np.int64)
    tagged = [name for name in tags if name in rows.schema.names]
    fields = _Fields.of(rows.drop_columns([name for name in ("time", *tagged) if name in rows.schema.names]), names)
    if not fields.count:
        return
    prefixes, prefix_of = _prefixes(rows.select(tagged), measurement)
    heads = [np.frombuffer(prefix + bytes(kernel.SPARE_BYTES), np.uint8) for prefix in prefixes]
    bounds = [len(prefix) + fields.most_bytes + kernel.STAMP_BYTES + kernel.SPARE_BYTES for prefix in prefixes]
    table = np.array(
        [(head.ctypes.data, len(prefix), bound) for head, prefix, bound in zip(heads, prefixes, bounds, strict=True)],
        np.int64,
    )
    gathered = np.empty(kernel.TILE_ROWS * fields.count, np.int64)
    room = max(batch_bytes, *bounds)
    first = 0
    while first < rows.num_rows:
        end = min(rows.num_rows, first + batch_lines)
        out = np.empty(room + kernel.SPARE_BYTES, np.uint8)
        starts = np.empty(end - first + 1, np.int64)
        of_rows, marks = np.empty(end - first, np.int64), np.empty(end - first, np.int64)
        first, lines, values, size = kernel.put_lines(
            fields.plan.ctypes.data,
            fields.count,
            first,
            end,
            table.ctypes.data,
            prefix_of.ctypes.data,
            stamps.ctypes.data,
            kernel.POWERS.ctypes.data,
            kernel.PAIRS.ctypes.data,
            gathered.ctypes.data,
            out.ctypes.data,
            room,
            starts.ctypes.data,
            of_rows.ctypes.data,
            marks.ctypes.data,
        )
        if lines:
            yield LineBatch(out.data[:size], starts[: lines + 1], of_rows[:lines], marks[:lines], values)


@dataclass(frozen=True, slots=True, eq=False)
class _Fields:
    """The kernel's plan, and what it points to; `most_bytes` is what the fields of a row take at most."""

    plan: NDArray[np.int64]
    most_bytes: int
    kept: object

    @property
    def count(self) -> int:
        return len(self.plan)

    @classmethod
    def of(cls, rows: pa.Table, names: Mapping[str, str] | None) -> _Fields:
        from efd_pipelines.publishing import kernel

        plan: list[list[int]] = []
        columns: list[Any] = []
        written_names = bytearray()
        most = 0
        for name, array in _flat(rows, names):
            column = _plain(name, array)
            if column is None:
                continue
            written = f",{_name(name)}=".encode()
            kind, values, starts, value_bytes = _buffers(column)
            validity = column.buffers()[0] if column.null_count else None
            one = [0] * kernel.PLAN_COLUMNS
            one[kernel.KIND] = kind
            one[kernel.VALUES] = 0 if values is None else values.address
            one[kernel.VALIDITY] = 0 if validity is None else validity.address
            one[kernel.OFFSET] = column.offset
            one[kernel.STARTS] = 0 if starts is None else starts.address
            one[kernel.NAME], one[kernel.NAME_BYTES] = len(written_names), len(written)
            one[kernel.MARK] = int(np.array(xxhash.xxh3_64_intdigest(written), np.uint64).view(np.int64))
            plan.append(one)
            columns.append(column)
            written_names += written
            most += len(written) + value_bytes
        texts = np.frombuffer(written_names + bytes(kernel.SPARE_BYTES), np.uint8)
        table = np.array(plan, np.int64).reshape(len(plan), kernel.PLAN_COLUMNS)
        table[:, kernel.NAME] += texts.ctypes.data
        return cls(table, most, (columns, texts))


def _flat(rows: pa.Table, names: Mapping[str, str] | None) -> Iterator[tuple[str, pa.Array]]:
    """Each field with its values; of a column of lists each element."""
    for column, chunked in zip(rows.column_names, rows.columns, strict=True):
        name = column if names is None else names.get(column, column)
        array = chunked.combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)
        if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            yield from _elements(name, array)
        elif pa.types.is_fixed_size_list(array.type):
            yield from _elements(name, array.cast(pa.list_(array.type.value_type)))
        else:
            yield name, array


def _elements(name: str, lists: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """The elements of lists, a field for each place; a list that is shorter has null there."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    longest = int(lengths.max(initial=0))
    # The lists' values without what null lists may hide.
    values = pc.list_flatten(lists)
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    for place in range(longest):
        has = lengths > place
        yield f"{name}{place}", values.take(pa.array(np.where(has, begins + place, 0), mask=~has))


def _plain(name: str, array: pa.Array) -> pa.Array | None:
    """The values in a type that the kernel knows; None for what is left out."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _plain(name, array.dictionary_decode())
    if pa.types.is_null(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return None
    if array.null_count == len(array):
        return None
    if kind in (pa.float32(), pa.float64(), pa.int32(), pa.int64(), pa.bool_()):
        return array
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _escaped(array.cast(pa.string()))
    if pa.types.is_floating(kind):
        return array.cast(pa.float32())
    if pa.types.is_integer(kind):
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise Unserialisable(f"{name} has integers beyond 64 bits with a sign") from error
    raise Unserialisable(f"{name} is {kind}, which line protocol does not have")


def _escaped(texts: pa.Array) -> pa.Array:
    for sign in ("\\", '"'):
        if pc.any(pc.match_substring(texts, sign)).as_py():
            texts = pc.replace_substring(texts, sign, f"\\{sign}")
    return texts


def _buffers(column: pa.Array) -> tuple[int, Any, Any, int]:
    """Kind, values, beginnings of texts, and the most bytes of a value."""
    from efd_pipelines.publishing import kernel

    kinds = {
        pa.float32(): kernel.FLOAT4,
        pa.float64(): kernel.FLOAT8,
        pa.int32(): kernel.INTEGER4,
        pa.int64(): kernel.INTEGER8,
        pa.bool_(): kernel.BOOLEAN,
        pa.string(): kernel.TEXT,
    }
    kind = kinds[column.type]
    buffers = column.buffers()
    if kind != kernel.TEXT:
        return kind, buffers[1], None, kernel.VALUE_BYTES[kind]
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    return kind, buffers[2], buffers[1], kernel.VALUE_BYTES[kind] + longest


def _prefixes(tags: pa.Table, measurement: str) -> tuple[list[bytes], NDArray[np.int64]]:
    """What lines begin with: each `measurement,tag=value`, and which one each row has."""
    if not measurement or "\n" in measurement or "\\" in measurement or measurement.startswith("#"):
        raise NameRejected(f"{measurement!r} is no name of a measurement")
    head = measurement.translate(_ESCAPED_IN_MEASUREMENTS)
    if not tags.num_columns:
        return [head.encode()], np.zeros(tags.num_rows, np.int64)
    names = sorted(tags.column_names)
    places, texts = zip(*(_tag(name, tags[name]) for name in names), strict=True)
    combined = reduce(lambda so_far, one: so_far * len(one[1]) + one[0], zip(places, texts, strict=True), _none(tags))
    _, first, prefix_of = np.unique(combined, return_index=True, return_inverse=True)
    found = [head + "".join(text[int(place[n])] for place, text in zip(places, texts, strict=True)) for n in first]
    return [prefix.encode() for prefix in found], np.ascontiguousarray(prefix_of, np.int64)


def _none(rows: pa.Table) -> NDArray[np.int64]:
    return np.zeros(rows.num_rows, np.int64)


def _tag(name: str, column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """The texts `,name=value`, "" first for null; and which one each row has."""
    encoded = column.combine_chunks()
    encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
    places = pc.add(pc.fill_null(encoded.indices.cast(pa.int64()), -1), 1).to_numpy(zero_copy_only=False)
    return places, ["", *(_tag_text(name, value) for value in encoded.dictionary.to_pylist())]


def _tag_text(name: str, value: object) -> str:
    text = str(value)
    if value is None or text == "":
        return ""
    if "\n" in text or "\\" in text:
        raise Unserialisable(f"The tag {name} cannot be {text!r}")
    return f",{_name(name)}={text.translate(_ESCAPED_IN_NAMES)}"


def _name(name: str) -> str:
    """A field's or tag's name as lines have it."""
    if not name or "\n" in name or "\\" in name:
        raise NameRejected(f"{name!r} is no name of a field")
    return name.translate(_ESCAPED_IN_NAMES)
