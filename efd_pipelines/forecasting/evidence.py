"""Evidence: log likelihoods summed up over half days in the order of time, and sums of the weeks before.

What belongs here: what judgements of several half days share. The likelihoods: `sporadic.py`, `record_sizes.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efd_pipelines.forecasting.half_days import PARTS, Numbers

ENOUGH = 16.0
"""Log likelihood ratio that is told: a chance of 1e-7 in each half day, if the model is true."""

SEQUENCE = tuple(PARTS.index(part) for part in ("night", "day"))
"""Halves of a UTC day in the order of time."""


def in_sequence(parts: Sequence[Numbers]) -> Numbers:
    """What is known by part, as days × topics each, in the order of time: half days × topics."""
    days, topics = parts[0].shape
    return np.stack([parts[part] for part in SEQUENCE], axis=1).reshape(len(SEQUENCE) * days, topics)


def part_of(half: int) -> tuple[int, int]:
    """The day and the part of a half day of a sequence."""
    day, part = divmod(half, len(SEQUENCE))
    return day, SEQUENCE[part]


def largest_sums(steps: Numbers) -> Numbers:
    """The largest sum, over the half days up to each, of what each half day says for a fault (below 0: against it)."""
    runs, run = np.zeros(steps.shape), np.zeros(steps.shape[1])
    for half, step in enumerate(steps):
        run = np.maximum(0.0, run + step)
        runs[half] = run
    return runs


def past_sum(of: Numbers, window: int, lag: int = 0) -> Numbers:
    """The sum of so many rows before each, of those before the last `lag` of them; what is not known counts as none."""
    total = np.cumsum(np.pad(np.nan_to_num(of.astype(np.float64)), ((window + lag + 1, 0), (0, 0))), axis=0)
    rows = len(of)
    found: Numbers = total[window : window + rows] - total[:rows]
    return found
