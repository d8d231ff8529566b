"""CCS: housekeeping telemetry of the cameras.

Each record is about one place (its tags: Raft, Reb, Source …); a value that a place has not, or that was not
read, is null, and a measured one comes with its `_state`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.signals import Columns, Scene, Signal

_REBS = tuple((raft, f"Reb{number}") for raft in ("R21", "R22", "R23") for number in range(3))
_STATES = ("NOMINAL", "NOMINAL", "NOMINAL", "NOMINAL", "WARNING", "OFF_LINE")


def _records(topic: str, tags: dict[str, list[str]]) -> Callable[[Scene], Columns]:
    """One record after the other about each place of `tags`, all its fields filled by their unit."""
    values = [field for field in builtin_topic(topic).public_fields if field.name not in (*tags, "timestamp")]

    def columns(scene: Scene) -> Columns:
        places = len(next(iter(tags.values())))
        # By time and not by row, so that a place does not depend on where the run began.
        place = (scene.times_us // 1_000_000) % places
        found: Columns = {name: [texts[at] for at in place.tolist()] for name, texts in tags.items()}
        found["timestamp"] = scene.times_us // 1000
        for field in values:
            if field.sal_type == "double":
                read = 5.0 + 20.0 * np.abs(scene.constant()) + scene.noise(of=0.05).astype(np.float64)
                found[field.name] = np.ma.masked_array(read, scene.rng.random(len(scene)) < 0.08)
            elif field.name.endswith("_state"):
                state = scene.rng.integers(0, len(_STATES), len(scene))
                found[field.name] = [_STATES[number] for number in state.tolist()]
        return found

    return columns


def _reb_power(scene: Scene) -> Columns:
    """MTCamera.rebpower_Reb: 71 boards at once; the widest telemetry, with names that collide when flattened."""
    topic = builtin_topic("MTCamera.rebpower_Reb")
    columns: Columns = {
        field.name: np.abs(scene.constant(71, of=3.0)) + scene.noise(71, of=0.01)
        for field in topic.public_fields
        if field.count > 1
    }
    columns["location"] = ":".join(f"{raft}/{reb}" for raft, reb in _REBS)
    return columns


CCS_SIGNALS: tuple[Signal, ...] = (
    Signal(
        "MTCamera.focal_plane_reb_data",
        1,
        _records(
            "MTCamera.focal_plane_reb_data",
            {
                "Raft": [raft for raft, _ in _REBS],
                "Reb": [reb for _, reb in _REBS],
                "Agent": ["focal-plane"] * len(_REBS),
            },
        ),
    ),
    Signal(
        "MTCamera.thermal_trim",
        0.5,
        _records(
            "MTCamera.thermal_trim",
            {"Source": [f"ColdHtr{number}" for number in range(7)], "Agent": ["thermal"] * 7},
        ),
    ),
    Signal(
        "ATCamera.power",
        0.5,
        _records(
            "ATCamera.power",
            {"Source": ["Digital", "Analog", "ClockHigh", "ClockLow", "OD"], "Agent": ["ats-power"] * 5},
        ),
    ),
    Signal("MTCamera.rebpower_Reb", 0.1, _reb_power),
)
