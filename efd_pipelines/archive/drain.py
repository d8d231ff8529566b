"""Draining: reads the backlog of many topics into the archive, exactly once (design.md §4).

Each chunk of a topic becomes one commit of its dataset: the rows of every week, quarantine, the dead, and the new
position of each Kafka partition, together or not at all. Where to read on stands in the tables, never in Kafka's
group offsets and never in Dagster; the ledger only says where a look is worth while. A writer that is refused
opens the table again, drops what is now below the positions, encodes again and commits again.
Frames → rows: `encoding.py`. What is due: `backlog.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.encoding import Encoded, Origin, encode, held_columns, schemas_in
from efd_pipelines.archive.files import DataFile, sort_rows, write_data_file
from efd_pipelines.archive.generations import is_archived
from efd_pipelines.archive.ledger import RAW, LedgerRow, rows_of
from efd_pipelines.archive.losses import compacted, gap_note, has_holes
from efd_pipelines.archive.positions import (
    ENDED,
    Intake,
    decided_time_field,
    is_ended,
    opened_sources,
    wanted_topics,
)
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.tables import Commit, TableSnapshot, commit, open_table
from efd_pipelines.archive.widening import needs_widening, widen_table
from efd_pipelines.errors import (
    DataError,
    EfdError,
    RegistryUnavailable,
    StaleWriter,
    StoreUnavailable,
)
from efd_pipelines.kafka.backlog import Chunk, Gap, Position, TopicGone, TopicRefused, Truncated, read_backlog
from efd_pipelines.kafka.brokers import Brokers
from efd_pipelines.kafka.frames import FrameBatch
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.memory import give_back
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME, Column
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

_log = logging.getLogger(__name__)
_ATTEMPTS = 12
_THREADS = 4
_BATCH_CHUNKS = 256
_LEDGER_EVERY = 1000
_KEPT_OPEN = 64

Progress = Callable[[int, int, int], None]
"""Called with records archived so far, records of the backlog, and bytes of Avro so far."""


class DrainIncomplete(DataError):
    """Some topics could not be archived; the others were, and nothing was lost."""

    remedy = "Mend what the message names and run again: reading goes on where it stopped."

    result: DrainResult


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about one topic that somebody should know."""

    topic: str
    kind: str
    detail: str
    remedy: str


@dataclass(slots=True)
class DrainResult:
    """What a drain did. `by_component_week` counts rows and bytes; its weeks are also quarantine and dead."""

    records: int = 0
    rows: int = 0
    bytes: int = 0
    avro_bytes: int = 0
    commits: int = 0
    dead_letters: int = 0
    quarantined: int = 0
    gaps: int = 0
    seconds: float = 0.0
    topics: int = 0
    by_component_week: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def count(self, dataset: Dataset, made: Commit, encoded: Encoded, records: int, gaps: int) -> None:
        self.records += records
        self.commits += 1
        self.gaps += gaps
        self.rows += sum(file.rows for file in made.added)
        self.bytes += sum(file.size_bytes for file in made.added)
        self.avro_bytes += sum(encoded.avro_bytes.values())
        self.dead_letters += encoded.rows(DEAD)
        self.quarantined += encoded.rows(QUARANTINE)
        for file in made.added:
            counts = self.by_component_week.setdefault((dataset.component, file.week), {})
            for name, value in (("rows", file.rows), ("bytes", file.size_bytes), ("files", 1)):
                counts[name] = counts.get(name, 0) + value


def drain(
    archive: Archive,
    settings: Settings,
    *,
    components: Collection[str] | None = None,
    topics: Collection[str] | None = None,
    until_caught_up: bool = False,
    run: str = "",
    progress: Progress | None = None,
) -> DrainResult:
    """Archives the backlog up to the end offsets found at the start; with `until_caught_up` again until none is left.

    Args:
        components, topics: only these components, or these Kafka topics.
        run: which run this is, for the ledger.

    Raises:
        KafkaUnavailable, RegistryUnavailable, StoreUnavailable: what was committed before stands.
        DrainIncomplete: some topics could not be archived; `problems` of the error's result says which.
    """
    started = time.monotonic()
    archive.prepare()
    result = DrainResult()
    with ExitStack() as stack:
        brokers = stack.enter_context(Brokers(settings))
        registries = stack.enter_context(Registries(settings))
        drainer = _Drainer(archive, settings, brokers, registries, run, result, progress)
        while drainer.round(components, topics) and until_caught_up:
            continue
    result.seconds = time.monotonic() - started
    failed = [problem for problem in result.problems if problem.kind == "failed"]
    if failed:
        names = ", ".join(problem.topic for problem in failed[:5])
        error = DrainIncomplete(f"{len(failed)} topics could not be archived: {names}: {failed[0].detail}")
        error.result = result
        raise error
    return result


class _Drainer:
    """One drain."""

    def __init__(
        self,
        archive: Archive,
        settings: Settings,
        brokers: Brokers,
        registries: Registries,
        run: str,
        result: DrainResult,
        progress: Progress | None,
    ) -> None:
        self._archive = archive
        self._settings = settings
        self._brokers = brokers
        self._registries = registries
        self._run = run
        self._result = result
        self._progress = progress
        self._schemas = WriterSchemas(archive.store)
        self._intakes: dict[str, Intake] = {}
        self._failed: set[str] = set()
        self._expected = 0

    def round(self, components: Collection[str] | None, topics: Collection[str] | None) -> int:
        """Reads to the end offsets of now; how many records were archived."""
        before = self._result.records
        wanted = wanted_topics(self._archive, self._settings, self._brokers, components, topics)
        wanted = [intake for intake in wanted if intake.topic not in self._failed]
        if not wanted:
            return 0
        self._intakes = {intake.topic: intake for intake in wanted}
        self._result.topics = max(self._result.topics, len(wanted))
        self._expected = self._result.records + sum(intake.backlog for intake in wanted)
        with self._archive.ledger.announced(self._run, [(RAW, intake.dataset) for intake in wanted]) as rows:
            self._open_all(rows)
            self._read(rows)
        return self._result.records - before

    def _open_all(self, rows: list[LedgerRow]) -> None:
        """Opens every table of the round, and makes good what the ledger lacks of it."""
        intakes = list(self._intakes.values())
        with ThreadPoolExecutor(_THREADS) as pool:
            versions = list(pool.map(self._open, intakes))
        lagging = []
        for intake, version in zip(intakes, versions, strict=True):
            if version is not None and version > intake.ledger_version:
                lagging.append((RAW, intake.dataset))
        if lagging:
            self._archive.ledger.catch_up(lagging)
        self._look_for_truncation([intake for intake in intakes if intake.beyond_end()])

    def _open(self, intake: Intake) -> int | None:
        """Takes the positions of one table; its version, None where there is none yet."""
        snapshot = intake.adopt(open_table(self._archive.store, intake.relative))
        intake.release()
        return None if snapshot is None else snapshot.version

    def _look_for_truncation(self, suspects: Sequence[Intake]) -> None:
        """Ends the generation of logs that end before their position, by end offsets asked for after the positions."""
        fresh = self._brokers.offsets([intake.topic for intake in suspects]) if suspects else {}
        for intake in suspects:
            intake.watermarks = fresh.get(intake.topic, intake.watermarks)
            for partition, position in intake.beyond_end().items():
                end = intake.watermarks[partition].high
                self._start_generation(intake, Truncated(intake.topic, partition, position, end))

    def _read(self, rows: list[LedgerRow]) -> None:
        assignments, ends = opened_sources(self._intakes.values())
        ids = {intake.topic: intake.topic_id for intake in self._intakes.values()}
        waiting: list[Chunk] = []
        waiting_bytes = 0
        budget = self._settings.configuration.kafka.byte_budget
        for item in read_backlog(self._settings, assignments, ends, budget // 2, topic_ids=ids):
            if isinstance(item, Chunk):
                waiting.append(item)
                waiting_bytes += item.frames.size_bytes
            if not isinstance(item, Chunk) or waiting_bytes > budget // 4 or len(waiting) >= _BATCH_CHUNKS:
                self._archive_chunks(waiting, rows)
                waiting, waiting_bytes = [], 0
            if not isinstance(item, Chunk):
                # After the chunks before it: a truncation ends the source that they belong to.
                self._hear(item)
        self._archive_chunks(waiting, rows)

    def _hear(self, item: Gap | Truncated | TopicGone | TopicRefused) -> None:
        """Notes what Kafka said beside records."""
        intake = self._intakes[item.topic]
        if isinstance(item, Gap):
            source = intake.sources[item.partition].text
            intake.gaps.append(gap_note(source, item.partition, item.first, item.end, item.reason))
            detail = f"partition {item.partition}: offsets {item.first} to {item.end - 1} are gone: {item.reason}"
            self._note(item.topic, "gap", detail, "`efd archive gaps` lists it and where it may still be had.")
        elif isinstance(item, Truncated):
            self._start_generation(intake, item)
        elif isinstance(item, TopicGone):
            self._note(item.topic, "gone", item.reason, "Nothing to do: what was read of it is archived.")
        else:
            self._fail(item.topic, item.reason, item.remedy)

    def _start_generation(self, intake: Intake, truncated: Truncated) -> None:
        """Ends the old generation of a partition's source for every writer; the new one begins at the low watermark."""
        old = intake.sources[truncated.partition]
        snapshot = open_table(self._archive.store, intake.relative)
        if snapshot is None or is_ended(snapshot, old, truncated.partition):
            return
        app_id = old.app_id(truncated.partition)
        lost = gap_note(
            old.text,
            truncated.partition,
            truncated.end,
            truncated.position,
            "the log was truncated; the archive has what it lost",
            kind="truncated",
        )
        note = {"kind": "generation", "run": self._run, "gaps": [lost]}
        made = commit(
            self._archive.store,
            intake.relative,
            snapshot,
            transactions={app_id: (snapshot.transaction_version(app_id), ENDED)},
            schema=snapshot.schema,
            note=note,
        )
        self._archive.ledger.append(rows_of(RAW, intake.dataset, made))
        intake.adopt(open_table(self._archive.store, intake.relative))
        self._result.gaps += 1
        self._note(
            intake.topic,
            "truncated",
            f"partition {truncated.partition} ends at {truncated.end}, before position {truncated.position}",
            "Look at the brokers: records were lost there. A new generation of the source is read from its start.",
        )

    def _archive_chunks(self, chunks: Sequence[Chunk], rows: list[LedgerRow]) -> None:
        """Commits chunks, those of one dataset in their order, others side by side."""
        if not chunks:
            return
        self._prefetch(chunks)
        by_table: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            by_table.setdefault(self._intakes[chunk.frames.topic].relative, []).append(chunk)
        with ThreadPoolExecutor(_THREADS) as pool:
            for made in pool.map(self._archive_in_order, by_table.values()):
                for dataset, of, encoded, records, gaps in made:
                    rows += rows_of(RAW, dataset, of)
                    self._result.count(dataset, of, encoded, records, gaps)
        give_back()
        if self._progress:
            self._progress(self._result.records, self._expected, self._result.avro_bytes)
        if len(rows) >= _LEDGER_EVERY:
            self._archive.ledger.append(rows)
            rows.clear()

    def _prefetch(self, chunks: Sequence[Chunk]) -> None:
        """Fetches the writer schemas that the chunks name, and keeps their texts before any commit refers to them."""
        wanted = set()
        for chunk in chunks:
            intake = self._intakes[chunk.frames.topic]
            if intake.value_format == "avro":
                wanted |= {(intake.dataset.cluster, schema_id) for schema_id in schemas_in(chunk.frames)}
        for cluster, schema_id in sorted(wanted):
            try:
                schema = self._registries.schema(cluster, schema_id)
            except DataError:
                continue  # its frames are dead letters; `encode` says so
            self._schemas.remember(self._registries.url(cluster), schema_id, schema)
        self._schemas.keep()

    def _archive_in_order(self, chunks: Sequence[Chunk]) -> list[tuple[Dataset, Commit, Encoded, int, int]]:
        made = []
        for chunk in chunks:
            intake = self._intakes[chunk.frames.topic]
            if intake.topic in self._failed:
                continue
            try:
                done = self._archive_chunk(intake, chunk)
            except (StoreUnavailable, RegistryUnavailable):
                raise
            except EfdError as error:
                self._fail(intake.topic, error.message, error.remedy)
                continue
            except Exception as error:
                # One topic's surprise must not keep the others from the archive; the drain ends with an error.
                _log.exception("archiving %s failed", intake.topic)
                detail = f"{type(error).__name__}: {error}"
                self._fail(intake.topic, detail, "Report it with the log; its records stay in Kafka meanwhile.")
                continue
            if done is not None:
                made.append((intake.dataset, *done))
        return made

    def _archive_chunk(self, intake: Intake, chunk: Chunk) -> tuple[Commit, Encoded, int, int] | None:
        """One commit of one chunk; None where another writer has archived all of it."""
        starts = intake.take(chunk.positions)
        for attempt in range(_ATTEMPTS):
            time.sleep(min(1.0, 0.02 * 2**attempt) if attempt else 0.0)
            if intake.snapshot is None or attempt:
                intake.adopt(open_table(self._archive.store, intake.relative))
            intake.check_follows(starts)
            frames, transactions = _what_is_new(intake, chunk)
            if not transactions:
                intake.gaps.clear()
                return None
            try:
                made, encoded = self._commit(intake, frames, transactions, chunk.positions)
            except StaleWriter as error:
                _log.info("%s", error.message)
                continue
            self._tell_compacted(intake, made)
            intake.gaps.clear()
            if len(self._intakes) > _KEPT_OPEN:
                intake.release()
            return made, encoded, len(frames), len(made.note["gaps"])
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
    ) -> tuple[Commit, Encoded]:
        snapshot = intake.snapshot
        held = held_columns(snapshot.schema) if snapshot is not None else []
        gaps = [*intake.gaps, *self._compacted(intake, frames, positions)]
        frames, encoded = self._encode_new(intake, frames, snapshot, held)
        if snapshot is not None and needs_widening(held, encoded.columns):
            snapshot, widened = widen_table(snapshot, encoded.columns, self._run)
            intake.adopt(snapshot)
            self._archive.ledger.append([row for of in widened for row in rows_of(RAW, intake.dataset, of)])
        files = self._write(intake, encoded)
        description = intake.description(snapshot, encoded, self._settings)
        note = {
            "kind": "drain",
            "run": self._run,
            "records": len(frames),
            "avro_bytes": {f"{week}|{key}": size for (week, key), size in encoded.avro_bytes.items()},
            "epochs": {
                f"{intake.sources[partition].text}:{partition}": position.leader_epoch
                for partition, position in positions.items()
                if position.leader_epoch is not None
            },
            "gaps": gaps,
            "schemas": sorted(encoded.schemas),
        }
        made = commit(
            self._archive.store,
            intake.relative,
            snapshot,
            add=files,
            transactions=transactions,
            schema=_table_schema(snapshot, encoded),
            description=description,
            note=note,
        )
        if snapshot is not None:
            intake.adopt(replace(snapshot, version=made.version))
        return made, encoded

    def _encode_new(
        self, intake: Intake, frames: FrameBatch, snapshot: TableSnapshot | None, held: Sequence[Column]
    ) -> tuple[FrameBatch, Encoded]:
        """Rows of the frames, without those that an older generation of the log has brought."""
        encoded = self._encode(intake, frames, snapshot, held)
        if snapshot is None or not any(source.generation for source in intake.sources.values()):
            return frames, encoded
        known = is_archived(snapshot, intake.sources, frames, encoded)
        if not known.any():
            return frames, encoded
        _log.info("%s: %d records of an older generation come again", intake.dataset, int(known.sum()))
        frames = frames.take(np.flatnonzero(~known))
        return frames, self._encode(intake, frames, snapshot, held)

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

    def _encode(
        self, intake: Intake, frames: FrameBatch, snapshot: TableSnapshot | None, held: Sequence[Column]
    ) -> Encoded:
        cluster = intake.dataset.cluster

        def schema_of(schema_id: int) -> TopicSchema:
            return self._registries.schema(cluster, schema_id)

        return encode(
            frames,
            Origin(
                {partition: source.text for partition, source in intake.sources.items()},
                decided_time_field(snapshot, intake.time_field),
                intake.value_format,
            ),
            schema_of,
            intake.slice_unit(snapshot, self._settings),
            arrays=intake.arrays(snapshot, held),
            held=held,
        )

    def _write(self, intake: Intake, encoded: Encoded) -> list[DataFile]:
        return [
            write_data_file(self._archive.store, intake.relative, week, key, sort_rows(table))
            for (week, key), table in sorted(encoded.parts.items())
        ]

    def _note(self, topic: str, kind: str, detail: str, remedy: str) -> None:
        self._result.problems.append(Problem(topic, kind, detail, remedy))

    def _fail(self, topic: str, detail: str, remedy: str) -> None:
        self._failed.add(topic)
        self._note(topic, "failed", detail, remedy)


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


def _table_schema(snapshot: TableSnapshot | None, encoded: Encoded) -> pa.Schema:
    """The columns that the table must have: a new one gets all of the system's, to be the same for everybody."""
    fields = {"time": pa.field("time", TIME)}
    for table in encoded.parts.values():
        for column in table.schema:
            fields.setdefault(column.name, column)
    if snapshot is None:
        for name, kind in SYSTEM_COLUMNS.items():
            fields.setdefault(name, pa.field(name, kind))
    system = [fields.pop(name) for name in SYSTEM_COLUMNS if name in fields]
    return pa.schema([*fields.values(), *system])
