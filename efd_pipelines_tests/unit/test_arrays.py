"""Between numpy's values and Arrow's, against what pyarrow makes of them itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.arrays import array_of, bytes_of, filled, no_rows, numbers_of, table_of, texts_of

VALUES = [
    np.array([1, -(2**63), 2**63 - 1]),
    np.array([0.5, np.nan, -0.0, np.inf], np.float32),
    np.array([True, False, True] * 5),
    np.arange(20, dtype=np.int16)[::3],
    np.empty(0, np.int64),
]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: f"{values.dtype}-{len(values)}")
def test_numbers_are_those_that_pyarrow_would_make(values: np.ndarray) -> None:
    is_null = np.arange(len(values)) % 2 == 1
    for mask in (None, is_null, np.zeros(len(values), np.bool_)):
        found = array_of(values, mask)
        found.validate(full=True)
        theirs = pa.array(values, mask=mask)
        assert found.type == theirs.type
        assert found.null_count == theirs.null_count
        assert list(map(repr, found.to_pylist())) == list(map(repr, theirs.to_pylist()))


@pytest.mark.parametrize("values", VALUES, ids=lambda values: f"{values.dtype}-{len(values)}")
def test_arrays_come_back_as_they_were(values: np.ndarray) -> None:
    theirs = pa.array(values)
    assert numbers_of(theirs).tobytes() == values.tobytes()
    assert numbers_of(theirs[1:]).tobytes() == values[1:].tobytes()
    in_chunks = pa.chunked_array([theirs[2:], theirs[:2]])
    assert numbers_of(in_chunks).tobytes() == np.concatenate([values[2:], values[:2]]).tobytes()
    assert numbers_of(pa.chunked_array([], theirs.type)).dtype == values.dtype


def test_times_have_the_bits_of_their_numbers() -> None:
    kind = pa.timestamp("us", tz="UTC")
    found = array_of(np.array([0, 10**15]), np.array([True, False]), kind)
    assert found.equals(pa.array([None, datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)], kind))


def test_texts_and_rows_are_those_that_pyarrow_would_make() -> None:
    texts = ["", "α", "kafka:x"]
    assert texts_of(texts).equals(pa.array(texts))
    assert texts_of([]).equals(pa.array([], pa.string()))
    assert bytes_of([b"a", None, b""]).equals(pa.array([b"a", None, b""], pa.large_binary()))
    schema = pa.schema([("name", pa.string()), ("n", pa.int64()), ("at", pa.timestamp("us", tz="UTC"))])
    rows: list[dict[str, Any]] = [
        {"name": "a", "n": 2**62, "at": datetime(2026, 11, 17, 3, 0, 0, 7, tzinfo=UTC)},
        {"n": None, "name": "b"},
    ]
    assert table_of(rows, schema).equals(pa.Table.from_pylist(rows, schema=schema))
    assert no_rows(schema).equals(schema.empty_table())


def test_only_nulls_are_filled() -> None:
    assert filled(pa.array([1, None]), 7).to_pylist() == [1, 7]
    whole = pa.array([1, 2])
    assert filled(whole, 7) is whole
