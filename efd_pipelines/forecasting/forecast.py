"""Forecast: what the coming year of weeks will bring, with intervals that hold what they say.

Holt-Winters (statsmodels) on the logarithms of sums over four weeks, thirteen a year: a week's own noise and a shutdown
that comes a week earlier fill no disk, and two years suffice for a season. Its smoothing constants are those that would
have erred least on this very history, one to thirteen steps ahead (`smoothing.py`). The model's own intervals take it
for the truth; these are made of the errors that it made on the past, widened for what was fitted to that past
(`_inflation`, `_quantile`), and the back-test among the tests holds them to their word. With less than two years a
season cannot be told from chance: the trend alone is carried on, and the forecast says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from efd_pipelines.forecasting.smoothing import Floats, Smoothed, best, errors_by_step

WEEKS = 4
"""Weeks of one period."""

SEASON = 13
"""Periods of a year."""

YEARS_FOR_A_SEASON = 2
LEVEL = 0.90
_LEAST_PERIODS = 6
_LEAST_SHARE = 0.02
_LEAST_GROWTH = 0.06
_DEPENDENCE = 0.65


@dataclass(frozen=True, slots=True)
class Forecast:
    """The coming periods of four weeks, in the unit of what was given; the interval is of `level`.

    `year` is the sum of the thirteen periods, with an interval of its own: sums err less than their parts.
    `method` says what was done, `note` what a reader must know of it.
    """

    method: str
    note: str
    periods: Floats = field(repr=False)
    lower: Floats = field(repr=False)
    upper: Floats = field(repr=False)
    year: float
    year_lower: float
    year_upper: float
    past_periods: int
    level: float = LEVEL


def period_sums(weekly: Floats) -> Floats:
    """Sums over four weeks, the newest period ending with the newest week; what is left over at the beginning is not
    counted."""
    whole = len(weekly) // WEEKS
    sums: Floats = np.asarray(weekly, dtype=np.float64)[len(weekly) - whole * WEEKS :].reshape(whole, WEEKS).sum(axis=1)
    return sums


def forecast(weekly: Floats, steps: int = SEASON) -> Forecast:
    """What the next `steps` periods of four weeks bring after `weekly`, whole weeks in order, none left out.

    The shorter the history, the plainer the method: below six periods it is their mean.
    """
    sums = period_sums(weekly)
    if len(sums) < _LEAST_PERIODS or not (sums > 0).any():
        return _mean_alone(np.asarray(weekly, dtype=np.float64), steps)
    seasonal = len(sums) >= YEARS_FOR_A_SEASON * SEASON
    floor = _LEAST_SHARE * float(np.median(sums[sums > 0]))
    logs = np.log(np.maximum(sums, floor))
    smoothed = best(logs, SEASON if seasonal else 0)
    ahead = carried_on(logs, smoothed, steps)
    variance = _variances(logs, smoothed, steps)
    width = _quantile(len(sums), seasonal) * np.sqrt(variance) * _inflation(len(sums), seasonal)
    whole = float(np.exp(ahead[:SEASON]).sum())
    mean_variance = _DEPENDENCE * float(variance[:SEASON].mean())
    year_width = _quantile(len(sums), seasonal) * np.sqrt(mean_variance) * _inflation(len(sums), seasonal)
    return Forecast(
        method="Holt-Winters, damped trend and yearly season" if seasonal else "Holt, damped trend alone",
        note=_note(len(weekly), seasonal),
        periods=np.exp(ahead),
        lower=np.exp(ahead - width),
        upper=np.exp(ahead + width),
        year=whole,
        year_lower=whole * float(np.exp(-year_width)),
        year_upper=whole * float(np.exp(year_width)),
        past_periods=len(sums),
    )


def carried_on(logs: Floats, smoothed: Smoothed, steps: int) -> Floats:
    """Statsmodels' Holt-Winters with these constants and beginning, `steps` ahead."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    seasonal = smoothed.season.size > 0
    model = ExponentialSmoothing(
        logs,
        trend="add",
        damped_trend=True,
        seasonal="add" if seasonal else None,
        seasonal_periods=smoothed.season.size or None,
        initialization_method="known",
        initial_level=smoothed.level,
        initial_trend=smoothed.trend,
        initial_seasonal=smoothed.season if seasonal else None,
    )
    fitted = model.fit(
        smoothing_level=smoothed.alpha,
        smoothing_trend=smoothed.beta,
        smoothing_seasonal=smoothed.gamma if seasonal else None,
        damping_trend=smoothed.phi,
        optimized=False,
    )
    ahead: Floats = np.asarray(fitted.forecast(steps))
    return ahead


def _variances(logs: Floats, smoothed: Smoothed, steps: int) -> Floats:
    """Variance of the error at each step: a straight line through the mean squares of past errors, which rises at
    least a little, as the far ones of a short history are few and fitted."""
    squares, counts = errors_by_step(logs, smoothed, SEASON)
    known = counts > 0
    step = np.arange(1, SEASON + 1)
    weights = np.sqrt(counts[known])
    design = np.stack([np.ones(SEASON), step], axis=1)[known]
    base, growth = np.linalg.lstsq(design * weights[:, None], squares[known] * weights, rcond=None)[0]
    if growth < 0:
        base, growth = float(np.average(squares[known], weights=counts[known])), 0.0
    if base < 0:
        base, growth = 0.0, float(np.average(squares[known] / step[known], weights=(counts * step)[known]))
    middle = (SEASON + 1) / 2
    slope = max(growth / base, _LEAST_GROWTH) if base > 0 else 1.0
    ahead = np.arange(1, steps + 1)
    variance: Floats = (base + growth * middle) * (1 + slope * ahead) / (1 + slope * middle)
    return np.maximum(variance, 1e-12)


def _inflation(periods: int, seasonal: bool) -> float:
    """Past errors are too small by what was fitted to the past: a season of thirteen values, or level and trend."""
    fitted = SEASON if seasonal else 2
    return periods / (periods - fitted)


def _quantile(periods: int, seasonal: bool) -> float:
    """Of Student's t: a year of errors that overlap is worth about five that do not, beyond what was fitted."""
    from scipy.stats import t

    freedom = 5 * (periods / SEASON - 1) if seasonal else max(2.0, 5 * periods / SEASON)
    return float(t.ppf((1 + LEVEL) / 2, freedom))


def _mean_alone(weekly: Floats, steps: int) -> Forecast:
    """Too little even for a trend: the mean of what there is; the interval is between half and double of it."""
    mean = float(weekly.mean()) * WEEKS if len(weekly) else 0.0
    level = np.full(steps, mean)
    year = mean * SEASON
    few = "A week is" if len(weekly) == 1 else f"{len(weekly)} weeks are"
    note = f"{few} too few for a trend: the mean is carried on, within a factor of two by convention."
    return Forecast("mean", note, level, level / 2, level * 2, year, year / 2, year * 2, len(weekly) // WEEKS)


def _note(weeks: int, seasonal: bool) -> str:
    if seasonal:
        return ""
    return (
        f"{weeks} weeks of history are less than two years: the trend alone is carried on; "
        "a season cannot be told from chance yet."
    )
