"""Live: how soon what is produced can be read from the archive, and how fast an outage is caught up with.

The simulated observatory runs at the observatory's mean rate (anchors.md §0) in a process of its own; what is due is
drained, each time by a new process, as Dagster would start one. A record's lag is from Kafka's time stamp to the
commit that made it visible, of the fast class only: the others are not due within such a run. Then nobody drains for
a while, and a drain catches up.
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
from efd_pipelines.archive.reading import read_file
from efd_pipelines.archive.tables import read_log
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.observatory import Observatory, run_observatory

MEAN_MB_S = 1.74
_TICK_S = 5.0
_SAMPLE_S = 20.0
_DRAIN = """
import json, sys
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.settings import load_settings

settings = load_settings(env_file=None)
topics = set(json.loads(sys.stdin.read()))
result = drain(Archive(settings), settings, topics=topics or None, until_caught_up=not topics)
print(json.dumps({"records": result.records, "mb": result.avro_bytes / 1e6, "seconds": result.seconds}))
"""
_PRODUCE = """
import sys
from datetime import datetime
from efd_pipelines.settings import load_settings
from efd_pipelines.simulator.observatory import run_observatory

start, seconds, speed = sys.argv[1:]
run_observatory(load_settings(env_file=None), 1, float(seconds), float(speed), datetime.fromisoformat(start))
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
    run_observatory(settings, 1, options.outage_s * speed, "max", start)
    began = time.monotonic()
    caught = _drain(environ, [])
    seconds = time.monotonic() - began
    return {
        **figures,
        "catch_up_x": options.outage_s / seconds,
        "catch_up_mb_s": caught["mb"] / seconds,
        "outage_s": options.outage_s,
    }


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
    command = [sys.executable, "-c", _PRODUCE, start.isoformat(), str(options.seconds * speed), str(speed)]
    began = time.monotonic()
    mb, runs = 0.0, 0
    with subprocess.Popen(command, env=environ) as producer:
        while producer.poll() is None:
            time.sleep(_TICK_S)
            due = [one.topic for one in backlog(archive, settings) if one.due]
            if due:
                mb, runs = mb + _drain(environ, due)["mb"], runs + 1
        if producer.returncode:
            raise RuntimeError("the simulated observatory failed")
    seconds = time.monotonic() - began
    lags = _lags_s(archive, settings)
    return {
        "lag_p99_s": float(np.percentile(lags, 99)),
        "lag_p50_s": float(np.percentile(lags, 50)),
        "lag_max_s": float(lags.max()),
        "cadence_s": options.cadence_s,
        "live_records": len(lags),
        "live_mb_s": mb / seconds,
        "live_runs": runs,
    }


def _drain(environ: dict[str, str], topics: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-c", _DRAIN]
    done = subprocess.run(command, env=environ, input=json.dumps(topics), check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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
