"""Manifests: what an export says of itself, for programs (`manifest.json`) and for people (`README.md`).

Where the rows came from (archive, table versions, a digest of the files read), what was asked for, what is in
the files (rows, times, SHA-256), what was left out (repeated records, quarantined and dead rows) and which
gaps the archive knows of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from efd_pipelines.exports.parts import Part
from efd_pipelines.exports.request import Request, Selection

FORMAT = "efd-export/1"
README = "README.md"


@dataclass(frozen=True, slots=True)
class TopicExport:
    """What was written of one dataset."""

    selection: Selection
    parts: tuple[Part, ...]
    repeated: int
    gaps: tuple[Mapping[str, Any], ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        one = self.selection
        return {
            "dataset": one.dataset.text,
            "directory": one.dataset.text if self.parts else None,
            "table": one.table,
            "table_version": one.snapshot.version,
            "inputs_sha256": one.inputs,
            "rows": self.rows,
            "bytes": self.size_bytes,
            "repeated_records_left_out": self.repeated,
            "rows_of_the_whole_dataset_without_a_time_or_meaning": dict(one.outside),
            "gaps": [dict(gap) for gap in self.gaps],
            "columns": [_column(column) for column in one.schema],
            "files": [part.to_json() for part in self.parts],
        }


def manifest_of(
    request: Request, archive: str, topics: Sequence[TopicExport], made_at: datetime, notes: Sequence[str]
) -> dict[str, Any]:
    """The manifest's content."""
    return {
        "format": FORMAT,
        "request": request.to_json(),
        "archive": archive,
        "made_by": {"tool": "efd_pipelines", "version": tool_version()},
        "made_at": made_at.isoformat(timespec="seconds"),
        "rows": sum(topic.rows for topic in topics),
        "bytes": sum(topic.size_bytes for topic in topics),
        "notes": list(notes),
        "topics": [topic.to_json() for topic in topics],
    }


def tool_version() -> str:
    try:
        return version("efd_pipelines")
    except PackageNotFoundError:
        return "unknown"


def encoded(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def readme(manifest: Mapping[str, Any], where: str) -> str:
    """The text beside the data: what it is, and how to open it with each tool."""
    request = manifest["request"]
    filled = [topic for topic in manifest["topics"] if topic["files"]]
    lines = [
        f"| {topic['dataset']} | {topic['table']} | {topic['rows']:,} | {len(topic['files'])}"
        f" | {topic['files'][0]['from']} | {topic['files'][-1]['to']} | {len(topic['gaps'])} |"
        for topic in filled
    ]
    empty = [topic["dataset"] for topic in manifest["topics"] if not topic["files"]]
    return _README.format(
        start=request["from"],
        end=request["to"],
        version=manifest["made_by"]["version"],
        topics="\n".join(lines),
        empty=f"\nWithout rows in this range: {', '.join(empty)}.\n" if empty else "",
        notes="".join(f"\n> {note}\n" for note in manifest["notes"]),
        address=f"{where}/{filled[0]['directory']}",
        column=_example(filled[0]["columns"]),
        s3=_S3 if where.startswith("s3://") else "",
    )


def _column(column: pa.Field[Any]) -> dict[str, str]:
    metadata = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
    return {
        "name": column.name,
        "type": str(column.type),
        "units": metadata.get("units", ""),
        "description": metadata.get("description", ""),
    }


def _example(columns: Sequence[Mapping[str, str]]) -> str:
    """A column worth looking at: the first number of the message's own."""
    names = [
        column["name"]
        for column in columns
        if column["type"] in ("float", "double", "int32", "int64")
        and not column["name"].startswith(("private_", "salIndex"))
    ]
    return names[0] if names else str(columns[-1]["name"])


_S3 = """
On S3 give each reader your endpoint and keys (`storage_options`, or DuckDB's `CREATE SECRET`).
"""

_README = """# Engineering data, {start} to {end} (end excluded)

Parquet files sorted by `time` (UTC), one directory per topic, made by efd_pipelines {version}.
`manifest.json` says where the rows came from, their columns and units, and the SHA-256 of each file.
An export without a manifest is unfinished. Move it as a whole and as it is.

| topic | from | rows | files | first | last | known gaps |
| --- | --- | ---: | ---: | --- | --- | ---: |
{topics}
{empty}{notes}
Repeated records are counted once; rows without a possible time and frames that could not be decoded are not
here. A missing number is NaN where the message said NaN, and null where it said nothing.

## Dask

```python
import dask.dataframe as dd

frame = dd.read_parquet("{address}", index="time", calculate_divisions=True)
assert frame.known_divisions
frame["{column}"].mean().compute()
```

## pandas

```python
import pandas as pd

frame = pd.read_parquet("{address}").set_index("time")
frame["{column}"].describe()
```

## DuckDB

```sql
SELECT count(*), min(time), max(time), avg("{column}")
FROM read_parquet('{address}/*.parquet');
```

## Polars

```python
import polars as pl

frame = pl.scan_parquet("{address}/*.parquet")
frame.select("time", "{column}").collect()
```
{s3}"""
