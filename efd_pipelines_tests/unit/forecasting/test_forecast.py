"""The forecast: it is statsmodels' recursion, its intervals cover what they claim, and it beats last year's weeks."""

from __future__ import annotations

import os

import numpy as np
import pytest

from efd_pipelines.forecasting import smoothing
from efd_pipelines.forecasting.forecast import SEASON, carried_on, forecast, period_sums
from efd_pipelines.forecasting.smoothing import Floats
from efd_pipelines_tests.unit.forecasting.backtest import back_test
from efd_pipelines_tests.unit.forecasting.histories import simulated_histories

AT_SCALE = bool(os.environ.get("EFD_TEST_SCALE"))


@pytest.mark.parametrize(("weeks", "season"), [(156, SEASON), (80, 0)])
def test_the_recursion_that_chooses_is_that_of_statsmodels_that_forecasts(weeks: int, season: int) -> None:
    logs = np.log(period_sums(simulated_histories(3, 1)[0][:weeks]))
    chosen = smoothing.best(logs, season)
    constants = np.array([[chosen.alpha, chosen.beta, chosen.gamma, chosen.phi]])
    ours = smoothing._run(logs, constants, chosen.level, chosen.trend, chosen.season).ahead(len(logs) - 1, SEASON)[0]
    theirs = carried_on(logs, chosen, SEASON)
    assert ours[:-1] == pytest.approx(theirs[:-1], abs=1e-9)
    # A whole season ahead statsmodels takes the season's value as it was before the last observation.
    assert ours[-1] == pytest.approx(theirs[-1], abs=0.01)


def test_ninety_percent_of_what_came_is_within_the_interval_and_last_year_is_beaten() -> None:
    found = back_test(seed=11, histories=400 if AT_SCALE else 40)
    print(found, f"gain {found.gain:.3f}")
    lowest, highest, gain = (0.87, 0.93, 0.20) if AT_SCALE else (0.82, 0.97, 0.10)
    assert lowest <= found.coverage <= highest
    assert lowest <= found.year_coverage <= highest
    assert found.gain >= gain


def test_simulated_histories_are_their_seeds() -> None:
    first, again, other = (simulated_histories(seed, 3) for seed in (5, 5, 6))
    assert (first == again).all()
    assert not (first == other).any()
    assert first.shape == (3, 260)
    # Each history of its own: one more does not change the others.
    assert (simulated_histories(5, 4)[:3] == first).all()


def test_less_than_two_years_are_a_trend_alone_and_it_says_so() -> None:
    weekly = simulated_histories(1, 1)[0]
    short, long = forecast(weekly[:103]), forecast(weekly[:104])
    assert "trend alone" in short.method
    assert "less than two years" in short.note
    assert "season" in long.method
    assert long.note == ""


def test_a_trend_is_carried_on() -> None:
    weekly: Floats = np.asarray(1e9 * 1.01 ** np.arange(60), dtype=np.float64)
    made = forecast(weekly)
    assert made.periods[0] == pytest.approx(1.01**4 * period_sums(weekly)[-1], rel=0.05)
    assert made.year > 13 * period_sums(weekly)[-1]


def test_a_season_comes_again() -> None:
    weeks = np.arange(208)
    weekly = 1e9 * (1 + 0.5 * np.cos(2 * np.pi * weeks / 52))
    made = forecast(weekly)
    expected = period_sums(1e9 * (1 + 0.5 * np.cos(2 * np.pi * np.arange(208, 260) / 52)))
    assert made.periods == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("weeks", [0, 1, 7, 23])
def test_few_weeks_are_their_mean_and_it_says_so(weeks: int) -> None:
    made = forecast(np.full(weeks, 2e9))
    assert made.periods == pytest.approx(np.full(13, 8e9 if weeks else 0))
    assert ("A week is" if weeks == 1 else f"{weeks} weeks are") + " too few" in made.note


def test_weeks_without_anything_do_not_break_it() -> None:
    weekly = simulated_histories(2, 1)[0]
    weekly[100:112] = 0
    made = forecast(weekly)
    assert np.isfinite(made.upper).all()
    assert (made.lower <= made.periods).all()
    assert (made.periods <= made.upper).all()
