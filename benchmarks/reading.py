"""Reading: two columns and one hour out of a week of forceActuatorData, 812 floats at 50 Hz, until the first row.

The week is of the archive's own tables, files of an hour each as after a merge; by default some hours of it, with
`--full` as many as make 10 GiB. Baselines: Dask's `read_parquet` with its defaults on the same files, by the quicker
of its `head` and `compute`; and a real InfluxDB with the same two columns (the other 810 are left out to its
advantage), asked as lsst-efd-client asks: in one answer, whose first row is there when the last is (`first_chunk` is
what a client that asks for chunks would wait). Each is measured in a process of its own that has imported what it needs
and read nothing yet. `bytes_read` is what the system counted for that process: the
table's log, the footer and the columns; `bytes_needed` are the encoded bytes of the columns in the row groups of that
hour. A second question of the same process finds the footer read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import Benchmark, Figures, note, run

TOPIC = "lsst.sal.MTM1M3.forceActuatorData"
FIELDS = ["force17", "force404"]
RATE_HZ, COLUMNS = 50, 812
HOUR_US = 3_600_000_000
START_US = 1_700_438_400_000_000  # Monday, 2023-11-20
FULL_BYTES = 10 << 30
DATABASE = "efd"


def hour(number: int, noise: np.ndarray[Any, Any], jitter: np.ndarray[Any, Any]) -> pa.Table:
    """An hour of records: noise on slow waves, as actuators have it, at times that jitter by microseconds."""
    from efd_pipelines.topics.layout import SYSTEM_COLUMNS

    rows = noise.shape[1]
    step_us = HOUR_US // rows
    times = START_US + number * HOUR_US + np.arange(rows) * step_us + jitter
    wave = (50 * np.sin((np.arange(rows) + number * rows) / 500)).astype(np.float32)
    columns: dict[str, Any] = {
        "private_sndStamp": times / 1e6 + 37,
        "private_seqNum": np.arange(rows, dtype=np.int32) + number * rows,
        "private_origin": np.full(rows, 4242, np.int32),
    }
    columns |= {f"force{n}": np.roll(noise[n], number * 977) + wave for n in range(len(noise))}
    system = {
        "kafka_partition": np.zeros(rows, np.int32),
        "kafka_offset": np.arange(rows, dtype=np.int64) + number * rows,
        "kafka_timestamp": pa.array(times).cast(pa.timestamp("us", tz="UTC")),
        "kafka_key": pa.nulls(rows, pa.binary()),
        "archive_source": pa.array(["cluster/topic"] * rows),
        "archive_schema": np.full(rows, 7, np.int64),
    }
    fields = [pa.field("time", pa.timestamp("us", tz="UTC"))]
    fields += [
        pa.field(name, pa.array(of[:1]).type, metadata={"field": name, "units": "newton", "description": "A force."})
        for name, of in columns.items()
    ]
    fields += [pa.field(name, SYSTEM_COLUMNS[name]) for name in system]
    arrays = [pa.array(times).cast(fields[0].type), *map(pa.array, columns.values()), *map(pa.array, system.values())]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def make_week(root: Path, options: argparse.Namespace) -> tuple[int, int]:
    """Writes hours until there are enough; how many, and their bytes."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.files import write_data_file
    from efd_pipelines.archive.ledger import RAW, rows_of
    from efd_pipelines.archive.slices import Slice, SliceUnit
    from efd_pipelines.archive.tables import commit, open_table
    from efd_pipelines.settings import load_settings
    from efd_pipelines.topics.names import Dataset

    archive, dataset = Archive(load_settings({}, None, archive=str(root))), Dataset(TOPIC)
    relative = archive.relative(dataset)
    random = np.random.default_rng(1)
    rows = options.rate * 3600
    noise = random.normal(size=(options.columns, rows)).astype(np.float32)
    jitter = random.integers(0, 1000, rows)
    number, size = 0, 0
    while (size < FULL_BYTES) if options.full else (number < options.hours):
        part = Slice(START_US + number * HOUR_US, SliceUnit.HOUR)
        table = hour(number, noise, jitter)
        file = write_data_file(archive.store, relative, part.week.key, part.key, table)
        made = commit(
            archive.store,
            relative,
            open_table(archive.store, relative),
            add=[file],
            transactions={f"slice:{part.key}": (None, 1)},
            schema=table.schema,
            description={"slice": "hour", "arrays": "flat"},
            note={"kind": "drain", "records": rows},
        )
        archive.ledger.append(rows_of(RAW, dataset, made))
        number, size = number + 1, size + file.size_bytes
        note(f"hour {number}: {size / 2**30:.2f} GiB")
    return number, size


def bytes_read() -> int:
    """What this process has read from files so far, by the system."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(lines[0].partition(":")[2])


def by_ours(root: str, start_us: int) -> dict[str, float]:
    """The first row, and all of the hour, twice: with nothing known, and with the footer read."""
    from efd_pipelines.client import EfdArchive
    from efd_pipelines.times import from_microseconds

    archive = EfdArchive(root)
    start, end = from_microseconds(start_us), from_microseconds(start_us + HOUR_US - 1)
    _import_all(Path(root).with_name("small"))
    figures: dict[str, float] = {}
    for again in ("", "_again"):
        read, began = bytes_read(), time.perf_counter()
        selection = archive.select(TOPIC, FIELDS, start, end)
        batches = selection.batches()
        first = next(batches)
        figures[f"first_row_ours{again}_s"] = time.perf_counter() - began
        rows = first.num_rows + sum(batch.num_rows for batch in batches)
        figures[f"hour_ours{again}_s"] = time.perf_counter() - began
        figures[f"bytes_read{again}"] = bytes_read() - read
    return {**figures, "rows_ours": rows, **_needed(selection)}


def _import_all(root: Path) -> None:
    """Asks another archive first, so that what is imported on the way belongs to nobody's time."""
    from efd_pipelines.client import EfdArchive

    found = EfdArchive(str(root)).select(TOPIC, FIELDS[0], "2023-11-20", "2023-11-21")
    assert sum(batch.num_rows for batch in found.batches())


def _needed(selection: Any) -> dict[str, float]:
    from efd_pipelines.reading.groups import row_groups
    from efd_pipelines.reading.ranges import Traffic

    scan = selection.portions[0].scan
    groups = [
        group
        for file in scan.files
        for group in row_groups(
            scan.store, scan.relative, file, scan.start_us, scan.end_us, width=820, traffic=Traffic()
        )
    ]
    footers = {group.file.path: group.footer.size_bytes for group in groups}
    columns = ["time", *FIELDS]
    return {"bytes_needed": sum(g.stored_bytes(columns) for g in groups), "bytes_footers": sum(footers.values())}


def by_dask_head(root: str, start_us: int) -> dict[str, float]:
    """Dask's `head`, from partition to partition until there is a row."""
    began = time.perf_counter()
    rows = len(_of_dask(root, start_us).head(1, npartitions=-1))
    assert rows == 1
    return {"head_dask_s": time.perf_counter() - began}


def by_dask(root: str, start_us: int) -> dict[str, float]:
    """Dask's `compute`: all rows at once."""
    began = time.perf_counter()
    rows = len(_of_dask(root, start_us).compute())
    return {"compute_dask_s": time.perf_counter() - began, "rows_dask": rows}


def _of_dask(root: str, start_us: int) -> Any:
    import dask.dataframe as dd
    import pandas as pd

    week = next(Path(root).glob("raw/*/*/week=*"))
    start, end = (pd.Timestamp(us, unit="us", tz="UTC") for us in (start_us, start_us + HOUR_US))
    frame = dd.read_parquet(str(week))[["time", *FIELDS]]
    return frame[(frame["time"] >= start) & (frame["time"] < end)]


def _import_dask() -> None:
    import dask.dataframe
    import pandas as pd

    dd: Any = dask.dataframe
    assert len(dd.from_pandas(pd.DataFrame({"x": [1]}), npartitions=1).compute())


def by_influx(url: str, start_us: int) -> dict[str, float]:
    """lsst-efd-client's question, in one answer, and in chunks."""
    import httpx

    times = f"time >= {start_us * 1000} AND time < {(start_us + HOUR_US) * 1000}"
    query = f'SELECT {", ".join(FIELDS)} FROM "{DATABASE}"."autogen"."{TOPIC}" WHERE {times}'
    figures = {}
    for chunked in ("true", "false"):
        form = {"db": DATABASE, "q": query, "chunked": chunked, "chunk_size": "1000"}
        with httpx.Client(timeout=600) as client:
            client.get(f"{url}/ping")
            began = time.perf_counter()
            with client.stream("POST", f"{url}/query", data=form) as response:
                rows = 0
                for line in response.iter_lines():
                    if not rows:
                        name = "first_chunk_influx_s" if chunked == "true" else "first_row_influx_s"
                        figures[name] = time.perf_counter() - began
                    rows += len(json.loads(line)["results"][0]["series"][0]["values"])
    return {**figures, "rows_influx": rows}


def load_influx(url: str, root: Path, hours: int) -> None:
    """Writes the two columns of all hours."""
    import httpx

    from efd_pipelines.client import EfdArchive
    from efd_pipelines.times import from_microseconds

    httpx.post(f"{url}/query", data={"q": f"CREATE DATABASE {DATABASE}"}).raise_for_status()
    start, end = from_microseconds(START_US - HOUR_US), from_microseconds(START_US + (hours + 1) * HOUR_US)
    for rows in EfdArchive(str(root)).select(TOPIC, FIELDS, start, end).batches():
        times = rows["time"].cast(pa.int64()).to_pylist()
        values = zip(times, *(rows[name].to_pylist() for name in FIELDS), strict=True)
        lines = [f"{TOPIC} {FIELDS[0]}={one!r},{FIELDS[1]}={other!r} {at}" for at, one, other in values]
        for first in range(0, len(lines), 20_000):
            body = "\n".join(lines[first : first + 20_000]).encode()
            httpx.post(
                f"{url}/write", params={"db": DATABASE, "precision": "u"}, content=body, timeout=120
            ).raise_for_status()


WAYS = {"ours": by_ours, "dask": by_dask, "dask_head": by_dask_head, "influx": by_influx}


def measure(options: argparse.Namespace) -> Figures:
    if options.only:
        if options.only.startswith("dask"):
            _import_dask()
        return WAYS[options.only](options.at, options.start_us)
    with TemporaryDirectory(dir=options.scratch) as directory:
        root = Path(directory) / "archive"
        hours, size = make_week(root, options)
        make_week(root.with_name("small"), argparse.Namespace(full=False, hours=1, rate=1, columns=20))
        # From the middle of the week, between two files.
        start_us = START_US + hours // 2 * HOUR_US + (HOUR_US // 3 if options.crooked else 0)
        figures: dict[str, float] = {"hours": hours, "week_bytes": size}
        for repeat in range(options.repeats):
            note(f"measuring, {repeat + 1} of {options.repeats}")
            _keep(figures, _in_a_process("ours", str(root), start_us))
        for name in ("dask", "dask_head"):
            _keep(figures, _in_a_process(name, str(root), start_us))
        figures["first_row_dask_s"] = min(figures["compute_dask_s"], figures["head_dask_s"])
        if not options.no_influx:
            _keep(figures, _of_influx(Path(directory), root, hours, start_us))
        assert figures["rows_ours"] == figures["rows_dask"]
        return figures


def _keep(figures: dict[str, float], found: dict[str, float]) -> None:
    """The smallest of each figure: the machine is never idle."""
    for name, value in found.items():
        figures[name] = min(value, figures.get(name, value))


def _in_a_process(name: str, at: str, start_us: int) -> dict[str, float]:
    program = [sys.executable, "-m", "benchmarks.reading", "--json", "--only", name, "--at", at]
    answer = subprocess.run([*program, "--start-us", str(start_us)], stdout=subprocess.PIPE, check=True, text=True)
    found = json.loads(answer.stdout)
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def _of_influx(directory: Path, root: Path, hours: int, start_us: int) -> dict[str, float]:
    from efd_pipelines.servers.influxdb import InfluxServer

    server = InfluxServer(directory / "influx", die_with_parent=True)
    server.start()
    try:
        note("writing the two columns to InfluxDB")
        load_influx(server.url, root, hours)
        time.sleep(3)  # it writes its files a second after the last points came
        figures: dict[str, float] = {}
        for _ in range(3):
            _keep(figures, _in_a_process("influx", server.url, start_us))
        return figures
    finally:
        server.stop()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hours", type=int, default=3, help="hours of the week that are made")
    parser.add_argument("--full", action="store_true", help="as many hours as make 10 GiB")
    parser.add_argument("--rate", type=int, default=RATE_HZ, help="records a second")
    parser.add_argument("--columns", type=int, default=COLUMNS, help="floats of a record, 405 at least")
    parser.add_argument("--repeats", type=int, default=3, help="processes of ours; the quickest counts")
    parser.add_argument(
        "--crooked", action="store_true", help="an hour that begins 20 minutes past the hour: two files"
    )
    parser.add_argument("--no-influx", action="store_true", help="leave InfluxDB out")
    parser.add_argument("--scratch", default=None, help="where the week is made")
    parser.add_argument("--only", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--at", help=argparse.SUPPRESS)
    parser.add_argument("--start-us", type=int, help=argparse.SUPPRESS)


BENCHMARK = Benchmark(
    name="reading",
    about="Two columns and one hour of forceActuatorData until the first row, beside Dask and InfluxDB.",
    measure=measure,
    ratios={
        "sooner than Dask (at least 20)": ("first_row_dask_s", "first_row_ours_s"),
        "sooner than Dask, footer known": ("first_row_dask_s", "first_row_ours_again_s"),
        "sooner than InfluxDB": ("first_row_influx_s", "first_row_ours_s"),
        "all rows sooner than InfluxDB": ("first_row_influx_s", "hour_ours_s"),
        "bytes read of those needed (at most 2)": ("bytes_read", "bytes_needed"),
        "bytes read of those needed, footer known": ("bytes_read_again", "bytes_needed"),
    },
    arguments=arguments,
    packages=("pyarrow", "dask", "deltalake"),
)


if __name__ == "__main__":
    run(BENCHMARK)
