"""Coverage: which stretches of a dataset's week Kafka has delivered, and which the archive lacks.

Offsets tell: between two rows with neighbouring offsets of a partition nothing was sent, however long the silence;
between two with a hole of offsets something may have been lost (retention, compaction, truncation), and so may what was
before a source's first row and after its last. That a marker of a transaction leaves a hole as well costs a question
to the history that is answered with nothing; that a record is filled in which is there already, `filling.py` sees to.
Only tables are read here, of each file four columns, one file at a time. Who may have what is missing: `sources.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.positions import ENDED
from efd_pipelines.archive.reading import read_file, wanted_schema
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.history.intervals import Interval, united, within, without
from efd_pipelines.times import FIRST_WEEK, Week, microseconds

EDGE_US = 2_000_000
"""Records come a little out of order: what is missing is looked for so much to both sides."""

_APART_US = 60_000_000
_NEIGHBOURS = 16
_EVER = Interval(-(2**62), 2**62)
_COLUMNS = ("time", "archive_source", "kafka_partition", "kafka_offset")
_PARTITION = ["source", "partition"]
_RUNS = {
    "source": pl.String,
    "partition": pl.Int32,
    "first": pl.Int64,
    "last": pl.Int64,
    "first_us": pl.Int64,
    "last_us": pl.Int64,
}


def missing_intervals(
    snapshot: TableSnapshot | None, week: Week, *, drained_us: int | None = None, now: datetime | None = None
) -> list[Interval]:
    """What the archive lacks of a week, as far as it has passed; all of it where there is no table.

    Args:
        drained_us: when the backlog was last read to its end, where that is known: silence up to then is silence.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    now_us = microseconds(now or datetime.now(UTC))
    whole = Interval(week.start_us, min(week.end_us, now_us))
    if whole.end_us <= whole.start_us or week < FIRST_WEEK:
        return []
    if snapshot is None:
        return [whole]
    runs = _runs_around(snapshot, week)
    widened = [Interval(one.start_us - EDGE_US, one.end_us + EDGE_US) for one in _lacking(snapshot, runs, drained_us)]
    return within(united(widened, apart_us=_APART_US), whole)


def _lacking(snapshot: TableSnapshot, runs: pl.DataFrame, drained_us: int | None) -> list[Interval]:
    """What no source covers, and the holes of those that there are."""
    covered: list[Interval] = []
    holes: list[Interval] = []
    for _, of_source in runs.group_by("source", maintain_order=True):
        begin, end, inner = _of_source(snapshot, of_source, drained_us)
        covered.append(Interval(begin, end))
        holes += inner
    return [*without([_EVER], covered), *holes]


def _of_source(snapshot: TableSnapshot, runs: pl.DataFrame, drained_us: int | None) -> tuple[int, int, list[Interval]]:
    """Beginning and end of what a source covers, and the holes in it."""
    partitions = [group for _, group in runs.group_by("partition", maintain_order=True)]
    times = [group for group in partitions if group["first_us"].drop_nulls().len()]
    if not times:
        return 0, 0, []
    ends = {id(group): _end_us(snapshot, group, drained_us) for group in times}
    begin = min(int(group["first_us"].drop_nulls()[0]) for group in times)
    end = max(ends.values())
    holes: list[Interval] = []
    for group in times:
        holes += _between(group)
        if group["first"][0] > 0:
            holes.append(Interval(begin, int(group["first_us"].drop_nulls()[0])))
        holes.append(Interval(ends[id(group)], end))
    return begin, end + 1, holes


def _end_us(snapshot: TableSnapshot, runs: pl.DataFrame, drained_us: int | None) -> int:
    """Up to when a partition is covered: its last row, or, where nothing came after it, its last reading."""
    last_us = int(runs["last_us"].drop_nulls()[-1])
    app_id = f"kafka:{runs['source'][0]}:{runs['partition'][0]}"
    reached = snapshot.transaction_version(app_id)
    is_read_to_its_end = reached is not None and reached != ENDED and reached == runs["last"][-1] + 1
    return max(last_us, drained_us) if is_read_to_its_end and drained_us is not None else last_us


def _between(runs: pl.DataFrame) -> Iterator[Interval]:
    """The stretches between the runs of one partition; rows without a time only say that an offset was read."""
    before: int | None = None
    for first_us, last_us in runs.select("first_us", "last_us").iter_rows():
        if first_us is not None and before is not None:
            yield Interval(min(before, first_us), max(before, first_us) + 1)
        before = before if last_us is None else last_us


def _runs_around(snapshot: TableSnapshot, week: Week) -> pl.DataFrame:
    """Unbroken runs of offsets with rows in the week, joined to those outside it as far as they matter."""
    files = snapshot.files()
    runs = _of_files(snapshot, [file for file in files if file.week in (week.key, QUARANTINE, DEAD)])
    for neighbours in (_slices_before(files, week), _slices_after(files, week)):
        for place, of_slice in enumerate(neighbours):
            if place >= _NEIGHBOURS or (place and not _is_open(runs, week)):
                break
            runs = _joined(pl.concat([runs, _of_files(snapshot, of_slice)]))
    return runs


def _is_open(runs: pl.DataFrame, week: Week) -> bool:
    """Whether a partition's runs do not yet reach beyond the week on both sides."""
    timed = runs.drop_nulls("first_us").group_by(_PARTITION).agg(pl.col("first_us").min(), pl.col("last_us").max())
    inside = timed.filter((pl.col("first_us") >= week.start_us) | (pl.col("last_us") < week.end_us))
    return not inside.is_empty()


def _slices_before(files: Sequence[DataFile], week: Week) -> Iterator[list[DataFile]]:
    yield from _by_slice([file for file in files if file.week < week.key], latest_first=True)


def _slices_after(files: Sequence[DataFile], week: Week) -> Iterator[list[DataFile]]:
    after = [file for file in files if file.week > week.key and file.week not in (QUARANTINE, DEAD)]
    yield from _by_slice(after, latest_first=False)


def _by_slice(files: Sequence[DataFile], *, latest_first: bool) -> Iterator[list[DataFile]]:
    keys = sorted({file.slice for file in files}, reverse=latest_first)
    for key in keys:
        yield [file for file in files if file.slice == key]


def _of_files(snapshot: TableSnapshot, files: Sequence[DataFile]) -> pl.DataFrame:
    parts = [_of_file(snapshot, file) for file in files]
    return _joined(pl.concat([pl.DataFrame(schema=_RUNS), *parts]))


def _of_file(snapshot: TableSnapshot, file: DataFile) -> pl.DataFrame:
    """The runs of one file's rows; history has no offsets."""
    rows = read_file(snapshot, file, wanted_schema(snapshot, _COLUMNS))
    rows = rows.filter(pc.is_valid(rows["kafka_offset"]))
    times = rows["time"].cast(pa.int64())
    if file.week in (QUARANTINE, DEAD):
        times = pa.chunked_array([pa.nulls(rows.num_rows, pa.int64())])
    frame = pl.DataFrame(
        {
            "source": pl.Series(rows["archive_source"].combine_chunks(), dtype=pl.String),
            "partition": pl.Series(rows["kafka_partition"].combine_chunks(), dtype=pl.Int32),
            "first": pl.Series(rows["kafka_offset"].combine_chunks(), dtype=pl.Int64),
            "first_us": pl.Series(times.combine_chunks(), dtype=pl.Int64),
        }
    )
    frame = frame.with_columns(pl.col("first").alias("last"), pl.col("first_us").alias("last_us"))
    return _joined(frame.select(list(_RUNS)))


def _joined(runs: pl.DataFrame) -> pl.DataFrame:
    """Runs whose offsets follow each other as one, sorted by source, partition and offset."""
    runs = runs.sort([*_PARTITION, "first"])
    follows = (
        (pl.col("source") == pl.col("source").shift())
        & (pl.col("partition") == pl.col("partition").shift())
        & (pl.col("first") <= pl.col("last").shift() + 1)
    ).fill_null(False)
    return (
        runs.with_columns((~follows).cum_sum().alias("run"))
        .group_by([*_PARTITION, "run"], maintain_order=True)
        .agg(
            pl.col("first").first(),
            pl.col("last").last(),
            pl.col("first_us").drop_nulls().first(),
            pl.col("last_us").drop_nulls().last(),
        )
        .select(list(_RUNS))
    )
