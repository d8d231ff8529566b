"""Manifests: what an export says of itself, for programs (`manifest.json`).

Where the rows came from (archive, table versions, certificates, a digest of the files read), what was asked for, what
is in the files (rows, times, SHA-256), what was left out (repeated records, quarantined and dead rows), which gaps the
archive knows of, until when it is kept, and how to open it. The text for people: `readme.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from efd_pipelines.exports.parts import Part
from efd_pipelines.exports.provenance import Provenance
from efd_pipelines.exports.readme import README, snippets
from efd_pipelines.exports.request import Request
from efd_pipelines.exports.selection import Selection
from efd_pipelines.times import from_microseconds

FORMAT = "efd-export/2"


@dataclass(frozen=True, slots=True)
class TopicExport:
    """What was written of one dataset."""

    selection: Selection
    parts: tuple[Part, ...]
    repeated: int

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    def to_json(self, known: Provenance) -> dict[str, Any]:
        one = self.selection
        name = one.dataset.text
        return {
            "dataset": name,
            "directory": name if self.parts else None,
            "table": one.table,
            "table_version": one.snapshot.version,
            "inputs_sha256": one.inputs,
            "resampled_s": None if one.source.window_us is None else one.source.window_us / 1e6,
            "rows": self.rows,
            "bytes": self.size_bytes,
            "bytes_in_memory": sum(part.memory_bytes for part in self.parts),
            "repeated_records_left_out": self.repeated,
            "rows_of_the_whole_dataset_without_a_time_or_meaning": dict(one.outside),
            "certificates": [dict(of) for of in known.certificates.get(name, ())],
            "gaps": [dict(gap) for gap in known.gaps.get(name, ())],
            "columns": [_column(column) for column in one.schema],
            "files": [part.to_json() for part in self.parts],
        }


def manifest_of(
    request: Request,
    archive: str,
    topics: Sequence[TopicExport],
    made_at: datetime,
    known: Provenance,
    *,
    where: str,
    keep_days: float | None = None,
) -> dict[str, Any]:
    """The manifest's content. `where` is the export's address; it is removable after `keep_days`."""
    filled = [topic for topic in topics if topic.parts]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "request": request.to_json(),
        "archive": archive,
        "made_by": {"tool": "efd_pipelines", "version": tool_version()},
        "made_at": made_at.isoformat(timespec="seconds"),
        "expires_at": expires_at(made_at, keep_days),
        "rows": sum(topic.rows for topic in topics),
        "bytes": sum(topic.size_bytes for topic in topics),
        "notes": list(known.notes),
        "texts": [README],
        "topics": [topic.to_json(known) for topic in topics],
    }
    if topics and topics[0].selection.ranges.windows is not None:
        windows = topics[0].selection.ranges.windows
        of = zip(windows.numbers, windows.begin_us, windows.end_us, strict=True)
        manifest["windows"] = [
            {windows.column: number, "from": _iso(begin), "to_included": _iso(end)} for number, begin, end in of
        ]
    if filled:
        first = filled[0]
        manifest["open_it"] = snippets(f"{where}/{first.selection.dataset.text}", first.selection.schema)
    return manifest


def expires_at(made_at: datetime, keep_days: float | None) -> str | None:
    return None if keep_days is None else (made_at + timedelta(days=keep_days)).isoformat(timespec="seconds")


def tool_version() -> str:
    try:
        return version("efd_pipelines")
    except PackageNotFoundError:
        return "unknown"


def encoded(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def _iso(time_us: int) -> str:
    return from_microseconds(time_us).isoformat()


def _column(column: pa.Field[Any]) -> dict[str, str]:
    metadata = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
    return {
        "name": column.name,
        "type": str(column.type),
        "units": metadata.get("units", ""),
        "description": metadata.get("description", ""),
    }
