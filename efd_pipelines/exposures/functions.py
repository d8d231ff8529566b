"""Functions: what a column of a transformation configuration makes of its samples in one window.

One entry of `FUNCTIONS` is one function; a new one is a few lines and an entry. All compute in float64 over the
elements that are numbers: NaN and null are dropped element by element, never a whole sample. A column of several
fields, or of an array, takes all of their elements together; one of an unpivoted table takes each field by itself.
With `pre_aggregate_interval` the means of intervals are the samples (`moments.py`), save for the functions that only
pick one of the samples or count extremes: means would change them. Where samples come from: `columns.py`.

`FROM_TIER_1S` decides, here and nowhere else, which functions the 1 s tier may answer without changing the value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from efd_pipelines.exposures.moments import Edges, Moments

Values = NDArray[np.float64]

FROM_TIER_1S = frozenset({"min", "max", "range"})
"""Exact from the 1 s tier for the whole seconds of a window, its edges coming from the archive. Of the others, `mean`
and `stddev` are rounded there to the field's own type, `count` counts records and not elements, and the rest need each
sample. The archive is read for all of them: where a configuration asks for extremes of a topic, it asks for means of
the same samples as well, and these are read anyway."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one column in one window, in the order of time.

    `time_us` has shape (rows,), `values` (rows, fields) with NaN for what is missing. `begin_us` and `end_us` are the
    exposure's, both included; with a look-back, samples lie before the beginning too.
    """

    time_us: NDArray[np.int64]
    values: Values
    begin_us: int
    end_us: int

    @classmethod
    def of(
        cls,
        time_us: NDArray[np.int64],
        values: NDArray[np.floating[Any]],
        begin_us: int | None = None,
        end_us: int | None = None,
    ) -> Samples:
        """By default the window is as long as the samples."""
        begin = (int(time_us[0]) if len(time_us) else 0) if begin_us is None else begin_us
        end = (int(time_us[-1]) if len(time_us) else 0) if end_us is None else end_us
        return cls(time_us, values.astype(np.float64, copy=False), begin, end)

    @property
    def valid(self) -> Values:
        """The elements that are numbers, sample by sample."""
        return self.values[~np.isnan(self.values)]

    def field(self, n: int) -> Samples:
        """Those of one field alone."""
        return Samples(self.time_us, self.values[:, n : n + 1], self.begin_us, self.end_us)


class Arguments(BaseModel):
    """The arguments that a function takes in `function_args`; here none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StddevArguments(Arguments):
    ddof: int = Field(default=1, ge=0)


class PercentileArguments(Arguments):
    percentile: float = Field(ge=0, le=100, allow_inf_nan=False)


class PolynomialArguments(Arguments):
    degree: int = Field(default=1, ge=0, le=20)
    fit_basis: Literal["index", "time"] = "index"


@dataclass(frozen=True, slots=True)
class Function:
    """A function by its name, computed from moments or edges of all windows at once, or from the samples of one window.

    `compute` is only called with at least one valid element; `from_moments` and `from_edges` give one number for each
    of theirs. All give NaN for no value. `of_means`: whether `pre_aggregate_interval` changes it.
    """

    name: str
    compute: Callable[[Samples, Any], float] | None = None
    from_moments: Callable[[Moments, Any], Values] | None = None
    from_edges: Callable[[Edges], Values] | None = None
    arguments: type[Arguments] = Arguments
    of_means: bool = True

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

    def of_samples(self, samples: Samples, arguments: Arguments) -> float:
        """The value of one window; NaN where no element is a number."""
        if not samples.valid.size:
            return float("nan")
        if self.compute is not None:
            return self.compute(samples, arguments)
        return float(self.of_many(moments_of(samples), arguments)[0, 0])

    def of_many(self, found: Moments, arguments: Arguments) -> Values:
        """The values of windows whose moments are known; only where `from_moments` is there."""
        assert self.from_moments is not None
        return np.where(found.count > 0, self.from_moments(found, arguments), np.nan)


def moments_of(samples: Samples) -> Moments:
    """The moments of one window, all fields together."""
    valid = samples.valid
    mean = valid.mean()
    figures = (mean, ((valid - mean) ** 2).sum(), valid.min(), valid.max())
    return Moments(np.array([[valid.size]]), *(np.array([[figure]]) for figure in figures))


def _mean(found: Moments, _: Arguments) -> Values:
    return found.mean


def _stddev(found: Moments, arguments: StddevArguments) -> Values:
    """None below two samples, as the observatory has it, whatever `ddof` is."""
    enough = (found.count >= 2) & (found.count > arguments.ddof)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(enough, np.sqrt(found.squares / (found.count - arguments.ddof)), np.nan)


def _min(found: Moments, _: Arguments) -> Values:
    return found.low


def _max(found: Moments, _: Arguments) -> Values:
    return found.high


def _range(found: Moments, _: Arguments) -> Values:
    return found.high - found.low


def _count(found: Moments, _: Arguments) -> Values:
    return found.count.astype(np.float64)


def _median(samples: Samples, _: Arguments) -> float:
    return float(np.median(samples.valid))


def _percentile(samples: Samples, arguments: PercentileArguments) -> float:
    """Linear between the two nearest samples (Hyndman and Fan's type 7, as numpy and pandas have it)."""
    return float(np.percentile(samples.valid, arguments.percentile))


def _last(samples: Samples, _: Arguments) -> float:
    """The first field's value in the latest sample that has any."""
    row = samples.values[np.flatnonzero(~np.isnan(samples.values).all(axis=1))[-1]]
    return float(row[~np.isnan(row)][0])


def _first(samples: Samples, _: Arguments) -> float:
    """The first field's value in the earliest sample that has any."""
    row = samples.values[np.flatnonzero(~np.isnan(samples.values).all(axis=1))[0]]
    return float(row[~np.isnan(row)][0])


def _first_edge(found: Edges) -> Values:
    return found.first


def _last_edge(found: Edges) -> Values:
    return found.last


def _slope(samples: Samples, _: Arguments) -> float:
    """Of the least-squares line over time, per second; none where all samples are of one instant."""
    rows, fields = np.nonzero(~np.isnan(samples.values))
    seconds = (samples.time_us[rows] - samples.time_us[0]) / 1e6
    away = seconds - seconds.mean()
    spread = float(away @ away)
    y = samples.values[rows, fields]
    return float(away @ (y - y.mean())) / spread if spread > 0 else float("nan")


def _time_weighted_mean(samples: Samples, _: Arguments) -> float:
    """The mean over time of what each field was, each sample holding until the field's next, the last to the end.

    From the exposure's beginning, or from the first sample on where there is none before it: a look-back says what was
    at the beginning, and no more. Where no time passes (a zero-length exposure), the plain mean of what was at its end.
    """
    total = weight = 0.0
    final = []
    for n in range(samples.values.shape[1]):
        known = ~np.isnan(samples.values[:, n])
        if not known.any():
            continue
        y = samples.values[known, n]
        edges = np.clip(np.append(samples.time_us[known], samples.end_us), samples.begin_us, samples.end_us)
        lasts = np.diff(edges) / 1e6
        total += float(y @ lasts)
        weight += float(lasts.sum())
        final.append(y[-1])
    return total / weight if weight > 0 else float(np.mean(final))


def _rms_from_polynomial_fit(samples: Samples, arguments: PolynomialArguments) -> float:
    """Root mean square of what a least-squares polynomial leaves; the basis is the sample's number or its time.

    The basis is mapped to [-1, 1] for the fit, so that a perfect ramp leaves nothing but rounding. A sample that is
    missing keeps its number: the others stay where they were.
    """
    rows, fields = np.nonzero(~np.isnan(samples.values))
    basis = samples.time_us[rows] - samples.time_us[0] if arguments.fit_basis == "time" else rows
    if np.unique(basis).size <= arguments.degree:
        return float("nan")
    y = samples.values[rows, fields]
    away = y - y.mean()
    # Most windows of a night have as many samples, numbered from 0: their polynomials are the same.
    whole = arguments.fit_basis == "index" and len(basis) == len(samples.values)
    polynomials = _numbered(len(basis), arguments.degree) if whole else _orthonormal(basis, arguments.degree)
    return float(np.sqrt(np.mean((away - polynomials @ (polynomials.T @ away)) ** 2)))


@functools.lru_cache(maxsize=64)
def _numbered(count: int, degree: int) -> Values:
    return _orthonormal(np.arange(count), degree)


def _orthonormal(basis: NDArray[np.int64], degree: int) -> Values:
    """Polynomials up to a degree that are orthonormal over these places: of shape (places, degree + 1)."""
    x = np.polynomial.polyutils.mapdomain(basis.astype(np.float64), (float(basis.min()), float(basis.max())), (-1, 1))
    found: Values = np.linalg.qr(np.polynomial.legendre.legvander(x, degree))[0]
    return found


FUNCTIONS: Mapping[str, Function] = {
    function.name: function
    for function in (
        Function("mean", from_moments=_mean),
        Function("stddev", from_moments=_stddev, arguments=StddevArguments),
        Function("min", from_moments=_min, of_means=False),
        Function("max", from_moments=_max, of_means=False),
        Function("range", from_moments=_range, of_means=False),
        Function("count", from_moments=_count),
        Function("median", _median),
        Function("percentile", _percentile, arguments=PercentileArguments),
        Function("first", _first, from_edges=_first_edge, of_means=False),
        Function("last", _last, from_edges=_last_edge, of_means=False),
        Function("most_recent_value", _last, from_edges=_last_edge, of_means=False),
        Function("slope", _slope),
        Function("time_weighted_mean", _time_weighted_mean),
        Function("rms_from_polynomial_fit", _rms_from_polynomial_fit, arguments=PolynomialArguments),
    )
}
