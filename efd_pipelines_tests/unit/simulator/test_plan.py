"""A plan is a pure function of seed and day, and what follows from it is continuous."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from astropy.time import Time

from efd_pipelines.simulator.motion import pointing
from efd_pipelines.simulator.plan import LATISS, LSSTCAM, Camera, DayPlan, day_plan, exposures
from efd_pipelines.times import day_obs_interval, day_obs_of, from_microseconds, microseconds

START = datetime(2026, 11, 15, 23, 0, tzinfo=UTC)


@pytest.fixture(params=[LSSTCAM, LATISS], ids=lambda camera: camera.instrument)
def plan(request: pytest.FixtureRequest) -> DayPlan:
    camera: Camera = request.param
    return day_plan(camera, 3, 20261115)


def test_consecutive_intervals_have_each_exposure_once() -> None:
    whole = exposures(1, START, 7200)
    parts = [one for n in range(72) for one in exposures(1, START + timedelta(seconds=100 * n), 100)]

    assert parts == whole
    assert 100 < len(whole) < 250


def test_another_seed_has_other_exposures() -> None:
    assert exposures(1, START, 3600) != exposures(2, START, 3600)


def test_numbers_begin_at_one_with_each_observing_day() -> None:
    noon = datetime(2026, 11, 16, 12, tzinfo=UTC)

    found = exposures(1, noon - timedelta(hours=1), 7200)

    days = [one.day_obs for one in found]
    assert sorted(set(days)) == [20261115, 20261116]
    first = days.index(20261116)
    assert [one.seq_num for one in found[first:]] == list(range(1, len(found) - first + 1))
    assert all(one.id == one.day_obs * 100_000 + one.seq_num for one in found)


def test_all_of_a_day_happens_on_that_day_and_in_order(plan: DayPlan) -> None:
    start, end = (microseconds(at) for at in day_obs_interval(plan.day_obs))
    moments = np.column_stack([plan.slew_us, plan.arrive_us, plan.begin_us, plan.end_us, plan.readout_us])[:-1]

    assert (np.diff(moments, axis=1) > 0).all()
    assert (moments[1:, 0] >= moments[:-1, 3]).all()
    assert moments.min() > start
    assert moments.max() < end
    assert plan.arrive_us[-1] < end
    assert day_obs_of(from_microseconds(int(moments.max()))) == plan.day_obs


def test_a_row_of_consdb_is_in_naive_tai() -> None:
    for one in exposures(5, START, 600):
        row = one.row()
        for name, at_us in (("obs_start", one.begin_us), ("obs_end", one.end_us)):
            tai = Time(from_microseconds(at_us), scale="utc").tai.to_datetime()
            assert abs(row[name] - tai) < timedelta(microseconds=2)
            assert row[name].tzinfo is None
        assert row["exp_time"] in LSSTCAM.exposure_times_s
        assert row["obs_end"] - row["obs_start"] == timedelta(microseconds=one.end_us - one.begin_us)


def test_the_sky_position_is_astropys_to_a_degree() -> None:
    from astropy import units
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.utils import iers

    iers.conf.auto_download = False
    site = EarthLocation(lat=-30.2446 * units.deg, lon=-70.7494 * units.deg, height=2663 * units.m)
    for one in exposures(5, datetime(2026, 3, 1, tzinfo=UTC), 400):
        row = one.row()
        frame = AltAz(
            az=row["azimuth"] * units.deg,
            alt=row["altitude"] * units.deg,
            obstime=Time(from_microseconds(one.begin_us)),
            location=site,
        )
        ours = SkyCoord(row["s_ra"] * units.deg, row["s_dec"] * units.deg)
        assert SkyCoord(frame).icrs.separation(ours).deg < 1.0


def test_the_mount_moves_without_jumps_and_its_speed_is_its_positions_slope(plan: DayPlan) -> None:
    first = int(plan.slew_us[100])
    times_us = np.arange(first, first + 600_000_000, 20_000)

    path = pointing(plan, times_us)

    slope = np.gradient(path.position, 0.02, axis=0)
    np.testing.assert_allclose(path.velocity[1:-1], slope[1:-1], atol=0.02)
    assert np.abs(np.diff(path.velocity, axis=0)).max() < 0.2
    assert path.elevation.min() > 20.0
    assert path.elevation.max() < 86.5
    assert 0 < path.slewing.mean() < 0.7


def test_the_mount_tracks_while_it_exposes(plan: DayPlan) -> None:
    middles = (plan.begin_us + plan.end_us)[:-1] // 2

    path = pointing(plan, middles)

    assert not path.slewing.any()
    assert np.abs(path.velocity).max() < 0.1
    np.testing.assert_array_equal(path.acceleration, 0.0)


def test_the_mount_rests_before_the_first_slew_and_at_the_end(plan: DayPlan) -> None:
    ends = np.array([microseconds(at) for at in day_obs_interval(plan.day_obs)]) - np.array([0, 1])

    path = pointing(plan, ends)

    np.testing.assert_allclose(path.position, [[0.0, 60.0]] * 2)
    np.testing.assert_array_equal(path.velocity, 0.0)
