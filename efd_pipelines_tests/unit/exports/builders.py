"""Small archives, made by the archive's own commits, without Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import DataFile, sort_rows, write_data_file
from efd_pipelines.archive.ledger import RAW, relative_of, rows_of
from efd_pipelines.archive.slices import Slice as TimeSlice
from efd_pipelines.archive.slices import SliceUnit, slice_starts
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week, from_microseconds, microseconds
from efd_pipelines.topics.layout import SYSTEM_COLUMNS
from efd_pipelines.topics.names import Dataset

TEMPERATURE = "lsst.sal.ESS.temperature"
FORCES = "lsst.sal.MTM1M3.forceActuatorData"
MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
START_US = microseconds(MONDAY)
UTC_US = pa.timestamp("us", tz="UTC")
_SYSTEM = [name for name in SYSTEM_COLUMNS if name.startswith("kafka_")] + ["archive_source", "archive_schema"]


def column(name: str, kind: Any, units: str = "", **array: Any) -> Any:
    """A column as the archive describes it: `field` and `element` for one of a flattened array."""
    metadata = {"units": units, "description": f"The {name}", "field": array.get("field", name)}
    if "element" in array:
        metadata["element"] = str(array["element"])
    return pa.field(name, kind, metadata=metadata)


PRIVATE = [
    column("private_sndStamp", pa.float64(), "second"),
    column("private_seqNum", pa.int32()),
    column("private_origin", pa.int32()),
]
ESS = [
    column("salIndex", pa.int32()),
    *PRIVATE,
    *(column(f"temperatureItem{n}", pa.float32(), "deg_C", field="temperatureItem", element=n) for n in range(3)),
    column("sensorName", pa.string()),
]


def messages(
    times_us: Sequence[int] | np.ndarray[Any, Any],
    *,
    columns: Sequence[Any] = ESS,
    sal_index: int | Sequence[int] = 1,
    first_seq: int = 0,
    first_offset: int | None = None,
    partition: int = 0,
) -> pa.Table:
    """Records at the given times: values are drawn from the sequence number, so equal records are equal."""
    times = np.asarray(times_us, dtype=np.int64)
    seq = first_seq + np.arange(len(times))
    offset = seq if first_offset is None else first_offset + np.arange(len(times))
    values: dict[str, Any] = {"time": pa.array(times, UTC_US)}
    for one in columns:
        values[one.name] = _values(one, times, seq, sal_index)
    values |= {
        "kafka_partition": pa.array(np.full(len(times), partition), pa.int32()),
        "kafka_offset": pa.array(offset, pa.int64()),
        "kafka_timestamp": pa.array(times, UTC_US),
        "kafka_key": pa.nulls(len(times), pa.binary()),
        "archive_source": pa.array(["cluster/topic"] * len(times), pa.string()),
        "archive_schema": pa.array(np.full(len(times), 7), pa.int64()),
    }
    system = [pa.field(name, SYSTEM_COLUMNS[name]) for name in _SYSTEM]
    return pa.table(list(values.values()), schema=pa.schema([pa.field("time", UTC_US), *columns, *system]))


def _values(one: Any, times: Any, seq: Any, sal_index: int | Sequence[int]) -> Any:
    if one.name == "salIndex":
        return pa.array(np.broadcast_to(np.asarray(sal_index), times.shape), pa.int32())
    if one.name == "private_sndStamp":
        return pa.array(times / 1e6 + 37)
    if one.name == "private_seqNum":
        return pa.array(seq, pa.int32())
    if one.name == "private_origin":
        return pa.array(np.full(len(seq), 4242), pa.int32())
    if pa.types.is_string(one.type):
        return pa.array([f"sensor {n}" for n in seq], pa.string())
    if pa.types.is_list(one.type):
        return pa.array([[float(n)] * 3 for n in seq], one.type)
    return pa.array(seq * 0.5 + len(one.name)).cast(one.type, safe=False)


@dataclass
class ArchiveBuilder:
    """Commits rows to an archive in a directory or on S3, as drains do."""

    root: str
    overrides: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.archive = Archive(load_settings({}, None, archive=self.root, **self.overrides))
        self._commits = 0

    def add(
        self,
        name: str,
        rows: pa.Table,
        *,
        unit: SliceUnit = SliceUnit.DAY,
        place: str | None = None,
        table: str = RAW,
        gaps: Sequence[dict[str, Any]] = (),
    ) -> list[DataFile]:
        """One commit of `rows`, by slice; or all of them to `place` (quarantine, dead)."""
        dataset = Dataset.parse(name)
        relative = relative_of(table, dataset)
        files = [
            write_data_file(self.archive.store, relative, week, key, sort_rows(part))
            for week, key, part in _sliced(rows, unit, place)
        ]
        self._commits += 1
        snapshot = open_table(self.archive.store, relative)
        made = commit(
            self.archive.store,
            relative,
            snapshot,
            add=files,
            transactions={f"test:{self._commits}": (None, 1)},
            schema=rows.schema,
            description={},
            note={
                "kind": "drain",
                "gaps": list(gaps),
                "records": rows.num_rows,
                "avro_bytes": {f"{file.week}|{file.slice}": 100 * file.rows for file in files},
            },
        )
        self.archive.ledger.append(rows_of(table, dataset, made))
        return files


def _sliced(rows: pa.Table, unit: SliceUnit, place: str | None) -> list[tuple[str, str, pa.Table]]:
    if place is not None:
        return [(place, place, rows)]
    starts = slice_starts(rows["time"].cast(pa.int64()).to_numpy(), unit)
    return [
        (Week.containing(int(start)).key, TimeSlice(int(start), unit).key, rows.filter(pa.array(starts == start)))
        for start in np.unique(starts)
    ]


def at(seconds: float) -> datetime:
    """So many seconds after the Monday that all tests begin at."""
    return from_microseconds(START_US + round(seconds * 1e6))


def seconds(first: float, end: float, step: float = 1.0) -> np.ndarray[Any, Any]:
    """Times in microseconds, every `step` seconds after the Monday."""
    return START_US + np.round(np.arange(first, end, step) * 1e6).astype(np.int64)
