"""Bodies: where messages lie in memory, so that they are read without a copy of each.

A batch is tens of thousands of `bytes`, each with the five bytes of its frame before the body. Compiled code reads
them where they are; the others are given slices. What frames are: `frames.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


def _offset_in_bytes() -> int | None:
    """How far behind its address an object's bytes begin; None where this Python does not tell."""
    if sys.implementation.name != "cpython":
        return None
    probes = [b"", b"\0", bytes(range(256))]
    offsets = {int(np.frombuffer(probe, np.uint8).ctypes.data) - id(probe) for probe in probes[1:]}
    return offsets.pop() if offsets == {bytes.__basicsize__ - 1} else None


_OFFSET = _offset_in_bytes()


class Bodies(Sequence[bytes]):
    """Bodies of some values: all but the first `start` bytes of each, which has as many."""

    def __init__(self, values: Sequence[bytes], start: int = 0) -> None:
        self._values = values if isinstance(values, tuple) else tuple(values)
        self._start = start
        self.sizes: NDArray[np.int64] = np.fromiter(map(len, self._values), np.int64, len(self._values)) - start

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Bodies: ...
    def __getitem__(self, index: int | slice) -> bytes | Bodies:
        if isinstance(index, slice):
            return Bodies(self._values[index], self._start)
        return self._values[index][self._start :]

    def __iter__(self) -> Iterator[bytes]:
        start = self._start
        return iter(self._values) if start == 0 else (value[start:] for value in self._values)

    def take(self, indices: NDArray[np.int64]) -> Bodies:
        """The bodies at `indices`, in that order."""
        return Bodies([self._values[index] for index in indices.tolist()], self._start)

    def addresses(self) -> tuple[NDArray[np.int64], object]:
        """The address of each body, and what must be kept as long as they are used."""
        if _OFFSET is not None and all(kind is bytes for kind in set(map(type, self._values))):
            found = np.fromiter(map(id, self._values), np.int64, len(self._values)) + (_OFFSET + self._start)
            return found, self._values
        joined = np.frombuffer(b"".join(self._values), np.uint8)
        ends = np.cumsum(self.sizes + self._start)
        return joined.ctypes.data + ends - self.sizes, joined
