"""Arrays: between numpy's values and Arrow's.

`pa.array`, `pa.table`, `pa.scalar` and `to_numpy` ask pandas whether they were given something of its, and import it
for that: a quarter of a second and 30 MiB, at the start of each drain. What a drain does goes by these instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def array_of(values: NDArray[Any], is_null: NDArray[np.bool_] | None = None, kind: pa.DataType | None = None) -> Any:
    """Numbers or truth values as an array, null where `is_null`; without a copy where they lie together.

    Args:
        values: shape (n,).
        is_null: shape (n,).
        kind: a type with the same bits, such as a time for int64; numpy's by default.
    """
    marks = None if is_null is None or not is_null.any() else _bits(~is_null)
    data = _bits(values) if values.dtype == np.bool_ else pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind or pa.from_numpy_dtype(values.dtype), len(values), [marks, data])


def numbers_of(values: Any) -> NDArray[Any]:
    """Numbers or truth values, none of them null, as numpy has them; without a copy where they lie together.

    Args:
        values: an array, or one in chunks, of n.

    Returns:
        Shape (n,).
    """
    if isinstance(values, pa.ChunkedArray):
        if values.num_chunks != 1:
            parts = [numbers_of(chunk) for chunk in values.chunks]
            return np.concatenate([np.empty(0, values.type.to_pandas_dtype()), *parts])
        values = values.chunk(0)
    kind = np.dtype(values.type.to_pandas_dtype())
    if not len(values):
        return np.empty(0, kind)
    data, first = values.buffers()[1], values.offset
    if kind == np.bool_:
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits[first : first + len(values)].view(np.bool_)
    return np.frombuffer(data, kind, len(values), first * kind.itemsize)


def texts_of(values: Sequence[str]) -> pa.StringArray:
    """Texts as an array."""
    found: pa.StringArray = bytes_of([value.encode("utf-8") for value in values]).cast(pa.string())
    return found


def bytes_of(values: Sequence[bytes | None]) -> pa.LargeBinaryArray:
    """Pieces of bytes as an array."""
    ends = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value or b"") for value in values], out=ends[1:])
    is_there = np.fromiter((value is not None for value in values), np.bool_, len(values))
    marks = None if is_there.all() else _bits(is_there)
    whole = pa.py_buffer(b"".join(value or b"" for value in values))
    found: pa.LargeBinaryArray = pa.Array.from_buffers(
        pa.large_binary(), len(values), [marks, pa.py_buffer(ends), whole]
    )
    return found


def table_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table with a schema; what a row lacks is null."""
    import polars as pl

    types = pl.DataFrame(no_rows(schema)).schema
    return pl.DataFrame(rows, schema=types).to_arrow().cast(schema)


def filled(values: Any, with_: Any) -> Any:
    """An array with its nulls replaced, or as it is where there are none."""
    return values.fill_null(with_) if values.null_count else values


def no_rows(schema: pa.Schema) -> pa.Table:
    """A table with a schema and nothing in it."""
    return pa.Table.from_batches([], schema=schema)


def _bits(marks: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(marks, bitorder="little"))
