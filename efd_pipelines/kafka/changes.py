"""Changes: what one reading of the catalogue found different from an earlier one, and how that is said.

Per component and per kind of change, not per topic: a component that starts registers all of its topics at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from efd_pipelines.kafka.catalogued import CatalogueTopic
from efd_pipelines.topics.schemas import schema_difference


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A topic whose newest schema is another one; `lines` say how, one a field."""

    topic: CatalogueTopic
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CatalogueChange:
    """What one reading found different from an earlier one. Without an earlier one, everything is new.

    Args:
        first_records: topics whose first record has come, new ones with records included.
        removed: topics that are gone, as they were.
        recreated: topics that were deleted and created again.
        uncovered: new topics, and topics newly excluded, that the configuration does not archive.
    """

    new_topics: tuple[CatalogueTopic, ...] = ()
    new_components: tuple[str, ...] = ()
    first_records: tuple[CatalogueTopic, ...] = ()
    schema_changes: tuple[SchemaChange, ...] = ()
    removed: tuple[CatalogueTopic, ...] = ()
    removed_components: tuple[str, ...] = ()
    recreated: tuple[CatalogueTopic, ...] = ()
    more_partitions: tuple[CatalogueTopic, ...] = ()
    uncovered: tuple[CatalogueTopic, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)

    def components(self) -> list[str]:
        """The components that something changed of, sorted."""
        changed = [topic.component for topics in self._by_topic() for topic in topics]
        return sorted({*changed, *self.new_components, *self.removed_components})

    def of(self, component: str) -> CatalogueChange:
        """What changed of one component."""
        new, first, removed, recreated, more, uncovered, _ = (
            tuple(topic for topic in topics if topic.component == component) for topics in self._by_topic()
        )
        return CatalogueChange(
            new_topics=new,
            new_components=tuple(name for name in self.new_components if name == component),
            first_records=first,
            schema_changes=tuple(change for change in self.schema_changes if change.topic.component == component),
            removed=removed,
            removed_components=tuple(name for name in self.removed_components if name == component),
            recreated=recreated,
            more_partitions=more,
            uncovered=uncovered,
        )

    def lines(self) -> list[str]:
        """What happened as people read it: a line a kind of change, and one for each field of a changed schema."""
        said = [f"component {name} is new" for name in self.new_components]
        said += [f"component {name} is gone" for name in self.removed_components]
        for topics, what in (
            (self.new_topics, "new"),
            (self.first_records, "sent their first record"),
            (self.removed, "gone"),
            (self.recreated, "deleted and created again"),
            (self.more_partitions, "got more partitions"),
            (self.uncovered, "not covered by the configuration"),
        ):
            if topics:
                said.append(f"{len(topics)} topics {what}: {_listed([topic.dataset.text for topic in topics])}")
        for change in self.schema_changes:
            said += [f"{change.topic.dataset}: {line}" for line in change.lines]
        return said

    def _by_topic(self) -> Iterable[Sequence[CatalogueTopic]]:
        yield from (self.new_topics, self.first_records, self.removed, self.recreated)
        yield from (self.more_partitions, self.uncovered, [change.topic for change in self.schema_changes])


def changes_between(before: Iterable[CatalogueTopic], after: Iterable[CatalogueTopic]) -> CatalogueChange:
    """What is different of the topics."""
    old = {topic.topic: topic for topic in before}
    now = {topic.topic: topic for topic in after}
    both = [(old[name], topic) for name, topic in now.items() if name in old]
    new = [topic for name, topic in now.items() if name not in old]
    old_components = {topic.component for topic in old.values()}
    components = {topic.component for topic in now.values()}
    return CatalogueChange(
        new_topics=tuple(new),
        new_components=tuple(sorted(components - old_components)),
        first_records=tuple(
            [topic for topic in new if topic.has_records]
            + [topic for earlier, topic in both if topic.has_records and not _had_records(earlier, topic)]
        ),
        schema_changes=tuple(change for earlier, topic in both if (change := _schema_change(earlier, topic))),
        removed=tuple(topic for name, topic in old.items() if name not in now),
        removed_components=tuple(sorted(old_components - components)),
        recreated=tuple(topic for earlier, topic in both if earlier.topic_id != topic.topic_id),
        more_partitions=tuple(topic for earlier, topic in both if len(topic.partitions) > len(earlier.partitions)),
        uncovered=tuple(
            [topic for topic in new if not topic.covered]
            + [topic for earlier, topic in both if earlier.covered and not topic.covered]
        ),
    )


def _had_records(old: CatalogueTopic, new: CatalogueTopic) -> bool:
    return old.has_records and old.topic_id == new.topic_id


def _schema_change(old: CatalogueTopic, new: CatalogueTopic) -> SchemaChange | None:
    if old.schema_text == new.schema_text or old.schema is None or new.schema is None:
        return None
    lines = schema_difference(old.schema, new.schema)
    return SchemaChange(new, tuple(lines)) if lines else None


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
