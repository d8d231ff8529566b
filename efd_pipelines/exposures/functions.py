"""Functions: what a column of a transformation configuration makes of its samples in one window.

One entry of `FUNCTIONS` is one function; a new one is a few lines and an entry. All compute in float64 over the
elements that are numbers: NaN and null are dropped element by element, never a whole sample. Where samples come from:
`columns.py`.

Which of them the 1 s tier could answer without changing the value is decided here too, when tiers are used: `min`,
`max`, `count`, and `mean` and `stddev` (from count, mean and stdev) of whole seconds inside a window; its edges, and
everything else, need the archive. Until then everything is computed from the archive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Values = NDArray[np.float64]
Aggregate = Literal["mean", "min", "max", "last"]


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one column in one window, in the order of time.

    `time_us` has shape (rows,), `values` (rows, fields) with NaN for what is missing, and `valid` is `values` without
    the missing elements, flattened row by row.
    """

    time_us: NDArray[np.int64]
    values: Values
    valid: Values

    @classmethod
    def of(cls, time_us: NDArray[np.int64], values: NDArray[np.floating[Any]]) -> Samples:
        wide = values.astype(np.float64, copy=False)
        return cls(time_us, wide, wide[~np.isnan(wide)])


class Arguments(BaseModel):
    """The arguments that a function takes in `function_args`; here none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StddevArguments(Arguments):
    ddof: int = Field(default=1, ge=0)


class PolynomialArguments(Arguments):
    degree: int = Field(default=1, ge=0, le=20)
    fit_basis: Literal["index", "time"] = "index"


@dataclass(frozen=True, slots=True)
class Function:
    """A function by its name; `compute` is only called with at least one valid element and gives NaN for no value.

    `pre_aggregate` is what each interval of `pre_aggregate_interval` is reduced to before.
    """

    name: str
    compute: Callable[[Samples, Any], float]
    arguments: type[Arguments] = Arguments
    pre_aggregate: Aggregate = "mean"

    def parse_arguments(self, given: Mapping[str, Any]) -> Arguments:
        """The arguments, checked.

        Raises:
            ValueError: one is not known or not allowed; says which are.
        """
        try:
            return self.arguments.model_validate(dict(given))
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
            allowed = ", ".join(self.arguments.model_fields) or "none"
            raise ValueError(f"{wrong} (arguments of {self.name}: {allowed})") from None


def _mean(samples: Samples, _: Arguments) -> float:
    return float(samples.valid.mean())


def _stddev(samples: Samples, arguments: StddevArguments) -> float:
    if samples.valid.size < 2 or samples.valid.size <= arguments.ddof:
        return float("nan")
    return float(samples.valid.std(ddof=arguments.ddof))


def _min(samples: Samples, _: Arguments) -> float:
    return float(samples.valid.min())


def _max(samples: Samples, _: Arguments) -> float:
    return float(samples.valid.max())


def _median(samples: Samples, _: Arguments) -> float:
    return float(np.median(samples.valid))


def _count(samples: Samples, _: Arguments) -> float:
    return float(samples.valid.size)


def _most_recent_value(samples: Samples, _: Arguments) -> float:
    """The first field's value in the latest sample that has any."""
    row = samples.values[np.flatnonzero(~np.isnan(samples.values).all(axis=1))[-1]]
    return float(row[~np.isnan(row)][0])


def _rms_from_polynomial_fit(samples: Samples, arguments: PolynomialArguments) -> float:
    """Root mean square of what a least-squares polynomial leaves; the basis is the sample's number or its time.

    The basis is mapped to [-1, 1] for the fit, so that a perfect ramp leaves nothing but rounding. A sample that is
    missing keeps its number: the others stay where they were.
    """
    rows, fields = np.nonzero(~np.isnan(samples.values))
    if np.unique(rows).size <= arguments.degree:
        return float("nan")
    basis = samples.time_us[rows] - samples.time_us[0] if arguments.fit_basis == "time" else rows
    if basis[-1] == basis[0] and arguments.degree > 0:
        return float("nan")
    y = samples.values[rows, fields]
    fitted = np.polynomial.Polynomial.fit(basis.astype(np.float64), y, arguments.degree)
    return float(np.sqrt(np.mean((y - fitted(basis)) ** 2)))


FUNCTIONS: Mapping[str, Function] = {
    function.name: function
    for function in (
        Function("mean", _mean),
        Function("stddev", _stddev, StddevArguments),
        Function("min", _min, pre_aggregate="min"),
        Function("max", _max, pre_aggregate="max"),
        Function("median", _median),
        Function("count", _count),
        Function("most_recent_value", _most_recent_value, pre_aggregate="last"),
        Function("rms_from_polynomial_fit", _rms_from_polynomial_fit, PolynomialArguments),
    )
}


def aggregate(samples: Samples, interval_us: int, how: Aggregate) -> Samples:
    """The samples reduced to one for each interval that has any, per field, at the interval's start.

    Intervals are aligned to 1970, as those of InfluxDB's `GROUP BY time()`; only samples of the window go in.
    """
    bins = samples.time_us // interval_us
    first = np.flatnonzero(np.diff(bins, prepend=bins[0] - 1)) if bins.size else np.empty(0, dtype=np.int64)
    if not first.size:
        return samples
    missing = np.isnan(samples.values)
    return Samples.of(bins[first] * interval_us, _REDUCTIONS[how](samples.values, missing, first))


def _interval_means(values: Values, missing: NDArray[np.bool_], first: NDArray[np.int64]) -> Values:
    sums = np.add.reduceat(np.where(missing, 0.0, values), first, axis=0)
    counts = np.add.reduceat((~missing).astype(np.float64), first, axis=0)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _interval_minima(values: Values, missing: NDArray[np.bool_], first: NDArray[np.int64]) -> Values:
    return np.fmin.reduceat(values, first, axis=0)


def _interval_maxima(values: Values, missing: NDArray[np.bool_], first: NDArray[np.int64]) -> Values:
    return np.fmax.reduceat(values, first, axis=0)


def _interval_lasts(values: Values, missing: NDArray[np.bool_], first: NDArray[np.int64]) -> Values:
    rows = np.where(missing, -1, np.arange(len(values))[:, None])
    last = np.maximum.reduceat(rows, first, axis=0)
    return np.where(last < 0, np.nan, np.take_along_axis(values, np.maximum(last, 0), axis=0))


_REDUCTIONS: Mapping[Aggregate, Callable[[Values, NDArray[np.bool_], NDArray[np.int64]], Values]] = {
    "mean": _interval_means,
    "min": _interval_minima,
    "max": _interval_maxima,
    "last": _interval_lasts,
}
