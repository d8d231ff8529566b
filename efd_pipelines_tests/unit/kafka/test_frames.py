"""Frames as they came from Kafka."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from efd_pipelines.kafka.frames import FrameBatch, ends_of


def frames() -> FrameBatch:
    return FrameBatch.of(
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
    assert (taken.values.to_pylist(), taken.keys.to_pylist()) == ([b"", b"one"], [b"", b"k"])
    assert taken.partitions.tolist() == [1, 0]
    assert taken.offsets.tolist() == [7, 5]
    assert taken.timestamps_ms.tolist() == [3, 1]
    assert len(frames().take([])) == 0


def test_batches_are_joined_in_order_and_cut_pieces_count_by_what_is_left() -> None:
    both = FrameBatch.joined("lsst.sal.A.a", [frames(), frames()])
    assert both.values.to_pylist() == [b"one", None, b"", b"one", None, b""]
    assert both.keys.to_pylist() == [b"k", None, b"", b"k", None, b""]
    assert both.offsets.tolist() == [5, 6, 7, 5, 6, 7]
    assert both.size_bytes == 2 * len(b"onek")
    assert both.take([3]).size_bytes == len(b"onek")
    assert len(FrameBatch.joined("t", [])) == 0


def test_where_values_lie_is_told_of_pieces_that_begin_elsewhere() -> None:
    column = pa.array([b"ab", b"", b"cde", b"f"], pa.large_binary())
    assert ends_of(column[1:3]).tolist() == [2, 2, 5]
    assert ends_of(column[:0]).tolist() == [0]
