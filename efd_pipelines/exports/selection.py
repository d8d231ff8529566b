"""Selections: what a request means in an archive as it is now, by dataset.

One per dataset, with the version of its table, the files concerned, the columns to read and the shape to write.
Whatever cannot be meant is refused here, before anything is written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.reading import IDENTITY, good_files
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.store import Store
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.errors import UnknownDataset, UsageError
from efd_pipelines.exports.ranges import Ranges, ranges_of
from efd_pipelines.exports.request import Request
from efd_pipelines.exports.shape import Shape, plain, shape_of
from efd_pipelines.tiers.columns import SummaryField, TierForm, tier_columns, tier_schema
from efd_pipelines.tiers.tier import aggregated, tier_named
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, column_of
from efd_pipelines.topics.names import Dataset, Kind, match, nearest
from efd_pipelines.topics.schemas import parse_schema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

ALWAYS = ("time", "salIndex", "window_size", "count")
"""Columns that every export has where the table has them: without salIndex the rows of several devices mix, without
`count` nobody knows what a mean is of."""

_ORDER = ("time", "salIndex", "archive_source", "kafka_partition", "kafka_offset")
_NO_ARCHIVE = "Check EFD_ARCHIVE; `efd archive run` archives what Kafka holds."
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Source:
    """What is read: a table's files, the columns of them, and how: as they are, or summarised in windows."""

    store: Store = field(repr=False)
    relative: str
    reading: pa.Schema = field(repr=False)
    counts_once: bool
    window_us: int | None = None
    fields: tuple[SummaryField, ...] = field(default=(), repr=False)

    def form(self) -> TierForm:
        """The columns of the summaries, where the rows are summarised."""
        return TierForm(list(self.fields), tier_schema(self.reading, list(self.fields)))


@dataclass(frozen=True, slots=True)
class Selection:
    """What is exported of one dataset.

    `table` is `raw`, or the tier; what a tier does not summarise passes it unchanged and is taken from `raw`.
    """

    dataset: Dataset
    table: str
    snapshot: TableSnapshot = field(repr=False)
    files: tuple[DataFile, ...] = field(repr=False)
    source: Source = field(repr=False)
    shape: Shape = field(repr=False)
    ranges: Ranges = field(repr=False)
    outside: dict[str, int]

    @property
    def schema(self) -> pa.Schema:
        """The columns that are written."""
        return self.shape.schema

    @property
    def inputs(self) -> str:
        """A digest of what is read and how it is written: the same digest, the same rows and files."""
        spans = str([(one.start_us, one.end_us) for one in self.ranges.intervals])
        named = [*sorted(file.path for file in self.files), self.form_digest, spans]
        return hashlib.sha256("\n".join(named).encode()).hexdigest()

    @property
    def form_digest(self) -> str:
        """A digest of how rows are written, whichever they are."""
        windows = self.ranges.windows
        told = None if windows is None else (windows.numbers, windows.begin_us, windows.end_us)
        named = [*self.schema.names, str(self.schema.types), str(self.source.window_us), str(told)]
        return hashlib.sha256("\n".join(named).encode()).hexdigest()

    @property
    def rows(self) -> int:
        """Rows of the files concerned; an upper bound of what is exported."""
        return sum(file.rows for file in self.files)


def select(archive: Archive, request: Request, ranges: Ranges | None = None) -> list[Selection]:
    """What the request means in the archive as it is now, by dataset.

    A dataset that only a glob named is left out where it has none of the fields.

    Raises:
        UnknownDataset: a topic that is not there, with the nearest names.
        UsageError: a field that is not there, with the nearest names.
    """
    if not archive.datasets():
        raise UnknownDataset(f"There is no archive at {archive.store.root}, or nothing in it", remedy=_NO_ARCHIVE)
    named, globbed = _datasets(archive, request)
    tables = {dataset: _table(archive, dataset, request.tier) for dataset in sorted({*named, *globbed})}
    snapshots = {dataset: _snapshot(archive, dataset, table) for dataset, table in tables.items()}
    forms = {dataset: _form(archive, dataset, snapshots[dataset], request) for dataset in tables}
    columns = {dataset: snapshots[dataset].schema if form is None else form.schema for dataset, form in forms.items()}
    _check_fields(request, columns, named)
    times = ranges or ranges_of(request, archive.settings)
    return [
        _selection(archive, dataset, table, snapshots[dataset], forms[dataset], request, times)
        for dataset, table in tables.items()
        if _columns(columns[dataset], request.fields)
    ]


def _form(archive: Archive, dataset: Dataset, snapshot: TableSnapshot, request: Request) -> TierForm | None:
    """The columns of the summaries, where the request resamples and the dataset is faster than its window."""
    if request.window_us is None or dataset.kind is not Kind.TELEMETRY:
        return None
    if archive.settings.configuration.rate_hz(dataset) * request.window_us / 1e6 <= 1.0:
        return None
    return TierForm.of(snapshot.schema, "flat")


def _table(archive: Archive, dataset: Dataset, tier: str) -> str:
    if tier == RAW or not aggregated(dataset, archive.settings.configuration, tier_named(tier)):
        return RAW
    return tier


def _snapshot(archive: Archive, dataset: Dataset, table: str) -> TableSnapshot:
    try:
        return archive.snapshot(dataset, table)
    except UnknownDataset as error:
        archive.snapshot(dataset)  # which says so, and what is near, where the topic itself is unknown
        remedy = f"Build the tier first: efd tiers run {dataset.component}."
        raise UnknownDataset(error.message, remedy=remedy) from error


def _datasets(archive: Archive, request: Request) -> tuple[set[Dataset], set[Dataset]]:
    """The datasets named one by one, and those that globs match."""
    named = {Dataset.parse(topic) for topic in request.topics if not _GLOB.search(topic)}
    globs = [topic for topic in request.topics if _GLOB.search(topic)]
    if not globs:
        return named, set()
    known = archive.datasets()
    for glob in globs:
        if not any(match([glob], dataset.text) for dataset in known):
            hint = nearest(re.sub(r"[*?\[\]]", "", glob), [dataset.text for dataset in known])
            raise UnknownDataset(f"No dataset of the archive matches {glob}{hint}")
    return named, {dataset for dataset in known if match(globs, dataset.text)}


def _check_fields(request: Request, schemas: dict[Dataset, pa.Schema], named: Iterable[Dataset]) -> None:
    """Each field must be in some dataset, and each dataset named one by one must have some of the fields."""
    columns = sorted({name for schema in schemas.values() for name in schema.names})
    for wanted in request.fields or ():
        if not any(_means(wanted, column) for schema in schemas.values() for column in schema):
            what = next(iter(schemas)).text if len(schemas) == 1 else f"the {len(schemas)} datasets asked for"
            raise UsageError(
                f"{what} has no field {wanted}{nearest(wanted, columns)}",
                remedy="`efd topics --json` lists the columns of each topic.",
            )
    for dataset in sorted(named):
        if not _columns(schemas[dataset], request.fields):
            raise UsageError(
                f"{dataset} has none of the fields {', '.join(request.fields or ())}",
                remedy="Leave the topic out, or name one of its fields.",
            )


def _selection(
    archive: Archive,
    dataset: Dataset,
    table: str,
    snapshot: TableSnapshot,
    form: TierForm | None,
    request: Request,
    ranges: Ranges,
) -> Selection:
    source = _source(dataset, snapshot, form, request)
    columns = snapshot.schema if form is None else source.form().schema
    wanted = {*ALWAYS, *_columns(columns, request.fields)}
    shape = shape_of(
        [column for column in columns if column.name in wanted],
        request.arrays,
        request.time_scale,
        _lengths(archive, dataset) if request.arrays == "flat" else None,
        None if ranges.windows is None else ranges.windows.column,
    )
    outside = {QUARANTINE: 0, DEAD: 0}
    for file in snapshot.files([QUARANTINE, DEAD]):
        outside[file.week] += file.rows
    files = good_files(snapshot, None, ranges.start_us, ranges.end_us)
    return Selection(
        dataset=dataset,
        table=table,
        snapshot=snapshot,
        files=tuple(file for file in files if _is_wanted(file, ranges)),
        source=source,
        shape=shape,
        ranges=ranges,
        outside=outside,
    )


def _is_wanted(file: DataFile, ranges: Ranges) -> bool:
    if file.time_min_us is None or file.time_max_us is None:
        return True
    return bool(ranges.within(file.time_min_us, file.time_max_us + 1))


def _source(dataset: Dataset, snapshot: TableSnapshot, form: TierForm | None, request: Request) -> Source:
    schema = snapshot.schema
    fields: tuple[SummaryField, ...] = ()
    if form is None:
        needed = {*ALWAYS, *_columns(schema, request.fields)}
    else:
        chosen = {*_columns(form.schema, request.fields)}
        summaries = [one for one in tier_columns(schema, "flat") if chosen & {c.name for _, c in one.columns()}]
        fields, needed = tuple(summaries), {name for one in summaries for name in one.sources}
    needed |= {"time", "salIndex", *_ORDER, *IDENTITY}
    return Source(
        store=snapshot.store,
        relative=snapshot.relative,
        reading=pa.schema([plain(column) for column in schema if column.name in needed]),
        counts_once=dataset.is_sal,
        window_us=None if form is None else request.window_us,
        fields=fields,
    )


def _lengths(archive: Archive, dataset: Dataset) -> dict[str, int]:
    """How long the arrays of a dataset are declared to be, by its newest schema."""
    text = WriterSchemas(archive.store).newest().get(dataset.topic)
    if text is None:
        return {}
    return {field.name: field.length for field in parse_schema(text).fields if field.array and field.length}


def _columns(schema: pa.Schema, fields: Sequence[str] | None) -> list[str]:
    """Names of the columns that the fields mean; None is all of the message's, without the system's."""
    if fields is None:
        return [name for name in schema.names if name not in SYSTEM_COLUMNS]
    return [column.name for column in schema if any(_means(wanted, column) for wanted in fields)]


def _means(wanted: str, column: Any) -> bool:
    """Whether a field's name or glob means a column: itself, an element of its array, a statistic of it."""
    origin = column_of(column)
    names = {column.name, origin.field if origin else column.name}
    statistic = (column.metadata or {}).get(b"statistic")
    if statistic is not None:
        names.add(column.name.removeprefix(f"{statistic.decode()}_"))
    return any(fnmatchcase(name, wanted) for name in names)
