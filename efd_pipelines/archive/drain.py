"""Draining: reads the backlog of many topics into the archive, exactly once (design.md §4).

Each chunk of a topic becomes one commit of its dataset: the rows of every week, quarantine, the dead, and the new
position of each Kafka partition, together or not at all. Where to read on stands in the tables, never in Kafka's
group offsets and never in Dagster; the ledger only says where a look is worth while.
What belongs here: what is read, and what Kafka says beside records. One chunk → one commit:
`writing.py`, side by side for many: `lanes.py`. What it all came to: `drained.py`. What is due: `backlog.py`.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from efd_pipelines.archive.drained import DrainIncomplete, DrainResult, Problem
from efd_pipelines.archive.encoding import schemas_in
from efd_pipelines.archive.files import DataFile, EncodedFile
from efd_pipelines.archive.findings import RESTORE_LOG
from efd_pipelines.archive.lanes import Lanes
from efd_pipelines.archive.ledger import RAW, LedgerRow, rows_of
from efd_pipelines.archive.losses import gap_note
from efd_pipelines.archive.positions import ENDED, Intake, is_ended, opened_sources, wanted_topics
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.archive.writing import Prepared, Writer, Written
from efd_pipelines.avro.decoder import make_ready
from efd_pipelines.errors import DataError, EfdError, RegistryUnavailable, StaleWriter, StoreUnavailable
from efd_pipelines.kafka.backlog import Chunk, Gap, Read, TopicGone, TopicRefused, Truncated, read_backlog
from efd_pipelines.kafka.brokers import Brokers
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.memory import Growth, let_go
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

_log = logging.getLogger(__name__)
_OPENING = 4
_FETCHING = 8
# Chunks are looked through together for new schemas, so that those of thousands of topics make one commit.
_WAITING_BYTES = 1 << 24
_WAITING_CHUNKS = 256
_LEDGER_EVERY = 1000
_KEPT_OPEN = 64
# So many are decoded by compiled code, which is loaded while tables are opened and the brokers asked.
_MANY_RECORDS = 10_000

_Of = tuple[Intake, Chunk]
_Encoded = Prepared[EncodedFile] | None
_Stored = Prepared[DataFile] | None
_ChunkLanes = Lanes[_Of, _Encoded, _Stored, tuple[Dataset, Written] | None]

Progress = Callable[[int, int, int], None]
"""Called with records archived so far, records of the backlog, and bytes of Avro so far."""


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
        self._known_schemas: set[tuple[str, int]] = set()
        self._growth = Growth()
        self._generations = 0

    def round(self, components: Collection[str] | None, topics: Collection[str] | None) -> int:
        """Reads to the end offsets of now; how many records were archived, and how many sources begun anew."""
        before = self._result.records + self._generations
        wanted = wanted_topics(self._archive, self._settings, self._brokers, components, topics)
        wanted = [intake for intake in wanted if intake.topic not in self._failed]
        if not wanted:
            return 0
        self._intakes = {intake.topic: intake for intake in wanted}
        self._result.topics = max(self._result.topics, len(wanted))
        self._expected = self._result.records + sum(intake.backlog for intake in wanted)
        if self._expected - before > _MANY_RECORDS:
            threading.Thread(target=make_ready, name="make ready").start()
        with self._archive.ledger.announced(self._run, [(RAW, intake.dataset) for intake in wanted]) as rows:
            self._open_all(rows)
            self._read(rows)
        return self._result.records + self._generations - before

    def _open_all(self, rows: list[LedgerRow]) -> None:
        """Opens every table of the round, and makes good what the ledger lacks of it."""
        intakes = list(self._intakes.values())
        with ThreadPoolExecutor(_OPENING) as pool:
            versions = list(pool.map(self._open, intakes))
        lagging = []
        for intake, version in zip(intakes, versions, strict=True):
            if version is None and intake.ledger_version >= 0:
                self._refuse_lost(intake)
            elif version is not None and version > intake.ledger_version:
                lagging.append((RAW, intake.dataset))
        if lagging:
            self._archive.ledger.catch_up(lagging)
        self._look_for_truncation([intake for intake in self._intakes.values() if intake.beyond_end()])

    def _open(self, intake: Intake) -> int | None:
        """Takes the positions of one table; its version, None where there is none yet."""
        snapshot = intake.adopt(open_table(self._archive.store, intake.relative))
        if len(self._intakes) > _KEPT_OPEN:
            intake.release()
        return None if snapshot is None else snapshot.version

    def _refuse_lost(self, intake: Intake) -> None:
        """A new table in the place of one whose log is lost would have the old one's files cleaned away."""
        del self._intakes[intake.topic]
        detail = f"{intake.relative} has no log, and the ledger has rows of it: no new table is made in its place"
        self._fail(intake.topic, detail, RESTORE_LOG)

    def _look_for_truncation(self, suspects: Sequence[Intake]) -> None:
        """Ends the generation of logs that end before their position, by end offsets asked for after the positions."""
        fresh = self._brokers.offsets([intake.topic for intake in suspects]) if suspects else {}
        for intake in suspects:
            intake.watermarks = fresh.get(intake.topic, intake.watermarks)
            for partition, position in intake.beyond_end().items():
                end = intake.watermarks[partition].high
                self._start_generation(intake, Truncated(intake.topic, partition, position, end))

    def _read(self, rows: list[LedgerRow]) -> None:
        """Reads the round's backlog; decoding, encoding and committing go on meanwhile."""
        assignments, ends = opened_sources(self._intakes.values())
        ids = {intake.topic: intake.topic_id for intake in self._intakes.values()}
        bounds = self._settings.configuration.kafka
        writer = Writer(
            self._archive,
            self._settings,
            self._brokers,
            self._registries,
            self._run,
            self._note,
            keeps_open=len(self._intakes) <= _KEPT_OPEN,
        )
        lanes = Lanes(
            lambda of: writer.prepare(*of),
            lambda of, prepared: writer.store(of[0], prepared),
            functools.partial(self._finish, writer),
            bounds.byte_budget - bounds.chunk_bytes,
        )
        reading = read_backlog(self._settings, assignments, ends, bounds.chunk_bytes, topic_ids=ids)
        try:
            with lanes:
                self._take_up(reading, lanes, rows)
        finally:
            self._collect(lanes, rows)
            let_go()

    def _take_up(self, reading: Iterable[Read], lanes: _ChunkLanes, rows: list[LedgerRow]) -> None:
        """Sends chunks on their way and hears what else is said, after the chunks before it."""
        waiting: list[tuple[Chunk, int]] = []
        waiting_bytes = 0
        for item in reading:
            if isinstance(item, Chunk):
                waiting.append((item, item.frames.size_bytes))
                waiting_bytes += waiting[-1][1]
            if not isinstance(item, Chunk) or waiting_bytes > _WAITING_BYTES or len(waiting) >= _WAITING_CHUNKS:
                self._send(waiting, lanes, rows)
                waiting_bytes = 0
            if not isinstance(item, Chunk):
                lanes.settle(self._intakes[item.topic].relative)
                self._hear(item)
        self._send(waiting, lanes, rows)

    def _send(self, waiting: list[tuple[Chunk, int]], lanes: _ChunkLanes, rows: list[LedgerRow]) -> None:
        self._prefetch([chunk for chunk, _ in waiting])
        while waiting:
            chunk, size_bytes = waiting.pop(0)
            intake = self._intakes[chunk.frames.topic]
            lanes.put(intake.relative, (intake, chunk), size_bytes)
            self._collect(lanes, rows)

    def _finish(self, writer: Writer, of: _Of, stored: Future[_Stored]) -> tuple[Dataset, Written] | None:
        """Commits one chunk; one topic's surprise must not keep the others from the archive."""
        intake, chunk = of
        if intake.topic in self._failed:
            return None
        try:
            written = writer.write(intake, chunk, stored)
        except (StoreUnavailable, RegistryUnavailable, CancelledError):
            raise
        except EfdError as error:
            self._fail(intake.topic, error.message, error.remedy)
            return None
        except Exception as error:
            # The drain ends with an error.
            _log.exception("archiving %s failed", intake.topic)
            detail = f"{type(error).__name__}: {error}"
            self._fail(intake.topic, detail, "Report it with the log; its records stay in Kafka meanwhile.")
            return None
        return None if written is None else (intake.dataset, written)

    def _collect(self, lanes: _ChunkLanes, rows: list[LedgerRow]) -> None:
        """Counts what has been committed, for the result, the ledger and whoever watches."""
        done = [of for of in lanes.collect() if of is not None]
        if not done:
            return
        for dataset, written in done:
            rows += rows_of(RAW, dataset, written.commit)
            self._result.count(dataset, written)
        self._growth.look()
        if self._progress:
            self._progress(self._result.records, self._expected, self._result.avro_bytes)
        if len(rows) >= _LEDGER_EVERY:
            self._archive.ledger.append(rows)
            rows.clear()

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
        reached, end_id = snapshot.transaction_version(app_id), old.end_id(truncated.partition)
        try:
            made = commit(
                self._archive.store,
                intake.relative,
                snapshot,
                transactions={
                    app_id: (reached, ENDED),
                    end_id: (snapshot.transaction_version(end_id), reached or 0),
                },
                schema=snapshot.schema,
                note=note,
            )
        except StaleWriter as error:
            # Another drain has noticed it as well, or has moved the position: the next round looks again.
            _log.info("%s", error.message)
            return
        self._archive.ledger.append(rows_of(RAW, intake.dataset, made))
        intake.adopt(open_table(self._archive.store, intake.relative))
        self._generations += 1
        self._result.gaps += 1
        self._note(
            intake.topic,
            "truncated",
            f"partition {truncated.partition} ends at {truncated.end}, before position {truncated.position}",
            "Look at the brokers: records were lost there. A new generation of the source is read from its start.",
        )

    def _prefetch(self, chunks: Sequence[Chunk]) -> None:
        """Fetches the writer schemas that the chunks name, and keeps their texts before any commit refers to them."""
        wanted = set()
        for chunk in chunks:
            intake = self._intakes[chunk.frames.topic]
            if intake.value_format == "avro":
                wanted |= {(intake.dataset.cluster, schema_id) for schema_id in schemas_in(chunk.frames)}
        asked = sorted(wanted - self._known_schemas)
        # One after the other, those of 70 topics kept the reading waiting for longer than the records take.
        with ThreadPoolExecutor(_FETCHING) as pool:
            found = list(pool.map(self._schema, asked))
        for (cluster, schema_id), schema in zip(asked, found, strict=True):
            if schema is not None:
                self._schemas.remember(self._registries.url(cluster), schema_id, schema)
                self._known_schemas.add((cluster, schema_id))
        self._schemas.keep()

    def _schema(self, of: tuple[str, int]) -> TopicSchema | None:
        """The schema of a cluster's registry with an id; None where it has none: `encode` says so of its frames."""
        try:
            return self._registries.schema(*of)
        except DataError:
            return None

    def _note(self, topic: str, kind: str, detail: str, remedy: str) -> None:
        self._result.problems.append(Problem(topic, kind, detail, remedy))

    def _fail(self, topic: str, detail: str, remedy: str) -> None:
        self._failed.add(topic)
        self._note(topic, "failed", detail, remedy)
