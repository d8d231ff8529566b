"""Publishing: brings what has changed in the archive to InfluxDB, and records it.

For each dataset, some slices at a time: what is about to be written is said first, then points that differ from what
is recorded are written and those that are gone deleted, then both are recorded in one commit. Killed anywhere and
repeated, the outcome is the same: the same row makes the same point. One process at a time publishes to a server
(`Turn`); one that held its turn too long is refused at its commit, and its slices are written once more.
What is stale: `stale.py`. What is recorded: `records.py`. Writing: `influx.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.cleaning import clean_table
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.reading import good_files
from efd_pipelines.archive.slices import Slice
from efd_pipelines.errors import ArchiveError, DataError, EfdError, NameRejected, StaleWriter
from efd_pipelines.history.turns import LEASE_S, Turn
from efd_pipelines.publishing import administration
from efd_pipelines.publishing.deleting import Range, delete
from efd_pipelines.publishing.difference import Difference
from efd_pipelines.publishing.influx import LineWriter, Precision, Written
from efd_pipelines.publishing.lines import Unserialisable
from efd_pipelines.publishing.policy import Publication, measurement_of
from efd_pipelines.publishing.records import SCHEMA, Recorded
from efd_pipelines.publishing.rows import parts, read_points
from efd_pipelines.publishing.server import Destination, Influx
from efd_pipelines.publishing.stale import Search, StaleDataset, StaleSlice, State
from efd_pipelines.topics.names import Dataset

Progress = Callable[[str, int, int], None]
"""Called with what is being done, points written, and 0."""

_ATTEMPTS = 5
_CLEANED_EVERY = 100
_TOGETHER_CELLS = 4_000_000
_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class PublishResult:
    """What a run did: points and values written, points deleted, rejected, found as they were.

    `expired` points had run out when they came, `crowded` ones found no room in their microsecond.
    `by_component_week` counts the points written.
    """

    points: int = 0
    fields: int = 0
    bytes: int = 0
    deleted: int = 0
    unchanged: int = 0
    rejected: int = 0
    expired: int = 0
    crowded: int = 0
    slices: int = 0
    datasets: int = 0
    created: list[str] = field(default_factory=list)
    seconds: float = 0.0
    by_component_week: dict[tuple[str, str], int] = field(default_factory=dict)


class PublishIncomplete(DataError):
    """Some datasets could not be published, the others were; its `result` says what was done."""

    remedy = "Mend what the message names and run again."

    def __init__(self, name: str, failed: dict[Dataset, EfdError], result: PublishResult) -> None:
        names = ", ".join(str(dataset) for dataset in list(failed)[:5])
        reason = next(iter(failed.values())).message
        super().__init__(f"{name} lacks {len(failed)} datasets: {names}: {reason}")
        self.result = result


def publish(
    archive: Archive,
    influx: Influx,
    name: str,
    datasets: Iterable[Dataset] | None = None,
    weeks: Collection[str] | None = None,
    *,
    run: str = "",
    again: bool = False,
    progress: Progress | None = None,
    writer: LineWriter | None = None,
    lease_s: float = LEASE_S,
    now: datetime | None = None,
) -> PublishResult:
    """Publishes what has changed since it was published; all datasets and weeks by default.

    Args:
        name: which publication: influx_1s, influx_1m, influx_events.
        weeks: only these, by key.
        again: write everything that has not run out, whatever is recorded.
        lease_s: how long another process waits for one that was killed.

    Raises:
        InfluxUnavailable, InfluxFull, PublishingRefused: the server does not take it; what was recorded before stands.
        StoreUnavailable: the archive's store did not answer.
        PublishIncomplete: some datasets could not be published, the others were.
    """
    started = time.monotonic()
    archive.prepare()
    archive.ledger.catch_up_pending()
    publication = Publication.named(name, archive.settings.configuration)
    place = publication.place(influx.url)
    with Turn(archive.store, run or "publish", name=f"{place}/turn.json", lease_s=lease_s):
        publisher = _Publisher(
            archive, influx, publication, place, writer or _writer(archive, influx), run, again, progress
        )
        publisher.publish(datasets, weeks, now or datetime.now(UTC))
    publisher.result.seconds = time.monotonic() - started
    if publisher.failed:
        raise PublishIncomplete(name, publisher.failed, publisher.result)
    return publisher.result


def _writer(archive: Archive, influx: Influx) -> LineWriter:
    compression = archive.settings.configuration.publishing.compression
    return LineWriter(influx, compresses={"always": True, "never": False}.get(compression))


class _Publisher:
    """One run."""

    def __init__(
        self,
        archive: Archive,
        influx: Influx,
        publication: Publication,
        place: str,
        writer: LineWriter,
        run: str,
        again: bool,
        progress: Progress | None,
    ) -> None:
        self._archive = archive
        self._influx = influx
        self._publication = publication
        self._place = place
        self._writer = writer
        self._run = run
        self._again = again
        self._progress = progress
        self._ready: set[Destination] = set()
        self.result = PublishResult()
        self.failed: dict[Dataset, EfdError] = {}

    def publish(self, datasets: Iterable[Dataset] | None, weeks: Collection[str] | None, now: datetime) -> None:
        state = State.load(self._archive.store, self._place)
        lost = self._lost(state)
        if lost:  # all that was there, whatever was asked for: it is made again, and then looks as if it were whole
            datasets, weeks = None, None
        oldest_us = self._publication.oldest_us(now)
        search = Search(self._archive, self._publication, self._place, oldest_us, weeks, self._again, lost)
        known = self._archive.datasets() if datasets is None else sorted(set(datasets))
        try:
            for stale in search.stale(known, state):
                if self._try(search, stale) and stale.examined is not None:
                    state.examined[stale.dataset.text] = stale.examined
            if not self.failed:
                state.lost = []
        finally:
            state.destinations = sorted({*state.destinations, *(one.bucket for one in self._ready)})
            state.save(self._archive.store, self._place)

    def _lost(self, state: State) -> frozenset[str]:
        """Databases that were there and are gone, now or when a run that found it out was not finished."""
        there = {one.destination.bucket for one in administration.stores(self._influx)}
        gone = set(state.destinations) - there
        if gone:
            state.lost = sorted({*state.lost, *gone})
            state.destinations = sorted(set(state.destinations) - gone)
            state.save(self._archive.store, self._place)
        return frozenset(state.lost)

    def _try(self, search: Search, stale: StaleDataset) -> bool:
        """Publishes one dataset; one that is damaged is noted and does not hold up the others."""
        try:
            for _ in range(_ATTEMPTS):
                try:
                    self._dataset(stale, search.oldest_us)
                except StaleWriter:
                    again = search.stale_of(stale.dataset, forced={one.slice for one in stale.slices})
                    if again is None:
                        return True
                    stale = again
                    continue
                return True
            raise StaleWriter(f"{stale.records.relative}: other processes were faster {_ATTEMPTS} times")
        except (ArchiveError, Unserialisable, NameRejected) as error:
            self.failed[stale.dataset] = error
            return False

    def _dataset(self, stale: StaleDataset, oldest_us: int) -> None:
        records = stale.records
        run_out = [] if records.snapshot is None else [
            file for file in records.snapshot.files() if Slice.parse(file.slice).end_us <= oldest_us
        ]  # fmt: skip
        records.forget(run_out, self._run)
        groups = list(_together(stale))
        for n, group in enumerate(groups):
            self._group(stale, group, stale.examined if n == len(groups) - 1 else None)
        if not groups and stale.examined is not None and records.snapshot is not None:
            records.record(stale.source.version, (), Recorded.none(), SCHEMA.empty_table(), stale.examined, self._run)
        self.result.datasets += bool(groups)
        self._clean(stale)

    def _clean(self, stale: StaleDataset) -> None:
        """Now and then: each time something is published, the record of its slice replaces one."""
        there, before = stale.records.snapshot, stale.recorded_at
        if there is not None and there.version // _CLEANED_EVERY > before // _CLEANED_EVERY:
            clean_table(there, self._archive.settings.configuration.sealing.replaced_days)

    def _group(self, stale: StaleDataset, group: Sequence[StaleSlice], examined: int | None) -> None:
        """Some slices of one dataset: said, written, recorded."""
        records = stale.records
        slices = [one.slice for one in group]
        start_us, end_us = min(one.start_us for one in group), max(one.end_us for one in group)
        before = records.points(slices)
        records.intend(stale.source.version, start_us, end_us, self._run)
        outcome = _Outcome()
        for one in group:
            self._slice(stale, one, before, outcome)
        untouched = before.where(~outcome.covers(before.stamps))
        points = Recorded.concat([untouched, *outcome.points])
        kept = records.rejected_rows(slices)
        rejected = pa.concat_tables(
            [kept.filter(pa.array(~outcome.covers(kept["stamp"].to_numpy()))), *outcome.rejected]
        )
        records.record(stale.source.version, slices, points, rejected, examined, self._run)
        self.result.slices += len(slices)

    def _slice(self, stale: StaleDataset, one: StaleSlice, before: Recorded, outcome: _Outcome) -> None:
        interrupted = stale.interrupted
        if one.is_forced and interrupted is not None and interrupted.version != stale.source.version:
            self._wipe(stale, max(one.start_us, interrupted.start_us), min(one.end_us, interrupted.end_us))
        columns = len(stale.source.schema)
        files = good_files(stale.source, {one.slice.week.key}, one.start_us, one.end_us)
        tier = self._publication.tier
        step_us = 1_000_000 if stale.table == RAW or tier is None else tier.window_us
        for start_us, end_us in parts(files, columns, one.start_us, one.end_us, step_us):
            for first_us, last_us in _by_year(start_us, end_us):
                self._part(stale, one, first_us, last_us, before, outcome)

    def _part(
        self, stale: StaleDataset, one: StaleSlice, start_us: int, end_us: int, before: Recorded, outcome: _Outcome
    ) -> None:
        """A time range that goes to one destination."""
        points = read_points(self._publication, stale.table, stale.source, start_us, end_us)
        known = before.where((before.stamps >= start_us * 1000) & (before.stamps < end_us * 1000))
        outcome.ranges.append((start_us * 1000, end_us * 1000))
        if not points.rows.num_rows and not len(known):
            return
        destination = self._ensured(stale.dataset, start_us)
        part = Difference(self._influx, destination, measurement_of(stale.dataset), points, known, one.is_forced)
        # Whole seconds make shorter lines; the stamp, in nanoseconds everywhere else, is the same.
        unit: tuple[Precision, int] = ("ns", 1) if stale.table == RAW else ("s", _SECOND_NS)
        written = self._writer.write(destination, part.lines(unit[1]), unit[0])
        part.delete_vanished()
        outcome.points.append(part.now(written))
        outcome.rejected.append(part.rejected(written))
        self._count(stale.dataset, one.slice, part, written)

    def _count(self, dataset: Dataset, slice_: Slice, part: Difference, written: Written) -> None:
        result = self.result
        result.points += written.points
        result.fields += written.fields
        result.bytes += written.bytes
        result.rejected += len(written.rejected)
        result.expired += written.expired
        result.crowded += part.points.crowded
        result.deleted += part.deleted
        result.unchanged += part.unchanged
        key = (dataset.component, slice_.week.key)
        result.by_component_week[key] = result.by_component_week.get(key, 0) + written.points
        if self._progress is not None:
            self._progress(f"{dataset} {slice_}", result.points, 0)

    def _ensured(self, dataset: Dataset, time_us: int) -> Destination:
        destination = self._publication.destination(dataset, time_us)
        if destination not in self._ready:
            if administration.ensure(self._influx, destination, self._publication.policy.retention_days):
                self.result.created.append(destination.bucket)
            self._ready.add(destination)
        return destination

    def _wipe(self, stale: StaleDataset, start_us: int, end_us: int) -> None:
        """Deletes all points of a time range: what a process that died had written of them is not known."""
        for first_us, last_us in _by_year(start_us, end_us):
            destination = self._ensured(stale.dataset, first_us)
            whole = Range(-1, first_us * 1000, last_us * 1000 - 1)
            delete(self._influx, destination, measurement_of(stale.dataset), iter([whole]), is_indexed=False)


@dataclass(slots=True)
class _Outcome:
    """What became of some slices: the times that were gone through, the points that are there now, those rejected."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    points: list[Recorded] = field(default_factory=list)
    rejected: list[pa.Table] = field(default_factory=list)

    def covers(self, stamps: NDArray[np.int64]) -> NDArray[np.bool_]:
        found = np.zeros(len(stamps), np.bool_)
        for start, end in self.ranges:
            found |= (stamps >= start) & (stamps < end)
        return found


def _together(stale: StaleDataset) -> Iterator[list[StaleSlice]]:
    """Slices that are published in one go: as many as have not too many values together.

    Those that a process had begun when it died come first, and together: what it had said holds until then.
    """
    columns = len(stale.source.schema)
    cells: dict[str, int] = {}
    for file in good_files(stale.source, {one.slice.week.key for one in stale.slices}):
        cells[file.slice] = cells.get(file.slice, 0) + file.rows * columns
    begun = [one for one in stale.slices if stale.was_begun(one.slice)]
    if begun:
        yield begun
    group: list[StaleSlice] = []
    for one in stale.slices:
        if one in begun:
            continue
        group.append(one)
        if sum(cells.get(other.slice.key, 0) for other in group) > _TOGETHER_CELLS:
            yield group
            group = []
    if group:
        yield group


def _by_year(start_us: int, end_us: int) -> Iterator[tuple[int, int]]:
    """A time range cut where years begin, in UTC."""
    first, last = (np.datetime64(time, "us").astype("datetime64[Y]") for time in (start_us, end_us - 1))
    edges = [int(np.datetime64(year, "us").astype(np.int64)) for year in np.arange(first + 1, last + 1)]
    yield from zip([start_us, *edges], [*edges, end_us], strict=True)
