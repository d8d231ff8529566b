"""An archive of the simulated observatory, made without Kafka: what its series hold, laid out as drains lay it out.

For tests that need days of an observatory and no broker: exports on a Dask cluster, notebooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.simulator.observatory import Observatory
from efd_pipelines.simulator.series import Series
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME, plan_layout
from efd_pipelines.topics.schemas import parse_schema
from efd_pipelines_tests.unit.exports.builders import ArchiveBuilder


def observe(
    builder: ArchiveBuilder,
    topics: Iterable[str],
    starts: Sequence[datetime],
    seconds: float,
    *,
    seed: int = 1,
    rate: float = 1.0,
    unit: SliceUnit = SliceUnit.DAY,
) -> int:
    """Archives so many seconds of some topics (without `lsst.sal.`) from each start on; how many records."""
    chosen = frozenset(topics)
    offsets: dict[str, int] = {}
    for start in starts:
        by_topic: dict[str, list[pa.Table]] = {}
        for block in Observatory(seed, rate, chosen).blocks(start, seconds):
            for series in block:
                first = offsets.get(series.topic.name, 0)
                by_topic.setdefault(series.topic.name, []).append(rows_of(series, first))
                offsets[series.topic.name] = first + len(series)
        for topic, tables in by_topic.items():
            builder.add(topic, pa.concat_tables(tables), unit=unit)
    return sum(offsets.values())


def rows_of(series: Series, first_offset: int = 0) -> pa.Table:
    """The records of a series as the archive has them; offsets begin at `first_offset`."""
    layout = plan_layout(parse_schema(series.topic.avro_schema()))
    count = len(series)
    columns: dict[str, Any] = {"time": pa.array(series.times_us, TIME)}
    for column, field in zip(layout.columns, layout.arrow_schema(), strict=True):
        columns[column.name] = _array(series.columns.get(column.field), column.element, field.type, count)
    columns |= {
        "kafka_partition": pa.array(np.zeros(count), pa.int32()),
        "kafka_offset": pa.array(np.arange(first_offset, first_offset + count), pa.int64()),
        "kafka_timestamp": pa.array(series.times_us, TIME),
        "kafka_key": pa.nulls(count, pa.binary()),
        "archive_source": pa.array(["cluster/topic"] * count),
        "archive_schema": pa.array(np.full(count, 7), pa.int64()),
    }
    system = [pa.field(name, SYSTEM_COLUMNS[name]) for name in list(columns)[-6:]]
    schema = pa.schema([pa.field("time", TIME), *layout.arrow_schema(), *system])
    return pa.table(list(columns.values()), schema=schema)


def _array(values: Any, element: int | None, kind: pa.DataType, count: int) -> Any:
    if values is None:
        filler = "" if pa.types.is_string(kind) else 0
        return pa.array([filler] * count).cast(kind)
    if element is not None:
        values = np.asarray(values)
        values = values[:, element] if values.ndim == 2 else np.full(count, values[element])
    if not isinstance(values, (list, np.ndarray)):
        values = [values] * count
    return pa.array(values).cast(kind, safe=False)
