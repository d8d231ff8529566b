"""Pace: how fast simulated time passes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from efd_pipelines.errors import UsageError

Speed = float | str
"""Times real time, or `max`."""

# salobj's writers flush every 25 ms (efd-facts §1.2); waking up for each record costs more than the records.
_SHORTEST_NAP_S, _LONGEST_NAP_S = 0.025, 0.1


def parse_speed(speed: Speed) -> float:
    """How many times real time; infinite for `max`.

    Raises:
        UsageError: it is neither `max` nor a positive number.
    """
    try:
        factor = math.inf if speed == "max" else float(speed)
    except ValueError:
        factor = math.nan
    if not factor > 0:
        raise UsageError(f"{speed!r} is no speed", remedy="Write max, or how many times real time: 1, 10, 0.5.")
    return factor


class Pace:
    """Lets event times pass at a speed, from the first one that is waited for.

    With an `anchor_us` the clock begins there: at speed 1 and an anchor of now, event time is the wall's.
    """

    def __init__(self, speed: Speed = "max", anchor_us: int | None = None) -> None:
        self.factor = parse_speed(speed)
        self._anchor_us = anchor_us
        self._began_s = time.monotonic()

    @property
    def is_max(self) -> bool:
        return math.isinf(self.factor)

    def wait(self, time_us: int, idle: Callable[[], object]) -> None:
        """Return when `time_us` is due; call `idle` now and then while waiting."""
        if self.is_max:
            return
        if self._anchor_us is None:
            self._anchor_us, self._began_s = time_us, time.monotonic()
        due_s = self._began_s + (time_us - self._anchor_us) / 1e6 / self.factor
        while (remaining_s := due_s - time.monotonic()) > 0:
            idle()
            time.sleep(min(max(remaining_s, _SHORTEST_NAP_S), _LONGEST_NAP_S))
