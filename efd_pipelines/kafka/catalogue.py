"""The catalogue: every topic of the EFD as discovery sees it, and what changed since it was last read.

Brokers and registry together: identity, partitions, watermarks and settings of a topic, and the newest schema of
its subject. A component registers all of its topics when it starts, so a topic that is there is one event and
its first record another. What is not there any more is retired, not forgotten. A read that fails raises: it
never makes a catalogue with fewer topics. The caller keeps the catalogue (`to_json`) and gives it to the next
reading, which then costs seconds: all topics are asked for offsets, but the registry only for what may be new.
One topic of it: `catalogued.py`. What changed: `changes.py`.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from efd_pipelines.errors import DataError, EfdError, NameRejected
from efd_pipelines.kafka.brokers import Brokers, TopicConfig, TopicInfo, Watermarks
from efd_pipelines.kafka.catalogued import CatalogueTopic, topic_json, topic_of
from efd_pipelines.kafka.changes import CatalogueChange, SchemaChange, changes_between
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.settings import Settings
from efd_pipelines.topics.names import Dataset, dataset_of

__all__ = ["Catalogue", "CatalogueChange", "CatalogueTopic", "SchemaChange", "read_catalogue"]

FORMAT = 1
_THREADS = 8
# Each reading asks again about one part of what it believes to know: after so many readings, about all of it.
_PARTS = 20
# A registry's ids rise; so many unknown ones in a row end the search for new ones. What hides behind a larger hole
# is found when its part's turn comes.
_UNKNOWN_IDS = 16
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All topics of the EFD at one moment, sorted by dataset.

    Args:
        retired: topics that earlier readings saw and that are gone, as they last were.
        rejected: topics whose names cannot be a dataset's, with the reason.
    """

    read_at: datetime
    cluster_id: str
    topics: tuple[CatalogueTopic, ...]
    retired: tuple[CatalogueTopic, ...] = ()
    rejected: Mapping[str, str] = field(default_factory=dict)
    highest_ids: Mapping[str, int] = field(default_factory=dict)
    part: int = 0

    def components(self) -> list[str]:
        """The components that have topics, sorted."""
        return sorted({topic.component for topic in self.topics})

    def of(self, component: str) -> list[CatalogueTopic]:
        """The topics of one component."""
        return [topic for topic in self.topics if topic.component == component]

    def difference(self, previous: Catalogue | None) -> CatalogueChange:
        """What is different from an earlier reading; without one, everything is new."""
        return changes_between(previous.topics if previous else (), self.topics)

    def to_json(self) -> str:
        """All of it as one JSON document; some 0.3 kB a topic."""
        texts = sorted({topic.schema_text for topic in (*self.topics, *self.retired) if topic.schema_text})
        places = {text: place for place, text in enumerate(texts)}
        document = {
            "format": FORMAT,
            "read_at": self.read_at.isoformat(),
            "cluster_id": self.cluster_id,
            "topics": [topic_json(topic, places) for topic in self.topics],
            "retired": [topic_json(topic, places) for topic in self.retired],
            "rejected": dict(self.rejected),
            "highest_ids": dict(self.highest_ids),
            "part": self.part,
            # Schemas repeat each other: a twentieth of their size.
            "schemas": base64.b64encode(zlib.compress(json.dumps(texts).encode(), 1)).decode(),
        }
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Catalogue:
        """What `to_json` wrote.

        Raises:
            DataError: it is something else.
        """
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise DataError(f"The catalogue has the format {document['format']}, not {FORMAT}", remedy=_READ_ANEW)
            texts = json.loads(zlib.decompress(base64.b64decode(document["schemas"])))
            return cls(
                read_at=datetime.fromisoformat(document["read_at"]),
                cluster_id=document["cluster_id"],
                topics=tuple(topic_of(topic, texts) for topic in document["topics"]),
                retired=tuple(topic_of(topic, texts) for topic in document["retired"]),
                rejected=document["rejected"],
                highest_ids=document["highest_ids"],
                part=document["part"],
            )
        except (ValueError, KeyError, TypeError, IndexError, zlib.error) as error:
            raise DataError(f"This is no catalogue ({error!r})", remedy=_READ_ANEW) from error


_READ_ANEW = "Read it anew, without a previous one."


def read_catalogue(settings: Settings, previous: Catalogue | None = None) -> Catalogue:
    """All topics of the EFD as they are now.

    Raises:
        KafkaUnavailable, RegistryUnavailable: an answer is missing; the previous catalogue stands.
        SettingsError: the brokers or the registry are not configured.
    """
    with Brokers(settings) as brokers, Registries(settings) as registries:
        return _Reading(settings, brokers, registries, previous).catalogue()


class _Reading:
    """One reading of the catalogue."""

    def __init__(
        self, settings: Settings, brokers: Brokers, registries: Registries, previous: Catalogue | None
    ) -> None:
        self._settings = settings
        self._brokers = brokers
        self._registries = registries
        self._previous = previous
        self._known = {topic.topic: topic for topic in previous.topics} if previous else {}
        self._part = (previous.part + 1) % _PARTS if previous else 0
        self._highest = dict(previous.highest_ids) if previous else {}

    def catalogue(self) -> Catalogue:
        infos = self._infos()
        datasets, rejected = self._datasets(infos)
        watermarks = self._brokers.offsets(datasets)
        configs = self._configs(datasets, infos)
        now = datetime.now(UTC)
        topics = [
            self._topic(infos[name], dataset, watermarks.get(name, {}), configs.get(name), now)
            for name, dataset in sorted(datasets.items(), key=lambda item: (item[1].text, item[0]))
        ]
        topics = self._with_schemas(topics)
        return Catalogue(
            read_at=now,
            cluster_id=self._brokers.cluster_id(),
            topics=tuple(topics),
            retired=self._retired(topics, now),
            rejected=rejected,
            highest_ids=self._highest,
            part=self._part,
        )

    def _infos(self) -> dict[str, TopicInfo]:
        infos = self._brokers.topics()
        missing = [name for name in self._known if name not in infos]
        if missing:
            # A broker that has just started may not know all of its topics yet.
            time.sleep(_LOOK_AGAIN_S)
            infos |= self._brokers.describe(missing)
        return infos

    def _datasets(self, names: Iterable[str]) -> tuple[dict[str, Dataset], dict[str, str]]:
        datasets: dict[str, Dataset] = {}
        rejected: dict[str, str] = {}
        for name in names:
            try:
                dataset = dataset_of(name, self._settings.home_prefixes)
            except NameRejected as error:
                rejected[name] = error.message
                continue
            if dataset is not None:
                datasets[name] = dataset
        return datasets, rejected

    def _is_due(self, name: str) -> bool:
        """Whether this reading asks again about what is known of the topic."""
        return zlib.crc32(name.encode()) % _PARTS == self._part

    def _configs(self, names: Iterable[str], infos: Mapping[str, TopicInfo]) -> dict[str, TopicConfig]:
        kept: dict[str, TopicConfig] = {}
        wanted = []
        for name in names:
            old = self._known.get(name)
            if old is None or old.config is None or old.topic_id != infos[name].topic_id or self._is_due(name):
                wanted.append(name)
            else:
                kept[name] = old.config
        return kept | self._brokers.configs(wanted)

    def _topic(
        self,
        info: TopicInfo,
        dataset: Dataset,
        watermarks: Mapping[int, Watermarks],
        config: TopicConfig | None,
        now: datetime,
    ) -> CatalogueTopic:
        topic = CatalogueTopic(
            topic=info.name,
            dataset=dataset,
            topic_id=info.topic_id,
            partitions=info.partitions,
            watermarks=watermarks,
            config=config,
            covered=self._settings.configuration.topics.covers(dataset),
            value_format=self._settings.configuration.value_format(dataset),
        )
        old = self._known.get(info.name)
        if old is None or self._previous is None:
            return topic
        # A partition that has no leader now tells no offsets; those that it had stay.
        known = old.watermarks if old.topic_id == topic.topic_id else {}
        return replace(
            topic,
            watermarks={**known, **watermarks},
            schema_text=old.schema_text,
            schema_version=old.schema_version,
            schema_ids=old.schema_ids,
            problem=old.problem,
            rate_hz=_rate(old, topic, (now - self._previous.read_at).total_seconds()),
        )

    def _retired(self, topics: Sequence[CatalogueTopic], now: datetime) -> tuple[CatalogueTopic, ...]:
        if self._previous is None:
            return ()
        here = {topic.topic for topic in topics}
        gone = {topic.topic: topic for topic in self._previous.retired if topic.topic not in here}
        for topic in self._previous.topics:
            if topic.topic not in here:
                gone[topic.topic] = replace(topic, retired_at=now, rate_hz=None)
        return tuple(sorted(gone.values(), key=lambda topic: topic.dataset.text))

    # Schemas

    def _with_schemas(self, topics: Sequence[CatalogueTopic]) -> list[CatalogueTopic]:
        """The topics with the newest schemas of their subjects."""
        by_registry: dict[str, list[CatalogueTopic]] = {}
        for topic in topics:
            if topic.value_format == "avro":
                by_registry.setdefault(self._registries.url(topic.dataset.cluster), []).append(topic)
        found: dict[str, CatalogueTopic] = {}
        for url, mine in by_registry.items():
            cluster = mine[0].dataset.cluster
            subjects = frozenset(self._registries.subjects(cluster))
            moved = self._moved_subjects(url, cluster)
            asked = [
                (topic, subject)
                for topic in mine
                if (subject := _subject(topic, subjects)) and self._is_asked(topic, subject, moved)
            ]
            for topic in self._in_parallel(lambda item: self._latest(*item), asked):
                found[topic.topic] = topic
                self._highest[url] = max(self._highest.get(url, 0), *topic.schema_ids, 0)
        return [found.get(topic.topic, topic) for topic in topics]

    def _is_asked(self, topic: CatalogueTopic, subject: str, moved: frozenset[str]) -> bool:
        return (topic.schema_text is None and topic.problem is None) or subject in moved or self._is_due(topic.topic)

    def _moved_subjects(self, url: str, cluster: str) -> frozenset[str]:
        """The subjects that got a version since the previous reading: those of ids that were not known then."""
        if self._previous is None or url not in self._highest:
            return frozenset()
        moved: set[str] = set()
        first = self._highest[url] + 1
        while True:
            ids = range(first, first + _UNKNOWN_IDS)
            found = dict(zip(ids, self._in_parallel(lambda n: self._registries.versions(cluster, n), ids), strict=True))
            present = [schema_id for schema_id, subjects in found.items() if subjects]
            if not present:
                return frozenset(moved)
            moved.update(subject for subjects in found.values() for subject in subjects)
            self._highest[url] = max(present)
            first = self._highest[url] + 1

    def _latest(self, topic: CatalogueTopic, subject: str) -> CatalogueTopic:
        try:
            newest = self._registries.latest(topic.dataset.cluster, subject)
        except DataError as error:
            # Not an Avro record, or deleted this moment: what was known of it stays.
            return replace(topic, problem=error.message)
        ids = (*(known for known in topic.schema_ids if known != newest.id), newest.id)
        return replace(
            topic,
            schema_text=newest.schema.text,
            schema_version=newest.version,
            schema_ids=ids,
            problem=None,
        )

    def _in_parallel(self, question: Callable[[Any], Any], things: Iterable[Any]) -> list[Any]:
        with ThreadPoolExecutor(_THREADS) as pool:
            answers = [pool.submit(question, thing) for thing in things]
            try:
                return [answer.result() for answer in answers]
            except EfdError:
                pool.shutdown(cancel_futures=True)
                raise


def _subject(topic: CatalogueTopic, subjects: frozenset[str]) -> str | None:
    """The subject of a topic: a mirror's is registered without the mirror's prefix (efd-facts §2.3)."""
    candidates = (f"{topic.dataset.topic}-value", f"{topic.topic}-value")
    return next((subject for subject in candidates if subject in subjects), None)


def _rate(old: CatalogueTopic, new: CatalogueTopic, seconds: float) -> float | None:
    if old.topic_id != new.topic_id or seconds <= 0:
        return None
    return max(0, new.written - old.written) / seconds
