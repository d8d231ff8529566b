"""Points: rows of a dataset as the EFD's InfluxDB has them, so that what is restored is what was lost.

Telegraf writes a message as one point: the measurement is the topic, the time the event time as it was sent, every
field a field, salIndex too; there are no tags (efd-facts.md §2.1). Arrays are fields `name0…nameN-1`; NaN, the
infinities and null are left out. Of two messages with one time, the later stays: rows come in that order.
Tags, which topics of other namespaces have, the caller names. Writing lines: `publishing/lines.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.publishing.lines import LineBatch, serialise
from efd_pipelines.restoring.rows import held_columns_of, sent_times
from efd_pipelines.topics.names import Dataset


@dataclass(slots=True)
class PointsOfDataset:
    """Makes points of a dataset's rows, and says what could not be one.

    Args:
        tags: fields that are tags.
        ambiguous: names that two fields claim (efd-facts.md §1.5); the first one's values are written.
    """

    dataset: Dataset
    tags: Sequence[str] = ()
    ambiguous: set[str] = field(default_factory=set)

    def batches(self, rows: pa.Table) -> Iterator[tuple[LineBatch, NDArray[np.int64]]]:
        """Lines in the order of time, with each one's time in UTC microseconds; rows without a time are left out."""
        times = sent_times(rows)
        rows = rows.append_column("sent", times).filter(pa.array(times.is_valid()))
        order = pc.sort_indices(rows, sort_keys=[("sent", "ascending"), ("kafka_timestamp", "ascending")])
        rows = rows.take(order)
        stamps = rows["sent"].to_numpy()
        named, names = self._named(rows)
        for batch in serialise(named, self.dataset.topic, stamps=stamps * 1000, tags=self.tags, names=names):
            yield batch, stamps[batch.rows]

    def _named(self, rows: pa.Table) -> tuple[pa.Table, dict[str, str]]:
        """The message's columns that have values, and what InfluxDB calls them."""
        owners: dict[str, tuple[str, int | None]] = {}
        names: dict[str, str] = {}
        for column in held_columns_of(rows):
            if rows[column.name].null_count == rows.num_rows:
                continue
            name = column.field if column.element is None else f"{column.field}{column.element}"
            owner = owners.setdefault(name, (column.field, column.element))
            if owner == (column.field, column.element):
                names[column.name] = name
            else:
                self.ambiguous.add(name)
        return rows.select(list(names)), names
