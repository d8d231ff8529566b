"""Line protocol: files that `influx_inspect export` wrote, plain or gzip, read without InfluxDB.

An export goes field by field through all times of a shard, and a point is whole only when all of it has been read. So
the lines are read once, block by block, into Parquet in a temporary directory, by measurement and sorted by time, and
from there points are put together piece by piece; neither a file nor a week is held in memory. What belongs here is
that; the grammar of a line is `protocol.py`'s.
"""

from __future__ import annotations

import gzip
import re
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import polars as pl
import pyarrow as pa

from efd_pipelines.errors import DataError, NameRejected, UsageError
from efd_pipelines.history.intervals import Interval
from efd_pipelines.history.protocol import KINDS, VALUES, end_of_records, read_block
from efd_pipelines.history.sources import Piece
from efd_pipelines.topics.layout import TIME
from efd_pipelines.topics.names import Dataset

_BLOCK_BYTES = 16 * 1024 * 1024
_SPILL_ROWS = 4_000_000
_ROWS_OF_A_GROUP = 131_072
_FIRST_PIECE_US = 600_000_000
_SHORTEST_US = 100_000
_GROWTH = 8
_VALUES_OF_A_PIECE = 4_000_000
_GZIP = b"\x1f\x8b"


class BadLines(DataError):
    """A file of line protocol that cannot be read."""

    remedy = "Export it again with influx_inspect; nothing of it has been filled in."


class LineHistory:
    """The files of a directory, or one file.

    Args:
        component, limits: what of them will be asked for; all of it by default.

    Raises:
        UsageError: there is no such file, or the directory is empty.
    """

    def __init__(self, path: str | Path, *, component: str | None = None, limits: Interval | None = None) -> None:
        self._path = Path(path)
        self._component = component
        self._limits = limits
        self._files = _files(self._path)
        self._lock = threading.Lock()
        self._spill: _Spill | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._spill is not None:
            self._spill.close()

    @property
    def name(self) -> str:
        return f"file:{self._path.name}"

    def datasets(self) -> frozenset[Dataset]:
        """The measurements that have a dataset's name.

        Raises:
            BadLines: a file is cut off, or has lines that are none.
        """
        return frozenset(self._read().datasets)

    def about(self, dataset: Dataset, intervals: Sequence[Interval]) -> int:
        return sum(self._read().count(dataset, interval) for interval in intervals)

    def count(self, dataset: Dataset, interval: Interval) -> int:
        """How many points there are."""
        return self._read().count_points(dataset, interval)

    def pieces(self, dataset: Dataset, interval: Interval) -> Iterator[Piece]:
        spill = self._read()
        there = spill.extent(dataset, interval)
        if there is None:
            yield Piece(interval, pa.table({"time": pa.array([], TIME)}))
            return
        start_us, length_us = interval.start_us, max(_FIRST_PIECE_US, there.start_us - interval.start_us)
        while start_us < interval.end_us:
            end_us = interval.end_us if start_us >= there.end_us else min(start_us + length_us, interval.end_us)
            piece = Piece(Interval(start_us, end_us), spill.points(dataset, Interval(start_us, end_us)))
            yield piece
            start_us = end_us
            length_us = max(_SHORTEST_US, int(length_us * min(_GROWTH, _VALUES_OF_A_PIECE / max(1, piece.values))))

    def _read(self) -> _Spill:
        """All lines, read at the first call."""
        with self._lock:
            if self._spill is None:
                spill = _Spill(self._component, self._limits)
                try:
                    for file in self._files:
                        spill.take(file)
                    spill.flush()
                except BaseException:
                    spill.close()
                    raise
                self._spill = spill
            return self._spill


class _Spill:
    """Values by measurement in a temporary directory."""

    def __init__(self, component: str | None, limits: Interval | None) -> None:
        self._component = component
        self._limits = limits
        self._directory = tempfile.TemporaryDirectory(prefix="efd-lines-")
        self._waiting: list[pl.DataFrame] = []
        self._rows = 0
        self._known: dict[str, Dataset | None] = {}
        self.datasets: dict[Dataset, list[Path]] = {}

    def close(self) -> None:
        self._directory.cleanup()

    def take(self, file: Path) -> None:
        for block in _blocks(file):
            values = self._wanted(read_block(block, str(file)))
            if len(values):
                self._waiting.append(values)
                self._rows += len(values)
            if self._rows > _SPILL_ROWS:
                self.flush()

    def _wanted(self, values: pl.DataFrame) -> pl.DataFrame:
        names = [name for name in values["measurement"].unique().to_list() if self._dataset(name) is not None]
        values = values.filter(pl.col("measurement").is_in(names))
        if self._limits is not None:
            within = pl.col("time").is_between(self._limits.start_us, self._limits.end_us, closed="left")
            values = values.filter(within)
        return values

    def _dataset(self, measurement: str) -> Dataset | None:
        """The dataset of a measurement, None where it is not wanted or is none."""
        if measurement not in self._known:
            try:
                dataset: Dataset | None = Dataset(measurement)
            except NameRejected:
                dataset = None
            if dataset is not None and self._component not in (None, dataset.component):
                dataset = None
            self._known[measurement] = dataset
        return self._known[measurement]

    def flush(self) -> None:
        """Writes what waits, a file for each measurement."""
        if not self._waiting:
            return
        values = pl.concat(self._waiting).sort("measurement", "time", maintain_order=True)
        self._waiting, self._rows = [], 0
        for (measurement,), part in values.group_by("measurement", maintain_order=True):
            dataset = self._dataset(str(measurement))
            assert dataset is not None
            files = self.datasets.setdefault(dataset, [])
            number = sum(map(len, self.datasets.values()))
            path = Path(self._directory.name) / f"{number}.parquet"
            part.drop("measurement").write_parquet(path, compression="zstd", row_group_size=_ROWS_OF_A_GROUP)
            files.append(path)

    def count(self, dataset: Dataset, interval: Interval) -> int:
        """How many values there are within the interval."""
        if dataset not in self.datasets:
            return 0
        return int(self._within(dataset, interval).select(pl.len()).collect().item())

    def count_points(self, dataset: Dataset, interval: Interval) -> int:
        """How many times and tags these are of."""
        if dataset not in self.datasets:
            return 0
        points = self._within(dataset, interval).select("time", "tags").unique()
        return int(points.select(pl.len()).collect().item())

    def extent(self, dataset: Dataset, interval: Interval) -> Interval | None:
        """From the first to after the last value within the interval, None where there is none."""
        if dataset not in self.datasets:
            return None
        found = self._within(dataset, interval).select(
            pl.col("time").min().alias("low"), pl.col("time").max().alias("high")
        )
        low, high = found.collect().row(0)
        return None if low is None else Interval(low, high + 1)

    def points(self, dataset: Dataset, interval: Interval) -> pa.Table:
        """Points of an interval, a column for each tag and field."""
        values = self._within(dataset, interval).collect()
        points = _wide(values)
        times = pa.array(points["time"].to_arrow(), pa.int64()).cast(TIME)
        rest = points.drop("time").to_arrow()
        return pa.table({"time": times, **{name: _plain(rest[name]) for name in rest.column_names}})

    def _within(self, dataset: Dataset, interval: Interval) -> pl.LazyFrame:
        within = pl.col("time").is_between(interval.start_us, interval.end_us, closed="left")
        return self._scan(dataset).filter(within)

    def _scan(self, dataset: Dataset) -> pl.LazyFrame:
        return pl.scan_parquet(self.datasets[dataset])


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts as the archive has them: Polars gives large strings."""
    return column.cast(pa.string()) if pa.types.is_large_string(column.type) else column


def _wide(values: pl.DataFrame) -> pl.DataFrame:
    """A row for each point: time and tags; of a value that stands twice, the later."""
    keys = values.select("time", "tags").unique().sort("time", "tags")
    found = keys
    for kind in KINDS:
        of_kind = values.filter(pl.col(VALUES[kind]).is_not_null())
        if len(of_kind):
            wide = of_kind.pivot(on="field", index=["time", "tags"], values=VALUES[kind], aggregate_function="last")
            found = _merged(found, wide)
    return _with_tags(found)


def _merged(found: pl.DataFrame, wide: pl.DataFrame) -> pl.DataFrame:
    """Both; a field that had two types within the piece is a float where one of them was."""
    both = found.join(wide, on=["time", "tags"], how="left", suffix=" of another type")
    for name in [name for name in wide.columns if name in found.columns and name not in ("time", "tags")]:
        other = f"{name} of another type"
        is_number = both.schema[name].is_numeric() and both.schema[other].is_numeric()
        value = pl.coalesce(name, pl.col(other).cast(both.schema[name])) if is_number else pl.col(name)
        both = both.with_columns(value.alias(name)).drop(other)
    return both


def _with_tags(points: pl.DataFrame) -> pl.DataFrame:
    """Tags as columns of their own."""
    texts = points["tags"].unique().to_list()
    names = sorted({name for text in texts for name, _ in _tags(text)})
    columns = [
        pl.Series(name, [dict(_tags(text)).get(name) for text in points["tags"].to_list()], pl.String) for name in names
    ]
    return points.drop("tags").with_columns(columns)


def _tags(text: str) -> list[tuple[str, str]]:
    """Names and values of `,name=value,…`, with `\\` before what would end them."""
    parts = [part for part in re.split(r"(?<!\\),", text) if part]
    pairs = (re.split(r"(?<!\\)=", part, maxsplit=1) for part in parts)
    return [(re.sub(r"\\([,= ])", r"\1", name), re.sub(r"\\([,= ])", r"\1", value)) for name, value in pairs]


def _files(path: Path) -> Sequence[Path]:
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    if not found:
        raise UsageError(f"{path} has no file of line protocol", remedy="Name a file, or a directory of files.")
    return found


def _blocks(file: Path) -> Iterable[str]:
    """Whole records: a text in quotes may have several lines."""
    rest = ""
    with _opened(file) as stream:
        while True:
            try:
                data = stream.read(_BLOCK_BYTES)
            except (OSError, EOFError, zlib.error) as error:
                raise BadLines(f"{file} cannot be read to its end ({error})") from error
            if not data:
                break
            text = rest + data
            end = end_of_records(text)
            rest = text[end:]
            if end:
                yield text[:end]
    if rest.strip():
        yield rest


def _opened(file: Path) -> IO[Any]:
    try:
        with file.open("rb") as stream:
            is_gzip = stream.read(2) == _GZIP
        opener: Any = gzip.open if is_gzip else open
        opened: IO[Any] = opener(file, "rt", encoding="utf-8", errors="backslashreplace", newline="\n")
    except OSError as error:
        raise BadLines(f"{file} cannot be read ({error.strerror})") from error
    return opened
