"""Recounting: whether the archive has what Kafka still has.

Where no offset is missing between two positions, as many records as offsets were archived, and nothing needs to be
read: that proves most topics in the time of one question. Transactions, compaction and gaps leave offsets without
records: then Kafka is read and counted, each topic from the first commit on of which Kafka still has all. A deep
recount reads everything that Kafka has of a topic and compares offset by offset.
What belongs here: comparing with Kafka. What the ledger says by itself: `audit.py`; the files: `deep_audit.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.archive.findings import REPORT, Audit, counted
from efd_pipelines.archive.ledger_rows import SEALED
from efd_pipelines.archive.positions import ENDED, Source, covered_datasets
from efd_pipelines.kafka.backlog import read_backlog
from efd_pipelines.kafka.brokers import Brokers, Watermarks
from efd_pipelines.kafka.chunks import Chunk, Position
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.entries import Entries
    from efd_pipelines.archive.value_audit import ValueAudit
    from efd_pipelines.settings import Settings

MOST_COUNTED = 2_000_000
"""So many offsets a plain audit reads; topics beyond that are left to a deep one, and a note says so."""

_READ_NOW = "Read it now: `efd archive run`. What expired meanwhile is recorded as a gap, `efd archive gaps` lists it."
_UNREAD = (
    "They are of files that could not be read: restore those from a copy of the store. Kafka still has the records."
)
_MISSING = "`efd archive verify --deep` says which offsets; what Kafka has can be read again. " + REPORT

Offsets = NDArray[np.int64]
Partition = tuple[str, int]
"""A source and a number of a partition."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A topic that Kafka has, the dataset that it feeds, and what is left of it."""

    topic: str
    topic_id: str
    dataset: Dataset
    sources: Mapping[int, Source]
    watermarks: Mapping[int, Watermarks]
    positions: Mapping[int, int]

    def names(self) -> dict[str, int]:
        """The ledger's names of its partitions."""
        return {f"{source.text}:{partition}": partition for partition, source in self.sources.items()}

    @property
    def is_new_generation(self) -> bool:
        return any(source.generation for source in self.sources.values())


def recount(settings: Settings, audit: Audit, entries: Entries) -> list[Feed]:
    """Compares the ledger's counts with what Kafka has; gives the topics that Kafka has.

    Raises:
        KafkaUnavailable: no answer.
    """
    with Brokers(settings) as brokers:
        feeds = _feeds(settings, brokers, entries)
        _check_ends(audit, feeds)
        sparse = _sparse(audit, feeds, entries)
        chosen = _affordable(audit, sparse)
        if not chosen:
            return feeds
        found = _count(settings, chosen)
        compacted = {
            topic
            for topic, config in brokers.configs([span.feed.topic for span in chosen]).items()
            if "compact" in config.cleanup_policy
        }
        later = brokers.offsets([span.feed.topic for span in chosen])
    for span in chosen:
        _compare(audit, span, found, span.feed.topic in compacted, later.get(span.feed.topic, {}))
    return feeds


def _feeds(settings: Settings, brokers: Brokers, entries: Entries) -> list[Feed]:
    cluster_id = brokers.cluster_id()
    known = brokers.topics()
    wanted = set(entries.datasets)
    topics = {topic: of for topic, of in covered_datasets(settings, known).items() if of in wanted}
    watermarks = brokers.offsets(topics)
    reached = _reached(entries)
    feeds = []
    for topic, dataset in sorted(topics.items()):
        of = reached.get(dataset.text, {})
        sources = {
            partition: _current(Source(cluster_id, known[topic].topic_id), partition, of)
            for partition in watermarks.get(topic, {})
        }
        positions = {
            partition: of[name] for partition, source in sources.items() if (name := f"{source.text}:{partition}") in of
        }
        if positions:
            feeds.append(Feed(topic, known[topic].topic_id, dataset, sources, watermarks[topic], positions))
    return feeds


def _reached(entries: Entries) -> dict[str, dict[str, int]]:
    import polars as pl

    last = entries.positions.group_by("dataset", "partition").agg(pl.col("position").max())
    found: dict[str, dict[str, int]] = {}
    for dataset, partition, position in last.iter_rows():
        found.setdefault(dataset, {})[partition] = position
    return found


def _current(source: Source, partition: int, reached: Mapping[str, int]) -> Source:
    while reached.get(f"{source.text}:{partition}") == ENDED:
        source = source.next()
    return source


def _check_ends(audit: Audit, feeds: Iterable[Feed]) -> None:
    """Nothing expired before it was read, and no log ends before it was read."""
    for feed in feeds:
        for partition, marks in feed.watermarks.items():
            position = feed.positions.get(partition)
            if position is None:
                continue
            if position < marks.low:
                audit.missing += marks.low - position
                detail = f"partition {partition}: offsets {position} to {marks.low - 1} expired before they were read"
                audit.found(feed.dataset.text, "", "gap", detail, _READ_NOW)
            if position > marks.high:
                detail = f"partition {partition} of {feed.topic} ends at {marks.high}, it was read to {position}"
                remedy = "Look at the brokers: records were lost there. The next drain begins a new generation."
                audit.found(feed.dataset.text, "", "truncated", detail, remedy)


@dataclass(slots=True)
class Span:
    """What Kafka still has of the commits of a topic since one: offsets by partition, and their records."""

    feed: Feed
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    records: int = 0
    known_gaps: int = 0

    @property
    def offsets(self) -> int:
        return sum(end - begins for begins, end in self.ranges.values())


def _sparse(audit: Audit, feeds: Sequence[Feed], entries: Entries) -> list[Span]:
    """The spans in which some offset has no record; those in which there are too many records are findings."""
    gaps = dict[str, list[dict[str, Any]]]()
    for dataset, _, of in entries.gaps():
        gaps.setdefault(dataset, []).extend(of)
    by_dataset = {key[0]: part for key, part in entries.positions.group_by("dataset")}
    found = []
    for feed in feeds:
        span = _span(feed, by_dataset[feed.dataset.text])
        span.known_gaps = sum(_overlap(span, gap) for gap in gaps.get(feed.dataset.text, []))
        if span.records > span.offsets:
            audit.duplicates += span.records - span.offsets
            detail = f"{span.records:,} records were archived of {span.offsets:,} offsets of {feed.topic}"
            audit.found(feed.dataset.text, "", "doubled", detail, _MISSING)
        elif span.records < span.offsets - span.known_gaps and not feed.is_new_generation:
            found.append(span)
    return found


def _span(feed: Feed, moves: pl.DataFrame) -> Span:
    """From the first commit on since which Kafka has everything that was read."""
    import polars as pl

    names = feed.names()
    mine = moves.filter(pl.col("partition").is_in(list(names)) & (pl.col("position") != ENDED)).sort("version")
    columns = ("version", "kind", "partition", "position", "before", "records", "since", "until")
    steps = list(mine.select(columns).iter_rows(named=True))
    lows = {partition: marks.low for partition, marks in feed.watermarks.items()}
    gone = [of["until"] for of in steps if not _is_whole(of["before"], lows[names[of["partition"]]])]
    first = 1 + max(gone, default=-1)
    for of in sorted(steps, key=lambda one: int(one["since"])):
        if of["since"] < first <= of["until"]:  # a week that has collapsed is counted whole or not at all
            first = of["until"] + 1
    span = Span(feed)
    counted_versions = set()
    for of in steps:
        if of["since"] < first:
            continue
        partition = names[of["partition"]]
        begins = span.ranges.get(partition, (of["before"] or 0, 0))[0]
        span.ranges[partition] = (begins, of["position"])
        if of["kind"] == SEALED or of["version"] not in counted_versions:
            counted_versions.add(of["version"])
            span.records += of["records"]
    return span


def _is_whole(before: int | None, low: int) -> bool:
    """Whether Kafka still has all that was read from this position on; the first reading began at what was then low."""
    return low == 0 if before is None else before >= low


def _overlap(span: Span, gap: Mapping[str, Any]) -> int:
    partition = gap["partition"]
    source = span.feed.sources.get(partition)
    if source is None or gap["source"] != source.text or partition not in span.ranges:
        return 0
    begins, end = span.ranges[partition]
    return max(0, min(end, int(gap["end"])) - max(begins, int(gap["first"])))


def _affordable(audit: Audit, spans: Sequence[Span]) -> list[Span]:
    """The smallest spans, as far as they can be read in seconds."""
    chosen, size = [], 0
    for span in sorted(spans, key=lambda of: of.offsets):
        size += span.offsets
        if size <= MOST_COUNTED:
            chosen.append(span)
            continue
        detail = f"{span.offsets:,} offsets with {span.records:,} records were not counted again"
        audit.note(span.feed.dataset.text, "", "kafka", detail, "`efd archive verify --deep` counts them.")
    return chosen


def _count(settings: Settings, spans: Sequence[Span]) -> dict[str, int]:
    """Records that Kafka has in the spans, by topic."""
    found: dict[str, int] = {}
    for chunk in _chunks(settings, spans):
        found[chunk.frames.topic] = found.get(chunk.frames.topic, 0) + len(chunk.frames)
    return found


def _chunks(settings: Settings, spans: Sequence[Span]) -> Iterator[Chunk]:
    assignments = {
        span.feed.topic: {partition: Position(begins) for partition, (begins, _) in span.ranges.items()}
        for span in spans
    }
    ends = {span.feed.topic: {partition: end for partition, (_, end) in span.ranges.items()} for span in spans}
    ids = {span.feed.topic: span.feed.topic_id for span in spans}
    for item in read_backlog(settings, assignments, ends, topic_ids=ids):
        if isinstance(item, Chunk):
            yield item


def _compare(
    audit: Audit, span: Span, found: Mapping[str, int], is_compacted: bool, later: Mapping[int, Watermarks]
) -> None:
    there = found.get(span.feed.topic, 0)
    if there > span.records:
        audit.missing += there - span.records
        detail = f"Kafka has {counted(there, 'record')} where {span.records:,} were archived"
        audit.found(span.feed.dataset.text, "", "lost", detail, _MISSING)
    expired = any(marks.low > span.ranges[of][0] for of, marks in later.items() if of in span.ranges)
    if there < span.records and not is_compacted and not expired:
        audit.duplicates += span.records - there
        detail = f"Kafka has {counted(there, 'record')} where {span.records:,} were archived"
        audit.found(span.feed.dataset.text, "", "doubled", detail, _MISSING)


def recount_deeply(
    settings: Settings,
    audit: Audit,
    feeds: Sequence[Feed],
    offsets: Mapping[Partition, Offsets],
    let_go: Mapping[tuple[str, int | None], Sequence[range]] | None = None,
    values: ValueAudit | None = None,
    week: str | None = None,
    unread_rows: int = 0,
) -> None:
    """Reads everything that Kafka has of a dataset's topics, up to where they were read, and looks for each offset.

    Args:
        feeds: the topics of one dataset.
        offsets: what the dataset's table has, sorted, by source and partition.
        let_go: offsets of weeks that have expired, which the archive need not have.
        values: compares the records with their rows, too.
        week: only records of this week, which `values` tells; `offsets` are of its rows.
        unread_rows: rows of files that could not be read, and were told of; `offsets` lack theirs.

    Raises:
        KafkaUnavailable: no answer.
    """
    spans = [Span(feed, {partition: (feed.watermarks[partition].low, end) for partition, end in feed.positions.items()})
             for feed in feeds]  # fmt: skip
    by_topic = {span.feed.topic: span.feed for span in spans}
    lost: dict[Partition, list[int]] = {}
    for chunk in _chunks(settings, spans):
        feed, frames = by_topic[chunk.frames.topic], chunk.frames
        if values is not None:
            mine = values.compare(frames, {of: _generations(source) for of, source in feed.sources.items()})
            frames = frames if week is None else frames.take(np.flatnonzero(mine))
        for partition in np.unique(frames.partitions).tolist():
            read = frames.offsets[frames.partitions == partition]
            there = _archived(feed.sources[partition], partition, offsets)
            expired = _let_go(feed.sources[partition], partition, let_go or {})
            missing = [offset for offset in read[~np.isin(read, there)].tolist() if not _is_in(offset, expired)]
            if missing:
                lost.setdefault((feed.topic, partition), []).extend(missing)
    elsewhere = values.elsewhere() if values is not None and week is not None and lost else set()
    for (topic, partition), found in sorted(lost.items()):
        sources = _generations(by_topic[topic].sources[partition])
        missing = [of for of in found if not any((source, partition, of) in elsewhere for source in sources)]
        if not missing:
            continue
        of_files = min(unread_rows, len(missing))
        unread_rows -= of_files
        audit.missing += len(missing) - of_files
        detail = (
            f"{counted(len(missing), 'record')} of {topic}, partition {partition}, in Kafka and below the position, "
            f"but not in the archive: the first at offset {missing[0]}"
        )
        remedy = REPORT if of_files < len(missing) else _UNREAD
        audit.found(by_topic[topic].dataset.text, week or "", "lost", detail, remedy)
    if values is not None:
        values.tell()


def _generations(source: Source) -> tuple[str, ...]:
    """The source's names, the newest last."""
    return tuple(Source(source.cluster_id, source.topic_id, n).text for n in range(source.generation + 1))


def _archived(source: Source, partition: int, offsets: Mapping[Partition, Offsets]) -> Offsets:
    """The offsets that the archive has of a partition, in this generation or one before."""
    parts = [offsets[text, partition] for text in _generations(source) if (text, partition) in offsets]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _let_go(
    source: Source, partition: int, let_go: Mapping[tuple[str, int | None], Sequence[range]]
) -> Sequence[range]:
    return [span for text in _generations(source) for span in let_go.get((text, partition), ())]


def _is_in(offset: int, spans: Sequence[range]) -> bool:
    return any(offset in span for span in spans)
