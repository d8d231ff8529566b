"""Schemas and frames as an enemy would write them: an error that says so or dead letters, soon, and in little memory.

Messages that were spoilt on their way, against fastavro: `test_compiled.py`.
"""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from efd_pipelines.avro.compiled import Compiled
from efd_pipelines.avro.decoder import decode
from efd_pipelines.avro.frames import frame, split
from efd_pipelines.avro.messages import SingleMessages
from efd_pipelines.errors import SchemaError
from efd_pipelines.topics.layout import plan_layout
from efd_pipelines.topics.schemas import parse_schema
from efd_pipelines_tests.unit.avro.builders import a_schema

EXAMPLES = 5000 if os.environ.get("EFD_TEST_SCALE") == "1" else 200
DECODERS = (Compiled(), SingleMessages())
# Generous: a thousandth is usual.
PATIENCE_S = 5.0
ALLOWED_BYTES = 20_000_000

names = st.sampled_from(["a", "b", "A", "a0", "", "time", "é", "x" * 300, "a.b", 'q"', "R", "E"])
primitives = st.sampled_from(
    ["null", "boolean", "int", "long", "float", "double", "bytes", "string", "R", "E", "unknown"]
)
defaults = st.none() | st.lists(st.integers(0, 1), max_size=3) | st.text(max_size=3)


def complex_types(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    field = st.fixed_dictionaries({"name": names, "type": inner}, optional={"default": defaults, "units": st.text()})
    return st.one_of(
        st.lists(inner, max_size=4),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries({"type": st.just("map"), "values": inner}),
        st.fixed_dictionaries({"type": st.just("record"), "name": names, "fields": st.lists(field, max_size=3)}),
        st.fixed_dictionaries({"type": st.just("enum"), "name": names, "symbols": st.lists(names, max_size=3)}),
        st.fixed_dictionaries(
            {"type": st.just("fixed"), "name": names, "size": st.sampled_from([0, 1, 8, 10**12, -1, "8"])}
        ),
        st.fixed_dictionaries({"type": inner, "logicalType": st.sampled_from(["date", "decimal", "uuid", "duration"])}),
        st.fixed_dictionaries({"type": st.sampled_from(["array", "map", "record", "enum", "fixed", 7, None])}),
    )


types = st.recursive(primitives | st.none() | st.integers(), complex_types, max_leaves=6)
fields = st.fixed_dictionaries({"name": names, "type": types}, optional={"default": defaults, "units": st.text()})
documents = st.fixed_dictionaries({"type": st.just("record"), "name": names, "fields": st.lists(fields, max_size=5)})
bodies = st.binary(max_size=60) | st.lists(
    st.sampled_from([b"\0", b"\1", b"\2", b"\x80", b"\xff" * 9 + b"\1", b"\xfe" + b"\xff" * 8 + b"\1", b"\7abc"])
).map(b"".join)


@pytest.fixture(scope="module", autouse=True)
def everything_is_loaded() -> None:
    schema = a_schema(("s", "string"), ("m", {"type": "map", "values": "long"}))
    for part in (schema, a_schema(("x", ["null", "double"]))):
        decode([b"\2x\0", b"\0"], part, plan_layout(part), decoders=DECODERS)


@example({"type": "record", "name": "a", "fields": [{"name": "a", "type": "null"}] * 2}, [b""])
@example({"type": "record", "name": "a", "fields": [{"name": "a", "type": "int"}] * 2}, [b"\2\4"])
@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(document=documents, given_bodies=st.lists(bodies, max_size=5))
def test_no_schema_and_no_body_does_harm(document: Any, given_bodies: list[bytes]) -> None:
    began, before = time.process_time(), pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        schema = parse_schema(json.dumps(document))
        layout = plan_layout(schema)
        decoded = decode(given_bodies, schema, layout, decoders=DECODERS)
    except SchemaError:
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before
        tracemalloc.stop()
        assert time.process_time() - began < PATIENCE_S
        assert peak < ALLOWED_BYTES
    decoded.table.validate(full=True)
    assert sorted([*decoded.good.tolist(), *(index for index, _ in decoded.dead)]) == list(range(len(given_bodies)))
    assert decoded.table.num_rows == len(decoded.good) or not layout.columns
    assert all(reason for _, reason in decoded.dead)


@given(st.binary(max_size=12) | st.none())
def test_a_frame_is_split_or_said_to_be_none(value: bytes | None) -> None:
    parted = split(value)
    if isinstance(parted, str):
        assert value is None or len(value) < 5 or value[0] != 0
    else:
        assert value == frame(*parted)
