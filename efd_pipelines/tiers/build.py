"""Building: computes the stale slices of a tier and commits them.

One commit replaces the files of some slices and records, under `from:<slice>`, the version of the archive's table that
they were computed from. A slice that comes out as it was keeps its file, only its version rises. Killed anywhere
and repeated, the outcome is the same; of two builders one is refused, looks again and goes on with what is left.
What is stale: `stale.py`. Reading and computing: `rows.py`, `summary.py`. Quarantine and the dead are never read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import DataFile, sort_rows, write_data_file
from efd_pipelines.archive.ledger import LedgerRow, rows_of
from efd_pipelines.archive.reading import good_files
from efd_pipelines.archive.slices import Slice
from efd_pipelines.archive.tables import Commit, TableSnapshot, commit, open_table
from efd_pipelines.archive.widening import widen_table
from efd_pipelines.errors import ArchiveError, DataError, StaleWriter
from efd_pipelines.tiers.columns import SummaryField, decide_arrays, tier_columns, tier_schema
from efd_pipelines.tiers.rows import ArchivedRows
from efd_pipelines.tiers.stale import EXAMINED, StaleDataset, computed_from, find_stale, from_id
from efd_pipelines.tiers.summary import summarise
from efd_pipelines.tiers.tier import Tier
from efd_pipelines.times import Week
from efd_pipelines.topics.layout import Arrays, Column, wider
from efd_pipelines.topics.names import Dataset

Progress = Callable[[str, int, int], None]
"""Called with what is being done, slices done, and slices in all."""

_ATTEMPTS = 10
_PASS_ROWS = 400_000
_PASS_CELLS = 16_000_000
_LIST_BYTES = 96 * 1024 * 1024


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
) -> TierResult:
    """Computes what is stale of a tier; all datasets that have it and all weeks by default.

    Args:
        datasets: only these, as far as they are aggregated at all.
        run: which run this is, for the ledger.

    Raises:
        StoreUnavailable: the store did not answer; what was committed before stands.
        TierIncomplete: some datasets could not be summarised, the others were; its `result` says what was done.
    """
    started = time.monotonic()
    archive.prepare()
    keys = None if weeks is None else {str(week) for week in weeks}
    stale = find_stale(archive, tier, datasets, keys)
    result = TierResult()
    builder = _Builder(archive, tier, run, result, progress, sum(len(one.slices) for one in stale))
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
        self, archive: Archive, tier: Tier, run: str, result: TierResult, progress: Progress | None, expected: int
    ) -> None:
        self._archive = archive
        self._tier = tier
        self._run = run
        self._result = result
        self._progress = progress
        self._expected = expected
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
        job = _Job.of(self._archive, self._tier, stale, self._run)
        for slices in job.passes(stale.slices):
            self._report(f"{stale.dataset} {slices[0]}")
            computed = self._compute(job, slices)
            is_last = slices[-1] == stale.slices[-1]
            self._commit(job, computed, stale.examined if is_last else None, ledger)
            self._done += len(slices)
        self._report(str(stale.dataset))

    def _report(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, self._done, self._expected)

    def _compute(self, job: _Job, slices: Sequence[Slice]) -> dict[Slice, DataFile | None]:
        if not job.still_stale(slices):
            return {}
        table, rows = job.summarise(slices[0].start_us, slices[-1].end_us)
        self._result.count_rows(job.dataset, slices[0].week.key, rows)
        return {part: job.write(part, table) for part in slices}

    def _commit(
        self, job: _Job, computed: dict[Slice, DataFile | None], examined: int | None, ledger: list[LedgerRow]
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
    raw_schema: pa.Schema
    files: Sequence[DataFile]
    arrays: Arrays
    schema: pa.Schema
    fields: Sequence[SummaryField]
    run: str

    @classmethod
    def of(cls, archive: Archive, tier: Tier, stale: StaleDataset, run: str) -> _Job:
        raw_schema = stale.raw.schema
        table = open_table(archive.store, archive.relative(stale.dataset, tier.name))
        arrays: Arrays = decide_arrays(raw_schema) if table is None else table.description["arrays"]
        fields = tier_columns(raw_schema, arrays)
        return cls(
            archive=archive,
            tier=tier,
            dataset=stale.dataset,
            raw=stale.raw,
            raw_schema=raw_schema,
            files=good_files(stale.raw, {part.week.key for part in stale.slices}),
            arrays=arrays,
            schema=tier_schema(raw_schema, fields),
            fields=fields,
            run=run,
        )

    @property
    def relative(self) -> str:
        return self.archive.relative(self.dataset, self.tier.name)

    def table(self) -> TableSnapshot | None:
        return open_table(self.archive.store, self.relative)

    def still_stale(self, slices: Iterable[Slice]) -> bool:
        """Whether no other builder has computed the slices meanwhile."""
        table = self.table()
        return any(computed_from(table, part) < self.raw.version for part in slices)

    def passes(self, slices: Sequence[Slice]) -> Iterator[list[Slice]]:
        """Slices that are computed together: neighbours of one week, bounded in rows and results."""
        together: list[Slice] = []
        for part in slices:
            if together and not (part.start_us == together[-1].end_us and self._fits([*together, part])):
                yield together
                together = []
            together.append(part)
        if together:
            yield together

    def _fits(self, slices: Sequence[Slice]) -> bool:
        start, end = slices[0].start_us, slices[-1].end_us
        rows = sum(_rows_within(file, start, end) for file in self.files)
        windows = min(rows, (end - start) / self.tier.window_us)
        is_one_week = slices[0].week == slices[-1].week
        return is_one_week and rows <= _PASS_ROWS and windows * len(self.schema) <= _PASS_CELLS

    def summarise(self, start_us: int, end_us: int) -> tuple[pa.Table, int]:
        """The tier's rows of a time range, and how many of the archive's rows they are made of."""
        lists = [column.name for column in self.raw_schema if pa.types.is_list(column.type)]
        with self._rows(start_us, end_us) as rows:
            pieces = 1 + rows.decoded_bytes(lists) // _LIST_BYTES if lists else 1
            if pieces == 1:
                return summarise(rows, self.tier.window_us, self.arrays), rows.count
        windows = -(-(end_us - start_us) // (pieces * self.tier.window_us))
        parts, counted = [], 0
        for begin in range(start_us, end_us, windows * self.tier.window_us):
            with self._rows(begin, min(begin + windows * self.tier.window_us, end_us)) as rows:
                parts.append(summarise(rows, self.tier.window_us, self.arrays))
                counted += rows.count
        return sort_rows(pa.concat_tables(parts)), counted

    def _rows(self, start_us: int, end_us: int) -> ArchivedRows:
        files = [file for file in self.files if _rows_within(file, start_us, end_us)]
        return ArchivedRows(self.archive.store, self.raw.relative, files, self.raw_schema, start_us, end_us)

    def write(self, part: Slice, table: pa.Table) -> DataFile | None:
        """The file of one slice, invisible until committed; None where the slice has no windows."""
        time = table["time"].cast(pa.int64())
        inside = pc.and_(pc.greater_equal(time, part.start_us), pc.less(time, part.end_us))
        rows = table if pc.all(inside).as_py() else table.filter(inside)
        if not rows.num_rows:
            return None
        kept = rows.drop_columns(self._unused(rows))
        return write_data_file(self.archive.store, self.relative, part.week.key, part.key, kept)

    def _unused(self, rows: pa.Table) -> list[str]:
        """Columns of fields that no record of the slice has: a field that came later changes no older file."""
        unused: list[str] = []
        for one in self.fields:
            names = [column.name for _, column in one.columns()]
            if all(rows[name].null_count == rows.num_rows for name in names):
                unused += names
        return unused

    def commit(self, computed: dict[Slice, DataFile | None], examined: int | None) -> list[Commit]:
        """Makes the computed slices visible, those that another builder has not computed from as much or more.

        Raises:
            StaleWriter: another writer was faster; nothing became visible.
        """
        table = self.table()
        if table is not None and table.description.get("arrays") != self.arrays:
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
                    "arrays": self.arrays,
                },
                note={"kind": "tier", "run": self.run, "from": self.raw.version},
            )
        )
        return made


def _rows_within(file: DataFile, start_us: int, end_us: int) -> float:
    """About how many rows of a file lie in a time range; 0 only where none can."""
    if file.time_min_us is None or file.time_max_us is None:
        return float(file.rows)
    span = file.time_max_us - file.time_min_us + 1
    overlap = min(file.time_max_us + 1, end_us) - max(file.time_min_us, start_us)
    return file.rows * max(0, overlap) / span


def _difference(
    table: TableSnapshot | None, computed: dict[Slice, DataFile | None]
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
