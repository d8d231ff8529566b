"""Bodies: messages without the prefix of their frames, read where their frames lie.

Compiled code takes their addresses; whoever asks for one gets a copy of it. What frames are: `frames.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.arrays import array_of, bytes_of
from efd_pipelines.kafka.frames import ends_of


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """Addresses and sizes of bodies; they are good as long as `held` is."""

    addresses: NDArray[np.int64]
    sizes: NDArray[np.int64]
    held: object


@dataclass(frozen=True, slots=True, eq=False)
class Bodies(Sequence[bytes]):
    """All but the first `start` bytes of some values, which have as many; none is null."""

    values: pa.ChunkedArray
    start: int = 0

    @classmethod
    def of(cls, bodies: Sequence[bytes]) -> Self:
        return cls(pa.chunked_array([bytes_of(bodies)]))

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Bodies: ...
    def __getitem__(self, index: int | slice) -> bytes | Bodies:
        if isinstance(index, slice):
            return Bodies(self.values[index], self.start)
        body: bytes = self.values[index].as_py()[self.start :]
        return body

    def __iter__(self) -> Iterator[bytes]:
        return (value.as_py()[self.start :] for value in self.values)

    @property
    def size_bytes(self) -> int:
        return int(self.located().sizes.sum())

    def take(self, indices: NDArray[np.int64]) -> Bodies:
        """The bodies at `indices`, in that order."""
        return Bodies(self.values.take(array_of(indices)), self.start)

    def located(self) -> Located:
        """Where they lie."""
        addresses, sizes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for piece in self.values.chunks:
            data, ends = piece.buffers()[2], ends_of(piece)
            addresses.append(ends[:-1] + (self.start + (0 if data is None else data.address)))
            sizes.append(np.diff(ends) - self.start)
        return Located(np.concatenate(addresses), np.concatenate(sizes), self.values)
