"""Results: what healing did or would have to do, and how long the rest takes.

What belongs here: the figures and their counting. Who comes by them: `healing.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from efd_pipelines.history.sources import Piece


@dataclass(slots=True)
class HealResult:
    """What healing did, or would have to do.

    Args:
        missing_s: what the archive lacked and no source had been asked for, over all datasets.
        asked_s: how much of that has been asked for.
        rows, values: rows filled in; values that the sources gave for them.
        known: points whose records were in the archive already.
        ambiguous: fields that could belong to two columns and were left out, by dataset.
        left: whether time was up before everything had been asked for.
    """

    datasets: int = 0
    missing_s: float = 0.0
    asked_s: float = 0.0
    rows: int = 0
    values: int = 0
    bytes: int = 0
    known: int = 0
    commits: int = 0
    by_source: dict[str, int] = field(default_factory=dict)
    ambiguous: dict[str, list[str]] = field(default_factory=dict)
    left: bool = False
    seconds: float = 0.0

    @property
    def hours_left(self) -> float | None:
        """How long the rest takes at the pace so far."""
        rest_s = self.missing_s - self.asked_s
        return rest_s / self.asked_s * self.seconds / 3600 if self.asked_s else None


Progress = Callable[[HealResult], None]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What healing would ask for.

    Args:
        missing_s: how much is missing, over all datasets.
        values: about how many values the sources have of it, by samples.
        hours: how long that takes at the rate that is allowed.
    """

    datasets: int
    missing_s: float
    values: int
    hours: float


class Count:
    """How much of a dataset's holes has been asked for."""

    def __init__(self, result: HealResult, lock: threading.Lock, total_s: float) -> None:
        self._result = result
        self._lock = lock
        self._left_s = total_s

    def add(self, piece: Piece) -> None:
        """Another piece; one that a second source is asked for as well counts once."""
        with self._lock:
            seconds = min(self._left_s, piece.interval.seconds)
            self._left_s -= seconds
            self._result.asked_s += seconds
            self._result.values += piece.values

    def finish(self) -> None:
        """Nothing is left of them."""
        with self._lock:
            self._result.asked_s += self._left_s
            self._left_s = 0.0
