"""Builders: frames of a topic of the tests, and the commits that a drain would make of them, without a broker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.encoding import Encoded, Origin, encode, held_columns
from efd_pipelines.archive.files import sort_rows, write_data_file
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table
from efd_pipelines.archive.widening import needs_widening, widen_table
from efd_pipelines.kafka.frames import FrameBatch
from efd_pipelines.simulator.encoding import encoder_of, frame_head
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema, parse_schema

SOURCE = "cluster/topic"
_PRIVATE = [
    ("private_sndStamp", "double"),
    ("private_efdStamp", "double"),
    ("private_seqNum", "long"),
    ("private_origin", "long"),
    ("private_identity", "string"),
]


def schema_of(name: str, *public: tuple[str, Any], doc: str = "") -> TopicSchema:
    """A SAL-like schema of an indexed topic."""
    fields = [{"name": "salIndex", "type": "long"}, *(_field(name, kind) for name, kind in (*_PRIVATE, *public))]
    document = {"type": "record", "name": name, "namespace": "lsst.sal.Test", "fields": fields, "doc": doc}
    return parse_schema(json.dumps(document))


def _field(name: str, kind: Any) -> dict[str, Any]:
    """A field; an array's default, which says how long it is, may stand in its type."""
    default = {"default": kind["default"]} if isinstance(kind, dict) and "default" in kind else {}
    return {"name": name, "type": kind, **default}


@dataclass
class Topic:
    """One topic with a table in an archive: `send` makes records, `drain` commits some of them."""

    archive: Archive
    dataset: Dataset = field(default_factory=lambda: Dataset("lsst.sal.Test.x"))
    unit: SliceUnit = SliceUnit.DAY
    schemas: list[TopicSchema] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    stamps_ms: list[int] = field(default_factory=list)
    position: int = 0
    source: str = SOURCE

    def send(self, schema: TopicSchema, times_us: Sequence[int], sal_index: Any = 1, **columns: Any) -> None:
        """Records at these event times, numbered on."""
        if schema not in self.schemas:
            self.schemas.append(schema)
            keeper = WriterSchemas(self.archive.store)
            keeper.remember("http://registry", len(self.schemas), schema)
            keeper.keep()
        count = len(times_us)
        stamps = (np.asarray(times_us) + 0.5) / 1e6
        first = len(self.values)
        private = {
            "salIndex": np.broadcast_to(sal_index, count),
            "private_sndStamp": stamps + 37,
            "private_efdStamp": stamps,
            "private_seqNum": np.arange(first + 1, first + count + 1),
            "private_origin": 7,
            "private_identity": "tester",
        }
        bodies = encoder_of(schema.text).encode({**private, **columns}, count)
        head = frame_head(self.schemas.index(schema) + 1)
        self.values += [head + body for body in bodies]
        self.stamps_ms += [int(time // 1000) for time in times_us]

    @property
    def relative(self) -> str:
        return self.archive.relative(self.dataset)

    def offset(self, number: int) -> int:
        """The offset of a record, and after the last one the partition's end; a topic with holes leaves some out."""
        return number

    def drain(self, count: int | None = None, *, into_ledger: bool = True) -> Commit:
        """Commits the next records (all by default), as a drain does."""
        end = len(self.values) if count is None else min(len(self.values), self.position + count)
        chosen = range(self.position, end)
        frames = FrameBatch.of(
            "lsst.sal.Test.x",
            [self.values[n] for n in chosen],
            [b"{}" for _ in chosen],
            np.zeros(len(chosen), np.int32),
            np.array([self.offset(n) for n in chosen], np.int64),
            np.array([self.stamps_ms[n] for n in chosen], np.int64),
        )
        snapshot = open_table(self.archive.store, self.relative)
        encoded = encode(
            frames,
            Origin({0: self.source}, "private_efdStamp"),
            lambda number: self.schemas[number - 1],
            self.unit,
            arrays=None if snapshot is None else snapshot.description["arrays"],
            held=[] if snapshot is None else held_columns(snapshot.schema),
        )
        if snapshot is not None and needs_widening(held_columns(snapshot.schema), encoded.columns):
            snapshot, widened = widen_table(snapshot, encoded.columns, "test")
            self.archive.ledger.append([row for one in widened for row in rows_of(RAW, self.dataset, one)])
        files = [
            write_data_file(self.archive.store, self.relative, week, key, sort_rows(table))
            for (week, key), table in sorted(encoded.parts.items())
        ]
        app_id = f"kafka:{self.source}:0"
        reached = None if snapshot is None else snapshot.transaction_version(app_id)
        made = commit(
            self.archive.store,
            self.relative,
            snapshot,
            add=files,
            transactions={app_id: (reached, self.offset(end))},
            schema=_columns(snapshot, encoded),
            description={
                "slice": self.unit.value,
                "arrays": encoded.arrays,
                "dataset": self.dataset.text,
                "time_field": "private_efdStamp",
            },
            note={"kind": "drain", "records": len(chosen), "run": "test", "schemas": sorted(encoded.schemas)},
        )
        self.position = end
        if into_ledger:
            self.archive.ledger.append(rows_of(RAW, self.dataset, made))
        return made


def _columns(snapshot: TableSnapshot | None, encoded: Encoded) -> pa.Schema:
    """The columns of the rows; a new table has all of the system's."""
    fields = {"time": pa.field("time", TIME)}
    for table in encoded.parts.values():
        for column in table.schema:
            fields.setdefault(column.name, column)
    if snapshot is None:
        for name, kind in SYSTEM_COLUMNS.items():
            fields.setdefault(name, pa.field(name, kind))
    system = [fields.pop(name) for name in SYSTEM_COLUMNS if name in fields]
    return pa.schema([*fields.values(), *system])
