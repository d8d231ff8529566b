"""Functions of transformation configurations, against numpy, scipy, pandas and the standard library."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from efd_pipelines.exposures.functions import FROM_TIER_1S, FUNCTIONS, Samples
from efd_pipelines.exposures.moments import edges, interval_means, moments
from efd_pipelines.tiers.rows import TableRows
from efd_pipelines.tiers.summary import summarise

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


def some(rows: int, fields: int, seed: int = 3) -> tuple[Any, Any]:
    """Times that are not even, some of them the same, and values with gaps."""
    rng = np.random.default_rng(seed)
    time_us = np.sort(rng.integers(1_690_000_000_400_000, 1_690_000_030_000_000, rows))
    values = rng.standard_normal((rows, fields)) * 5 + 70
    values[rng.random(values.shape) < 0.2] = NAN
    return time_us, values


def test_the_functions_of_all_elements_agree_with_numpy() -> None:
    time_us, values = some(200, 3)
    flat = values[~np.isnan(values)]
    assert value("median", values, time_us) == np.median(flat)
    assert value("percentile", values, time_us, percentile=12.5) == np.percentile(flat, 12.5)
    assert value("range", values, time_us) == np.ptp(flat)
    assert value("count", values, time_us) == flat.size
    assert value("mean", values, time_us) == pytest.approx(flat.mean(), rel=1e-14)
    assert value("stddev", values, time_us, ddof=0) == pytest.approx(flat.std(), rel=1e-13)


def test_a_slope_is_that_of_the_least_squares_line_in_seconds() -> None:
    time_us, values = some(200, 2)
    rows, fields = np.nonzero(~np.isnan(values))
    line = stats.linregress((time_us[rows] - time_us[0]) / 1e6, values[rows, fields])
    assert value("slope", values, time_us) == pytest.approx(line.slope, rel=1e-9)
    assert value("slope", [1.0, 3.0], [0, 500_000]) == 4.0
    assert np.isnan(value("slope", [1.0, 3.0], [7, 7]))


def test_first_and_last_are_the_ends_of_what_is_known() -> None:
    assert (value("first", [NAN, 2.0, 3.0]), value("last", [1.0, 2.0, NAN])) == (2.0, 2.0)
    assert value("first", [[NAN, NAN], [NAN, 6.0], [7.0, 8.0]]) == 6.0


def test_a_time_weighted_mean_holds_each_sample_until_the_next() -> None:
    seconds = np.array([1.0, 4.0, 8.0])
    held = Samples.of((seconds * 1e6).astype(np.int64), np.array([[10.0], [20.0], [40.0]]), 0, 10_000_000)
    expected = np.repeat([10.0, 20.0, 40.0], [30, 40, 20]).mean()
    assert FUNCTIONS["time_weighted_mean"].of_samples(held, FUNCTIONS["time_weighted_mean"].parse_arguments({})) == (
        pytest.approx(expected)
    )


def test_a_time_weighted_mean_takes_from_a_look_back_what_was_at_the_beginning() -> None:
    before = Samples.of(np.array([-9_000_000, -4_000_000, 5_000_000]), np.array([[99.0], [2.0], [4.0]]), 0, 10_000_000)
    assert FUNCTIONS["time_weighted_mean"].of_samples(before, FUNCTIONS["mean"].parse_arguments({})) == 3.0
    instant = Samples.of(np.array([-9, -4]), np.array([[99.0], [2.0]]), 0, 0)
    assert FUNCTIONS["time_weighted_mean"].of_samples(instant, FUNCTIONS["mean"].parse_arguments({})) == 2.0


@given(st.integers(1, 120), st.integers(1, 4), st.integers(0, 1000))
def test_moments_of_many_windows_are_those_of_each(rows: int, fields: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, values = some(rows, fields, seed)
    first = rng.integers(0, rows, 7)
    end = np.minimum(first + rng.integers(0, 40, 7), rows)
    narrow = values.T.astype(np.float32)
    found = moments(narrow, first, end)
    pooled = found.pooled()
    for n, (low, high) in enumerate(zip(first, end, strict=True)):
        for field in [*range(fields), None]:
            part = (
                narrow[:, low:high].astype(np.float64) if field is None else narrow[field, low:high].astype(np.float64)
            )
            known = part[~np.isnan(part)]
            of, at = (pooled, 0) if field is None else (found, field)
            assert of.count[n, at] == known.size
            if known.size:
                assert of.mean[n, at] == pytest.approx(known.mean(), rel=1e-13)
                assert of.squares[n, at] == pytest.approx(((known - known.mean()) ** 2).sum(), rel=1e-9, abs=1e-9)
                assert (of.low[n, at], of.high[n, at]) == (known.min(), known.max())
            else:
                assert np.isnan(of.mean[n, at])


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 1000))
def test_the_edges_of_many_windows_are_the_first_and_last_of_pandas(rows: int, fields: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((rows, fields)) < 0.6, np.nan, rng.standard_normal((rows, fields)))
    first = rng.integers(0, rows, 7)
    end = np.minimum(first + rng.integers(0, 12, 7), rows)
    each, pooled = (edges(values.T, first, end, pooled=pooled) for pooled in (False, True))
    for n, (low, high) in enumerate(zip(first, end, strict=True)):
        part = pd.DataFrame(values[low:high])
        for field in range(fields):
            known = part[field].dropna().to_list() or [NAN]
            assert [each.first[n, field], each.last[n, field]] == pytest.approx([known[0], known[-1]], nan_ok=True)
        leftmost = part.bfill(axis=1)[0].dropna().to_list() or [NAN]
        assert [pooled.first[n, 0], pooled.last[n, 0]] == pytest.approx([leftmost[0], leftmost[-1]], nan_ok=True)


def test_a_large_offset_costs_no_digits_of_the_spread() -> None:
    values = 1e9 + np.array([1.0, 2.0, 3.0, 4.0])
    found = moments(values[None, :], np.array([0]), np.array([4]))
    assert found.squares[0, 0] == 5.0


def test_intervals_are_reduced_as_pandas_resamples() -> None:
    time_us, values = some(200, 3)
    values[time_us // 1_000_000 == 1_690_000_007, 1] = NAN
    first, end = np.array([0, 20, 50, 50]), np.array([200, 90, 50, 51])
    found = interval_means(time_us, values.T, first, end, 1_000_000)
    for n, (low, high) in enumerate(zip(first, end, strict=True)):
        frame = pd.DataFrame(values[low:high], index=pd.to_datetime(time_us[low:high], unit="us"))
        expected = frame.resample("1s").mean()[frame.resample("1s").size() > 0]
        mine = slice(found.first[n], found.end[n])
        np.testing.assert_allclose(found.block.T[mine], expected.to_numpy(), rtol=1e-13)
        assert (found.time_us[mine] == expected.index.astype("datetime64[us]").astype(np.int64)).all()


def test_what_only_picks_samples_or_extremes_does_not_change_by_intervals() -> None:
    time_us, values = some(300, 1)
    whole = np.array([0]), np.array([300])
    means = interval_means(time_us, values.T, *whole, 1_000_000)
    for name, function in FUNCTIONS.items():
        if not function.of_means:
            assert name in {"min", "max", "range", "first", "last", "most_recent_value"}
    assert abs(value("max", means.block.T, means.time_us) - value("max", values, time_us)) > 1e-3


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=60), st.integers(0, 999_999))
def test_the_functions_of_the_1_s_tier_are_exactly_those_that_it_answers(numbers: list[float], phase: int) -> None:
    """Whole seconds of a window from the tier, its edges from the samples: equal to the bit, or not allowed."""
    time_us = 1_690_000_000_000_000 + phase + 130_000 * np.arange(len(numbers))
    values = np.array(numbers, dtype=np.float32)
    table = pa.table({"time": pa.array(time_us, pa.timestamp("us", tz="UTC")), "x": values})
    tier = summarise(TableRows(table), 1_000_000)
    starts = tier["time"].cast(pa.int64()).to_numpy()
    begin, end = int(time_us[0]), int(time_us[-1])
    whole = (starts >= begin) & (starts + 1_000_000 <= end)
    edges = values[~np.isin(time_us // 1_000_000 * 1_000_000, starts[whole])]
    low = min([*tier["min_x"].to_numpy()[whole], *edges])
    high = max([*tier["max_x"].to_numpy()[whole], *edges])
    answered = {"min": float(low), "max": float(high), "range": float(high) - float(low)}
    assert set(answered) == FROM_TIER_1S
    for name, found in answered.items():
        assert found == value(name, values)


def test_a_mean_of_the_1_s_tier_would_change_the_value() -> None:
    time_us = 1_690_000_000_000_000 + 50_000 * np.arange(20)
    values = np.linspace(1.0, 1.1, 20, dtype=np.float32)
    table = pa.table({"time": pa.array(time_us, pa.timestamp("us", tz="UTC")), "x": values})
    (mean,) = summarise(TableRows(table), 1_000_000)["mean_x"].to_pylist()
    assert mean != value("mean", values)
    assert "mean" not in FROM_TIER_1S
