"""The deep audit: reads every file that counts, and every commit that the tables' logs still have.

It finds what metadata cannot show: bytes that changed, rows that stand twice, rows that are foreign to their slice,
their source or their schema, values that contradict one another, a log or a ledger that lies. One dataset at a time;
of each file the bytes are hashed, and the columns that tell rows apart are read.
What belongs here: what one dataset's files and positions say about one another. Its ledger and log: `ledger_audit.py`;
rows of one file: `file_audit.py`. Metadata of all datasets: `audit.py`. Kafka: `recount.py`, `value_audit.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.certificate_audit import audit_certificates
from efd_pipelines.archive.delta_log import log_versions
from efd_pipelines.archive.expiry import KIND as EXPIRE
from efd_pipelines.archive.expiry import Partition as ExpiredPartition
from efd_pipelines.archive.expiry import is_expired, offsets_let_go
from efd_pipelines.archive.file_audit import FileAudit
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.findings import REINDEX, REPORT, RESTORE, RESTORE_LOG, Audit, counted
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.ledger_audit import LedgerAudit
from efd_pipelines.archive.positions import ENDED
from efd_pipelines.archive.reading import IDENTITY
from efd_pipelines.archive.recount import Offsets, Partition, recount_deeply
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.sequences import COLUMNS as SEQUENCE_COLUMNS
from efd_pipelines.archive.sequences import Sequences, has_sequence
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.stored_audit import audit_directories
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.errors import (
    ArchiveError,
    RegistryUnavailable,
    SchemaError,
    SettingsError,
    StoreUnavailable,
    UnknownDataset,
)
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import parse_schema

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.recount import Feed


def deep_audit(
    archive: Archive, audit: Audit, datasets: Collection[Dataset], week: str | None, feeds: Collection[Feed] = ()
) -> None:
    """Reads everything of the datasets (of one week, where given), and adds what it finds.

    With `feeds`, what Kafka has of them is compared too, offset by offset and value by value.

    Raises:
        KafkaUnavailable: it was there, and no longer answers.
        StoreUnavailable: the store does not answer; a file that it does not have is a finding.
    """
    schemas = WriterSchemas(archive.store)
    _audit_schemas(audit, schemas)
    entries = _ledger_rows(archive, datasets)
    for dataset in datasets:
        of_dataset = _DatasetAudit(archive, audit, dataset, week, schemas, entries.get(dataset.text, []))
        places = of_dataset.all()
        mine = [feed for feed in feeds if feed.dataset == dataset]
        if mine and of_dataset.snapshot is not None:
            _compare_with_kafka(archive, audit, of_dataset, mine, places, week)


def _compare_with_kafka(
    archive: Archive,
    audit: Audit,
    of: _DatasetAudit,
    feeds: Sequence[Feed],
    places: Mapping[Partition, Offsets],
    week: str | None,
) -> None:
    """What Kafka has of a dataset; without the registry, which decodes its records, only offsets, and of all weeks."""
    from efd_pipelines.archive.value_audit import ValueAudit

    assert of.snapshot is not None
    settings = archive.settings
    try:
        settings.require_registry(of.dataset.cluster)
        with Registries(settings) as registries:
            values = ValueAudit(audit, archive, of.dataset, of.snapshot, registries, week)
            recount_deeply(settings, audit, feeds, places, of.let_go, values, week, unread_rows=of.unread_rows)
    except (SettingsError, RegistryUnavailable) as error:
        audit.note(of.dataset.text, week or "", "kafka", f"Values were not compared: {error.message}", error.remedy)
        if week is None:
            recount_deeply(settings, audit, feeds, places, of.let_go, unread_rows=of.unread_rows)


def _audit_schemas(audit: Audit, schemas: WriterSchemas) -> None:
    """Each text is the one that its token was made of."""
    for token, text in schemas.texts():
        try:
            made = parse_schema(text).token
        except SchemaError as error:
            audit.found("", "", "schema", f"The text of schema {token} is none: {error.message}", RESTORE)
            continue
        if made != token:
            audit.found("", "", "schema", f"The text of schema {token} is another: its token is {made}", RESTORE)


def _ledger_rows(archive: Archive, datasets: Collection[Dataset]) -> dict[str, list[dict[str, Any]]]:
    """The ledger's rows of raw tables, by dataset."""
    ledger = archive.ledger.table()
    names = pa.array(sorted(dataset.text for dataset in datasets), pa.string())
    of = pc.and_(pc.equal(ledger["table"], RAW), pc.is_in(ledger["dataset"], value_set=names))
    found: dict[str, list[dict[str, Any]]] = {}
    for row in ledger.filter(of).to_pylist():
        found.setdefault(row["dataset"], []).append(row)
    return found


@dataclass(slots=True)
class _Places:
    """Where rows of Kafka came from: the offsets of each source's partition."""

    offsets: dict[Partition, list[Offsets]] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        kept = rows.filter(pc.is_valid(rows["kafka_offset"]))
        if not kept.num_rows:
            return
        sources = kept["archive_source"].combine_chunks().dictionary_encode()
        codes = sources.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        partitions = kept["kafka_partition"].to_numpy().astype(np.int64)
        offsets = kept["kafka_offset"].to_numpy()
        keys = (codes << 32) | partitions
        for key in np.unique(keys).tolist():
            place = str(sources.dictionary[key >> 32].as_py()), int(key & 0xFFFFFFFF)
            self.offsets.setdefault(place, []).append(offsets[keys == key])

    def sorted(self) -> dict[Partition, Offsets]:
        return {place: np.sort(np.concatenate(parts)) for place, parts in self.offsets.items()}


class _DatasetAudit:
    """One dataset, read whole."""

    def __init__(
        self,
        archive: Archive,
        audit: Audit,
        dataset: Dataset,
        week: str | None,
        schemas: WriterSchemas,
        entries: list[dict[str, Any]],
    ) -> None:
        self._archive = archive
        self._audit = audit
        self.dataset = self._dataset = dataset
        self.snapshot: TableSnapshot | None = None
        self._week = week
        self._schemas = schemas
        self._ledger = LedgerAudit(audit, dataset, week, entries)
        self.let_go: dict[ExpiredPartition, list[range]] = {}
        self.unread_rows = 0

    def all(self) -> dict[Partition, Offsets]:
        """Audits it; gives the offsets of what came from Kafka, sorted, by source and partition."""
        self.snapshot = snapshot = self._opened()
        if snapshot is None:
            return {}
        files = [file for file in snapshot.files() if self._week in (None, file.week)]
        versions = log_versions(snapshot.store, snapshot.relative)
        self._ledger.check(snapshot, versions, files)
        self._check_positions(snapshot)
        audit_certificates(self._audit, self._archive, self._dataset, snapshot, self._week)
        self._check_expired(snapshot)
        self.let_go = offsets_let_go(self._archive, self._dataset, snapshot)
        audit_directories(self._audit, self._archive, self._dataset, self._week)
        places = self._check_files(snapshot, files).sorted()
        self._check_places(snapshot, places)
        return places

    def _found(self, week: str, kind: str, detail: str, remedy: str = REPORT) -> None:
        self._audit.found(self._dataset.text, week, kind, detail, remedy)

    def _opened(self) -> TableSnapshot | None:
        relative = self._archive.relative(self._dataset)
        try:
            snapshot = self._archive.snapshot(self._dataset)
            _ = snapshot.description, snapshot.schema
        except (ArchiveError, StoreUnavailable, UnknownDataset) as error:
            # Where the store does not answer at all this raises; of a log that is gone the plain audit has told.
            if self._archive.store.list(f"{relative}/_delta_log"):
                self._found("", "log", f"{relative} cannot be opened: {error.message}", RESTORE_LOG)
            return None
        return snapshot

    def _check_expired(self, snapshot: TableSnapshot) -> None:
        """What the ledger says was let go, the table has a guard of."""
        weeks = {row["week"] for row in self._ledger.entries if row["commit_kind"] == EXPIRE}
        for week in sorted(weeks if self._week is None else weeks & {self._week}):
            if not is_expired(snapshot, week):
                self._found(week, "lost", "its rows were removed as if it had expired, and it has not", RESTORE)

    def _check_positions(self, snapshot: TableSnapshot) -> None:
        """The ledger's newest positions are the table's."""
        reached: dict[str, int] = {}
        for row in self._ledger.entries:
            if row["version"] <= snapshot.version:
                for partition, position in json.loads(row["positions"]).items():
                    reached[partition] = max(position, reached.get(partition, position))
        for partition, position in reached.items():
            there = snapshot.transaction_version(f"kafka:{partition}")
            if there != position:
                detail = f"the position of {partition} is {there} in the table, {position} in the ledger"
                self._found("", "position", detail, REINDEX)

    def _check_files(self, snapshot: TableSnapshot, files: list[DataFile]) -> _Places:
        places = _Places()
        sequences = Sequences()
        repeated = 0
        of_file = FileAudit(self._audit, self._dataset, snapshot, self._schemas)
        for (week, _), group in groupby(files, key=lambda file: (file.week, file.slice)):
            parts = [rows for rows in map(of_file.rows_of, group) if rows is not None]
            for rows in parts:
                places.add(rows)
            if not parts or week in (DEAD, QUARANTINE):
                continue
            whole = pa.concat_tables(parts, promote_options="default")
            repeated += _repeated(whole)
            if has_sequence(self._dataset):
                sequences.add(whole.select([name for name in SEQUENCE_COLUMNS if name in whole.column_names]))
        self.unread_rows = of_file.unread_rows
        self._note_repeated(repeated)
        self._note_holes(sequences)
        return places

    def _check_places(self, snapshot: TableSnapshot, places: dict[Partition, Offsets]) -> None:
        """Each offset once, and none at or beyond its source's position."""
        for (source, partition), offsets in sorted(places.items()):
            where = f"{source}, partition {partition}"
            same = np.flatnonzero(offsets[1:] == offsets[:-1])
            if len(same):
                self._audit.duplicates += len(same)
                detail = f"{counted(len(same), 'row')} of {where} stand again, the first at offset {offsets[same[0]]}"
                self._found(self._week or "", "doubled", detail)
            reached = snapshot.transaction_version(f"kafka:{source}:{partition}")
            if reached is None:
                self._found(self._week or "", "foreign", f"{counted(len(offsets), 'row')} of {where}, never read")
            elif reached != ENDED and int(offsets[-1]) >= reached:
                detail = f"offset {offsets[-1]} of {where} is kept, the position is {reached}"
                self._found(self._week or "", "position", detail)

    def _note_repeated(self, repeated: int) -> None:
        if repeated:
            detail = f"{counted(repeated, 'row')} more than once, by salIndex, private_sndStamp, seqNum and origin"
            remedy = "Nothing to do: producers' retries and mirrors make them; tiers and joins count them once."
            self._audit.note(self._dataset.text, self._week or "", "repeated", detail, remedy)

    def _note_holes(self, sequences: Sequences) -> None:
        holes = sequences.holes()
        if not holes:
            return
        first = holes[0]
        detail = (
            f"{counted(sum(hole.count for hole in holes), 'number')} in {counted(len(holes), 'hole')}, the first "
            f"{first.first} of {first.identity or 'a writer'}, process {first.origin}, salIndex {first.sal_index}"
        )
        remedy = "Nothing to do here: lost before Kafka, aborted, or compacted away, unless a gap says otherwise."
        self._audit.note(self._dataset.text, self._week or "", "sequence", detail, remedy)


def _repeated(rows: pa.Table) -> int:
    """How many rows are records that are there already."""
    keys = [name for name in IDENTITY if name in rows.column_names]
    if len(keys) < len(IDENTITY) - 1 or rows.num_rows < 2:
        return 0
    import polars as pl

    return int(rows.num_rows) - int(pl.DataFrame(rows.select(keys)).n_unique())
