"""Stale: which slices of a table have changed since they were published.

Asked of the log of the table itself: commits after the version that is recorded as `examined`, and after the one that
each slice was published from. A commit that only rearranges rows (a merge, a widening) changes nothing, and one that
lets a week of the archive go takes nothing out of InfluxDB, which has a retention of its own. Where the log no longer
reaches back, all slices are looked at. So that not every table is opened every few minutes, `state.json` remembers
versions too; it may be lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.delta_log import Commit, read_log
from efd_pipelines.archive.expiry import is_expired
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.slices import DEAD, QUARANTINE, Slice, SliceUnit, slice_starts
from efd_pipelines.archive.store import Store
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.publishing.policy import Publication
from efd_pipelines.publishing.records import Interrupted, Records
from efd_pipelines.topics.names import Dataset

_THREADS = 4
_LOOKED_AT_ONCE = 64
_REARRANGING = ("merge", "widen", "seal")
_OUTSIDE = ("", QUARANTINE, DEAD)


@dataclass(frozen=True, slots=True)
class StaleSlice:
    """Times of one slice, end excluded, that may have changed; `version` is the last of the table that changed them.

    `is_forced`: what the records say is not believed, all of it is written.
    """

    slice: Slice
    start_us: int
    end_us: int
    version: int
    is_forced: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StaleDataset:
    """What of one dataset must be published from one snapshot of its table.

    `examined` is the version that may be recorded once it is; None where other stale slices were left out.
    `recorded_at` is the version that the records were at.
    """

    dataset: Dataset
    table: str
    source: TableSnapshot
    records: Records
    slices: tuple[StaleSlice, ...]
    examined: int | None
    interrupted: Interrupted | None = None
    recorded_at: int = 0

    def was_begun(self, part: Slice) -> bool:
        """Whether a process that died may have written points of a slice."""
        one = self.interrupted
        return one is not None and part.start_us < one.end_us and part.end_us > one.start_us


@dataclass(slots=True)
class State:
    """What was known after the last run.

    `examined` are the versions that are published, by dataset; `destinations` databases that were there, `lost` those
    that had gone and are not all published again.
    """

    examined: dict[str, int] = field(default_factory=dict)
    destinations: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, store: Store, place: str) -> State:
        data = store.try_read(f"{place}/state.json")
        try:
            found = json.loads(data or b"{}")
            examined = {str(name): int(version) for name, version in found["examined"].items()}
            return cls(examined, [str(one) for one in found["destinations"]], [str(one) for one in found["lost"]])
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, store: Store, place: str) -> None:
        store.write_bytes(f"{place}/state.json", json.dumps(asdict(self), sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for.

    Args:
        weeks: only these, by key.
        oldest_us: points before this have run out.
        again: everything, as if nothing had been published.
        lost: databases that have gone: what the records say of them is void.
    """

    archive: Archive
    publication: Publication
    place: str
    oldest_us: int
    weeks: Collection[str] | None = None
    again: bool = False
    lost: frozenset[str] = frozenset()

    def stale(self, datasets: Iterable[Dataset], state: State) -> Iterator[StaleDataset]:
        """The datasets that have something to publish, or to record, a few looked at beside each other.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        wanted = list(self._moved(datasets, state))
        with ThreadPoolExecutor(_THREADS) as pool:
            for first in range(0, len(wanted), _LOOKED_AT_ONCE):
                for found in pool.map(self._look, wanted[first : first + _LOOKED_AT_ONCE]):
                    if found is not None:
                        yield found

    def _moved(self, datasets: Iterable[Dataset], state: State) -> Iterator[Dataset]:
        """Datasets of which the ledger knows a newer version than the one that was published."""
        latest = self.archive.ledger.latest().select(["table", "dataset", "version"]).to_pylist()
        versions = {(row["table"], row["dataset"]): int(row["version"]) for row in latest}
        for dataset in datasets:
            table = self.publication.table_of(dataset)
            version = versions.get((table, dataset.text)) if table else None
            if version is not None and (self.again or self.lost or version > state.examined.get(dataset.text, -1)):
                yield dataset

    def stale_of(self, dataset: Dataset, forced: Collection[Slice]) -> StaleDataset | None:
        """One dataset looked at anew; of `forced` slices it is not known what the server has."""
        found = self._look(dataset)
        if found is None:
            return None
        whole = [
            StaleSlice(part, max(part.start_us, self.oldest_us), part.end_us, found.source.version, True)
            for part in forced
        ]
        slices = {one.slice: one for one in (*found.slices, *whole)}
        return replace(found, slices=tuple(slices[part] for part in sorted(slices)))

    def _look(self, dataset: Dataset) -> StaleDataset | None:
        table = self.publication.table_of(dataset)
        assert table is not None
        source = open_table(self.archive.store, self.archive.relative(dataset, table))
        if source is None:
            return None
        records = Records(self.archive.store, self.place, dataset)
        unit = unit_of(self.publication, source, table)
        interrupted = records.interrupted()
        found = self._changed(source, records, unit)
        if interrupted is not None and interrupted.version != source.version:
            found = _with_interrupted(found, interrupted, records, source, unit)
        kept = [one for one in map(self._cut, found) if one is not None and not is_expired(source, one.slice.week)]
        at = 0 if records.snapshot is None else records.snapshot.version
        stale = StaleDataset(dataset, table, source, records, tuple(kept), source.version, interrupted, at)
        if self.weeks is None:
            return stale
        wanted = tuple(one for one in kept if one.slice.week.key in self.weeks or stale.was_begun(one.slice))
        return stale if len(wanted) == len(kept) else replace(stale, slices=wanted, examined=None)

    def _changed(self, source: TableSnapshot, records: Records, unit: SliceUnit) -> list[StaleSlice]:
        if self.again:
            return _whole(source, unit, forced=True)
        commits = _commits(source, records.examined + 1)
        if commits is None:
            return _whole(source, unit)
        found = _touched(commits, unit, records)
        if self.lost:
            there = {one.slice: one for one in found}
            for one in _whole(source, unit, forced=True):
                if self._was_lost(records.dataset, one.slice):
                    there[one.slice] = one
            found = sorted(there.values(), key=lambda one: one.slice)
        return found

    def _was_lost(self, dataset: Dataset, part: Slice) -> bool:
        times = (part.start_us, part.end_us - 1)
        return any(self.publication.destination(dataset, time).bucket in self.lost for time in times)

    def _cut(self, one: StaleSlice) -> StaleSlice | None:
        """Without what has run out."""
        start = max(one.start_us, self.oldest_us)
        return None if start >= one.end_us else replace(one, start_us=start)


def unit_of(publication: Publication, source: TableSnapshot, table: str) -> SliceUnit:
    """The unit in which a table is rewritten, and so published."""
    tier = publication.tier
    return SliceUnit(source.description["slice"]) if table == RAW or tier is None else tier.unit


def _commits(source: TableSnapshot, first: int) -> list[Commit] | None:
    """The commits from a version on up to the snapshot's; None where the log does not have them all."""
    found: list[Commit] = []
    if first > source.version:
        return found
    for made in read_log(source.store, source.relative, first):
        found.append(made)
        if made.version == source.version:
            return found
    return None


def _touched(commits: Sequence[Commit], unit: SliceUnit, records: Records) -> list[StaleSlice]:
    """The slices that commits touched after they were published, with the times that these had to do with."""
    found: dict[Slice, StaleSlice] = {}
    for made in commits:
        for file in _changing(made):
            for one in _stretches(file, unit, made.version):
                if made.version <= records.published_from(one.slice):
                    continue
                before = found.get(one.slice, one)
                start, end = min(before.start_us, one.start_us), max(before.end_us, one.end_us)
                found[one.slice] = StaleSlice(one.slice, start, end, made.version)
    return [found[part] for part in sorted(found)]


def _changing(made: Commit) -> list[DataFile]:
    """The files of a commit by which rows of weeks came or went."""
    kind = made.note.get("kind")
    files = [file for file in (*made.added, *made.removed) if file.week not in _OUTSIDE]
    rows = sum(file.rows for file in made.added) - sum(file.rows for file in made.removed)
    return [] if kind == "expire" or (kind in _REARRANGING and rows == 0) else files


def _stretches(file: DataFile, unit: SliceUnit, version: int) -> Iterator[StaleSlice]:
    """The slices that a file lies in, and the part of each that it may have rows of."""
    low, high = file.time_min_us, file.time_max_us
    if low is None or high is None:
        whole = Slice.parse(file.slice)
        low, high = whole.start_us, whole.end_us - 1
    first, last = slice_starts(np.array([low, high]), unit)
    for start in range(int(first), int(last) + 1, unit.length_us):
        part = Slice(start, unit)
        yield StaleSlice(part, max(low, part.start_us), min(high + 1, part.end_us), version)


def _whole(source: TableSnapshot, unit: SliceUnit, *, forced: bool = False) -> list[StaleSlice]:
    """All slices of a table, whole."""
    parts = {
        one.slice
        for file in source.files()
        if file.week not in _OUTSIDE
        for one in _stretches(file, unit, source.version)
    }
    return [StaleSlice(part, part.start_us, part.end_us, source.version, forced) for part in sorted(parts)]


def _with_interrupted(
    found: Sequence[StaleSlice], interrupted: Interrupted, records: Records, source: TableSnapshot, unit: SliceUnit
) -> list[StaleSlice]:
    """With all that a process that died may have written from a version that is no longer the table's."""
    there: Mapping[Slice, StaleSlice] = {one.slice: one for one in found}
    recorded = [] if records.snapshot is None else records.snapshot.files()
    parts = {one.slice for one in _whole(source, unit)} | {Slice.parse(file.slice) for file in recorded}
    hit = [part for part in parts if part.start_us < interrupted.end_us and part.end_us > interrupted.start_us]
    forced = {part: StaleSlice(part, part.start_us, part.end_us, source.version, True) for part in hit}
    return sorted({**there, **forced}.values(), key=lambda one: one.slice)
