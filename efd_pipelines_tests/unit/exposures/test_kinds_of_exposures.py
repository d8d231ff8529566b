"""Kinds of exposures: by daylight, not ended, of no length, of two cameras at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.exposures.consdb import write_exposures
from efd_pipelines.exposures.joins import join_exposures
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    LATER,
    Build,
    Observatory,
    a_column,
    a_configuration,
    an_exposure,
    azimuth,
    utc,
)

NOON = utc("2026-11-17T12:00:00")
"""The end of an observing day: it is morning in Chile, and flats are taken."""


def test_daylight_exposures_belong_to_their_observing_day_and_have_values(observatory_with: Build) -> None:
    observatory = observatory_with(a_column(), a_column("n", "count"))
    start = NOON - timedelta(seconds=60)
    observatory.archives(AZIMUTH, azimuth(7200, start))
    observatory.exposes(
        an_exposure(NOON - timedelta(seconds=15), 30.0, day_obs=20261116, seq_num=900),  # across noon
        an_exposure(NOON + timedelta(seconds=60), 30.0, day_obs=20261117, seq_num=1),
        an_exposure(NOON + timedelta(seconds=3600), 30.0, day_obs=20261117, seq_num=2),
    )
    assert observatory.joins(day_obs=20261116).exposures == 1
    assert observatory.joins(day_obs=20261117).exposures == 2
    rows = [(row["day_obs"], row["seq_num"], row["value"], row["n"]) for row in observatory.rows()]
    assert rows == [
        (20261116, 900, 60.0, 31.0),
        (20261117, 1, 135.0, 31.0),
        (20261117, 2, 3675.0, 31.0),
    ]


def test_exposures_of_two_cameras_that_overlap_each_have_their_own_window(tmp_path: Path) -> None:
    config = a_configuration(tmp_path, [a_column(), a_column("n", "count")])
    observatory = Observatory.at(tmp_path, config=config)
    observatory.archives(AZIMUTH, azimuth(600, NOON))
    observatory.exposes(an_exposure(NOON, 30.0), an_exposure(NOON + timedelta(seconds=40), 30.0, seq_num=2))
    write_exposures(observatory.consdb_url, "cdb_latiss", [an_exposure(NOON + timedelta(seconds=20), 30.0)])
    observatory.joins()
    latiss = ExposureJoin(instrument="latiss", config=config)
    assert join_exposures(observatory.archive, observatory.settings, latiss, now=LATER).exposures == 1
    assert [(row["value"], row["n"]) for row in observatory.rows()] == [(15.0, 31.0), (55.0, 31.0)]
    assert [(row["value"], row["n"]) for row in observatory.rows(schema="efd_latiss")] == [(35.0, 31.0)]


def test_exposures_of_one_camera_may_overlap_too(observatory_with: Build) -> None:
    observatory = observatory_with(a_column())
    observatory.archives(AZIMUTH, azimuth(600, NOON))
    observatory.exposes(
        an_exposure(NOON, 300.0), *(an_exposure(NOON + timedelta(seconds=60 * n), seq_num=n + 2) for n in range(3))
    )
    observatory.joins()
    assert [row["value"] for row in observatory.rows()] == [150.0, 15.0, 75.0, 135.0]


def test_an_exposure_that_has_not_ended_gets_its_values_when_it_has(observatory_with: Build) -> None:
    observatory = observatory_with(a_column())
    observatory.archives(AZIMUTH, azimuth(600, NOON))
    observatory.exposes(an_exposure(NOON, None))
    first = observatory.joins()
    assert (first.exposures, first.unended, observatory.rows()) == (0, 1, [])
    observatory.exposes(an_exposure(NOON, 30.0))
    assert observatory.joins().exposures == 1
    assert observatory.value() == 15.0


@pytest.mark.parametrize(("at_s", "value"), [(10.0, 10.0), (10.5, None)])
def test_a_bias_has_what_was_at_its_instant_or_nothing(
    observatory_with: Build, at_s: float, value: float | None
) -> None:
    observatory = observatory_with(a_column(), a_column("before", "most_recent_value", start_offset=-1))
    observatory.archives(AZIMUTH, azimuth(60, NOON))
    observatory.exposes(an_exposure(NOON + timedelta(seconds=at_s), 0.0))
    observatory.joins()
    assert (observatory.value(), observatory.value("before")) == (value, 10.0)
