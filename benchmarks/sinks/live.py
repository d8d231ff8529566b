"""Live: how soon what is produced can be read from the archive, and how fast an outage is caught up with.

The simulated observatory runs at the observatory's mean rate (anchors.md §0) in a process of its own; what is due is
drained, each time by a new process, as Dagster would start one. A record's lag is from Kafka's time stamp to the
commit that made it visible, of the fast class only: the others are not due within such a run. Then nobody drains, what
an outage leaves behind is put onto the broker as fast as it goes, and when all of it is there, one drain catches up:
its time is that of its process, from start to end. An outage of a few minutes is over before the process is warm: at
50 times real time ten minutes take 12 s. Nothing else must run on the machine; `load_1min` says whether.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks import Figures, note
from benchmarks.sinks.site import BenchSite, bench_site
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.backlog import backlog
from efd_pipelines.archive.delta_log import read_log
from efd_pipelines.archive.reading import read_file
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.observatory import Observatory

MEAN_MB_S = 1.74
_TICK_S = 5.0
_SAMPLE_S = 20.0
_DRAIN = """
import json, sys, time
from pathlib import Path
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.settings import load_settings

settings = load_settings(env_file=None)
topics = set(json.loads(sys.stdin.read()))
result = drain(Archive(settings), settings, topics=topics or None, until_caught_up=not topics)
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"mb": result.avro_bytes / 1e6, "cpu_s": time.process_time(), "peak_bytes": peak}))
"""
_PRODUCE = """
import sys
from datetime import datetime
from efd_pipelines.settings import load_settings
from efd_pipelines.simulator.observatory import run_observatory

start, seconds, speed = sys.argv[1:]
run_observatory(load_settings(env_file=None), 1, float(seconds), speed, datetime.fromisoformat(start))
"""


def measure_live(options: argparse.Namespace) -> Figures:
    with (
        tempfile.TemporaryDirectory(prefix="efd-live-", dir=options.directory) as scratch,
        bench_site(Path(scratch) / "servers") as site,
    ):
        return _measure(options, site, Path(scratch))


def _measure(options: argparse.Namespace, site: BenchSite, scratch: Path) -> Figures:
    config = scratch / "config.yaml"
    freshness = site.settings(scratch).configuration.freshness.model_copy(
        update={"fast_interval_s": options.cadence_s}
    )  # fmt: skip
    config.write_text(yaml.safe_dump({"freshness": json.loads(freshness.model_dump_json())}), encoding="utf-8")
    environ = {**os.environ, **site.environ, "EFD_CONFIG": str(config), "EFD_ARCHIVE": str(scratch / "archive")}
    settings = site.settings(scratch, config=config)
    speed = MEAN_MB_S / _observatory_mb_s()
    note(f"live for {options.seconds:.0f} s, {speed:.2f} times the simulated observatory's own rate")
    # Event times run ahead of the clock by the speed: so they begin that much before it.
    start = datetime.now(UTC) - timedelta(seconds=(options.seconds + options.outage_s) * speed)
    figures = _live(options, settings, environ, start, speed)
    note(f"an outage of {options.outage_s:.0f} s")
    start += timedelta(seconds=options.seconds * speed)
    with _producing(environ, start, options.outage_s * speed, "max") as producer:
        producer.wait()
    _check(producer)
    caught = _drain(environ, [])
    return {
        **figures,
        "catch_up_x": options.outage_s / caught["wall_s"],
        "catch_up_mb_s": caught["mb"] / caught["wall_s"],
        "catch_up_cpu_ms_mb": caught["cpu_s"] * 1e3 / caught["mb"],
        "catch_up_peak_bytes": caught["peak_bytes"],
        "outage_s": options.outage_s,
        "outage_mb": caught["mb"],
    }


def _producing(environ: dict[str, str], start: datetime, seconds: float, speed: str) -> subprocess.Popen[bytes]:
    """The simulated observatory, in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", _PRODUCE, start.isoformat(), str(seconds), speed], env=environ)


def _check(producer: subprocess.Popen[bytes]) -> None:
    if producer.returncode:
        raise RuntimeError("the simulated observatory failed")


def _observatory_mb_s() -> float:
    """What the simulated observatory produces in a second of its own, without the first, when all is switched on."""
    size = 0
    for series in Observatory(1).blocks(datetime(2026, 11, 17, 3, 0, 10, tzinfo=UTC), _SAMPLE_S):
        size += sum(len(body) + 5 for one in series for body in one.bodies())
    return size / 1e6 / _SAMPLE_S


def _live(
    options: argparse.Namespace, settings: Settings, environ: dict[str, str], start: datetime, speed: float
) -> dict[str, float]:
    archive = Archive(settings)
    began = time.monotonic()
    runs = []
    with _producing(environ, start, options.seconds * speed, str(speed)) as producer:
        while producer.poll() is None:
            time.sleep(_TICK_S)
            due = [one.topic for one in backlog(archive, settings) if one.due]
            if due:
                runs.append(_drain(environ, due))
    _check(producer)
    seconds = time.monotonic() - began
    mb = sum(run["mb"] for run in runs)
    lags = _lags_s(archive, settings)
    return {
        "lag_p99_s": float(np.percentile(lags, 99)),
        "lag_p50_s": float(np.percentile(lags, 50)),
        "lag_max_s": float(lags.max()),
        "cadence_s": options.cadence_s,
        "live_records": len(lags),
        "live_mb_s": mb / seconds,
        "live_runs": len(runs),
        "live_run_s_max": max(run["wall_s"] for run in runs),
        "live_run_cpu_s_mean": sum(run["cpu_s"] for run in runs) / len(runs),
    }


def _drain(environ: dict[str, str], topics: Sequence[str]) -> dict[str, Any]:
    """A drain in a process of its own, with the time that it and the process took."""
    began = time.monotonic()
    command = [sys.executable, "-c", _DRAIN]
    done = subprocess.run(command, env=environ, input=json.dumps(topics), check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"wall_s": time.monotonic() - began}


def _lags_s(archive: Archive, settings: Settings) -> np.ndarray[Any, Any]:
    """How long each record of the fast class was not in the archive: commit's time minus Kafka's time stamp."""
    schema = pa.schema([("kafka_timestamp", pa.timestamp("us", tz="UTC"))])
    found = []
    for dataset in archive.datasets():
        if settings.configuration.freshness.class_of(dataset) != "fast":
            continue
        snapshot = archive.snapshot(dataset)
        for made in read_log(archive.store, snapshot.relative, 0):
            for file in made.added if made.note.get("kind") == "drain" else ():
                sent = read_file(snapshot, file, schema)["kafka_timestamp"].cast(pa.int64()).to_numpy()
                found.append((made.at_us - sent) / 1e6)
    return np.concatenate(found)
