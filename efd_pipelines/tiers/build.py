"""Building: computes the stale slices of a tier and commits them.

One commit replaces the files of some slices and records, under `from:<slice>`, the version of the archive's table that
they were computed from. A slice that comes out as it was keeps its file, only its version rises. Killed anywhere
and repeated, the outcome is the same; of two builders one is refused, looks again and goes on with what is left.
What is stale: `stale.py`. Computing and writing: `work.py`; by whom: `sharing.py`. Quarantine and the dead are never
read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.ledger import LedgerRow, rows_of
from efd_pipelines.archive.reading import good_files
from efd_pipelines.archive.slices import Slice
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table
from efd_pipelines.archive.widening import widen_table
from efd_pipelines.errors import ArchiveError, DataError, StaleWriter
from efd_pipelines.memory import give_back
from efd_pipelines.tiers.columns import decide_arrays
from efd_pipelines.tiers.sharing import Sharing, sharing
from efd_pipelines.tiers.stale import EXAMINED, StaleDataset, computed_from, find_stale, from_id
from efd_pipelines.tiers.tier import Tier
from efd_pipelines.tiers.work import Work
from efd_pipelines.times import Week
from efd_pipelines.topics.layout import Column, wider
from efd_pipelines.topics.names import Dataset

Progress = Callable[[str, int, int], None]
"""Called with what is being done, slices done, and slices in all."""

_ATTEMPTS = 10


@dataclass(slots=True)
class TierResult:
    """What a build did: windows written, rows of the archive read, slices written and found as they were.

    `by_component_week` counts windows, rows, bytes and slices.
    """

    windows: int = 0
    rows: int = 0
    bytes: int = 0
    slices: int = 0
    unchanged: int = 0
    commits: int = 0
    seconds: float = 0.0
    by_component_week: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)

    def count(self, dataset: Dataset, commits: Sequence[Commit], computed: int) -> None:
        written = [file for made in commits if made.note.get("kind") == "tier" for file in made.added]
        self.commits += len(commits)
        self.unchanged += computed - len(written)
        for file in written:
            self.windows += file.rows
            self.bytes += file.size_bytes
            self.slices += 1
            self._add(dataset, file.week, windows=file.rows, bytes=file.size_bytes, slices=1)

    def count_rows(self, dataset: Dataset, week: str, rows: int) -> None:
        self.rows += rows
        self._add(dataset, week, rows=rows)

    def _add(self, dataset: Dataset, week: str, **figures: int) -> None:
        counts = self.by_component_week.setdefault((dataset.component, week), {})
        for name, value in figures.items():
            counts[name] = counts.get(name, 0) + value


def build_tier(
    archive: Archive,
    tier: Tier,
    datasets: Iterable[Dataset] | None = None,
    weeks: Collection[Week | str] | None = None,
    run: str = "",
    progress: Progress | None = None,
    processes: int = 1,
) -> TierResult:
    """Computes what is stale of a tier; all datasets that have it and all weeks by default.

    Args:
        datasets: only these, as far as they are aggregated at all.
        run: which run this is, for the ledger.
        processes: how many share the work, on this machine; where EFD_DASK_SCHEDULER is set, Dask's workers do.

    Raises:
        DaskUnavailable: the scheduler does not answer.
        StoreUnavailable: the store did not answer; what was committed before stands.
        TierIncomplete: some datasets could not be summarised, the others were; its `result` says what was done.
    """
    started = time.monotonic()
    archive.prepare()
    keys = None if weeks is None else {str(week) for week in weeks}
    stale = find_stale(archive, tier, datasets, keys)
    result = TierResult()
    if not stale:
        result.seconds = time.monotonic() - started
        return result
    give_back()
    with sharing(archive.settings, processes) as workers:
        builder = _Builder(archive, tier, run, result, progress, sum(len(one.slices) for one in stale), workers)
        for _, group in groupby(stale, key=lambda one: one.dataset.component):
            members = list(group)
            with archive.ledger.announced(run, [(tier.name, one.dataset) for one in members]) as rows:
                for one in members:
                    builder.build(one, rows)
    result.seconds = time.monotonic() - started
    if builder.failed:
        raise TierIncomplete(tier, builder.failed, result)
    return result


class TierIncomplete(DataError):
    """Some datasets could not be summarised; the others were, and what was there before stands."""

    remedy = "Mend what the message names and run again."

    def __init__(self, tier: Tier, failed: Mapping[Dataset, ArchiveError], result: TierResult) -> None:
        names = ", ".join(str(dataset) for dataset in list(failed)[:5])
        reason = next(iter(failed.values())).message
        super().__init__(f"{len(failed)} datasets have no complete {tier} tier: {names}: {reason}")
        self.result = result


class DecisionChanged(ArchiveError):
    """A tier's table that another writer has created meanwhile, with other columns."""

    remedy = "Run again: it is then computed with the columns that the table has."


class _Builder:
    """One build."""

    def __init__(
        self,
        archive: Archive,
        tier: Tier,
        run: str,
        result: TierResult,
        progress: Progress | None,
        expected: int,
        sharing: Sharing,
    ) -> None:
        self._archive = archive
        self._tier = tier
        self._run = run
        self._result = result
        self._progress = progress
        self._expected = expected
        self._sharing = sharing
        self._done = 0
        self.failed: dict[Dataset, ArchiveError] = {}

    def build(self, stale: StaleDataset, ledger: list[LedgerRow]) -> None:
        """Computes and commits the stale slices of one dataset; a damaged one is noted and does not hold up others."""
        try:
            self._build(stale, ledger)
        except ArchiveError as error:
            self.failed[stale.dataset] = error

    def _build(self, stale: StaleDataset, ledger: list[LedgerRow]) -> None:
        """Some slices at a time; adds the commits' ledger rows."""
        job = _Job.of(self._archive, self._tier, stale, self._run, self._sharing.at_once)
        passes = list(job.work.passes(stale.slices, len(job.schema)))
        self._report(f"{stale.dataset} {stale.slices[0]}")
        for slices, computed in self._sharing.compute(job.work, passes, job.still_stale):
            self._result.count_rows(job.dataset, slices[0].week.key, computed.rows)
            is_last = slices[-1] == stale.slices[-1]
            self._commit(job, computed.files, stale.examined if is_last else None, ledger)
            self._done += len(slices)
            self._report(f"{stale.dataset} {slices[-1]}")
        self._report(str(stale.dataset))

    def _report(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, self._done, self._expected)

    def _commit(
        self, job: _Job, computed: Mapping[Slice, DataFile | None], examined: int | None, ledger: list[LedgerRow]
    ) -> None:
        for _ in range(_ATTEMPTS):
            try:
                made = job.commit(computed, examined)
            except StaleWriter:
                continue
            for one in made:
                ledger += rows_of(self._tier.name, job.dataset, one)
            self._result.count(job.dataset, made, len(computed))
            return
        raise StaleWriter(f"{job.relative}: other writers were faster {_ATTEMPTS} times")


@dataclass(frozen=True, slots=True)
class _Job:
    """A dataset's tier that is computed from one snapshot of the archive's table."""

    archive: Archive
    tier: Tier
    dataset: Dataset
    raw: TableSnapshot
    work: Work
    schema: pa.Schema
    run: str

    @classmethod
    def of(cls, archive: Archive, tier: Tier, stale: StaleDataset, run: str, at_once: int = 1) -> _Job:
        schema = stale.raw.schema
        relative = archive.relative(stale.dataset, tier.name)
        table = open_table(archive.store, relative)
        decided = _decided(archive, stale.dataset, schema) if table is None else table.description
        work = Work(
            store=archive.store,
            raw=stale.raw.relative,
            relative=relative,
            schema=schema,
            window_us=tier.window_us,
            arrays=decided["arrays"],
            quartiles=decided.get("quartiles", False),
            files=good_files(stale.raw, {part.week.key for part in stale.slices}),
            held=_held(table, stale.slices),
            changed=stale.changed,
            at_once=at_once,
        )
        return cls(archive, tier, stale.dataset, stale.raw, work, work.form().schema, run)

    @property
    def relative(self) -> str:
        return self.archive.relative(self.dataset, self.tier.name)

    def table(self) -> TableSnapshot | None:
        return open_table(self.archive.store, self.relative)

    def still_stale(self, slices: Iterable[Slice]) -> bool:
        """Whether no other builder has computed the slices meanwhile."""
        table = self.table()
        return any(computed_from(table, part) < self.raw.version for part in slices)

    def commit(self, computed: Mapping[Slice, DataFile | None], examined: int | None) -> list[Commit]:
        """Makes the computed slices visible, those that another builder has not computed from as much or more.

        Raises:
            StaleWriter: another writer was faster; nothing became visible.
        """
        table = self.table()
        if table is not None and _columns_decided(table.description) != (self.work.arrays, self.work.quartiles):
            raise DecisionChanged(f"{self.relative} was created by another writer, with other columns")
        left = {part: file for part, file in computed.items() if computed_from(table, part) < self.raw.version}
        transactions = {from_id(part): (_reached(table, from_id(part)), self.raw.version) for part in left}
        reached = _reached(table, EXAMINED)
        if examined is not None and (reached is None or reached < examined):
            transactions[EXAMINED] = (reached, examined)
        if not transactions:
            return []
        made: list[Commit] = []
        if table is not None and _is_narrow(table, self.schema):
            table, made = widen_table(table, _columns(self.schema), self.run)
        add, remove = _difference(table, left)
        made.append(
            commit(
                self.archive.store,
                self.relative,
                table,
                add=add,
                remove=remove,
                transactions=transactions,
                schema=self.schema,
                description={
                    "dataset": self.dataset.text,
                    "tier": self.tier.name,
                    "window_s": self.tier.window_s,
                    "slice": self.tier.unit.value,
                    "arrays": self.work.arrays,
                    "quartiles": self.work.quartiles,
                },
                note={"kind": "tier", "run": self.run, "from": self.raw.version},
            )
        )
        return made


def _decided(archive: Archive, dataset: Dataset, schema: pa.Schema) -> Mapping[str, Any]:
    """Which columns a table gets when it is first built: it keeps them for ever."""
    quartiles = archive.settings.configuration.tiers.has_quartiles(dataset)
    return {"arrays": decide_arrays(schema, quartiles=quartiles), "quartiles": quartiles}


def _columns_decided(description: Mapping[str, Any]) -> tuple[str, bool]:
    return description["arrays"], description.get("quartiles", False)


def _held(table: TableSnapshot | None, slices: Sequence[Slice]) -> dict[Slice, DataFile]:
    """The files of slices as they are now."""
    if table is None:
        return {}
    files = {file.slice: file for file in table.files({part.week.key for part in slices})}
    return {part: files[part.key] for part in slices if part.key in files}


def _difference(
    table: TableSnapshot | None, computed: Mapping[Slice, DataFile | None]
) -> tuple[list[DataFile], list[DataFile]]:
    """Files to add and to remove, so that each slice has the computed one; a file that is there already stays."""
    held: dict[str, list[DataFile]] = {}
    for file in [] if table is None else table.files({part.week.key for part in computed}):
        held.setdefault(file.slice, []).append(file)
    add: list[DataFile] = []
    remove: list[DataFile] = []
    for part, wanted in computed.items():
        there = held.get(part.key, [])
        if wanted is not None and wanted.path not in {file.path for file in there}:
            add.append(wanted)
        remove += [file for file in there if wanted is None or file.path != wanted.path]
    return add, remove


def _reached(table: TableSnapshot | None, app_id: str) -> int | None:
    return None if table is None else table.transaction_version(app_id)


def _is_narrow(table: TableSnapshot, schema: pa.Schema) -> bool:
    held = {column.name: column.type for column in table.schema}
    return any(
        wider(held.get(column.name, column.type), column.type) != held.get(column.name, column.type)
        for column in schema
    )


def _columns(schema: pa.Schema) -> list[Column]:
    return [Column(column.name, column.name, None, column.type) for column in schema]
