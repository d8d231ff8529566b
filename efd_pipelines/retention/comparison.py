"""Comparison: whether two tables of the same windows say the same, and in words what differs first.

Windows are told apart by `time` and `salIndex`. Counts, extremes and first samples must be the same to the bit, NaN and
null included; means, medians, quartiles and standard deviations to a few units in the last place, since another
release may add in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.times import from_microseconds

_ROUNDED = ("mean", "median", "stdev", "q1", "q3")
_TOLERANCE = {pa.float32(): 1e-5, pa.float64(): 1e-9}


def different(expected: pa.Table, found: pa.Table, *, keys_only: bool) -> str:
    """What is not the same, in words; nothing where all is.

    Args:
        keys_only: compare windows and counts alone.
    """
    expected, found = _in_order(expected), _in_order(found)
    what = _windows_differ(expected, found)
    if what or keys_only:
        return what
    there = set(found.column_names)
    for name in expected.column_names:
        values = found[name] if name in there else pa.nulls(found.num_rows, expected[name].type)
        row = _first_difference(name, expected, values)
        if row is not None:
            return f"{name} of the window at {_at(expected, row)}"
    return ""


def _in_order(table: pa.Table) -> pa.Table:
    keys = [name for name in ("salIndex", "time") if name in table.column_names]
    return table.sort_by([(name, "ascending") for name in keys]).combine_chunks()


def _windows_differ(expected: pa.Table, found: pa.Table) -> str:
    one, other = _windows(expected), _windows(found)
    missing, surplus = one.keys() - other.keys(), other.keys() - one.keys()
    if missing:
        return f"{len(missing):,} windows are not there, the first at {_named(min(missing))}"
    if surplus:
        return f"{len(surplus):,} windows have no records, the first at {_named(min(surplus))}"
    for key, count in one.items():
        if other[key] != count:
            return f"the window at {_named(key)} has {other[key]:,} records, not {count:,}"
    return "a window stands twice" if found.num_rows != len(other) else ""


def _windows(table: pa.Table) -> dict[tuple[int, Any], int]:
    times = table["time"].cast(pa.int64()).to_pylist()
    count = len(times)
    index = table["salIndex"].to_pylist() if "salIndex" in table.column_names else [None] * count
    return dict(zip(zip(times, index, strict=True), table["count"].to_pylist(), strict=True))


def _named(key: tuple[int, Any]) -> str:
    time_us, index = key
    return f"{from_microseconds(time_us):%Y-%m-%d %H:%M:%S}" + ("" if index is None else f" of salIndex {index}")


def _at(table: pa.Table, row: int) -> str:
    index = table["salIndex"][row].as_py() if "salIndex" in table.column_names else None
    return _named((table["time"].cast(pa.int64())[row].as_py(), index))


def _first_difference(name: str, table: pa.Table, found: Any) -> int | None:
    """The first row in which a column of a table and another differ; it is looked at in the type that was written."""
    expected = table[name]
    if not expected.type.equals(found.type):
        expected = expected.cast(found.type, safe=False)
    if expected.equals(found):
        return None
    if pa.types.is_list(found.type):
        return _first_of_lists(name, expected, found)
    wrong = _differing(name, _array(expected), _array(found))
    return int(np.argmax(wrong)) if wrong.any() else None


def _first_of_lists(name: str, expected: Any, found: Any) -> int | None:
    one, other = _array(expected), _array(found)
    lengths = [pc.fill_null(pc.list_value_length(of), -1).to_numpy(zero_copy_only=False) for of in (one, other)]
    wrong = lengths[0] != lengths[1]
    if wrong.any():
        return int(np.argmax(wrong))
    items = _differing(name, one.flatten(), other.flatten())
    if not items.any():
        return None
    ends = np.cumsum(np.maximum(lengths[0], 0))
    return int(np.searchsorted(ends, int(np.argmax(items)), side="right"))


def _array(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _differing(name: str, expected: Any, found: Any) -> NDArray[np.bool_]:
    """By value, whether they differ."""
    nulls = [of.is_null().to_numpy(zero_copy_only=False) for of in (expected, found)]
    wrong: NDArray[np.bool_] = nulls[0] != nulls[1]
    if pa.types.is_floating(found.type):
        one, other = (of.fill_null(0.0).to_numpy(zero_copy_only=False) for of in (expected, found))
        return np.asarray(wrong | ~_equal_floats(one, other, _tolerance(name, found.type)))
    unequal = pc.fill_null(pc.not_equal(expected, found), False).to_numpy(zero_copy_only=False)
    return np.asarray(wrong | unequal)


def _tolerance(name: str, kind: pa.DataType) -> float:
    return _TOLERANCE.get(kind, 0.0) if name.partition("_")[0] in _ROUNDED else 0.0


def _equal_floats(one: Any, other: Any, tolerance: float) -> NDArray[np.bool_]:
    """Whether floats are equal; NaN is NaN, and infinite as infinite."""
    same: NDArray[np.bool_] = (one == other) | (np.isnan(one) & np.isnan(other))
    if tolerance:
        with np.errstate(invalid="ignore", over="ignore"):
            one, other = one.astype(np.float64), other.astype(np.float64)
            same = same | (np.abs(one - other) <= tolerance * np.maximum(np.abs(one), np.abs(other)))
    return np.asarray(same)
