"""Sizes: what is measured of a period, and how the published sizes stand in for it.

Published topic sizes (appendix A of seed 001) are brought into the form of the tidy table (`tidy.py`), so that a report
is made of them as of an archive's. A size is never without its label: Avro bytes as they came from Kafka, Parquet bytes
of the archive and of the tiers, Kafka topic sizes. What is made of the sizes: `throughput.py`.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pyarrow as pa

from efd_pipelines.errors import UsageError
from efd_pipelines.storage.tidy import RECEIVED, WEEKLY_SIZES
from efd_pipelines.topics.names import Dataset, Kind, kind_of_name

MB = 1_000_000
"""Bytes of a megabyte, as in the published tables."""

TELEMETRY_FILE = "table4_telemetry_topics.csv"
EVENT_FILE = "table5_event_topics.csv"


class Measure(Enum):
    """What a report's shares are of, so that no figure is shown without its label."""

    AVRO = "Avro bytes received from Kafka"
    PUBLISHED = "sizes of the topics in Kafka, as published"


@dataclass(frozen=True, slots=True)
class PublishedSizes:
    """Topic sizes in the tidy form, of no week; `label` tells one set of files from another."""

    topics: pa.Table
    label: str


def published_sizes(directory: Path) -> PublishedSizes:
    """The sizes of `table4_telemetry_topics.csv` and `table5_event_topics.csv`.

    Component and kind come from the topic's name: the first letters of the printed components are broken. The
    published summaries count acknowledgements as telemetry, so they are telemetry here.

    Raises:
        UsageError: a file is missing or is no such table.
    """
    texts = [_text(directory / name) for name in (TELEMETRY_FILE, EVENT_FILE)]
    rows = [
        row
        for name, text in zip((TELEMETRY_FILE, EVENT_FILE), texts, strict=True)
        for row in _published_rows(directory / name, text)
    ]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    return PublishedSizes(pa.Table.from_pylist(rows, schema=WEEKLY_SIZES), label=f"published-{digest}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read ({error})",
            remedy=f"--sizes takes a directory with {TELEMETRY_FILE} and {EVENT_FILE}.",
        ) from error


def _published_rows(path: Path, text: str) -> list[dict[str, object]]:
    reader = csv.DictReader(text.splitlines())
    if not {"topic", "size_mb"} <= set(reader.fieldnames or ()):
        raise UsageError(f"{path} has no columns topic and size_mb", remedy="Its first line names the columns.")
    return [_published_row(path, number, row) for number, row in enumerate(reader, start=2)]


def _published_row(path: Path, number: int, row: dict[str, str]) -> dict[str, object]:
    try:
        size_bytes = round(float(row["size_mb"]) * MB)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{path}, line {number}: {row['size_mb']!r} is no size in MB", remedy="") from None
    component, dot, name = (row["topic"] or "").partition(".")
    if not dot or not component or not name or size_bytes < 0:
        raise UsageError(
            f"{path}, line {number}: {row['topic']!r}, {row['size_mb']} is no topic and size",
            remedy="A line is as MTM1M3,MTM1M3.forceActuatorData,70423.",
        )
    kind = kind_of_name(name)
    return {
        "week": "",
        "store": RECEIVED,
        "topic": Dataset.parse(f"lsst.sal.{component}.{name}").text,
        "component": component,
        "subsystem": "",
        "kind": (Kind.TELEMETRY if kind is Kind.ACK else kind).value,
        "place": "",
        "how": Measure.PUBLISHED.value,
        "bytes": size_bytes,
    }
