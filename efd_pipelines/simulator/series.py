"""Series: records of one topic in order of time, and how the series of many topics become one stream.

A series holds columns, not messages: sources make it with numpy, tests compute expectations from the same
columns, and `encoding.py` turns it into bodies. `stamped` adds what every SAL writer adds.
Sending: `producer.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.simulator.encoding import Column, encoder_of
from efd_pipelines.simulator.sal import SalTopic
from efd_pipelines.times import tai_unix_from_utc_unix
from efd_pipelines.topics.names import Kind

_SCATTER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Series:
    """Records of one topic.

    `times_us` are event times in UTC; `columns` has the values by field, as `AvroEncoder.encode` takes them:
    a scalar for all records, or one entry each; `keys` likewise.
    """

    topic: SalTopic
    times_us: NDArray[np.int64]
    columns: Mapping[str, Column]
    keys: bytes | Sequence[bytes]

    def __len__(self) -> int:
        return len(self.times_us)

    def bodies(self) -> list[bytes]:
        """The Avro bodies, one per record, without the frame's head."""
        return encoder_of(self.topic.avro_schema()).encode(self.columns, len(self))

    def between(self, first: int, end: int) -> Series:
        """Rows from `first` to `end`, excluded."""
        columns = {
            name: column[first:end] if isinstance(column, (list, np.ndarray)) else column
            for name, column in self.columns.items()
        }
        keys = self.keys if isinstance(self.keys, bytes) else self.keys[first:end]
        return Series(self.topic, self.times_us[first:end], columns, keys)

    def key(self, row: int) -> bytes:
        return self.keys if isinstance(self.keys, bytes) else self.keys[row]

    def partitions(self, count: int) -> NDArray[np.int64]:
        """Where each record goes: scattered, as salobj's empty keys are, but the same each time."""
        if count == 1:
            return np.zeros(len(self), dtype=np.int64)
        scattered = (self.times_us.view(np.uint64) * _SCATTER) >> np.uint64(33)
        return (scattered % np.uint64(count)).astype(np.int64)

    def kafka_timestamps_ms(self) -> NDArray[np.int64] | None:
        """The records' own Kafka time stamps; None leaves them to the client's clock, as salobj does.

        Outside SAL the event time is often nowhere else.
        """
        return self.times_us // 1000 if self.topic.kind is Kind.METRIC else None


@dataclass(frozen=True, slots=True)
class Writer:
    """One SAL writer: it counts from 1 and signs its records with its identity and process id."""

    topic: SalTopic
    sal_index: int = 0
    origin: int = 0

    @classmethod
    def of(cls, topic: SalTopic, sal_index: int = 0, *, seed: int = 0) -> Writer:
        """A writer whose process id is the component's, the same for the same seed."""
        process = zlib.crc32(f"{seed} {topic.identity(sal_index)}".encode())
        return cls(topic, sal_index, 1000 + process % 4_000_000)

    def series(self, times_us: NDArray[np.int64], columns: Mapping[str, Column], first: int) -> Series:
        """Records with these public columns; their numbers begin at `first`."""
        private = private_columns(times_us)
        private["private_seqNum"] = np.arange(first, first + len(times_us), dtype=np.int64)
        private["private_revCode"] = self.topic.rev_code
        private["private_identity"] = self.topic.identity(self.sal_index)
        private["private_origin"] = self.origin
        if self.topic.indexed:
            private["salIndex"] = self.sal_index
        return Series(self.topic, times_us, {**private, **columns}, self.topic.key(self.sal_index))


def private_columns(times_us: NDArray[np.int64]) -> dict[str, Column]:
    """The four stamps for these event times, and no number yet.

    `private_efdStamp` is half a microsecond into its microsecond, so that flooring gives the time back
    (design.md §5); salobj's writers leave `private_rcvStamp` at 0 (efd-facts §1.3).
    """
    efd_stamps: NDArray[np.float64] = (times_us.astype(np.float64) + 0.5) / 1e6
    tai_stamps = tai_unix_from_utc_unix(efd_stamps)
    return {
        "private_sndStamp": tai_stamps,
        "private_rcvStamp": 0.0,
        "private_efdStamp": efd_stamps,
        "private_kafkaStamp": tai_stamps,
    }


def windows(series: Sequence[Series], records: int) -> Iterator[list[Series]]:
    """The same records in pieces of about `records`, cut at the same event times in all series."""
    times = np.sort(np.concatenate([one.times_us for one in series])) if series else np.empty(0, np.int64)
    cuts = [*np.unique(times[records::records]).tolist(), None]
    before = [0] * len(series)
    for cut in cuts:
        ends = [len(one) if cut is None else int(np.searchsorted(one.times_us, cut)) for one in series]
        yield [one.between(first, end) for one, first, end in zip(series, before, ends, strict=True) if end > first]
        before = ends


def in_order(series: Sequence[Series]) -> Iterator[tuple[int, int]]:
    """Which record of which series comes next, (series, row), by event time; a series' own order stays."""
    if not series:
        return
    times = np.concatenate([one.times_us for one in series])
    which = np.repeat(np.arange(len(series)), [len(one) for one in series])
    row = np.concatenate([np.arange(len(one)) for one in series])
    order = np.argsort(times, kind="stable")
    yield from zip(which[order].tolist(), row[order].tolist(), strict=True)
