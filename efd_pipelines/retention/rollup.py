"""Rollup: a tier's windows put together as those of the next tier, as far as these follow from them.

Counts add up; with values, extremes are those of the extremes and a first sample is the first of the first. What it is
for: `verification.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import conform, read_file
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.retention.comparison import different
from efd_pipelines.retention.refusal import Refused
from efd_pipelines.tiers.tier import Tier

_COLUMNS_AT_ONCE = 256


def rolled_up(
    table: TableSnapshot,
    files: Sequence[DataFile],
    above: TableSnapshot,
    others: Sequence[DataFile],
    coarser: Tier,
    *,
    values: bool,
) -> tuple[int, int]:
    """Windows and records of a coarser tier that agree with a finer one.

    Raises:
        Refused: some do not.
    """
    index = [name for name in ("salIndex",) if name in table.schema.names]
    windows = records = 0
    for names in _column_groups(table.schema, above.schema) if values else [[]]:
        schema = pa.schema([table.schema.field(name) for name in ["time", *index, "count", *names]])
        fine = pa.concat_tables([schema.empty_table(), *(read_file(table, file, schema) for file in files)])
        whole = pa.schema([above.schema.field(name) for name in schema.names])
        found = pa.concat_tables([whole.empty_table(), *(read_file(above, file, whole) for file in others)])
        expected = conform(_coarsened(fine, coarser.window_us, index, names), whole)
        what = different(expected, found, keys_only=False)
        if what:
            raise Refused("uncovered", f"{coarser.name} does not agree with the finer tier: {what}")
        windows, records = expected.num_rows, int(pc.sum(expected["count"]).as_py() or 0)
    return windows, records


def _column_groups(fine: pa.Schema, coarse: pa.Schema) -> list[list[str]]:
    """Columns that are compared together: those that follow from the finer tier's, exactly."""
    there = set(coarse.names)
    names = [
        column.name
        for column in fine
        if column.name in there
        and column.name.partition("_")[0] in ("first", "min", "max")
        and not pa.types.is_list(column.type)
    ]
    groups = [names[begin : begin + _COLUMNS_AT_ONCE] for begin in range(0, len(names), _COLUMNS_AT_ONCE)]
    return groups or [[]]


def _coarsened(fine: pa.Table, window_us: int, index: Sequence[str], names: Sequence[str]) -> pa.Table:
    """The finer tier's rows by the coarser windows: counts added up, extremes of extremes, first of first."""
    times = fine["time"].cast(pa.int64()).to_numpy()
    frame = pl.DataFrame(fine.drop_columns(["time"])).with_columns(
        pl.Series("time", times - np.mod(times, window_us)), pl.Series("at", times)
    )
    figures = [pl.col("count").sum()]
    for name in names:
        statistic = name.partition("_")[0]
        column = pl.col(name)
        figures.append(
            column.min() if statistic == "min" else column.max() if statistic == "max" else column.sort_by("at").first()
        )
    rolled = frame.group_by("time", *index).agg(figures).to_arrow()
    time = rolled["time"].cast(fine.schema.field("time").type)
    return rolled.set_column(rolled.schema.get_field_index("time"), "time", time)
