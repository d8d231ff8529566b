"""Live exposures: how long after the end of an exposure its row is in ConsDB, in the demo as `efd dev` runs it.

The observatory at real time, broker, registry, Dagster's daemon and sensors run as their user runs them; from outside
it is looked, every two seconds, which exposures have a row. `exposures.py` asks for it with `--live`.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks import Figures, note

TAI_UTC = timedelta(seconds=37)
LEAST_S = 300.0
"""What the present service leaves alone: it takes tasks that ended so long ago (efd-facts.md §5.2)."""

_LOOK_EVERY_S = 2.0
_STARTED_WITHIN_S = 600.0


def measure_live(seconds: float) -> Figures:
    """Latencies of the exposures that ended while all ran, and five minutes before the end at the latest."""
    with tempfile.TemporaryDirectory(prefix="efd-live-") as directory:
        command = [sys.executable, "-m", "efd_pipelines.cli", "dev", "--data", directory, "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
            try:
                note("starting the demo")
                _await_started(running)
                note(f"looking for {seconds:.0f} s")
                ended, seen = _look(Path(directory), seconds)
            finally:
                running.send_signal(signal.SIGINT)
                running.wait(timeout=120)
    return _figures(ended, seen, datetime.now(UTC))


def _await_started(running: subprocess.Popen[str]) -> None:
    assert running.stdout is not None
    said = ""
    deadline = time.monotonic() + _STARTED_WITHIN_S
    while time.monotonic() < deadline:
        said += running.stdout.readline()
        try:
            json.loads(said)
        except ValueError:
            continue
        return
    raise TimeoutError("The demo has not started")


def _look(directory: Path, seconds: float) -> tuple[dict[int, datetime], dict[int, datetime]]:
    """The end of each exposure that ended from now on, and when its row was first seen."""
    started = datetime.now(UTC)
    ended: dict[int, datetime] = {}
    seen: dict[int, datetime] = {}
    while datetime.now(UTC) < started + timedelta(seconds=seconds):
        for number, end in _rows(directory, "SELECT exposure_id, obs_end FROM cdb_lsstcam_exposure"):
            utc = datetime.fromisoformat(end).replace(tzinfo=UTC) - TAI_UTC
            if utc >= started:
                ended[number] = utc
        now = datetime.now(UTC)
        for number, _ in _rows(directory, "SELECT exposure_id, 0 FROM efd_lsstcam_exposure_efd"):
            seen.setdefault(number, now)
        time.sleep(_LOOK_EVERY_S)
    return ended, seen


def _rows(directory: Path, query: str) -> list[tuple[int, str]]:
    for file in directory.rglob("consdb.sqlite"):
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30) as connection:
            try:
                return connection.execute(query).fetchall()
            except sqlite3.OperationalError:
                return []  # the table is not there yet
    return []


def _figures(ended: dict[int, datetime], seen: dict[int, datetime], now: datetime) -> Figures:
    """An exposure without a row is as late as it is old."""
    counted = [number for number, end in ended.items() if end <= now - timedelta(seconds=LEAST_S)]
    late_s = np.array([(seen.get(number, now) - ended[number]).total_seconds() for number in counted])
    figures = {
        "live_exposures": len(counted),
        "live_exposures_without_row": sum(number not in seen for number in counted),
    }
    if not len(late_s):
        return figures
    p50, p95 = np.percentile(late_s, [50, 95]).tolist()
    return {
        **figures,
        "latency_p50_s": p50,
        "latency_p95_s": p95,
        "latency_max_s": float(late_s.max()),
        "present_service_least_s": LEAST_S,
    }
