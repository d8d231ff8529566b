"""The compiled decoder against the thorough one, whose values are fastavro's: same rows, same bits, same refusals.

What both must do, however they do it, stands in `test_decoder.py`.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from efd_pipelines.avro import compiled
from efd_pipelines.avro.attempts import Attempt
from efd_pipelines.avro.bodies import Bodies, Located
from efd_pipelines.avro.compiled import Compiled
from efd_pipelines.avro.decoder import decode
from efd_pipelines.avro.messages import SingleMessages
from efd_pipelines.avro.plans import plan_of
from efd_pipelines.simulator.sal import load_topics
from efd_pipelines.topics.layout import Arrays, Layout, plan_layout
from efd_pipelines.topics.schemas import TopicSchema, parse_schema
from efd_pipelines_tests.unit.avro.builders import a_schema, array_of, bodies_of, random_message, topics

WHOLE = os.environ.get("EFD_TEST_SCALE") == "1"
# How long an example takes depends on what else the machine does.
patient = settings(deadline=None)
each_arrays = pytest.mark.parametrize("arrays", ["flat", "list"])


def bits(column: pa.ChunkedArray) -> pa.Array:
    """A column with its floats as integers: NaN equals itself, and −0.0 is not 0.0."""
    values = column.combine_chunks()
    if pa.types.is_list(values.type):
        lengths = pa.compute.list_value_length(values)
        return pa.StructArray.from_arrays(
            [lengths, pa.ListArray.from_arrays(_offsets(values), bits(pa.chunked_array([values.flatten()])))],
            names=["length", "items"],
        )
    if pa.types.is_floating(values.type):
        kind = pa.int32() if pa.types.is_float32(values.type) else pa.int64()
        return pa.Array.from_buffers(kind, len(values), values.buffers(), offset=values.offset)
    return values


def _offsets(values: pa.ListArray) -> pa.Array:
    lengths = pa.compute.fill_null(pa.compute.list_value_length(values), 0).to_numpy()
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def assert_same(one: Attempt, other: Attempt) -> None:
    assert one.good.tolist() == other.good.tolist()
    assert one.lengths == other.lengths
    assert one.table.schema.equals(other.table.schema, check_metadata=True)
    for name in one.table.column_names:
        assert bits(one.table[name]).equals(bits(other.table[name])), name
    one.table.validate(full=True)


def assert_decoded_like_fastavro(bodies: Sequence[bytes], schema: TopicSchema, layout: Layout) -> None:
    """All that the compiled decoder takes is what fastavro reads, and of what it refuses nothing is lost."""
    ours = Compiled().attempt(bodies, schema, layout)
    chosen = [bodies[index] for index in ours.good.tolist()]
    theirs = SingleMessages().attempt(chosen, schema, layout)
    assert theirs.refused == {}
    assert_same(Attempt(ours.table, np.arange(len(chosen)), {}, ours.lengths), theirs)
    assert sorted([*ours.good.tolist(), *ours.refused]) == list(range(len(bodies)))
    refused = [bodies[index] for index in ours.refused]
    decoded = decode(bodies, schema, layout)
    rest = SingleMessages().attempt(refused, schema, layout)
    assert len(decoded.dead) == len(rest.refused)


def layout_for(schema: TopicSchema, bodies: Sequence[bytes], arrays: Arrays | None) -> Layout:
    """A layout that is long enough for the messages."""
    layout = plan_layout(schema, arrays=arrays)
    lengths = SingleMessages().attempt(bodies, schema, layout).lengths
    return plan_layout(schema, arrays=arrays, lengths=lengths)


def test_every_sal_topic_equals_fastavro(shared: Path) -> None:
    """Random values (NaN, ±inf, −0.0, extremes), empty and over-long arrays; one topic in eight, or all."""
    random = np.random.default_rng(11)
    chosen = list(load_topics(shared / "sal" / "topics.json.gz").values())[:: 1 if WHOLE else 8]
    for topic in chosen:
        schema = parse_schema(topic.avro_schema())
        assert Compiled().covers(schema), topic.name
        bodies = bodies_of(schema, [random_message(schema, random) for _ in range(3)])
        for layout in {plan_layout(schema), layout_for(schema, bodies, None)}:
            ours = Compiled().attempt(bodies, schema, layout)
            assert ours.refused == {}, topic.name
            assert_same(ours, SingleMessages().attempt(bodies, schema, layout))


@each_arrays
@patient
@given(topic=topics())
def test_any_message_equals_fastavro(arrays: Arrays, topic: Any) -> None:
    schema, messages = topic
    bodies = bodies_of(schema, messages)
    for layout in (plan_layout(schema, arrays=arrays), layout_for(schema, bodies, arrays)):
        assert_same(Compiled().attempt(bodies, schema, layout), SingleMessages().attempt(bodies, schema, layout))


@patient
@given(
    kinds=st.lists(st.sampled_from(["float", "double", "int", "boolean"]), min_size=1, max_size=3),
    width=st.integers(0, 40),
    lengths=st.lists(st.integers(0, 40) | st.just(40), max_size=70),
    data=st.data(),
)
def test_rows_that_are_turned_together_keep_to_their_columns(
    kinds: list[str], width: int, lengths: list[int], data: st.DataObject
) -> None:
    """Whole tiles and parts of one, arrays of one length and of many, with refused bodies in between."""
    fields = [(f"f{n}", array_of(kind), [False if kind == "boolean" else 0] * width) for n, kind in enumerate(kinds)]
    schema = a_schema(("n", "long"), *fields)
    is_uniform = data.draw(st.booleans())
    messages = []
    for row, length in enumerate(lengths):
        items = [row * 100 + item for item in range(width if is_uniform else length)]
        values = {f"f{n}": [item % 2 == 0 for item in items] if k == "boolean" else items for n, k in enumerate(kinds)}
        messages.append({"n": row, **values})
    bodies = bodies_of(schema, messages)
    for at in sorted(data.draw(st.sets(st.integers(0, len(bodies)), max_size=4)), reverse=True):
        bodies.insert(at, b"\x02\xff")
    layout = plan_layout(schema)
    assert_same(Compiled().attempt(bodies, schema, layout), SingleMessages().attempt(bodies, schema, layout))


HOSTILE = [b"\xff" * 9 + b"\x01", b"\xff" * 9 + b"\x7f", b"\x80" * 12, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"]


@st.composite
def spoilt(draw: st.DrawFn, body: bytes) -> bytes:
    """A body after an accident: cut, lengthened, bits flipped, or a huge number written into it."""
    how = draw(st.sampled_from(["good", "cut", "longer", "flipped", "number", "number"]))
    at = draw(st.integers(0, len(body)))
    if how == "cut":
        return body[:at]
    if how == "longer":
        return body + draw(st.binary(min_size=1, max_size=9))
    if how == "flipped" and body:
        at %= len(body)
        return body[:at] + bytes([body[at] ^ (1 << draw(st.integers(0, 7)))]) + body[at + 1 :]
    if how == "number":
        return body[:at] + draw(st.sampled_from(HOSTILE)) + body[at + draw(st.integers(0, 2)) :]
    return body


@settings(patient, max_examples=2000 if WHOLE else 150)
@given(topic=topics(), data=st.data(), arrays=st.sampled_from(["flat", "list"]))
def test_fuzzed_bodies_are_decoded_like_fastavro_or_refused(topic: Any, data: st.DataObject, arrays: Arrays) -> None:
    schema, messages = topic
    bodies = [data.draw(spoilt(body)) for body in bodies_of(schema, messages)]
    bodies += data.draw(st.lists(st.binary(max_size=40), max_size=4))
    assert_decoded_like_fastavro(bodies, schema, plan_layout(schema, arrays=arrays))


class Cliff:
    """Memory after which there is none: what reads a byte too many ends the process."""

    def __init__(self, size_bytes: int = mmap.PAGESIZE) -> None:
        self._map = mmap.mmap(-1, size_bytes + mmap.PAGESIZE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._size = size_bytes
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(self._address + size_bytes), mmap.PAGESIZE, 0) == 0

    def located(self, body: bytes) -> Located:
        """The body, ending where the memory does."""
        self._map[self._size - len(body) : self._size] = body
        address = self._address + self._size - len(body)
        return Located(np.array([address]), np.array([len(body)]), self)


@pytest.mark.skipif(sys.platform != "linux", reason="protects memory as Linux does")
@settings(patient, max_examples=2000 if WHOLE else 150)
@given(topic=topics(), data=st.data(), arrays=st.sampled_from(["flat", "list"]))
def test_nothing_is_read_behind_a_body(topic: Any, data: st.DataObject, arrays: Arrays) -> None:
    schema, messages = topic
    layout = plan_layout(schema, arrays=arrays)
    plan = plan_of(schema.text, layout)
    assert plan is not None
    for body in bodies_of(schema, messages):
        changed = data.draw(spoilt(body))
        rows = compiled._Rows(plan, CLIFF.located(changed), 0, 1)
        assert rows.rows == len(Compiled().attempt([changed], schema, layout).good)
        if rows.rows:
            rows.table().validate(full=True)


CLIFF = Cliff()


@each_arrays
@pytest.mark.parametrize("kind", ["boolean", "int", "long", "float", "double", "string", "bytes"])
@pytest.mark.parametrize("number", HOSTILE, ids=["-2^63", "11 bits too many", "no end", "2^63-1"])
def test_a_count_that_lies_allocates_nothing(arrays: Arrays, kind: str, number: bytes) -> None:
    schema = a_schema(("a", array_of(kind)), ("b", kind))
    layout = plan_layout(schema, arrays=arrays, lengths={"a": 2})
    bodies = [number, number + number, number + b"\0" * 40, b"\x02" + number, b"\x01" + number + b"\0" * 40]
    Compiled().attempt(bodies, schema, layout)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        attempt = Compiled().attempt(bodies, schema, layout)
        peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert_decoded_like_fastavro(bodies, schema, layout)
    assert len(attempt.refused) >= 3


def test_a_batch_that_needs_much_memory_is_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = a_schema(("n", "int"), ("s", "string"), ("a", array_of("double"), [0.0] * 30))
    messages = [{"n": n, "s": "x" * (n % 7), "a": [float(n)] * (30 if n % 5 else 29)} for n in range(500)]
    bodies = bodies_of(schema, messages)
    bodies[77] = b""
    whole = Compiled().attempt(bodies, schema, plan_layout(schema))
    for limit in (1, 1000, 20_000):
        monkeypatch.setattr(compiled, "CHUNK_BYTES", limit)
        parts = Compiled().attempt(bodies, schema, plan_layout(schema))
        assert parts.table.column(0).num_chunks > 1
        assert parts.refused == whole.refused
        assert_same(parts, whole)


@example("\ud7ff\ue000\uffff\U00010000\U0010ffff".encode())
@settings(patient, max_examples=300)
@given(st.binary(max_size=20) | st.text(max_size=8).map(str.encode) | st.text(max_size=4).map(lambda s: s.encode() * 4))
def test_text_is_what_python_takes_for_utf8(text: bytes) -> None:
    schema = a_schema(("s", "string"))
    try:
        expected = [text.decode()]
    except UnicodeDecodeError:
        expected = []
    body = (
        bytes([2 * len(text)]) + text if len(text) < 64 else bytes([2 * len(text) % 128 | 128, len(text) >> 6]) + text
    )
    assert Compiled().attempt([body], schema, plan_layout(schema)).table["s"].to_pylist() == expected


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, type("Bytes", (bytes,), {})])
def test_bodies_of_any_kind_of_bytes_are_read_behind_their_prefix(kind: Any) -> None:
    schema = a_schema(("s", "string"), ("x", "double"))
    messages = [{"s": "µ" * n, "x": n / 3} for n in range(40)]
    frames = [kind(b"\0\0\0\0\7" + body) for body in bodies_of(schema, messages)]
    bodies = Bodies(pa.chunked_array([pa.array(frames, pa.large_binary())]), 5)
    assert Compiled().attempt(bodies, schema, plan_layout(schema)).table.to_pylist() == messages
    assert list(map(bytes, bodies.take(np.array([3, 1])))) == bodies_of(schema, [messages[3], messages[1]])


def test_code_that_was_kept_decodes_like_code_just_compiled() -> None:
    """numba once optimised stores away that were still there in the process that compiled them."""
    program = (
        "import hashlib, pyarrow as pa\nfrom efd_pipelines_tests.unit.avro.test_compiled import digest\nprint(digest())"
    )
    compiled._kernel()
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == digest()


def digest() -> str:
    """What the compiled decoder makes of rows of all kinds, compared with fastavro first."""
    random = np.random.default_rng(3)
    kinds = ["boolean", "int", "long", "float", "double", "string", "bytes"]
    fields: list[Any] = [(kind, kind) for kind in kinds] + [(f"{kind}_null", ["null", kind]) for kind in kinds]
    for kind in kinds:
        zero: Any = {"string": "", "bytes": "", "boolean": False}.get(kind, 0)
        fields += [(f"{kind}_{width}", array_of(kind), [zero] * width) for width in (1, 3, 8, 33)]
    schema = a_schema(*fields)
    text = ""
    for rows in (1, 2, 15, 16, 17, 33, 100):
        bodies = bodies_of(schema, [random_message(schema, random) for _ in range(rows)])
        layout = layout_for(schema, bodies, "flat")
        ours = Compiled().attempt(bodies, schema, layout)
        assert_same(ours, SingleMessages().attempt(bodies, schema, layout))
        text += repr(ours.table.to_pylist())
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def test_what_does_not_decode_does_not_import_numba() -> None:
    program = "import sys, efd_pipelines.archive.drain, efd_pipelines.cli; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_little_is_decoded_without_the_kernel_and_much_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, loaded = compiled._kernel(), []

    def load() -> Any:
        loaded.append(True)
        return kernel

    monkeypatch.setattr(compiled, "_kernel", load)
    schema = a_schema(("n", "long"))
    bodies = bodies_of(schema, [{"n": n} for n in range(60)])
    decoders = (Compiled(worth_bytes=150), SingleMessages())
    for after in (False, False, True, True):
        decoded = decode(bodies, schema, plan_layout(schema), decoders=decoders)
        assert decoded.table["n"].to_pylist() == list(range(60))
        assert bool(loaded) is after


def test_code_that_cannot_be_kept_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class FullDisk:
        def compile(self, signature: Any) -> None:
            raise OSError(28, "No space left on device")

    kernel = compiled._kernel()
    monkeypatch.setattr(kernel, "ENTRIES", {FullDisk(): None})
    with caplog.at_level(logging.WARNING):
        assert compiled._kernel.__wrapped__() is kernel
    assert "No space left" in caplog.text
