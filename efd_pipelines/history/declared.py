"""Declared: what a dataset's messages are declared as, for values that lost their types on the way.

The newest schema that the archive has seen of the topic, else the registry's, else none: then the table's columns
tell, or, for a dataset that nobody knows any more, InfluxDB's own types.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.errors import DataError
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema, parse_schema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings


class DeclaredSchemas:
    """Schemas by dataset, each looked for once; safe to use from several threads."""

    def __init__(self, archive: Archive, settings: Settings) -> None:
        self._settings = settings
        self._kept = WriterSchemas(archive.store)
        self._registries = Registries(settings) if settings.registry_url else None
        self._found: dict[Dataset, TopicSchema | None] = {}
        self._seen: dict[str, str] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._registries is not None:
            self._registries.close()

    def of(self, dataset: Dataset) -> TopicSchema | None:
        """The schema, None where there is none.

        Raises:
            RegistryUnavailable, StoreUnavailable: no answer is not the answer that there is none.
        """
        with self._lock:
            if dataset not in self._found:
                self._found[dataset] = self._archived(dataset) or self._registered(dataset)
            return self._found[dataset]

    def _archived(self, dataset: Dataset) -> TopicSchema | None:
        if self._seen is None:
            self._seen = self._kept.newest()
        text = self._seen.get(dataset.topic)
        return None if text is None else parse_schema(text)

    def _registered(self, dataset: Dataset) -> TopicSchema | None:
        if self._registries is None:
            return None
        try:
            return self._registries.latest(dataset.cluster, f"{dataset.topic}-value").schema
        except DataError:
            return None  # no subject, or one that is no record: the table, or InfluxDB, tells
