"""InfluxDB: rows of forceActuatorData's width as line protocol, and into a real server.

Serialising beside influxdb-client's DataFrame path, the values of both checked to be equal; processor time of one
thread, because the machine is shared. Writing beside the same bytes made beforehand and sent by the same number of
connections to the same server, in turns: what serialising, comparing and recording cost. To a server on the same
machine, which shares its processors with the client.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from benchmarks import Benchmark, Figures, note, run

START_US = 1_700_438_400_000_000
MEASUREMENT = "lsst.sal.MTM1M3.forceActuatorData"


def samples(rows: int, columns: int) -> pa.Table:
    """Noise on slow waves, as actuators have it."""
    random = np.random.default_rng(1)
    wave = np.sin(np.arange(rows) / 500)
    values = {
        f"mean_primaryCylinderForce{n}": (100 * n + 50 * wave + random.normal(size=rows)).astype(np.float32)
        for n in range(columns)
    }
    times = START_US + np.arange(rows) * 1_000_000
    count = np.full(rows, 50)
    return pa.table({"time": pa.array(times).cast(pa.timestamp("us", tz="UTC")), **values, "count": count})


def thread_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Processor time of the fastest of some runs; the first is not counted."""
    times = []
    for _ in range(repeats + 1):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return min(times[1:])


def ours(table: pa.Table) -> list[Any]:
    from efd_pipelines.publishing.lines import serialise

    return list(serialise(table, MEASUREMENT))


def client(table: pa.Table) -> list[str]:
    from influxdb_client import WritePrecision
    from influxdb_client.client.write.dataframe_serializer import data_frame_to_list_of_points
    from influxdb_client.client.write_api import PointSettings

    frame = table.to_pandas().set_index("time")
    found: list[str] = data_frame_to_list_of_points(
        frame, PointSettings(), WritePrecision.NS, data_frame_measurement_name=MEASUREMENT
    )
    return found


def check_equal(mine: list[Any], theirs: list[str]) -> None:
    """Both say the same of the first and the last row; ours exactly, theirs as the float32 that it prints."""
    lines = b"".join(bytes(batch.data) for batch in mine).decode().splitlines()
    assert len(lines) == len(theirs)
    for one, other in ((lines[0], theirs[0]), (lines[-1], theirs[-1])):
        left, right = ({k: v.rstrip("i") for k, v in _fields(line).items()} for line in (one, other))
        assert left.keys() == right.keys()
        assert all(np.float32(left[name]) == np.float32(right[name]) for name in left)


def _fields(line: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in line.split(" ")[1].split(","))


def ready_lines(url: str, database: str, bodies: list[bytes]) -> float:
    """Seconds to send lines that are there, by as many connections as ours."""
    from efd_pipelines.publishing.influx import AT_ONCE

    waiting, lock = deque(bodies), threading.Lock()

    def send(http: httpx.Client) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                body = waiting.popleft()
            answer = http.post(f"{url}/write", params={"db": database, "precision": "s"}, content=body)
            assert answer.status_code == 204, answer.text

    with httpx.Client(timeout=300) as http, ThreadPoolExecutor(AT_ONCE) as pool:
        started = time.perf_counter()
        for done in [pool.submit(send, http) for _ in range(AT_ONCE)]:
            done.result()
        return time.perf_counter() - started


def published(directory: Path, url: str, table: pa.Table, unique: str) -> float:
    """Seconds to publish a tier: read, serialised, written, recorded."""
    from efd_pipelines.publishing.publish import publish
    from efd_pipelines.publishing.server import Influx
    from efd_pipelines_tests.unit.publishing.builders import site, tier_rows

    archive = site(directory, url, unique)
    tier_rows(archive, table)
    with Influx(archive.settings) as influx:
        started = time.perf_counter()
        result = publish(archive, influx, "influx_1s")
        seconds = time.perf_counter() - started
    assert result.points == table.num_rows, result
    return seconds


def measure(options: argparse.Namespace) -> Figures:
    from efd_pipelines.publishing.lines import serialise
    from efd_pipelines.servers.influxdb import InfluxServer

    small = samples(options.rows, options.columns)
    values = small.num_rows * (small.num_columns - 1) / 1e6
    note("checking that both say the same")
    check_equal(ours(small), client(small))
    note("serialising")
    figures = {
        "serialise_ours_mfields_s": values / thread_seconds(lambda: ours(small), 5),
        "serialise_client_mfields_s": values / thread_seconds(lambda: client(small)),
    }
    large = samples(options.write_rows, options.columns)
    values = large.num_rows * (large.num_columns - 1) / 1e6
    times = large["time"].cast(pa.int64()).to_numpy() // 1_000_000
    bodies = [bytes(batch.data) for batch in serialise(large, MEASUREMENT, stamps=times)]
    seconds: dict[str, list[float]] = {"ours": [], "ready": []}
    with tempfile.TemporaryDirectory(prefix="efd-influx-") as name:
        server = InfluxServer(Path(name) / "influx", die_with_parent=True)
        server.start()
        try:
            for n in range(options.rounds):
                note(f"writing, round {n + 1} of {options.rounds}")
                database = f"ready{n}"
                httpx.post(f"{server.url}/query", data={"q": f"CREATE DATABASE {database}"}).raise_for_status()
                directory = Path(name) / f"site{n}"
                directory.mkdir()
                turns: list[Callable[[], None]] = [
                    lambda d=database: seconds["ready"].append(ready_lines(server.url, d, bodies)),  # type: ignore[misc]
                    lambda d=directory, n=n: seconds["ours"].append(published(d, server.url, large, f"ours{n}")),  # type: ignore[misc]
                ]
                for turn in turns if n % 2 else reversed(turns):
                    turn()
        finally:
            server.stop()
    figures["write_ours_mfields_s"] = values / statistics.median(seconds["ours"])
    figures["write_ready_lines_mfields_s"] = values / statistics.median(seconds["ready"])
    size = sum(map(len, bodies))
    return {**figures, "rows": large.num_rows, "columns": options.columns, "bytes_of_a_field": size / values / 1e6}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=2000, help="rows to serialise")
    parser.add_argument("--write-rows", type=int, default=10_000, help="rows to write")
    parser.add_argument("--columns", type=int, default=812, help="float32 columns")
    parser.add_argument("--rounds", type=int, default=3, help="of writing, each way once")


BENCHMARK = Benchmark(
    name="influx",
    about="Line protocol of 812 float32 columns, and into influxd 1.8.10 on this machine.",
    measure=measure,
    ratios={
        "serialise: ours / influxdb-client": ("serialise_ours_mfields_s", "serialise_client_mfields_s"),
        "write: ours / ready-made lines": ("write_ours_mfields_s", "write_ready_lines_mfields_s"),
    },
    arguments=arguments,
    packages=("influxdb-client", "numba", "pyarrow"),
)

if __name__ == "__main__":
    run(BENCHMARK)
