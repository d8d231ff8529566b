"""Ranges: fetching bytes of one object, several stretches at a time.

An object store takes tens of milliseconds for any request, in which it could have sent a megabyte: stretches that lie
near each other are asked for as one, as long as what is read for nothing stays small beside what is needed; the
others are asked for at the same time. On a disk nothing is joined: there is nothing to wait for.
What belongs here: bytes. Which of them: `groups.py`.
"""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from efd_pipelines.errors import ArchiveError

if TYPE_CHECKING:
    from efd_pipelines.archive.store import Store

_MOST_GAP_BYTES = 1 << 20
_WASTE = 0.5


class MissingFile(ArchiveError):
    """A file that the table's log has and the store has not."""

    remedy = (
        "Ask again: it may have been replaced and cleaned away meanwhile. `efd archive verify` says what is missing."
    )


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes of an object from `start` to before `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(slots=True)
class Traffic:
    """What was read from the store so far: bytes and requests. Safe to use from several threads."""

    bytes: int = 0
    requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, size: int, requests: int = 1) -> None:
        with self._lock:
            self.bytes += size
            self.requests += requests


def coalesced(
    ranges: Sequence[ByteRange], *, most_gap: int = _MOST_GAP_BYTES, waste: float = _WASTE
) -> list[ByteRange]:
    """The ranges, sorted and joined where they touch or the gap is small.

    The smallest gaps go first, while what lies in joined gaps is at most `waste` of what is needed.
    """
    united = _united(ranges)
    budget = sum(one.size for one in united) * waste
    joined: set[int] = set()
    gaps = sorted((later.start - one.end, n) for n, (one, later) in enumerate(itertools.pairwise(united)))
    for gap, n in gaps:
        if gap > most_gap or gap > budget:
            break
        budget -= gap
        joined.add(n)
    found: list[ByteRange] = []
    for n, one in enumerate(united):
        if n - 1 in joined:
            found[-1] = ByteRange(found[-1].start, one.end)
        else:
            found.append(one)
    return found


def _united(ranges: Sequence[ByteRange]) -> list[ByteRange]:
    found: list[ByteRange] = []
    for one in sorted(ranges):
        if found and one.start <= found[-1].end:
            found[-1] = ByteRange(found[-1].start, max(found[-1].end, one.end))
        else:
            found.append(one)
    return found


class Fetched(io.RawIOBase):
    """An object of which some ranges are in memory, as a file for pyarrow; reading others is a mistake of ours."""

    def __init__(self, size_bytes: int, parts: Sequence[tuple[ByteRange, bytes]]) -> None:
        super().__init__()
        self._size = size_bytes
        self._parts = parts
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._place + size, self._size)
        for part, data in self._parts:
            if part.start <= self._place and end <= part.end:
                found = data[self._place - part.start : end - part.start]
                self._place = end
                return found
        raise ValueError(f"Bytes {self._place} to {end} were not fetched")


def fetch(store: Store, relative: str, ranges: Sequence[ByteRange], traffic: Traffic) -> list[tuple[ByteRange, bytes]]:
    """The ranges of an object of an object store, joined where that is worth it, all at once.

    Raises:
        MissingFile: it is not there.
        StoreUnavailable: the store did not answer.
    """
    wanted = coalesced(ranges)
    path = store.path(relative)
    with store.errors(f"read {relative}"):
        try:
            found = store.fs.cat_ranges(
                [path] * len(wanted),
                [one.start for one in wanted],
                [one.end for one in wanted],
                on_error="raise",
            )
        except FileNotFoundError as error:
            raise MissingFile(f"{store.uri(relative)} is not there") from error
    traffic.count(sum(len(data) for data in found), len(wanted))
    return list(zip(wanted, (bytes(data) for data in found), strict=True))


def read_tail(store: Store, relative: str, size_bytes: int, count: int, traffic: Traffic) -> bytes:
    """The last bytes of an object.

    Raises:
        MissingFile: it is not there.
        StoreUnavailable: the store did not answer.
    """
    start = max(0, size_bytes - count)
    if store.is_remote:
        return fetch(store, relative, [ByteRange(start, size_bytes)], traffic)[0][1]
    with store.errors(f"read {relative}"):
        try:
            with open(store.path(relative), "rb", buffering=0) as file:
                file.seek(start)
                data = file.read(size_bytes - start)
        except FileNotFoundError as error:
            raise MissingFile(f"{store.uri(relative)} is not there") from error
    traffic.count(len(data))
    return data
