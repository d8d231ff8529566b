"""Sizes: how much each topic takes, in each place that stores it.

The archive and the tiers are measured from the ledger, by adding up what each commit added to and took from a
week; published topic sizes (appendix A of seed 001) can stand in for live ones. A size is never without its
label: Avro bytes as they came from Kafka, Parquet bytes of the archive, Parquet bytes of the tiers, Kafka
topic sizes. What belongs here: measuring. What is made of the sizes: `throughput.py`.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pyarrow as pa

from efd_pipelines.errors import UsageError
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset, Kind, kind_of_name

MB = 1_000_000
"""Bytes of a megabyte, as in the published tables."""

_NAMES = ("week", "topic", "component", "kind")
_COUNTS = ("rows", "messages", "files", "size_bytes", "avro_bytes", "parquet_bytes", "tier_bytes")
_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(_NAMES, pa.string()),
    **dict.fromkeys(_COUNTS, pa.int64()),
}
TOPIC_SIZES = pa.schema(_TYPES)
"""One row per week and topic; null is "not measured". `size_bytes` is what the report's shares are of."""

TELEMETRY_FILE = "table4_telemetry_topics.csv"
EVENT_FILE = "table5_event_topics.csv"


class Measure(Enum):
    """What `size_bytes` is, so that no figure is shown without its label."""

    AVRO = "Avro bytes received from Kafka"
    PUBLISHED = "sizes of the topics in Kafka, as published"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What was measured.

    `outside` counts the rows that arrived in these weeks and belong to none, by `quarantine` and `dead`;
    `last_at` is when the newest commit that counts here was made.
    """

    measure: Measure
    topics: pa.Table
    outside: dict[str, int]
    last_at: str
    label: str = ""


def newest_week(ledger: pa.Table) -> Week | None:
    """The newest week of which the archive holds rows, by the ledger's table."""
    found = _ask(
        "SELECT max(week) AS week FROM (SELECT week FROM ledger WHERE \"table\" = 'raw' AND week LIKE '2%'"
        " GROUP BY week HAVING sum(rows) > 0)",
        ledger=ledger,
    )
    key = found.column("week")[0].as_py()
    return None if key is None else Week.parse(key)


def sizes_of_weeks(ledger: pa.Table, weeks: Sequence[Week]) -> Sizes:
    """The archive's and the tiers' sizes in `weeks`, from the ledger's table.

    `messages` are the rows that Kafka delivered, kept or let go since; `rows` are kept, and count history that was
    filled in as well, which has no Avro size.
    """
    wanted = pa.table({"week": pa.array([week.key for week in weeks], pa.string())})
    topics = _ask(_TOPIC_QUERY, ledger=ledger, wanted=wanted).cast(TOPIC_SIZES)
    last = _ask(_LAST_QUERY, ledger=ledger, wanted=wanted)
    return Sizes(Measure.AVRO, topics, _outside(ledger, weeks), last.column("last_at")[0].as_py() or "")


def published_sizes(directory: Path) -> Sizes:
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
    topics = pa.Table.from_pylist(rows, schema=TOPIC_SIZES)
    return Sizes(Measure.PUBLISHED, topics, {}, "", label=f"published-{digest}")


_LAST_QUERY = 'SELECT CAST(max("at") AS VARCHAR) AS last_at FROM ledger SEMI JOIN wanted USING (week)'

# `at` is compared, not `week`: what belongs to no week is counted in the week in which it arrived.
_OUTSIDE_QUERY = """
    SELECT week AS place, CAST(greatest(sum(rows), 0) AS BIGINT) AS rows
    FROM ledger
    WHERE "table" = 'raw' AND week IN ('quarantine', 'dead')
      AND epoch_us("at") >= {start} AND epoch_us("at") < {end}
    GROUP BY week
"""

_TOPIC_QUERY = """
    SELECT week, dataset AS topic, any_value(component) AS component, any_value(kind) AS kind,
           CAST(coalesce(sum(rows) FILTER (raw), 0) AS BIGINT) AS rows,
           CAST(coalesce(sum(rows - coalesce(CAST(sealed->'history' AS BIGINT), 0))
                         FILTER (raw AND commit_kind NOT IN ('fill', 'expire')), 0) AS BIGINT) AS messages,
           CAST(coalesce(sum(files) FILTER (raw), 0) AS BIGINT) AS files,
           CAST(coalesce(sum(avro_bytes) FILTER (raw), 0) AS BIGINT) AS size_bytes,
           CAST(coalesce(sum(avro_bytes) FILTER (raw), 0) AS BIGINT) AS avro_bytes,
           CAST(coalesce(sum(bytes) FILTER (raw), 0) AS BIGINT) AS parquet_bytes,
           CAST(coalesce(sum(bytes) FILTER (NOT raw), 0) AS BIGINT) AS tier_bytes
    FROM (SELECT *, "table" = 'raw' AS raw FROM ledger) SEMI JOIN wanted USING (week)
    GROUP BY week, dataset
    HAVING rows <> 0 OR parquet_bytes <> 0 OR tier_bytes <> 0
    ORDER BY week, topic
"""


def _ask(query: str, **relations: pa.Table) -> pa.Table:
    import duckdb

    with duckdb.connect() as connection:
        for name, relation in relations.items():
            connection.register(name, relation)
        return connection.sql(query).to_arrow_table()


def _outside(ledger: pa.Table, weeks: Sequence[Week]) -> dict[str, int]:
    if not weeks:
        return {}
    query = _OUTSIDE_QUERY.format(start=weeks[0].start_us, end=weeks[-1].end_us)
    return {row["place"]: row["rows"] for row in _ask(query, ledger=ledger).to_pylist()}


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
        "topic": Dataset.parse(f"lsst.sal.{component}.{name}").text,
        "component": component,
        "kind": Kind.TELEMETRY if kind is Kind.ACK else kind,
        "size_bytes": size_bytes,
    }
