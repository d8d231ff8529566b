"""Smoothing: which constants of Holt-Winters would have erred least on a history, and how they erred.

Trend and season add up (of logarithms), the trend is damped. All constants of a grid run through the history at once,
which takes milliseconds where statsmodels takes seconds for one after the other; the forecast itself is statsmodels'
with the constants found here (`forecast.py`), and a test holds the two recursions together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ALPHA, _BETA, _GAMMA, _PHI = (0.1, 0.2, 0.35, 0.5, 0.7), (0.005, 0.02, 0.05), (0.02, 0.1, 0.3), (0.9, 0.97, 0.995)
_STEEPEST = 0.04
_SEASON_KEPT = 0.85
"""A season of two years' means is partly their noise."""

_FIRST_JUDGED = 8


@dataclass(frozen=True, slots=True)
class Smoothed:
    """Constants of smoothing (level, trend, season, damping) and where the smoothing begins; no season: empty."""

    alpha: float
    beta: float
    gamma: float
    phi: float
    level: float
    trend: float
    season: Floats = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Paths:
    """States after each observation: steps × constants (× season)."""

    level: Floats
    trend: Floats
    season: Floats
    phi: Floats

    def ahead(self, at: int, steps: int) -> Floats:
        """Forecasts from after observation `at`: constants × steps."""
        step = np.arange(1, steps + 1)
        damped = np.cumsum(self.phi[:, None] ** step, axis=1)
        found: Floats = self.level[at][:, None] + damped * self.trend[at][:, None]
        length = self.season.shape[2]
        return found + self.season[at][:, (at + step) % length] if length else found


def best(logs: Floats, season: int) -> Smoothed:
    """The constants that err least one to thirteen steps ahead over the history; `season` 0: a trend alone."""
    grid = np.array(list(itertools.product(_ALPHA, _BETA, _GAMMA if season else (0.0,), _PHI)))
    level, trend, initial = _beginning(logs, season)
    paths = _run(logs, grid, level, trend, initial)
    wrong = np.zeros(len(grid))
    first = min(_FIRST_JUDGED, len(logs) - 2)
    for at in range(first, len(logs) - 1):
        truth = logs[at + 1 : at + 14]
        wrong += np.abs(paths.ahead(at, len(truth)) - truth).sum(axis=1)
    alpha, beta, gamma, phi = map(float, grid[int(wrong.argmin())])
    return Smoothed(alpha, beta, gamma, phi, level, trend, initial)


def errors_by_step(logs: Floats, smoothed: Smoothed, steps: int) -> tuple[Floats, Floats]:
    """The mean square of past errors at each step ahead, and how many there were."""
    constants = np.array([[smoothed.alpha, smoothed.beta, smoothed.gamma, smoothed.phi]])
    paths = _run(logs, constants, smoothed.level, smoothed.trend, smoothed.season)
    squares, counts = np.zeros(steps), np.zeros(steps)
    for at in range(min(_FIRST_JUDGED, len(logs) - 2), len(logs) - 1):
        truth = logs[at + 1 : at + 1 + steps]
        squares[: len(truth)] += (truth - paths.ahead(at, len(truth))[0]) ** 2
        counts[: len(truth)] += 1
    return squares / np.maximum(counts, 1), counts


def _beginning(logs: Floats, season: int) -> tuple[float, float, Floats]:
    """Level before the first observation, trend and season, from the first two years; or from a line."""
    if not season:
        trend, level = np.polyfit(np.arange(len(logs)), logs, 1)
        slope = float(np.clip(trend, -_STEEPEST, _STEEPEST))
        return float(level + (trend - slope) * (len(logs) - 1) / 2) - slope, slope, np.zeros(0)
    two = logs[: 2 * season].reshape(2, season)
    means = two.mean(axis=1)
    slope = float(np.clip((means[1] - means[0]) / season, -_STEEPEST, _STEEPEST))
    straight = two - slope * np.arange(2 * season).reshape(2, season)
    initial = _SEASON_KEPT * (straight - straight.mean(axis=1, keepdims=True)).mean(axis=0)
    return float(means[0]) - slope * (season + 1) / 2, slope, initial


def _run(logs: Floats, constants: Floats, level: float, trend: float, season: Floats) -> _Paths:
    """Holt-Winters over the history with all constants at once, as statsmodels reckons it."""
    alpha, beta, gamma, phi = constants.T
    levels, trends = np.empty((len(logs), len(alpha))), np.empty((len(logs), len(alpha)))
    seasons = np.empty((len(logs), len(alpha), len(season)))
    now, rise, cycle = np.full(len(alpha), level), np.full(len(alpha), trend), np.tile(season, (len(alpha), 1))
    for at, value in enumerate(logs):
        place = at % len(season) if len(season) else 0
        wave = cycle[:, place] if len(season) else 0.0
        expected = now + phi * rise
        then = alpha * (value - wave) + (1 - alpha) * expected
        rise = beta * (then - now) + (1 - beta) * phi * rise
        if len(season):
            cycle[:, place] = gamma * (value - expected) + (1 - gamma) * wave
        now = then
        levels[at], trends[at], seasons[at] = now, rise, cycle
    return _Paths(levels, trends, seasons, phi)
