"""Lines of line protocol, read back by parsers that share nothing with what wrote them."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.errors import NameRejected
from efd_pipelines.history.protocol import parse_record
from efd_pipelines.publishing import kernel
from efd_pipelines.publishing.lines import LineBatch, Unserialisable, serialise
from efd_pipelines.topics.layout import TIME

NOON_US = 1_700_481_600_000_000


def table(columns: dict[str, Any], count: int) -> pa.Table:
    """Rows a second apart."""
    times = pa.array(NOON_US + 1_000_000 * np.arange(count)).cast(TIME)
    return pa.table({"time": times, **columns})


def text(rows: pa.Table, measurement: str = "m", **options: Any) -> str:
    return b"".join(bytes(batch.data) for batch in serialise(rows, measurement, **options)).decode()


def fields_of(line: str) -> dict[str, Any]:
    """What a line says, by the reader of history."""
    return {str(value[2]): next(v for v in value[4:] if v is not None) for value in parse_record(line)}


def written(values: list[float]) -> list[str]:
    """The texts of floats."""
    numbers = np.array(values)
    out, ends = np.empty(25 * len(numbers) + 99, np.uint8), np.empty(len(numbers), np.int64)
    addresses = (kernel.POWERS.ctypes.data, kernel.PAIRS.ctypes.data, out.ctypes.data, ends.ctypes.data)
    kernel.put_floats(numbers.ctypes.data, len(numbers), *addresses)
    starts = [0, *ends.tolist()]
    return [out[s:e].tobytes().decode() for s, e in itertools.pairwise(starts)]


def digits(text: str) -> str:
    """The significant digits of a number's text."""
    mantissa = re.split("[eE]", text.lstrip("-"))[0]
    return mantissa.replace(".", "").strip("0")


def test_floats_are_the_shortest_decimals_that_read_back_equal() -> None:
    random = np.random.default_rng(7)
    bits = random.integers(0, 2**64, 50_000, dtype=np.uint64)
    numbers = np.concatenate(
        [
            bits.view(np.float64),
            np.ldexp(1.0, np.arange(-1074, 1024)),
            random.integers(1, 2**52, 20_000, dtype=np.uint64).view(np.float64),
            random.normal(size=20_000).astype(np.float32).astype(np.float64),
            np.round(random.normal(size=20_000) * 1000, 2),
            random.integers(-(10**18), 10**18, 20_000).astype(np.float64),
        ]
    )
    numbers = numbers[np.isfinite(numbers)]
    texts = written(numbers.tolist())
    assert np.array_equal(np.array([float(one) for one in texts]).view(np.int64), numbers.view(np.int64))
    assert [digits(one) for one in texts] == [digits(repr(number)) for number in numbers.tolist()]
    assert max(map(len, texts)) <= kernel.VALUE_BYTES[kernel.FLOAT8]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (-0.0, "-0"),
        (1.0, "1"),
        (0.1, "0.1"),
        (1e-5, "0.00001"),
        (1.5e-7, "1.5e-7"),
        (5e-324, "5e-324"),
        (1e16, "1e16"),
        (9007199254740993.0, "9007199254740992"),
        (1.7976931348623157e308, "1.7976931348623157e308"),
    ],
)
def test_floats_read_as_people_write_them(number: float, expected: str) -> None:
    assert written([number]) == [expected]


def test_a_float32_is_written_as_the_float64_that_it_is() -> None:
    line = text(table({"x": pa.array([0.1], pa.float32())}, 1))
    assert fields_of(line.rstrip("\n"))["x"] == float(np.float32(0.1)) != 0.1


def test_what_influxdb_does_not_have_leaves_the_line() -> None:
    rows = table(
        {
            "a": pa.array([math.nan, math.inf, None, 1.0], pa.float32()),
            "b": pa.array([None, -math.inf, math.nan, None]),
            "n": pa.array([None, None, None, 7], pa.int32()),
            "bytes": pa.array([b"x"] * 4),
            "nothing": pa.nulls(4),
        },
        4,
    )
    assert text(rows) == f"m a=1,n=7i {(NOON_US + 3_000_000) * 1000}\n"


def test_kinds_names_and_texts_are_escaped_and_read_back() -> None:
    strange = 'a "quoted\\" text,\nwith = two lines\\'
    rows = table(
        {
            "salIndex": pa.array([3], pa.int32()),
            "a field, odd=so": pa.array([strange]),
            "empty": pa.array([""]),
            "most": pa.array([2**63 - 1]),
            "least": pa.array([-(2**63)]),
            "small": pa.array([-5], pa.int16()),
            "yes": pa.array([True]),
            "no": pa.array([False]),
        },
        1,
    )
    line = text(rows, "a topic, odd").rstrip("\n")
    assert line.startswith("a\\ topic\\,\\ odd,salIndex=3 ")
    assert fields_of(line) == {
        "a field, odd=so": strange,
        "empty": "",
        "most": 2**63 - 1,
        "least": -(2**63),
        "small": -5,
        "yes": True,
        "no": False,
    }


def test_sal_index_is_a_tag_only_where_it_is_asked_for() -> None:
    rows = table({"salIndex": pa.array([1, None], pa.int32()), "x": pa.array([1.0, 2.0])}, 2)
    assert [line.split(" ")[0] for line in text(rows).splitlines()] == ["m,salIndex=1", "m"]
    assert [line.split(" ")[1] for line in text(rows, tags=()).splitlines()] == ["salIndex=1i,x=1", "x=2"]


def test_several_tags_of_texts_are_sorted_and_escaped() -> None:
    rows = table({"b": ["1", "1", ""], "a": ["x y", "z=", None], "v": [1, 2, 3]}, 3)
    found = [line.rpartition(" v=")[0] for line in text(rows, tags=("b", "a")).splitlines()]
    assert found == ["m,a=x\\ y,b=1", "m,a=z\\=,b=1", "m"]


@pytest.mark.parametrize("name", ["", "a\\", "a\nb"])
def test_names_that_lines_cannot_carry_are_refused(name: str) -> None:
    with pytest.raises(NameRejected):
        text(table({name: [1.0]}, 1))
    with pytest.raises(NameRejected):
        text(table({"x": [1.0]}, 1), name)


def test_tags_and_numbers_that_lines_cannot_carry_are_refused() -> None:
    with pytest.raises(Unserialisable, match="tag t"):
        text(table({"t": ["a\\"], "x": [1.0]}, 1), tags=("t",))
    with pytest.raises(Unserialisable, match="64 bits"):
        text(table({"x": pa.array([2**64 - 1], pa.uint64())}, 1))


def test_lists_become_numbered_fields() -> None:
    lists = pa.array([[1.0, 2.0], None, [], [3.0, None, 4.0]], pa.list_(pa.float32()))
    rows = table({"x": lists, "y": pa.array([1, 2, 3, 4])}, 4)
    found = [line.split(" ")[1] for line in text(rows).splitlines()]
    assert found == ["x0=1,x1=2,y=1i", "y=2i", "y=3i", "x0=3,x2=4,y=4i"]


def test_parts_of_tables_and_renamed_fields() -> None:
    whole = table({"x": pa.array([1.0, None, 3.0, 4.0]), "s": ["a", "b", "c", "d"], "b": [True, False, None, True]}, 4)
    part = pa.concat_tables([whole.slice(1, 2), whole.slice(3, 1)])
    found = [line.split(" ")[1] for line in text(part, names={"x": "force"}).splitlines()]
    assert found == ['s="b",b=f', 'force=3,s="c"', 'force=4,s="d",b=t']


def test_batches_keep_to_their_bounds_and_know_their_rows() -> None:
    values = np.arange(1000) / 7
    values[::3] = np.nan
    rows = table({"x": pa.array(values), "y": pa.array(values)}, 1000)
    batches = list(serialise(rows, "m", batch_bytes=2000, batch_lines=20))
    assert all(len(batch.data) <= 2000 and len(batch) <= 20 for batch in batches)
    assert np.concatenate([batch.rows for batch in batches]).tolist() == np.flatnonzero(~np.isnan(values)).tolist()
    assert sum(batch.fields for batch in batches) == 2 * int((~np.isnan(values)).sum())
    batch = batches[3]
    assert b"".join(batch.line(n) for n in range(len(batch))) == bytes(batch.data)
    some = batch.chosen(batch.rows % 2 == 0)
    assert bytes(some.data).splitlines(keepends=True) == [
        batch.line(n) for n in range(len(batch)) if batch.rows[n] % 2 == 0
    ]
    assert bytes(batch.part(2, 4).data) == batch.line(2) + batch.line(3)


def test_a_line_longer_than_a_batch_is_a_batch() -> None:
    rows = table({"s": ["x" * 5000, "y"]}, 2)
    assert [len(batch) for batch in serialise(rows, "m", batch_bytes=100)] == [1, 1]


def test_marks_tell_sets_of_fields_and_hashes_tell_lines() -> None:
    rows = table({"x": [1.0, 2.0, None, None], "y": [1.0, 2.0, 3.0, 3.0]}, 4)
    (batch,) = serialise(rows, "m", stamps=np.zeros(4, np.int64))
    assert batch.marks[0] == batch.marks[1] != batch.marks[2] == batch.marks[3]
    assert batch.hashes()[2] == batch.hashes()[3]
    assert len(set(batch.hashes().tolist())) == 3


def test_no_rows_and_no_fields_give_no_lines() -> None:
    assert text(table({"x": pa.array([], pa.float32())}, 0)) == ""
    assert text(table({}, 3)) == ""


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(width=32),
            st.none() | st.floats(),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.booleans(),
            st.none() | st.text(st.characters(blacklist_categories=["Cs"])),
            st.integers(-(2**62), 2**62),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_every_value_reads_back_equal(rows: list[tuple[Any, ...]]) -> None:
    single, double, integer, boolean, string, stamps = map(list, zip(*rows, strict=True))
    columns = {
        "single": pa.array(single, pa.float32()),
        "double": pa.array(double, pa.float64()),
        "integer": pa.array(integer, pa.int64()),
        "boolean": pa.array(boolean, pa.bool_()),
        "string": pa.array(string, pa.string()),
    }
    found: LineBatch
    lines: dict[int, bytes] = {}
    for found in serialise(table(columns, len(rows)), "m", stamps=np.array(stamps), batch_bytes=300):
        lines |= {int(row): found.line(n) for n, row in enumerate(found.rows)}
    for n, values in enumerate(rows):
        expected = dict(zip(columns, values[:-1], strict=True))
        expected = {
            name: value
            for name, value in expected.items()
            if value is not None and not (isinstance(value, float) and not math.isfinite(value))
        }
        if not expected:
            assert n not in lines
            continue
        line = lines[n].decode().rstrip("\n")
        assert fields_of(line) == expected
        assert line.rpartition(" ")[2] == str(stamps[n])
        for name in ("single", "double"):
            if expected.get(name) == 0:
                assert math.copysign(1, fields_of(line)[name]) == math.copysign(1, expected[name])
