"""Requests: what an export is asked for, and what that means in an archive as it is now.

Topics by name or glob, a time range, fields and a tier become selections: one per dataset, with its snapshot,
the files concerned and the columns to write. Whatever cannot be meant is refused here, before anything is
written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.reading import IDENTITY, good_files
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.errors import UnknownDataset, UsageError
from efd_pipelines.tiers.tier import aggregated, tier_named
from efd_pipelines.times import microseconds, parse_time
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, column_of
from efd_pipelines.topics.names import Dataset, match, nearest

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

ALWAYS = ("time", "salIndex")
"""Columns that every export has where the topic has them: without salIndex the rows of several devices
mix."""

_ORDER = ("time", "salIndex", "archive_source", "kafka_partition", "kafka_offset")
_NO_ARCHIVE = "Check EFD_ARCHIVE; `efd archive run` archives what Kafka holds."
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; times in UTC, the end excluded. `fields` None is all fields of the messages."""

    topics: tuple[str, ...]
    start: datetime
    end: datetime
    fields: tuple[str, ...] | None
    tier: str

    @classmethod
    def of(
        cls,
        topics: Sequence[str] | str,
        start: datetime | str,
        end: datetime | str,
        fields: Sequence[str] | None,
        tier: str,
    ) -> Request:
        """The request of what a user wrote; times without a zone are UTC.

        Raises:
            UsageError: no topics, no fields, no such tier, or a range that is empty or reversed.
        """
        if tier != RAW:
            tier_named(tier)
        names = (topics,) if isinstance(topics, str) else tuple(str(topic) for topic in topics)
        if not names:
            raise UsageError("No topic is given", remedy="Name datasets, or globs as lsst.sal.MTM1M3.*.")
        if fields is not None and not fields:
            raise UsageError("No field is given", remedy="Name fields, or leave them out for all.")
        first, end_time = _utc(start), _utc(end)
        if first >= end_time:
            what = "is empty" if first == end_time else "ends before it begins"
            raise UsageError(
                f"The range {first.isoformat()} to {end_time.isoformat()} {what}",
                remedy="The end is excluded and must be later than the beginning.",
            )
        return cls(names, first, end_time, None if fields is None else tuple(fields), tier)

    @property
    def start_us(self) -> int:
        return microseconds(self.start)

    @property
    def end_us(self) -> int:
        return microseconds(self.end)

    def to_json(self) -> dict[str, Any]:
        return {
            "topics": list(self.topics),
            "from": self.start.isoformat(),
            "to": self.end.isoformat(),
            "fields": None if self.fields is None else list(self.fields),
            "tier": self.tier,
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """What is exported of one dataset: the files of one snapshot, and the columns to write of them.

    `table` is `raw`, or the tier; what a tier does not summarise passes it unchanged and is taken from `raw`.
    """

    dataset: Dataset
    table: str
    snapshot: TableSnapshot = field(repr=False)
    files: tuple[DataFile, ...] = field(repr=False)
    schema: pa.Schema = field(repr=False)
    reading: pa.Schema = field(repr=False)
    outside: dict[str, int]

    @property
    def inputs(self) -> str:
        """A digest of what is read: the same files and columns give the same rows."""
        named = [*sorted(file.path for file in self.files), *self.schema.names, str(self.schema.types)]
        return hashlib.sha256("\n".join(named).encode()).hexdigest()

    @property
    def rows(self) -> int:
        """Rows of the files concerned; an upper bound of what is exported."""
        return sum(file.rows for file in self.files)


def select(archive: Archive, request: Request) -> list[Selection]:
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
    schemas = {dataset: snapshot.schema for dataset, snapshot in snapshots.items()}
    _check_fields(request, schemas, named)
    return [
        _selection(dataset, table, snapshots[dataset], schemas[dataset], request)
        for dataset, table in tables.items()
        if _columns(schemas[dataset], request.fields)
    ]


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


def _utc(when: datetime | str) -> datetime:
    if isinstance(when, str):
        return parse_time(when)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


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


def _selection(dataset: Dataset, table: str, snapshot: TableSnapshot, schema: pa.Schema, request: Request) -> Selection:
    wanted = {*ALWAYS, *_columns(schema, request.fields)}
    needed = wanted | {*_ORDER, *IDENTITY}
    outside = {QUARANTINE: 0, DEAD: 0}
    for file in snapshot.files([QUARANTINE, DEAD]):
        outside[file.week] += file.rows
    return Selection(
        dataset=dataset,
        table=table,
        snapshot=snapshot,
        files=tuple(good_files(snapshot, None, request.start_us, request.end_us)),
        schema=_plain([column for column in schema if column.name in wanted]),
        reading=_plain([column for column in schema if column.name in needed]),
        outside=outside,
    )


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


def _plain(columns: Sequence[Any]) -> pa.Schema:
    """The columns with units and descriptions, all nullable: files must not differ in that.

    delta-rs gives the metadata of a column in another order each time, which would change the files' bytes.
    """
    return pa.schema(
        [column.with_nullable(True).with_metadata(dict(sorted((column.metadata or {}).items()))) for column in columns]
    )
