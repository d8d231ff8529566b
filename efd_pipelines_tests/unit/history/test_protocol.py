"""Line protocol: what lines say, by two parsers that agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.history.protocol import SCHEMA, BadLine, end_of_records, parse_record, read_block

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)
NAME = st.text("abcXYZ019_. ,=", min_size=1, max_size=8).filter(lambda name: name.strip(" ") == name)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
VALUE = FLOATS | INTEGERS | st.booleans() | TEXT
POINT = st.tuples(
    NAME,
    st.dictionaries(NAME, NAME, max_size=2),
    st.dictionaries(NAME, VALUE, min_size=1, max_size=3),
    st.integers(0, 2**62),
)


def escaped(text: str) -> str:
    return text.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}i"
    if isinstance(value, float):
        return repr(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def line(point: tuple[str, dict[str, str], dict[str, object], int]) -> str:
    measurement, tags, fields, time_ns = point
    head = "".join([escaped(measurement), *(f",{escaped(name)}={escaped(of)}" for name, of in tags.items())])
    return f"{head} {','.join(f'{escaped(name)}={written(of)}' for name, of in fields.items())} {time_ns}"


@given(st.lists(POINT, max_size=6))
def test_what_was_written_is_read(some: list[tuple[str, dict[str, str], dict[str, object], int]]) -> None:
    text = "".join(f"{line(point)}\n" for point in some)
    found = read_block(text, "a file").to_dicts()
    expected = [
        (measurement, name, time_ns // 1000, type(value), value)
        for measurement, _, fields, time_ns in some
        for name, value in fields.items()
    ]
    kept = ("float_value", "integer_value", "string_value", "boolean_value")
    values = [(row, [row[name] for name in kept if row[name] is not None]) for row in found]
    seen = [(row["measurement"], row["field"], row["time"], type(of[0]), of[0]) for row, of in values]
    assert sorted(map(repr, seen)) == sorted(map(repr, expected))


@given(POINT)
def test_both_parsers_agree(point: tuple[str, dict[str, str], dict[str, object], int]) -> None:
    found = read_block(f"{line(point)}\n", "a file").rows()
    assert sorted(map(repr, found)) == sorted(map(repr, parse_record(line(point))))


def test_an_export_of_influx_inspect() -> None:
    text = (
        "# INFLUXDB EXPORT: 1677-09-21T00:12:43Z - 2262-04-11T23:47:16Z\n# DDL\n"
        "CREATE DATABASE efd WITH NAME autogen\n# DML\n# CONTEXT-DATABASE:efd\n# CONTEXT-RETENTION-POLICY:autogen\n"
        "# writing tsm data\nlsst.sal.MTMount.azimuth actualPosition=1.5 1700000000000001000\n"
    )
    assert read_block(text, "a file").rows() == [
        ("lsst.sal.MTMount.azimuth", "", "actualPosition", 1_700_000_000_000_001, 1.5, None, None, None)
    ]
    assert list(SCHEMA)[:4] == ["measurement", "tags", "field", "time"]


def test_a_text_of_several_lines_is_one_record() -> None:
    text = 'm s="one\nm s=\\"two\\" 1\n\nthree" 5000\nm i=1i 6000\n'
    found = read_block(text, "a file").select("string_value", "integer_value", "time").rows()
    assert sorted(found, key=lambda row: row[2]) == [('one\nm s="two" 1\n\nthree', None, 5), (None, 1, 6)]


@pytest.mark.parametrize(
    ("text", "end"),
    [("a b=1 2\nc", 8), ('a b="x\ny', 0), ('a b=1 2\na b="x\ny', 8), ('a b="x\\"\ny" 1\nrest', 14), ("", 0)],
)
def test_a_block_ends_after_a_whole_record(text: str, end: int) -> None:
    assert end_of_records(text) == end


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "m f= 1",
        "m f=1",
        "m f=1 x",
        'm f="open 1',
        "m 1",
        "m f=1.2.3 5",
        "m f=abc 5",
        "m a,b=1 5",
        "m f=nan 5",
        "m f=1_0 5",
        " f=1 5",
        "m =1 5",
        "m f=9223372036854775808i 5",
    ],
)
def test_what_is_no_record_is_refused_with_the_line(text: str) -> None:
    with pytest.raises(BadLine, match=r"a file has a line that is no line protocol"):
        read_block(f"{text}\n", "a file")
