"""Findings: what was flagged, and how many topics of a component were so at once.

What belongs here: the form of a judgement's result. The judgements: `detection.py`, `sporadic.py`, `record_sizes.py`,
`creeps.py`; ranking and words: `anomalies.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efd_pipelines.forecasting.half_days import Counts, Numbers, groups_of

TOGETHER = 3
"""So many topics of a component that move at once are the component's doing."""

_SILENT = 0.01


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


def fault_of(observed: float, usual: float) -> str:
    """What a rate that left what is usual is called."""
    if observed < usual:
        return "silent" if observed < _SILENT * usual else "fewer"
    return "more"


def moved_together(counts: Counts, moved: Numbers, sending: Numbers) -> Numbers:
    """By topic how many of its component moved (-1: less, 1: more) in the same direction at once; `TOGETHER` at least
    where it is half of those that send anything."""
    found = np.ones(moved.shape)
    for members in groups_of(counts.components, counts.components):
        some = moved[:, members]
        all_sending = np.maximum(sending[:, members].sum(axis=1, keepdims=True), 1)
        for sign in (-1, 1):
            same = (some == sign).sum(axis=1, keepdims=True)
            many = np.where((same >= 2) & (2 * same >= all_sending), np.maximum(same, TOGETHER), same)
            found[:, members] = np.where(some == sign, many, found[:, members])
    return found
