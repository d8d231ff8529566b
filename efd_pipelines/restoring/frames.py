"""Frames: rows of a dataset as the Kafka values that they came from.

Each row is encoded by the schema that it was written with, which the archive keeps; the dead are what came, whole.
Rows of a history have no schema of their own: where they are wanted, they take the topic's newest. Encoding:
`efd_pipelines.avro.encoder`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.positions import decided_arrays
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.avro.encoder import RowEncoder, json_values
from efd_pipelines.errors import SchemaError
from efd_pipelines.restoring.rows import held_columns_of, of_history
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema, parse_schema

_JSON = 0


@dataclass(frozen=True, slots=True)
class Values:
    """Rows and their values, in their order; None is a tombstone."""

    rows: pa.Table
    frames: list[bytes | None]


@dataclass(slots=True)
class FramesOfDataset:
    """Encodes rows of one dataset's table.

    Args:
        schema_id: the id of a schema in the registry of the topic.
        with_history: whether rows of a history become frames.
    """

    dataset: Dataset
    snapshot: TableSnapshot
    schemas: WriterSchemas
    schema_id: Callable[[TopicSchema], int]
    with_history: bool
    _encoders: dict[tuple[int, bool], tuple[RowEncoder, int]] = field(default_factory=dict)

    def of(self, rows: pa.Table) -> Values:
        """The values of the rows; those of a history are left out where they are not wanted.

        Raises:
            SchemaError: a schema is not in the archive, or a row does not fit it.
        """
        if "archive_frame" in rows.column_names and rows["archive_reason"].null_count < rows.num_rows:
            return Values(rows, rows["archive_frame"].to_pylist())
        is_history = of_history(rows)
        if not self.with_history:
            rows = rows.filter(pc.invert(is_history))
            is_history = of_history(rows)
        tokens = pc.fill_null(rows["archive_schema"], self._newest_token() if self.with_history else _JSON).to_numpy()
        history = is_history.to_numpy()
        frames: list[bytes | None] = [None] * rows.num_rows
        for token in np.unique(tokens).tolist():
            for is_whole in (False, True):
                places = np.flatnonzero((tokens == token) & (history == is_whole))
                if len(places):
                    part = rows if len(places) == rows.num_rows else rows.take(pa.array(places))
                    for place, value in zip(places.tolist(), self._encoded(part, token, is_whole), strict=True):
                        frames[place] = value
        return Values(rows, frames)

    def _encoded(self, rows: pa.Table, token: int, is_whole: bool) -> list[bytes]:
        if token == _JSON:
            return json_values(rows, held_columns_of(rows))
        if (token, is_whole) not in self._encoders:
            schema = self.schemas.text(token)
            if schema is None:
                raise SchemaError(
                    f"The archive does not have the schema {token} that rows of {self.dataset} were written with",
                    remedy="Restore the table `schemas`; `efd archive verify --deep` says what else is missing.",
                )
            held = held_columns_of(rows)
            encoder = RowEncoder.of(schema, held, decided_arrays(self.snapshot, held), is_whole=is_whole)
            self._encoders[token, is_whole] = encoder, self.schema_id(schema)
        encoder, schema_id = self._encoders[token, is_whole]
        return encoder.frames(rows, schema_id)

    def _newest_token(self) -> int:
        text = self.schemas.newest().get(self.dataset.topic)
        return _JSON if text is None else parse_schema(text).token
