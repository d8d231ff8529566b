"""Detection: which topics leave what their past, their schedule or their kind lets expect, and when.

Counts come by half day (the day and the night are judged apart: a topic's schedule) and topic. What is expected of a
topic is said by its own past, by what the topics of its kind in its component do the same half day, and by its whole
component: a shutdown or a campaign moves them together, a fault does not. How far each of these references has been
off in the last weeks is known; a topic is flagged when all references that have been good lately are off by clearly
more than ever. So a noisy topic must do more to be flagged, and a topic that cannot be told from noise is not.
Everything runs on arrays, days × topics, many days at once: a day is judged by days before it and by itself.
What belongs here: the judgement. Counts: `counts.py`; ranking and words: `anomalies.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from efd_pipelines.forecasting.half_days import (
    BASELINE_DAYS,
    LEAST_DAYS,
    MEMORY_DAYS,
    PARTS,
    REGULAR_COUNT,
    STEADY_COUNT,
    Counts,
    Numbers,
    before,
    groups_of,
    is_telemetry,
    shifted,
)
from efd_pipelines.forecasting.record_sizes import jumps, mean_size
from efd_pipelines.forecasting.references import expectations
from efd_pipelines.forecasting.sporadic import told

PART_S = 43_200.0
TOGETHER = 3
"""So many topics of a component that move at once are the component's doing."""

_REGULAR = 0.25
_COMPARABLE, _SPREAD_FLOOR = 2.5, 0.1
_LEAST_STEP, _MARGIN = (0.5, 5.3), (2.5, 3.0)
_SIGMAS = 6.0
_SILENT, _NEVER_BELOW, _SILENT_COUNT, _SILENT_DAYS = 0.01, 0.3, 100.0, 56
_KIND_HZ, _NEW_MARGIN, _ALLOWED = 20.0, 3.0, 1.2
_CREEP_STEP, _CREEP_MARGIN, _CREEP_DAYS, _WEEK = 0.15, 1.6, 42, 7
_CREEP_RISE, _CREEP_COUNT, _CREEP_MOST = (0.04, 0.25), 1000, 0.24


@dataclass(frozen=True, slots=True)
class Finding:
    """What was flagged: index of day, topic and part (-1: the whole day), and by how much.

    `observed` and `usual` are records of that half day, or bytes a record (`size`, `size creep`); `reference` is what
    said so; `surprise` how many times more than what would just have been let pass; `together` how many topics of the
    component left it in the same direction in the same half day (many: the component is down, or exercised).
    """

    day: int
    topic: int
    part: int
    fault: str
    observed: float
    usual: float
    reference: str
    surprise: float
    together: int = 1


def detect(counts: Counts) -> list[Finding]:
    """All that is to be flagged on any of the days, by the days before it.

    The first weeks flag little: nothing is known of a topic before it was there for some days.
    """
    there = np.flatnonzero(counts.records.any(axis=(0, 2)))
    some = _part_of(counts, there)
    found: list[Finding] = []
    for part in range(len(PARTS)):
        found += _rates(some, some.records[:, :, part], part)
    whole = some.records.sum(axis=2)
    found += [
        Finding(one.day, one.topic, one.part, "size", one.observed, one.usual, "its own past", one.surprise)
        for one in jumps(some)
    ]
    known = {(one.day, one.topic) for one in found if "size" not in one.fault}
    found += [one for one in _sporadic(some) if (one.day, one.topic) not in known]
    found += _rate_creep(some, whole)
    found += _size_creep(whole, some.bytes.sum(axis=2))
    return [replace(one, day=int(one.day), topic=int(there[one.topic])) for one in found]


def _part_of(counts: Counts, topics: np.ndarray) -> Counts:
    """The counts of some topics."""
    return replace(
        counts,
        topics=tuple(counts.topics[n] for n in topics),
        components=tuple(counts.components[n] for n in topics),
        kinds=tuple(counts.kinds[n] for n in topics),
        declared_hz=counts.declared_hz[topics],
        records=counts.records[:, topics],
        bytes=counts.bytes[:, topics],
    )


def _rates(counts: Counts, records: Numbers, part: int) -> list[Finding]:
    scale = before(records, BASELINE_DAYS * 2, 0.9)
    references = expectations(counts, records, scale)
    steadily = is_telemetry(counts) | _is_regular(records, references[0].expected)
    off = np.stack([one.off for one in references])
    good = _good(off)
    left, which = _left(off, good)
    worst = before(left, MEMORY_DAYS, 1.0)
    surprise = left / np.maximum(np.where(steadily, *_LEAST_STEP), np.where(steadily, *_MARGIN) * worst)
    expected = np.stack([one.expected for one in references])
    usual = np.take_along_axis(expected, which[None], axis=0)[0]
    clear = np.abs(records - usual) > _SIGMAS * np.sqrt(np.maximum(usual, 0) + records + 1)
    less = records < usual
    # A component's mean may acquit a topic, but accuse it only what is like it: its kind, or its past, and where it
    # sends less a steady sibling that goes on; without one its component is down.
    judged = (_known(records) >= LEAST_DAYS) & (good[1] | good[4] | (good[0] & (good[3] | ~less)))
    # A component that is enabled sends what it may: that needs no other to do the same, up to the declared rates.
    allowed = is_telemetry(counts) & ~good[1] & ~good[4] & (records <= _ALLOWED * counts.declared_hz * PART_S)
    judged &= less | ~allowed
    flagged = (surprise > 1) & clear & judged
    lowest = _lowest(expected)
    silent = _silent(records, lowest, scale) & (good[1] | good[3] | good[4]) & ~flagged
    loud = _loud(counts, records)
    together = _together(counts, np.where(records < usual, -1, 1) * (flagged | silent), scale)
    names = [one.name for one in references]
    found = [
        Finding(
            d,
            t,
            part,
            _fault(records[d, t], usual[d, t]),
            records[d, t],
            usual[d, t],
            names[which[d, t]],
            surprise[d, t],
        )
        for d, t in np.argwhere(flagged)
    ]
    found += [
        Finding(
            d, t, part, "silent", records[d, t], lowest[d, t], "all references", float(lowest[d, t] / _SILENT_COUNT)
        )
        for d, t in np.argwhere(silent)
    ]
    found = [replace(one, together=int(together[one.day, one.topic])) for one in found]
    past = np.nan_to_num(before(records, BASELINE_DAYS, 0.5, least=1))
    return found + [
        Finding(d, t, part, "more", records[d, t], past[d, t], "what its kind never sends", float(loud[d, t]))
        for d, t in np.argwhere((loud > 1) & ~flagged)
    ]


def _sporadic(counts: Counts) -> list[Finding]:
    """Events, commands and acks that fell silent or send more, by the likelihood of several half days."""
    return [
        Finding(one.day, one.topic, one.part, _fault(one.observed, one.usual), one.observed, one.usual,
                "what it sent while its component ran", one.surprise, one.together)
        for one in told(counts)
    ]  # fmt: skip


def _good(off: Numbers) -> Numbers:
    """Which references have been good lately: off by not much more than the best of them, on nine days of ten."""
    spread = np.stack([before(np.abs(one), MEMORY_DAYS, 0.9) for one in off])
    least = np.where(np.isfinite(spread), spread, np.inf).min(axis=0)
    good: Numbers = np.isfinite(off) & (spread <= np.maximum(_SPREAD_FLOOR, _COMPARABLE * least))
    return good


def _left(off: Numbers, good: Numbers) -> tuple[Numbers, np.ndarray]:
    """What no good reference explains: the least of how far they are off, and whose that is; NaN where none is good."""
    size = np.where(good, np.abs(off), np.inf)
    left = size.min(axis=0)
    return np.where(np.isfinite(left), left, np.nan), size.argmin(axis=0)


def _is_regular(records: Numbers, own: Numbers) -> Numbers:
    """Whether a topic was so steady in the last weeks that it is judged as telemetry is."""
    ratio = np.where(own >= REGULAR_COUNT, records / np.maximum(own, 1), np.nan)
    regular: Numbers = before(np.abs(ratio - 1), MEMORY_DAYS, 0.9, least=_SILENT_DAYS) < _REGULAR
    return regular


def _together(counts: Counts, moved: Numbers, scale: Numbers) -> Numbers:
    """By topic how many of its component were flagged in the same direction at once; all where it is half of those that
    send anything."""
    found = np.ones(moved.shape)
    active = scale >= STEADY_COUNT
    for members in groups_of(counts.components, counts.components):
        some = moved[:, members]
        sending = np.maximum(active[:, members].sum(axis=1, keepdims=True), 1)
        for sign in (-1, 1):
            same = (some == sign).sum(axis=1, keepdims=True)
            many = np.where((same >= 2) & (2 * same >= sending), np.maximum(same, TOGETHER), same)
            found[:, members] = np.where(some == sign, many, found[:, members])
    return found


def _loud(counts: Counts, records: Numbers) -> Numbers:
    """By how much a topic is beyond what its kind ever sends: 20 Hz of an event or command, half as much again as its
    declared rate of telemetry; and beyond three times what it has sent before."""
    most = np.where(is_telemetry(counts), np.maximum(1.5 * counts.declared_hz, _KIND_HZ), _KIND_HZ) * PART_S
    past = np.nan_to_num(before(records, MEMORY_DAYS, 1.0, least=1))
    return records / np.maximum(most, _NEW_MARGIN * past)


def _silent(records: Numbers, lowest: Numbers, scale: Numbers) -> Numbers:
    """Next to nothing where all references expect much, of a topic that never sent so little when they did."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((lowest > 0.2 * scale) & (lowest > 0), records / lowest, np.nan)
    never = before(ratio, MEMORY_DAYS, 0.0, least=_SILENT_DAYS)
    silent: Numbers = (ratio < _SILENT) & (never > _NEVER_BELOW) & (lowest >= _SILENT_COUNT)
    return silent


def _lowest(expected: Numbers) -> Numbers:
    """The least that any reference expects, of those that know."""
    least: Numbers = np.where(np.isfinite(expected), expected, np.inf).min(axis=0)
    return least


def _rate_creep(counts: Counts, records: Numbers) -> list[Finding]:
    """Growth that is too slow for a day: the mean of a week against levels of six weeks ago, by all good references."""
    scale = before(records, BASELINE_DAYS * 2, 0.9)
    references = expectations(counts, records, scale, lag=_CREEP_DAYS)
    off, expected = np.stack([one.off for one in references]), np.stack([one.expected for one in references])
    good = _good(off)
    left, which = _left(off, good)
    signed, usual = (np.take_along_axis(of, which[None], axis=0)[0] for of in (off, expected))
    # Days on which little is expected, as of a component that is down, say nothing of a level.
    enough = np.isfinite(left) & (_lowest(np.where(good, expected, np.nan)) > 0.3 * scale)
    daily = np.where(enough, signed, np.nan)
    mean = _week(daily)
    surprise = mean / _creep_limit(mean)
    steadily = is_telemetry(counts) | _is_regular(records, before(records, BASELINE_DAYS, 0.5, lag=_CREEP_DAYS))
    level = _week(records)
    grows = level > np.exp(_CREEP_STEP) * before(level, BASELINE_DAYS, 0.5, lag=_CREEP_DAYS - _WEEK)
    flagged = (surprise > 1) & _creeps(mean, daily) & grows & (records > _CREEP_COUNT) & steadily
    together = _together(counts, flagged.astype(np.int64), scale)
    names = [one.name for one in references]
    return [
        Finding(
            d,
            t,
            -1,
            "creep",
            usual[d, t] * np.exp(mean[d, t]),
            usual[d, t],
            names[which[d, t]],
            surprise[d, t],
            int(together[d, t]),
        )
        for d, t in np.argwhere(flagged)
    ]


def _size_creep(records: Numbers, sizes: Numbers) -> list[Finding]:
    """Records that grow slowly: the mean of a week against that of six weeks ago."""
    mean = mean_size(records, sizes)
    usual = before(mean, BASELINE_DAYS, 0.5, least=7, lag=_CREEP_DAYS)
    off = np.log(mean / usual)
    week = _week(off)
    surprise = week / _creep_limit(week)
    flagged = (surprise > 1) & _creeps(week, off)
    return [
        Finding(d, t, -1, "size creep", usual[d, t] * np.exp(week[d, t]), usual[d, t], "its own past", surprise[d, t])
        for d, t in np.argwhere(flagged)
    ]


def _week(of: Numbers) -> Numbers:
    """The mean of the last seven days, of five at least."""
    days = _last(of, _WEEK)
    known = np.isfinite(days)
    mean = np.where(known, days, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return np.where(known.sum(axis=-1) >= _WEEK - 2, mean, np.nan).T


def _last(of: Numbers, days: int) -> Numbers:
    """Each topic's last days, each day's own among them: topics × days × last days."""
    padded = np.pad(of.T, ((0, 0), (days - 1, 0)), constant_values=np.nan)
    windows: Numbers = np.lib.stride_tricks.sliding_window_view(padded, days, axis=1)
    return windows


def _creep_limit(week: Numbers) -> Numbers:
    """How far a week may be off: clearly more than it was in the weeks before the last six, which may be the creep's.
    Unknown where six weeks of 5 % could not be told from that."""
    limit = np.maximum(
        _CREEP_STEP, _CREEP_MARGIN * before(np.abs(week), MEMORY_DAYS, 1.0, least=BASELINE_DAYS, lag=_CREEP_DAYS)
    )
    return np.where(limit < _CREEP_MOST, limit, np.nan)


def _creeps(week: Numbers, daily: Numbers) -> Numbers:
    """Whether a week is more than it was in each of the last two fortnights, by what creeps and not what jumps, and so
    is each of its days."""
    days = _last(daily, _WEEK)
    least = np.where(np.isfinite(days), days, np.inf).min(axis=-1).T
    lowest, highest = _CREEP_RISE
    creeps: Numbers = (least > 0.5 * week) & (week > 0)
    for late, early in ((0, 14), (14, 28)):
        rise = shifted(week, late) - shifted(week, early)
        creeps = creeps & (rise > lowest) & (rise < highest)
    return creeps


def _known(records: Numbers) -> Numbers:
    """How many of the last weeks' days a topic sent anything."""
    total = np.cumsum(np.pad(records > 0, ((MEMORY_DAYS + 1, 0), (0, 0))), axis=0)
    days: Numbers = total[MEMORY_DAYS:-1] - total[: -MEMORY_DAYS - 1]
    return days


def _fault(observed: float, usual: float) -> str:
    if observed < usual:
        return "silent" if observed < _SILENT * usual else "fewer"
    return "more"
