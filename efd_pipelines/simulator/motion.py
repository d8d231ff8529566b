"""Motion: where a telescope points at any moment, by its plan.

Each slew follows the quintic profile 10u³ − 15u⁴ + 6u⁵, at rest at both ends in speed and acceleration; then
the mount tracks the sky until the next slew. Both axes begin and arrive together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.simulator.plan import DayPlan


@dataclass(frozen=True, slots=True)
class Pointing:
    """(times, 2) each: azimuth and elevation in degrees, degrees per second and per second squared."""

    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    acceleration: NDArray[np.float64]
    slewing: NDArray[np.bool_]

    @property
    def azimuth(self) -> NDArray[np.float64]:
        return np.asarray(self.position[:, 0])

    @property
    def elevation(self) -> NDArray[np.float64]:
        return np.asarray(self.position[:, 1])


def pointing(plan: DayPlan, times_us: NDArray[np.int64]) -> Pointing:
    """Where the telescope of `plan` points at these times. Before the first slew and after the last it rests."""
    visit = np.searchsorted(plan.slew_us, times_us, side="right") - 1
    resting = visit < 0
    visit = np.maximum(visit, 0)
    slew_s = (plan.arrive_us[visit] - plan.slew_us[visit]) / 1e6
    since_s = np.where(resting, 0.0, (times_us - plan.slew_us[visit]) / 1e6)
    slewing = since_s < slew_s
    part = np.minimum(since_s / slew_s, 1.0)
    way = plan.to_deg[visit] - plan.from_deg[visit]
    tracking_s = np.maximum(since_s - slew_s, 0.0)[:, None]
    rate = np.where(slewing[:, None], 0.0, plan.rate_deg_s[visit])
    place = part**3 * (10 - 15 * part + 6 * part**2)
    speed = 30 * part**2 * (1 - part) ** 2 / slew_s
    change = 60 * part * (1 - part) * (1 - 2 * part) / slew_s**2
    return Pointing(
        position=plan.from_deg[visit] + way * place[:, None] + rate * tracking_s,
        velocity=way * speed[:, None] + rate,
        acceleration=way * change[:, None],
        slewing=slewing & ~resting,
    )
