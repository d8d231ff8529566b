"""Quarantine: rows whose time cannot be, and their way home once it is known by how much the clock was wrong.

`quarantined` says which writers' rows are there and how far their clocks seem to have been from Kafka's. `release`
moves rows whose clock error somebody has established to the weeks that they belong to: `time` becomes what the clock
should have shown, `archive_clock_error` keeps by how much it was corrected, and what was sent stays as it was sent. One
commit under the guard `quarantine`: each row goes home once. A row that would still be at an impossible time stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.archive.encoding import AHEAD_US
from efd_pipelines.archive.files import DataFile, first_batch, sort_rows, write_data_file
from efd_pipelines.archive.ledger import RAW, LedgerRow, rows_of
from efd_pipelines.archive.reading import read_file
from efd_pipelines.archive.slices import QUARANTINE, Slice, SliceUnit, slice_guard, slice_starts
from efd_pipelines.archive.tables import TableSnapshot, commit
from efd_pipelines.archive.widening import file_schema
from efd_pipelines.errors import StaleWriter, UsageError
from efd_pipelines.times import FIRST_WEEK, microseconds
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

GUARD = "quarantine"
CLOCK_ERROR = "archive_clock_error"
_WRITER = ("private_identity", "private_origin", "salIndex")
_BATCH_BYTES = 16 * 1024 * 1024
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Quarantined rows of one writer of a dataset.

    Args:
        identity, origin, sal_index: the writer, as far as its records say.
        cause: `before`: 2021-09-13, `ahead`: of Kafka by over an hour, `none`: no time at all.
        clock_error_s: the median of event time less Kafka's; None where there is no time.
        first, last: Kafka's time stamps.
    """

    topic: str
    identity: str | None
    origin: int | None
    sal_index: int | None
    cause: str
    count: int
    clock_error_s: float | None
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which quarantined rows are meant: of a writer, and received (Kafka's time stamp) from and before two times."""

    identity: str | None = None
    origin: int | None = None
    sal_index: int | None = None
    received_from: datetime | None = None
    received_before: datetime | None = None


@dataclass(slots=True)
class ReleaseResult:
    """What a release did: rows by the week that they are in now, chosen ones that `stayed`, and the others' count."""

    rows: int = 0
    stayed: int = 0
    others: int = 0
    commits: int = 0
    weeks: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def quarantined(archive: Archive, datasets: Sequence[Dataset] | None = None) -> list[Quarantined]:
    """What is in quarantine, by dataset, writer and cause, the most first.

    Raises:
        UnknownDataset: one that is not in the archive.
    """
    found = [one for dataset in _chosen(archive, datasets) for one in _by_writer(archive, dataset)]
    return sorted(found, key=lambda one: (-one.count, one.topic, one.identity or "", one.cause))


def datasets_with_quarantine(archive: Archive) -> list[Dataset]:
    """The datasets that have quarantined rows, by the ledger."""
    archive.ledger.catch_up_pending()
    return archive.ledger.datasets_with_rows(QUARANTINE)


def release(
    archive: Archive,
    dataset: Dataset,
    clock_error_us: int,
    choice: Choice | None = None,
    *,
    dry_run: bool = False,
    run: str = "",
) -> ReleaseResult:
    """Moves quarantined rows to their weeks, `time` less `clock_error_us` (positive: the clock was ahead).

    With `dry_run` nothing is written: the result says where the rows would be.

    Raises:
        UnknownDataset: it is not in the archive.
        UsageError: an error of 0 corrects nothing.
        StoreUnavailable, StaleWriter: what was released before stands.
    """
    if clock_error_us == 0:
        raise UsageError("A clock error of 0 corrects nothing", remedy="`efd archive quarantine` shows how far it was.")
    started = time.monotonic()
    archive.prepare()
    result = ReleaseResult()
    work = _Release(archive, dataset, clock_error_us, choice or Choice(), dry_run, run, result)
    if dry_run:
        work.all([])
    else:
        with archive.ledger.announced(run, [(RAW, dataset)]) as rows:
            work.all(rows)
    result.seconds = time.monotonic() - started
    return result


@dataclass(slots=True)
class _Release:
    """The release of rows of one dataset."""

    archive: Archive
    dataset: Dataset
    clock_error_us: int
    choice: Choice
    dry_run: bool
    run: str
    result: ReleaseResult

    def all(self, rows: list[LedgerRow]) -> None:
        pending = {file.path for file in self.archive.snapshot(self.dataset).files({QUARANTINE})}
        while pending:
            pending -= self._some(pending, rows)

    def _some(self, pending: set[str], rows: list[LedgerRow]) -> set[str]:
        """Releases from the next files; which were dealt with, here or, meanwhile, by another."""
        for attempt in range(_ATTEMPTS):
            time.sleep(min(1.0, 0.02 * 2**attempt) if attempt else 0.0)
            snapshot = self.archive.snapshot(self.dataset)
            files = [file for file in snapshot.files({QUARANTINE}) if file.path in pending]
            if not files:
                return pending
            batch = first_batch(files, _BATCH_BYTES)
            try:
                self._release(snapshot, batch, rows)
            except StaleWriter:
                continue
            return {file.path for file in batch}
        raise StaleWriter(
            f"Rows of {self.dataset} could not be released in {_ATTEMPTS} attempts",
            remedy="Look who else writes to it, then run again: each row goes home once.",
        )

    def _release(self, snapshot: TableSnapshot, files: Sequence[DataFile], rows: list[LedgerRow]) -> None:
        there = {name for file in files for name in file_schema(snapshot, file).names}
        schema = pa.schema([field for field in snapshot.schema if field.name in there])
        whole = pa.concat_tables([read_file(snapshot, file, schema) for file in files])
        wanted = _matches(whole, self.choice)
        times, is_possible = _corrected(whole, self.clock_error_us)
        home = wanted & is_possible
        if home.any() and not self.dry_run:
            parts = self._parts(snapshot, whole, times, home)
            rows += self._commit(snapshot, files, parts, int(home.sum()))
        for week, count in _weeks(times[home]):
            self.result.weeks[week] = self.result.weeks.get(week, 0) + count
        self.result.rows += int(home.sum())
        self.result.stayed += int((wanted & ~is_possible).sum())
        self.result.others += int((~wanted).sum())

    def _parts(
        self, snapshot: TableSnapshot, whole: pa.Table, times: NDArray[np.int64], home: NDArray[np.bool_]
    ) -> dict[tuple[str, str], pa.Table]:
        """The released rows by week and slice, and what stays."""
        unit = SliceUnit(snapshot.description["slice"])
        parts: dict[tuple[str, str], pa.Table] = {}
        released = _with_times(whole.filter(pa.array(home)), times[home], self.clock_error_us)
        starts = slice_starts(times[home], unit)
        for start in np.unique(starts).tolist():
            of = Slice(start, unit)
            parts[of.week.key, of.key] = released.filter(pa.array(starts == start))
        if not home.all():
            parts[QUARANTINE, QUARANTINE] = whole.filter(pa.array(~home))
        return parts

    def _commit(
        self, snapshot: TableSnapshot, files: Sequence[DataFile], parts: dict[tuple[str, str], pa.Table], count: int
    ) -> list[LedgerRow]:
        # The second is raised by whoever else removes these files: widening does.
        reached = {guard: snapshot.transaction_version(guard) for guard in (GUARD, slice_guard(QUARANTINE))}
        schema = pa.schema([*snapshot.schema])
        if CLOCK_ERROR not in schema.names:
            schema = schema.append(pa.field(CLOCK_ERROR, SYSTEM_COLUMNS[CLOCK_ERROR]))
        made = commit(
            snapshot.store,
            snapshot.relative,
            snapshot,
            add=[
                write_data_file(snapshot.store, snapshot.relative, week, key, sort_rows(table))
                for (week, key), table in sorted(parts.items())
            ],
            remove=files,
            transactions={guard: (version, (version or 0) + 1) for guard, version in reached.items()},
            schema=schema,
            note={"kind": "release", "run": self.run, "clock_error_us": self.clock_error_us, "released": count},
        )
        self.result.commits += 1
        return rows_of(RAW, self.dataset, made)


def _chosen(archive: Archive, datasets: Sequence[Dataset] | None) -> Sequence[Dataset]:
    return datasets_with_quarantine(archive) if datasets is None else datasets


def _by_writer(archive: Archive, dataset: Dataset) -> Iterator[Quarantined]:
    import polars as pl

    snapshot = archive.snapshot(dataset)
    schema = snapshot.schema
    names = [name for name in ("time", "kafka_timestamp", *_WRITER) if name in schema.names]
    wanted = pa.schema([schema.field(name) for name in names])
    parts = [read_file(snapshot, file, wanted) for file in snapshot.files({QUARANTINE})]
    if not parts:
        return
    frame = pl.DataFrame(pa.concat_tables(parts))
    missing = [pl.lit(None).alias(name) for name in _WRITER if name not in names]
    cause = (
        pl.when(pl.col("time").is_null())
        .then(pl.lit("none"))
        .when(pl.col("time").dt.epoch("us") < FIRST_WEEK.start_us)
        .then(pl.lit("before"))
        .otherwise(pl.lit("ahead"))
    )
    error = (pl.col("time").dt.epoch("us") - pl.col("kafka_timestamp").dt.epoch("us")) / 1e6
    frame = frame.with_columns(*missing, cause=cause, error=error)
    grouped = frame.group_by([*_WRITER, "cause"]).agg(
        pl.len(), pl.col("error").median(), pl.col("kafka_timestamp").min().alias("first"),
        pl.col("kafka_timestamp").max().alias("last"),
    )  # fmt: skip
    for row in grouped.iter_rows(named=True):
        yield Quarantined(
            topic=dataset.text,
            identity=row["private_identity"],
            origin=row["private_origin"],
            sal_index=row["salIndex"],
            cause=row["cause"],
            count=row["len"],
            clock_error_s=row["error"],
            first=row["first"],
            last=row["last"],
        )


def _matches(rows: pa.Table, choice: Choice) -> NDArray[np.bool_]:
    mask = np.ones(rows.num_rows, dtype=np.bool_)
    for name, value in zip(_WRITER, (choice.identity, choice.origin, choice.sal_index), strict=True):
        if value is not None:
            if name not in rows.column_names:
                raise UsageError(f"The rows have no {name} by which to choose", remedy="Choose by another option.")
            mask &= _is_true(pc.equal(rows[name], value))
    received = rows["kafka_timestamp"].cast(pa.int64())
    if choice.received_from is not None:
        mask &= _is_true(pc.greater_equal(received, microseconds(choice.received_from)))
    if choice.received_before is not None:
        mask &= _is_true(pc.less(received, microseconds(choice.received_before)))
    return mask


def _is_true(values: Any) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = values.fill_null(False).to_numpy(zero_copy_only=False)
    return found


def _corrected(rows: pa.Table, clock_error_us: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Corrected times in UTC microseconds, and which of them can be: by the same rule as for records that arrive."""
    sent = rows["time"].cast(pa.int64())
    has_time = sent.is_valid().to_numpy(zero_copy_only=False)
    times = np.asarray(sent.fill_null(0).to_numpy(), dtype=np.int64) - clock_error_us
    received = rows["kafka_timestamp"].cast(pa.int64()).fill_null(int(time.time() * 1e6)).to_numpy()
    is_possible = has_time & (times >= FIRST_WEEK.start_us) & (times <= received + AHEAD_US)
    return times, is_possible


def _with_times(rows: pa.Table, times: NDArray[np.int64], clock_error_us: int) -> pa.Table:
    rows = rows.set_column(rows.column_names.index("time"), rows.schema.field("time"), pa.array(times).cast(TIME))
    errors = pa.array(np.full(rows.num_rows, clock_error_us), SYSTEM_COLUMNS[CLOCK_ERROR])
    if CLOCK_ERROR in rows.column_names:
        rows = rows.drop_columns([CLOCK_ERROR])
    return rows.append_column(pa.field(CLOCK_ERROR, errors.type), errors)


def _weeks(times: NDArray[np.int64]) -> Iterator[tuple[str, int]]:
    starts, counts = np.unique(slice_starts(times, SliceUnit.WEEK), return_counts=True)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        yield Slice(start, SliceUnit.WEEK).week.key, count
