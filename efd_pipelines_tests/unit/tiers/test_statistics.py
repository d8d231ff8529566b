"""Statistics of windows, against Python's exact fractions, numpy and an order written down by hand."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from efd_pipelines.tiers.networks import LONG_BLOCK, SHORT_BLOCK, network, sorting
from efd_pipelines.tiers.statistics import Statistics, window_statistics

NAN, INF = math.nan, math.inf
DOUBLES = st.floats(width=64)
SINGLES = st.floats(width=32)
MODERATE = st.one_of(st.floats(min_value=-1e100, max_value=1e100), st.just(NAN))
LONGS = st.integers(-(2**63), 2**63 - 1)


def windows_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[list[Any]]]:
    """Ragged windows, also with a single sample."""
    return st.lists(st.lists(values, min_size=1, max_size=70), min_size=1, max_size=5)


def computed(windows: list[list[Any]], dtype: Any, copies: int = 1) -> Statistics:
    """Statistics of windows that follow each other in one column, or in several equal ones."""
    bounds = np.cumsum([0, *(len(window) for window in windows)])
    column = np.array([value for window in windows for value in window], dtype)
    return window_statistics(np.tile(column, (copies, 1)), bounds[:-1], bounds[1:])


def counts(result: Statistics, windows: list[list[Any]]) -> Any:
    """How many samples each window has that are not missing, (windows, columns)."""
    all_of_them = np.array([[len(window)] for window in windows])
    return all_of_them if result.missing is None else all_of_them - result.missing.T


def in_order(window: list[float]) -> list[float]:
    """What is no NaN, sorted, −0.0 before +0.0."""
    return sorted((v for v in window if not math.isnan(v)), key=lambda v: (v, math.copysign(1.0, v)))


def bits(value: Any, dtype: Any) -> bytes:
    return np.array(value, dtype).tobytes()


@settings(deadline=None)
@given(windows_of(DOUBLES))
@example(
    [[0.0, -0.0], [-0.0, 0.0, 0.0], [NAN], [NAN, 1.0], [INF, -INF], [-INF], [5e-324, -5e-324], [1.7e308], [1.7e308] * 2]
)
def test_extremes_median_and_count_of_doubles_are_exact(windows: list[list[float]]) -> None:
    check_order_statistics(windows, np.float64)


@settings(deadline=None)
@given(windows_of(SINGLES))
@example([[0.0, -0.0], [-0.0, 0.0, 0.0], [NAN], [NAN, 1.0], [INF, -INF], [-INF]])
def test_extremes_median_and_count_of_floats_are_exact(windows: list[list[float]]) -> None:
    check_order_statistics(windows, np.float32)


def check_order_statistics(windows: list[list[float]], dtype: Any) -> None:
    result = computed(windows, dtype)
    for n, window in enumerate(windows):
        ordered = in_order(window)
        assert counts(result, windows)[n, 0] == len(ordered)
        if not ordered:
            continue
        assert bits(result.minimum[0, n], dtype) == bits(ordered[0], dtype)
        assert bits(result.maximum[0, n], dtype) == bits(ordered[-1], dtype)
        with np.errstate(all="ignore"):
            low, high = np.float64(ordered[(len(ordered) - 1) // 2]), np.float64(ordered[len(ordered) // 2])
            expected = dtype(low if len(ordered) % 2 else (low + high) / 2)
        assert result.median.dtype == dtype
        assert np.isnan([result.median[0, n], expected]).all() or bits(result.median[0, n], dtype) == bits(
            expected, dtype
        )


@settings(deadline=None)
@given(windows_of(LONGS))
@example([[2**63 - 1, 2**63 - 1], [-(2**63), 2**63 - 1], [2**53, 2**53 + 1, 2**53 + 2]])
def test_integers_beyond_doubles_are_exact(windows: list[list[int]]) -> None:
    result = computed(windows, np.int64)
    for n, window in enumerate(windows):
        ordered = sorted(window)
        assert counts(result, windows)[n, 0] == len(ordered)
        assert int(result.minimum[0, n]) == ordered[0]
        assert int(result.maximum[0, n]) == ordered[-1]
        middle = (float(ordered[(len(ordered) - 1) // 2]) + float(ordered[len(ordered) // 2])) / 2
        assert result.median[0, n] == middle
        assert result.mean[0, n] == pytest.approx(float(statistics.mean(window)), rel=1e-14, abs=1e-14 * 2.0**63)


@settings(deadline=None)
@given(windows_of(MODERATE))
@example([[1e16, 1.0, -1e16], [0.1] * 50, [1690587411.05322 + 0.02 * n for n in range(50)], [7.0]])
def test_mean_and_stdev_agree_with_exact_fractions(windows: list[list[float]]) -> None:
    result = computed(windows, np.float64)
    for n, window in enumerate(windows):
        samples = [value for value in window if not math.isnan(value)]
        largest = max((abs(value) for value in samples), default=0.0)
        if samples:
            assert result.mean[0, n] == pytest.approx(statistics.mean(samples), rel=1e-14, abs=1e-15 * largest + 5e-324)
        if len(samples) > 1:
            expected = statistics.stdev(samples)
            # Squares of deviations below 1e-154 are below the smallest double, as they are for numpy.
            assert result.stdev[0, n] == pytest.approx(expected, rel=1e-12, abs=1e-15 * largest + 1e-150)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_have_their_signs_among_any_number_of_samples(dtype: Any) -> None:
    random = np.random.default_rng(3)
    values = np.array([-1.0, -0.0, -0.0, 0.0, 0.0, 1.0, NAN, INF, -INF])
    for few in (values, values[1:7], values[1:5], values[:3]):
        windows = [random.choice(few, size).tolist() for size in range(1, 140)]
        check_order_statistics(windows, dtype)


@pytest.mark.parametrize("samples", [*range(1, 70), 96, 127, 128, 129, 255, 257, 400, 511, 512])
def test_networks_find_the_middle(samples: int) -> None:
    """Of zeros and ones in any number and order: then of everything (Knuth, The Art of Computer Programming, 5.3.4)."""
    random = np.random.default_rng(samples)
    ones = random.integers(0, samples + 1, 400)
    rows = random.permuted(np.arange(samples)[:, None] < ones[None, :], axis=0).astype(np.int64)
    expected = np.sort(rows, axis=0)
    plan = network(samples)
    lengths = [LONG_BLOCK] * plan.blocks + [SHORT_BLOCK] * plan.short_blocks
    for begin, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
        for low, high in sorting(length):
            rows[begin + low], rows[begin + high] = np.sort(rows[[begin + low, begin + high]], axis=0)
    for low, high in plan.comparators:
        rows[[low, high]] = np.sort(rows[[low, high]], axis=0)
    first, second = rows[: plan.half], rows[plan.half :]
    begin = max(0, plan.below - len(second))
    others = second[: plan.below - begin][::-1]
    lower = np.vstack((first[max(begin - 1, 0) : begin], np.minimum(first[begin : plan.below], others)))
    upper = np.vstack((first[plan.below : plan.below + 1], np.maximum(first[begin : plan.below], others)))
    assert np.array_equal(upper.min(axis=0), expected[samples // 2])
    if samples > 1:
        assert np.array_equal(lower.max(axis=0), expected[samples // 2 - 1])


def test_the_least_number_of_samples_is_told() -> None:
    assert computed([[1.0] * 9, [1.0, NAN, 2.0, NAN], [3.0] * 3], np.float64).least == 2
    assert computed([[1.0] * 9, [2.0] * 4], np.float32).least == 4
    assert computed([[NAN] * 600, [1.0] * 700], np.float64).least == 0


def test_equal_samples_have_no_deviation() -> None:
    result = computed([[0.1] * 50], np.float64)
    assert result.stdev[0, 0] == 0.0
    assert result.mean[0, 0] == 0.1


@pytest.mark.parametrize(
    ("window", "mean", "stdev"),
    [([INF, 1.0], INF, NAN), ([-INF, 1.0, 2.0], -INF, NAN), ([INF, -INF], NAN, NAN), ([INF, NAN, INF], INF, NAN)],
)
def test_infinities_follow_ieee_754(window: list[float], mean: float, stdev: float) -> None:
    for dtype in (np.float32, np.float64):
        result = computed([window], dtype)
        assert np.array_equal(result.mean[0, 0], mean, equal_nan=True)
        assert np.array_equal(result.stdev[0, 0], stdev, equal_nan=True)


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 16, 17, 49, 50, 51, 128, 129, 400, 3000, 20_000])
@pytest.mark.parametrize("columns", [1, 17, 130])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_windows_of_any_length_and_width_agree_with_numpy(samples: int, columns: int, dtype: Any) -> None:
    columns = 1 if samples > 3000 else columns
    close = 1e-12 if dtype is np.float64 else 1e-7
    tile = np.random.default_rng(samples).normal(size=(columns, 2 * samples)).astype(dtype)
    tile[:, ::13] = np.nan
    tile[0, :samples] = 4.0
    bounds = np.array([0, samples, 2 * samples])
    result = window_statistics(tile, bounds[:-1], bounds[1:])
    cut = tile.reshape(columns, 2, samples).transpose(1, 0, 2).astype(np.float64)
    there = (~np.isnan(cut)).sum(axis=2)
    missing = np.zeros(there.shape) if result.missing is None else result.missing.T
    assert np.array_equal(samples - missing, there)
    for n, c in zip(*np.nonzero(there > 1), strict=True):
        window = cut[n, c]
        assert result.minimum[c, n] == np.nanmin(window)
        assert result.maximum[c, n] == np.nanmax(window)
        assert result.median[c, n] == dtype(np.nanmedian(window))
        assert result.mean[c, n] == pytest.approx(np.nanmean(window), rel=close, abs=close / 10)
        assert result.stdev[c, n] == pytest.approx(np.nanstd(window, ddof=1), rel=close, abs=close / 10)


@settings(deadline=None)
@given(windows_of(st.one_of(LONGS, st.none())))
def test_missing_integers_are_no_samples(windows: list[list[int | None]]) -> None:
    bounds = np.cumsum([0, *(len(window) for window in windows)])
    samples = [value for window in windows for value in window]
    tile = np.array([[value or 0 for value in samples], range(len(samples))], np.int64)
    present = np.array([[value is not None for value in samples], [True] * len(samples)])
    result = window_statistics(tile, bounds[:-1], bounds[1:], present)
    for n, window in enumerate(windows):
        there = sorted(value for value in window if value is not None)
        assert result.missing is not None
        assert (len(window) - result.missing[:, n]).tolist() == [len(there), len(window)]
        assert result.minimum[1, n] == bounds[n]
        if there:
            assert [int(result.minimum[0, n]), int(result.maximum[0, n])] == [there[0], there[-1]]


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 50, 51, 3000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_quartiles_are_those_of_numpy(samples: int, dtype: Any) -> None:
    tile = (1e6 * np.random.default_rng(samples).normal(size=(66, 2 * samples))).astype(dtype)
    if dtype is not np.int64:
        tile[:, 1::3] = np.nan
    bounds = np.array([0, samples, 2 * samples])
    result = window_statistics(tile, bounds[:-1], bounds[1:], quartiles=True)
    cut = tile.reshape(66, 2, samples).astype(np.float64)
    there = ~np.isnan(cut).all(axis=2)
    for found, percent in ((result.q1, 25), (result.q3, 75)):
        assert found is not None
        assert found.dtype == (np.float64 if dtype is np.int64 else dtype)
        expected = np.nanpercentile(cut[there], percent, axis=1)
        np.testing.assert_allclose(
            found[there], expected.astype(found.dtype), rtol=2e-7 if dtype is np.float32 else 1e-13
        )
    assert window_statistics(tile, bounds[:-1], bounds[1:]).q1 is None


def test_quartiles_of_equal_infinite_and_longest_numbers() -> None:
    windows = [[INF, INF, -INF, INF], [-INF, -INF], [-0.0, -0.0], [1.7e308] * 3, [-1.6e308, 1.6e308]]
    bounds = np.cumsum([0, *(len(window) for window in windows)])
    tile = np.array([[value for window in windows for value in window]])
    result = window_statistics(tile, bounds[:-1], bounds[1:], quartiles=True)
    for found, expected in (
        (result.q1, [NAN, -INF, 0.0, 1.7e308, -0.8e308]),
        (result.q3, [INF, -INF, 0.0, 1.7e308, 0.8e308]),
    ):
        assert found is not None
        np.testing.assert_allclose(found[0], expected, rtol=1e-15)


def test_no_windows_and_no_columns_give_nothing() -> None:
    nowhere = np.zeros(0, np.int64)
    assert window_statistics(np.zeros((3, 0)), nowhere, nowhere).mean.shape == (3, 0)
    assert window_statistics(np.zeros((0, 4)), np.array([0]), np.array([4])).mean.shape == (0, 1)
