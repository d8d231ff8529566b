"""Points: what Telegraf makes of records, and InfluxDB keeps of them, written independently of `history/`.

Arrays flattened, NaN and null dropped, every float a float64 and every int an int64, the event time in nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.simulator.series import Series
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME, Column, arrow_field, column_of

_BYTES_AT_ONCE = 8_000_000


def lines_of(measurement: str, rows: pa.Table) -> Iterator[str]:
    """A line for each row."""
    columns = [column for column in map(column_of, rows.schema) if column is not None]
    names = [column.field if column.element is None else f"{column.field}{column.element}" for column in columns]
    values = [rows[column.name].to_pylist() for column in columns]
    times = rows["time"].cast(pa.int64()).to_pylist()
    for n, time_us in enumerate(times):
        texts = (part for name, of in zip(names, values, strict=True) for part in _parts(name, of[n]))
        yield f"{measurement} {','.join(texts)} {time_us * 1000}"


def _parts(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for element, item in enumerate(value):
            yield from _parts(f"{name}{element}", item)
        return
    text = _text(value)
    if text is not None:
        yield f"{name}={text}"


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}i"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else None
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def as_rows(series: Series) -> pa.Table:
    """The records as an archive would have them, for InfluxDB's lines."""
    columns: dict[str, pa.Array] = {}
    for name, of in series.columns.items():
        values = np.asarray(of) if not isinstance(of, list) else of
        if isinstance(values, np.ndarray) and values.ndim == 2:
            columns |= {f"{name}{n}": pa.array(values[:, n]) for n in range(values.shape[1])}
        elif isinstance(values, list) or values.ndim == 1:
            columns[name] = pa.array(values)
        else:
            columns[name] = pa.array([values.item()] * len(series))
    floats = {field.name for field in series.topic.fields if field.sal_type == "float"}
    for name in columns:
        if name.rstrip("0123456789") in floats:
            columns[name] = columns[name].cast(pa.float32())
    fields = [arrow_field(Column(name, name, None, values.type)) for name, values in columns.items()]
    times = pa.array(series.times_us).cast(TIME)
    return pa.table([times, *columns.values()], schema=pa.schema([pa.field("time", TIME), *fields]))


def write_points(influx: InfluxServer, database: str, measurement: str, rows: pa.Table) -> int:
    """Writes the rows as points; how many."""
    ask(influx, f'CREATE DATABASE "{database}"')
    lines = list(lines_of(measurement, rows))
    at_once = max(1, _BYTES_AT_ONCE // max(map(len, lines), default=1))
    for first in range(0, len(lines), at_once):
        body = "\n".join(lines[first : first + at_once]).encode()
        answer = httpx.post(f"{influx.url}/write", params={"db": database, "precision": "ns"}, content=body, timeout=60)
        assert answer.status_code == 204, answer.text
    return len(lines)


def ask(influx: InfluxServer, query: str, database: str = "") -> Any:
    """The answer to a statement."""
    answer = httpx.post(f"{influx.url}/query", data={"db": database, "q": query}, timeout=60)
    answer.raise_for_status()
    return answer.json()


def message_columns(rows: pa.Table) -> list[str]:
    """Names of the message's columns."""
    return [name for name in rows.column_names if name not in SYSTEM_COLUMNS]
