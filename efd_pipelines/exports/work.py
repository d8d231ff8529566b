"""Work: one piece of an export read, shaped and written; on this machine or another, once or again.

It needs nothing but the store, the files' names and the stage that it writes to, so it can be sent to a worker of Dask;
what it writes depends on nothing else, so a second worker that does the same does no harm. A record of what was written
is left beside it: an export that was interrupted goes on from those. Memory is bounded by the stream's windows. Who
does the work: `sharing.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.exports.destination import Stage
from efd_pipelines.exports.parts import Part, write_parts
from efd_pipelines.exports.pieces import Piece
from efd_pipelines.exports.selection import Source
from efd_pipelines.exports.shape import Shape, row_bytes
from efd_pipelines.exports.stream import Windows, high_us, low_us
from efd_pipelines.memory import give_back
from efd_pipelines.tiers.columns import SummaryField, TierForm, tier_schema
from efd_pipelines.tiers.rows import ArchivedRows, Rows
from efd_pipelines.tiers.summary import summarise

_CELLS = 1_000_000
_ROWS = 400_000
_READ_BYTES = 32 * 1024 * 1024
_TILE_BYTES = 4 * 1024 * 1024
_MOVED_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Written:
    """What was written of a piece; `repeated` records were left out."""

    token: str
    number: int
    parts: tuple[Part, ...]
    repeated: int

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def to_json(self) -> bytes:
        document = {"token": self.token, "number": self.number, "repeated": self.repeated}
        return json.dumps({**document, "parts": [part.to_json() for part in self.parts]}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Written:
        of = json.loads(data)
        return cls(of["token"], of["number"], tuple(map(Part.from_json, of["parts"])), of["repeated"])


@dataclass(frozen=True, slots=True)
class PieceWork:
    """A piece, and all that doing it takes."""

    piece: Piece
    source: Source
    shape: Shape

    @property
    def record(self) -> str:
        """The name of the record of what was written."""
        return f"{self.piece.dataset}-{self.piece.number:05d}-{self.piece.token}"

    def write(self, stage: Stage) -> Written:
        """Reads, shapes and writes the piece; then notes that it was written.

        Raises:
            LostFile: a file of the archive is not there.
            StaleWriter: the export has been taken over by another process.
            StoreFull, StoreUnavailable: a store did not answer.
        """
        rows = self._summaries() if self.source.window_us else Windows(self.source, self.piece.files, self.piece.ranges)
        parts = write_parts(
            stage,
            self.piece.dataset,
            self.shape.schema,
            self._shaped(rows),
            piece=self.piece.number,
            token=self.piece.token,
        )
        made = tuple(parts)
        repeated = rows.repeated if isinstance(rows, Windows) else 0
        written = Written(self.piece.token, self.piece.number, made, repeated)
        stage.note(self.record, written.to_json())
        return written

    def _shaped(self, tables: Any) -> Iterator[pa.Table]:
        windows = self.piece.ranges.windows
        iterator = iter(tables)
        while True:
            held = [table for table in [next(iterator, None)] if table is not None]
            if not held:
                return
            pieces = _apart(held.pop()) if self.shape.moves_values else held
            while pieces:
                shaped = [self.shape.apply(pieces.pop(0), windows)]
                yield shaped.pop()  # nothing is held here while the next is read

    def _summaries(self) -> Iterator[pa.Table]:
        """The rows in windows of the request's length, sorted by time."""
        form = self.source.form()
        for start, end in self._stretches(len(form.schema)):
            give_back()
            files = [file for file in self.piece.files if low_us(file) < end and high_us(file) >= start]
            with ArchivedRows(self.source.store, self.source.relative, files, self.source.reading, start, end) as rows:
                made = _summarised(rows, int(self.source.window_us or 1), form)
            if made.num_rows:
                yield _by_time(made)

    def _stretches(self, columns: int) -> Iterator[tuple[int, int]]:
        """The piece's ranges in stretches of whole windows, bounded in rows and results."""
        window_us = int(self.source.window_us or 1)
        low = min(map(low_us, self.piece.files), default=0)
        high = max(map(high_us, self.piece.files), default=-1)
        most = min(_ROWS, _READ_BYTES // row_bytes(self.source.reading))
        per_us = sum(file.rows for file in self.piece.files) / max(1, high + 1 - low)
        windows = max(1, int(min(_CELLS / columns, most / max(per_us * window_us, 1e-9))))
        for interval in self.piece.ranges.within(low, high + 1):
            start = interval.start_us
            while start < interval.end_us:
                end = start - start % window_us + windows * window_us
                yield start, min(end, interval.end_us)
                start = end


def _by_time(made: pa.Table) -> pa.Table:
    """Those of one device are in order already, and need no copy."""
    time = made["time"].cast(pa.int64()).to_numpy()
    if bool((time[1:] > time[:-1]).all()):
        return made
    keys = [(name, "ascending") for name in ("time", "salIndex") if name in made.column_names]
    return made.take(pc.sort_indices(made, sort_keys=keys))


def _apart(rows: pa.Table) -> list[pa.Table]:
    """The rows in pieces that are small enough to be held three times; no two share a time."""
    time = rows["time"].cast(pa.int64()).to_numpy()
    step = max(1, _MOVED_BYTES * rows.num_rows // max(1, rows.nbytes))
    pieces, first = [], 0
    while first < len(time):
        end = int(np.searchsorted(time, time[min(first + step, len(time)) - 1], side="right"))
        pieces.append(rows.slice(first, end - first))
        first = end
    return pieces


def _summarised(rows: Rows, window_us: int, form: TierForm) -> pa.Table:
    """The summaries, some fields at a time: of an hour of 800 fields all would be half a gigabyte."""
    columns: dict[str, Any] = {}
    for fields in _groups(form.fields, rows.count):
        give_back()
        part = summarise(rows, window_us, "flat", TierForm(fields, tier_schema(rows.schema, fields)))
        columns |= dict(zip(part.column_names, part.columns, strict=True))
    return pa.Table.from_arrays([columns[name] for name in form.schema.names], schema=form.schema)


def _groups(fields: Sequence[SummaryField], rows: int) -> Iterator[list[SummaryField]]:
    group: list[SummaryField] = []
    size = 0
    for one in fields:
        width = 8 if not pa.types.is_primitive(one.item_type) else max(1, one.item_type.bit_width // 8)
        more = rows * width * len(one.sources)
        if group and size + more > _TILE_BYTES:
            yield group
            group, size = [], 0
        group.append(one)
        size += more
    yield group
