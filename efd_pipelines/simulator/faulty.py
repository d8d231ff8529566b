"""Faulty records: what must not happen and does, for tests of what becomes of it.

Each function produces one kind of fault to a topic that `SalProducer.prepare` has made, beside the good records
that are there, and says nothing about what should be done with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from efd_pipelines.simulator.encoding import frame_head
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalTopic
from efd_pipelines.simulator.series import Series
from efd_pipelines.times import microseconds

UNREGISTERED_ID = 2_000_000_001


def send_random_bytes(producer: SalProducer, topic: SalTopic, count: int = 1, seed: int = 0) -> list[bytes]:
    """Values that are no frames; returns them."""
    rng = np.random.default_rng(seed)
    values = [rng.bytes(int(size)) for size in rng.integers(1, 200, count)]
    return _put(producer, topic, [b"\xff" + value for value in values])


def send_unregistered(producer: SalProducer, series: Series, schema_id: int = UNREGISTERED_ID) -> list[bytes]:
    """Good records under the id of a schema that no registry has (yet); returns the frames."""
    head = frame_head(schema_id)
    return _put(producer, series.topic, [head + body for body in series.bodies()])


def send_truncated(producer: SalProducer, series: Series, missing_bytes: int = 3) -> list[bytes]:
    """Good records without their last bytes; returns the frames."""
    return _put(producer, series.topic, [frame[:-missing_bytes] for frame in producer.frames(series)])


def send_overlong(producer: SalProducer, series: Series, more: bytes = b"\0more") -> list[bytes]:
    """Good records with bytes after their end; returns the frames."""
    return _put(producer, series.topic, [frame + more for frame in producer.frames(series)])


def send_tombstones(producer: SalProducer, topic: SalTopic, count: int = 1) -> None:
    """Records without a value."""
    for _ in range(count):
        producer.put(producer.topic_name(topic), None, topic.key(1))


def send_at(producer: SalProducer, topic: SalTopic, when: datetime, count: int = 1, first: int = 1) -> Series:
    """Records of a component whose clock is wrong (1970, 2090), or late ones; returns what was sent."""
    good = random_series(topic, count, microseconds(datetime.now(UTC)), first=first)
    times_us = good.times_us - good.times_us[0] + microseconds(when)
    utc_s = (times_us + 0.5) / 1e6
    wrong = {"private_efdStamp": utc_s, "private_sndStamp": utc_s + 37.0, "private_kafkaStamp": utc_s + 37.0}
    series = Series(topic, times_us, {**good.columns, **wrong}, good.keys)
    producer.send([series])
    return series


def _put(producer: SalProducer, topic: SalTopic, frames: Sequence[bytes]) -> list[bytes]:
    for frame in frames:
        producer.put(producer.topic_name(topic), frame, topic.key(1))
    return list(frames)
