"""Attempts: what every decoder promises.

A decoder says which schemas it covers, and for those makes rows of the bodies that it is sure of and refuses
the others with a reason. It never guesses: a body that it refuses is given to the next decoder. The order of
decoders and what becomes of the refused: `decoder.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.topics.layout import Layout
from efd_pipelines.topics.schemas import TopicSchema

# A flat array may grow to so many columns. A message that asks for more is refused: it would make a table, for all of
# its rows, that nobody can read.
LONGEST_FLAT = 10_000


def most_items(layout: Layout, width: int) -> int:
    """How many items an array may have for which the layout has `width` columns."""
    return 2**62 if layout.arrays == "list" else max(width, LONGEST_FLAT)


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """What one decoder made of some bodies.

    Args:
        table: the layout's columns, a row for each body in `good`, in its order.
        good: indices of the bodies, ascending.
        refused: the reason by index of each other body.
        lengths: of array fields that are longer than the layout, the greatest length seen in `good`.
    """

    table: pa.Table
    good: NDArray[np.int64]
    refused: Mapping[int, str]
    lengths: Mapping[str, int]


class Decoder(Protocol):
    """Bodies of a schema → columns of a layout."""

    def covers(self, schema: TopicSchema) -> bool:
        """Whether it can decode messages of this schema at all."""
        ...

    def attempt(self, bodies: Sequence[bytes], schema: TopicSchema, layout: Layout) -> Attempt:
        """Decode what it is sure of.

        Raises:
            SchemaError: the schema covers nothing that can be decoded safely.
        """
        ...
