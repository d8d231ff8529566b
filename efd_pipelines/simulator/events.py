"""Events: what is published because something happens: slews, exposures, corrections, scripts, commands.

Each `Happening` is tied to a moment of the visits of a plan (`plan.py`), so events are as much a pure function of
seed and time as the telemetry is. What comes at a steady rate: `signals.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efd_pipelines.simulator.encoding import Column
from efd_pipelines.simulator.plan import LATISS, LSSTCAM, Camera, DayPlan, plan_at, tai_s

Values = dict[str, Any]

ACK_IN_PROGRESS, ACK_COMPLETE = 301, 303
ENABLED = 2
_MOVING, _TRACKING = 3, 4
_VISITS_PER_SCRIPT = 12
_SCRIPT_STATES = {"unconfigured": 1, "configured": 2, "running": 3, "ending": 5, "done": 8}


@dataclass(frozen=True, slots=True)
class Event:
    """One event and when it is published, UTC microseconds."""

    topic: str
    sal_index: int
    time_us: int
    values: Values


@dataclass(frozen=True, slots=True)
class Visit:
    """A visit of a plan, with random numbers of its own."""

    seed: int
    plan: DayPlan
    index: int

    def random(self, topic: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(topic.encode()), self.plan.day_obs, self.index])


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that comes `after_us` after a moment (an array of `DayPlan`) of every nth visit."""

    topic: str
    moment: str
    after_us: int
    values: Callable[[Visit], Values]
    sal_index: int | Callable[[Visit], int] = 0
    every: int = 1
    camera: Camera = LSSTCAM

    def between(self, seed: int, start_us: int, end_us: int) -> Iterator[Event]:
        """The events of an interval that lies within one observing day, the end excluded."""
        plan = plan_at(self.camera, seed, start_us)
        moments = getattr(plan, self.moment)
        for index in plan.visits_between(moments, start_us - self.after_us, end_us - self.after_us):
            if index % self.every == 0:
                visit = Visit(seed, plan, index)
                where = self.sal_index if isinstance(self.sal_index, int) else self.sal_index(visit)
                yield Event(self.topic, where, int(moments[index]) + self.after_us, self.values(visit))


def _always(**values: Any) -> Callable[[Visit], Values]:
    return lambda visit: dict(values)


def _image(visit: Visit) -> Values:
    exposure = visit.plan.exposure(visit.index)
    return {
        "additionalKeys": "imageType:groupId",
        "additionalValues": f"SCIENCE:{exposure.day_obs}_{exposure.seq_num:06d}",
        "imagesInSequence": 1,
        "imageName": exposure.name,
        "imageIndex": 1,
        "imageSource": exposure.camera.prefix,
        "imageController": "O",
        "imageDate": str(exposure.day_obs),
        "imageNumber": exposure.seq_num,
        "timestampAcquisitionStart": tai_s(exposure.begin_us),
    }


def _start_integration(visit: Visit) -> Values:
    exposure = visit.plan.exposure(visit.index)
    return {**_image(visit), "exposureTime": exposure.exposure_time_s, "mode": "", "timeout": 10.0}


def _end_readout(visit: Visit) -> Values:
    exposure = visit.plan.exposure(visit.index)
    return {
        **_image(visit),
        "requestedExposureTime": exposure.exposure_time_s,
        "timestampEndOfReadout": tai_s(exposure.readout_us),
    }


def _header(visit: Visit) -> Values:
    exposure = visit.plan.exposure(visit.index)
    day = str(exposure.day_obs)
    service = exposure.camera.header_service
    folder = f"{service}/header/{day[:4]}/{day[4:6]}/{day[6:]}"
    return {
        "url": f"s3://rubinobs-lfa-cp/{folder}/{service}_header_{exposure.name}.yaml",
        "generator": service,
        "version": 1.0,
        "byteSize": 20_000 + visit.index % 997,
        "checkSum": f"{zlib.crc32(exposure.name.encode()):032x}",
        "mimeType": "YAML",
        "id": exposure.name,
    }


def _degrees_of_freedom(visit: Visit) -> Values:
    """Corrections accumulate slowly over the visits: a wave each, and what this visit adds."""
    random = visit.random("degreeOfFreedom")
    mode = np.arange(50)
    aggregated = 3.0 * np.sin((visit.index + 7 * mode) / 90.0) / (1 + mode / 10)
    return {
        "aggregatedDoF": aggregated,
        "visitDoF": random.normal(0.0, 0.2, 50),
        "opticalState": aggregated + random.normal(0.0, 0.05, 50),
        "kpGain": np.full(50, 0.4),
        "visitId": visit.plan.exposure(visit.index).id,
    }


def _six(visit: Visit, topic: str, scale: float) -> Values:
    values = visit.random(topic).normal(0.0, scale, 6)
    return dict(zip("xyzuvw", values.tolist(), strict=True))


def _hexapod_correction(topic: str) -> Callable[[Visit], Values]:
    return lambda visit: {**_six(visit, topic, 25.0), "visitId": visit.plan.exposure(visit.index).id}


def _compensation(index: int) -> Callable[[Visit], Values]:
    """The look-up of the hexapod for where the telescope goes."""

    def values(visit: Visit) -> Values:
        azimuth, elevation = visit.plan.to_deg[visit.index].tolist()
        height = np.radians(elevation)
        shares = np.array([3, -400, 120, 0.02, -0.004, 0.0]) * index
        offsets = shares * np.cos(height) + _noise(visit, f"compensation {index}", 6, 0.02)
        return {
            "elevation": elevation,
            "azimuth": azimuth,
            "rotation": float(visit.plan.rotation_deg[visit.index]),
            "temperature": 10.0 + float(_noise(visit, f"temperature {index}", 1, 0.5)[0]),
            **dict(zip("xyzuvw", offsets.tolist(), strict=True)),
        }

    return values


def _noise(visit: Visit, name: str, count: int, scale: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return visit.random(name).normal(0.0, scale, count)


def _uncompensated(index: int) -> Callable[[Visit], Values]:
    return lambda visit: _six(visit, f"uncompensated {index}", 100.0)


def _stresses(visit: Visit) -> Values:
    m2, m1m3 = np.abs(_noise(visit, "stresses", 2, 8.0)).tolist()
    return {"stressM2": m2, "stressM1M3": m1m3}


def _script_index(visit: Visit) -> int:
    return 100_000 + visit.index // _VISITS_PER_SCRIPT


def _command_add(visit: Visit) -> Values:
    return {
        "isStandard": True,
        "path": "maintel/take_image_lsstcam.py",
        "config": f"nimages: {_VISITS_PER_SCRIPT}\nexp_times: 30\n",
        "descr": f"visits from {visit.index + 1}",
        "location": 1,
        "logLevel": 20,
        "block": "BLOCK-365",
        "private_identity": "Scheduler:1",
    }


def _acknowledgement(ack: int, timeout_s: float) -> Callable[[Visit], Values]:
    return lambda visit: {
        "ack": ack,
        "result": str(_script_index(visit)) if ack == ACK_COMPLETE else "",
        "identity": "Scheduler:1",
        "origin": 4_242,
        "cmdtype": 0,
        "timeout": timeout_s,
    }


def _script_state(state: str) -> Callable[[Visit], Values]:
    return lambda visit: {
        "state": _SCRIPT_STATES[state],
        "groupId": f"{visit.plan.day_obs}#{visit.index // _VISITS_PER_SCRIPT}",
        "lastCheckpoint": "" if state in ("unconfigured", "configured") else f"visit {visit.index + 1}",
        "blockId": "BLOCK-365",
        "dayObs": visit.plan.day_obs,
    }


def _exposing(camera: Camera) -> tuple[Happening, ...]:
    start, end = f"{camera.csc}.logevent_startIntegration", f"{camera.csc}.logevent_endReadout"
    header = f"{camera.header_service}.logevent_largeFileObjectAvailable"
    return (
        Happening(start, "begin_us", 3_000, _start_integration, camera=camera),
        Happening(end, "readout_us", 0, _end_readout, camera=camera),
        Happening(header, "readout_us", 1_300_000, _header, camera=camera),
    )


def _moving() -> Iterator[Happening]:
    for number, axis in enumerate(("azimuth", "elevation")):
        for moment, arrived, state in (("slew_us", False, _MOVING), ("arrive_us", True, _TRACKING)):
            after_us = 2_000 + 700 * number
            yield Happening(f"MTMount.logevent_{axis}InPosition", moment, after_us, _always(inPosition=arrived))
            yield Happening(f"MTMount.logevent_{axis}MotionState", moment, after_us + 300, _always(state=state))


def _correcting() -> Iterator[Happening]:
    optics = {
        "degreeOfFreedom": _degrees_of_freedom,
        "cameraHexapodCorrection": _hexapod_correction("camera"),
        "m2HexapodCorrection": _hexapod_correction("m2"),
        "mirrorStresses": _stresses,
    }
    for number, (name, values) in enumerate(optics.items()):
        yield Happening(f"MTAOS.logevent_{name}", "slew_us", 60_000 + 4_000 * number, values)
    for index in (1, 2):
        after_us = 110_000 + 1_500 * index
        yield Happening("MTHexapod.logevent_uncompensatedPosition", "slew_us", after_us, _uncompensated(index), index)
        yield Happening(
            "MTHexapod.logevent_compensationOffset", "slew_us", after_us + 20_000, _compensation(index), index
        )


def _queueing() -> Iterator[Happening]:
    """A script is added to the queue, acknowledged twice, and runs."""
    rest: Mapping[str, Any] = {"every": _VISITS_PER_SCRIPT}
    yield Happening("ScriptQueue.command_add", "slew_us", 200_000, _command_add, 1, **rest)
    for after_us, ack, timeout_s in ((204_000, ACK_IN_PROGRESS, 10.0), (1_430_000, ACK_COMPLETE, 0.0)):
        yield Happening("ScriptQueue.ackcmd", "slew_us", after_us, _acknowledgement(ack, timeout_s), 1, **rest)
    for number, state in enumerate(_SCRIPT_STATES):
        yield Happening(
            "Script.logevent_state",
            "slew_us",
            1_500_000 + 400_000 * number,
            _script_state(state),
            _script_index,
            **rest,
        )


HAPPENINGS: tuple[Happening, ...] = (
    *_exposing(LSSTCAM),
    *_exposing(LATISS),
    *_moving(),
    *_correcting(),
    *_queueing(),
)


def switched_on(start_us: int) -> list[Event]:
    """What components publish when they start: events are state, and have to be there to be changed."""
    events = [
        Event(f"{csc}.logevent_summaryState", 0, start_us + 1_000 * number, {"summaryState": ENABLED})
        for number, csc in enumerate(("MTM1M3", "MTMount", "MTAOS", "MTCamera"))
    ]
    for number, (axis, drives) in enumerate((("azimuth", 16), ("elevation", 12))):
        state = {"powerState": 1, "motionControllerState": np.ones(drives, dtype=np.int64)}
        events.append(Event(f"MTMount.logevent_{axis}SystemState", 0, start_us + 20_000 + number, state))
    return events


def events_between(seed: int, start_us: int, end_us: int) -> list[Event]:
    """All events of an interval that lies within one observing day, in order of time."""
    events = [event for happening in HAPPENINGS for event in happening.between(seed, start_us, end_us)]
    return sorted(events, key=lambda event: event.time_us)


def as_columns(events: Sequence[Event]) -> dict[str, Column]:
    """The values of events of one topic, by field."""
    return {name: _column([event.values[name] for event in events]) for name in events[0].values}


def _column(values: list[Any]) -> Column:
    return values if isinstance(values[0], str) else np.stack([np.asarray(value) for value in values])
