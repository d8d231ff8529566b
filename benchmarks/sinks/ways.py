"""Ways: frames in memory → Parquet, ours and those that others would take.

What belongs here: each way as a function of frames and a directory, and the check that ours has what fastavro reads.
What is measured of them: `benchmarks.archive`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.sinks.site import BenchSite
from efd_pipelines.configuration import KafkaReading
from efd_pipelines.settings import Settings

CHUNK_BYTES = KafkaReading().chunk_bytes
FASTAVRO_FRAMES = 2_000


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of one topic, with their schema's text, and what they were made of.

    `column` has the values as our consumer gives them, `values` as confluent-kafka's does.
    """

    topic: str
    text: str
    values: list[bytes]
    times_us: np.ndarray[Any, Any]
    column: pa.ChunkedArray

    @property
    def mb(self) -> float:
        return sum(map(len, self.values)) / 1e6

    def chunks(self) -> list[Frames]:
        """As a drain gets them: a chunk at a time."""
        each = max(1, CHUNK_BYTES // len(self.values[0]))
        return [
            Frames(
                self.topic,
                self.text,
                self.values[n : n + each],
                self.times_us[n : n + each],
                self.column[n : n + each],
            )
            for n in range(0, len(self.values), each)
        ]

    def repeated(self, rounds: int) -> Frames:
        """The same bytes again and again."""
        column = pa.chunked_array(self.column.chunks * rounds)
        return Frames(self.topic, self.text, self.values * rounds, np.tile(self.times_us, rounds), column)

    def save(self, path: Path) -> None:
        """Keeps them for another process."""
        table = pa.table({"value": self.column, "time_us": self.times_us})
        table = table.replace_schema_metadata({"topic": self.topic, "text": self.text})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    @classmethod
    def load(cls, path: Path) -> Frames:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        about = table.schema.metadata
        column = table["value"]
        return cls(
            about[b"topic"].decode(), about[b"text"].decode(), column.to_pylist(), table["time_us"].to_numpy(), column
        )


# Ours, without reading


def ours(settings: Settings, frames: Frames) -> None:
    """What a drain does with chunks that have been read."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.files import DataFile, EncodedFile
    from efd_pipelines.archive.lanes import Lanes
    from efd_pipelines.archive.positions import Intake
    from efd_pipelines.archive.writing import Prepared, Writer, Written
    from efd_pipelines.kafka.backlog import Chunk, Position
    from efd_pipelines.kafka.brokers import Brokers, Watermarks
    from efd_pipelines.kafka.frames import FrameBatch
    from efd_pipelines.kafka.registry import Registries
    from efd_pipelines.topics.names import Dataset

    dataset = Dataset.parse(frames.topic)
    archive = Archive(settings)
    total = len(frames.values)
    intake = Intake(
        frames.topic, "t", dataset, "c", {0: Watermarks(0, total)}, -1, {}, {}, "private_efdStamp", "avro"
    )  # fmt: skip
    intake.adopt(None)
    intake.read_to = {0: 0}
    chunks = frames.chunks()
    no_keys = pa.chunked_array([pa.array([b""] * max(len(part.values) for part in chunks), pa.large_binary())])

    def store(of: tuple[Intake, Chunk], prepared: Prepared[EncodedFile] | None) -> Prepared[DataFile] | None:
        return writer.store(of[0], prepared)

    def finish(of: tuple[Intake, Chunk], stored: Future[Prepared[DataFile] | None]) -> Written | None:
        return writer.write(*of, stored)

    with Brokers(settings) as brokers, Registries(settings) as registries:
        writer = Writer(archive, settings, brokers, registries, "bench", print, keeps_open=True)
        first = 0
        with Lanes(lambda of: writer.prepare(*of), store, finish, KafkaReading().byte_budget - CHUNK_BYTES) as lanes:
            for part in chunks:
                count = len(part.values)
                batch = FrameBatch(
                    frames.topic,
                    part.column,
                    no_keys[:count],
                    np.zeros(count, np.int32),
                    np.arange(first, first + count, dtype=np.int64),
                    part.times_us // 1000 + 5,
                )
                first += count
                lanes.put(intake.relative, (intake, Chunk(batch, {0: Position(first)})), batch.size_bytes)
    assert sum(file.rows for file in archive.snapshot(dataset).files()) == total


def check(site: BenchSite, frames: Frames, directory: Path) -> int:
    """Archives the frames and compares some with what fastavro reads; the bytes of the files."""
    import io

    import fastavro

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.topics.names import Dataset

    settings = site.settings(directory)
    ours(settings, frames)
    archive = Archive(settings)
    dataset = Dataset.parse(frames.topic)
    schema = fastavro.parse_schema(json.loads(frames.text))
    part = archive.read(dataset, end=int(frames.times_us[199]) + 1)
    assert part.num_rows == 200
    for n in (0, 57, 199):
        message: Any = fastavro.schemaless_reader(io.BytesIO(frames.values[n][5:]), schema, None)
        row = part.slice(n, 1).to_pylist()[0]
        for name, value in message.items():
            found = [row[f"{name}{m}"] for m in range(len(value))] if isinstance(value, list) else row[name]
            assert found == value, name
    return sum(file.size_bytes for file in archive.files(dataset))


# Baselines


def fastavro_pandas(frames: Frames, directory: Path) -> None:
    import io

    import fastavro
    import pandas as pd

    schema = fastavro.parse_schema(json.loads(frames.text))
    rows = []
    for value in frames.values[:FASTAVRO_FRAMES]:
        message: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
        row = {}
        for name, inner in message.items():
            if isinstance(inner, list):
                row.update({f"{name}{n}": item for n, item in enumerate(inner)})
            else:
                row[name] = inner
        rows.append(row)
    pd.DataFrame(rows).to_parquet(directory / "part.parquet")


def pyruhvro_pyarrow(chunks: Sequence[Frames], directory: Path) -> None:
    """As one would write it: a batch at a time, on one thread."""
    for n, part in enumerate(chunks):
        pyruhvro_part(part, directory / f"{n}.parquet")


def pyruhvro_part(part: Frames, path: Path) -> None:
    import pyruhvro

    batch = pyruhvro.deserialize_array([value[5:] for value in part.values], part.text)
    pq.write_table(pa.Table.from_batches([batch]), path)


def on_two_threads(work: Callable[[Any, Path], None], parts: Sequence[Any], directory: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, parts, [directory / f"{n}.parquet" for n in range(len(parts))]))


def encode_only(table: pa.Table, path: Path) -> None:
    """Parquet as the archive has it, from a table that is ready: sorted, in one piece."""
    from efd_pipelines.archive.files import row_group_rows, writer_options

    pq.write_table(table, path, row_group_size=row_group_rows(table), **writer_options(table.schema))


def tables_of(site: BenchSite, frames: Frames, directory: Path) -> list[pa.Table]:
    """The archive's tables of the frames, one for each file."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.topics.names import Dataset

    archive = Archive(site.settings(directory))
    snapshot = archive.snapshot(Dataset.parse(frames.topic))
    return [
        pq.read_table(archive.store.path(f"{snapshot.relative}/{file.path}"), partitioning=None).combine_chunks()
        for file in snapshot.files()
    ]


def decode_ours(chunks: Sequence[Frames]) -> None:
    from efd_pipelines.avro.bodies import Bodies
    from efd_pipelines.avro.decoder import decode
    from efd_pipelines.topics.layout import plan_layout
    from efd_pipelines.topics.schemas import parse_schema

    schema = parse_schema(chunks[0].text)
    layout = plan_layout(schema)
    for part in chunks:
        assert len(decode(Bodies(part.column, 5), schema, layout).good) == len(part.values)


def decode_pyruhvro(chunks: Sequence[Frames]) -> None:
    import pyruhvro

    for part in chunks:
        pyruhvro.deserialize_array([value[5:] for value in part.values], part.text)
