"""Estimates: what an export will be, told before it is begun, from the log and one footer of each dataset.

Rows are counted by the log (of a slice that is exported in part by its share of time), bytes in memory by the columns'
types, bytes in files by how well the archive's columns are compressed. An export that passes its limit, or the room at
its destination, is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from efd_pipelines.errors import StoreFull, UsageError
from efd_pipelines.exports.parts import FILE_BYTES
from efd_pipelines.exports.pieces import Piece, cut
from efd_pipelines.exports.selection import Selection
from efd_pipelines.exports.stream import opened

LIMIT_BYTES = 100_000_000_000
"""Bytes in files that an export may have unless its limit is raised: what fits on a laptop, and takes half an hour."""

MEMORY_BYTES_S = 60_000_000.0
"""Decoded bytes that one process reads, sorts and writes in a second; measured on two busy cores."""

FILE_S = 0.02
_FOOTER_BYTES = 200
_SIDE_BY_SIDE = 16


class TooLarge(UsageError):
    """The export would be larger than its limit."""

    remedy = "Ask for fewer topics, fields or times, or a tier; or raise the limit (--limit)."


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an export will be, about; `bytes` are those of its files, `memory_bytes` of its rows when they are read."""

    rows: int
    bytes: int
    memory_bytes: int
    files: int
    seconds: float
    topics: int

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "bytes": self.bytes,
            "bytes_in_memory": self.memory_bytes,
            "files": self.files,
            "seconds": round(self.seconds, 1),
            "topics": self.topics,
        }


@dataclass(frozen=True, slots=True)
class Planned:
    """A selection, cut into pieces, with what it will be."""

    selection: Selection
    pieces: tuple[Piece, ...] = field(repr=False)
    rows: float
    bytes: float
    memory_bytes: float


def plan(selections: Sequence[Selection]) -> list[Planned]:
    """The selections cut into pieces."""
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
        return list(threads.map(_planned, selections))


def estimate(planned: Sequence[Planned], workers: int = 1) -> Estimate:
    """What the export will be, done by so many workers."""
    memory = sum(one.memory_bytes for one in planned)
    files = sum(max(1, round(piece.size_bytes / FILE_BYTES)) for one in planned for piece in one.pieces)
    read = sum(len(piece.files) for one in planned for piece in one.pieces)
    seconds = (memory / MEMORY_BYTES_S + read * FILE_S) / max(1, workers)
    return Estimate(
        rows=round(sum(one.rows for one in planned)),
        bytes=round(sum(one.bytes for one in planned)),
        memory_bytes=round(memory),
        files=files,
        seconds=seconds,
        topics=sum(1 for one in planned if one.pieces),
    )


def check_room(expected: Estimate, limit_bytes: int | None, free_bytes: int | None) -> None:
    """Refuses an export that passes its limit or the room at its destination.

    Raises:
        TooLarge, StoreFull: it does.
    """
    if limit_bytes is not None and expected.bytes > limit_bytes:
        raise TooLarge(
            f"The export would take about {expected.bytes / 1e9:,.1f} GB in {expected.files:,} files"
            f" ({expected.rows:,} rows): more than the limit of {limit_bytes / 1e9:,.1f} GB"
        )
    if free_bytes is not None and expected.bytes > free_bytes:
        raise StoreFull(
            f"The export would take about {expected.bytes / 1e9:,.1f} GB; {free_bytes / 1e9:,.1f} GB are free there",
            remedy="Make room, or export to another place; nothing was written.",
        )


def _planned(selection: Selection) -> Planned:
    loose, packed = _measured(selection)
    pieces = tuple(cut(selection, loose))
    memory = sum(piece.size_bytes for piece in pieces)
    footers = len(pieces) * len(selection.shape.columns) * _FOOTER_BYTES
    return Planned(selection, pieces, sum(piece.rows for piece in pieces), memory * packed + footers, memory)


def _measured(selection: Selection) -> tuple[dict[str, float], float]:
    """Bytes of texts and lists in a row, by column, and what share of its bytes in memory a file has.

    By one footer, of the largest file: what a topic sends hardly changes in kind.
    """
    if not selection.files:
        return {}, 1.0
    largest = max(selection.files, key=lambda file: (file.size_bytes, file.path))
    with opened(selection.source.store, selection.source.relative, largest) as parquet:
        footer = parquet.metadata
    written = _written(selection)
    types = {column.name: column.type for column in selection.source.reading if column.name in written}
    loose: dict[str, float] = {}
    compressed = memory = 0.0
    for n in range(footer.num_row_groups):
        group = footer.row_group(n)
        for m in range(group.num_columns):
            chunk = group.column(m)
            kind = types.get(chunk.path_in_schema.partition(".")[0])
            if kind is not None:
                bytes_in_memory = _in_memory(chunk, kind)
                compressed, memory = compressed + chunk.total_compressed_size, memory + bytes_in_memory
                if not pa.types.is_primitive(kind):
                    name = chunk.path_in_schema.partition(".")[0]
                    loose[name] = loose.get(name, 0.0) + bytes_in_memory / max(1, footer.num_rows)
    return loose, min(1.0, compressed / memory) if memory else 1.0


def _written(selection: Selection) -> set[str]:
    """The columns of the archive that what is written is made of; some others are only read."""
    if selection.source.window_us is not None:
        return {name for field in selection.source.fields for name in field.sources}
    return {name for made in selection.shape.columns for name in made.sources}


def _in_memory(chunk: Any, kind: Any) -> float:
    if pa.types.is_primitive(kind):
        return float(chunk.num_values * kind.bit_width / 8)
    if pa.types.is_list(kind):
        return (
            float(chunk.num_values * kind.value_type.bit_width / 8) if pa.types.is_primitive(kind.value_type) else 64.0
        )
    return float(max(chunk.total_uncompressed_size, 16 * chunk.num_values))
