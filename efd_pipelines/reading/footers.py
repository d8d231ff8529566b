"""Footers: what Parquet files say of themselves, kept while they are asked often.

A data file never changes, its name has a hash of its content; so a footer that was read once holds for as long as the
process lives. One of 820 columns takes 180 kB per row group and some milliseconds to read, more than the columns
that are asked for may take.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from efd_pipelines.archive.files import DataFile
from efd_pipelines.errors import ArchiveError
from efd_pipelines.reading.ranges import Traffic, read_tail

if TYPE_CHECKING:
    from efd_pipelines.archive.store import Store

_ENDING_BYTES = 8
_MAGIC = b"PAR1"
_FIRST_GUESS_BYTES = 64 * 1024
_COLUMN_BYTES = 160
_MOST_BYTES = 48 * 1024 * 1024


class DamagedFooter(ArchiveError):
    """A file that is no Parquet file, or was cut off."""

    remedy = "`efd archive verify --deep` says what is wrong with it."


@dataclass(frozen=True, slots=True, eq=False)
class Footer:
    """A file's footer: `columns` has the places of each column's leaves; `size_bytes` is its own."""

    metadata: Any
    columns: Mapping[str, tuple[int, ...]]
    size_bytes: int


class Footers:
    """The footers that were read last; safe to use from several threads."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, int], Footer] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    def of(self, store: Store, relative: str, file: DataFile, width: int, traffic: Traffic) -> Footer:
        """The footer of a table's file; `width` is about how many columns it has.

        Raises:
            MissingFile: it is not there.
            DamagedFooter: it is no Parquet file.
            StoreUnavailable: the store did not answer.
        """
        name = f"{relative}/{file.path}"
        key = store.uri(name), file.size_bytes
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known
        footer = _parsed(store.uri(name), _read(store, name, file.size_bytes, width, traffic))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = footer
                self._held_bytes += footer.size_bytes
            while self._held_bytes > self._most_bytes and len(self._kept) > 1:
                self._held_bytes -= self._kept.popitem(last=False)[1].size_bytes
        return footer


FOOTERS = Footers()
"""Those of this process."""


def _read(store: Store, name: str, size_bytes: int, width: int, traffic: Traffic) -> bytes:
    """The footer and what ends the file. From a disk exactly that; from S3 mostly with one request."""
    guess = _ENDING_BYTES
    if store.is_remote:
        guess = max(_FIRST_GUESS_BYTES, width * _COLUMN_BYTES)
    tail = read_tail(store, name, size_bytes, guess, traffic)
    if len(tail) < _ENDING_BYTES or tail[-4:] != _MAGIC:
        raise DamagedFooter(f"{store.uri(name)} is no Parquet file")
    wanted = struct.unpack("<I", tail[-_ENDING_BYTES:-4])[0] + _ENDING_BYTES
    if wanted > size_bytes:
        raise DamagedFooter(f"{store.uri(name)} is cut off")
    return tail[-wanted:] if wanted <= len(tail) else read_tail(store, name, size_bytes, wanted, traffic)


def _parsed(uri: str, data: bytes) -> Footer:
    try:
        metadata = pq.read_metadata(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise DamagedFooter(f"{uri} has no footer that can be read: {error}") from error
    columns: dict[str, tuple[int, ...]] = {}
    schema = metadata.schema
    for place in range(metadata.num_columns):
        name = schema.column(place).path.partition(".")[0]
        columns[name] = (*columns.get(name, ()), place)
    return Footer(metadata, columns, len(data))
