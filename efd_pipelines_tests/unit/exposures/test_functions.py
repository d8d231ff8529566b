"""Functions of transformation configurations, against computations by pandas, statistics and scipy."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.exposures.functions import FUNCTIONS, Samples

NAN = float("nan")


def samples(values: Any, time_us: Any = None) -> Samples:
    matrix = np.array(values, dtype=np.float64)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    times = np.arange(len(matrix), dtype=np.int64) if time_us is None else np.array(time_us, dtype=np.int64)
    return Samples.of(times, matrix)


def value(function: str, values: Any, time_us: Any = None, **arguments: Any) -> float:
    chosen = FUNCTIONS[function]
    return chosen.of_samples(samples(values, time_us), chosen.parse_arguments(arguments))


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=50))
def test_statistics_agree_with_the_standard_library(numbers: list[float]) -> None:
    assert value("mean", numbers) == pytest.approx(statistics.fmean(numbers), rel=1e-12, abs=1e-6)
    assert value("stddev", numbers) == pytest.approx(statistics.stdev(numbers), rel=1e-9, abs=1e-5)
    assert value("median", numbers) == pytest.approx(statistics.median(numbers), rel=1e-12)
    assert (value("min", numbers), value("max", numbers)) == (min(numbers), max(numbers))
    assert value("count", numbers) == len(numbers)


def test_all_samples_of_all_fields_count_alike() -> None:
    assert value("mean", [[1.0, 2.0], [3.0, 6.0]]) == 3.0
    assert value("stddev", [[1.0, 2.0], [3.0, 6.0]]) == pytest.approx(statistics.stdev([1, 2, 3, 6]))


def test_nan_drops_the_element_and_not_its_sample() -> None:
    assert value("mean", [[1.0, 2.0], [10.0, NAN]]) == pytest.approx(13.0 / 3.0)


def test_the_standard_deviation_of_one_sample_is_no_value() -> None:
    assert np.isnan(value("stddev", [4.0]))
    assert np.isnan(value("stddev", [4.0, NAN]))
    assert value("stddev", [1.0, 3.0], ddof=0) == 1.0


def test_a_perfect_ramp_leaves_nothing_of_a_polynomial_fit() -> None:
    ramp = np.linspace(10.0, 20.0, 101)
    assert value("rms_from_polynomial_fit", ramp) < 1e-12
    assert value("rms_from_polynomial_fit", ramp, degree=4) < 1e-12


def test_what_a_polynomial_leaves_agrees_with_numpy_polyfit() -> None:
    rng = np.random.default_rng(5)
    x = np.arange(600)
    y = 70.0 + 1e-3 * x + 1e-6 * rng.standard_normal(600)
    expected = np.sqrt(np.mean((y - np.polyval(np.polyfit(x / 600.0, y, 4), x / 600.0)) ** 2))
    assert value("rms_from_polynomial_fit", y, degree=4) == pytest.approx(expected, rel=1e-9)


def test_a_fit_over_time_knows_uneven_samples() -> None:
    time_us = np.array([0, 1, 2, 10, 40, 41]) * 1_000_000
    line = time_us * 2e-6 + 5.0
    assert value("rms_from_polynomial_fit", line, time_us, fit_basis="time") < 1e-12
    assert value("rms_from_polynomial_fit", line, time_us, fit_basis="index") > 1.0


def test_a_missing_sample_does_not_move_the_others_of_a_ramp() -> None:
    assert value("rms_from_polynomial_fit", [1.0, 2.0, NAN, 4.0, 5.0]) < 1e-12


@pytest.mark.parametrize("numbers", [[1.0], [1.0, 2.0], [NAN, 1.0, 2.0]])
def test_a_fit_needs_more_samples_than_its_degree(numbers: list[float]) -> None:
    assert np.isnan(value("rms_from_polynomial_fit", numbers, degree=2))


def test_the_most_recent_value_is_the_last_that_is_one() -> None:
    assert value("most_recent_value", [1.0, 2.0, NAN]) == 2.0
    assert value("most_recent_value", [[1.0, 5.0], [NAN, 6.0]]) == 6.0


def test_zero_is_a_value() -> None:
    assert value("most_recent_value", [3.0, 0.0]) == 0.0
    assert value("mean", [0.0, 0.0]) == 0.0


def test_an_argument_that_a_function_does_not_take_is_named() -> None:
    with pytest.raises(ValueError, match=r"ddo.*arguments of stddev: ddof"):
        FUNCTIONS["stddev"].parse_arguments({"ddo": 1})
