"""Staleness: which exposures are to be computed, from what the ledger knows and what was written of them.

An exposure is stale where it was never computed, where its window or what decides its values in the configuration has
changed, and where a commit later than the version it was computed from touches its window. It waits while a topic
that sends all the time has not been archived to the window's end, for at most `PATIENCE`: a component that is off must
not hold up the others, and what comes later makes the exposure stale. So nothing stays NULL for ever because it was
computed too early. Correctness does not depend on events or on times of commits, only on versions (design.md §3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.archive.archive import Archive
from efd_pipelines.exposures.results import Provenance, keys_of
from efd_pipelines.exposures.windows import Exposures
from efd_pipelines.times import INVALID_TIME, microseconds
from efd_pipelines.topics.names import Dataset, Kind

PATIENCE = timedelta(minutes=10)
NEVER = -1

_STEADY = frozenset({Kind.TELEMETRY, Kind.METRIC})

_CHANGES = """
    SELECT dataset, version, epoch_us(time_min) AS first_us, epoch_us(time_max) AS last_us, commit_kind
    FROM ledger
    WHERE "table" = 'raw' AND time_min IS NOT NULL AND week NOT IN ('quarantine', 'dead', '')
      AND dataset IN (SELECT name FROM wanted)
    ORDER BY dataset, version
"""
_KEEPS_ROWS = frozenset({"merge", "widen", "seal"})
"""Kinds of commits that write the same rows anew, or none."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Commits to one dataset's archive that changed rows of weeks, by rising version; times in UTC microseconds."""

    version: NDArray[np.int64]
    first_us: NDArray[np.int64]
    last_us: NDArray[np.int64]

    @property
    def reached_us(self) -> int:
        """The latest event time that is archived; `INVALID_TIME` where there is none."""
        return int(self.last_us.max(initial=INVALID_TIME))

    def newest_version(self, begin_us: NDArray[np.int64], end_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """The newest version that touches each of the closed windows, `NEVER` where none does.

        The commits are painted onto the line of time in their order, so that the newest shows everywhere; a window
        takes the largest that it sees. Linear in commits and windows, where comparing each with each is not.
        """
        points = np.unique(np.concatenate([self.first_us, self.last_us]))
        painted = np.full(2 * len(points) + 2, NEVER, dtype=np.int64)
        for first, last, version in zip(
            _place(points, self.first_us), _place(points, self.last_us), self.version, strict=True
        ):
            painted[first : last + 1] = version
        seen = np.stack([_place(points, begin_us), _place(points, end_us) + 1], axis=1)
        return np.maximum.reduceat(painted, seen.ravel())[::2] if len(seen) else np.empty(0, dtype=np.int64)


def _place(points: NDArray[np.int64], time_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where times lie: odd numbers are the points themselves, even ones the gaps around them."""
    index = np.searchsorted(points, time_us, side="left")
    exact = np.zeros(len(index), dtype=np.int64)
    inside = index < len(points)
    exact[inside] = points[index[inside]] == time_us[inside]
    return 2 * index + exact


def archive_changes(archive: Archive, datasets: Iterable[Dataset]) -> dict[Dataset, Changes]:
    """The changes of each dataset, by the ledger, which is caught up first where a run died.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    wanted = sorted(set(datasets))
    archive.ledger.catch_up_pending()
    names = pa.table({"name": pa.array([dataset.text for dataset in wanted], pa.string())})
    rows = archive.ledger.sql(_CHANGES, wanted=names)
    changed = np.array([kind not in _KEEPS_ROWS for kind in rows["commit_kind"].to_pylist()], dtype=bool)
    columns = {name: rows[name].to_numpy().astype(np.int64) for name in ("version", "first_us", "last_us")}
    of = np.array(rows["dataset"].to_pylist(), dtype=object)
    return {
        dataset: Changes(*(columns[name][changed & (of == dataset.text)] for name in columns)) for dataset in wanted
    }


def stale(
    windows: Exposures,
    written: Mapping[tuple[int, int], Provenance],
    digest: str,
    reads: Mapping[Dataset, int],
    changes: Mapping[Dataset, Changes],
) -> NDArray[np.bool_]:
    """Which exposures are to be computed (again). `reads` has how far before a window each dataset is read (µs)."""
    found = [written.get(key) for key in keys_of(windows)]
    outdated = [
        was is None or (was.digest, was.begin_us, was.end_us) != (digest, int(begin), int(end))
        for was, begin, end in zip(found, windows.begin_us, windows.end_us, strict=True)
    ]
    result = np.array(outdated, dtype=bool)
    for dataset, before_us in reads.items():
        used = [NEVER if was is None else was.versions.get(dataset.text, NEVER) for was in found]
        newest = changes[dataset].newest_version(windows.begin_us - before_us, windows.end_us)
        result |= newest > np.array(used, dtype=np.int64)
    return result


def waiting(windows: Exposures, reached_us: Mapping[Dataset, int], now: datetime) -> NDArray[np.bool_]:
    """Which exposures wait for telemetry that is on its way; `reached_us`: to when each dataset is archived.

    Events are not waited for, they come when they come; nor is a component that is far behind the others: it is off.
    """
    steady = [end_us for dataset, end_us in reached_us.items() if dataset.kind in _STEADY]
    if not steady:
        return np.zeros(len(windows), dtype=bool)
    patience_us = PATIENCE // timedelta(microseconds=1)
    slowest_us = min(end_us for end_us in steady if end_us >= max(steady) - patience_us)
    young: NDArray[np.bool_] = windows.end_us > microseconds(now) - patience_us
    return young & (windows.end_us > slowest_us)
