"""Staleness: which exposures are to be computed, from what the ledger knows and what was written of them.

A column of an exposure is stale where it was never computed, where the exposure's window or what decides the column's
values in the configuration has changed, and where a commit to one of its topics that is later than the version it was
computed from touches the window: exactly these are computed again. An exposure waits while a topic
that sends all the time has not been archived to the window's end, for at most `PATIENCE`: a component that is off must
not hold up the others, and what comes later makes the exposure stale. So nothing stays NULL for ever because it was
computed too early. Correctness does not depend on events or on times of commits, only on versions (design.md §3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.exposures.results import Provenance, keys_of
from efd_pipelines.exposures.windows import Exposures
from efd_pipelines.times import INVALID_TIME, Week, microseconds
from efd_pipelines.topics.names import Dataset, Kind

PATIENCE = timedelta(minutes=10)
NEVER = -1

_STEADY = frozenset({Kind.TELEMETRY, Kind.METRIC})


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


def archive_changes(
    archive: Archive, datasets: Iterable[Dataset], since_us: int | None = None
) -> dict[Dataset, Changes]:
    """The changes of each dataset, by the ledger, which is caught up first where a run died.

    `since_us` is from which event time on they are wanted; those of the newest week are always there.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    wanted = sorted(set(datasets))
    archive.ledger.catch_up_pending()
    since_week = None if since_us is None else Week.containing(since_us).key
    rows = archive.ledger.changes(RAW, dict.fromkeys(wanted, NEVER), since_week)
    rows = rows.filter(pc.is_valid(rows["first_us"]))
    columns = {name: rows[name].to_numpy() for name in ("version", "first_us", "last_us")}
    of = np.array(rows["dataset"].to_pylist(), dtype=object)
    return {dataset: Changes(*(columns[name][of == dataset.text] for name in columns)) for dataset in wanted}


@dataclass(frozen=True, slots=True)
class Need:
    """A column, by what its values depend on: its own digest, and the datasets that it is computed from."""

    name: str
    digest: str
    datasets: tuple[Dataset, ...]


def stale(
    exposures: Exposures,
    written: Mapping[tuple[int, int], Provenance],
    needs: Sequence[Need],
    reads: Mapping[Dataset, tuple[int, int]],
    changes: Mapping[Dataset, Changes],
) -> NDArray[np.bool_]:
    """Which columns of which exposures are to be computed (again): shape (exposures, columns).

    `reads` has how far before and behind a window each dataset is read (µs).
    """
    found = [written.get(key) for key in keys_of(exposures)]
    result = np.zeros((len(found), len(needs)), dtype=bool)
    result[:] = np.array(
        [
            was is None or (was.begin_us, was.end_us) != (int(begin), int(end))
            for was, begin, end in zip(found, exposures.begin_us, exposures.end_us, strict=True)
        ],
        dtype=bool,
    )[:, None]
    changed: dict[int, NDArray[np.bool_]] = {}
    for n, was in enumerate(found):
        if was is not None:
            key = id(was.columns)
            if key not in changed:
                changed[key] = np.array([was.columns.get(need.name) != need.digest for need in needs], dtype=bool)
            result[n] |= changed[key]
    for dataset, (before_us, after_us) in reads.items():
        used = [NEVER if was is None else was.versions.get(dataset.text, NEVER) for was in found]
        newest = changes[dataset].newest_version(exposures.begin_us - before_us, exposures.end_us + after_us)
        late = newest > np.array(used, dtype=np.int64)
        result[np.ix_(late, np.array([dataset in need.datasets for need in needs], dtype=bool))] = True
    return result


def versions_after(
    was: Mapping[str, int], now: Mapping[str, int], needs: Sequence[Need], computed: NDArray[np.bool_]
) -> dict[str, int]:
    """The versions that an exposure's values rest on when some of its columns have been computed.

    A topic of which any column was left as it is keeps its version: what came since is then seen as later.
    """
    still = [need for need, done in zip(needs, computed.tolist(), strict=True) if not done]
    left = {dataset.text for need in still for dataset in need.datasets}
    return {**was, **{dataset: version for dataset, version in now.items() if dataset not in left}}


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
