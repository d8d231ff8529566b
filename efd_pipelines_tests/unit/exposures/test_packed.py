"""Packed series: when each element of an array was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.exposures.columns import Element, Packing
from efd_pipelines.exposures.packed import element_times
from efd_pipelines.times import microseconds
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    NIGHT,
    Build,
    a_column,
    an_exposure,
    table_of,
    utc,
)

START_US = microseconds(NIGHT)
TAI = 37.0


def rows(offsets_s: list[float], **fields: Any) -> pa.Table:
    time_us = START_US + np.round(np.array(offsets_s) * 1e6).astype(np.int64)
    return table_of(time_us, {name: np.array(values) for name, values in fields.items()})


def measured(table: pa.Table, length: int = 4, declared_s: float = 1.0, **packing: Any) -> list[list[float]]:
    """Seconds after the start."""
    given = Packing(
        **{"indices": tuple(range(length)), "length": length, "reference": None, "interval": None, **packing}
    )
    found = element_times(table, given, length, declared_s)
    return [[round(float(us - START_US) / 1e6, 6) for us in row] for row in found.tolist()]


def stamps(*offsets_s: float) -> list[float]:
    """TAI, half a microsecond in, so that flooring gives the microsecond back."""
    return [(START_US + round(offset * 1e6) + 0.5) / 1e6 + TAI for offset in offsets_s]


def test_elements_follow_the_reference_at_the_pace_of_the_records() -> None:
    table = rows([1.0, 2.0, 3.0], cRIO_timestamp=stamps(0.2, 1.2, 2.2))
    found = measured(table, reference=Element(("cRIO_timestamp",)))
    assert found == [[0.2, 0.45, 0.7, 0.95], [1.2, 1.45, 1.7, 1.95], [2.2, 2.45, 2.7, 2.95]]


def test_an_interval_of_their_own_counts_more_than_the_pace() -> None:
    table = rows([1.0, 2.0], timestamp=stamps(0.0, 1.0), interval=[0.1, 0.0])
    found = measured(table, reference=Element(("timestamp",)), interval=Element(("interval",)))
    assert found == [[0.0, 0.1, 0.2, 0.3], [1.0, 1.25, 1.5, 1.75]]


def test_without_a_reference_the_last_element_is_at_the_event_time() -> None:
    assert measured(rows([1.0, 2.0])) == [[0.25, 0.5, 0.75, 1.0], [1.25, 1.5, 1.75, 2.0]]


@pytest.mark.parametrize("unset", [0.0, float("nan"), START_US / 1e6 + TAI + 13.0])
def test_a_reference_that_is_not_set_or_far_away_is_none(unset: float) -> None:
    table = rows([1.0, 2.0], cRIO_timestamp=[unset, unset])
    assert measured(table, reference=Element(("cRIO_timestamp",))) == measured(rows([1.0, 2.0]))


def test_a_gap_does_not_stretch_a_record_and_indices_have_their_own_neighbours() -> None:
    assert measured(rows([1.0, 2.0, 8.0]))[1] == [1.25, 1.5, 1.75, 2.0]
    two = rows([1.0, 1.1, 2.0, 2.1], salIndex=np.array([1, 2, 1, 2], dtype=np.int32))
    assert measured(two)[2] == [1.25, 1.5, 1.75, 2.0]


def test_a_record_alone_is_as_long_as_its_topic_is_declared_to_be() -> None:
    assert measured(rows([5.0]), declared_s=2.0) == [[3.5, 4.0, 4.5, 5.0]]


def packed(name: str, function: str, *fields: str, **more: Any) -> str:
    return a_column(name, function, fields=list(fields), **more).replace("packed_series: False", "packed_series: True")


def test_only_elements_within_the_window_count(observatory_with: Build) -> None:
    observatory = observatory_with(
        packed("n", "count", "angle"),
        packed("first", "first", "angle"),
        packed("last", "last", "angle"),
        packed("odd", "count", "angle1", "angle3"),
        packed("residual", "rms_from_polynomial_fit", "angle"),
        packed("means", "count", "angle", pre_aggregate_interval="1s"),
    )
    # Ten hertz: the samples are 0.0, 0.1 … 9.9 s after the start, each with its own tenth as value.
    values = np.arange(100, dtype=np.float64).reshape(10, 10) / 10
    table = rows([n + 1.05 for n in range(10)], angle=values, cRIO_timestamp=stamps(*range(10)))
    observatory.archives(AZIMUTH, table)
    observatory.exposes(an_exposure(utc("2026-11-17T02:00:02.45"), 3.1))
    observatory.joins()
    (row,) = observatory.rows()
    inside = np.arange(25, 56) / 10
    assert (row["n"], row["first"], row["last"]) == (len(inside), 2.5, 5.5)
    assert row["odd"] == sum(round(value * 10) % 10 in (1, 3) for value in inside)
    assert row["residual"] < 1e-12
    assert row["means"] == 4.0


def test_a_late_record_makes_stale_what_its_elements_reach_into(observatory_with: Build) -> None:
    observatory = observatory_with(packed("n", "count", "angle"))
    observatory.archives(AZIMUTH, rows([1.0, 2.0], angle=np.ones((2, 10))))
    observatory.exposes(an_exposure(NIGHT, 2.5))
    observatory.joins()
    assert observatory.value("n") == 20.0
    # Sent after the exposure's end, measured within it.
    observatory.archives(AZIMUTH, rows([3.0], angle=np.ones((1, 10))))
    assert observatory.joins().exposures == 1
    assert observatory.value("n") == 25.0


def test_a_dataset_that_keeps_lists_is_expanded_likewise(observatory_with: Build) -> None:
    observatory = observatory_with(packed("n", "count", "angle"), packed("last", "last", "angle"))
    time_us = START_US + np.array([1, 2]) * 1_000_000
    lists = pa.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], pa.list_(pa.float64()))
    observatory.archives(AZIMUTH, table_of(time_us, {"angle": lists}))
    observatory.exposes(an_exposure(NIGHT, 1.5))
    observatory.joins()
    assert (observatory.value("n"), observatory.value("last")) == (6.0, 6.0)
