"""Decoding: bodies of one schema → a table with the columns of a layout, and the bodies that are no messages.

A message is good only when it decodes and all its bytes are used. Decoders are asked in the order of
`DECODERS`: the first that covers the schema takes all bodies and refuses those that it is not sure of; the next
gets what was refused, and the last one's reason is that of the dead letter. A faster decoder is one file, with
the promises of `attempts.py`, and one line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.arrays import array_of, no_rows
from efd_pipelines.avro.attempts import Attempt, Decoder
from efd_pipelines.avro.compiled import Compiled, load
from efd_pipelines.avro.messages import SingleMessages
from efd_pipelines.errors import SchemaError
from efd_pipelines.topics.layout import Layout
from efd_pipelines.topics.schemas import TopicSchema

# fastavro takes a tenth of a second for as much.
WORTH_COMPILING_BYTES = 1024 * 1024
DECODERS: tuple[Decoder, ...] = (Compiled(WORTH_COMPILING_BYTES), SingleMessages())


def make_ready() -> None:
    """Loads what is compiled, which takes most of a second: a thread may do it while there is nothing to decode yet."""
    load()


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Rows of the good messages, and the dead.

    Args:
        table: the layout's columns in its order, a row for each index in `good` (none where there is no column).
        good: indices of the bodies that are messages, ascending.
        dead: index and reason of every other body, ascending.
        lengths: array fields of good messages that are longer than the layout, with the greatest length seen:
            nothing of `table` may be kept before it was decoded again with a layout that is as long.
    """

    table: pa.Table
    good: NDArray[np.int64]
    dead: list[tuple[int, str]]
    lengths: dict[str, int] = field(default_factory=dict)


def decode(
    bodies: Sequence[bytes],
    schema: TopicSchema,
    layout: Layout,
    *,
    decoders: Sequence[Decoder] = DECODERS,
) -> Decoded:
    """The columns of `layout` for messages that were written with `schema`.

    Exact: floats keep their bits, NaN stays NaN, null stays null, a shorter array than planned ends in null. A
    field of the layout that the schema lacks is null; a column that is wider than the field widens.

    Args:
        bodies: Avro bodies, without the prefix of their frames.
    """
    left = np.arange(len(bodies), dtype=np.int64)
    reasons: dict[int, str] = {}
    parts: list[tuple[NDArray[np.int64], pa.Table]] = []
    lengths: dict[str, int] = {}
    for decoder in decoders:
        if not decoder.covers(schema):
            continue
        asked = bodies if len(left) == len(bodies) else [bodies[index] for index in left.tolist()]
        attempt = _attempted(decoder, asked, schema, layout)
        parts.append((left[attempt.good], attempt.table))
        for name, length in attempt.lengths.items():
            lengths[name] = max(length, lengths.get(name, 0))
        reasons = {int(left[index]): reason for index, reason in attempt.refused.items()}
        left = np.array(sorted(reasons), dtype=np.int64)
        if not len(left):
            break
    good, table = _in_order(parts, layout)
    dead = [(int(index), reasons.get(int(index), "no decoder covers its schema")) for index in left]
    return Decoded(table, good, dead, lengths)


def _attempted(decoder: Decoder, bodies: Sequence[bytes], schema: TopicSchema, layout: Layout) -> Attempt:
    try:
        return decoder.attempt(bodies, schema, layout)
    except SchemaError as error:
        refused = dict.fromkeys(range(len(bodies)), error.message)
        return Attempt(no_rows(layout.arrow_schema()), np.empty(0, np.int64), refused, {})


def _in_order(
    parts: Sequence[tuple[NDArray[np.int64], pa.Table]], layout: Layout
) -> tuple[NDArray[np.int64], pa.Table]:
    """Rows of several decoders, in the order of their bodies."""
    filled = [(good, table) for good, table in parts if len(good)]
    if not filled:
        return np.empty(0, np.int64), no_rows(layout.arrow_schema())
    if len(filled) == 1:
        return filled[0]
    good = np.concatenate([good for good, _ in filled])
    order = np.argsort(good)
    return good[order], pa.concat_tables([table for _, table in filled]).take(array_of(order))
