"""Bodies: where messages lie in memory, so that they are read without a copy of each.

A batch is tens of thousands of `bytes`, each with the five bytes of its frame before the body. Compiled code reads
them where they are; others are given slices. What frames are: `frames.py`.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

Locate = Callable[[int, int, int, int, int, int], int]
"""The kernel's `locate_bytes`."""

# Where CPython keeps what: a tuple's items behind its head, the bytes of a `bytes` behind its head of 32 bytes.
_IS_KNOWN = (
    sys.implementation.name == "cpython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and (object.__basicsize__, bytes.__basicsize__) == (16, 33)
)


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """Addresses and sizes of bodies; they are good as long as `held` is."""

    addresses: NDArray[np.int64]
    sizes: NDArray[np.int64]
    held: object


class Bodies(Sequence[bytes]):
    """Bodies of some values: all but the first `start` bytes of each, which has as many."""

    def __init__(self, values: Sequence[bytes], start: int = 0) -> None:
        self._values = tuple(values)
        self._start = start

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

    def located(self, locate: Locate) -> Located:
        """Where they lie; `locate` finds `bytes`, anything else is copied."""
        if _IS_KNOWN:
            places = np.empty((2, len(self)), np.int64)
            addresses, sizes = places
            first = id(self._values) + tuple.__basicsize__
            found = locate(first, len(self), id(bytes), self._start, addresses.ctypes.data, sizes.ctypes.data)
            if found == len(self):
                return Located(addresses, sizes, self._values)
        joined = b"".join(self._values)
        sizes = np.fromiter(map(len, self._values), np.int64, len(self)) - self._start
        ends = np.cumsum(sizes + self._start) + np.frombuffer(joined or b"\0", np.uint8).ctypes.data
        return Located(ends - sizes, sizes, joined)
