"""Values audited: whether rows say what Kafka's records say, as long as Kafka has them.

A file whose rows were changed, sorted, hashed, named and committed as a merge would do it is flawless in itself. Only
the records tell: they are decoded once more, and each is compared with its row, column by column. What Kafka no longer
has cannot be proved so; of a sealed week the certificate's SHA-256 says that nothing has changed since.
Offsets are counted by `recount.py`, which also reads the records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from efd_pipelines.archive.encoding import Encoded, Origin, encode, held_columns
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.findings import RESTORE, Audit, counted, some
from efd_pipelines.archive.positions import decided_arrays, decided_time_field
from efd_pipelines.archive.reading import conform
from efd_pipelines.archive.slices import DEAD, SliceUnit
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.errors import StoreUnavailable
from efd_pipelines.kafka.frames import FrameBatch
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.archive import Archive

_COORDINATES = ("archive_source", "kafka_partition", "kafka_offset")
_REMEDY = RESTORE.replace("Restore the file", "Somebody changed it: restore the file") + " Kafka still has the records."

Sources = Mapping[int, tuple[str, ...]]
"""The sources under which records of a partition may be kept: its generations."""


class ValueAudit:
    """Compares records of one dataset with its rows; of one week, where given."""

    def __init__(
        self,
        audit: Audit,
        archive: Archive,
        dataset: Dataset,
        snapshot: TableSnapshot,
        registries: Registries,
        week: str | None,
    ) -> None:
        configuration = archive.settings.configuration
        self._audit = audit
        self._dataset = dataset
        self._snapshot = snapshot
        self._registries = registries
        self._week = week
        self._held = held_columns(snapshot.schema)
        self._time_field = decided_time_field(snapshot, configuration.time_field(dataset))
        self._format = configuration.value_format(dataset)
        self._differing: dict[tuple[str, str], _Differing] = {}

    def compare(self, frames: FrameBatch, sources: Sources) -> NDArray[np.bool_]:
        """Compares the records' rows; which of the records belong to the weeks that are audited.

        Raises:
            RegistryUnavailable: it did not answer.
            StoreUnavailable: the store did not answer.
        """
        encoded = self._encoded(frames, sources)
        mine = np.zeros(len(frames), dtype=np.bool_)
        for (week, key), rows in encoded.parts.items():
            if self._week not in (None, week):
                continue
            partitions, offsets = rows["kafka_partition"].to_numpy(), rows["kafka_offset"].to_numpy()
            for partition in np.unique(partitions).tolist():
                mine |= (frames.partitions == partition) & np.isin(frames.offsets, offsets[partitions == partition])
            if week != DEAD:
                self._compare(week, key, rows, sources)
        return mine

    def _encoded(self, frames: FrameBatch, sources: Sources) -> Encoded:
        newest = {partition: of[-1] for partition, of in sources.items()}
        return encode(
            frames,
            Origin(newest, self._time_field, self._format),
            lambda schema_id: self._registries.schema(self._dataset.cluster, schema_id),
            SliceUnit(self._snapshot.description["slice"]),
            arrays=decided_arrays(self._snapshot, self._held),
            held=self._held,
        )

    def _compare(self, week: str, key: str, rows: pa.Table, sources: Sources) -> None:
        import polars as pl

        names = [name for name in rows.column_names if name in self._snapshot.schema.names and name not in _COORDINATES]
        expected = pl.DataFrame(rows)
        place = pl.DataFrame(rows.select(list(_COORDINATES[1:]))).with_row_index("_expected")
        wanted = {source for of in sources.values() for source in of}
        for file in self._snapshot.files({week}):
            if file.slice == key:
                for there in self._rows(file, rows, names, wanted):
                    pairs = place.join(there.select(_COORDINATES[1:]).with_row_index("_there"), on=_COORDINATES[1:])
                    self._count(file, expected[pairs["_expected"]], there[pairs["_there"]], names)

    def _rows(self, file: DataFile, rows: pa.Table, names: list[str], wanted: set[str]) -> Iterator[pl.DataFrame]:
        """The file's rows of the offsets that were read, a row group at a time; others are not decoded."""
        import polars as pl

        relative, store = f"{self._snapshot.relative}/{file.path}", self._snapshot.store
        schema = pa.schema([self._snapshot.schema.field(name) for name in (*_COORDINATES, *names)])
        offsets = pc.unique(rows["kafka_offset"])
        try:
            with (
                store.errors(f"read {relative}"),
                pq.ParquetFile(store.path(relative), filesystem=store.arrow_fs) as parquet,
            ):
                there = set(parquet.schema_arrow.names)
                for n in range(parquet.num_row_groups):
                    keys = parquet.read_row_group(n, list(_COORDINATES))
                    is_mine = pc.is_in(keys["archive_source"], value_set=pa.array(sorted(wanted)))
                    is_mine = pc.and_(is_mine, pc.is_in(keys["kafka_offset"], value_set=offsets))
                    if not pc.any(is_mine).as_py():
                        continue
                    part = parquet.read_row_group(n, [name for name in schema.names if name in there])
                    yield pl.DataFrame(conform(part.filter(is_mine), schema))
        except (StoreUnavailable, pa.ArrowException, KeyError):
            return  # reading every file has found it

    def _count(self, file: DataFile, expected: pl.DataFrame, there: pl.DataFrame, names: list[str]) -> None:
        for name in names:
            other = expected[name].cast(there[name].dtype)
            differs = ~there[name].eq_missing(other)
            if differs.any():
                of = self._differing.setdefault((file.week, file.path), _Differing())
                of.add(name, there.filter(differs))

    def tell(self) -> None:
        """Adds what differed, by file."""
        for (week, path), of in sorted(self._differing.items()):
            source, partition, offset = min(of.rows)
            detail = (
                f"{path}: {counted(len(of.rows), 'row differs', 'rows differ')} from Kafka's records in "
                f"{some(sorted(of.columns))}: the first at offset {offset} of {source}, partition {partition}"
            )
            self._audit.found(self._dataset.text, week, "value", detail, _REMEDY)

    def elsewhere(self) -> set[tuple[str, int, int]]:
        """Source, partition and offset of all rows of other weeks: what was quarantined may have come home."""
        found: set[tuple[str, int, int]] = set()
        for file in self._snapshot.files():
            if file.week == self._week:
                continue
            relative, store = f"{self._snapshot.relative}/{file.path}", self._snapshot.store
            with store.errors(f"read {relative}"):
                keys = pq.read_table(store.path(relative), columns=list(_COORDINATES), filesystem=store.arrow_fs,
                                     partitioning=None)  # fmt: skip
            found |= set(zip(*(keys[name].to_pylist() for name in _COORDINATES), strict=True))
        return found


class _Differing:
    """Rows of a file that are not their records'."""

    def __init__(self) -> None:
        self.columns: set[str] = set()
        self.rows: set[tuple[Any, ...]] = set()

    def add(self, column: str, rows: pl.DataFrame) -> None:
        self.columns.add(column)
        self.rows |= set(rows.select(_COORDINATES).iter_rows())
