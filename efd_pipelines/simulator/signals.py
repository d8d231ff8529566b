"""Signals: telemetry that comes at a steady rate, and what its values are.

A `Signal` names its topic, its rate and the function that computes the values at given times. Values follow
the telescope (`motion.py`) and the seed; the same times give the same values, however they are cut into runs.
What belongs here: the table of signals, and everything that is not M1M3 (`m1m3.py`) or the camera (`ccs.py`).
Events, which come when something happens: `events.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.simulator.encoding import Column
from efd_pipelines.simulator.motion import Pointing, pointing
from efd_pipelines.simulator.plan import LATISS, LSSTCAM, plan_at
from efd_pipelines.times import tai_unix_from_utc_unix

Columns = dict[str, Column]


class Scene:
    """What is true at the times at which one signal is sampled.

    Random numbers come from the seed, the signal and the block of time alone.
    """

    def __init__(self, seed: int, name: str, sal_index: int, block: int, times_us: NDArray[np.int64]) -> None:
        self.seed = seed
        self.name = name
        self.sal_index = sal_index
        self.times_us = times_us
        self.rng = np.random.default_rng([seed, zlib.crc32(name.encode()), sal_index, block])
        self._constant = np.random.default_rng([seed, zlib.crc32(name.encode()), sal_index])

    def __len__(self) -> int:
        return len(self.times_us)

    @cached_property
    def utc_s(self) -> NDArray[np.float64]:
        return np.asarray(self.times_us / 1e6)

    @cached_property
    def tai_s(self) -> NDArray[np.float64]:
        return tai_unix_from_utc_unix(self.utc_s)

    @cached_property
    def main(self) -> Pointing:
        """Where the main telescope points."""
        return pointing(plan_at(LSSTCAM, self.seed, int(self.times_us[0])), self.times_us)

    @cached_property
    def auxiliary(self) -> Pointing:
        """Where the auxiliary telescope points."""
        return pointing(plan_at(LATISS, self.seed, int(self.times_us[0])), self.times_us)

    def noise(self, *shape: int, of: float = 1.0) -> NDArray[np.float32]:
        """Gaussian noise of that standard deviation: (samples, *shape)."""
        return self.rng.standard_normal((len(self), *shape), dtype=np.float32) * np.float32(of)

    def constant(self, *shape: int, of: float = 1.0) -> NDArray[np.float32]:
        """Numbers that this signal has for ever."""
        return self._constant.standard_normal(shape, dtype=np.float32) * np.float32(of)

    def wave(self, period_s: float, phase: float = 0.0) -> NDArray[np.float64]:
        """A sine of absolute time."""
        return np.sin(2 * np.pi * (self.utc_s % period_s / period_s + phase))

    @property
    def air_temperature(self) -> NDArray[np.float64]:
        """Degrees Celsius on the mountain: a day's course with slower and quicker ones on it."""
        day, weather = self.wave(86_400, 0.55), self.wave(4.7 * 86_400, 0.1 * (self.seed % 10))
        return 11.0 + 4.5 * day + 3.0 * weather + 0.4 * self.wave(2_711)


@dataclass(frozen=True, slots=True)
class Signal:
    """A topic with a steady rate, for each of some salIndex; `columns` computes the public fields."""

    topic: str
    rate_hz: float
    columns: Callable[[Scene], Columns]
    sal_indices: tuple[int, ...] = (0,)


def _axis(scene: Scene, axis: int) -> Columns:
    """MTMount.azimuth and .elevation: what is demanded, what is measured, and when each was."""
    path, noise = scene.main, scene.noise(4)
    position, velocity, acceleration = (
        np.asarray(values[:, axis]) for values in (path.position, path.velocity, path.acceleration)
    )
    stamp = scene.tai_s - 0.004
    return {
        "actualPosition": position + 2e-6 * noise[:, 0],
        "actualVelocity": velocity + 2e-4 * noise[:, 1],
        "actualAcceleration": acceleration + 1e-3 * noise[:, 2],
        "actualTorque": 4500.0 + 21_000.0 * acceleration + 900.0 * velocity + 150.0 * noise[:, 3],
        "demandPosition": position,
        "demandVelocity": velocity,
        "timestamp": stamp,
        **{
            f"{name}Timestamp": stamp
            for name in (
                "actualPosition",
                "actualVelocity",
                "actualAcceleration",
                "actualJerk",
                "actualTorque",
                "demandPosition",
                "demandVelocity",
            )
        },
    }


def _azimuth(scene: Scene) -> Columns:
    return _axis(scene, 0)


def _elevation(scene: Scene) -> Columns:
    columns = _axis(scene, 1)
    columns["elevationInclinometer"] = scene.main.elevation + 0.003 * scene.noise()
    columns["elevationInclinometerTimestamp"] = scene.tai_s - 0.011
    return columns


def _encoder(scene: Scene) -> Columns:
    """Four heads per axis, each read at a moment of its own."""
    columns: Columns = {"timestamp": scene.tai_s - 0.004}
    heads = scene.tai_s[:, None] - 0.004 - 0.0002 * np.arange(4)
    for name, head, angle in (("azimuth", "AZ", scene.main.azimuth), ("elevation", "EL", scene.main.elevation)):
        offsets = scene.constant(4, of=1e-4)
        for kind, zero in (("AbsolutePosition", 0.0), ("Position", 0.0), ("RelativePosition", 12.5)):
            columns[f"{name}Encoder{kind}"] = angle[:, None] - zero + offsets + 1e-6 * scene.noise(4)
            columns[f"{name}Encoder{kind}Timestamp"] = heads
        ticks = np.round((angle[:, None] + 200.0) * 3_600_000.0).astype(np.int64) + np.arange(4)
        columns[f"encoderHeadReadReference{head}"] = ticks
        columns[f"encoderHeadReadReference{head}Timestamp"] = heads
    return columns


def _mount_position(scene: Scene) -> Columns:
    return {
        "timestamp": scene.tai_s,
        "azimuthActualPosition": scene.main.azimuth,
        "elevationActualPosition": scene.main.elevation,
        "rotatorActualPosition": _rotator(scene),
        "ra": np.mod(scene.main.azimuth / 15.0 + scene.utc_s / 3600.0, 24.0),
        "declination": scene.main.elevation - 90.0 - 30.2446 + 60.0,
        "skyAngle": np.mod(_rotator(scene) + scene.main.azimuth, 360.0),
    }


def _rotator(scene: Scene) -> NDArray[np.float64]:
    return 40.0 * scene.wave(5_400)


def _rotation(scene: Scene) -> Columns:
    angle, noise = _rotator(scene), scene.noise(2)
    speed = 40.0 * 2 * np.pi / 5_400 * scene.wave(5_400, 0.25)
    return {
        "demandPosition": angle,
        "demandVelocity": speed,
        "actualPosition": angle + 1e-5 * noise[:, 0],
        "actualVelocity": speed + 1e-5 * noise[:, 1],
        "odometer": scene.utc_s % 1e6,
        "timestamp": scene.tai_s,
    }


def _hexapod(scene: Scene) -> Columns:
    sag = np.cos(np.radians(scene.main.elevation))[:, None]
    demand = sag * scene.constant(6, of=300.0)
    error = 0.2 * scene.noise(6).astype(np.float64)
    return {"demand": demand, "position": demand + error, "error": error}


def _m2_axial_force(scene: Scene) -> Columns:
    height = np.sin(np.radians(scene.main.elevation))[:, None]
    gravity = height * (200.0 + scene.constant(72, of=15.0))
    thermal = (scene.air_temperature[:, None] - 11.0) * scene.constant(72, of=0.8)
    applied = gravity + thermal
    return {
        "lutGravity": gravity,
        "lutTemperature": thermal,
        "applied": applied,
        "measured": applied + scene.noise(72, of=0.6),
        "hardpointCorrection": np.broadcast_to(scene.constant(72, of=0.3), (len(scene), 72)),
    }


def _m2_temperature(scene: Scene) -> Columns:
    air = scene.air_temperature[:, None]
    return {
        "ring": air + scene.constant(12, of=0.3) + scene.noise(12, of=0.02),
        "intake": air - 0.5 + scene.noise(2, of=0.02),
        "exhaust": air + 0.7 + scene.noise(2, of=0.02),
    }


def _glycol(scene: Scene) -> Columns:
    names = (
        "aboveMirrorTemperature",
        "insideCellTemperature1",
        "insideCellTemperature2",
        "insideCellTemperature3",
        "telescopeCoolantSupplyTemperature",
        "telescopeCoolantReturnTemperature",
        "mirrorCoolantSupplyTemperature",
        "mirrorCoolantReturnTemperature",
    )
    values = scene.air_temperature[:, None] + scene.constant(8, of=1.5) + scene.noise(8, of=0.03)
    return {name: values[:, number] for number, name in enumerate(names)}


def _thermal_data(scene: Scene) -> Columns:
    rounds = 1_800 + np.round(scene.noise(96, of=12.0)).astype(np.int64)
    air = scene.air_temperature[:, None]
    return {
        "timestamp": scene.tai_s,
        "differentialTemperature": scene.constant(96, of=0.4) + scene.noise(96, of=0.02),
        "absoluteTemperature": air + scene.constant(96, of=0.4) + scene.noise(96, of=0.02),
        "fanRPM": rounds,
        "ilcFault": np.zeros((len(scene), 96), dtype=np.bool_),
        "heaterDisabled": np.broadcast_to(np.arange(96) % 31 == 7, (len(scene), 96)),
    }


def _sensor(scene: Scene, columns: Columns) -> Columns:
    """What all ESS topics say about their sensor."""
    place = f"simulated place {scene.sal_index}"
    return {
        "sensorName": f"{scene.name.rpartition('.')[2]}-{scene.sal_index:03d}",
        "timestamp": scene.tai_s - 0.02,
        "location": place,
        **columns,
    }


def _ess_temperature(scene: Scene) -> Columns:
    """As many channels as the sensor has, the rest NaN (efd-facts §1.5)."""
    channels = 2 + scene.sal_index % 7
    values = np.full((len(scene), 16), np.nan, dtype=np.float32)
    air = scene.air_temperature[:, None] + scene.constant(channels, of=1.2)
    values[:, :channels] = air + scene.noise(channels, of=0.03)
    return _sensor(scene, {"numChannels": channels, "temperatureItem": values})


def _ess_accelerometer(scene: Scene) -> Columns:
    """A series of 400 samples per record: noise, and the slews' shaking."""
    shaking = np.float32(1e-3) + np.abs(scene.main.acceleration).sum(axis=1, keepdims=True).astype(np.float32) / 50
    series = {f"acceleration{axis}": scene.noise(400) * shaking for axis in "XYZ"}
    return _sensor(scene, {"interval": 0.005, **series})


def _wind(scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    speed = 5.0 + 3.0 * scene.wave(7_200, 0.01 * scene.sal_index) + scene.noise(of=0.4)
    return np.abs(speed), np.mod(330.0 + 40.0 * scene.wave(17_000) + scene.noise(of=4.0), 360.0)


def _air_flow(scene: Scene) -> Columns:
    speed, direction = _wind(scene)
    gust = np.abs(scene.noise(2, of=0.5))
    return _sensor(
        scene,
        {
            "speed": speed,
            "speedStdDev": gust[:, 0],
            "maxSpeed": speed + 2 * gust[:, 0],
            "direction": direction,
            "directionStdDev": 4.0 * gust[:, 1],
        },
    )


def _air_turbulence(scene: Scene) -> Columns:
    speed, direction = _wind(scene)
    angle = np.radians(direction)
    parts = np.column_stack([speed * np.cos(angle), speed * np.sin(angle), 0.1 * scene.noise()])
    return _sensor(
        scene,
        {
            "speed": parts,
            "speedStdDev": np.abs(scene.noise(3, of=0.3)),
            "speedMagnitude": speed,
            "speedMaxMagnitude": speed * 1.3,
            "sonicTemperature": scene.air_temperature + scene.noise(of=0.1),
            "sonicTemperatureStdDev": np.abs(scene.noise(of=0.1)),
        },
    )


def _pressure(scene: Scene) -> Columns:
    channels = 1 if scene.sal_index == 301 else 2
    values = np.full((len(scene), 8), np.nan, dtype=np.float32)
    values[:, :channels] = (74_500.0 + 150.0 * scene.wave(43_200))[:, None] + scene.noise(channels, of=3.0)
    return _sensor(scene, {"numChannels": channels, "pressureItem": values})


def _humidity(scene: Scene) -> Columns:
    return _sensor(scene, {"relativeHumidityItem": 25.0 + 12.0 * scene.wave(50_000) + scene.noise(of=0.2)})


def _dew_point(scene: Scene) -> Columns:
    return _sensor(scene, {"dewPointItem": scene.air_temperature - 18.0 + scene.noise(of=0.1)})


def _packed(scene: Scene, angles: Callable[[Pointing], Mapping[str, NDArray[np.float64]]]) -> Columns:
    """ATMCS: 100 samples at 100 Hz in each record, from its `cRIO_timestamp` on."""
    times_us = (scene.times_us[:, None] - 1_000_000 + 10_000 * np.arange(100)).ravel()
    path = pointing(plan_at(LATISS, scene.seed, int(scene.times_us[0])), times_us)
    series = {name: values.reshape(-1, 100) for name, values in angles(path).items()}
    return {"cRIO_timestamp": scene.tai_s - 1.0, **series}


def _azel_encoders(scene: Scene) -> Columns:
    columns = _packed(
        scene, lambda path: {"elevationCalculatedAngle": path.elevation, "azimuthCalculatedAngle": path.azimuth}
    )
    for axis in ("elevation", "azimuth"):
        angle = columns[f"{axis}CalculatedAngle"]
        for number in (1, 2, 3):
            ticks = np.round((angle + 200.0) * 40_000.0).astype(np.int64) + 17 * number
            columns[f"{axis}Encoder{number}Raw"] = ticks
    return columns


def _nasmyth_encoders(scene: Scene) -> Columns:
    return _packed(
        scene,
        lambda path: {
            "nasmyth1CalculatedAngle": 0.5 * path.azimuth,
            "nasmyth2CalculatedAngle": np.zeros(len(path.azimuth)),
        },
    )


def _test_scalars(scene: Scene) -> Columns:
    """A value of each SAL type, over its whole range."""
    return _test_values(scene, ())


def _test_arrays(scene: Scene) -> Columns:
    return _test_values(scene, (5,))


def _test_values(scene: Scene, shape: tuple[int, ...]) -> Columns:
    size = (len(scene), *shape)
    ranges = {
        "byte0": (-(2**7), 2**7),
        "short0": (-(2**15), 2**15),
        "int0": (-(2**31), 2**31),
        "long0": (-(2**31), 2**31),
        "longLong0": (-(2**63), 2**63 - 1),
        "unsignedShort0": (0, 2**16),
        "unsignedInt0": (0, 2**32),
    }
    columns: Columns = {name: scene.rng.integers(*bounds, size) for name, bounds in ranges.items()}
    columns["boolean0"] = scene.rng.random(size) < 0.5
    columns["float0"] = scene.noise(*shape, of=1e3)
    columns["double0"] = scene.rng.standard_normal(size) * 1e6
    if not shape:
        columns["string0"] = [f"Test µ {value}" for value in columns["short0"].tolist()]
    return columns


def _heartbeat(scene: Scene) -> Columns:
    return {"heartbeat": True}


ESS_TEMPERATURE = (1, 101, 102, 103, 106, 107, 108, 111, 112, 113, 122, 201, 301)
HEARTBEATS: Mapping[str, tuple[int, ...]] = {
    "MTM1M3": (0,),
    "MTMount": (0,),
    "MTAOS": (0,),
    "MTHexapod": (1, 2),
    "MTCamera": (0,),
    "ATCamera": (0,),
    "ATMCS": (0,),
    "ESS": (1, 104, 112, 301),
    "ScriptQueue": (1, 2),
}

SIGNALS: tuple[Signal, ...] = (
    Signal("MTMount.azimuth", 20, _azimuth),
    Signal("MTMount.elevation", 20, _elevation),
    Signal("MTMount.encoder", 20, _encoder),
    Signal("MTPtg.mountPosition", 5, _mount_position),
    Signal("MTRotator.rotation", 10, _rotation),
    Signal("MTHexapod.application", 10, _hexapod, (1, 2)),
    Signal("MTM2.axialForce", 20, _m2_axial_force),
    Signal("MTM2.temperature", 1, _m2_temperature),
    Signal("MTM1M3TS.glycolLoopTemperature", 1, _glycol),
    Signal("MTM1M3TS.thermalData", 1, _thermal_data),
    Signal("ESS.temperature", 1, _ess_temperature, ESS_TEMPERATURE),
    Signal("ESS.accelerometer", 0.5, _ess_accelerometer, (104, 106, 202)),
    Signal("ESS.airFlow", 1, _air_flow, (201, 204, 205, 301)),
    Signal("ESS.airTurbulence", 1, _air_turbulence, (110, 201, 204, 205)),
    Signal("ESS.pressure", 1, _pressure, (113, 201, 301)),
    Signal("ESS.relativeHumidity", 1, _humidity, (111, 112, 113, 201)),
    Signal("ESS.dewPoint", 1, _dew_point, (111, 112, 113, 201)),
    Signal("ATMCS.mount_AzEl_Encoders", 1, _azel_encoders),
    Signal("ATMCS.mount_Nasmyth_Encoders", 1, _nasmyth_encoders),
    Signal("Test.scalars", 1, _test_scalars, (1,)),
    Signal("Test.arrays", 1, _test_arrays, (1,)),
    *(Signal(f"{csc}.logevent_heartbeat", 1, _heartbeat, indices) for csc, indices in HEARTBEATS.items()),
)
