"""Replay: recorded results of the EFD, back onto Kafka as the records that they once were.

What belongs here: when the records of a recording are produced, at their own times or moved to others. What a
recording says: `recording.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.settings import Settings
from efd_pipelines.simulator.encoding import Column
from efd_pipelines.simulator.pace import Pace, Speed
from efd_pipelines.simulator.producer import Produced, Progress, SalProducer
from efd_pipelines.simulator.recording import recorded_series
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.simulator.series import Series, private_columns, windows
from efd_pipelines.times import microseconds

_RECORDS_AT_ONCE = 20_000
_DAY_S = 86_400.0


def replay(
    settings: Settings,
    directory: Path,
    speed: Speed = "max",
    shift_to: datetime | None = None,
    *,
    definitions: Mapping[str, SalTopic] | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Produced:
    """Produce every recording in `directory`, all topics together in order of time.

    Args:
        speed: times the pace of the record, or `max`.
        shift_to: when the first record shall have been; None leaves the times as they were.
        definitions: further SAL topics by name (`sal.load_topics`); the built-in ones are known.
        cluster: see `SalProducer`.

    Raises:
        UsageError: no recordings there.
        BadRecording: one cannot be read; nothing has been produced.
        KafkaUnavailable, RegistryUnavailable: as named.
    """
    began = time.monotonic()
    series = recorded_series(directory, definitions)
    if shift_to is not None:
        series = shifted(series, microseconds(shift_to))
    pace, total = Pace(speed), sum(map(len, series))
    with SalProducer(settings, cluster) as producer:
        producer.prepare([one.topic for one in series])
        for window in windows(series, _RECORDS_AT_ONCE):
            producer.send(window, pace, progress, total)
    topics = {one.topic.name for one in series}
    return Produced(len(topics), producer.records, seconds=time.monotonic() - began)


def shifted(series: Sequence[Series], first_us: int) -> list[Series]:
    """The same records as if the first had been at `first_us`, stamps and time stamps too."""
    delta_us = first_us - min(int(one.times_us[0]) for one in series)
    return [_shifted(one, delta_us) for one in series]


def _shifted(one: Series, delta_us: int) -> Series:
    times_us = one.times_us + delta_us
    columns = dict(one.columns)
    if "private_sndStamp" in columns:
        stamps = private_columns(times_us)
        sent = np.asarray(columns["private_sndStamp"])
        for name in ("private_rcvStamp", "private_kafkaStamp"):
            old = np.asarray(columns[name])
            columns[name] = np.where(old == 0.0, 0.0, stamps["private_sndStamp"] + (old - sent))
        columns["private_efdStamp"] = stamps["private_efdStamp"]
        columns["private_sndStamp"] = stamps["private_sndStamp"]
    for field in one.topic.public_fields:
        if field.name.lower().endswith("timestamp"):
            columns[field.name] = _shifted_stamps(field, columns[field.name], one.times_us, delta_us)
    return Series(one.topic, times_us, columns, one.keys)


def _shifted_stamps(field: SalField, stamps: Column, times_us: NDArray[np.int64], delta_us: int) -> Column:
    """A public field that holds times near its record's: in seconds, or of CCS in milliseconds."""
    if field.units == "millisecond" and field.sal_type == "long":
        return stamps + delta_us // 1000
    values = np.ma.asarray(stamps)
    if values.dtype.kind != "f":
        return stamps
    near = np.abs(values.T - times_us / 1e6).T < _DAY_S
    moved = np.where(near, values + delta_us / 1e6, values)
    return np.ma.masked_array(moved, np.ma.getmask(stamps)) if np.ma.isMaskedArray(stamps) else moved
