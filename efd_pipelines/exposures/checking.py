"""Checking: a transformation configuration against the topics that there are.

For `efd exposures check`: what a configuration names and topics lack, with the nearest names. Topics are those of the
catalogue (registry), or of the archive where there is no registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.errors import UnknownDataset
from efd_pipelines.exposures.columns import TopicColumns, UnknownField, select
from efd_pipelines.exposures.configuration import ExposureColumn, Transformation
from efd_pipelines.topics.layout import plan_layout
from efd_pipelines.topics.names import Dataset, nearest
from efd_pipelines.topics.schemas import TopicSchema


@dataclass(frozen=True, slots=True)
class KnownTopics:
    """The datasets that there are, and the columns that each has (None: there is no such dataset)."""

    datasets: frozenset[str]
    schema_of: Callable[[Dataset], pa.Schema | None]

    @classmethod
    def of_archive(cls, archive: Archive) -> KnownTopics:
        """What has been archived."""

        def schema_of(dataset: Dataset) -> pa.Schema | None:
            try:
                return archive.snapshot(dataset).schema
            except UnknownDataset:
                return None

        return cls(frozenset(dataset.text for dataset in archive.datasets()), schema_of)

    @classmethod
    def of_schemas(cls, schemas: Iterable[tuple[Dataset, TopicSchema]]) -> KnownTopics:
        """What is registered: datasets with their newest schema."""
        known = dict(schemas)

        def schema_of(dataset: Dataset) -> pa.Schema | None:
            schema = known.get(dataset)
            return None if schema is None else plan_layout(schema).arrow_schema()

        return cls(frozenset(dataset.text for dataset in known), schema_of)


@dataclass(frozen=True, slots=True)
class ColumnProblem:
    """Why a column is NULL, or rests on fewer topics than it names; `kind` is `topic` or `field`."""

    column: str
    topic: str
    kind: str
    detail: str
    at: str


@dataclass(frozen=True, slots=True)
class ConfigurationCheck:
    """What a check found; `ok` unless a topic or field is missing."""

    source: str
    version: str
    columns: int
    topics: int
    problems: tuple[ColumnProblem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def check_configuration(transformation: Transformation, known: KnownTopics) -> ConfigurationCheck:
    """Compares a configuration with the topics that there are.

    Raises:
        StoreUnavailable: the archive does not answer.
    """
    topics: dict[Dataset, TopicColumns | None] = {}
    for dataset in transformation.datasets:
        schema = known.schema_of(dataset)
        topics[dataset] = None if schema is None else TopicColumns(dataset, schema)
    return ConfigurationCheck(
        source=transformation.source,
        version=transformation.version,
        columns=len(transformation.columns),
        topics=len(topics),
        problems=tuple(
            problem
            for column in transformation.columns
            for problem in _problems(column, transformation.at(column.name), topics, known)
        ),
    )


def _problems(
    column: ExposureColumn, at: str, topics: dict[Dataset, TopicColumns | None], known: KnownTopics
) -> Iterator[ColumnProblem]:
    for topic in column.topics:
        columns = topics[topic.dataset]
        if columns is None:
            hint = nearest(topic.name, known.datasets)
            yield ColumnProblem(column.name, topic.name, "topic", f"there is no {topic.name}{hint}", at)
            continue
        try:
            select(column, topic, columns)
        except UnknownField as error:
            yield ColumnProblem(column.name, topic.name, "field", error.message, at)
