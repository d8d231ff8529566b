"""The archive: forceActuatorData's frames → committed Parquet, from memory and from a real broker.

All on the same frames in one run: ours, as a drain does it but for reading; fastavro and pandas (one message at a time,
`to_parquet`); pyruhvro and pyarrow with their defaults; writing Parquet as we do from tables that are ready; reading
from the broker without looking at records; and a whole drain. Rates are MB of Avro per second of wall time, CPU is
milliseconds of one processor per MB. What ours archived is compared with what fastavro reads.
`--live` and `--iceberg` are runs of their own: `benchmarks.sinks.live`, `benchmarks.sinks.iceberg`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import Benchmark, Figures, note, run
from benchmarks.sinks.site import BenchSite, bench_site, topic_of
from efd_pipelines.kafka.chunks import RECORD_OVERHEAD_BYTES
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.series import Series

CHUNK_BYTES = 32 * 1024 * 1024
_FASTAVRO_FRAMES = 2_000


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of one topic, with their schema's text, and what they were made of."""

    topic: str
    text: str
    values: list[bytes]
    times_us: np.ndarray[Any, Any]
    series: Series

    @property
    def mb(self) -> float:
        return sum(map(len, self.values)) / 1e6

    def chunks(self) -> list[Frames]:
        """As a drain gets them: 32 MiB at a time, with what a record costs in memory."""
        each = max(1, CHUNK_BYTES // (len(self.values[0]) + RECORD_OVERHEAD_BYTES))
        return [
            Frames(self.topic, self.text, self.values[n : n + each], self.times_us[n : n + each], self.series)
            for n in range(0, len(self.values), each)
        ]


@dataclass(slots=True)
class Spent:
    """What some work took: wall time, and time of processors in this process."""

    seconds: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def measured() -> Iterator[Spent]:
    spent = Spent()
    began, cpu = time.perf_counter(), time.process_time()
    yield spent
    spent.seconds, spent.cpu_s = time.perf_counter() - began, time.process_time() - cpu


def best(work: Callable[[Path], object], directory: Path, repeats: int) -> Spent:
    """The fastest of some runs, each in an empty directory."""
    found = []
    for n in range(repeats):
        place = directory / f"{n}"
        place.mkdir(parents=True)
        with measured() as spent:
            work(place)
        found.append(spent)
    return min(found, key=lambda spent: spent.seconds)


# Ours, without reading


def ours(site: BenchSite, frames: Frames, directory: Path) -> None:
    """What a drain does with chunks that have been read."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.lanes import Lanes
    from efd_pipelines.archive.positions import Intake
    from efd_pipelines.archive.writing import Prepared, Writer, Written
    from efd_pipelines.kafka.backlog import Chunk, Position
    from efd_pipelines.kafka.brokers import Brokers, Watermarks
    from efd_pipelines.kafka.frames import FrameBatch
    from efd_pipelines.kafka.registry import Registries
    from efd_pipelines.topics.names import Dataset

    settings = site.settings(directory)
    dataset = Dataset.parse(frames.topic)
    archive = Archive(settings)
    total = len(frames.values)
    intake = Intake(
        frames.topic, "t", dataset, "c", {0: Watermarks(0, total)}, -1, {}, {}, "private_efdStamp", "avro"
    )  # fmt: skip
    intake.adopt(None)
    intake.read_to = {0: 0}

    def finish(of: tuple[Intake, Chunk], prepared: Future[Prepared | None]) -> Written | None:
        return writer.write(*of, prepared)

    with Brokers(settings) as brokers, Registries(settings) as registries:
        writer = Writer(archive, settings, brokers, registries, "bench", print, keeps_open=True)
        first = 0
        with Lanes(lambda of: writer.prepare(*of), finish, 3 * CHUNK_BYTES) as lanes:
            for part in frames.chunks():
                count = len(part.values)
                batch = FrameBatch(
                    frames.topic,
                    list(part.values),
                    [b""] * count,
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

    ours(site, frames, directory)
    archive = Archive(site.settings(directory))
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
    for value in frames.values[:_FASTAVRO_FRAMES]:
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
        assert len(decode(Bodies(part.values, 5), schema, layout).good) == len(part.values)


def decode_pyruhvro(chunks: Sequence[Frames]) -> None:
    import pyruhvro

    for part in chunks:
        pyruhvro.deserialize_array([value[5:] for value in part.values], part.text)


# From the broker


def consume_only(settings: Settings, topic: str) -> int:
    """Reads all records as a drain does, and lets go of them."""
    from efd_pipelines.kafka.backlog import Chunk, Position, read_backlog
    from efd_pipelines.kafka.brokers import Brokers

    with Brokers(settings) as brokers:
        marks = brokers.offsets([topic])[topic]
    starts = {topic: {partition: Position(of.low) for partition, of in marks.items()}}
    ends = {topic: {partition: of.high for partition, of in marks.items()}}
    found = read_backlog(settings, starts, ends, CHUNK_BYTES)
    return sum(len(item.frames) for item in found if isinstance(item, Chunk))


_DRAIN = """
import json, sys, time
from pathlib import Path
from benchmarks.sinks.stages import Stages
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.settings import load_settings

settings = load_settings(env_file=None)
archive = Archive(settings)
stages = Stages() if sys.argv[1:] else None
cpu = time.process_time()
result = drain(archive, settings)
cpu = time.process_time() - cpu
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"records": result.records, "mb": result.avro_bytes / 1e6, "seconds": result.seconds, "cpu_s": cpu,
                  "peak_bytes": peak, "files": sum(of["files"] for of in result.by_component_week.values()),
                  "stages": stages and stages.cpu_s()}))
"""


def end_to_end(site: BenchSite, directory: Path, *, by_stage: bool = False) -> dict[str, Any]:
    """A whole drain in a process of its own, so that its memory is its own."""
    environment = {**os.environ, **site.environ, "EFD_ARCHIVE": str(directory / "archive")}
    command = [sys.executable, "-c", _DRAIN, *(["by stage"] if by_stage else [])]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(options: argparse.Namespace) -> Figures:
    if options.live:
        from benchmarks.sinks.live import measure_live

        return measure_live(options)
    if options.iceberg:
        from benchmarks.sinks.iceberg import measure_iceberg

        return measure_iceberg(options)
    with (
        tempfile.TemporaryDirectory(prefix="efd-bench-", dir=options.directory) as scratch,
        bench_site(Path(scratch) / "servers") as site,
    ):
        return _measure(options, site, Path(scratch))


def _measure(options: argparse.Namespace, site: BenchSite, scratch: Path) -> Figures:
    topic = topic_of(options.topic)
    note(f"producing {options.records} records of {topic.name}")
    series, values = site.produce(topic, options.records, options.data, datetime(2026, 11, 17, 3, tzinfo=UTC))
    frames = Frames(site.name(topic), topic.avro_schema(), values, series.times_us, series)
    chunks = frames.chunks()
    figures: dict[str, float] = {"mb": frames.mb, "records": len(values), "frame_bytes": len(values[0])}
    note("checking that ours has what fastavro reads")
    figures["file_bytes_ours"] = check(site, frames, scratch / "check")
    tables = tables_of(site, frames, scratch / "check")
    note("measuring from memory")
    works: dict[str, Callable[[Path], object]] = {
        "ours": lambda place: ours(site, frames, place),
        "encode_only": lambda place: on_two_threads(encode_only, tables, place),
        "pyruhvro": lambda place: pyruhvro_pyarrow(chunks, place),
        "pyruhvro_two_threads": lambda place: on_two_threads(pyruhvro_part, chunks, place),
        "decode_ours": lambda place: decode_ours(chunks),
        "decode_pyruhvro": lambda place: decode_pyruhvro(chunks),
    }
    for name, work in works.items():
        figures.update(_rates(name, frames.mb, best(work, scratch / name, options.repeats)))
    part = sum(map(len, values[:_FASTAVRO_FRAMES])) / 1e6
    spent = best(lambda place: fastavro_pandas(frames, place), scratch / "fastavro", 1)
    figures.update(_rates("fastavro_pandas", part, spent))
    figures["file_bytes_pyruhvro"] = sum(path.stat().st_size for path in (scratch / "pyruhvro/0").iterdir())
    note("measuring from the broker")
    figures.update(_from_broker(site, frames, scratch, options.repeats))
    return figures


def _from_broker(site: BenchSite, frames: Frames, scratch: Path, repeats: int) -> dict[str, float]:
    settings = site.settings(scratch / "consume")
    figures: dict[str, float] = {}
    broker = site.broker_cpu_s()
    spent = best(lambda place: consume_only(settings, frames.topic), scratch / "consume", repeats)
    figures.update(_rates("consume_only", frames.mb, spent))
    figures["consume_only_broker_cpu_ms_mb"] = (site.broker_cpu_s() - broker) * 1e3 / frames.mb / repeats
    found = []
    for n in range(repeats):
        broker = site.broker_cpu_s()
        one = end_to_end(site, scratch / f"end{n}")
        one["broker_cpu_s"] = site.broker_cpu_s() - broker
        assert one["records"] == len(frames.values)
        found.append(one)
    fastest = min(found, key=lambda one: one["seconds"])
    stages = end_to_end(site, scratch / "stages", by_stage=True)["stages"]
    figures |= {f"stage_{name}_cpu_ms_mb": spent * 1e3 / frames.mb for name, spent in stages.items()}
    return figures | {
        "end_to_end_mb_s": fastest["mb"] / fastest["seconds"],
        "end_to_end_cpu_ms_mb": fastest["cpu_s"] * 1e3 / fastest["mb"],
        "end_to_end_broker_cpu_ms_mb": fastest["broker_cpu_s"] * 1e3 / fastest["mb"],
        "end_to_end_peak_bytes": fastest["peak_bytes"],
        "end_to_end_files": fastest["files"],
    }


def _rates(name: str, mb: float, spent: Spent) -> dict[str, float]:
    return {f"{name}_mb_s": mb / spent.seconds, f"{name}_cpu_ms_mb": spent.cpu_s * 1e3 / mb}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=100_000, help="records that are produced and archived")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the fastest counts")
    parser.add_argument("--topic", default="MTM1M3.forceActuatorData", help="one of the simulator's topics")
    parser.add_argument("--data", choices=["walk", "observatory"], default="walk", help="random walks with noise, as "
                        "anchors.md has them, or the simulated observatory's signals")  # fmt: skip
    parser.add_argument("--directory", type=Path, default=None, help="where files and the broker's log are written")
    parser.add_argument("--live", action="store_true", help="measure lag and catching up on a simulated observatory")
    parser.add_argument("--iceberg", action="store_true", help="measure the Iceberg sink on Kafka Connect beside ours")
    parser.add_argument("--commit-s", type=int, default=10, help="with --iceberg: how often the sink commits")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to run live")
    parser.add_argument("--outage-s", type=float, default=3600.0, help="with --live: the outage to catch up with")
    parser.add_argument("--cadence-s", type=float, default=120.0, help="with --live: the fast class's interval")


BENCHMARK = Benchmark(
    name="archive",
    about="forceActuatorData (812 float32, 3.3 kB) from Avro to committed Parquet on all processors; MB of Avro.",
    measure=measure,
    ratios={
        "ours to pyruhvro + pyarrow": ("ours_mb_s", "pyruhvro_mb_s"),
        "ours to pyruhvro + pyarrow on two threads": ("ours_mb_s", "pyruhvro_two_threads_mb_s"),
        "ours to fastavro + pandas": ("ours_mb_s", "fastavro_pandas_mb_s"),
        "ours to encoding only": ("ours_mb_s", "encode_only_mb_s"),
        "CPU of decoding to CPU of encoding only": ("decode_ours_cpu_ms_mb", "encode_only_cpu_ms_mb"),
        "CPU of ours to CPU of encoding only": ("ours_cpu_ms_mb", "encode_only_cpu_ms_mb"),
        "end to end to ours": ("end_to_end_mb_s", "ours_mb_s"),
        "decoding to pyruhvro's": ("decode_ours_mb_s", "decode_pyruhvro_mb_s"),
        "end to end to the Iceberg sink": ("end_to_end_mb_s", "iceberg_mb_s"),
        "CPU of the Iceberg sink to ours": ("iceberg_cpu_ms_mb", "end_to_end_cpu_ms_mb"),
        "peak memory of the Iceberg sink to ours": ("iceberg_peak_bytes", "end_to_end_peak_bytes"),
        "bytes of files to pyruhvro + pyarrow's": ("file_bytes_ours", "file_bytes_pyruhvro"),
    },
    arguments=_arguments,
    packages=("pyarrow", "numba", "pyruhvro", "fastavro", "pandas", "deltalake", "confluent-kafka"),
)

if __name__ == "__main__":
    run(BENCHMARK)
