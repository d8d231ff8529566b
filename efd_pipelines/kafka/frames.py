"""Frames: records of one topic as they came from Kafka, values undecoded.

Headers are not kept: SAL writes none, and mirrors' are about the mirror. Where frames come from: `backlog.py`.
What is in them: `efd_pipelines.avro`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.arrays import array_of, bytes_of

_BYTES = pa.large_binary()


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Records of one topic; of one partition in the order of their offsets.

    Args:
        values, keys: bytes as sent (large_binary), in a piece of memory for those that were read together; null where
            the record has none (a null value is a tombstone).
        timestamps_ms: Kafka's time stamps, UTC milliseconds; -1 where there is none.
    """

    topic: str
    values: pa.ChunkedArray
    keys: pa.ChunkedArray
    partitions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        topic: str,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        partitions: Sequence[int] | NDArray[Any],
        offsets: Sequence[int] | NDArray[Any],
        timestamps_ms: Sequence[int] | NDArray[Any],
    ) -> Self:
        """Records whose values and keys are objects."""
        return cls(
            topic,
            pa.chunked_array([bytes_of(values)]),
            pa.chunked_array([bytes_of(keys)]),
            np.asarray(partitions, np.int32),
            np.asarray(offsets, np.int64),
            np.asarray(timestamps_ms, np.int64),
        )

    @classmethod
    def empty(cls, topic: str) -> Self:
        return cls.of(topic, [], [], [], [], [])

    @classmethod
    def joined(cls, topic: str, parts: Sequence[FrameBatch]) -> Self:
        """All records of some batches of a topic, one batch after the other."""
        if not parts:
            return cls.empty(topic)
        return cls(
            topic,
            pa.chunked_array([piece for part in parts for piece in part.values.chunks], _BYTES),
            pa.chunked_array([piece for part in parts for piece in part.keys.chunks], _BYTES),
            np.concatenate([part.partitions for part in parts]),
            np.concatenate([part.offsets for part in parts]),
            np.concatenate([part.timestamps_ms for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size_bytes(self) -> int:
        """Bytes of values and keys."""
        return _size_bytes(self.values) + _size_bytes(self.keys)

    def take(self, indices: Sequence[int] | NDArray[Any]) -> FrameBatch:
        """The frames at `indices`, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        chosen = array_of(index)
        return FrameBatch(
            self.topic,
            self.values.take(chosen),
            self.keys.take(chosen),
            self.partitions[index],
            self.offsets[index],
            self.timestamps_ms[index],
        )


def _size_bytes(column: pa.ChunkedArray) -> int:
    return sum(int(ends[-1] - ends[0]) for ends in map(ends_of, column.chunks))


def ends_of(piece: pa.LargeBinaryArray) -> NDArray[np.int64]:
    """Where each value begins in the piece's data, and where the last ends."""
    if not len(piece):
        return np.zeros(1, np.int64)
    return np.frombuffer(piece.buffers()[1], np.int64)[piece.offset : piece.offset + len(piece) + 1]
