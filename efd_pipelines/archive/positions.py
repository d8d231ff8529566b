"""Positions: how far each source of a dataset has been archived, and what of Kafka is still to be read.

A source is one life of one topic: `<cluster id>/<topic id>[#generation]`, so that a topic deleted and created
again, or truncated, starts at its own beginning under a new name. The position of a source's partition is the
version of the app id `kafka:<source>:<partition>` in the dataset's table; the ledger's copy may lag.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.ledger import RAW, relative_of
from efd_pipelines.archive.slices import SliceUnit, choose_unit
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.errors import ArchiveError
from efd_pipelines.kafka.backlog import Position
from efd_pipelines.kafka.brokers import Brokers, Watermarks
from efd_pipelines.topics.layout import Arrays, Column
from efd_pipelines.topics.names import Dataset, dataset_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

ENDED = 2**63 - 1
"""The version of an app id whose source is over: every unaware writer drops all that it has read."""

FORMAT = 1
_UNKNOWN_ROW_BYTES = 1024
_TEXT_BYTES = 32
_LIST_ITEMS = 64


@dataclass(frozen=True, slots=True)
class Source:
    """One life of one topic."""

    cluster_id: str
    topic_id: str
    generation: int = 0

    @property
    def text(self) -> str:
        name = f"{self.cluster_id}/{self.topic_id}"
        return f"{name}#{self.generation}" if self.generation else name

    def app_id(self, partition: int) -> str:
        return f"kafka:{self.text}:{partition}"

    def end_id(self, partition: int) -> str:
        """The app id whose version is how far a generation that is over had been read."""
        return f"ended:{self.text}:{partition}"

    def next(self) -> Source:
        return Source(self.cluster_id, self.topic_id, self.generation + 1)


@dataclass(slots=True)
class Intake:
    """One topic that is about to be read: its dataset, table, sources by partition, and what Kafka has."""

    topic: str
    topic_id: str
    dataset: Dataset
    cluster_id: str
    watermarks: Mapping[int, Watermarks]
    ledger_version: int
    ledger_positions: Mapping[str, int]
    ledger_epochs: Mapping[str, int]
    time_field: str | None
    value_format: str
    snapshot: TableSnapshot | None = None
    positions: dict[str, int] = field(default_factory=dict)
    sources: dict[int, Source] = field(default_factory=dict)
    read_to: dict[int, int] = field(default_factory=dict)
    gaps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def relative(self) -> str:
        return relative_of(RAW, self.dataset)

    @property
    def backlog(self) -> int:
        """Records between the ledger's positions and Kafka's ends; sparse offsets make it an upper bound."""
        return sum(max(0, marks.high - self._start(partition)) for partition, marks in self.watermarks.items())

    @property
    def is_truncated(self) -> bool:
        """Whether a position lies beyond the end that Kafka told; a fresh look must confirm it."""
        return any(self._start(partition) > marks.high for partition, marks in self.watermarks.items())

    def _start(self, partition: int) -> int:
        source = Source(self.cluster_id, self.topic_id)
        low = self.watermarks[partition].low
        while (reached := self.ledger_positions.get(f"{source.text}:{partition}")) == ENDED:
            source = source.next()
        return low if reached is None else reached

    def adopt(self, snapshot: TableSnapshot | None) -> TableSnapshot | None:
        """Takes the table as it is now: from here on its positions count."""
        self.snapshot = snapshot
        self.positions = {}
        for partition in self.watermarks:
            source = Source(self.cluster_id, self.topic_id)
            while snapshot is not None and is_ended(snapshot, source, partition):
                source = source.next()
            self.sources[partition] = source
            reached = None if snapshot is None else snapshot.transaction_version(source.app_id(partition))
            if reached is not None:
                self.positions[source.app_id(partition)] = reached
        return snapshot

    def take(self, positions: Mapping[int, Position]) -> dict[int, int]:
        """Where the chunk that ends at `positions` begins, by partition; chunks come in their order."""
        starts = {partition: self.read_to[partition] for partition in positions}
        self.read_to.update({partition: position.offset for partition, position in positions.items()})
        return starts

    def check_follows(self, starts: Mapping[int, int]) -> None:
        """Refuses a chunk before which something was read and not archived: its commit would hide the hole.

        Raises:
            ArchiveError: there is a hole.
        """
        for partition, start in starts.items():
            reached = self.reached(self.sources[partition].app_id(partition))
            if start > (self.watermarks[partition].low if reached is None else reached):
                raise ArchiveError(
                    f"{self.topic}, partition {partition}: offsets before {start} were read and not archived",
                    remedy="Run again: reading goes on at the archive's position.",
                )

    def release(self) -> None:
        """Lets go of the table, whose schema may take megabytes; its positions stay known, as they were."""
        self.snapshot = None

    def reached(self, app_id: str) -> int | None:
        return self.positions.get(app_id)

    def position(self, partition: int) -> Position:
        """Where to read on; for a partition never read, the first offset that Kafka has."""
        source = self.sources[partition]
        reached = self.reached(source.app_id(partition))
        if reached is None:
            return Position(self.watermarks[partition].low)
        return Position(reached, self.ledger_epochs.get(f"{source.text}:{partition}"))

    def beyond_end(self) -> dict[int, int]:
        """Positions that lie beyond the ends that Kafka told, by partition."""
        found = {}
        for partition, marks in self.watermarks.items():
            position = self.position(partition).offset
            if position > marks.high:
                found[partition] = position
        return found

    def arrays(self, snapshot: TableSnapshot | None, held: Sequence[Column]) -> Arrays | None:
        """Whether arrays are flat, as decided once."""
        return decided_arrays(snapshot, held)

    def slice_unit(
        self, snapshot: TableSnapshot | None, settings: Settings
    ) -> SliceUnit | Callable[[Sequence[Column]], SliceUnit]:
        """The dataset's unit, or how it is chosen from its columns."""
        if snapshot is not None and "slice" in snapshot.description:
            return SliceUnit(snapshot.description["slice"])
        configured = settings.configuration.slice_unit(self.dataset)
        if configured is not None:
            return SliceUnit(configured)
        rate = settings.configuration.rate_hz(self.dataset)
        return lambda columns: choose_unit(rate, row_bytes(columns))

    def description(
        self, snapshot: TableSnapshot | None, columns: Sequence[Column], arrays: Arrays | None, settings: Settings
    ) -> dict[str, Any]:
        """The decisions that are taken at the table's creation, with the columns of its first rows."""
        if snapshot is not None:
            return snapshot.description
        unit = self.slice_unit(None, settings)
        chosen = unit if isinstance(unit, SliceUnit) else unit(columns)
        return {
            "format": FORMAT,
            "dataset": self.dataset.text,
            "slice": chosen.value,
            "arrays": arrays,
            "time_field": self.time_field,
        }


def decided_arrays(snapshot: TableSnapshot | None, held: Sequence[Column]) -> Arrays | None:
    """Whether a dataset's arrays are flat; one that began with the dead decides with its first row."""
    decided: Arrays | None = None if snapshot is None else snapshot.description.get("arrays")
    if decided is None and held:
        import pyarrow as pa

        return "list" if any(pa.types.is_list(column.type) for column in held) else "flat"
    return decided


def decided_time_field(snapshot: TableSnapshot | None, configured: str | None) -> str | None:
    """The field that is the dataset's event time: as decided at its creation, whatever is configured now."""
    if snapshot is None or "time_field" not in snapshot.description:
        return configured
    decided: str | None = snapshot.description["time_field"]
    return decided


def is_ended(snapshot: TableSnapshot, source: Source, partition: int) -> bool:
    return snapshot.transaction_version(source.app_id(partition)) == ENDED


def wanted_topics(
    archive: Archive,
    settings: Settings,
    brokers: Brokers,
    components: Collection[str] | None = None,
    topics: Collection[str] | None = None,
    reached: Mapping[str, Reached] | None = None,
) -> list[Intake]:
    """The topics that have a backlog by the ledger, among those covered (and asked for), sorted by name.

    `reached` is what the ledger knows, where the caller has already asked it.
    """
    with ThreadPoolExecutor(1) as pool:
        # The brokers are waited for, the ledger is work.
        asked = pool.submit(ledger_positions, archive) if reached is None else None
        cluster_id = brokers.cluster_id()
        known = brokers.topics()
        datasets = covered_datasets(settings, known, components, topics)
        watermarks = brokers.offsets(datasets)
        reached = asked.result() if asked else reached or {}
    intakes = []
    for topic, dataset in sorted(datasets.items()):
        if topic not in watermarks:
            continue
        of = reached.get(dataset.text)
        intake = Intake(
            topic=topic,
            topic_id=known[topic].topic_id,
            dataset=dataset,
            cluster_id=cluster_id,
            watermarks=watermarks[topic],
            ledger_version=-1 if of is None else of.version,
            ledger_positions={} if of is None else of.positions,
            ledger_epochs={} if of is None else of.epochs,
            time_field=settings.configuration.time_field(dataset),
            value_format=settings.configuration.value_format(dataset),
        )
        if intake.backlog > 0 or intake.is_truncated:
            intakes.append(intake)
    return intakes


def covered_datasets(
    settings: Settings,
    known: Iterable[str],
    components: Collection[str] | None = None,
    topics: Collection[str] | None = None,
) -> dict[str, Dataset]:
    """Kafka topics that are archived, with their datasets."""
    found = {}
    for topic in known:
        dataset = dataset_of(topic, settings.home_prefixes)
        if dataset is None or not settings.configuration.topics.covers(dataset):
            continue
        if components is not None and dataset.component not in components:
            continue
        if topics is None or topic in topics or dataset.text in topics:
            found[topic] = dataset
    return found


@dataclass(frozen=True, slots=True)
class Reached:
    """What the ledger knows of a dataset."""

    version: int
    positions: Mapping[str, int]
    epochs: Mapping[str, int]
    last_at: Any


def ledger_positions(archive: Archive) -> dict[str, Reached]:
    """By dataset, what the ledger knows; it may lag behind the tables, never lead."""
    import polars as pl

    found = {}
    for row in pl.DataFrame(archive.ledger.latest()).iter_rows(named=True):
        if row["table"] == RAW:
            positions, epochs = json.loads(row["positions"]), json.loads(row["epochs"])
            found[row["dataset"]] = Reached(row["version"], positions, epochs, row["last_at"])
    return found


def opened_sources(
    intakes: Iterable[Intake],
) -> tuple[dict[str, dict[int, Position]], dict[str, dict[int, int]]]:
    """Positions to read from and ends to read to, by topic and partition."""
    positions, ends = {}, {}
    for intake in intakes:
        positions[intake.topic] = {partition: intake.position(partition) for partition in intake.watermarks}
        intake.read_to = {partition: position.offset for partition, position in positions[intake.topic].items()}
        ends[intake.topic] = {partition: marks.high for partition, marks in intake.watermarks.items()}
    return positions, ends


def row_bytes(columns: Sequence[Column]) -> int:
    """Bytes of a decoded row, by the types; texts and lists by a guess."""
    if not columns:
        return _UNKNOWN_ROW_BYTES
    return sum(_width(column.type) for column in columns)


def _width(kind: pa.DataType) -> int:
    import pyarrow as pa

    if pa.types.is_list(kind):
        return _LIST_ITEMS * _width(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _TEXT_BYTES
    return max(1, int(kind.bit_width) // 8)
