"""The wire format around a body."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.avro.frames import TOMBSTONE, frame, split


@given(schema_id=st.integers(0, 2**32 - 1), body=st.binary())
def test_a_frame_parts_into_id_and_body(schema_id: int, body: bytes) -> None:
    assert split(b"\0" + schema_id.to_bytes(4, "big") + body) == (schema_id, body)
    assert split(frame(schema_id, body)) == (schema_id, body)


@given(value=st.binary())
def test_anything_else_has_a_reason(value: bytes) -> None:
    parted = split(value)
    assert isinstance(parted, str) == (len(value) < 5 or value[0] != 0)


def test_a_record_without_a_value_is_a_tombstone() -> None:
    assert split(None) == TOMBSTONE
