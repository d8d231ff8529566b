"""Frames: the Confluent wire format around an Avro body.

A frame is a zero byte, the writer schema's id in its registry as a big-endian uint32, and the body (efd-facts
§1.2). What the body says: `decoder.py`.
"""

from __future__ import annotations

import struct

PREFIX_BYTES = 5
TOMBSTONE = "tombstone: a record without a value"

_prefix = struct.Struct(">BI")


def frame(schema_id: int, body: bytes) -> bytes:
    """The frame of a body."""
    return _prefix.pack(0, schema_id) + body


def split(frame: bytes | None) -> tuple[int, bytes] | str:
    """Schema id and body of a frame, or the reason why it is none.

    >>> split(bytes([0, 0, 0, 1, 2, 84]))
    (258, b'T')
    """
    if frame is None:
        return TOMBSTONE
    if len(frame) < PREFIX_BYTES:
        return f"not a frame: {len(frame)} bytes where five of magic and schema id are due"
    magic, schema_id = _prefix.unpack_from(frame)
    if magic:
        return f"not a frame: its first byte is 0x{magic:02x}, not 0"
    return schema_id, frame[PREFIX_BYTES:]
