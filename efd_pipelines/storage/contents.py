"""Contents: what a topic's records are made of: bytes by field, values that do not change, how well they compress.

Measured on a stretch of the archive, the first row group of the period's largest file (10,000 rows or more). Avro bytes
are counted as Avro writes them: numbers of their width, whole numbers and lengths as variable-length zigzag, texts with
their length, arrays with a count and an end (Avro 1.12, binary encoding).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.archive.tables import open_table
from efd_pipelines.topics.layout import column_of
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

FRAME_BYTES = 5
PRIVATE = "private_"
_ARRAY_BYTES = 3.0
_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class FieldContent:
    """One field of a topic.

    Avro bytes of a mean record; the share of records in which its values are as in the one before; whether it had one
    value only; bytes that `float` instead of `double` would save without loss.
    """

    name: str
    avro_bytes: float
    unchanged: float
    is_constant: bool
    narrower_bytes: float


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found in `rows` records.

    `repeated` is the share of records in which no public field differs from the record before; `unchanged` that of
    values; `compressed` is Parquet's bytes as a share of what they are without compression.
    """

    rows: int
    fields: tuple[FieldContent, ...]
    repeated: float
    unchanged: float
    compressed: float

    @property
    def avro_bytes(self) -> float:
        """Of a mean record, with its frame."""
        return FRAME_BYTES + sum(field.avro_bytes for field in self.fields)


def contents(archive: Archive, dataset: Dataset, weeks: Collection[str]) -> Contents | None:
    """What a topic's records of some weeks are made of; None where none are archived.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    import pyarrow.parquet as pq

    snapshot = open_table(archive.store, archive.relative(dataset))
    if snapshot is None:
        return None
    files = [file for file in snapshot.files() if file.week in weeks and file.rows]
    if not files:
        return None
    relative = f"{snapshot.relative}/{max(files, key=lambda file: (file.rows, file.path)).path}"
    store = archive.store
    with (
        store.errors(f"read {relative}"),
        pq.ParquetFile(store.path(relative), filesystem=store.arrow_fs, pre_buffer=store.is_remote) as parquet,
    ):
        group = parquet.metadata.row_group(0)
        sizes = [(group.column(n).total_compressed_size, group.column(n).total_uncompressed_size) for n in
                 range(group.num_columns)]  # fmt: skip
        schema = parquet.schema_arrow
        part = parquet.read_row_group(0).slice(0, _ROWS)
    return _contents(part, schema, sum(size for size, _ in sizes) / max(sum(size for _, size in sizes), 1))


def _contents(part: pa.Table, schema: pa.Schema, compressed: float) -> Contents:
    same_index = _same_index(part)
    found: dict[str, list[tuple[float, NDArray[np.bool_], bool, float]]] = {}
    for field in schema:
        described = column_of(field)
        if described is not None and not pa.types.is_list(field.type):
            values = part[field.name].combine_chunks()
            same = _unchanged(values)
            # An array's first element carries its count and its end.
            more = _ARRAY_BYTES if described.element is not None and described.field not in found else 0.0
            what = (_avro_bytes(values) + more, same, bool(same.all()), _narrower(values))
            found.setdefault(described.field, []).append(what)
        elif described is not None:
            values = part[field.name].combine_chunks()
            flat = values.flatten()
            size = (_avro_bytes(flat) * len(flat) / max(len(values), 1)) + _ARRAY_BYTES
            changed = np.ones(max(part.num_rows - 1, 0), dtype=bool)
            found.setdefault(described.field, []).append((size, ~changed, False, 0.0))
    fields = tuple(_field(name, columns, same_index) for name, columns in found.items())
    public = [columns for name, columns in found.items() if not name.startswith(PRIVATE) and name != "salIndex"]
    pairs = max(int(same_index.sum()), 1)
    repeated = np.ones(len(same_index), dtype=bool)
    unchanged = values_seen = 0
    for columns in public:
        for _, same, _, _ in columns:
            repeated &= same
            unchanged += int((same & same_index).sum())
            values_seen += pairs
    return Contents(
        part.num_rows,
        fields,
        float((repeated & same_index).sum() / pairs) if public and same_index.any() else 0.0,
        unchanged / values_seen if values_seen else 0.0,
        compressed,
    )


def _field(
    name: str, columns: list[tuple[float, NDArray[np.bool_], bool, float]], same: NDArray[np.bool_]
) -> FieldContent:
    pairs = max(int(same.sum()), 1)
    unchanged = float(np.mean([(one & same).sum() / pairs for _, one, _, _ in columns]))
    return FieldContent(
        name,
        sum(size for size, _, _, _ in columns),
        unchanged,
        all(constant for _, _, constant, _ in columns),
        sum(narrower for _, _, _, narrower in columns),
    )


def _same_index(part: pa.Table) -> NDArray[np.bool_]:
    """Which rows follow one of the same index: files are sorted by index and time."""
    if "salIndex" not in part.column_names:
        return np.ones(max(part.num_rows - 1, 0), dtype=bool)
    index = part["salIndex"].to_numpy()
    same: NDArray[np.bool_] = index[1:] == index[:-1]
    return same


def _unchanged(values: pa.Array) -> NDArray[np.bool_]:
    """Which values are as the one before; NaN is as NaN, null as null."""
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
        bits = numbers.view(np.int32 if numbers.dtype == np.float32 else np.int64)
        same: NDArray[np.bool_] = bits[1:] == bits[:-1]
        return same
    codes = values.dictionary_encode(null_encoding="encode").indices.to_numpy(zero_copy_only=False)
    same = codes[1:] == codes[:-1]
    return same


def _avro_bytes(values: pa.Array) -> float:
    """Avro bytes of a mean value."""
    kind: Any = values.type
    if pa.types.is_float32(kind):
        return 4.0
    if pa.types.is_float64(kind):
        return 8.0
    if pa.types.is_boolean(kind):
        return 1.0
    if pa.types.is_integer(kind):
        numbers = values.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
        return float(_varint_bytes(numbers).mean()) if len(numbers) else 1.0
    lengths = pc.binary_length(values.drop_null()).to_numpy(zero_copy_only=False).astype(np.int64)
    return float((lengths + _varint_bytes(lengths)).mean()) if len(lengths) else 1.0


def _varint_bytes(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes of zigzag variable-length numbers: seven bits each."""
    zigzag = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    size = np.ones(len(numbers), np.int64)
    for bits in range(7, 64, 7):
        size += zigzag >= np.uint64(1 << bits)
    return size


def _narrower(values: pa.Array) -> float:
    """Bytes of a mean value that `float` would save where each double is one."""
    if not pa.types.is_float64(values.type):
        return 0.0
    numbers = values.drop_null().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = numbers.astype(np.float32).astype(np.float64) == numbers
    return 4.0 if bool(np.all(exact | np.isnan(numbers))) else 0.0
