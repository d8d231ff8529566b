"""Writing: one chunk of a topic becomes one commit of its dataset, or none where it is archived already.

Preparing a chunk (decoding, sorting, encoding to Parquet) and storing its files, which nobody sees before the commit
that names them, may happen long before its turn, so they go by what is expected of the table: its columns and
decisions, and that nothing of the chunk is archived. In its turn, a look at the table tells whether that holds; where
it does not, the chunk is encoded again for the table as it is, and cleaning takes the files away. Only that look, and
the versions of the app ids in the commit, make records come exactly once. Order and threads: `lanes.py`.
What is to be read, and what Kafka says beside records: `drain.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.encoding import Encoded, HeldColumns, Origin, encode, held_columns
from efd_pipelines.archive.files import DataFile, EncodedFile, encoded_file, put_file, sort_rows
from efd_pipelines.archive.generations import is_archived
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.losses import compacted, gap_note, has_holes
from efd_pipelines.archive.positions import Intake, Source, decided_time_field
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table
from efd_pipelines.archive.widening import needs_widening, widen_table
from efd_pipelines.errors import StaleWriter
from efd_pipelines.kafka.backlog import Chunk, Position
from efd_pipelines.kafka.brokers import Brokers
from efd_pipelines.kafka.frames import FrameBatch
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME, Arrays, Column, wider
from efd_pipelines.topics.schemas import TopicSchema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

_log = logging.getLogger(__name__)
_ATTEMPTS = 12

File = TypeVar("File", EncodedFile, DataFile)
Note = Callable[[str, str, str, str], None]
"""Is told of what somebody should know: topic, kind, detail, remedy."""


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What a dataset's table is expected to be when a chunk's turn comes; `unit` may choose where the table is new."""

    schema: pa.Schema | None
    held: HeldColumns
    arrays: Arrays | None
    unit: SliceUnit | Callable[[Sequence[Column]], SliceUnit]
    time_field: str | None
    sources: Mapping[int, Source]
    is_new: bool

    def unit_of(self, columns: Sequence[Column]) -> SliceUnit:
        return self.unit if isinstance(self.unit, SliceUnit) else self.unit(columns)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared(Generic[File]):
    """A chunk as files that are encoded, or stored, and for what table: `held` are the table's columns with them."""

    records: int
    expected: Expected
    files: tuple[File, ...]
    held: HeldColumns
    arrays: Arrays | None
    schemas: frozenset[int]
    avro_bytes: Mapping[tuple[str, str], int]
    schemas_of_rows: tuple[pa.Schema, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.held.columns


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What became of a chunk."""

    commit: Commit
    records: int
    avro_bytes: int


class Writer:
    """Writes chunks of many topics; those of one topic in their order, but for `prepare` and `store`."""

    def __init__(
        self,
        archive: Archive,
        settings: Settings,
        brokers: Brokers,
        registries: Registries,
        run: str,
        note: Note,
        *,
        keeps_open: bool,
    ) -> None:
        self._archive = archive
        self._settings = settings
        self._brokers = brokers
        self._registries = registries
        self._run = run
        self._note = note
        self._keeps_open = keeps_open
        self._expected: dict[str, Expected] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    # Before the chunk's turn

    def prepare(self, intake: Intake, chunk: Chunk) -> Prepared[EncodedFile] | None:
        """The chunk's files for the table that is expected; None where the rows must be compared with the table's."""
        expected = self._expectation(intake)
        if any(source.generation for source in expected.sources.values()):
            return None
        return self._prepared(chunk.frames, expected, self._encode(intake, chunk.frames, expected))

    def store(self, intake: Intake, prepared: Prepared[EncodedFile] | None) -> Prepared[DataFile] | None:
        """What was prepared, its files in the store, where nobody sees them yet."""
        return None if prepared is None else self._stored(intake, prepared)

    def _stored(self, intake: Intake, prepared: Prepared[EncodedFile]) -> Prepared[DataFile]:
        return Prepared(
            records=prepared.records,
            expected=prepared.expected,
            files=tuple(put_file(self._archive.store, intake.relative, file) for file in prepared.files),
            held=prepared.held,
            arrays=prepared.arrays,
            schemas=prepared.schemas,
            avro_bytes=prepared.avro_bytes,
            schemas_of_rows=prepared.schemas_of_rows,
        )

    def _expectation(self, intake: Intake) -> Expected:
        with self._lock:
            lock = self._locks.setdefault(intake.topic, threading.Lock())
        with lock:
            known = self._expected.get(intake.topic)
            if known is None:
                if intake.snapshot is None:
                    intake.adopt(open_table(self._archive.store, intake.relative))
                known = self._expected[intake.topic] = self._as_it_is(intake)
            return known

    def _as_it_is(self, intake: Intake) -> Expected:
        snapshot = intake.snapshot
        expected = self._expected.get(intake.topic)
        schema = None if snapshot is None else snapshot.schema
        # The table's schema is what it was after the last commit: then its columns need no look.
        is_same = expected is not None and schema is not None and _are_same(expected.schema, schema)
        held = expected.held if expected is not None and is_same else _held(snapshot)
        return Expected(
            schema=schema,
            held=held,
            arrays=intake.arrays(snapshot, held.columns),
            unit=intake.slice_unit(snapshot, self._settings),
            time_field=decided_time_field(snapshot, intake.time_field),
            sources=dict(intake.sources),
            is_new=snapshot is None,
        )

    def _encode(self, intake: Intake, frames: FrameBatch, expected: Expected) -> Encoded:
        cluster = intake.dataset.cluster

        def schema_of(schema_id: int) -> TopicSchema:
            return self._registries.schema(cluster, schema_id)

        sources = {partition: source.text for partition, source in expected.sources.items()}
        return encode(
            _by_kafka_time(frames),
            Origin(sources, expected.time_field, intake.value_format),
            schema_of,
            expected.unit,
            arrays=expected.arrays,
            held=expected.held,
        )

    def _prepared(self, frames: FrameBatch, expected: Expected, encoded: Encoded) -> Prepared[EncodedFile]:
        return Prepared(
            records=len(frames),
            expected=expected,
            files=tuple(
                encoded_file(week, key, sort_rows(table), encoded.form_of(week))
                for (week, key), table in sorted(encoded.parts.items())
            ),
            held=encoded.held,
            arrays=encoded.arrays,
            schemas=encoded.schemas,
            avro_bytes=encoded.avro_bytes,
            schemas_of_rows=tuple(table.schema for table in encoded.parts.values()),
        )

    # In its turn

    def write(self, intake: Intake, chunk: Chunk, stored: Future[Prepared[DataFile] | None]) -> Written | None:
        """One commit of one chunk; None where another writer has archived all of it.

        Raises:
            ArchiveError: it does not follow what is archived, or could not be committed.
            StoreUnavailable, RegistryUnavailable: nothing of it became visible, or the app ids tell that it did.
        """
        starts = intake.take(chunk.positions)
        ready = stored.result()
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(min(1.0, 0.02 * 2**attempt))
            if intake.snapshot is None or attempt:
                intake.adopt(open_table(self._archive.store, intake.relative))
            intake.check_follows(starts)
            frames, transactions = _what_is_new(intake, chunk)
            if not transactions:
                intake.gaps.clear()
                return None
            try:
                made, ready = self._commit(intake, frames, transactions, chunk.positions, ready)
            except StaleWriter as error:
                _log.info("%s", error.message)
                continue
            self._tell_compacted(intake, made)
            intake.gaps.clear()
            if not self._keeps_open:
                intake.release()
            return Written(made, ready.records, sum(ready.avro_bytes.values()))
        raise StaleWriter(
            f"{intake.dataset} could not be committed to in {_ATTEMPTS} attempts",
            remedy="Look who else writes to it; reading goes on where it stopped at the next run.",
        )

    def _commit(
        self,
        intake: Intake,
        frames: FrameBatch,
        transactions: Mapping[str, tuple[int | None, int]],
        positions: Mapping[int, Position],
        ready: Prepared[DataFile] | None,
    ) -> tuple[Commit, Prepared[DataFile]]:
        gaps = [*intake.gaps, *self._compacted(intake, frames, positions)]
        found = self._as_it_is(intake)
        if ready is None or not _holds(ready, found, len(frames)):
            if ready is not None:
                _log.info("%s is not as expected: encoded again", intake.dataset)
            ready = self._prepared_now(intake, frames, found)
        snapshot = intake.snapshot
        is_same = ready.columns is found.held.columns
        if snapshot is not None and not is_same and needs_widening(found.held.columns, ready.columns):
            snapshot, widened = widen_table(snapshot, ready.columns, self._run)
            intake.adopt(snapshot)
            self._archive.ledger.append([row for of in widened for row in rows_of(RAW, intake.dataset, of)])
        made = commit(
            self._archive.store,
            intake.relative,
            snapshot,
            add=ready.files,
            transactions=transactions,
            schema=snapshot.schema if snapshot is not None and is_same else _table_schema(snapshot, ready),
            description=intake.description(snapshot, ready.columns, ready.arrays, self._settings),
            note=self._stamp(intake, ready, positions, gaps),
        )
        if snapshot is not None:
            intake.adopt(snapshot.after(made))
        self._expect_next(intake, found, ready)
        return made, ready

    def _prepared_now(self, intake: Intake, frames: FrameBatch, found: Expected) -> Prepared[DataFile]:
        """Rows of the frames for the table as it is, without those that an older generation of the log has brought."""
        encoded = self._encode(intake, frames, found)
        if intake.snapshot is not None and any(source.generation for source in intake.sources.values()):
            known = is_archived(intake.snapshot, intake.sources, frames, encoded)
            if known.any():
                _log.info("%s: %d records of an older generation come again", intake.dataset, int(known.sum()))
                frames = frames.take(np.flatnonzero(~known))
                encoded = self._encode(intake, frames, found)
        return self._stored(intake, self._prepared(frames, found, encoded))

    def _expect_next(self, intake: Intake, found: Expected, made: Prepared[DataFile]) -> None:
        """After a commit the table has the columns that its rows were encoded with."""
        snapshot = intake.snapshot
        self._expected[intake.topic] = replace(
            found,
            schema=None if snapshot is None else snapshot.schema,
            # These remember how the schema's records fit them, which takes long to find out.
            held=made.held,
            arrays=made.arrays,
            unit=found.unit_of(made.columns),
            is_new=False,
        )

    def _stamp(
        self,
        intake: Intake,
        ready: Prepared[DataFile],
        positions: Mapping[int, Position],
        gaps: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        return {
            "kind": "drain",
            "run": self._run,
            "records": ready.records,
            "avro_bytes": {f"{week}|{key}": size for (week, key), size in ready.avro_bytes.items()},
            "epochs": {
                f"{intake.sources[partition].text}:{partition}": position.leader_epoch
                for partition, position in positions.items()
                if position.leader_epoch is not None
            },
            "gaps": gaps,
            "schemas": sorted(ready.schemas),
        }

    # What compaction took

    def _tell_compacted(self, intake: Intake, made: Commit) -> None:
        for gap in made.note["gaps"]:
            if gap["kind"] == "compacted":
                where = f"partition {gap['partition']}, offsets {gap['first']} to {gap['end'] - 1}"
                detail = f"{where}: {gap['records']} records were compacted away before they were read"
                self._note(intake.topic, "gap", detail, "Look why the drain came later than min.compaction.lag.ms.")

    def _compacted(self, intake: Intake, frames: FrameBatch, positions: Mapping[int, Position]) -> list[dict[str, Any]]:
        """What compaction took between the table's positions and the frames, as gaps."""
        reached = {of: intake.reached(intake.sources[of].app_id(of)) for of in positions}
        starts = {of: position for of, position in reached.items() if position is not None}
        if not has_holes(frames, starts):
            return []
        config = self._brokers.configs([intake.topic]).get(intake.topic)
        if config is None:
            return []
        found = compacted(frames, starts, config, intake.gaps, time.time() * 1000)
        return [
            gap_note(
                intake.sources[of].text, of, first, end, "compacted before it was read", kind="compacted", records=n
            )
            for of, first, end, n in found
        ]


def _by_kafka_time(frames: FrameBatch) -> FrameBatch:
    """The frames of several partitions as they were sent: so the rows mostly come in order and need not be moved."""
    if len(frames) < 2 or not np.any(frames.partitions != frames.partitions[0]):
        return frames
    return frames.take(np.lexsort((frames.offsets, frames.partitions, frames.timestamps_ms)))


def _holds(ready: Prepared[DataFile], found: Expected, records: int) -> bool:
    """Whether what was prepared is what would be made for the table as it was found.

    Its columns may be more and wider than the table's: another chunk with the same new schema came before.
    """
    expected = ready.expected
    if ready.records != records or expected.sources != found.sources or expected.time_field != found.time_field:
        return False
    if any(source.generation for source in found.sources.values()):
        return False
    if found.is_new:
        return expected.is_new
    if expected.unit_of(ready.columns) != found.unit_of(ready.columns) or ready.arrays not in (found.arrays, None):
        return False
    if expected.held is found.held:
        return True
    mine = {column.name: column for column in ready.columns}
    return all(_has(mine.get(column.name), column) for column in found.held.columns)


def _has(mine: Column | None, column: Column) -> bool:
    """Whether a column of the rows is the table's, or the table's widened."""
    if mine is None or (mine.field, mine.element) != (column.field, column.element):
        return False
    both = wider(column.type, mine.type)
    return both is not None and both.equals(mine.type)


def _are_same(mine: pa.Schema | None, schema: pa.Schema) -> bool:
    return mine is schema or (mine is not None and bool(mine.equals(schema, check_metadata=True)))


def _held(snapshot: TableSnapshot | None) -> HeldColumns:
    """The message's columns of a table."""
    return HeldColumns(() if snapshot is None else tuple(held_columns(snapshot.schema)))


def _what_is_new(intake: Intake, chunk: Chunk) -> tuple[FrameBatch, dict[str, tuple[int | None, int]]]:
    """The frames at or above the table's positions, and the versions that the commit moves."""
    frames, transactions = chunk.frames, {}
    keep = np.ones(len(frames), dtype=bool)
    for partition, position in chunk.positions.items():
        app_id = intake.sources[partition].app_id(partition)
        reached = intake.reached(app_id)
        if reached is not None:
            keep &= (frames.partitions != partition) | (frames.offsets >= reached)
        if reached is None or position.offset > reached:
            transactions[app_id] = (reached, position.offset)
    known = np.isin(frames.partitions, list(chunk.positions))
    keep &= known
    return (frames if keep.all() else frames.take(np.flatnonzero(keep))), transactions


def _table_schema(snapshot: TableSnapshot | None, ready: Prepared[DataFile]) -> pa.Schema:
    """The columns that the table must have: a new one gets all of the system's, to be the same for everybody."""
    fields = {"time": pa.field("time", TIME)}
    for schema in ready.schemas_of_rows:
        for column in schema:
            fields.setdefault(column.name, column)
    if snapshot is None:
        for name, kind in SYSTEM_COLUMNS.items():
            fields.setdefault(name, pa.field(name, kind))
    system = [fields.pop(name) for name in SYSTEM_COLUMNS if name in fields]
    return pa.schema([*fields.values(), *system])
