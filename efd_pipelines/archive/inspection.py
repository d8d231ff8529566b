"""Inspection: the files of a week that is being sealed, read once more, a row group at a time.

Nothing is certified that was not read: the bytes are hashed, rows must belong to their slice and stand once, and what
the certificate says of sources, schemas, repeated records and the writers' numbers is counted here.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from efd_pipelines.archive.certificates import CertifiedFile, Origin
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import IDENTITY, count_once
from efd_pipelines.archive.runs import fetched, keys_of
from efd_pipelines.archive.sequences import COLUMNS as NUMBERED
from efd_pipelines.archive.sequences import Sequences
from efd_pipelines.archive.slices import Slice
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.errors import ArchiveError

_COORDINATES = ("archive_source", "kafka_partition", "kafka_offset")


class NotSealable(ArchiveError):
    """A week in which something is not as it should be."""

    remedy = "`efd archive verify --deep` says what else is wrong. Once it is mended, the next round seals the week."


@dataclass(slots=True)
class Inspection:
    """Reads files of a week in the order of their slices, a row group at a time, and counts what is in them."""

    snapshot: TableSnapshot
    numbered: bool
    sequences: Sequences = field(default_factory=Sequences)
    schemas: set[int] = field(default_factory=set)
    repeated: int = 0
    _origins: dict[tuple[str, int | None], tuple[int, int | None, int | None]] = field(default_factory=dict)

    def origins(self) -> tuple[Origin, ...]:
        """The sources' partitions, sorted."""
        return tuple(
            Origin(source, partition, *counted, self._position(source, partition))
            for (source, partition), counted in sorted(self._origins.items(), key=lambda item: str(item[0]))
        )

    def _position(self, source: str, partition: int | None) -> int | None:
        return self.snapshot.transaction_version(f"kafka:{source}:{partition}")

    def inspect(self, file: DataFile) -> CertifiedFile:
        """Audits one file and counts its rows.

        Raises:
            NotSealable: its rows are not those of its slice, or one stands twice.
            DamagedFile: it is not what was written.
            StoreUnavailable: the store did not answer.
        """
        with tempfile.TemporaryDirectory(prefix="efd-seal-") as scratch:
            path = fetched(self.snapshot, file, Path(scratch))
            with self.snapshot.store.errors(f"read {file.path}"):
                with path.open("rb") as data:
                    digest = hashlib.file_digest(data, "sha256").hexdigest()
                rows = self._count_rows(file, path)
        if rows != file.rows:
            raise NotSealable(f"{file.path} has {rows} rows, the log says {file.rows}")
        return CertifiedFile(
            file.path, file.slice, file.rows, file.size_bytes, file.time_min_us, file.time_max_us, digest
        )

    def _count_rows(self, file: DataFile, path: Path) -> int:
        rows = 0
        tail: pa.Table | None = None
        for part in _parts(path):
            rows += part.num_rows
            self._check_times(file, part)
            both = part if tail is None else pa.concat_tables([tail, part])
            _check_coordinates(file, both)
            self.repeated += _repeated(both) - (0 if tail is None else _repeated(tail))
            tail = _last_key(both)
            self._count_origins(part)
            if self.numbered:
                self.sequences.add(part)
        return rows

    def _check_times(self, file: DataFile, part: pa.Table) -> None:
        of = Slice.parse(file.slice)
        times = pc.min_max(part["time"].cast(pa.int64())).as_py()
        if part["time"].null_count or times["min"] < of.start_us or times["max"] >= of.end_us:
            raise NotSealable(f"{file.path} has rows that do not belong to slice {file.slice}")
        if of.week.key != file.week:
            raise NotSealable(f"{file.path} does not belong to week {file.week}")

    def _count_origins(self, part: pa.Table) -> None:
        self.schemas |= set(pc.unique(part["archive_schema"]).to_pylist()) - {None}
        grouped = part.group_by(["archive_source", "kafka_partition"]).aggregate(
            [([], "count_all"), ("kafka_offset", "min"), ("kafka_offset", "max")]
        )
        for row in grouped.to_pylist():
            key = row["archive_source"], row["kafka_partition"]
            count, first, last = self._origins.get(key, (0, None, None))
            offsets = [n for n in (first, last, row["kafka_offset_min"], row["kafka_offset_max"]) if n is not None]
            self._origins[key] = (
                count + row["count_all"],
                min(offsets, default=None),
                max(offsets, default=None),
            )


def _parts(path: Path) -> Iterator[pa.Table]:
    """What an inspection looks at, row group by row group."""
    with pq.ParquetFile(path) as parquet:
        wanted = ("time", *IDENTITY, *NUMBERED, *_COORDINATES, "archive_schema")
        names = [name for name in dict.fromkeys(wanted) if name in parquet.schema_arrow.names]
        for n in range(parquet.num_row_groups):
            if parquet.metadata.row_group(n).num_rows:
                yield parquet.read_row_group(n, names)


def _last_key(part: pa.Table) -> pa.Table:
    """The rows at the end that have one salIndex and time: what the next row group may go on with."""
    groups, times = keys_of(part)
    same = (groups == groups[-1]) & (times == times[-1])
    return part.slice(len(same) - int(np.argmin(same[::-1])) if not same.all() else 0)


def _repeated(rows: pa.Table) -> int:
    """Rows whose record stands more than once, save the first."""
    return int(rows.num_rows - count_once(rows).num_rows)


def _check_coordinates(file: DataFile, rows: pa.Table) -> None:
    """No record of a source's partition twice: sorted rows have the same one next to each other."""
    known = rows.filter(pc.is_valid(rows["kafka_offset"])).select(list(_COORDINATES))
    if known.num_rows < 2:
        return
    one, other = known.slice(1), known.slice(0, known.num_rows - 1)
    same = pa.chunked_array([pa.array(np.ones(one.num_rows, dtype=bool))])
    for name in _COORDINATES:
        same = pc.and_kleene(same, pc.equal(one[name], other[name]))
    if pc.any(same).as_py():
        raise NotSealable(f"{file.path} has a record twice")
