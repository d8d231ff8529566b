"""Archives with records in them, committed as a drain does, of an Avro schema and rows."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import sort_rows, write_data_file
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.slices import Slice, SliceUnit, slice_starts
from efd_pipelines.archive.tables import commit
from efd_pipelines.times import event_time_us
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME, plan_layout
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import parse_schema

FRAME_BYTES = 5


def _schema(name: str, fields: Sequence[tuple[str, Any, Any]]) -> str:
    described = [{"name": field, "type": kind, "default": default} for field, kind, default in fields]
    return json.dumps({"type": "record", "name": name, "namespace": "lsst.sal.MTM1M3", "fields": described})


SCHEMA = _schema(
    "made",
    [
        ("private_efdStamp", "double", 0.0),
        ("drifts", {"type": "array", "items": "double"}, [0.0] * 3),
        ("steady", "double", 0.0),
        ("steps", "long", 0),
        ("exact", "double", 0.0),
        ("name", "string", ""),
    ],
)
SUMMARY_STATE = _schema(
    "logevent_summaryState", [("private_efdStamp", "double", 0.0), ("salIndex", "int", 0), ("summaryState", "int", 0)]
)


def archived(
    archive: Archive,
    dataset: Dataset,
    schema: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    unit: SliceUnit = SliceUnit.WEEK,
    kafka_lag_s: float = 0.5,
) -> int:
    """One commit of rows; the Avro bytes of their frames, as fastavro counts them."""
    parsed, layout = fastavro.parse_schema(json.loads(schema)), plan_layout(parse_schema(schema))
    times = event_time_us(np.array([row["private_efdStamp"] for row in rows]))
    columns: dict[str, Any] = {"time": pa.array(times).cast(TIME)}
    fields = [pa.field("time", TIME), *layout.arrow_schema()]
    for column in layout.columns:
        values = [row[column.field] for row in rows]
        columns[column.name] = pa.array(
            values if column.element is None else [value[column.element] for value in values], column.type
        )
    system: dict[str, Any] = {
        "kafka_partition": [0] * len(rows),
        "kafka_offset": range(len(rows)),
        "kafka_timestamp": times + int(kafka_lag_s * 1e6),
        "kafka_key": [b""] * len(rows),
        "archive_source": ["cluster/topic"] * len(rows),
        "archive_schema": [1] * len(rows),
    }
    for name, told in system.items():
        kind = SYSTEM_COLUMNS[name]
        plain = pa.int64() if pa.types.is_timestamp(kind) else kind
        columns[name] = pa.array(list(told), plain).cast(kind)
        fields.append(pa.field(name, kind))
    table = pa.Table.from_arrays([columns[field.name] for field in fields], schema=pa.schema(fields))
    starts = slice_starts(times, unit)
    files, avro_bytes = [], {}
    for start in np.unique(starts):
        part = Slice(int(start), unit)
        files.append(
            write_data_file(
                archive.store,
                archive.relative(dataset),
                part.week.key,
                part.key,
                sort_rows(table.filter(pa.array(starts == start))),
            )
        )
        sizes = [_avro_bytes(parsed, row) for row, of in zip(rows, starts, strict=True) if of == start]
        avro_bytes[f"{part.week.key}|{part.key}"] = sum(sizes)
    made = commit(
        archive.store,
        archive.relative(dataset),
        None,
        add=files,
        transactions={"kafka:cluster/topic:0": (None, len(rows))},
        schema=table.schema,
        description={"format": 1, "slice": unit.value, "arrays": "flat", "dataset": dataset.text,
                     "time_field": "private_efdStamp"},
        note={"kind": "drain", "run": "test", "records": len(rows), "avro_bytes": avro_bytes},
    )  # fmt: skip
    archive.ledger.append(rows_of(RAW, dataset, made))
    return sum(avro_bytes.values())


def _avro_bytes(parsed: Any, row: Mapping[str, Any]) -> int:
    written = io.BytesIO()
    fastavro.schemaless_writer(written, parsed, row)
    return FRAME_BYTES + len(written.getvalue())
