"""A night of both cameras as messages, and its exposures' values computed from the messages themselves.

For tests of exposure joins. `messages` makes records of any topics of a catalogue, `BruteForce` computes a column of a
transformation configuration as simply as can be, one window at a time, and shares nothing with the package but the
names of fields. Leap seconds are 37, written out.
"""

from __future__ import annotations

import re
import statistics
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from efd_pipelines.simulator.sal import SalTopic
from efd_pipelines.simulator.series import Series, Writer
from efd_pipelines.times import microseconds

TAI_UTC = timedelta(seconds=37)
_FAST = {"MTM1M3.applied": 3.0, "MTMount.encoder": 10.0, "MTM1M3.accelerometerData": 10.0, "MTM2.axialForce": 2.0}


@dataclass(frozen=True)
class Messages:
    """The records of one topic: event times (UTC), salIndex where there is one, and values by field."""

    series: list[Series]

    def parts(self, indices: Sequence[int] | None) -> list[tuple[np.ndarray[Any, Any], Mapping[str, Any]]]:
        """Times and fields of the writers of some salIndex, or of all."""
        return [
            (one.times_us, one.columns)
            for one in self.series
            if indices is None or one.columns.get("salIndex") in indices
        ]


def used_fields(columns: Iterable[Mapping[str, Any]]) -> dict[str, tuple[set[str], set[int]]]:
    """For each topic, the fields that configurations name, and the salIndex values."""
    used: dict[str, tuple[set[str], set[int]]] = {}
    for column in columns:
        for topic in column["topics"]:
            fields, indices = used.setdefault(topic["name"], (set(), set()))
            fields |= {field["name"] for field in topic["fields"]}
            chosen = column.get("subset_value", [])
            indices |= set(chosen if isinstance(chosen, list) else [chosen])
    return used


def messages(
    topics: Mapping[str, SalTopic],
    used: Mapping[str, tuple[set[str], set[int]]],
    start: datetime,
    seconds: float,
    before: float,
    seed: int = 7,
) -> dict[str, Messages]:
    """Records of each topic: telemetry from `start` on, events from `before` seconds earlier."""
    made = {}
    for name, (fields, indices) in used.items():
        if name not in topics:
            continue
        topic = topics[name]
        some = sorted(indices) or [1, 2] if topic.indexed else [0]
        made[name] = Messages([_series(topic, fields, index, start, seconds, before, seed) for index in some])
    return made


def _series(
    topic: SalTopic, used: set[str], index: int, start: datetime, seconds: float, before: float, seed: int
) -> Series:
    rng = np.random.default_rng([seed, zlib.crc32(topic.name.encode()), index])
    rate = next((hz for part, hz in _FAST.items() if part in topic.name), 1.0)
    if topic.kind.value == "event":
        early = rng.integers(microseconds(start) - int(before * 1e6), microseconds(start), 6)
        late = rng.integers(microseconds(start), microseconds(start) + int(seconds * 1e6), 20)
        times_us = np.sort(np.concatenate([early, late]))
    else:
        phase_us = int(rng.integers(1, int(1_000_000 / rate)))
        times_us = microseconds(start) + phase_us + np.round(np.arange(seconds * rate) * 1e6 / rate).astype(np.int64)
    columns: dict[str, Any] = {}
    for field in topic.public_fields:
        if field.name in ("cRIO_timestamp", "cRioTimestamp"):
            # The first of 100 samples that were sent when the last was there; TAI, in the middle of a microsecond.
            columns[field.name] = (times_us - 990_000 + 0.5) / 1e6 + TAI_UTC.total_seconds()
        elif field.name in used or any(re.fullmatch(rf"{field.name}\d+", name) for name in used):
            columns[field.name] = _values(field, len(times_us), rng)
    return Writer.of(topic, index, seed=seed).series(times_us, columns, 1)


def _values(field: Any, count: int, rng: np.random.Generator) -> Any:
    shape = (count, field.count) if field.count > 1 else (count,)
    if field.sal_type not in ("float", "double"):
        return rng.integers(0, 100, shape)
    values = 20.0 + np.cumsum(rng.standard_normal(shape), axis=0) * 0.1 + rng.standard_normal(shape)
    values[rng.random(shape) < 0.02] = np.nan
    return values.astype(np.float32) if field.sal_type == "float" else values


class BruteForce:
    """Values of columns, computed from the messages of a night one window at a time."""

    def __init__(self, night: Mapping[str, Messages]) -> None:
        self._night = night
        self._frames: dict[str, pd.DataFrame | None] = {}

    def value(self, column: Mapping[str, Any], obs_start: datetime, obs_end: datetime) -> float | dict[str, float]:
        """For an exposure with these naive TAI times; of an unpivoted column, of each field."""
        whole = self._all_samples(column)
        if whole is None:
            return {} if column.get("store_unpivoted") else float("nan")
        end = np.datetime64(obs_end - TAI_UTC)
        begin = np.datetime64(obs_start - TAI_UTC + timedelta(hours=column.get("start_offset", 0)))
        times = whole.index.to_numpy()
        frame = whole[(times >= begin) & (times <= end)]
        interval = column.get("pre_aggregate_interval")
        if interval and column["function"] not in ("min", "max", "most_recent_value", "first", "last", "range"):
            frame = frame.resample(interval).mean().dropna(how="all")
        arguments = column.get("function_args", {})
        times, matrix = frame.index.to_numpy(), frame.to_numpy(dtype=np.float64)
        if column.get("store_unpivoted"):
            each = (_reduced(column["function"], times, matrix[:, n : n + 1], arguments) for n in range(frame.shape[1]))
            found = zip(frame.columns, each, strict=True)
            return {str(name): value for name, value in found if not np.isnan(value)}
        return _reduced(column["function"], times, matrix, arguments)

    def _all_samples(self, column: Mapping[str, Any]) -> pd.DataFrame | None:
        key = repr([column["topics"], column.get("subset_value"), column["packed_series"]])
        if key not in self._frames:
            there = [topic for topic in column["topics"] if topic["name"] in self._night]
            frames = [_samples(topic, column, self._night[topic["name"]]) for topic in there]
            self._frames[key] = pd.concat(frames).sort_index(kind="stable") if frames else None
        return self._frames[key]


def _samples(topic: Mapping[str, Any], column: Mapping[str, Any], sent: Messages) -> pd.DataFrame:
    """All samples of the topic's fields, one column each, by the time at which they were measured."""
    chosen = column.get("subset_value")
    indices = None if chosen is None else chosen if isinstance(chosen, list) else [chosen]
    names = [field["name"] for field in topic["fields"] if field["name"] != column.get("subset_field")]
    frames = []
    for times_us, columns in sent.parts(indices):
        flat: dict[str, Any] = {}
        for name in names:
            values = _field(columns, name)
            if values is None:
                return pd.DataFrame(index=pd.DatetimeIndex([]))
            if column["packed_series"]:
                times_us = (times_us[:, None] - 990_000 + np.arange(100) * 10_000).ravel()
                flat[name] = values.ravel()
            elif values.ndim == 2:
                flat |= {f"{name}{n}": values[:, n] for n in range(values.shape[1])}
            else:
                flat[name] = values
        frames.append(pd.DataFrame(flat, index=pd.to_datetime(times_us, unit="us"), dtype=np.float64))
    return pd.concat(frames) if frames else pd.DataFrame(index=pd.DatetimeIndex([]))


def _field(columns: Mapping[str, Any], name: str) -> Any:
    if name in columns:
        return columns[name]
    found = re.fullmatch(r"(.*?)(\d+)", name)
    while found is not None and found[1] not in columns and found[2][1:]:
        found = re.fullmatch(rf"({re.escape(found[1])}\d)(\d+)", name)
    return columns[found[1]][:, int(found[2])] if found is not None and found[1] in columns else None


def _reduced(function: str, times: Any, matrix: Any, arguments: Mapping[str, Any]) -> float:
    """Of samples in the order of time: `matrix` has a row for each and a column for each field."""
    known = ~np.isnan(matrix)
    values = matrix[known]
    if not values.size:
        return float("nan")
    if function == "stddev":
        return float(statistics.stdev(values.tolist())) if values.size > 1 else float("nan")
    if function == "most_recent_value":
        last = matrix[known.any(axis=1)][-1]
        return float(last[~np.isnan(last)][0])
    if function == "rms_from_polynomial_fit":
        number = np.arange(len(matrix)) if arguments["fit_basis"] == "index" else times.astype("int64")
        x, y = number[known[:, 0]], matrix[known[:, 0], 0]
        fit = np.polynomial.Legendre.fit(x, y, arguments["degree"])
        return float(np.sqrt(np.mean(np.square(y - fit(x)))))
    return float(getattr(np, function)(values))
