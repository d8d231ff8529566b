"""Plans: which topics are read for which columns, and how a column is computed from what was read.

A column that cannot be computed does not hold up the others: it is left out, with the reason. Of a column of several
topics those that are there count: a quantity whose topic was renamed goes on under its new name. Computing what is
planned: `computing.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.errors import UnknownDataset
from efd_pipelines.exposures.columns import Selection, TopicColumns, UnknownField, columns_to_read, select
from efd_pipelines.exposures.configuration import ExposureColumn, Transformation
from efd_pipelines.exposures.functions import Arguments, Function
from efd_pipelines.exposures.packed import MARGIN_US
from efd_pipelines.topics.names import Dataset


@dataclass(frozen=True, slots=True)
class PlannedColumn:
    """A column that is computed, and how; `fields` are those of an unpivoted one, in their order, else empty.

    `datasets` are those that it is computed from. The `digest` changes with what changes its values.
    """

    name: str
    function: Function
    arguments: Arguments
    pre_aggregate_us: int | None
    fields: tuple[str, ...]
    datasets: tuple[Dataset, ...]
    digest: str

    @property
    def is_combined(self) -> bool:
        """Whether samples of several topics are put together."""
        return len(self.datasets) > 1

    @property
    def interval_us(self) -> int | None:
        """The interval whose means are its samples, None where it takes the samples as they are."""
        return self.pre_aggregate_us if self.function.of_means else None


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of one topic, and which planned columns each selection of samples answers.

    `declared_s` is the time from one record to the next, by the configuration.
    """

    dataset: Dataset
    selections: Mapping[Selection, tuple[int, ...]]
    declared_s: float

    @property
    def columns(self) -> list[str]:
        return columns_to_read(self.selections)

    @property
    def before_us(self) -> int:
        """How far before a window it is read."""
        return max(reach_of(selection)[0] for selection in self.selections)

    @property
    def after_us(self) -> int:
        """How far behind a window it is read."""
        return max(reach_of(selection)[1] for selection in self.selections)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read for which columns; `skipped` columns are not computed, `warnings` are of those that are.

    `snapshots` has every archive table that was looked at, also where none of its fields could be used: what is
    committed later is what makes exposures stale.
    """

    columns: tuple[PlannedColumn, ...]
    readings: tuple[Reading, ...]
    skipped: Mapping[str, str]
    warnings: Mapping[str, str]
    snapshots: Mapping[Dataset, TableSnapshot]

    @property
    def versions(self) -> dict[str, int]:
        """The version of each table that was looked at."""
        return {dataset.text: snapshot.version for dataset, snapshot in self.snapshots.items()}

    def only(self, names: Collection[str]) -> Plan:
        """The plan for some of its columns."""
        kept = [n for n, column in enumerate(self.columns) if column.name in names]
        if len(kept) == len(self.columns):
            return self
        number = {was: now for now, was in enumerate(kept)}
        readings = []
        for reading in self.readings:
            selections = {
                selection: tuple(number[n] for n in of if n in number) for selection, of in reading.selections.items()
            }
            some = {selection: of for selection, of in selections.items() if of}
            if some:
                readings.append(replace(reading, selections=some))
        return replace(self, columns=tuple(self.columns[n] for n in kept), readings=tuple(readings))


def reach_of(selection: Selection) -> tuple[int, int]:
    """How far before and behind a window rows are read for a selection, in microseconds."""
    margin = 0 if selection.packing is None else MARGIN_US
    return max(0, -selection.start_offset_us) + margin, margin


def plan_join(archive: Archive, transformation: Transformation) -> Plan:
    """What is to be read for the columns that can be computed.

    Raises:
        StoreUnavailable: the archive does not answer.
    """
    topics = {dataset: _open(archive, dataset) for dataset in transformation.datasets}
    skipped: dict[str, str] = {}
    warnings: dict[str, str] = {}
    columns: list[PlannedColumn] = []
    selected: dict[Dataset, dict[Selection, list[int]]] = {}
    for column in transformation.columns:
        found, problems = _select(column, topics)
        if not found:
            skipped[column.name] = "; ".join(problems)
            continue
        if problems:
            warnings[column.name] = "; ".join(problems)
        for dataset, selection in found.items():
            selected.setdefault(dataset, {}).setdefault(selection, []).append(len(columns))
        columns.append(_planned(column, found))
    configuration = archive.settings.configuration
    readings = [
        Reading(
            dataset,
            {selection: tuple(of) for selection, of in selections.items()},
            1.0 / configuration.rate_hz(dataset),
        )
        for dataset, selections in selected.items()
    ]
    snapshots = {dataset: topic[0] for dataset, topic in topics.items() if topic is not None}
    return Plan(tuple(columns), tuple(readings), skipped, warnings, snapshots)


def _open(archive: Archive, dataset: Dataset) -> tuple[TableSnapshot, TopicColumns] | None:
    try:
        snapshot = archive.snapshot(dataset)
    except UnknownDataset:
        return None
    return snapshot, TopicColumns(dataset, snapshot.schema)


def _select(
    column: ExposureColumn, topics: Mapping[Dataset, tuple[TableSnapshot, TopicColumns] | None]
) -> tuple[dict[Dataset, Selection], list[str]]:
    found: dict[Dataset, Selection] = {}
    problems = []
    for fields in column.topics:
        topic = topics[fields.dataset]
        if topic is None:
            problems.append(f"{fields.dataset} is not in the archive")
            continue
        try:
            found[fields.dataset] = select(column, fields, topic[1])
        except UnknownField as error:
            problems.append(error.message)
    return found, problems


def _planned(column: ExposureColumn, found: Mapping[Dataset, Selection]) -> PlannedColumn:
    names = dict.fromkeys(name for selection in found.values() for name in selection.names)
    return PlannedColumn(
        name=column.name,
        function=column.computes,
        arguments=column.arguments,
        pre_aggregate_us=column.pre_aggregate_us,
        fields=tuple(names) if column.store_unpivoted else (),
        datasets=tuple(found),
        digest=column.digest,
    )
