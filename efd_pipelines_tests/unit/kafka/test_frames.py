"""Frames as they came from Kafka."""

from __future__ import annotations

import numpy as np

from efd_pipelines.kafka.frames import FrameBatch


def frames() -> FrameBatch:
    return FrameBatch(
        "lsst.sal.A.a",
        [b"one", None, b""],
        [b"k", None, b""],
        np.array([0, 0, 1], np.int32),
        np.array([5, 6, 7], np.int64),
        np.array([1, -1, 3], np.int64),
    )


def test_size_is_that_of_values_and_keys() -> None:
    assert frames().size_bytes == len(b"onek")
    assert FrameBatch.empty("t").size_bytes == 0


def test_taking_keeps_all_that_belongs_to_a_frame() -> None:
    taken = frames().take(np.array([2, 0]))
    assert (taken.values, taken.keys) == ([b"", b"one"], [b"", b"k"])
    assert taken.partitions.tolist() == [1, 0]
    assert taken.offsets.tolist() == [7, 5]
    assert taken.timestamps_ms.tolist() == [3, 1]
    assert len(frames().take([])) == 0
