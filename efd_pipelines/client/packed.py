"""Packed series: arrays whose elements were measured one after the other, unrolled into a frame with one row for each.

As lsst-efd-client does it, except for when the elements were measured. That takes the time between the first two
records for all others; where there is a gap or jitter between those, every time of the answer is wrong, and of one
record all elements have one time. Here each record's elements are spread over the time to the next record, where that
is no longer than one and a half times the usual; over the usual time after the last one and before a gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.errors import UsageError
from efd_pipelines.times import utc_unix_from_tai_unix

if TYPE_CHECKING:
    import pandas as pd

_GAP = 1.5


def packed_fields(names: list[str], base_field: str) -> list[str]:
    """The fields of an array, by their elements' numbers.

    Raises:
        UsageError: there are none, or an element is missing.
    """
    numbered = {
        int(name[len(base_field) :]): name
        for name in names
        if name.startswith(base_field) and name[len(base_field) :].isdigit()
    }
    if not numbered or sorted(numbered) != list(range(len(numbered))):
        missing = next((n for n in range(len(numbered) + 1) if n not in numbered), 0)
        raise UsageError(
            f"{base_field} is no array: there is no field {base_field}{missing}", remedy="See `get_schema(topic)`."
        )
    return [numbered[n] for n in range(len(numbered))]


def merge_packed_time_series(
    packed_dataframe: pd.DataFrame,
    base_field: str,
    stride: int = 1,
    ref_timestamp_col: str = "cRIO_timestamp",
    fmt: str = "unix_tai",
    scale: str = "tai",
    *,
    interval_s: float | None = None,
) -> pd.DataFrame:
    """One row for each element of the packed field, indexed by when it was measured (UTC); column `times` has that in
    the scale of `ref_timestamp_col`. Where there is a column `salIndex`, the next record is the same device's.

    Args:
        stride: 3 takes every third element; a factor of how many there are.
        fmt, scale: of `ref_timestamp_col`, as astropy calls them; others than unix and unix_tai need astropy.
        interval_s: seconds from one element to the next, where they are known; else taken from the records' own
            times. A single record needs it.

    Raises:
        UsageError: there is no such array or column, or nothing says how long a record is.
    """
    import pandas as pd

    fields = packed_fields([str(name) for name in packed_dataframe.columns], base_field)
    if stride < 1 or len(fields) % stride:
        raise UsageError(
            f"{stride} is no factor of the {len(fields)} elements of {base_field}", remedy="Give another `stride`."
        )
    if ref_timestamp_col not in packed_dataframe.columns:
        raise UsageError(f"There is no column {ref_timestamp_col}", remedy="Name the topic's own time stamps.")
    starts = packed_dataframe[ref_timestamp_col].to_numpy(dtype=np.float64)
    devices = packed_dataframe["salIndex"].to_numpy() if "salIndex" in packed_dataframe else np.zeros(len(starts))
    steps = _of_each_device(starts, devices, len(fields), interval_s)
    elements = np.arange(0, len(fields), stride)
    values = packed_dataframe[[fields[n] for n in elements]].to_numpy(dtype=np.float64).ravel()
    times = (starts[:, None] + elements[None, :] * steps[:, None]).ravel()
    index = pd.DatetimeIndex(_utc(times, fmt, scale)).tz_localize("UTC")
    found = pd.DataFrame({base_field: values, "times": times}, index=index)
    found.attrs = dict(packed_dataframe.attrs)
    return found


def _of_each_device(
    starts: NDArray[np.float64], devices: NDArray[Any], length: int, interval_s: float | None
) -> NDArray[np.float64]:
    """Seconds from one element to the next, for each record: the next record is the same device's."""
    steps = np.zeros(len(starts))
    for device in np.unique(devices):
        mine = devices == device
        steps[mine] = _steps(starts[mine], length, interval_s)
    return steps


def _steps(starts: NDArray[np.float64], length: int, interval_s: float | None) -> NDArray[np.float64]:
    """Seconds from one element to the next, for each record."""
    if interval_s is not None:
        return np.full(len(starts), interval_s)
    apart = np.diff(starts)
    positive = apart[apart > 0]
    if len(starts) and not len(positive):
        raise UsageError(
            "One record does not say how far its elements are apart", remedy="Give `interval_s`, or take more records."
        )
    usual = float(np.median(positive)) if len(positive) else 0.0
    following = np.append(apart, usual)
    trusted = (following > 0) & (following <= _GAP * usual)
    steps: NDArray[np.float64] = np.where(trusted, following, usual)[: len(starts)] / length
    return steps


def _utc(times: NDArray[np.float64], fmt: str, scale: str) -> NDArray[np.datetime64]:
    """UTC without a zone, in nanoseconds."""
    if fmt in ("unix_tai", "unix") and scale in ("tai", "utc"):
        seconds = utc_unix_from_tai_unix(times) if fmt == "unix_tai" else times
        whole = np.floor(seconds)
        nanoseconds = np.rint((seconds - whole) * 1e9).astype(np.int64)
        found: NDArray[np.datetime64] = (whole.astype(np.int64) * 1_000_000_000 + nanoseconds).view("datetime64[ns]")
        return found
    return _by_astropy(times, fmt, scale)


def _by_astropy(times: NDArray[np.float64], fmt: str, scale: str) -> NDArray[np.datetime64]:
    try:
        from astropy.time import Time
    except ImportError:
        raise UsageError(f"Times as {fmt} in {scale} need astropy", remedy="Install astropy.") from None
    found: NDArray[np.datetime64] = Time(times, format=fmt, scale=scale).utc.to_value("datetime64")
    return found.astype("datetime64[ns]")
