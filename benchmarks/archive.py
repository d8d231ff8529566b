"""The archive: forceActuatorData's frames → committed Parquet, from memory and from a real broker.

All on the same frames in one run: ours, as a drain does it but for reading; fastavro and pandas (one message at a time,
`to_parquet`); pyruhvro and pyarrow with their defaults; writing Parquet as we do from tables that are ready; reading
from the broker without looking at records; and a whole drain. A drain begins with loading code, so what it is compared
with is a process of its own too, or it is compared after its first commit. Rates are MB of Avro per second of wall
time, CPU is milliseconds of one processor per MB. What ours archived is compared with what fastavro reads.
`--live` and `--iceberg` are runs of their own: `benchmarks.sinks.live`, `benchmarks.sinks.iceberg`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks import Benchmark, Figures, note, run
from benchmarks.sinks import ways
from benchmarks.sinks.site import RATE_HZ, BenchSite, bench_site, topic_of
from efd_pipelines.settings import Settings


@dataclass(slots=True)
class Spent:
    """What some work took: wall time, time of processors in this process, and bytes of Parquet."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    file_bytes: int = 0


@contextmanager
def measured() -> Iterator[Spent]:
    spent = Spent()
    began, cpu = time.perf_counter(), time.process_time()
    yield spent
    spent.seconds, spent.cpu_s = time.perf_counter() - began, time.process_time() - cpu


def fastest(works: Mapping[str, Callable[[Path], object]], directory: Path, repeats: int) -> dict[str, Spent]:
    """The fastest run of each, all by turns: how fast a machine is changes by the minute. Each begins with an empty
    directory, and what it wrote is removed, or the system would look for memory for the files of all."""
    found: dict[str, list[Spent]] = {name: [] for name in works}
    place = directory / "run"
    for _ in range(repeats):
        for name, work in works.items():
            place.mkdir(parents=True)
            with measured() as spent:
                work(place)
            spent.file_bytes = sum(path.stat().st_size for path in place.rglob("*.parquet"))
            found[name].append(spent)
            shutil.rmtree(place)
    return {name: min(runs, key=lambda spent: spent.seconds) for name, runs in found.items()}


# From the broker


def consume_only(settings: Settings, topic: str) -> int:
    """Reads all records as a drain does, and lets go of them."""
    from efd_pipelines.kafka.backlog import Chunk, Position, read_backlog
    from efd_pipelines.kafka.brokers import Brokers

    with Brokers(settings) as brokers:
        marks = brokers.offsets([topic])[topic]
    starts = {topic: {partition: Position(of.low) for partition, of in marks.items()}}
    ends = {topic: {partition: of.high for partition, of in marks.items()}}
    found = read_backlog(settings, starts, ends, ways.CHUNK_BYTES)
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
marks = []
began, cpu = time.monotonic(), time.process_time()
result = drain(archive, settings, progress=lambda _, __, read: marks.append((time.monotonic() - began, read / 1e6)))
cpu = time.process_time() - cpu
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"records": result.records, "mb": result.avro_bytes / 1e6, "seconds": result.seconds, "cpu_s": cpu,
                  "start_s": marks[0][0], "start_mb": marks[0][1], "peak_bytes": peak,
                  "files": sum(of["files"] for of in result.by_component_week.values()),
                  "stages": stages and stages.cpu_s()}))
"""


_OURS = """
import json, sys, time
from pathlib import Path
import pandas  # by what only the measuring takes
from benchmarks.sinks import ways
from efd_pipelines.archive import drain
from efd_pipelines.settings import load_settings

frames = ways.Frames.load(Path(sys.argv[1])).repeated(int(sys.argv[2]))
settings = load_settings(env_file=None)
began = time.monotonic()
ways.ours(settings, frames)
print(json.dumps({"seconds": time.monotonic() - began, "mb": frames.mb}))
"""


def end_to_end(site: BenchSite, directory: Path, *, by_stage: bool = False) -> dict[str, Any]:
    """A whole drain in a process of its own, so that its memory is its own; it begins with loading compiled code."""
    return _in_process(site, directory, _DRAIN, *(["by stage"] if by_stage else []))


def _in_process(site: BenchSite, directory: Path, program: str, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, **site.environ, "EFD_ARCHIVE": str(directory / "archive")}
    command = [sys.executable, "-c", program, *arguments]
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
    start = datetime(2026, 11, 17, 3, tzinfo=UTC)
    series, values = site.produce(topic, options.records, options.data, start)
    for more in range(1, options.rounds):
        after = start + more * timedelta(seconds=options.records / RATE_HZ)
        site.produce(topic, options.records, options.data, after)
    column = pa.chunked_array([pa.array(values, pa.large_binary())])
    frames = ways.Frames(site.name(topic), topic.avro_schema(), values, series.times_us, column)
    chunks = frames.chunks()
    figures: dict[str, float] = {"mb": frames.mb, "records": len(values), "frame_bytes": len(values[0])}
    note("checking that ours has what fastavro reads")
    figures["file_bytes_ours"] = ways.check(site, frames, scratch / "check")
    tables = ways.tables_of(site, frames, scratch / "check")
    note("measuring from memory")
    works: dict[str, Callable[[Path], object]] = {
        "ours": lambda place: ways.ours(site.settings(place), frames),
        "encode_only": lambda place: ways.on_two_threads(ways.encode_only, tables, place),
        "pyruhvro": lambda place: ways.pyruhvro_pyarrow(chunks, place),
        "pyruhvro_two_threads": lambda place: ways.on_two_threads(ways.pyruhvro_part, chunks, place),
        "decode_ours": lambda place: ways.decode_ours(chunks),
        "decode_pyruhvro": lambda place: ways.decode_pyruhvro(chunks),
        "fastavro_pandas": lambda place: ways.fastavro_pandas(frames, place),
    }
    mb = dict.fromkeys(works, frames.mb) | {"fastavro_pandas": sum(map(len, values[: ways.FASTAVRO_FRAMES])) / 1e6}
    spent = fastest(works, scratch / "memory", options.repeats)
    for name in works:
        figures.update(_rates(name, mb[name], spent[name]))
    figures["file_bytes_pyruhvro"] = spent["pyruhvro"].file_bytes
    note("measuring from the broker")
    figures.update(_from_broker(site, frames, scratch, options))
    return figures


def _from_broker(site: BenchSite, frames: ways.Frames, scratch: Path, options: argparse.Namespace) -> dict[str, float]:
    repeats, mb = options.repeats, frames.mb * options.rounds
    settings = site.settings(scratch / "consume")
    figures: dict[str, float] = {}
    broker = site.broker_cpu_s()
    reading = {"consume_only": lambda place: consume_only(settings, frames.topic)}
    figures.update(_rates("consume_only", mb, fastest(reading, scratch / "consume", repeats)["consume_only"]))
    figures["consume_only_broker_cpu_ms_mb"] = (site.broker_cpu_s() - broker) * 1e3 / mb / repeats
    frames.save(scratch / "frames.arrow")
    found, without = [], []
    for _ in range(repeats):
        broker = site.broker_cpu_s()
        one = end_to_end(site, scratch / "end")
        shutil.rmtree(scratch / "end")
        one["broker_cpu_s"] = site.broker_cpu_s() - broker
        assert one["records"] == len(frames.values) * options.rounds
        found.append(one)
        without.append(_in_process(site, scratch / "end", _OURS, str(scratch / "frames.arrow"), str(options.rounds)))
        shutil.rmtree(scratch / "end")
    best = min(found, key=lambda one: one["seconds"])
    stages = end_to_end(site, scratch / "stages", by_stage=True)["stages"]
    figures |= {f"stage_{name}_cpu_ms_mb": spent * 1e3 / mb for name, spent in stages.items()}
    under_way_s = best["seconds"] - best["start_s"]
    return figures | {
        "end_to_end_mb": mb,
        "ours_as_process_mb_s": mb / min(one["seconds"] for one in without),
        "end_to_end_mb_s": best["mb"] / best["seconds"],
        "end_to_end_first_commit_s": best["start_s"],
        "end_to_end_under_way_mb_s": (best["mb"] - best["start_mb"]) / under_way_s,
        "end_to_end_cpu_ms_mb": best["cpu_s"] * 1e3 / best["mb"],
        "end_to_end_broker_cpu_ms_mb": best["broker_cpu_s"] * 1e3 / best["mb"],
        "end_to_end_peak_bytes": best["peak_bytes"],
        "end_to_end_files": best["files"],
    }


def _rates(name: str, mb: float, spent: Spent) -> dict[str, float]:
    return {f"{name}_mb_s": mb / spent.seconds, f"{name}_cpu_ms_mb": spent.cpu_s * 1e3 / mb}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=300_000, help="records that are produced and archived")
    parser.add_argument("--rounds", type=int, default=3, help="how often as many are on the broker for whole drains")
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
        "end to end to ours, each a whole process": ("end_to_end_mb_s", "ours_as_process_mb_s"),
        "end to end to ours, each under way": ("end_to_end_under_way_mb_s", "ours_mb_s"),
        "end to end as a whole process to ours under way": ("end_to_end_mb_s", "ours_mb_s"),
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
