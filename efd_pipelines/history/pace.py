"""Pace: not more values a second than the server may be asked for, over all threads of the process.

Before a question nobody knows how many values the answer has, so each answer is paid for afterwards: the next
question waits until what was taken so far is within the rate. One process at a time asks: `turns.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """A rate of values a second.

    Args:
        values_s: the rate.
        clock, sleep: for tests.
    """

    def __init__(
        self,
        values_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._values_s = values_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def wait(self) -> None:
        """Returns when the next question may be asked."""
        with self._lock:
            left_s = self._free_at - self._clock()
        if left_s > 0:
            self._sleep(left_s)

    def spend(self, values: int) -> None:
        """So many values were taken."""
        with self._lock:
            self._free_at = max(self._free_at, self._clock()) + values / self._values_s
