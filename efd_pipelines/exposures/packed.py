"""Packed series: arrays whose elements were measured one after the other, each at an instant of its own.

Element i of a record was measured at the record's reference + i × interval. The reference is the topic's own field for
it (TAI), where that lies within `REACH` of the event time; else the last element was measured at the event time. The
interval is the topic's own field for it where that is above 0; else the time to the nearer neighbour (the record before
or after of the same salIndex), by the array's length; else, with no neighbour within `REACH`, what the topic's declared
rate makes it. Sources: efd-facts.md §1.4, §1.5 and §10 (the EFD client).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.exposures.columns import Packing
from efd_pipelines.exposures.samples import element_values
from efd_pipelines.times import utc_unix_from_tai_unix

REACH_US = 10_000_000
MARGIN_US = 2 * REACH_US
"""How far around a window packed records are read: an element lies within `REACH` of its record's time, and its
neighbours within another."""

Microseconds = NDArray[np.int64]


def element_times(table: pa.Table, packing: Packing, length: int, declared_s: float) -> Microseconds:
    """When each element of each row was measured: shape (rows, elements taken), UTC microseconds.

    Rows are in the order of time; `declared_s` is from one record to the next by the configuration.
    """
    time_us = table["time"].cast(pa.int64()).to_numpy()
    reference_us = _references(table, packing, time_us)
    trusted = np.abs(reference_us - time_us) <= REACH_US
    instants = np.where(trusted, reference_us, time_us)
    step_us = _steps(table, packing, instants, length, declared_s)
    first_us = np.where(trusted, reference_us.astype(np.float64), time_us - (length - 1) * step_us)
    indices = np.arange(length) if packing.indices is None else np.array(packing.indices)
    whole = first_us.astype(np.int64)
    return whole[:, None] + np.rint((first_us - whole)[:, None] + indices * step_us[:, None]).astype(np.int64)


def _references(table: pa.Table, packing: Packing, time_us: Microseconds) -> Microseconds:
    """The topic's own instants, UTC microseconds; far away where it has none."""
    nowhere = np.full(len(time_us), np.iinfo(np.int64).min // 4)
    if packing.reference is None or not len(time_us):
        return nowhere
    tai_s = element_values(table, packing.reference)[:, 0].astype(np.float64)
    # What is far away is no instant, and may be beyond the table of leap seconds.
    near = np.abs(tai_s - time_us / 1e6) < 1000.0
    utc_s = utc_unix_from_tai_unix(tai_s[near])
    nowhere[near] = np.floor(utc_s * 1e6).astype(np.int64)
    return nowhere


def _steps(
    table: pa.Table, packing: Packing, instants: Microseconds, length: int, declared_s: float
) -> NDArray[np.float64]:
    """Microseconds from one element to the next, for each row."""
    nearer = _nearer_neighbours(table, instants)
    step_us: NDArray[np.float64] = np.where(np.isinf(nearer), declared_s * 1e6, nearer) / max(length, 1)
    if packing.interval is None:
        return step_us
    own_us = element_values(table, packing.interval)[:, 0].astype(np.float64) * 1e6
    return np.where((own_us > 0) & (own_us * length <= REACH_US), own_us, step_us)


def _nearer_neighbours(table: pa.Table, instants: Microseconds) -> NDArray[np.float64]:
    """How far the nearer neighbour of each row is, in microseconds; infinite where there is none within reach."""
    rows = len(instants)
    index = table["salIndex"].to_numpy() if "salIndex" in table.column_names else np.zeros(rows, dtype=np.int64)
    order = np.lexsort((instants, index))
    ordered, of = instants[order].astype(np.float64), index[order]
    apart = np.where(of[1:] == of[:-1], np.diff(ordered), np.inf)
    apart = np.where((apart > 0) & (apart <= REACH_US), apart, np.inf)
    nearer = np.empty(rows)
    nearer[order] = np.minimum(np.append(np.inf, apart), np.append(apart, np.inf))[:rows]
    return nearer
