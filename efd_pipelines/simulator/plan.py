"""Plans: what a telescope and its camera do during an observing day, decided by a seed.

A plan is a pure function of seed, camera and day_obs: visits one after the other, each a slew, a settling and
an exposure. It is anchored to absolute time, so whichever interval is simulated, in however many runs, the
exposures and the mount's path are the same. The simulated sky is always dark: there are visits around the
clock. What the telescope sends while it follows the plan: `motion.py`, `signals.py`, `events.py`.
"""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.times import (
    day_obs_interval,
    day_obs_of,
    from_microseconds,
    microseconds,
    tai_datetimes_from_utc_us,
    tai_unix_from_utc_unix,
)

LATITUDE_DEG, LONGITUDE_DEG = -30.2446, -70.7494
SIDEREAL_DEG_S = 360.98564736629 / 86400
_PARKED_DEG = (0.0, 60.0)
_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera and how its telescope moves. `filters` are (physical filter, band)."""

    instrument: str
    csc: str
    header_service: str
    prefix: str
    exposure_times_s: tuple[float, ...]
    readout_s: float
    slew_deg_s: tuple[float, float]
    filters: tuple[tuple[str, str], ...]


LSSTCAM = Camera(
    "lsstcam",
    "MTCamera",
    "MTHeaderService",
    "MC",
    (30.0, 30.0, 30.0, 15.0),
    2.4,
    (5.0, 3.0),
    (("g_6", "g"), ("r_57", "r"), ("i_39", "i"), ("z_20", "z")),
)
LATISS = Camera(
    "latiss",
    "ATCamera",
    "ATHeaderService",
    "AT",
    (30.0, 45.0, 60.0),
    2.0,
    (4.0, 2.0),
    (("SDSSr_65mm~empty", "r"), ("empty~holo4_003", "white")),
)
CAMERAS = {camera.instrument: camera for camera in (LSSTCAM, LATISS)}


@dataclass(frozen=True, slots=True)
class Exposure:
    """One exposure; times are UTC microseconds, of the shutter's opening and closing and the readout's end."""

    camera: Camera
    day_obs: int
    seq_num: int
    begin_us: int
    end_us: int
    readout_us: int
    exposure_time_s: float
    azimuth_deg: float
    elevation_deg: float
    rotation_deg: float
    filter: tuple[str, str]

    @property
    def id(self) -> int:
        return self.day_obs * 100_000 + self.seq_num

    @property
    def name(self) -> str:
        return f"{self.camera.prefix}_O_{self.day_obs}_{self.seq_num:06d}"

    def row(self) -> dict[str, Any]:
        """The exposure as ConsDB's exposure table has it: times are naive TAI (efd-facts §5.3)."""
        begin, middle, end = (_naive_tai(at) for at in (self.begin_us, (self.begin_us + self.end_us) // 2, self.end_us))
        right_ascension, declination = _equatorial(self.azimuth_deg, self.elevation_deg, self.begin_us)
        return {
            "day_obs": self.day_obs,
            "seq_num": self.seq_num,
            "exposure_id": self.id,
            "exposure_name": self.name,
            "controller": "O",
            "physical_filter": self.filter[0],
            "band": self.filter[1],
            "img_type": "science",
            "science_program": "SIMULATED",
            "observation_reason": "simulated",
            "target_name": f"field_{self.seq_num % 997:03d}",
            "group_id": f"{self.day_obs}_{self.seq_num:06d}",
            "cur_index": 1,
            "max_index": 1,
            "exp_midpt": middle,
            "obs_start": begin,
            "obs_end": end,
            "exp_time": self.exposure_time_s,
            "shut_time": (self.end_us - self.begin_us) / 1e6,
            "dark_time": (self.end_us - self.begin_us) / 1e6,
            "azimuth": self.azimuth_deg % 360.0,
            "altitude": self.elevation_deg,
            "zenith_distance": 90.0 - self.elevation_deg,
            "airmass": 1 / math.sin(math.radians(self.elevation_deg)),
            "sky_rotation": self.rotation_deg,
            "s_ra": right_ascension,
            "s_dec": declination,
            "emulated": False,
            "simulated": True,
        }


@dataclass(frozen=True, slots=True)
class DayPlan:
    """An observing day: arrays with one entry per slew; the last one is to the parking position, and has no
    exposure. Times are UTC microseconds, angles degrees, rates degrees per second.
    """

    camera: Camera
    day_obs: int
    slew_us: NDArray[np.int64]
    arrive_us: NDArray[np.int64]
    begin_us: NDArray[np.int64]
    end_us: NDArray[np.int64]
    readout_us: NDArray[np.int64]
    exposure_time_s: NDArray[np.float64]
    from_deg: NDArray[np.float64]
    to_deg: NDArray[np.float64]
    rate_deg_s: NDArray[np.float64]
    rotation_deg: NDArray[np.float64]
    filter: NDArray[np.int64]

    def exposure(self, index: int) -> Exposure:
        return Exposure(
            self.camera,
            self.day_obs,
            index + 1,
            int(self.begin_us[index]),
            int(self.end_us[index]),
            int(self.readout_us[index]),
            float(self.exposure_time_s[index]),
            float(self.to_deg[index, 0]),
            float(self.to_deg[index, 1]),
            float(self.rotation_deg[index]),
            self.camera.filters[int(self.filter[index])],
        )

    def exposures_between(self, start_us: int, end_us: int) -> list[Exposure]:
        """Those whose readout ends between the two, the second excluded."""
        first, end = np.searchsorted(self.readout_us[:-1], [start_us, end_us])
        return [self.exposure(index) for index in range(int(first), int(end))]

    def visits_between(self, times_us: NDArray[np.int64], start_us: int, end_us: int) -> list[int]:
        """Indices of the visits for which `times_us`, of one per slew, falls between the two."""
        first, end = np.searchsorted(times_us[: len(self.begin_us) - 1], [start_us, end_us])
        return list(range(int(first), int(end)))


def exposures(seed: int, start: datetime, seconds: float, instrument: str = "lsstcam") -> list[Exposure]:
    """The exposures whose readout ends within `seconds` of `start`: a pure function, so that whoever simulates
    that interval knows them.
    """
    start_us = microseconds(start)
    end_us = start_us + round(seconds * 1e6)
    found, day = [], start
    while microseconds(day) < end_us:
        plan = day_plan(CAMERAS[instrument], seed, day_obs_of(day))
        found += plan.exposures_between(start_us, end_us)
        day = day_obs_interval(plan.day_obs)[1]
    return found


def plan_at(camera: Camera, seed: int, time_us: int) -> DayPlan:
    """The plan of the observing day in which a time lies."""
    return day_plan(camera, seed, day_obs_of(from_microseconds(time_us)))


@functools.lru_cache(maxsize=8)
def day_plan(camera: Camera, seed: int, day_obs: int) -> DayPlan:
    """The plan of an observing day. 2 ms."""
    rng = np.random.default_rng([seed, zlib.crc32(camera.instrument.encode()), day_obs])
    start, end = (microseconds(at) for at in day_obs_interval(day_obs))
    shortest_s = min(camera.exposure_times_s) + 5.0
    visits = math.ceil(86_400 / shortest_s)
    exposure_s = rng.choice(camera.exposure_times_s, visits)
    to_deg = _targets(rng, visits)
    rate = _tracking_rates(to_deg)
    settle_s = 1.0 + 0.5 * rng.random(visits)
    left_deg = to_deg + rate * (settle_s + exposure_s + 0.3)[:, None]
    from_deg = np.vstack([_PARKED_DEG, left_deg[:-1]])
    slew_s = _slew_times_s(from_deg, to_deg, camera)
    cycle_s = slew_s + settle_s + exposure_s + 0.3
    slew_us = start + (1e6 * (20.0 + np.concatenate([[0.0], np.cumsum(cycle_s)[:-1]]))).astype(np.int64)
    kept = int(np.searchsorted(slew_us, end - 400_000_000))
    arrive_us = slew_us + (1e6 * slew_s).astype(np.int64)
    begin_us = arrive_us + (1e6 * settle_s).astype(np.int64)
    end_us = begin_us + (1e6 * (exposure_s + 0.002 * rng.random(visits))).astype(np.int64)
    readout_us = end_us + round(1e6 * camera.readout_s)
    # The last slew goes back to the parking position and stays.
    to_deg[kept], rate[kept] = _PARKED_DEG, 0.0
    park_s = _slew_times_s(from_deg[kept : kept + 1], to_deg[kept : kept + 1], camera)[0]
    arrive_us[kept] = slew_us[kept] + round(1e6 * park_s)
    until = slice(kept + 1)
    return DayPlan(
        camera,
        day_obs,
        slew_us[until],
        arrive_us[until],
        begin_us[until],
        end_us[until],
        readout_us[until],
        exposure_s[until],
        from_deg[until],
        to_deg[until],
        rate[until],
        np.cumsum(rng.normal(0.0, 2.0, visits))[until] % 90.0 - 45.0,
        rng.integers(0, len(camera.filters), visits // 40 + 1).repeat(40)[until],
    )


def _targets(rng: np.random.Generator, visits: int) -> NDArray[np.float64]:
    """Azimuth and elevation of each visit: mostly to a neighbouring field, now and then far away."""
    far = rng.random(visits) < 0.06
    azimuth = np.cumsum(np.where(far, rng.normal(0.0, 60.0, visits), rng.normal(0.0, 3.5, visits)))
    elevation = np.cumsum(np.where(far, rng.normal(0.0, 15.0, visits), rng.normal(0.0, 2.0, visits)))
    return np.column_stack([_folded(azimuth, -170.0, 170.0), _folded(elevation + 60.0, 30.0, 80.0)])


def _folded(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Reflected at both ends as often as needed."""
    span = high - low
    phase = np.mod(values - low, 2 * span)
    return low + np.minimum(phase, 2 * span - phase)


def _tracking_rates(to_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """How the sky moves there, in azimuth and elevation (spherical astronomy; azimuth from north by east)."""
    azimuth, elevation = np.radians(to_deg).T
    latitude = math.radians(LATITUDE_DEG)
    in_azimuth = math.sin(latitude) - math.cos(latitude) * np.cos(azimuth) * np.tan(elevation)
    in_elevation = math.cos(latitude) * np.sin(azimuth)
    return SIDEREAL_DEG_S * np.column_stack([in_azimuth, in_elevation])


def _slew_times_s(from_deg: NDArray[np.float64], to_deg: NDArray[np.float64], camera: Camera) -> NDArray[np.float64]:
    """Whichever axis takes longer; the profile's peak speed is 1.875 times the mean (`motion.py`)."""
    distances = np.abs(to_deg - from_deg) / np.array(camera.slew_deg_s)
    return np.asarray(np.maximum(3.5, 1.0 + 1.875 * distances.max(axis=1)))


def _naive_tai(time_us: int) -> datetime:
    tai = tai_datetimes_from_utc_us(np.array([time_us], dtype="datetime64[us]"))
    return datetime(1970, 1, 1) + timedelta(microseconds=int(tai.astype(np.int64)[0]))


def _equatorial(azimuth_deg: float, elevation_deg: float, time_us: int) -> tuple[float, float]:
    """Right ascension and declination, to a fraction of a degree: no precession, no refraction."""
    azimuth, elevation, latitude = map(math.radians, (azimuth_deg, elevation_deg, LATITUDE_DEG))
    sine = math.sin(elevation) * math.sin(latitude) + math.cos(elevation) * math.cos(latitude) * math.cos(azimuth)
    declination = math.asin(sine)
    hour_angle = math.atan2(
        -math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation) * math.cos(latitude) - math.cos(elevation) * math.sin(latitude) * math.cos(azimuth),
    )
    days = time_us / _DAY_US - 10_957.5
    sidereal_deg = 280.46061837 + 360.98564736629 * days + LONGITUDE_DEG
    return (sidereal_deg - math.degrees(hour_angle)) % 360.0, math.degrees(declination)


def tai_s(time_us: int) -> float:
    """TAI unix seconds of UTC microseconds."""
    return float(tai_unix_from_utc_unix(np.array([time_us / 1e6]))[0])
