"""Legacy: what lsst-efd-client's calls need beside a selection.

Fields sorted by name, the newest rows first, indices in TAI, packed arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from efd_pipelines.client.fields import asked_fields
from efd_pipelines.client.frames import to_pandas
from efd_pipelines.client.moments import duration_us, is_duration, time_us
from efd_pipelines.client.packed import merge_packed_time_series, packed_fields
from efd_pipelines.client.reader import Question, Reader
from efd_pipelines.client.windows import TimeWindow
from efd_pipelines.errors import UsageError
from efd_pipelines.times import (
    FIRST_WEEK,
    from_microseconds,
    tai_datetimes_from_utc_us,
    utc_us_from_tai_datetimes,
)

_EVER_US = 4_102_444_800_000_000
"""The year 2100."""


def all_sorted(
    reader: Reader, topic: str, fields: str | bytes | Iterable[str] | None, resolution: str
) -> tuple[str, ...]:
    """The fields; all of them sorted by name, as InfluxDB gives them, where all are asked for."""
    asked = asked_fields(fields)
    return tuple(reader.fields(topic)) if asked == ("*",) and resolution == "raw" else asked


def top(
    reader: Reader,
    topic: str,
    fields: str | bytes | Iterable[str] | None,
    count: int,
    before: Any,
    device: tuple[str, int] | None,
    *,
    is_tai: bool,
) -> pd.DataFrame:
    """The last rows, the latest first; before a time where it is given.

    Raises:
        UsageError: `count` is no number of rows.
    """
    if count < 1:
        raise UsageError(f"{count} is no number of rows", remedy="Ask for one or more.")
    end_us = _EVER_US if before is None else _tai_us(time_us(before)) if is_tai else time_us(before)
    names = all_sorted(reader, topic, fields, "raw")
    selection = reader.select(Question(topic, names, TimeWindow(FIRST_WEEK.start_us, max(end_us, 0)), device))
    rows = selection.latest(count)
    rows = rows.replace_schema_metadata(selection.provenance().metadata())
    return to_pandas(rows).iloc[::-1].rename_axis(index=None)


def tai_window(start: Any, end: Any, is_window: bool) -> tuple[Any, Any]:
    """The window's ends as an index in TAI has them."""
    if start is None or end is None:
        raise UsageError("An index in TAI needs start and end", remedy="Give both.")
    first = time_us(start)
    if not is_duration(end):
        last = time_us(end)
    elif is_window:
        first, last = first - duration_us(end) // 2, first + duration_us(end) // 2
    else:
        last = first + duration_us(end)
    return from_microseconds(_tai_us(first)), from_microseconds(_tai_us(last))


def _tai_us(utc_us: int) -> int:
    moments = np.array([utc_us], dtype="datetime64[us]")
    return int(tai_datetimes_from_utc_us(moments).astype(np.int64)[0])


def as_if_tai(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its index taken for TAI and turned into UTC."""
    naive = frame.index.as_unit("us").tz_localize(None).to_numpy()  # type: ignore[attr-defined]
    index = pd.DatetimeIndex(utc_us_from_tai_datetimes(naive)).tz_localize("UTC").as_unit("ns")
    return frame.set_axis(index, axis="index")


def packed_names(reader: Reader, topic: str, base_fields: str | bytes | Iterable[str]) -> dict[str, list[str]]:
    """The elements' fields of each array.

    Raises:
        UsageError: one is no array, or they are not equally long.
    """
    known = reader.fields(topic)
    found = {base: packed_fields(known, base) for base in asked_fields(base_fields)}
    lengths = {base: len(names) for base, names in found.items()}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{base} has {length}" for base, length in lengths.items())
        raise UsageError(f"The fields have not as many elements: {text}", remedy="Ask for them one by one.")
    return found


def declared_interval_s(reader: Reader, topic: str, length: int) -> float:
    """Seconds from one element to the next by the topic's declared rate."""
    rate_hz = reader.archive.settings.configuration.rate_hz(reader.dataset(topic))
    return 1.0 / rate_hz / length


def unpacked(
    rows: pd.DataFrame, bases: list[str], reference: str, fmt: str, scale: str, declared_s: float
) -> pd.DataFrame:
    """The arrays of all records unrolled: their columns, and `times`."""
    per_device = rows.groupby("salIndex")[reference].nunique() if "salIndex" in rows else rows[[reference]].nunique()
    interval_s = declared_s if int(per_device.min() if len(per_device) else 0) < 2 else None
    parts = [
        merge_packed_time_series(rows, base, ref_timestamp_col=reference, fmt=fmt, scale=scale, interval_s=interval_s)
        for base in bases
    ]
    found = pd.DataFrame(
        {base: part[base] for base, part in zip(bases, parts, strict=True)} | {"times": parts[0]["times"]}
    )
    units = rows.attrs.get("units", {})
    found.attrs = {**rows.attrs, "units": {base: units[f"{base}0"] for base in bases if f"{base}0" in units}}
    return found
