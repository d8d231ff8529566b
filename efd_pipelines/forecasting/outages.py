"""Outages: half days of which the archive has nothing, or of most components far less than it always has.

An outage of the archive, of Kafka or of the site's network is one fault, not one of each topic. Nothing is judged of
such half days, and nothing learnt from them; nor of the days before a topic was first sent.
What belongs here: what is not known. A component that is down: `findings.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from efd_pipelines.forecasting.half_days import (
    BASELINE_DAYS,
    MEMORY_DAYS,
    PARTS,
    REGULAR_COUNT,
    Counts,
    Numbers,
    before,
    groups_of,
    middle,
)

_STEADY, _PRESENT = 0.3, 0.6
_LEAST_COMPONENTS = 5


def shares_of_components(counts: Counts, part: int) -> Numbers:
    """By day and component (in the order of `groups_of` their names) what share of what they always send its steady
    topics sent, in the median; NaN where it has none, and where nothing at all came."""
    records: Numbers = counts.records[:, :, part]
    some = np.where(_nothing(records)[:, None], np.nan, records)
    own = before(some, BASELINE_DAYS, 0.5)
    ratio = np.where(own >= REGULAR_COUNT, some / np.maximum(own, 1), np.nan)
    steady = before(np.abs(ratio - 1), MEMORY_DAYS, 0.9) < _STEADY
    each = np.where(steady, ratio, np.nan)
    groups = groups_of(counts.components, counts.components)
    return np.stack([middle(each[:, group], axis=1) for group in groups], axis=1)


def shares_archived(counts: Counts) -> Numbers:
    """By day and part what share of what is always sent the archive has, in an outage; NaN where there was none.

    An outage it is where there is nothing at all (0), or where the median component that has steady topics (of five at
    least) sent less than 0.6 of what these always send.
    """
    found = np.full((len(counts.days), len(PARTS)), np.nan)
    for part in range(len(PARTS)):
        shares = shares_of_components(counts, part)
        enough = np.isfinite(shares).sum(axis=1) >= _LEAST_COMPONENTS
        share = middle(shares, axis=1)
        partly = np.where(enough & (share < _PRESENT), share, np.nan)
        found[:, part] = np.where(_nothing(counts.records[:, :, part]), 0.0, partly)
    return found


def _nothing(records: Numbers) -> Numbers:
    nothing: Numbers = ~np.any(records > 0, axis=1)
    return nothing


def what_is_known(counts: Counts) -> Counts:
    """The counts, not a number in an outage, and of a topic that was new in its component before it was first sent."""
    sent = np.any(counts.records > 0, axis=2)
    new = ~np.maximum.accumulate(sent, axis=0)
    for group in groups_of(counts.components, counts.components):
        new[:, group] &= sent[:, group].any(axis=1, keepdims=True)
    unknown = np.isfinite(shares_archived(counts))[:, None, :] | new[:, :, None]
    if not unknown.any():
        return counts
    records, sizes = (np.where(unknown, np.float32(np.nan), of) for of in (counts.records, counts.bytes))
    return replace(counts, records=records, bytes=sizes)
