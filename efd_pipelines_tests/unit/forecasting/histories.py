"""Histories: simulated weekly sizes of five years, on which the forecast is proved.

Each has its own level, trend, yearly season, shutdown weeks at nearly the same time of the year, level shifts when
something is built in, taken out or mended, outages, and noise that lasts. They are a function of the seed alone.
What is done with them: `backtest.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.forecasting.smoothing import Floats

WEEKS_PER_YEAR = 52


def simulated_histories(seed: int, count: int, years: int = 5) -> Floats:
    """Bytes a week, histories × weeks (52 a year), of `count` independent histories."""
    return np.stack([_history(np.random.default_rng([seed, number]), years) for number in range(count)])


def _history(random: np.random.Generator, years: int) -> Floats:
    weeks = np.arange(years * WEEKS_PER_YEAR)
    level = np.log(random.uniform(50e9, 600e9))
    trend = random.uniform(-0.05, 0.30) / WEEKS_PER_YEAR * weeks
    wander = np.cumsum(random.normal(0, 0.012, len(weeks)))
    log_size = level + trend + wander + _season(random, weeks) + _shifts(random, weeks) + _noise(random, len(weeks))
    share: Floats = np.exp(log_size) * _enabled(random, years)
    return share


def _season(random: np.random.Generator, weeks: NDArray[np.int64]) -> Floats:
    """Longer and shorter nights, better and worse weather: two waves a year."""
    phase = 2 * np.pi * weeks / WEEKS_PER_YEAR
    first, second = random.uniform(0.05, 0.25), random.uniform(0.0, 0.08)
    wave: Floats = first * np.cos(phase + random.uniform(0, 2 * np.pi)) + second * np.cos(
        2 * phase + random.uniform(0, 2 * np.pi)
    )
    return wave


def _shifts(random: np.random.Generator, weeks: NDArray[np.int64]) -> Floats:
    """Level shifts, one in two years: an instrument that is built in, a component that sends less."""
    steps = np.zeros(len(weeks))
    for _ in range(random.poisson(0.5 * len(weeks) / WEEKS_PER_YEAR)):
        steps[random.integers(1, len(weeks)) :] += random.normal(0.05, 0.25)
    return steps


def _noise(random: np.random.Generator, count: int) -> Floats:
    """What differs from week to week, and lasts for some."""
    spread, memory = random.uniform(0.06, 0.18), 0.3
    noise = random.normal(0, spread, count)
    for index in range(1, count):
        noise[index] += memory * noise[index - 1]
    return noise


def _enabled(random: np.random.Generator, years: int) -> Floats:
    """The share of each week that components are enabled: shutdowns of some weeks, the same each year save for a week
    earlier or later, and outages that nobody planned."""
    share = np.ones(years * WEEKS_PER_YEAR)
    start, length = random.integers(2, 46), random.integers(1, 5)
    for year in range(years):
        begin = year * WEEKS_PER_YEAR + int(start) + int(random.integers(-1, 2))
        share[begin : begin + int(length)] = random.uniform(0.15, 0.4)
    outages = random.random(len(share)) < 0.015
    share[outages] *= random.uniform(0.3, 0.8, int(outages.sum()))
    return share
