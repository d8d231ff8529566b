"""Enabled: for how much of a period each component was enabled, by its archived `logevent_summaryState`.

A state holds until the next; the last one before the period counts from its beginning. Source of the states:
lsst-ts/ts_xml, SALGeneric (ENABLED is 2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.archive.tables import open_table
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

ENABLED = 2
STATE = "summaryState"
_WEEKS_BEFORE = 8


def enabled_shares(archive: Archive, components: Iterable[str], first: Week, last: Week) -> dict[str, float]:
    """Of each component, the share of the period in which it was enabled, a mean over its indices.

    Components whose state is not archived are left out; a state of more than eight weeks ago is not looked for.
    """
    found = {}
    for component in dict.fromkeys(components):
        share = _share(archive, component, first, last)
        if share is not None:
            found[component] = share
    return found


def _share(archive: Archive, component: str, first: Week, last: Week) -> float | None:
    earliest = first
    for _ in range(_WEEKS_BEFORE):
        earliest = earliest.previous()
    cluster, _, bare = component.rpartition("@")
    dataset = Dataset(f"lsst.sal.{bare}.logevent_{STATE}", cluster)
    snapshot = open_table(archive.store, archive.relative(dataset))
    if snapshot is None or STATE not in snapshot.schema.names:
        return None
    columns = ["time", STATE, *(["salIndex"] if "salIndex" in snapshot.schema.names else [])]
    rows = archive.read(dataset, columns, earliest.start, last.end)
    if not rows.num_rows:
        return None
    times = rows["time"].cast(pa.int64()).to_numpy()
    states = rows[STATE].to_numpy()
    index = rows["salIndex"].to_numpy() if "salIndex" in columns else np.zeros(len(times), np.int64)
    shares = []
    for one in np.unique(index):
        order = np.argsort(times[index == one], kind="stable")
        shares.append(share_of(times[index == one][order], states[index == one][order], first.start_us, last.end_us))
    return float(np.mean(shares))


def share_of(times_us: NDArray[np.int64], states: NDArray[Any], start_us: int, end_us: int) -> float:
    """The share of a stretch in which the state is ENABLED; times rise; before the first state it is not."""
    begins = np.clip(times_us, start_us, end_us)
    ends = np.append(begins[1:], end_us)
    return float((ends - begins)[states == ENABLED].sum() / (end_us - start_us))
