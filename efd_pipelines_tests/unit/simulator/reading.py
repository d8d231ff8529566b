"""Reading what the simulator wrote with somebody else's decoder: fastavro."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro

from efd_pipelines.simulator.series import Series


def decoded(schema: str, bodies: list[bytes]) -> list[dict[str, Any]]:
    """The records, every byte of each body used."""
    parsed = fastavro.parse_schema(json.loads(schema))
    records: list[Any] = []
    for body in bodies:
        stream = io.BytesIO(body)
        records.append(fastavro.schemaless_reader(stream, parsed, None))
        assert stream.tell() == len(body)
    return records


def records_of(series: Series) -> list[dict[str, Any]]:
    return decoded(series.topic.avro_schema(), series.bodies())
