"""Estimates: what topics would send that have not been exercised yet, from their schemas alone.

Bytes of a message by its declared types and array lengths, times the declared rate of the configuration, times the
share of time that components are taken to be enabled. Whole numbers and texts have no length in a schema: what they are
taken for is said with the result (`ASSUMED`), and what arrays of no declared length have is one element.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.discovered import kept
from efd_pipelines.storage.contents import FRAME_BYTES
from efd_pipelines.storage.page import Section
from efd_pipelines.storage.svg import bytes_text
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema, parse_schema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.configuration import Configuration
    from efd_pipelines.storage.throughput import StorageReport

ASSUMED: Mapping[str, float] = {
    "boolean": 1.0,
    "int": 2.0,
    "long": 4.0,
    "float": 4.0,
    "double": 8.0,
    "string": 12.0,
    "bytes": 12.0,
    "json": 32.0,
}
"""Avro bytes of a value of each type: exact for numbers with a point, taken from experience for the others."""

_YEAR_S = 365.25 * 86400


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a topic would send in a year: bytes of a message, declared rate, TB."""

    topic: str
    component: str
    message_bytes: float
    rate_hz: float
    tb_year: float

    def to_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "component": self.component,
            "message_bytes": round(self.message_bytes, 1),
            "rate_hz": self.rate_hz,
            "tb_year": round(self.tb_year, 6),
        }


def message_bytes(schema: TopicSchema) -> float:
    """Avro bytes of a message with its frame, as its schema declares it."""
    size = float(FRAME_BYTES)
    for field in schema.fields:
        value = ASSUMED[field.type] + (1.0 if field.nullable else 0.0)
        size += value * (field.length or 1) + 3.0 if field.array else value
    return size


def estimates(
    schemas: Iterable[tuple[Dataset, str]], configuration: Configuration, seen: Collection[str], enabled: float = 1.0
) -> list[Estimate]:
    """What the topics that are not among those seen would send, the largest first.

    Args:
        schemas: datasets with their Avro schemas.
        enabled: share of the time that components are taken to be enabled.
    """
    found = []
    for dataset, text in schemas:
        if dataset.text not in seen:
            size, rate = message_bytes(parse_schema(text)), configuration.rate_hz(dataset)
            found.append(Estimate(dataset.text, dataset.component, size, rate, size * rate * enabled * _YEAR_S / 1e12))
    return sorted(found, key=lambda one: (-one.tb_year, one.topic))


def unexercised(archive: Archive, report: StorageReport) -> list[Estimate]:
    """Estimates of the topics that discovery found and of which nothing was ever sent or archived; none without it.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    catalogue = kept(archive.store)
    if catalogue is None:
        return []
    seen = report.gathered.seen | set(report.topics["topic"])
    silent = [one for one in catalogue.topics if not one.has_records]
    schemas = [(one.dataset, one.schema_text) for one in silent if one.schema_text is not None]
    return estimates(schemas, archive.settings.configuration, seen)


def estimates_section(found: Sequence[Estimate], most: int = 20) -> Section | None:
    """The estimates by component, as a section of the report's page."""
    from efd_pipelines.storage import charts

    if not found:
        return None
    sums: dict[str, float] = {}
    for one in found:
        sums[one.component] = sums.get(one.component, 0.0) + one.tb_year
    ordered = sorted(sums.items(), key=lambda one: (-one[1], one[0]))[:most]
    topics = "1 topic has" if len(found) == 1 else f"{len(found):,} topics have"
    title = f"{topics} sent nothing yet: {ordered[0][0]} would send most, {_tb(ordered[0][1])} a year"
    drawn = [charts.Bar(name, [size * 1e12], f"{_tb(size)} a year") for name, size in ordered]
    svg = charts.bars("estimates", title, drawn, ["estimate"], "Avro bytes a year, if always enabled")
    words = ["From schemas alone: declared types and rates; texts as 12 bytes, whole numbers as 2 (int) and 4 (long)."]
    rows = [[one.topic, f"{one.message_bytes:,.0f} B", f"{one.rate_hz:g} Hz", _tb(one.tb_year)] for one in found[:100]]
    return Section("estimates", title, svg, words, ["topic", "message", "declared rate", "a year"], rows)


def _tb(size_tb: float) -> str:
    return bytes_text(size_tb * 1e12)
