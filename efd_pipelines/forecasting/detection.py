"""Detection: which topics leave what their past, their schedule or their kind lets expect, and when.

Counts come by half day (the day and the night are judged apart: a topic's schedule) and topic. What is expected of a
topic is said by its own past, by what the topics of its kind in its component do the same half day, and by its whole
component: a shutdown or a campaign moves them together, a fault does not. How far each of these references has been
off in the last weeks is known; a topic is flagged when all references that have been good lately are off by clearly
more than ever. So a noisy topic must do more to be flagged, and a topic that cannot be told from noise is not.
Everything runs on arrays, days × topics, many days at once: a day is judged by days before it and by itself.
What belongs here: the judgement of single half days, and all judgements together. Others: `sporadic.py`,
`record_sizes.py`, `creeps.py`; counts: `counts.py`; ranking and words: `anomalies.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from efd_pipelines.forecasting.creeps import creeps
from efd_pipelines.forecasting.evidence import past_sum
from efd_pipelines.forecasting.findings import TOGETHER, Finding, fault_of, moved_together
from efd_pipelines.forecasting.half_days import (
    BASELINE_DAYS,
    LEAST_DAYS,
    MEMORY_DAYS,
    PART_S,
    PARTS,
    STEADY_COUNT,
    Counts,
    Numbers,
    before,
    groups_of,
    is_regular,
    is_telemetry,
)
from efd_pipelines.forecasting.outages import what_is_known
from efd_pipelines.forecasting.record_sizes import jumps
from efd_pipelines.forecasting.references import expectations, good_ones, least_off, lowest, new_ones
from efd_pipelines.forecasting.sporadic import told

_LEAST_STEP, _MARGIN = (0.57, 5.3), (2.5, 3.0)
_SIGMAS, _AT_ONCE = 6.0, 500
_SILENT, _NEVER_BELOW, _SILENT_COUNT, _SILENT_DAYS = 0.01, 0.3, 100.0, 56
_KIND_HZ, _NEW_MARGIN, _ALLOWED = 20.0, 3.0, 1.2
_NEAR, _REACHED_DAYS, _BEYOND, _GO_ON = 0.15, 7, 1.5, 0.1


def detect(counts: Counts) -> list[Finding]:
    """All that is to be flagged on any of the days, by the days before it.

    The first weeks flag little: nothing is known of a topic before it was there for some days. Of outages nothing is:
    see `outages.py`.
    """
    there = np.flatnonzero(counts.records.any(axis=(0, 2)))
    known = what_is_known(counts.of(there))
    found: list[Finding] = []
    for some in _by_components(known):
        found += [replace(one, day=int(one.day), topic=int(there[some[one.topic]])) for one in _judged(known.of(some))]
    return found


def _by_components(counts: Counts) -> Iterator[np.ndarray]:
    """Topics of some components at a time: no other says anything of them, and all at once take much memory."""
    some: list[np.ndarray] = []
    for group in groups_of(counts.components, counts.components):
        some.append(group)
        if sum(map(len, some)) >= _AT_ONCE:
            yield np.concatenate(some)
            some = []
    if some:
        yield np.concatenate(some)


def _judged(counts: Counts) -> list[Finding]:
    found = [one for part in range(len(PARTS)) for one in _rates(counts, counts.records[:, :, part], part)]
    flagged = {(one.day, one.topic) for one in found}
    found += [one for one in told(counts) if (one.day, one.topic) not in flagged]
    return [*found, *jumps(counts), *creeps(counts)]


@dataclass(frozen=True, slots=True)
class _Left:
    """By day and topic: what the best of the good references expects and which that is, the least that any expects,
    and by how many times what is left unexplained is beyond what would be let pass."""

    usual: Numbers
    which: np.ndarray
    least: Numbers
    surprise: Numbers


def _rates(counts: Counts, records: Numbers, part: int) -> Iterator[Finding]:
    scale = before(records, BASELINE_DAYS * 2, 0.9)
    references = expectations(counts, records, scale)
    off, expected = np.stack([one.off for one in references]), np.stack([one.expected for one in references])
    good = good_ones(off)
    steadily = is_telemetry(counts) | is_regular(records, expected[0])
    left = _left(off, expected, good, steadily, _is_down(counts, records, scale))
    flagged = _flagged(counts, records, left, good, _go_on(expected))
    silent = _silent(records, left.least, scale) & good[[1, 3, 4, 5]].any(axis=0) & ~flagged
    loud = _loud(counts, records)
    moved = np.where(records < left.usual, -1, 1) * (flagged | silent)
    together = moved_together(counts, moved, scale >= STEADY_COUNT).astype(np.int64)
    for d, t in np.argwhere(flagged):
        came, usual, name = records[d, t], left.usual[d, t], references[left.which[d, t]].name
        yield Finding(d, t, part, fault_of(came, usual), came, usual, name, left.surprise[d, t], int(together[d, t]))
    for d, t in np.argwhere(silent):
        least = float(left.least[d, t])
        surprise = least / _SILENT_COUNT
        yield Finding(d, t, part, "silent", records[d, t], least, "all references", surprise, int(together[d, t]))
    past = np.nan_to_num(before(records, BASELINE_DAYS, 0.5, least=1))
    for d, t in np.argwhere((loud > 1) & ~flagged):
        yield Finding(d, t, part, "more", records[d, t], past[d, t], "what its kind never sends", float(loud[d, t]))


def _left(off: Numbers, expected: Numbers, good: Numbers, steadily: Numbers, is_down: Numbers) -> _Left:
    left, which = least_off(off, good | new_ones(off))
    worst = before(np.where(is_down, np.nan, least_off(off, good)[0]), MEMORY_DAYS, 1.0)
    limit = np.maximum(np.where(steadily, *_LEAST_STEP), np.where(steadily, *_MARGIN) * worst)
    usual = np.take_along_axis(expected, which[None], axis=0)[0]
    return _Left(usual, which, lowest(expected), left / limit)


def _is_down(counts: Counts, records: Numbers, scale: Numbers) -> Numbers:
    """Whether nothing came of all that a topic's component usually sends, and that is so much that it moves as a whole:
    what no reference explains then is the component's, and says nothing of how far its topics go."""
    found = np.zeros(records.shape, dtype=bool)
    for members in groups_of(counts.components, counts.components):
        sending = scale[:, members] >= STEADY_COUNT
        nothing = ~(sending & (records[:, members] > 0)).any(axis=1)
        found[:, members] = (nothing & (sending.sum(axis=1) >= TOGETHER))[:, None]
    return found


def _go_on(expected: Numbers) -> Numbers:
    """Whether the steady topics of a topic's component send what they always do."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Numbers = np.abs(expected[3] / expected[0] - 1) < _GO_ON
    return found


def _flagged(counts: Counts, records: Numbers, left: _Left, good: Numbers, go_on: Numbers) -> Numbers:
    """Whether a half day is flagged: beyond what is let pass and beyond chance, by a reference that may accuse it."""
    usual, less = left.usual, records < left.usual
    clear = np.abs(records - usual) > _SIGMAS * np.sqrt(np.maximum(usual, 0) + records + 1)
    # A component's mean may acquit a topic, but accuse it only what is like it: its kind, or its past, and where it
    # sends less a steady sibling that goes on; without one its component is down.
    likes = good[[1, 4, 5]].any(axis=0)
    judged = (past_sum(records > 0, MEMORY_DAYS) >= LEAST_DAYS) & (likes | (good[0] & (good[3] | go_on | ~less)))
    # A component that is enabled sends what it may: that needs no other to do the same, up to the declared rates; nor
    # has what never expected anything of a topic shown that it knows when it is enabled.
    unlike = ~likes | (usual < STEADY_COUNT)
    allowed = is_telemetry(counts) & unlike & (records <= _ALLOWED * counts.declared_hz * PART_S)
    flagged: Numbers = (left.surprise > 1) & clear & judged & (less | ~allowed)
    return flagged


def _loud(counts: Counts, records: Numbers) -> Numbers:
    """By how much a topic is beyond what its kind ever sends: 20 Hz of an event or command, half as much again as its
    declared rate of telemetry; and beyond three times what it has sent before. Of telemetry that has reached its
    declared rate and never passed it, half as much again is enough."""
    declared, telemetry = counts.declared_hz * PART_S, is_telemetry(counts)
    most = np.where(telemetry, np.maximum(1.5 * declared, _KIND_HZ * PART_S), _KIND_HZ * PART_S)
    past = np.nan_to_num(before(records, MEMORY_DAYS, 1.0, least=1))
    reached = past_sum(np.abs(records - declared) < _NEAR * declared, MEMORY_DAYS) >= _REACHED_DAYS
    kept = telemetry & reached & (past < (1 + _NEAR) * declared) & (declared >= _SILENT_COUNT)
    return records / np.where(kept, _BEYOND * np.maximum(declared, past), np.maximum(most, _NEW_MARGIN * past))


def _silent(records: Numbers, lowest: Numbers, scale: Numbers) -> Numbers:
    """Next to nothing where all references expect much, of a topic that never sent so little when they did."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((lowest > 0.2 * scale) & (lowest > 0), records / lowest, np.nan)
    never = before(ratio, MEMORY_DAYS, 0.0, least=_SILENT_DAYS)
    silent: Numbers = (ratio < _SILENT) & (never > _NEVER_BELOW) & (lowest >= _SILENT_COUNT)
    return silent
