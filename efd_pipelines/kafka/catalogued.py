"""A topic in the catalogue: what brokers and registry say of it together, and how that is kept as JSON.

All topics, and reading them: `catalogue.py`. What changed between two readings: `changes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from efd_pipelines.kafka.brokers import TopicConfig, Watermarks
from efd_pipelines.topics.layout import MAX_FLAT_COLUMNS, flat_width
from efd_pipelines.topics.names import Dataset, Kind
from efd_pipelines.topics.schemas import TopicSchema, parse_schema


@dataclass(frozen=True, slots=True)
class CatalogueTopic:
    """One topic.

    Args:
        watermarks: by partition; without those that have had no leader since the topic was first seen.
        config: None where it was not told.
        covered: whether the configuration archives it.
        schema_text: the newest schema of its subject; None where it has none.
        schema_ids: ids of the newest schema and of those that were the newest at earlier readings.
        rate_hz: offsets per second since the previous reading; None at the first.
        problem: why its schema cannot be read.
        retired_at: when it was found to be gone.
    """

    topic: str
    dataset: Dataset
    topic_id: str
    partitions: tuple[int, ...]
    watermarks: Mapping[int, Watermarks]
    config: TopicConfig | None
    covered: bool
    value_format: str
    schema_text: str | None = None
    schema_version: int | None = None
    schema_ids: tuple[int, ...] = ()
    rate_hz: float | None = None
    problem: str | None = None
    retired_at: datetime | None = None

    @property
    def component(self) -> str:
        return self.dataset.component

    @property
    def kind(self) -> Kind:
        return self.dataset.kind

    @property
    def schema(self) -> TopicSchema | None:
        return None if self.schema_text is None else parse_schema(self.schema_text)

    @property
    def columns(self) -> int:
        """How many columns its messages have in the archive; 0 without a schema."""
        schema = self.schema
        if schema is None:
            return 0
        width = flat_width(schema)
        return width if width <= MAX_FLAT_COLUMNS else len(schema.fields)

    @property
    def has_records(self) -> bool:
        """Whether a record ever came; it may have expired since."""
        return any(marks.high > 0 for marks in self.watermarks.values())

    @property
    def records(self) -> int:
        """Records that Kafka has now, at most: compaction and transactions leave holes."""
        return sum(marks.high - marks.low for marks in self.watermarks.values())

    @property
    def written(self) -> int:
        """Offsets that were ever given out."""
        return sum(marks.high for marks in self.watermarks.values())


def topic_json(topic: CatalogueTopic, places: Mapping[str, int]) -> dict[str, Any]:
    """The topic as a JSON document; `places` of schema texts in the list that is kept beside."""
    config = topic.config
    return {
        "topic": topic.topic,
        "dataset": topic.dataset.text,
        "topic_id": topic.topic_id,
        "partitions": topic.partitions,
        "watermarks": [[partition, marks.low, marks.high] for partition, marks in topic.watermarks.items()],
        "config": config
        and [config.cleanup_policy, config.retention_ms, config.timestamp_type, config.max_message_bytes],
        "covered": topic.covered,
        "value_format": topic.value_format,
        "schema": None if topic.schema_text is None else places[topic.schema_text],
        "schema_version": topic.schema_version,
        "schema_ids": topic.schema_ids,
        "rate_hz": topic.rate_hz,
        "problem": topic.problem,
        "retired_at": topic.retired_at and topic.retired_at.isoformat(),
    }


def topic_of(document: Mapping[str, Any], texts: Sequence[str]) -> CatalogueTopic:
    """What `topic_json` made."""
    config = document["config"]
    retired_at = document["retired_at"]
    return CatalogueTopic(
        topic=document["topic"],
        dataset=Dataset.parse(document["dataset"]),
        topic_id=document["topic_id"],
        partitions=tuple(document["partitions"]),
        watermarks={partition: Watermarks(low, high) for partition, low, high in document["watermarks"]},
        config=TopicConfig(*config) if config else None,
        covered=document["covered"],
        value_format=document["value_format"],
        schema_text=None if document["schema"] is None else texts[document["schema"]],
        schema_version=document["schema_version"],
        schema_ids=tuple(document["schema_ids"]),
        rate_hz=document["rate_hz"],
        problem=document["problem"],
        retired_at=datetime.fromisoformat(retired_at) if retired_at else None,
    )
