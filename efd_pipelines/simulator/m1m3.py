"""M1M3: the forces of the primary mirror's support at 50 Hz, which follow the telescope's motion.

Gravity's share goes with the elevation, the dynamic ones with speed and acceleration of the slews, as on the
mountain; patterns over the 156 actuators come from the seed. The far ends of all this: `signals.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.simulator.signals import Columns, Scene, Signal

RATE_HZ = 50
_LENGTHS = {"x": 12, "y": 100, "z": 156}
_SUMS = ("fx", "fy", "fz", "mx", "my", "mz")

Forces = dict[str, NDArray[np.float32]]


def _patterns(scene: Scene, name: str, **scale: float) -> Forces:
    """A force per actuator and axis, for ever the same."""
    rng = np.random.default_rng([scene.seed, *name.encode()])
    return {
        axis: (1.0 + 0.15 * rng.standard_normal(length, dtype=np.float32)) * np.float32(scale.get(axis, 0.0))
        for axis, length in _LENGTHS.items()
    }


def _spread(pattern: Forces, **course: NDArray[np.float64]) -> Forces:
    """The pattern times its course in time, per axis: (samples, actuators)."""
    return {axis: course[axis].astype(np.float32)[:, None] * pattern[axis] for axis in _LENGTHS}


def _elevation(scene: Scene) -> Forces:
    height = np.radians(scene.main.elevation)
    weight = _patterns(scene, "elevation", x=8.0, y=1550.0, z=1080.0)
    return _spread(weight, x=np.cos(height), y=np.cos(height), z=np.sin(height))


def _azimuth(scene: Scene) -> Forces:
    angle = np.radians(scene.main.azimuth)
    return _spread(_patterns(scene, "azimuth", x=2, y=2, z=1), x=np.cos(angle), y=np.sin(angle), z=np.cos(angle))


def _thermal(scene: Scene) -> Forces:
    warm = scene.air_temperature - 11.0
    return _spread(_patterns(scene, "thermal", z=1.5), x=warm, y=warm, z=warm)


def _balance(scene: Scene) -> Forces:
    sway = scene.wave(11.0) + 0.3 * scene.wave(1.7)
    return _spread(_patterns(scene, "balance", x=3, y=3, z=4), x=sway, y=scene.wave(13.0), z=sway)


def _velocity(scene: Scene) -> Forces:
    azimuth, elevation = scene.main.velocity.T
    return _spread(_patterns(scene, "velocity", x=6, y=9, z=5), x=azimuth, y=azimuth**2, z=elevation)


def _acceleration(scene: Scene) -> Forces:
    azimuth, elevation = scene.main.acceleration.T
    return _spread(_patterns(scene, "acceleration", x=55, y=12, z=38), x=azimuth, y=azimuth, z=elevation)


_SHARES: dict[str, Callable[[Scene], Forces]] = {
    "appliedElevationForces": _elevation,
    "appliedAzimuthForces": _azimuth,
    "appliedThermalForces": _thermal,
    "appliedBalanceForces": _balance,
    "appliedVelocityForces": _velocity,
    "appliedAccelerationForces": _acceleration,
}


def _total(scene: Scene) -> Forces:
    total = _elevation(scene)
    for share in (_azimuth, _thermal, _balance, _velocity, _acceleration):
        for axis, forces in share(scene).items():
            total[axis] += forces
    return total


def _sums(forces: Forces) -> Columns:
    """Total force, moments about the axes, magnitude."""
    sums = {axis: values.sum(axis=1) for axis, values in forces.items()}
    arm = np.linspace(-4.0, 4.0, _LENGTHS["z"], dtype=np.float32)
    moments = (forces["z"] @ arm, forces["z"] @ arm[::-1] * np.float32(0.5), sums["x"] * np.float32(0.2))
    magnitude = np.sqrt(sums["x"] ** 2 + sums["y"] ** 2 + sums["z"] ** 2)
    return dict(zip(_SUMS, (*sums.values(), *moments), strict=True)) | {"forceMagnitude": magnitude}


def _applied(share: Callable[[Scene], Forces]) -> Callable[[Scene], Columns]:
    def columns(scene: Scene) -> Columns:
        forces = share(scene)
        named = {f"{axis}Forces": values for axis, values in forces.items()}
        return {"timestamp": scene.tai_s - 0.001, **named, **_sums(forces)}

    return columns


def _force_actuators(scene: Scene) -> Columns:
    """What the load cells measure: the applied forces and noise, per axis and per cylinder."""
    forces = {axis: values + scene.noise(values.shape[1], of=2.5) for axis, values in _total(scene).items()}
    secondary = forces["y"].mean(axis=1, keepdims=True) * np.float32(1.41) + scene.noise(112, of=2.5)
    return {
        "timestamp": scene.tai_s - 0.001,
        "primaryCylinderForce": forces["z"] * np.float32(0.7) + scene.noise(156, of=1.0),
        "secondaryCylinderForce": secondary,
        "primaryCylinderFollowingError": scene.noise(156, of=1.5),
        "secondaryCylinderFollowingError": scene.noise(112, of=1.5),
        **{f"{axis}Force": values for axis, values in forces.items()},
        **_sums(forces),
    }


def _hardpoints(scene: Scene) -> Columns:
    """Six legs that hold the mirror: they take up what the slew's acceleration leaves over."""
    push = scene.main.acceleration[:, :1] * 420.0 + scene.main.acceleration[:, 1:] * 260.0
    force = push * np.array([1, -1, 1, -1, 1, -1]) + scene.noise(6, of=1.1)
    turns = 12_000 + np.round(scene.wave(600)[:, None] * 40 + np.arange(6)).astype(np.int64)
    position = scene.noise(6, of=2e-7)
    names = ("xPosition", "yPosition", "zPosition", "xRotation", "yRotation", "zRotation")
    return {
        "timestamp": scene.tai_s - 0.001,
        "stepsQueued": np.zeros((len(scene), 6), dtype=np.int64),
        "stepsCommanded": np.zeros((len(scene), 6), dtype=np.int64),
        "measuredForce": force,
        "encoder": turns,
        "displacement": turns * 2e-7,
        **{name: push[:, 0] * (0.3 + 0.1 * number) for number, name in enumerate(_SUMS)},
        "forceMagnitude": np.abs(push[:, 0]) * 0.7,
        **{name: position[:, number] for number, name in enumerate(names)},
    }


def _accelerometers(scene: Scene) -> Columns:
    azimuth, elevation = scene.main.acceleration.T
    angular = np.column_stack([elevation, azimuth, azimuth * 0.1]) + scene.noise(3, of=0.002)
    seen = (angular @ np.ones((3, 8)) * 0.05) + scene.noise(8, of=0.004)
    return {
        "timestamp": scene.tai_s - 0.001,
        "rawAccelerometer": 2.5 + seen * 0.4,
        "accelerometer": seen,
        **{f"angularAcceleration{axis}": angular[:, number] for number, axis in enumerate("XYZ")},
    }


def _displacement(scene: Scene) -> Columns:
    """The independent measurement of where the mirror lies."""
    place = scene.noise(6, of=3e-7)
    names = ("xPosition", "yPosition", "zPosition", "xRotation", "yRotation", "zRotation")
    return {
        "timestamp": scene.tai_s - 0.001,
        "rawSensorData": 4.0 + scene.noise(8, of=0.001),
        **{name: place[:, number] for number, name in enumerate(names)},
    }


M1M3_SIGNALS: tuple[Signal, ...] = (
    Signal("MTM1M3.forceActuatorData", RATE_HZ, _force_actuators),
    Signal("MTM1M3.appliedForces", RATE_HZ, _applied(_total)),
    *(Signal(f"MTM1M3.{name}", RATE_HZ, _applied(share)) for name, share in _SHARES.items()),
    Signal("MTM1M3.hardpointActuatorData", RATE_HZ, _hardpoints),
    Signal("MTM1M3.accelerometerData", RATE_HZ, _accelerometers),
    Signal("MTM1M3.imsData", RATE_HZ, _displacement),
)
