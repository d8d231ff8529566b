"""Dask frames: a selection in parts that others read.

Where the parts end comes from the times that the table's log has of the files, so the divisions are known without
reading a row. A part carries what it needs to be read anywhere, the names of its files among that: it can be computed
again, by another worker, with the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from efd_pipelines.client.frames import to_pandas
from efd_pipelines.client.portions import Portion, TablePortion
from efd_pipelines.reading.estimate import estimate, share
from efd_pipelines.reading.scan import Scan, Tally, apart

if TYPE_CHECKING:
    import dask.dataframe

    from efd_pipelines.client.selection import Selection

_TEXT_BYTES = 24


@dataclass(frozen=True, slots=True)
class FramePart:
    """A stretch of a selection."""

    portion: Portion = field(repr=False)
    schema: pa.Schema = field(repr=False)
    start_us: int
    end_us: int

    def read(self) -> pd.DataFrame:
        rows = list(self.portion.between(self.start_us, self.end_us).batches(Tally()))
        return to_pandas(pa.concat_tables([self.schema.empty_table(), *rows]))


def to_dask(selection: Selection, part_bytes: int) -> dask.dataframe.DataFrame:
    """A Dask frame with known divisions; nothing is read but logs."""
    import dask.dataframe as dd

    parts = [
        FramePart(portion, selection.schema, start, end)
        for portion in selection.portions
        for start, end in _stretches(portion, part_bytes)
    ]
    if not parts:
        window = selection.question.window
        parts = [FramePart(selection.portions[0], selection.schema, window.start_us, window.end_us)]
    divisions = (*(_moment(part.start_us) for part in parts), _moment(parts[-1].end_us - 1))
    meta = to_pandas(selection.schema.empty_table())
    frame: dask.dataframe.DataFrame = dd.from_map(  # type: ignore[no-untyped-call]
        FramePart.read, parts, meta=meta, divisions=divisions, label="efd", enforce_metadata=False
    )
    return frame


def _moment(time_us: int) -> Any:
    return pd.Timestamp(time_us, unit="us", tz="UTC").as_unit("ns")


def _stretches(portion: Portion, part_bytes: int) -> list[tuple[int, int]]:
    """Stretches of about as many bytes, apart from each other and in order."""
    if not isinstance(portion, TablePortion):
        source = portion.source
        start, end = (round(when.timestamp() * 1e6) for when in (source.start, source.end))
        count = max(1, -(-portion.estimate().bytes // part_bytes))
        return _cut(start, end, count)
    scan = portion.scan
    row_bytes = _row_bytes(scan)
    found: list[tuple[int, int]] = []
    held = 0.0
    for files in apart(scan.files):
        low = max(scan.start_us, min(file.time_min_us or 0 for file in files))
        end = min(scan.end_us, max(file.time_max_us or 0 for file in files) + 1)
        size = sum(file.rows * share(file, scan.start_us, scan.end_us) for file in files) * row_bytes
        if found and held + size <= part_bytes:
            found[-1] = (found[-1][0], end)
            held += size
            continue
        found += _cut(low, end, max(1, round(size / part_bytes)))
        held = size / max(1, round(size / part_bytes))
    return _joined(found)


def _row_bytes(scan: Scan) -> float:
    """What a row takes in memory; only of lists a footer must say it."""
    if any(pa.types.is_nested(kind) for kind in scan.schema.types):
        expected = estimate(scan)
        return expected.bytes / max(1, expected.rows)
    bits = [kind.bit_width if pa.types.is_primitive(kind) else 8 * _TEXT_BYTES for kind in scan.schema.types]
    return sum(bits) / 8


def _cut(start: int, end: int, count: int) -> list[tuple[int, int]]:
    count = min(count, max(1, end - start))
    edges = [start + (end - start) * n // count for n in range(count)] + [end]
    return [(edges[n], edges[n + 1]) for n in range(count)]


def _joined(stretches: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The stretches without gaps between them: each goes on to where the next begins."""
    starts = [start for start, _ in stretches]
    ends = [*starts[1:], stretches[-1][1]] if stretches else []
    return list(zip(starts, ends, strict=True))
