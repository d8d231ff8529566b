"""Views: the rows of a table of the archive as DuckDB sees them.

A table is given to DuckDB as a dataset of Arrow over the files that count now, each with the times that Delta's log
says it has. So only the files, row groups and columns that a statement needs are read, by our own store's client,
directory and S3 alike; all files have the table's types, the narrow ones of sealed weeks too; and DuckDB itself needs
no access to files. Quarantine and the dead are left out.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from efd_pipelines.archive.reading import good_files
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.topics.layout import TIME

_OF_THE_DEAD = ("archive_frame", "archive_reason")


def rows_of(snapshot: TableSnapshot) -> Any:
    """All rows of the weeks of a table, as a dataset of Arrow."""
    schema = pa.schema([column for column in snapshot.schema if column.name not in _OF_THE_DEAD]).remove_metadata()
    schema = pa.schema([pa.field(column.name, column.type) for column in schema])
    store, form = snapshot.store, pads.ParquetFileFormat()
    fragments = [
        form.make_fragment(
            store.path(f"{snapshot.relative}/{file.path}"),
            store.arrow_fs,
            partition_expression=_within(file.time_min_us, file.time_max_us),
        )
        for file in good_files(snapshot)
    ]
    return pads.FileSystemDataset(fragments, schema, form, store.arrow_fs)


def _within(low_us: int | None, high_us: int | None) -> Any:
    if low_us is None or high_us is None:
        return pads.scalar(True)
    return (pads.field("time") >= pa.scalar(low_us, TIME)) & (pads.field("time") <= pa.scalar(high_us, TIME))
