"""Back-test: whether the forecast's intervals cover what they claim, and whether it beats "the same as last year".

Each of many histories is forecast from the end of its second, third and fourth year, a year ahead, and compared with
what came. What belongs here: playing and scoring. The histories: `histories.py`; the forecast: the package's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efd_pipelines.forecasting.forecast import SEASON, Forecast, forecast, period_sums
from efd_pipelines.forecasting.smoothing import Floats
from efd_pipelines_tests.unit.forecasting.histories import WEEKS_PER_YEAR, simulated_histories

_YEARS = 5
_ORIGINS = (2, 3, 4)


@dataclass(frozen=True, slots=True)
class BackTest:
    """What forecasts of simulated histories were worth.

    `coverage` is the share of periods within the interval of 90 %, `year_coverage` that of sums of a year; `mase` the
    mean absolute error over that of "same as last year" within the history; `gain` how much smaller it is than that of
    "same as last year" ahead (0.2: by a fifth).
    """

    histories: int
    forecasts: int
    coverage: float
    year_coverage: float
    coverage_by_origin: dict[int, float]
    mase: float
    mase_same_as_last_year: float

    @property
    def gain(self) -> float:
        return 1 - self.mase / self.mase_same_as_last_year


@dataclass(frozen=True, slots=True)
class _Score:
    origin: int
    within: float
    year_within: bool
    mase: float
    naive: float


def back_test(seed: int, histories: int) -> BackTest:
    """Forecasts of `histories` independent histories of five years; the seed decides all of them."""
    scores = [_score(weekly, origin) for weekly in simulated_histories(seed, histories, _YEARS) for origin in _ORIGINS]
    return BackTest(
        histories=histories,
        forecasts=len(scores),
        coverage=float(np.mean([one.within for one in scores])),
        year_coverage=float(np.mean([one.year_within for one in scores])),
        coverage_by_origin={
            origin: float(np.mean([one.within for one in scores if one.origin == origin])) for origin in _ORIGINS
        },
        mase=float(np.mean([one.mase for one in scores])),
        mase_same_as_last_year=float(np.mean([one.naive for one in scores])),
    )


def _score(weekly: Floats, origin: int) -> _Score:
    known = weekly[: origin * WEEKS_PER_YEAR]
    truth = period_sums(weekly[origin * WEEKS_PER_YEAR : (origin + 1) * WEEKS_PER_YEAR])
    past = period_sums(known)
    made = forecast(known)
    scale = float(np.abs(past[SEASON:] - past[:-SEASON]).mean())
    return _Score(
        origin,
        float(_within(made, truth).mean()),
        made.year_lower <= float(truth.sum()) <= made.year_upper,
        float(np.abs(made.periods - truth).mean()) / scale,
        float(np.abs(past[-SEASON:] - truth).mean()) / scale,
    )


def _within(made: Forecast, truth: Floats) -> np.ndarray:
    found: np.ndarray = (made.lower <= truth) & (truth <= made.upper)
    return found
