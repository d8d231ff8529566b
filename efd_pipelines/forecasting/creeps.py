"""Creeps: rates and sizes that grow by a few per cent a week, too slowly for a day to tell.

How far each day was off what levels of six weeks ago let expect is summed up: the likelihood of a rise that began some
days or weeks ago and goes on, against the level of the twelve weeks before it, and against a single step. Days of which
nothing is known, as of a component that was off, say nothing, and take nothing away.
What belongs here: this judgement. Half days: `detection.py`; sizes that jump: `record_sizes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from efd_pipelines.forecasting.evidence import past_sum
from efd_pipelines.forecasting.findings import Finding, moved_together
from efd_pipelines.forecasting.half_days import (
    BASELINE_DAYS,
    LEAST_DAYS,
    MEMORY_DAYS,
    STEADY_COUNT,
    Counts,
    Numbers,
    before,
    mean_size,
    middle,
    shifted,
)
from efd_pipelines.forecasting.references import expectations

_LAG_DAYS = 42
_BEGAN_DAYS = (3, 4, 6, 8, 11, 15, 20, 26, 33, 42)
"""How long ago a rise may have begun."""

_BEFORE = MEMORY_DAYS + max(_BEGAN_DAYS) + 1
_DAILY = np.log(1.05) / 7
_SLOPE = (0.5, 2.5)
_STEPS = (0.25, 0.5, 0.7, 0.85, 1.0)
"""When within a rise a single step may have been."""

_SIGMAS, _SIGMAS_OF_STEP, _MARGIN, _KNOWN_SHARE = 6.5, 3.0, 2.0, 0.4
_LEFT, _NOISE = 0.08, 1.5
_FLOOR, _COMPARABLE, _ACQUITS, _MOST_OFF = 0.002, 2.5, 0.02, 0.5
_ODD_DAYS, _DEVIATIONS, _LESS, _MORE = 7, 6.0, 0.03, 0.15
_ACQUIT_ONLY = ("its kind", "its component")
_COUNT, _EXPECTED_SHARE, _TOLD_DAYS = 50.0, 0.1, 28


def creeps(counts: Counts) -> Iterator[Finding]:
    """Topics that send more, or larger records, each week."""
    whole = counts.records.sum(axis=2)
    yield from _of_rates(counts, whole)
    yield from _of_sizes(counts, whole, counts.bytes.sum(axis=2))


def _of_rates(counts: Counts, records: Numbers) -> Iterator[Finding]:
    scale = before(records, BASELINE_DAYS * 2, 0.9, lag=_LAG_DAYS)
    references = expectations(counts, records, before(records, BASELINE_DAYS * 2, 0.9), lag=_LAG_DAYS)
    offs, weights = [], []
    for reference in references:
        # Days on which little is expected, as of a component that is down, say nothing of a level.
        enough = (reference.expected > np.maximum(_EXPECTED_SHARE * scale, _COUNT)) & (records > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            offs.append(np.where(enough, np.log(records / reference.expected), np.nan))
        weights.append(_weight(reference.expected, scale))
    # What others of its kind or component do may acquit a topic; accuse it what knows it well: its past, its state.
    accuse = np.array([reference.name not in _ACQUIT_ONLY for reference in references])
    rise = _rise([_without_odd_days(off) for off in offs], weights, accuse)
    names = [reference.name for reference in references]
    expected = np.stack([reference.expected for reference in references])
    yield from _findings(counts, rise, "creep", expected, names)


def _of_sizes(counts: Counts, records: Numbers, sizes: Numbers) -> Iterator[Finding]:
    mean = mean_size(records, sizes, 1)
    usual = before(mean, BASELINE_DAYS, 0.5, least=7, lag=_LAG_DAYS)
    many = before(np.where(records > 0, records, np.nan), MEMORY_DAYS, 0.5, lag=_LAG_DAYS)
    off = np.log(mean / usual)
    rise = _rise([np.where(np.abs(off) < _MOST_OFF, off, np.nan)], [_weight(records, many)], np.array([True]))
    yield from _findings(counts, rise, "size creep", usual[None], ["its own past"])


@dataclass(frozen=True, slots=True)
class _Rise:
    """By day and topic: by how many times a rise is beyond what would be let pass (below 1: by none), the logarithm of
    what it has come to, and by which reference."""

    surprise: Numbers
    height: Numbers
    which: np.ndarray


def _findings(counts: Counts, rise: _Rise, fault: str, expected: Numbers, names: Sequence[str]) -> Iterator[Finding]:
    scale = before(counts.records.sum(axis=2), BASELINE_DAYS * 2, 0.9)
    over = rise.surprise > 1
    lately = past_sum(over, _TOLD_DAYS) > 0
    together = moved_together(counts, (over | lately).astype(np.int64), scale >= STEADY_COUNT)
    for d, t in np.argwhere(over & ~lately):
        which = rise.which[d, t]
        usual = float(expected[which, d, t])
        observed, many = usual * float(np.exp(rise.height[d, t])), int(together[d, t]) if fault == "creep" else 1
        yield Finding(int(d), int(t), -1, fault, observed, usual, names[which], float(rise.surprise[d, t]), many)


def _weight(records: Numbers, usual: Numbers) -> Numbers:
    """What a day counts: of few records less, of more than is usual not much more; 1 on a usual day."""
    with np.errstate(divide="ignore", invalid="ignore"):
        weight: Numbers = 2 * records / (records + usual)
    return weight


def _rise(offs: Sequence[Numbers], weights: Sequence[Numbers], accuse: np.ndarray) -> _Rise:
    sums = [_Sums.of(off, weight) for off, weight in zip(offs, weights, strict=True)]
    shape = offs[0].shape
    surprise, height, which = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for began in _BEGAN_DAYS:
        now, slope, best = _best([_fit(of, began) for of in sums], accuse)
        limit = np.maximum(1.0, _MARGIN * _most(np.abs(now), began))
        with np.errstate(divide="ignore", invalid="ignore"):
            fair = (slope > _SLOPE[0]) & (slope < _SLOPE[1])
            now = np.nan_to_num(np.where(fair, now / limit, 0.0))
        higher = now > surprise
        surprise = np.where(higher, now, surprise)
        height = np.where(higher, slope * _DAILY * began, height)
        which = np.where(higher, best, which)
    return _Rise(surprise, height, which)


def _without_odd_days(off: Numbers) -> Numbers:
    """How far days are off, without those that are unlike the weeks before them, as of a component that was off for a
    part of the day: of a creep no day is."""
    found = np.full(off.shape, np.nan)
    for begin in range(0, len(off), _ODD_DAYS):
        past = off[max(0, begin - BASELINE_DAYS) : begin]
        if len(past) < LEAST_DAYS:
            continue
        level = middle(past, axis=0)
        away = _DEVIATIONS * middle(np.abs(past - level), axis=0)
        some = off[begin : begin + _ODD_DAYS]
        usual = (some - level > -np.maximum(_LESS, away)) & (some - level < np.maximum(_MORE, away))
        found[begin : begin + _ODD_DAYS] = np.where(
            (usual | np.isnan(level)) & (np.abs(some) < _MOST_OFF), some, np.nan
        )
    return found


@dataclass(frozen=True, slots=True)
class _Sums:
    """Running sums over days of what is known: days, their weights, and weighted with powers of the day's number, how
    far they were off, and squared."""

    today: Numbers
    days: Numbers
    weight: Numbers
    at: Numbers
    at_squared: Numbers
    off: Numbers
    off_at: Numbers
    off_squared: Numbers

    @classmethod
    def of(cls, off: Numbers, weight: Numbers) -> _Sums:
        there = np.isfinite(off) & np.isfinite(weight)
        at = np.arange(len(off), dtype=np.float64)[:, None]
        w, e = np.where(there, weight, 0.0).astype(np.float64), np.where(there, off, 0.0).astype(np.float64)
        each = (there.astype(np.float64), w, w * at, w * at * at, w * e, w * e * at, w * e * e)
        return cls(there, *(np.cumsum(np.pad(one, ((_BEFORE, 0), (0, 0))), axis=0) for one in each))


def _last(of: Numbers, days: int, lag: int = 0) -> Numbers:
    """From running sums those of so many days, the last `lag` left out."""
    end, rows = _BEFORE - lag, len(of) - _BEFORE
    found: Numbers = of[end : end + rows] - of[end - days : end - days + rows]
    return found


@dataclass(frozen=True, slots=True)
class _Fit:
    """A rise that began so many days ago: `slope` in units of 5 % a week, how sure it is (1: just enough), and a day's
    deviation."""

    slope: Numbers
    sure: Numbers
    spread: Numbers


def _fit(of: _Sums, began: int) -> _Fit:
    known, days = _last(of.days, MEMORY_DAYS, began), _last(of.days, began)
    with np.errstate(divide="ignore", invalid="ignore"):
        past = _last(of.weight, MEMORY_DAYS, began)
        level = np.where(known >= BASELINE_DAYS, _last(of.off, MEMORY_DAYS, began) / past, np.nan)
        varied = (_last(of.off_squared, MEMORY_DAYS, began) - past * level**2) / known
        spread = np.sqrt(np.maximum(varied, _FLOOR**2))
        first = np.arange(len(past), dtype=np.float64)[:, None] - began
        weight, at = _last(of.weight, began), _last(of.at, began)
        steps = at - first * weight
        squares = _last(of.at_squared, began) - 2 * first * at + first**2 * weight
        along = _last(of.off_at, began) - first * _last(of.off, began) - level * steps
        slope = along / squares / _DAILY
        sure = along / np.sqrt(squares + steps**2 / past) / spread / _SIGMAS
        enough = of.today & (days >= max(3, _KNOWN_SHARE * began))
        slope, sure = np.where(enough, slope, np.nan), np.where(enough, sure, np.nan)
        some = np.nonzero(sure > 1)
    stepped = _is_stepped(of, began, some, along[some] ** 2 / squares[some], level[some], spread[some])
    sure[some] = np.where(stepped, 1.0, sure[some])
    return _Fit(slope, sure, spread)


def _is_stepped(
    of: _Sums, began: int, some: tuple[np.ndarray, ...], explained: Numbers, level: Numbers, spread: Numbers
) -> Numbers:
    """Whether a single step explains some days and topics as well as a rise, or the rise leaves what no noise is: a
    step explains itself by a rise to nine tenths at most."""
    row, topic = some[0] + _BEFORE, some[1]

    def last(sums: Numbers, days: int) -> Numbers:
        found: Numbers = sums[row, topic] - sums[row - days, topic]
        return found

    step = np.zeros(len(row))
    with np.errstate(divide="ignore", invalid="ignore"):
        for since in {max(1, round(began * share)) for share in _STEPS}:
            weight = last(of.weight, since)
            step = np.fmax(step, (last(of.off, since) - weight * level) ** 2 / weight)
    all_of_it = last(of.off_squared, began) - 2 * level * last(of.off, began) + level**2 * last(of.weight, began)
    left = all_of_it - explained - _NOISE * last(of.days, began) * spread**2
    rises: Numbers = (explained - step > (_SIGMAS_OF_STEP * spread) ** 2) & (left < _LEFT * explained)
    return ~rises


def _best(fits: Sequence[_Fit], accuse: np.ndarray) -> tuple[Numbers, Numbers, np.ndarray]:
    """How sure the reference is that knows the topic best, the least slope that any sees that knows it about as well,
    and which the best is."""
    spread = np.stack([np.where(np.isfinite(fit.slope), fit.spread, np.inf) for fit in fits])
    accusing = np.where(accuse[:, None, None], spread, np.inf)
    which, best = accusing.argmin(axis=0), accusing.min(axis=0)
    good = np.isfinite(spread) & (spread <= np.maximum(_COMPARABLE * best, _ACQUITS))
    slope = np.where(good, np.stack([fit.slope for fit in fits]), np.inf).min(axis=0)
    sure = np.take_along_axis(np.stack([fit.sure for fit in fits]), which[None], axis=0)[0]
    none = ~np.isfinite(best)
    return np.where(none, np.nan, sure), np.where(none, np.nan, slope), which


def _most(of: Numbers, lag: int) -> Numbers:
    """The most of the twelve weeks before the last `lag` days; unknown where few of them are known."""
    known = past_sum(np.isfinite(of), MEMORY_DAYS, lag)
    most = np.nan_to_num(of)
    width = 1
    while width < MEMORY_DAYS:
        by = min(width, MEMORY_DAYS - width)
        most[by:] = np.maximum(most[by:], most[:-by])
        width += by
    return np.where(known >= LEAST_DAYS, shifted(most, lag + 1), np.nan)
