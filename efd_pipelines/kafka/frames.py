"""Frames: records of one topic as they came from Kafka, values undecoded.

Headers are not kept: SAL writes none, and mirrors' are about the mirror. Where frames come from: `backlog.py`.
What is in them: `efd_pipelines.avro`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Records of one topic; of one partition in the order of their offsets.

    Args:
        values, keys: bytes as sent; None where the record has none (a value of None is a tombstone).
        timestamps_ms: Kafka's time stamps, UTC milliseconds; -1 where there is none.
    """

    topic: str
    values: list[bytes | None]
    keys: list[bytes | None]
    partitions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]

    @classmethod
    def empty(cls, topic: str) -> FrameBatch:
        return cls(topic, [], [], np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size_bytes(self) -> int:
        """Bytes of values and keys."""
        return sum(len(value) for value in self.values if value) + sum(len(key) for key in self.keys if key)

    def take(self, indices: Sequence[int] | NDArray[Any]) -> FrameBatch:
        """The frames at `indices`, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        chosen = index.tolist()
        values, keys = self.values, self.keys
        return FrameBatch(
            self.topic,
            [values[i] for i in chosen],
            [keys[i] for i in chosen],
            self.partitions[index],
            self.offsets[index],
            self.timestamps_ms[index],
        )
