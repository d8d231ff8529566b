"""Everything: all topics of a catalogue at once, with random but valid values.

To see how the project does with all 3,348 topics of the control system: discovery, archive, status. What the
values mean, nobody knows; `observatory.py` is for that.
"""

from __future__ import annotations

import time
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from efd_pipelines.errors import UsageError
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.encoding import Column
from efd_pipelines.simulator.producer import Produced, Progress, SalProducer
from efd_pipelines.simulator.sal import SalField, SalTopic, load_topics
from efd_pipelines.simulator.series import Series, Writer
from efd_pipelines.times import microseconds

_RANGES = {
    "byte": (-(2**7), 2**7 - 1),
    "short": (-(2**15), 2**15 - 1),
    "int": (-(2**31), 2**31 - 1),
    "long": (-(2**31), 2**31 - 1),
    "long long": (-(2**63), 2**63 - 1),
    "unsigned short": (0, 2**16 - 1),
    "unsigned int": (0, 2**32 - 1),
}
_LETTERS = "abcdefghijklmnop ÄµΩ…'\"\\,\n"
_RECORDS_AT_ONCE = 5_000
_INTERVAL_US = 100_000


def produce_topics(
    settings: Settings,
    file: Path,
    records: int = 1,
    *,
    start: datetime | None = None,
    seed: int = 0,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Produced:
    """Make all topics of a `topics.json[.gz]`, register their schemas and produce records of each.

    Args:
        records: of each topic, a tenth of a second apart.
        start: event time of the first; None for now, so that the last is not in the future.

    Raises:
        UsageError: the file is another's.
        KafkaUnavailable, RegistryUnavailable: as named.
    """
    if records < 0:
        raise UsageError(f"{records} records cannot be produced", remedy="Give 0 or more.")
    began = time.monotonic()
    topics = list(load_topics(file).values())
    start_us = microseconds(start or datetime.now(UTC)) - (0 if start else records * _INTERVAL_US)
    at_once = max(1, _RECORDS_AT_ONCE // max(records, 1))
    with SalProducer(settings, cluster) as producer:
        producer.prepare(topics)
        for first in range(0, len(topics) if records else 0, at_once):
            some = topics[first : first + at_once]
            series = [random_series(topic, records, start_us, seed) for topic in some]
            producer.send(series, None, progress, records * len(topics))
    return Produced(len(topics), producer.records, seconds=time.monotonic() - began)


def random_series(topic: SalTopic, records: int, start_us: int, seed: int = 0, first: int = 1) -> Series:
    """Records of one writer of a topic, numbered from `first`, with random values in all public fields."""
    rng = np.random.default_rng([seed, zlib.crc32(topic.name.encode()), first])
    times_us = start_us + _INTERVAL_US * np.arange(records, dtype=np.int64)
    columns = {field.name: _values(topic, field, records, rng) for field in topic.public_fields}
    if topic.is_ccs:
        columns["timestamp"] = times_us // 1000
    return Writer.of(topic, 1 if topic.indexed else 0, seed=seed).series(times_us, columns, first)


def _values(topic: SalTopic, field: SalField, records: int, rng: np.random.Generator) -> Column:
    shape = (records, field.count) if field.count > 1 else (records,)
    if field.sal_type == "string":
        return ["".join(rng.choice(list(_LETTERS), rng.integers(0, 12))) for _ in range(records)]
    if field.sal_type == "boolean":
        values: Column = rng.random(shape) < 0.5
    elif field.sal_type in ("float", "double"):
        values = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 6)
        # NaN is how SAL says that there is no value.
        values[rng.random(shape) < 0.05] = np.nan
    else:
        values = rng.integers(*_RANGES[field.sal_type], size=shape, endpoint=True)
    if topic.is_ccs and field.name != "timestamp":
        return np.ma.masked_array(values, rng.random(records) < 0.1)
    return values
