"""Reader: a question about one topic becomes a selection of what answers it best.

A tier that fits is preferred to the archive where the question leaves that open; the archive to another site's
InfluxDB, which is asked for weeks that the archive has nothing of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.archive.expiry import is_expired
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.client.fields import columns_by_name, fields_of, needed_columns
from efd_pipelines.client.portions import (
    InfluxPortion,
    Portion,
    TablePortion,
    asked_of,
    influx_schema,
    lacking,
    without,
)
from efd_pipelines.client.refusals import NoArchive, NoTier, UnknownTopic
from efd_pipelines.client.selection import Selection
from efd_pipelines.client.windows import TimeWindow
from efd_pipelines.errors import UsageError
from efd_pipelines.reading.estimate import share
from efd_pipelines.reading.scan import Scan
from efd_pipelines.tiers.columns import STATISTICS
from efd_pipelines.tiers.tier import TIERS, Tier, aggregated, tier_named
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset, dataset_of, nearest
from efd_pipelines.topics.schemas import parse_schema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

AUTO = "auto"
ENVELOPE = ("min", "max", "mean")
"""What is given of a tier's field by default."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one topic.

    `device` is a column and the number that it must have. `resolution` is `raw`, a tier, or `auto`: the finest that
    has at most `points` rows of the window. `statistics` are given of a tier's fields.
    """

    topic: str
    fields: tuple[str, ...]
    window: TimeWindow
    device: tuple[str, int] | None = None
    resolution: str = RAW
    points: int = 20_000
    statistics: tuple[str, ...] = ENVELOPE


class Reader:
    """Answers questions from one archive."""

    def __init__(self, archive: Archive, limit_bytes: int) -> None:
        self.archive = archive
        self.limit_bytes = limit_bytes

    def dataset(self, topic: str) -> Dataset:
        """The dataset of a topic's name, with the home clusters' prefix or without.

        Raises:
            NameRejected: it is no name.
        """
        if "@" in topic:
            return Dataset.parse(topic)
        return dataset_of(topic, self.archive.settings.home_prefixes) or Dataset.parse(topic)

    def snapshot(self, dataset: Dataset) -> TableSnapshot:
        """The archive's table of a dataset.

        Raises:
            UnknownTopic: it has none; with the nearest names.
            NoArchive: there is no archive.
        """
        found = open_table(self.archive.store, self.archive.relative(dataset))
        if found is None:
            raise self._unknown(dataset)
        return found

    def _unknown(self, dataset: Dataset) -> UnknownTopic | NoArchive:
        known = [other.text for other in self.archive.datasets()]
        if not known and not self.archive.store.list("raw"):
            return NoArchive(f"There is no archive at {self.archive.store.root}")
        return UnknownTopic(f"{dataset} is not in the archive{nearest(dataset.text, known)}")

    def topics(self) -> list[str]:
        """The names of what has been archived.

        Raises:
            NoArchive: there is no archive.
        """
        known = [dataset.text for dataset in self.archive.datasets()]
        if not known and not self.archive.store.list("raw"):
            raise NoArchive(f"There is no archive at {self.archive.store.root}")
        return sorted(known)

    def fields(self, topic: str) -> list[str]:
        """The names of a topic's fields, sorted; arrays that are kept as lists by their elements.

        Raises:
            UnknownTopic, NoArchive: as named.
        """
        dataset = self.dataset(topic)
        raw = open_table(self.archive.store, self.archive.relative(dataset))
        if raw is None:
            table = influx_schema(self.archive.settings, dataset) if self.archive.settings.history_influx_url else None
            if table is None:
                raise self._unknown(dataset)
            return sorted(name for name in table.names if name != "time")
        columns = columns_by_name(raw.schema)
        lengths = self._lengths(dataset) if any(pa.types.is_list(one.type) for one in columns.values()) else {}
        found = []
        for name in fields_of(columns):
            length = lengths.get(name, 0) if pa.types.is_list(columns[name].type) else 0
            found += [f"{name}{n}" for n in range(length)] if length else [name]
        return sorted(found)

    def _lengths(self, dataset: Dataset) -> dict[str, int]:
        """How long arrays are, by the newest schema that was seen."""
        text = WriterSchemas(self.archive.store).newest().get(dataset.topic)
        return {} if text is None else {one.name: one.length or 0 for one in parse_schema(text).fields}

    def select(self, question: Question) -> Selection:
        """What answers a question; nothing but logs is read.

        Raises:
            UnknownTopic, UnknownField, NoTier, NoArchive, UsageError: it cannot be meant.
            StoreUnavailable, InfluxUnavailable: a service did not answer.
        """
        _check(question)
        dataset = self.dataset(question.topic)
        raw = open_table(self.archive.store, self.archive.relative(dataset))
        if raw is None:
            return self._elsewhere(dataset, question)
        _check_device(dataset, raw.schema, question)
        tier = self._tier(dataset, raw, question)
        if tier is not None:
            return self._of_tier(dataset, raw, tier[0], tier[1], question)
        parts, schema = asked_of(dataset.text, raw.schema, question.fields)
        portions: list[Portion] = []
        for window, is_lacking in self._stretches(dataset, raw, question.window):
            if is_lacking:
                settings = self.archive.settings
                portions.append(InfluxPortion(settings, dataset, window, parts, schema, raw.schema, question.device))
            else:
                portions.append(self._table(dataset, raw, "archive", window, question))
        return Selection(self, question, dataset, tuple(portions), schema, raw)

    def _stretches(self, dataset: Dataset, raw: TableSnapshot, window: TimeWindow) -> list[tuple[TimeWindow, bool]]:
        """The window as it is shared by the archive and the other server."""
        if not self.archive.settings.history_influx_url:
            return [(window, False)]
        holes = lacking(raw, window)
        if holes and influx_schema(self.archive.settings, dataset) is None:
            holes = []
        return without(window, holes)

    def _table(
        self,
        dataset: Dataset,
        snapshot: TableSnapshot,
        name: str,
        window: TimeWindow,
        question: Question,
        statistics: Sequence[str] = (),
    ) -> TablePortion:
        parts, schema = asked_of(dataset.text, snapshot.schema, question.fields, statistics)
        scan = Scan.of(
            snapshot,
            dataset,
            needed_columns(parts),
            window.start_us,
            window.end_us,
            device=question.device,
            once=not statistics,
        )
        return TablePortion(name, scan, parts, schema)

    def _of_tier(
        self, dataset: Dataset, raw: TableSnapshot, tier: Tier, table: TableSnapshot, question: Question
    ) -> Selection:
        portion = self._table(dataset, table, f"tier {tier}", question.window, question, question.statistics)
        return Selection(self, question, dataset, (portion,), portion.schema, raw, tier)

    def _elsewhere(self, dataset: Dataset, question: Question) -> Selection:
        """What another server answers about a dataset that the archive does not have."""
        settings = self.archive.settings
        table = influx_schema(settings, dataset) if settings.history_influx_url else None
        if table is None:
            raise self._unknown(dataset)
        _check_device(dataset, table, question)
        parts, schema = asked_of(dataset.text, table, question.fields)
        portion = InfluxPortion(settings, dataset, question.window, parts, schema, table, question.device)
        return Selection(self, question, dataset, (portion,), schema, None)

    def _tier(self, dataset: Dataset, raw: TableSnapshot, question: Question) -> tuple[Tier, TableSnapshot] | None:
        """The tier that a question is answered from, None where it is the archive itself.

        Raises:
            NoTier: the dataset is summarised, but that tier was not built yet.
        """
        if question.resolution == RAW:
            return None
        if question.resolution != AUTO:
            tier = tier_named(question.resolution)
            table = self._built(dataset, tier)
            if table is None and aggregated(dataset, self.archive.settings.configuration, tier):
                raise NoTier(f"{dataset} has no {tier} tier yet")
            return None if table is None else (tier, table)
        if not self._is_expired(raw, question.window) and _rows(raw, question.window) <= question.points:
            return None
        found = None
        for tier in TIERS.values():
            table = self._built(dataset, tier)
            if table is None or not _rows(table, question.window):
                continue
            found = tier, table
            if _rows(table, question.window) <= question.points:
                break
        return found

    def _built(self, dataset: Dataset, tier: Tier) -> TableSnapshot | None:
        if not aggregated(dataset, self.archive.settings.configuration, tier):
            return None
        return open_table(self.archive.store, self.archive.relative(dataset, tier.name))

    def _is_expired(self, raw: TableSnapshot, window: TimeWindow) -> bool:
        return is_expired(raw, Week.containing(window.start_us)) or is_expired(raw, Week.containing(window.end_us))


def _check(question: Question) -> None:
    unknown = [name for name in question.statistics if name not in STATISTICS]
    if unknown or not question.statistics:
        raise UsageError(
            f"{', '.join(unknown) or 'No statistic'} is no statistic", remedy=f"There are {', '.join(STATISTICS)}."
        )
    if question.resolution not in (RAW, AUTO):
        tier_named(question.resolution)


def _check_device(dataset: Dataset, schema: pa.Schema, question: Question) -> None:
    if question.device is not None and schema.get_field_index(question.device[0]) < 0:
        raise UsageError(
            f"{dataset} has no {question.device[0]}: it is not sent by several devices", remedy="Leave `index` out."
        )


def _rows(snapshot: TableSnapshot, window: TimeWindow) -> int:
    """About how many rows a table has of a window, by its log."""
    files = snapshot.files(None, window.start_us, window.end_us)
    return round(sum(file.rows * share(file, window.start_us, window.end_us) for file in files))
