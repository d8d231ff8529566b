"""Dead letters: the frames that could not be decoded, whole, with their coordinates and the reason; and their replay.

Replaying decodes them again, with what the registry and the configuration now say: what becomes a row moves to its
week (or to quarantine) in one commit under the guard `dead`, which removes the file of the dead that it stood in, so
that each frame is replayed once whoever else replays. What still cannot be decoded stays, with its reason of today.
Records without a value are kept among the dead for ever: there is nothing in them to decode.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.encoding import Encoded, Origin, encode, held_columns, schemas_in
from efd_pipelines.archive.files import DataFile, first_batch, sort_rows, write_data_file
from efd_pipelines.archive.ledger import RAW, LedgerRow, rows_of
from efd_pipelines.archive.positions import decided_arrays, decided_time_field
from efd_pipelines.archive.reading import read_file, wanted_schema
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.slices import DEAD, QUARANTINE, SliceUnit, slice_guard
from efd_pipelines.archive.tables import TableSnapshot, commit
from efd_pipelines.archive.widening import needs_widening, widen_table
from efd_pipelines.errors import DataError, StaleWriter
from efd_pipelines.kafka.frames import FrameBatch
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.memory import give_back
from efd_pipelines.topics.layout import SYSTEM_COLUMNS
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

GUARD = "dead"
_COLUMNS = (
    "kafka_partition",
    "kafka_offset",
    "kafka_timestamp",
    "kafka_key",
    "archive_source",
    "archive_frame",
    "archive_reason",
)
# Frames are text as often as not, and then many times larger than the file.
_BATCH_BYTES = 4 * 1024 * 1024
_MANY_FILES = 16
_ATTEMPTS = 8

Progress = Callable[[int, int], None]
"""Called with the frames looked at so far, and how many there are."""


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead of a dataset with one reason."""

    topic: str
    reason: str
    count: int
    first: datetime | None
    last: datetime | None


@dataclass(slots=True)
class ReplayResult:
    """What a replay did: of `frames` that were looked at, `replayed` are rows now, `dead_letters` stay."""

    topics: int = 0
    frames: int = 0
    replayed: int = 0
    quarantined: int = 0
    dead_letters: int = 0
    commits: int = 0
    seconds: float = 0.0
    by_component_week: dict[tuple[str, str], int] = field(default_factory=dict)


def dead_letters(archive: Archive, datasets: Sequence[Dataset] | None = None) -> list[DeadLetters]:
    """The dead by dataset and reason, the most first; `first` and `last` are Kafka's time stamps."""
    found: list[DeadLetters] = []
    for dataset in datasets_with_dead(archive) if datasets is None else datasets:
        frames = dead_frames(archive, dataset, ("archive_reason", "kafka_timestamp"))
        grouped = frames.group_by("archive_reason").aggregate(
            [([], "count_all"), ("kafka_timestamp", "min"), ("kafka_timestamp", "max")]
        )
        found += [
            DeadLetters(
                dataset.text,
                row["archive_reason"],
                row["count_all"],
                row["kafka_timestamp_min"],
                row["kafka_timestamp_max"],
            )
            for row in grouped.to_pylist()
        ]
    return sorted(found, key=lambda letters: (-letters.count, letters.topic, letters.reason))


def dead_frames(archive: Archive, dataset: Dataset, columns: Sequence[str] = _COLUMNS) -> pa.Table:
    """The dead of one dataset: coordinates, key, frame and reason.

    Raises:
        UnknownDataset: there is no such dataset.
    """
    snapshot = archive.snapshot(dataset)
    files = snapshot.files({DEAD})
    if not files:
        return pa.schema([pa.field(name, SYSTEM_COLUMNS[name]) for name in columns]).empty_table()
    schema = wanted_schema(snapshot, columns)
    return pa.concat_tables([read_file(snapshot, file, schema) for file in files])


def datasets_with_dead(archive: Archive) -> list[Dataset]:
    """The datasets that have dead letters, by the ledger."""
    archive.ledger.catch_up_pending()
    return archive.ledger.datasets_with_rows(DEAD)


def replay(
    archive: Archive,
    settings: Settings,
    *,
    datasets: Sequence[Dataset] | None = None,
    run: str = "",
    progress: Progress | None = None,
) -> ReplayResult:
    """Decodes the dead again; each that has become a row moves to where it belongs, once.

    Raises:
        UnknownDataset: one that is not in the archive.
        RegistryUnavailable, StoreUnavailable: what was replayed before stands.
        StaleWriter: others kept changing the table; what was replayed before stands.
    """
    started = time.monotonic()
    archive.prepare()
    result = ReplayResult()
    wanted = datasets_with_dead(archive) if datasets is None else list(datasets)
    with (
        Registries(settings) as registries,
        archive.ledger.announced(run, [(RAW, dataset) for dataset in wanted]) as rows,
    ):
        for dataset in wanted:
            _Replay(archive, settings, registries, dataset, run, result, rows).all(progress)
    result.seconds = time.monotonic() - started
    return result


class _Replay:
    """The replay of one dataset."""

    def __init__(
        self,
        archive: Archive,
        settings: Settings,
        registries: Registries,
        dataset: Dataset,
        run: str,
        result: ReplayResult,
        rows: list[LedgerRow],
    ) -> None:
        self._archive = archive
        self._registries = registries
        self._dataset = dataset
        self._configured = settings.configuration
        self._run = run
        self._result = result
        self._rows = rows
        self._schemas = WriterSchemas(archive.store)

    def all(self, progress: Progress | None) -> None:
        """Every file of the dead that there is now: what drains add meanwhile is for the next replay."""
        pending = {file.path: file.rows for file in self._archive.snapshot(self._dataset).files({DEAD})}
        expected = self._result.frames + sum(pending.values())
        self._result.topics += bool(pending)
        while pending:
            taken = self._some(pending)
            for path in taken:
                pending.pop(path)
            give_back()
            if progress:
                progress(self._result.frames, expected)

    def _some(self, pending: dict[str, int]) -> list[str]:
        """Replays the next files; which were dealt with, here or, meanwhile, by another."""
        for attempt in range(_ATTEMPTS):
            time.sleep(min(1.0, 0.02 * 2**attempt) if attempt else 0.0)
            snapshot = self._archive.snapshot(self._dataset)
            files = [file for file in snapshot.files({DEAD}) if file.path in pending]
            if not files:
                return list(pending)
            batch = first_batch(files, _BATCH_BYTES)
            try:
                self._replay(snapshot, batch)
            except StaleWriter:
                continue
            return [file.path for file in batch]
        raise StaleWriter(
            f"The dead letters of {self._dataset} could not be replayed in {_ATTEMPTS} attempts",
            remedy="Look who else writes to it, then run again: each is replayed once.",
        )

    def _replay(self, snapshot: TableSnapshot, files: Sequence[DataFile]) -> None:
        schema = wanted_schema(snapshot, _COLUMNS)
        dead = pa.concat_tables([read_file(snapshot, file, schema) for file in files])
        encoded = self._encoded(snapshot, dead)
        left = encoded.rows(DEAD)
        # Each drain of a topic with poison adds a file: many become one, also where none is replayed.
        if left < dead.num_rows or len(files) > _MANY_FILES:
            self._commit(snapshot, files, encoded)
        self._result.frames += dead.num_rows
        self._result.replayed += dead.num_rows - left
        self._result.dead_letters += left
        self._result.quarantined += encoded.rows(QUARANTINE)

    def _encoded(self, snapshot: TableSnapshot, dead: pa.Table) -> Encoded:
        frames = _frames(self._dataset, dead)
        held = held_columns(snapshot.schema)
        origin = Origin(
            dead["archive_source"].combine_chunks(),
            decided_time_field(snapshot, self._configured.time_field(self._dataset)),
            self._configured.value_format(self._dataset),
        )
        if origin.value_format == "avro":
            self._keep_schemas(frames)
        unit = SliceUnit(snapshot.description["slice"])
        return encode(frames, origin, self._schema_of, unit, arrays=decided_arrays(snapshot, held), held=held)

    def _schema_of(self, schema_id: int) -> TopicSchema:
        return self._registries.schema(self._dataset.cluster, schema_id)

    def _keep_schemas(self, frames: FrameBatch) -> None:
        """The texts stand in the archive before any commit refers to them."""
        for schema_id in sorted(schemas_in(frames)):
            try:
                schema = self._schema_of(schema_id)
            except DataError:
                continue  # still unknown: its frames stay dead, `encode` says why
            self._schemas.remember(self._registries.url(self._dataset.cluster), schema_id, schema)
        self._schemas.keep()

    def _commit(self, snapshot: TableSnapshot, files: Sequence[DataFile], encoded: Encoded) -> None:
        if needs_widening(held_columns(snapshot.schema), encoded.columns):
            snapshot, widened = widen_table(snapshot, encoded.columns, self._run)
            self._enter(*widened)
        reached = {guard: snapshot.transaction_version(guard) for guard in (GUARD, slice_guard(DEAD))}
        made = commit(
            snapshot.store,
            snapshot.relative,
            snapshot,
            add=[
                write_data_file(snapshot.store, snapshot.relative, week, key, sort_rows(table))
                for (week, key), table in sorted(encoded.parts.items())
            ],
            remove=files,
            transactions={guard: (version, (version or 0) + 1) for guard, version in reached.items()},
            schema=_columns_of(encoded),
            note={
                "kind": "replay",
                "run": self._run,
                "avro_bytes": _moved_bytes(encoded),
                "schemas": sorted(encoded.schemas),
            },
        )
        self._enter(made)
        self._result.commits += 1
        for file in made.added:
            of = (self._dataset.component, file.week)
            self._result.by_component_week[of] = self._result.by_component_week.get(of, 0) + file.rows

    def _enter(self, *made: Commit) -> None:
        self._rows += [row for of in made for row in rows_of(RAW, self._dataset, of)]


def _frames(dataset: Dataset, dead: pa.Table) -> FrameBatch:
    stamps = dead["kafka_timestamp"].cast(pa.int64()).fill_null(-1000).to_numpy()
    return FrameBatch(
        topic=dataset.text,
        values=dead["archive_frame"].cast(pa.large_binary()),
        keys=dead["kafka_key"].cast(pa.large_binary()),
        partitions=dead["kafka_partition"].to_numpy().astype(np.int32),
        offsets=dead["kafka_offset"].to_numpy(),
        timestamps_ms=stamps // 1000,
    )


def _columns_of(encoded: Encoded) -> pa.Schema:
    fields: dict[str, Any] = {}
    for table in encoded.parts.values():
        for column in table.schema:
            fields.setdefault(column.name, column)
    return pa.schema(list(fields.values()))


def _moved_bytes(encoded: Encoded) -> dict[str, int]:
    """Bytes of Avro by slice: what the weeks gain, the dead lose."""
    gained = {f"{week}|{key}": size for (week, key), size in encoded.avro_bytes.items() if week != DEAD}
    return {**gained, f"{DEAD}|{DEAD}": -sum(gained.values())}
