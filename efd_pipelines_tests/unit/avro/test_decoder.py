"""Decoding against fastavro: every bit, every null, every length; and nothing good is lost to its neighbours."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efd_pipelines.avro.attempts import LONGEST_FLAT
from efd_pipelines.avro.compiled import Compiled
from efd_pipelines.avro.decoder import Decoded, decode
from efd_pipelines.avro.grammar import Ungrammatical, grammar
from efd_pipelines.avro.messages import SingleMessages
from efd_pipelines.simulator.sal import load_topics
from efd_pipelines.topics.layout import Column, Layout, plan_layout
from efd_pipelines.topics.schemas import TopicSchema, parse_schema
from efd_pipelines_tests.unit.avro.builders import (
    a_schema,
    array_of,
    bodies_of,
    field_types,
    messages_of,
    random_message,
    topics,
)

DECODERS = {"fast, then thorough": (Compiled(), SingleMessages()), "thorough": (SingleMessages(),)}
PAIR = a_schema(("x", "double"), ("n", "int"))


each_decoder = pytest.mark.parametrize("decoders", list(DECODERS.values()), ids=list(DECODERS))
# How long an example takes depends on what else the machine does.
patient = settings(deadline=None)


def decoded_fully(bodies: list[bytes], schema: TopicSchema, arrays: Any, decoders: Any) -> tuple[Decoded, Layout]:
    """Decoded as the archive does it: again with a longer layout where arrays were longer than planned."""
    layout = plan_layout(schema, arrays=arrays)
    decoded = decode(bodies, schema, layout, decoders=decoders)
    if decoded.lengths:
        layout = plan_layout(schema, arrays=arrays, lengths=decoded.lengths)
        decoded = decode(bodies, schema, layout, decoders=decoders)
    assert decoded.lengths == {}
    return decoded, layout


@each_decoder
@pytest.mark.parametrize("arrays", ["flat", "list"])
@patient
@given(topic=topics())
def test_a_message_comes_back_bit_for_bit(decoders: Any, arrays: str, topic: Any) -> None:
    schema, messages = topic
    bodies = bodies_of(schema, messages)
    decoded, layout = decoded_fully(bodies, schema, arrays, decoders)
    assert decoded.dead == []
    assert decoded.good.tolist() == list(range(len(bodies)))
    assert decoded.table.schema.equals(layout.arrow_schema(), check_metadata=True)
    assert bodies_of(schema, messages_of(decoded.table, schema, layout)) == bodies


@patient
@given(topic=topics(), data=st.data())
def test_poison_takes_nothing_with_it(topic: Any, data: st.DataObject) -> None:
    schema, messages = topic
    bodies = bodies_of(schema, messages)
    bad = {}
    for index, body in enumerate(bodies):
        how = data.draw(st.sampled_from(["good", "good", "cut", "longer"]))
        if how == "cut" and body:
            bad[index] = body[: data.draw(st.integers(0, len(body) - 1))]
        elif how == "longer":
            bad[index] = body + data.draw(st.binary(min_size=1, max_size=9))
    mixed = [bad.get(index, body) for index, body in enumerate(bodies)]
    decoded, layout = decoded_fully(mixed, schema, "flat", DECODERS["fast, then thorough"])
    # A shortened or lengthened body may be a message by chance; the grammar, which is neither library's, says so.
    dead = [index for index in bad if not is_message(schema, mixed[index])]
    assert [index for index, _ in decoded.dead] == dead
    assert all(reason for _, reason in decoded.dead)
    good = [index for index in range(len(bodies)) if index not in dead]
    assert decoded.good.tolist() == good
    alone, _ = decoded_fully([mixed[index] for index in good], schema, "flat", DECODERS["thorough"])
    rows = messages_of(decoded.table, schema, layout)
    canonical = [index for index in good if index not in bad]
    assert bodies_of(schema, [rows[good.index(index)] for index in canonical]) == [bodies[index] for index in canonical]
    assert alone.table.num_rows == decoded.table.num_rows


def is_message(schema: TopicSchema, body: bytes) -> bool:
    try:
        grammar(schema.text).check(body)
    except Ungrammatical:
        return False
    return True


@settings(patient, max_examples=300)
@given(kinds=st.lists(field_types(), min_size=1, max_size=3), bodies=st.lists(st.binary(max_size=24), max_size=6))
def test_random_bytes_become_rows_only_when_fastavro_reads_the_same(kinds: list[Any], bodies: list[bytes]) -> None:
    schema = a_schema(*[(f"f{place}", kind) for place, kind in enumerate(kinds)])
    decoded, layout = decoded_fully(bodies, schema, "list", DECODERS["fast, then thorough"])
    assert sorted([*decoded.good.tolist(), *(index for index, _ in decoded.dead)]) == list(range(len(bodies)))
    rows = messages_of(decoded.table, schema, layout)
    for row, index in zip(rows, decoded.good.tolist(), strict=True):
        read = io.BytesIO(bodies[index])
        by_fastavro = fastavro.schemaless_reader(read, fastavro.parse_schema(json.loads(schema.text)), None)
        assert read.read() == b""
        assert repr(row) == repr(by_fastavro)
    for index, _ in decoded.dead:
        assert not is_message(schema, bodies[index])


@each_decoder
def test_every_nan_keeps_its_bits(decoders: Any) -> None:
    schema = a_schema(("f", "float"), ("d", "double"), ("a", array_of("float"), [0.0, 0.0]))
    floats = [0x7FC00000, 0xFFC12345, 0x7F800001, 0x7F800000, 0xFF800000, 0x80000000, 0x00000001]
    doubles = [0x7FF8000000000000, 0xFFF0000000000001, 0x8000000000000000, 1, 0x7FF0000000000000, 2, 3]
    bodies = [
        struct.pack("<IQ", single, double) + b"\x04" + struct.pack("<II", single, 0) + b"\0"
        for single, double in zip(floats, doubles, strict=True)
    ]
    table = decode(bodies, schema, plan_layout(schema), decoders=decoders).table
    assert table["f"].to_numpy().view(np.uint32).tolist() == floats
    assert table["d"].to_numpy().view(np.uint64).tolist() == doubles
    assert table["a0"].to_numpy().view(np.uint32).tolist() == floats


def test_types_are_the_declared_ones() -> None:
    schema = a_schema(*[(kind, kind) for kind in ("boolean", "int", "long", "float", "double", "string", "bytes")])
    message = {"boolean": True, "int": 1, "long": 2, "float": 0.5, "double": 0.5, "string": "µ", "bytes": b"\xff"}
    table = decode(bodies_of(schema, [message]), schema, plan_layout(schema)).table
    assert table.schema.types == [
        pa.bool_(),
        pa.int32(),
        pa.int64(),
        pa.float32(),
        pa.float64(),
        pa.string(),
        pa.binary(),
    ]
    assert table.to_pylist() == [message]


@each_decoder
@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**40, 2**63 - 1])
@pytest.mark.parametrize("shape", ["scalar", "nullable", "array"])
def test_a_number_that_is_no_int_is_not_wrapped_into_one(decoders: Any, value: int, shape: str) -> None:
    narrow: Any = {"scalar": "int", "nullable": ["null", "int"], "array": array_of("int")}[shape]
    wide: Any = {"scalar": "long", "nullable": ["null", "long"], "array": array_of("long")}[shape]
    schema, writer = a_schema(("n", narrow, [0]) if shape == "array" else ("n", narrow)), a_schema(("n", wide))
    values: list[Any] = [[1], [value], [3]] if shape == "array" else [1, value, 3]
    decoded = decode(
        bodies_of(writer, [{"n": each} for each in values]), schema, plan_layout(schema), decoders=decoders
    )
    assert decoded.good.tolist() == [0, 2]
    assert [index for index, _ in decoded.dead] == [1]
    assert "fit" in decoded.dead[0][1]
    assert decoded.table.column(0).to_pylist() == [1, 3]


@each_decoder
@pytest.mark.parametrize("kind", ["string", ["null", "string"], array_of("string")], ids=["plain", "nullable", "array"])
def test_bytes_that_are_no_text_do_not_become_a_string(decoders: Any, kind: Any) -> None:
    schema = a_schema(("s", kind, [""]) if isinstance(kind, dict) else ("s", kind))
    values: list[Any] = [["ü"], ["xy"], ["z"]] if isinstance(kind, dict) else ["ü", "xy", "z"]
    bodies = [body.replace(b"xy", b"\xff\xfe") for body in bodies_of(schema, [{"s": value} for value in values])]
    decoded = decode(bodies, schema, plan_layout(schema), decoders=decoders)
    assert [index for index, _ in decoded.dead] == [1]
    assert decoded.table.column(0).to_pylist() == ["ü", "z"]


def test_a_reason_says_where_a_message_goes_wrong() -> None:
    good, other = bodies_of(PAIR, [{"x": 1.0, "n": 1}, {"x": 2.0, "n": 300}])
    reasons = dict(decode([good, other[:-1], good + b"\0\0", b""], PAIR, plan_layout(PAIR)).dead)
    assert reasons[1] == "n: ends after 9 bytes, too early"
    assert reasons[2] == "2 bytes are left over after the message"
    assert reasons[3] == "x: ends after 0 bytes, too early"


@pytest.mark.parametrize("poison", [0.001, 0.3, 1.0])
def test_a_large_batch_with_poison_keeps_every_good_row_in_order(poison: float) -> None:
    random = np.random.default_rng(1)
    bodies = bodies_of(PAIR, [{"x": float(n), "n": n} for n in range(5000)])
    spoilt = set(np.flatnonzero(random.random(len(bodies)) < poison).tolist())
    mixed = [body[:5] if index in spoilt else body for index, body in enumerate(bodies)]
    decoded = decode(mixed, PAIR, plan_layout(PAIR))
    assert [index for index, _ in decoded.dead] == sorted(spoilt)
    assert decoded.table["n"].to_pylist() == [n for n in range(5000) if n not in spoilt]
    assert decoded.good.tolist() == decoded.table["n"].to_pylist()


@each_decoder
def test_a_shorter_array_ends_in_null_and_a_longer_one_is_said(decoders: Any) -> None:
    schema = a_schema(("a", array_of("float"), [0.0, 0.0]), ("b", array_of("boolean"), [False]))
    bodies = bodies_of(schema, [{"a": [1.0], "b": [True]}, {"a": [1.0, 2.0, 3.0], "b": []}])
    first = decode(bodies, schema, plan_layout(schema), decoders=decoders)
    assert first.lengths == {"a": 3}
    longer = plan_layout(schema, lengths=first.lengths)
    again = decode(bodies, schema, longer, decoders=decoders)
    assert again.lengths == {}
    assert again.table.to_pylist() == [
        {"a0": 1.0, "a1": None, "a2": None, "b0": True},
        {"a0": 1.0, "a1": 2.0, "a2": 3.0, "b0": None},
    ]


@each_decoder
@pytest.mark.parametrize("kind", ["boolean", "long", "float", "string"])
def test_an_array_that_would_take_too_many_columns_is_dead_and_in_a_list_is_not(decoders: Any, kind: str) -> None:
    schema = a_schema(("n", "int"), ("a", array_of(kind)))
    value: Any = {"boolean": True, "string": "x"}.get(kind, 3)
    bodies = bodies_of(schema, [{"n": 1, "a": [value] * length} for length in (1, LONGEST_FLAT + 1, LONGEST_FLAT)])
    decoded = decode(bodies, schema, plan_layout(schema, arrays="flat"), decoders=decoders)
    assert [index for index, _ in decoded.dead] == [1]
    assert decoded.dead[0][1] == "a: 10001 items, where 10000 columns are the most"
    assert decoded.lengths == {"a": LONGEST_FLAT}
    listed = decode(bodies, schema, plan_layout(schema, arrays="list"), decoders=decoders)
    assert listed.dead == []
    assert [len(items) for items in listed.table["a"].to_pylist()] == [1, LONGEST_FLAT + 1, LONGEST_FLAT]


def test_an_array_without_a_declared_length_is_found() -> None:
    schema = a_schema(("a", array_of("long")))
    bodies = bodies_of(schema, [{"a": []}, {"a": [1, 2]}])
    assert plan_layout(schema).columns == ()
    assert decode(bodies, schema, plan_layout(schema)).lengths == {"a": 2}


def test_a_nullable_array_is_null_as_a_whole() -> None:
    schema = a_schema(("a", ["null", array_of("double")]))
    bodies = bodies_of(schema, [{"a": None}, {"a": [1.0]}])
    flat = decode(bodies, schema, plan_layout(schema, lengths={"a": 1})).table
    assert flat["a0"].to_pylist() == [None, 1.0]
    lists = decode(bodies, schema, plan_layout(schema, arrays="list")).table
    assert lists["a"].to_pylist() == [None, [1.0]]


@each_decoder
def test_arrays_in_several_blocks_are_read_like_others(decoders: Any) -> None:
    schema = a_schema(("a", array_of("double"), [0.0, 0.0]))
    one, two = struct.pack("<d", 1.0), struct.pack("<d", 2.0)
    spellings = [b"\x04" + one + two + b"\0", b"\x02" + one + b"\x02" + two + b"\0", b"\x03\x20" + one + two + b"\0"]
    decoded = decode(spellings, schema, plan_layout(schema), decoders=decoders)
    assert decoded.dead == []
    assert decoded.table.to_pylist() == [{"a0": 1.0, "a1": 2.0}] * 3


def test_a_column_that_is_wider_than_its_field_widens() -> None:
    schema = a_schema(("n", "int"), ("a", array_of("float"), [0.0]))
    layout = Layout((Column("n", "n", None, pa.int64()), Column("a0", "a", 0, pa.float64())), "flat")
    table = decode(bodies_of(schema, [{"n": -5, "a": [0.1]}]), schema, layout).table
    assert table.schema.types == [pa.int64(), pa.float64()]
    assert table.to_pylist() == [{"n": -5, "a0": float(np.float32(0.1))}]


def test_a_column_whose_field_the_schema_lacks_is_null() -> None:
    columns = (Column("n", "n", None, pa.int32()), Column("gone", "gone", None, pa.float64()))
    table = decode(bodies_of(PAIR, [{"x": 0.0, "n": 7}]), PAIR, Layout(columns, "flat")).table
    assert table.to_pylist() == [{"n": 7, "gone": None}]


@each_decoder
def test_nothing_is_decoded_of_nothing(decoders: Any) -> None:
    decoded = decode([], PAIR, plan_layout(PAIR), decoders=decoders)
    assert (decoded.table.num_rows, decoded.dead, decoded.lengths) == (0, [], {})
    assert decoded.table.schema.names == ["x", "n"]


def test_nested_values_become_json_text() -> None:
    point = {"type": "record", "name": "P", "fields": [{"name": "x", "type": "double"}, {"name": "b", "type": "bytes"}]}
    schema = a_schema(
        ("m", {"type": "map", "values": "long"}),
        ("p", point),
        ("u", ["null", "string", "double"]),
        ("e", {"type": "enum", "name": "E", "symbols": ["A", "B"]}),
        ("t", {"type": "long", "logicalType": "timestamp-millis"}),
        ("n", array_of(["null", "double"])),
    )
    message = {"m": {"k": 1}, "p": {"x": float("nan"), "b": b"\xff"}, "u": 2.5, "e": "B", "t": 1000, "n": [None, 1.0]}
    table = decode(bodies_of(schema, [message, {**message, "u": None}]), schema, plan_layout(schema)).table
    assert table.to_pylist()[0] == {
        "m": '{"k":1}',
        "p": '{"x":"NaN","b":"ÿ"}',
        "u": "2.5",
        "e": "B",
        "t": 1000,
        "n": "[null,1.0]",
    }
    assert table["u"].to_pylist() == ["2.5", None]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\x01"),
        (["null", "double", "string"], b"\x01"),
        ("boolean", b"\x02"),
        ("long", b"\x82" + b"\x80" * 9 + b"\x01"),
        (array_of("double"), b"\x01\x01" + b"\0" * 8 + b"\0"),
    ],
    ids=["negative symbol", "negative branch", "boolean 2", "number of 11 bytes", "block of another size"],
)
def test_what_libraries_let_pass_is_dead(kind: Any, body: bytes) -> None:
    schema = a_schema(("f", kind))
    decoded = decode([body], schema, plan_layout(schema), decoders=DECODERS["thorough"])
    assert len(decoded.dead) == 1
    assert decoded.table.num_rows == 0


@pytest.mark.parametrize(
    "kind",
    [
        array_of("null"),
        array_of({"type": "record", "name": "N", "fields": []}),
        ["null", {"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}],
    ],
    ids=["items of nothing", "items of empty records", "a type in itself"],
)
def test_a_schema_that_has_no_bound_makes_dead_letters_at_once(kind: Any) -> None:
    schema = a_schema(("f", kind))
    decoded = decode([b"\xfe\xff\xff\xff\xff\xff\xff\x01", b"\x02" * 100_000], schema, plan_layout(schema))
    assert [index for index, _ in decoded.dead] == [0, 1]
    assert decoded.table.num_rows == 0


def test_sal_topics_come_back_bit_for_bit(shared: Path) -> None:
    """One topic in forty of all, with arrays of every length up to one more than declared."""
    random = np.random.default_rng(7)
    for topic in list(load_topics(shared / "sal" / "topics.json.gz").values())[::40]:
        schema = parse_schema(topic.avro_schema())
        messages = [random_message(schema, random) for _ in range(6)]
        bodies = bodies_of(schema, messages)
        decoded, layout = decoded_fully(bodies, schema, None, DECODERS["fast, then thorough"])
        assert decoded.dead == [], topic.name
        assert bodies_of(schema, messages_of(decoded.table, schema, layout)) == bodies, topic.name
        assert Compiled().covers(schema), f"{topic.name} is left to the slow decoder"
