"""The observatory: telescopes, cameras and sensors that do not exist, from a seed, as records on Kafka.

Everything is a pure function of seed and absolute time (`plan.py`, `motion.py`, `signals.py`, `events.py`);
here it is computed in blocks of ten seconds, cut to the interval asked for, numbered as its writers would, and
sent at a pace. The same seed, start and length give the same bytes.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.errors import UsageError
from efd_pipelines.exposures.consdb import write_exposures
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.ccs import CCS_SIGNALS
from efd_pipelines.simulator.events import HAPPENINGS, Event, as_columns, events_between, switched_on
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.m1m3 import M1M3_SIGNALS
from efd_pipelines.simulator.pace import Pace, Speed, parse_speed
from efd_pipelines.simulator.plan import LSSTCAM, Exposure, exposures, plan_at
from efd_pipelines.simulator.producer import Produced, Progress, SalProducer
from efd_pipelines.simulator.sal import SalTopic
from efd_pipelines.simulator.series import Series, Writer
from efd_pipelines.simulator.signals import SIGNALS, Scene, Signal
from efd_pipelines.times import microseconds

__all__ = ["Observatory", "exposures", "run_observatory"]

BLOCK_US = 10_000_000
"""Divides a day, so that a block lies within one observing day."""

ALL_SIGNALS: tuple[Signal, ...] = (*SIGNALS, *M1M3_SIGNALS, *CCS_SIGNALS)
_JITTER_US = 150
_ROWS_AT_ONCE = 200
_SCATTER = np.uint64(0x9E3779B97F4A7C15)


class Observatory:
    """A simulated observatory.

    Args:
        seed: what makes it this one.
        rate: the share of telemetry above 1 Hz that is kept, down to 1 Hz: 1 is the mountain's rate, some
            0.8 MB/s; `efd dev` does with less.
        topics: only these (names without `lsst.sal.`); None for all.
    """

    def __init__(self, seed: int, rate: float = 1.0, topics: frozenset[str] | None = None) -> None:
        if not 0 < rate <= 1:
            raise UsageError(f"{rate} is no rate", remedy="It is a share of the full rate: above 0, at most 1.")
        self.seed = seed
        self.rate = rate
        self._signals = [one for one in ALL_SIGNALS if topics is None or one.topic in topics]
        self._events = topics
        self._numbers: dict[tuple[str, int], int] = {}

    def topics(self) -> list[SalTopic]:
        """All topics that it can produce."""
        names = [signal.topic for signal in self._signals]
        names += [
            name
            for name in (
                *(happening.topic for happening in HAPPENINGS),
                *(event.topic for event in switched_on(0)),
            )
            if self._publishes(name)
        ]
        return [builtin_topic(name) for name in dict.fromkeys(names)]

    def blocks(self, start: datetime, seconds: float) -> Iterator[list[Series]]:
        """Its records from `start` on, the end excluded, in blocks of ten seconds; the writers start anew."""
        self._numbers.clear()
        start_us = microseconds(start)
        end_us = math.inf if math.isinf(seconds) else start_us + round(seconds * 1e6)
        at_us = start_us
        while at_us < end_us:
            block = at_us // BLOCK_US
            until_us = int(min((block + 1) * BLOCK_US, end_us))
            events = events_between(self.seed, at_us, until_us)
            if at_us == start_us:
                events += [event for event in switched_on(start_us) if event.time_us < until_us]
            telemetry = [
                self._telemetry(signal, index, block, at_us, until_us)
                for signal in self._signals
                for index in signal.sal_indices
            ]
            yield [one for one in (*telemetry, *self._published(events)) if len(one)]
            at_us = until_us

    def _telemetry(self, signal: Signal, index: int, block: int, start_us: int, end_us: int) -> Series:
        """The whole block's samples, so that they do not depend on the cut, then the cut."""
        times_us = sample_times(signal, index, block, self._rate_hz(signal))
        topic = builtin_topic(signal.topic)
        if not len(times_us):
            return Series(topic, times_us, {}, b"")
        scene = Scene(self.seed, signal.topic, index, block, times_us)
        whole = Series(topic, times_us, signal.columns(scene), b"")
        first, end = np.searchsorted(times_us, [start_us, end_us])
        return self._numbered(whole.between(int(first), int(end)), index)

    def _published(self, events: list[Event]) -> Iterator[Series]:
        grouped: dict[tuple[str, int], list[Event]] = {}
        for event in events:
            if self._publishes(event.topic):
                grouped.setdefault((event.topic, event.sal_index), []).append(event)
        for (name, index), some in grouped.items():
            times_us = np.array([event.time_us for event in some], dtype=np.int64)
            yield self._numbered(Series(builtin_topic(name), times_us, as_columns(some), b""), index)

    def _numbered(self, series: Series, index: int) -> Series:
        writer = Writer.of(series.topic, index, seed=self.seed)
        before = self._numbers.get((series.topic.name, index), 0)
        self._numbers[series.topic.name, index] = before + len(series)
        return writer.series(series.times_us, series.columns, before + 1)

    def _publishes(self, topic: str) -> bool:
        return self._events is None or topic in self._events

    def _rate_hz(self, signal: Signal) -> float:
        return max(1.0, signal.rate_hz * self.rate) if signal.rate_hz > 1 else signal.rate_hz


def sample_times(signal: Signal, sal_index: int, block: int, rate_hz: float) -> NDArray[np.int64]:
    """When a signal is sampled in a block, UTC microseconds: a steady grid with a little jitter."""
    period_us = round(1e6 / rate_hz)
    phase_us = zlib.crc32(f"{signal.topic} {sal_index}".encode()) % period_us
    jitter_us = min(_JITTER_US, period_us // 20)
    start_us = block * BLOCK_US
    first = -(-(start_us - phase_us) // period_us) - 1
    numbers = np.arange(first, first + BLOCK_US // period_us + 3, dtype=np.int64)
    scattered = ((numbers.view(np.uint64) + np.uint64(phase_us)) * _SCATTER) >> np.uint64(40)
    times_us = numbers * period_us + phase_us + (scattered % np.uint64(jitter_us + 1)).astype(np.int64)
    return times_us[(times_us >= start_us) & (times_us < start_us + BLOCK_US)]


def run_observatory(
    settings: Settings,
    seed: int,
    seconds: float,
    speed: Speed = "max",
    start: datetime | None = None,
    exposures: bool = False,
    consdb_url: str | None = None,
    *,
    rate: float = 1.0,
    topics: frozenset[str] | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Produced:
    """Produce `seconds` (infinite: until interrupted) of the observatory of a seed.

    Args:
        speed: times real time, or `max`.
        start: the first event time; None for now.
        exposures: also write the LSSTCam exposures that were read out to ConsDB's exposure table.
        consdb_url: where that is; None for the settings' own.
        rate, topics: see `Observatory`.
        cluster: see `SalProducer`.

    Raises:
        KafkaUnavailable, RegistryUnavailable, DatabaseUnavailable: as named.
    """
    if not seconds > 0:
        raise UsageError(f"{seconds} seconds cannot be simulated", remedy="Give a number above 0.")
    began = time.monotonic()
    parse_speed(speed)
    observatory = Observatory(seed, rate, topics)
    announced = observatory.topics()
    taken, unwritten, total = 0, list[Exposure](), 0
    with SalProducer(settings, cluster) as producer:
        producer.prepare(announced)
        if exposures:
            # The table is there before its first exposure is, as it is at the observatory.
            _write(settings, consdb_url, producer, [])
        start = start or datetime.now(UTC)
        pace = Pace(speed, anchor_us=microseconds(start))
        for series in observatory.blocks(start, seconds):
            producer.send(series, pace, progress, total)
            total = _expected(producer.records, series, start, seconds)
            read_out = _read_out(seed, series)
            taken += len(read_out)
            unwritten += read_out if exposures else []
            if len(unwritten) >= (_ROWS_AT_ONCE if pace.is_max else 1):
                _write(settings, consdb_url, producer, unwritten)
                unwritten.clear()
        if unwritten:
            _write(settings, consdb_url, producer, unwritten)
    return Produced(len(announced), producer.records, taken, time.monotonic() - began)


def _expected(records: int, series: list[Series], start: datetime, seconds: float) -> int:
    """How many records it will be, judged by those up to the end of this block; 0 where there is no end."""
    if math.isinf(seconds) or not series:
        return 0
    passed_us = max(int(one.times_us[-1]) for one in series) - microseconds(start)
    return max(records, round(records * seconds * 1e6 / max(passed_us, 1)))


def _write(settings: Settings, url: str | None, producer: SalProducer, taken: list[Exposure]) -> None:
    """Write exposures to ConsDB when their events are there: who sees the row, finds the telemetry."""
    producer.flush()
    rows = [one.row() for one in taken]
    write_exposures(url or settings.require_consdb(), f"cdb_{LSSTCAM.instrument}", rows)


def _read_out(seed: int, series: list[Series]) -> list[Exposure]:
    """The exposures whose `endReadout` is among the records."""
    name = f"lsst.sal.{LSSTCAM.csc}.logevent_endReadout"
    return [
        plan_at(LSSTCAM, seed, time_us).exposure(int(number) - 1)
        for one in series
        if one.topic.name == name
        for time_us, number in zip(one.times_us.tolist(), one.columns["imageNumber"].tolist(), strict=True)
    ]
