"""Whether a sealed and cleaned week reads the same by readers that know nothing of Delta: pandas, DuckDB and Dask.

What is compared is the directory as it lies, with what `Archive.read` gives; that, with what was sent: `lossless.py`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.testing import assert_frame_equal

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.sealing import seal
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

_PLACE = ["archive_source", "kafka_partition", "kafka_offset"]


def assert_reads_plainly_when_sealed(archive: Archive, dataset: str, week: Week) -> None:
    """Seals the week, a day after its end, which changes nothing, cleans it, and reads it as it lies."""
    before = archive.read(Dataset.parse(dataset))
    sealed = seal(
        archive,
        archive.settings,
        week=week,
        datasets=[Dataset.parse(dataset)],
        now=week.next().start + timedelta(hours=archive.settings.configuration.sealing.after_h + 1),
    )
    assert (sealed.problems, sealed.merged.problems, sealed.sealed) == ([], [], 1)
    assert_frame_equal(*(pl.DataFrame(of).sort(_PLACE) for of in (archive.read(Dataset.parse(dataset)), before)))
    assert_reads_plainly(archive, dataset, week)


def assert_reads_plainly(archive: Archive, dataset: str, week: Week) -> Path:
    """Cleans a sealed week and reads its directory, which it gives."""
    directory = leave_what_counts(archive, dataset, week)
    assert len({str(pq.read_schema(path).remove_metadata()) for path in directory.glob("*.parquet")}) == 1
    table = archive.read(Dataset.parse(dataset), weeks=[week])
    # Columns of other weeks' records are none of this one's.
    ours = pl.DataFrame(table).sort(_PLACE)
    with duckdb.connect() as connection:
        query = f"SELECT * FROM read_parquet('{directory}/*.parquet', hive_partitioning = false)"
        found = pl.DataFrame(connection.sql(query).to_arrow_table()).sort(_PLACE)
    absent = [name for name in ours.columns if name not in found.columns]
    assert all(ours[name].null_count() == len(ours) for name in absent)
    ours = ours.drop(absent)
    types: Any = dict(ours.schema)
    assert_frame_equal(found.select(ours.columns).cast(types), ours)
    expected = _plain(ours.to_arrow())
    assert _plain(pd.read_parquet(directory)) == expected
    assert _plain(_of_dask(directory)) == expected
    return directory


def _of_dask(directory: Path) -> pd.DataFrame:
    import dask.dataframe as dd

    frame: pd.DataFrame = dd.read_parquet(str(directory / "*.parquet")).compute(scheduler="synchronous")
    return frame


def _plain(rows: pa.Table | pd.DataFrame) -> dict[str, list[Any]]:
    """Columns as Python's values, sorted by place; pandas does not tell NaN from null, nor 1 from 1.0 beside one."""
    frame = rows.to_pandas() if isinstance(rows, pa.Table) else rows
    ordered = frame.drop(columns="week", errors="ignore").sort_values(_PLACE)
    return {name: [_value(value) for value in ordered[name].tolist()] for name in sorted(ordered.columns)}


def _value(value: Any) -> Any:
    if isinstance(value, list | np.ndarray):
        return [_value(item) for item in value]
    return None if pd.isna(value) else value


def leave_what_counts(archive: Archive, dataset: str, week: Week) -> Path:
    """The week's directory as cleaning leaves it a week after the files were replaced."""
    snapshot = archive.snapshot(Dataset.parse(dataset))
    counting = {Path(file.uri) for file in snapshot.files({week.key})}
    directory = Path(archive.store.uri(f"{snapshot.relative}/week={week.key}"))
    for path in set(directory.glob("*.parquet")) - counting:
        path.unlink()
    return directory
