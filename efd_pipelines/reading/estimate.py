"""Estimate: how much a scan will give, from the table's log and one footer, before any of it is read.

Rows are shared out evenly over the time of a file; what a value takes comes from its type, and for texts and lists from
the footer of one of the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.reading.footers import FOOTERS, Footer
from efd_pipelines.reading.ranges import Traffic

if TYPE_CHECKING:
    from efd_pipelines.archive.files import DataFile
    from efd_pipelines.reading.scan import Scan


@dataclass(frozen=True, slots=True)
class Estimate:
    """About how much: rows, bytes in memory, bytes to be read from the store, files to be opened."""

    rows: int
    bytes: int
    stored_bytes: int
    files: int

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.rows + other.rows,
            self.bytes + other.bytes,
            self.stored_bytes + other.stored_bytes,
            self.files + other.files,
        )

    def __str__(self) -> str:
        return f"{self.rows:,} rows, {readable(self.bytes)} in memory, {self.files} files"


NOTHING = Estimate(0, 0, 0, 0)


def readable(size_bytes: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def estimate(scan: Scan) -> Estimate:
    """What a scan will give, about; one footer is read.

    Raises:
        MissingFile: the file that was looked at is not there.
        StoreUnavailable: the store did not answer.
    """
    if not scan.files:
        return NOTHING
    shares = [share(file, scan.start_us, scan.end_us) for file in scan.files]
    rows = sum(round(file.rows * part) for file, part in zip(scan.files, shares, strict=True))
    sample = max(scan.files, key=lambda file: file.rows)
    footer = FOOTERS.of(scan.store, scan.relative, sample, len(scan.whole), Traffic())
    read = ["time", *(name for name in scan.schema.names if name != "time")]
    stored_share = _stored(footer, read) / max(1, sample.size_bytes)
    stored = sum(round(file.size_bytes * stored_share * part) for file, part in zip(scan.files, shares, strict=True))
    row_bytes = sum(_value_bytes(footer, field, sample.rows) for field in scan.schema)
    return Estimate(rows, round(rows * row_bytes), stored, len(scan.files))


def share(file: DataFile, start_us: int, end_us: int) -> float:
    """How much of a file's time lies from `start_us` to before `end_us`, 0 to 1."""
    if file.time_min_us is None or file.time_max_us is None:
        return 1.0
    whole = file.time_max_us + 1 - file.time_min_us
    inside = min(file.time_max_us + 1, end_us) - max(file.time_min_us, start_us)
    return min(1.0, max(0.0, inside / whole))


def _stored(footer: Footer, names: list[str]) -> int:
    places = [place for name in names for place in footer.columns.get(name, ())]
    metadata = footer.metadata
    groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
    return sum(group.column(place).total_compressed_size for group in groups for place in places)


def _value_bytes(footer: Footer, field: pa.Field[pa.DataType], rows: int) -> float:
    """Bytes of a value in memory."""
    kind = field.type
    if pa.types.is_primitive(kind):
        return float(kind.bit_width / 8)
    metadata = footer.metadata
    size = 0
    for n in range(metadata.num_row_groups):
        for place in footer.columns.get(field.name, ()):
            column = metadata.row_group(n).column(place)
            size += _width(kind) * column.num_values or column.total_uncompressed_size
    return size / max(1, rows) + _OFFSET_BYTES


_OFFSET_BYTES = 4


def _width(kind: pa.DataType) -> int:
    """Bytes of an item of a list, 0 where that is not known."""
    if pa.types.is_list(kind) and pa.types.is_primitive(kind.value_type):
        return int(kind.value_type.bit_width // 8)
    return 0
