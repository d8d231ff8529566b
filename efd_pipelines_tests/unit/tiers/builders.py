"""What tests of tiers are made of: rows of the archive without Kafka, and references computed by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.files import sort_rows, write_data_file
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.slices import Slice, SliceUnit, slice_starts
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.configuration import load_configuration
from efd_pipelines.settings import load_settings
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME, Column, arrow_field
from efd_pipelines.topics.names import Dataset

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
MONDAY_US = 1_700_438_400 * SECOND_US
"""2023-11-20 00:00 UTC, a Monday."""

FAST = Dataset("lsst.sal.MTM1M3.hardpointActuatorData")
SLOW = Dataset("lsst.sal.ESS.temperature")
EVENT = Dataset("lsst.sal.MTM1M3.logevent_heartbeat")


def an_archive(root: str, **settings: Any) -> Archive:
    """An archive in a directory or bucket, with the shipped configuration."""
    configuration = load_configuration(None)
    return Archive(load_settings({}, None, archive=root, configuration=configuration, **settings))


def message(name: str, kind: pa.DataType, *, field: str | None = None, element: int | None = None) -> pa.Field[Any]:
    """A column as the archive describes it."""
    return arrow_field(Column(name, field or name, element, kind, "newton", f"The {name}."))


def rows(
    time_us: Sequence[int] | np.ndarray[Any, Any],
    columns: Mapping[str, Any],
    *,
    sal_index: Sequence[int] | None = None,
    first_offset: int = 0,
) -> pa.Table:
    """Rows of the archive with these times and message columns; each a record of its own."""
    times = np.asarray(time_us, np.int64)
    count = len(times)
    fields: list[pa.Field[Any]] = [pa.field("time", TIME)]
    arrays: list[Any] = [pa.array(times).cast(TIME)]
    private: dict[str, Any] = {
        "private_sndStamp": pa.array(times / 1e6 + 37.0),
        "private_seqNum": pa.array(np.arange(first_offset, first_offset + count, dtype=np.int32)),
        "private_origin": pa.array(np.full(count, 4711, np.int32)),
    }
    if sal_index is not None:
        private["salIndex"] = pa.array(sal_index, pa.int32())
    for name, values in {**private, **columns}.items():
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
        fields.append(message(name, array.type))
        arrays.append(array)
    system: dict[str, Any] = {
        "kafka_partition": np.zeros(count, np.int32),
        "kafka_offset": np.arange(first_offset, first_offset + count),
        "kafka_timestamp": pa.array(times).cast(TIME),
        "kafka_key": [b""] * count,
        "archive_source": ["cluster/topic"] * count,
        "archive_schema": np.zeros(count, np.int64),
    }
    for name, values in system.items():
        fields.append(pa.field(name, SYSTEM_COLUMNS[name]))
        arrays.append(values if isinstance(values, pa.Array) else pa.array(values, SYSTEM_COLUMNS[name]))
    return pa.table(arrays, schema=pa.schema(fields))


def archive_rows(
    archive: Archive,
    dataset: Dataset,
    table: pa.Table,
    *,
    unit: SliceUnit = SliceUnit.HOUR,
    week: str | None = None,
    note: bool = True,
    kind: str = "drain",
) -> Commit:
    """Commits rows as a drain does, a file for each slice; `note=False`: killed before the ledger heard of it.

    `week`: quarantine or dead, where the rows are not to be in the week of their time.
    """
    relative = archive.relative(dataset)
    snapshot = open_table(archive.store, relative)
    starts = slice_starts(table["time"].cast(pa.int64()).to_numpy(), unit)
    files = []
    for start in np.unique(starts):
        part = Slice(int(start), unit)
        of_slice = sort_rows(table.filter(pa.array(starts == start)))
        key = week or part.key
        files.append(write_data_file(archive.store, relative, week or part.week.key, key, of_slice))
    position = int(pc.max(table["kafka_offset"]).as_py()) + 1
    app_id = "kafka:cluster/topic:0"
    reached = None if snapshot is None else snapshot.transaction_version(app_id)
    made = commit(
        archive.store,
        relative,
        snapshot,
        add=files,
        transactions={app_id: (reached, max(position, reached or 0))},
        schema=table.schema,
        description={"slice": unit.value, "arrays": "flat"},
        note={"kind": kind, "run": "test"},
    )
    if note:
        archive.ledger.append(rows_of(RAW, dataset, made))
    return made
