"""Twins: what a telemetry topic should have sent by those of its component that have moved as it did.

Topics that one loop of a component sends keep their ratios whatever the weather, the schedule or the operator does. So
the two to five that have kept theirs best in the last twelve weeks say what to expect where neither the topic's own
past nor the mean of its kind can: of telemetry that follows how long a telescope was enabled.
What belongs here: finding them, and what they expect. The other references: `references.py`.
"""

from __future__ import annotations

import numpy as np

from efd_pipelines.forecasting.half_days import (
    LEAST_DAYS,
    MEMORY_DAYS,
    STEADY_COUNT,
    Counts,
    Numbers,
    groups_of,
    is_telemetry,
    middle,
    ranked,
)

_CHOSEN_DAYS = 28
"""For so long the same ones are twins."""

_MOST, _LEAST, _ALIKE, _MOVED, _NEVER_APART, _SEEN = 5, 2, 0.2, 0.3, 0.3, 0.7


def twins_expect(counts: Counts, records: Numbers, lag: int = 0) -> Numbers:
    """Records by what the twins sent, at ratios that were kept until `lag` days before; NaN where there are none."""
    expected = np.full(records.shape, np.nan, dtype=np.float32)
    telemetry = is_telemetry(counts)
    for group in groups_of(counts.components, counts.components):
        members = group[telemetry[group]]
        if len(members) <= _LEAST:
            continue
        for begin in range(0, len(records), _CHOSEN_DAYS):
            end = begin - lag
            past = records[max(0, end - MEMORY_DAYS) : max(0, end), members]
            if len(past) >= 2 * LEAST_DAYS:
                now = records[begin : begin + _CHOSEN_DAYS, members]
                expected[begin : begin + _CHOSEN_DAYS, members] = _by_twins(past, now)
    return expected


def _by_twins(past: Numbers, now: Numbers) -> Numbers:
    with np.errstate(divide="ignore"):
        logs = np.where(past >= STEADY_COUNT, np.log(past.astype(np.float64)), np.nan)
    near, are = _nearest(logs)
    apart = logs[:, :, None] - logs[:, near]
    ratios = middle(apart, axis=0)
    are &= np.nan_to_num(np.abs(apart - ratios)).max(axis=0) < _NEVER_APART
    # What twins send in a state in which they were not seen together, as in standby, says nothing.
    seen = np.exp(np.nan_to_num(ranked(logs, 0.0, axis=0)))
    beyond = (now > 0) & (now < _SEEN * seen)
    each = np.where(are & ~beyond[:, near], now[:, near] * np.exp(ratios), np.nan)
    # Of what never moved nobody knows what moves with it.
    moved = np.sort(np.abs(np.nan_to_num(logs - middle(logs, axis=0))), axis=0)[int(0.9 * (len(logs) - 1))] > _MOVED
    enough = (are.sum(axis=1) >= _LEAST) & moved
    found: Numbers = np.where(enough, middle(each, axis=2), np.nan)
    return found


def _nearest(logs: Numbers) -> tuple[np.ndarray, Numbers]:
    """For each topic those whose ratio to it varied least, and whether that is little: topics × at most five."""
    there = np.isfinite(logs).astype(np.float64)
    centre = np.nan_to_num(middle(logs, axis=0))
    away = np.where(there > 0, logs - centre, 0.0)
    days = there.T @ there
    squares, sums = (away**2).T @ there, away.T @ there
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (sums - sums.T) / days
        varied = (squares + squares.T - 2 * away.T @ away) / days - mean**2
    varied = np.where((days >= LEAST_DAYS) & ~np.eye(len(days), dtype=bool), varied, np.inf)
    near = np.argsort(varied, axis=1)[:, :_MOST]
    return near, np.take_along_axis(varied, near, axis=1) < _ALIKE**2
