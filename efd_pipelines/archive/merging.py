"""Merging: the many files of a slice become few while it grows, and one when it is over.

A reader opens at most 16 files of a running slice: the smallest ones are put together beyond 8, since some are added
until the round that does it is through, so that a row is written again only as often as its slice doubles. A finished
slice becomes one file in the form that `form.py` describes. Each merge is one commit under the guard `slice:<slice>`,
which removes what it read and adds what it wrote; drains append meanwhile undisturbed, and a late record makes a
finished slice unfinished again. Small files of quarantine and of the dead are put together too. Rows of history whose
record Kafka delivered after all are left out, and counted (design.md §4); no other row ever is.
Closing a week: `sealing.py`. Reading in order: `runs.py`.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.form import Survey, form_of, survey, write_merged
from efd_pipelines.archive.ledger import RAW, LedgerRow, rows_of
from efd_pipelines.archive.ledger_rows import GAP, SEALED
from efd_pipelines.archive.reading import IDENTITY
from efd_pipelines.archive.runs import Room, Run, merged
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.slices import DEAD, QUARANTINE, Slice, slice_guard
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table
from efd_pipelines.errors import ArchiveError, StaleWriter
from efd_pipelines.memory import give_back
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

_log = logging.getLogger(__name__)

MAX_FILES = 16
"""So many files of a running slice a reader opens at most; of quarantine or the dead, so many lie without harm."""

CROWDED = 8
"""A running slice with more files is merged: a round comes every ten minutes and takes some, and drains of the fast
class add a file every two."""

_LEFT = 6
"""So many of its largest files stay, where they are larger than all others together."""

_OUTSIDE_BYTES = 16 * 1024 * 1024

FAN_IN = 32
"""So many files are merged at once; more are merged in turns."""

HISTORY = ("influx:", "file:")
"""How `archive_source` begins where a row did not come from Kafka."""

_DATASETS_ANNOUNCED = 64

Progress = Callable[[int, int], None]
"""Called with slices merged so far and slices found to be merged."""


@dataclass(frozen=True, slots=True)
class MergeProblem:
    """A slice that could not be merged; the others were, and its rows stay as they are."""

    topic: str
    slice: str
    detail: str
    remedy: str


@dataclass(slots=True)
class MergeResult:
    """What a merge did: slices rewritten, files before and after, rows and bytes written, history rows left out."""

    slices: int = 0
    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    bytes: int = 0
    commits: int = 0
    superseded: int = 0
    seconds: float = 0.0
    problems: list[MergeProblem] = field(default_factory=list)

    def count(self, made: Commit) -> None:
        self.slices += 1
        self.commits += 1
        self.files_before += len(made.removed)
        self.files_after += len(made.added)
        self.rows += sum(file.rows for file in made.added)
        self.bytes += sum(file.size_bytes for file in made.added)
        self.superseded += int(made.note.get("superseded", 0))


def merge(
    archive: Archive,
    *,
    datasets: Collection[Dataset] | None = None,
    weeks: Collection[Week | str] | None = None,
    now: datetime | None = None,
    run: str = "",
    progress: Progress | None = None,
) -> MergeResult:
    """Merges what has too many files: finished slices of more than one, running ones of more than 8.

    Safe to be killed, repeated, and run beside drains and other merges.

    Args:
        datasets, weeks: only these.
        now: what counts as over; the present by default.
        run: which run this is, for the ledger.

    Raises:
        StoreUnavailable: what was committed before stands.
    """
    started = time.monotonic()
    archive.prepare()
    archive.ledger.catch_up_pending()
    at = (datetime.now(UTC) if now is None else now) - grace(archive)
    result = MergeResult()
    wanted = crowded(archive, datasets=datasets, weeks=weeks, now=now)
    merger = Merger(archive, run, result)
    found = 0
    for part in _batched(sorted(wanted)):
        with archive.ledger.announced(run, [(RAW, dataset) for dataset in part]) as rows:
            for dataset in part:
                found += len(wanted[dataset])
                merger.merge_slices(dataset, wanted[dataset], at, rows)
                if progress:
                    progress(result.slices, found)
    result.seconds = time.monotonic() - started
    return result


def grace(archive: Archive) -> timedelta:
    """How long after its end a slice is taken to be finished: the slow class of topics is read every hour."""
    return timedelta(hours=archive.settings.configuration.sealing.slice_grace_h)


def is_finished(part: Slice, at: datetime) -> bool:
    """Whether a slice had ended at a time."""
    return part.end_us <= microseconds(at)


def files_to_merge(files: Sequence[DataFile], *, finished: bool) -> list[DataFile]:
    """Which files of one slice become one; none where they are few enough."""
    ordered = sorted(files, key=lambda file: (file.size_bytes, file.path))
    if finished:
        return ordered[:FAN_IN] if len(files) > 1 else []
    if len(files) <= CROWDED:
        return []
    # The smallest, and each larger one that is not larger than all before it: sizes at least double from file to file.
    count = len(ordered) - _LEFT
    size = sum(file.size_bytes for file in ordered[:count])
    while count < len(ordered) and ordered[count].size_bytes <= size:
        size += ordered[count].size_bytes
        count += 1
    return ordered[: min(count, FAN_IN)]


def outside_to_merge(files: Sequence[DataFile]) -> list[DataFile]:
    """Which files of quarantine, or of the dead, become one: some of the smallest, since nothing there is ever over."""
    ordered = sorted(files, key=lambda file: (file.size_bytes, file.path))[:FAN_IN]
    ends = itertools.accumulate(file.size_bytes for file in ordered)
    chosen = [file for file, end in zip(ordered, ends, strict=True) if end <= _OUTSIDE_BYTES]
    return chosen if len(files) > MAX_FILES and len(chosen) > 1 else []


class Merger:
    """Merges slices of datasets; used by `merge` and by sealing."""

    def __init__(self, archive: Archive, run: str, result: MergeResult) -> None:
        self._archive = archive
        self._run = run
        self._result = result
        self.schemas = WriterSchemas(archive.store)

    def merge_slices(self, dataset: Dataset, keys: Iterable[str], at: datetime, rows: list[LedgerRow]) -> None:
        """Merges some slices of a dataset as far as they need it; adds the commits' ledger rows."""
        for key in sorted(keys):
            try:
                while self._merge_slice(dataset, key, at, rows):
                    continue
            except StaleWriter as error:
                _log.info("%s", error.message)  # whoever was faster merged it, or the next round does
            except ArchiveError as error:
                self._result.problems.append(MergeProblem(dataset.text, key, error.message, error.remedy))

    def _merge_slice(self, dataset: Dataset, key: str, at: datetime, rows: list[LedgerRow]) -> bool:
        """One merge of a slice; whether there may be more to merge."""
        snapshot = self.opened(dataset)
        files = [file for file in snapshot.files() if file.slice == key]
        if key in (QUARANTINE, DEAD):
            chosen = outside_to_merge(files)
        else:
            chosen = files_to_merge(files, finished=is_finished(Slice.parse(key), at))
        if not chosen:
            return False
        surveys = [survey(snapshot, file) for file in chosen]
        made = self.replace(dataset, snapshot, surveys, form_of(snapshot, surveys, self.schemas), rows)
        return made is not None and len(chosen) < len(files)

    def opened(self, dataset: Dataset) -> TableSnapshot:
        snapshot = open_table(self._archive.store, self._archive.relative(dataset))
        if snapshot is None:
            raise ArchiveError(f"{dataset} is in the ledger, and has no table")
        return snapshot

    def replace(
        self,
        dataset: Dataset,
        snapshot: TableSnapshot,
        surveys: Sequence[Survey],
        form: pa.Schema,
        rows: list[LedgerRow],
    ) -> Commit | None:
        """Makes one file in a form of files of one slice, and commits it; None where it is the file that was there.

        Raises:
            StaleWriter: another writer was faster; nothing became visible.
            DamagedFile: a file is not what was written; nothing became visible.
            StoreUnavailable: the store did not answer.
        """
        files = [one.file for one in surveys]
        week, key = files[0].week, files[0].slice
        superseded = Superseded()
        with tempfile.TemporaryDirectory(prefix="efd-merge-") as scratch:
            room = Room(Path(scratch))
            runs = [Run(snapshot, one.file, form, one.low, room) for one in surveys]
            windows = superseded.dropped(merged(runs))
            written = write_merged(snapshot, week, key, form, windows)
        give_back()
        if written is None or [file.path for file in files] == [written.path]:
            return None
        _check_count(snapshot, files, written, superseded.count)
        reached = snapshot.transaction_version(slice_guard(key))
        made = commit(
            snapshot.store,
            snapshot.relative,
            snapshot,
            add=[written],
            remove=files,
            transactions={slice_guard(key): (reached, (reached or 0) + 1)},
            schema=pa.schema([field.remove_metadata() for field in form]),
            note={"kind": "merge", "run": self._run, "superseded": superseded.count},
            rearranges=superseded.count == 0,
        )
        rows += rows_of(RAW, dataset, made)
        self._result.count(made)
        return made


def _check_count(snapshot: TableSnapshot, files: Sequence[DataFile], written: DataFile, left_out: int) -> None:
    """A merge must never lose a row: what was read is what was written."""
    before = sum(file.rows for file in files)
    if written.rows + left_out != before:
        raise ArchiveError(
            f"{snapshot.relative}, slice {written.slice}: {before} rows were to be merged, {written.rows} were read",
            remedy="Nothing was changed. `efd archive verify --deep` says which file does not have what the log says.",
        )


@dataclass(slots=True)
class Superseded:
    """Rows of history whose record Kafka delivered after all; `count` of them were left out."""

    count: int = 0

    def dropped(self, windows: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The windows without them. Rows of one record have one time, and so are in one window."""
        for window in windows:
            kept = without_superseded(window)
            self.count += window.num_rows - kept.num_rows
            yield kept


def without_superseded(rows: pa.Table) -> pa.Table:
    """The rows without those of history that agree with one of Kafka's in the identity of their record."""
    keys = [name for name in IDENTITY if name in rows.schema.names]
    if len(keys) < len(IDENTITY) - 1:
        return rows
    is_history = _is_history(rows["archive_source"])
    count = pc.sum(is_history).as_py() or 0
    if not count or count == rows.num_rows:
        return rows
    import polars as pl

    frame = pl.DataFrame(rows.select(keys)).with_columns(
        history=pl.Series(is_history.to_pylist(), dtype=pl.Boolean), row=pl.int_range(pl.len())
    )
    # Nulls are no identity: a join does not match them.
    known = frame.filter(~pl.col("history")).select(keys).unique()
    again = frame.filter(pl.col("history")).join(known, on=keys, how="semi")["row"]
    if not len(again):
        return rows
    keep = ~pc.is_in(pa.array(range(rows.num_rows), pa.int64()), value_set=again.to_arrow()).to_numpy(False)
    return rows.filter(pa.array(keep))


def _is_history(sources: Any) -> Any:
    found = pc.starts_with(sources, HISTORY[0])
    for prefix in HISTORY[1:]:
        found = pc.or_(found, pc.starts_with(sources, prefix))
    return found.fill_null(False).combine_chunks()


def crowded(
    archive: Archive,
    *,
    datasets: Collection[Dataset] | None = None,
    weeks: Collection[Week | str] | None = None,
    now: datetime | None = None,
    months: Collection[str] | None = None,
) -> Mapping[Dataset, list[str]]:
    """Slices with too many files, by the ledger: it may lag, then the next round finds them.

    With `months`, by what the ledger has of those: cheap, and blind to a late record of a slice that is older.
    """
    import polars as pl

    at = (datetime.now(UTC) if now is None else now) - grace(archive)
    found: dict[Dataset, list[str]] = {}
    frame = pl.DataFrame(archive.ledger.table(months, ("files", "bytes", "commit_kind"))).filter(pl.col("table") == RAW)
    # What a week that has collapsed has in each slice is one file.
    sealed = frame.filter(pl.col("commit_kind") == SEALED).select("dataset", "week", pl.lit(1).alias("base"))
    held = (
        frame.filter((pl.col("slice") != "") & (pl.col("commit_kind") != GAP))
        .group_by("dataset", "week", "slice")
        .agg(pl.col("files").sum(), pl.col("bytes").sum())
        .join(sealed, on=["dataset", "week"], how="left")
        .with_columns(pl.col("files") + pl.col("base").fill_null(0))
        .filter(pl.col("files") > 1)
        .sort("dataset", "week", "slice")
    )
    for row in held.iter_rows(named=True):
        dataset = Dataset.parse(row["dataset"])
        if (datasets is not None and dataset not in datasets) or not _is_wanted(row["week"], weeks):
            continue
        if row["files"] > _most(row, at):
            found.setdefault(dataset, []).append(row["slice"])
    return found


def _most(row: Mapping[str, Any], at: datetime) -> int:
    """How many files a slice may have."""
    if row["week"] in (QUARANTINE, DEAD):
        return max(MAX_FILES, int(row["bytes"]) // (_OUTSIDE_BYTES // 4))
    return 1 if is_finished(Slice.parse(row["slice"]), at) else CROWDED


def _is_wanted(week: str, weeks: Collection[Week | str] | None) -> bool:
    return weeks is None or week in {str(one) for one in weeks}


def _batched(datasets: Sequence[Dataset]) -> Iterator[Sequence[Dataset]]:
    for start in range(0, len(datasets), _DATASETS_ANNOUNCED):
        yield datasets[start : start + _DATASETS_ANNOUNCED]
