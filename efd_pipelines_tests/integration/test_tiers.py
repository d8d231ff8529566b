"""Tiers of what the observatory recorded, on a directory and on S3; killed, raced, and at full width.

The references are pandas and DuckDB on the recorded CSV files themselves, which know nothing of the archive.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.replay import replay
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.memory import peak_of_tree
from efd_pipelines_tests.unit.tiers.builders import (
    HOUR_US,
    MONDAY_US,
    SECOND_US,
    an_archive,
    archive_rows,
    rows,
)

ONE_SECOND = TIERS["1s"]
RECORDED = {
    "lsst.sal.MTM1M3.hardpointActuatorData": np.float32,
    "lsst.sal.MTM1M3.appliedAccelerationForces": np.float32,
    "lsst.sal.MTM1M3.appliedVelocityForces": np.float32,
    "lsst.sal.MTMount.azimuth": np.float64,
    "lsst.sal.MTMount.elevation": np.float64,
}
RUN = """
import sys
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines_tests.unit.tiers.builders import an_archive
print("ready", flush=True)
result = build_tier(an_archive(sys.argv[1]), TIERS["1s"], run="a-process")
print(result.windows)
"""


def recording(shared: Path, topic: str) -> Path:
    (path,) = (shared / "recorded").glob(f"{topic}_*.csv.gz")
    return path


def archive_recording(archive: Archive, shared: Path, topic: str) -> None:
    """The recorded rows as the archive would have them: event time in microseconds, numbers in SAL's types."""
    frame = pd.read_csv(recording(shared, topic))
    columns = {
        name: frame[name].to_numpy(np.float64 if name == "timestamp" else RECORDED[topic]) for name in frame.columns[1:]
    }
    archive_rows(archive, Dataset(topic), rows(frame["time"].to_numpy() // 1000, columns))


def check_recording(archive: Archive, shared: Path, topic: str) -> None:
    tier = archive.read(Dataset(topic), tier="1s").to_pandas().set_index("time")
    frame = pd.read_csv(recording(shared, topic))
    frame.index = pd.to_datetime(frame.pop("time") // 1000, unit="us", utc=True).dt.floor("s")
    windows = frame.groupby(level=0)
    assert list(tier.index) == list(windows.size().index)
    assert tier["count"].tolist() == windows.size().tolist()
    for name in frame.columns:
        for statistic in ("first", "min", "max", "median"):
            found = tier[f"{statistic}_{name}"].to_numpy()
            assert np.array_equal(found, windows[name].agg(statistic).to_numpy(found.dtype), equal_nan=True), name
        scale = float(frame[name].abs().max())
        assert_close(tier[f"mean_{name}"], windows[name].mean(), scale)
        assert_close(tier[f"stdev_{name}"], windows[name].std(), scale)


def assert_close(found: pd.Series[Any], expected: pd.Series[Any], scale: float) -> None:
    """Equal but for the order of summation, and one rounding to the field's own type."""
    tolerance = 6e-8 if found.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(
        found.to_numpy(np.float64), expected.to_numpy(np.float64), rtol=tolerance, atol=1e-15 * scale
    )


@pytest.mark.parametrize("topic", RECORDED)
def test_summaries_of_the_recorded_slew_are_those_of_pandas(tmp_path: Path, shared: Path, topic: str) -> None:
    archive = an_archive(str(tmp_path))
    archive_recording(archive, shared, topic)
    build_tier(archive, ONE_SECOND)
    check_recording(archive, shared, topic)


def test_summaries_of_the_recorded_slew_are_those_of_duckdb(tmp_path: Path, shared: Path) -> None:
    archive = an_archive(str(tmp_path))
    topic = "lsst.sal.MTMount.azimuth"
    archive_recording(archive, shared, topic)
    build_tier(archive, ONE_SECOND)
    with duckdb.connect() as connection:
        expected = connection.sql(
            f"""SELECT "time" // 1000000000 AS second, count(*), min(actualTorque), max(actualTorque),
                median(actualTorque), avg(actualTorque), stddev_samp(actualTorque)
                FROM read_csv('{recording(shared, topic)}') GROUP BY second ORDER BY second"""
        ).fetchall()
    tier = archive.read(Dataset(topic), tier="1s")
    seconds = pc.divide(tier["time"].cast(pa.int64()), SECOND_US).to_pylist()
    names = ("count", *(f"{s}_actualTorque" for s in ("min", "max", "median", "mean", "stdev")))
    found = list(zip(seconds, *(tier[name].to_pylist() for name in names), strict=True))
    assert [row[:5] for row in found] == [row[:5] for row in expected]
    np.testing.assert_allclose([row[5:] for row in found], [row[5:] for row in expected], rtol=1e-12)


@pytest.mark.timeout(300)
def test_what_was_recorded_is_summarised_by_way_of_kafka(settings: Settings, archive: Archive, shared: Path) -> None:
    replay(settings, shared / "recorded")
    drain(archive, settings)
    first, again = build_tier(archive, ONE_SECOND), build_tier(archive, ONE_SECOND)
    assert (first.slices, again.commits) == (len(RECORDED), 0)
    assert [dataset.text for dataset in archive.datasets(table="1s")] == sorted(RECORDED)
    for topic in RECORDED:
        check_recording(archive, shared, topic)


DATASETS, HOURS = 3, 4
WINDOWS = DATASETS * HOURS * 3600


def some_hours(archive: Archive) -> None:
    count = HOURS * 3600 * 5
    random = np.random.default_rng(7)
    for n in range(DATASETS):
        columns = {f"x{c}": random.normal(size=count).astype(np.float32) for c in range(40)}
        table = rows(MONDAY_US - 2 * HOUR_US + np.arange(count) * 200_000, columns)
        archive_rows(archive, Dataset(f"lsst.sal.MTM1M3.telemetry{n}"), table)


def visible(archive: Archive) -> dict[str, list[tuple[str, int]]]:
    """The tier's files by dataset."""
    datasets = archive.datasets(table="1s")
    return {d.text: [(file.path, file.rows) for file in archive.files(d, tier="1s")] for d in datasets}


def booked(archive: Archive) -> int:
    """The tier's rows by the ledger."""
    found = archive.ledger.sql("""SELECT sum(rows)::BIGINT AS rows FROM ledger WHERE "table" = '1s'""")
    return int(found["rows"][0].as_py())


def start_build(archive: Archive) -> subprocess.Popen[str]:
    """A process that builds, as soon as it begins to."""
    process = subprocess.Popen([sys.executable, "-c", RUN, archive.store.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_a_build_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path) -> None:
    killed, whole = an_archive(str(tmp_path / "killed")), an_archive(str(tmp_path / "whole"))
    for archive in (killed, whole):
        some_hours(archive)
    started = time.monotonic()
    assert start_build(whole).communicate()[0] == f"{WINDOWS}\n"
    duration = time.monotonic() - started
    kills = 0
    for fraction in np.linspace(0.3, 0.9, 8):
        process = start_build(killed)
        try:
            process.wait(timeout=duration * fraction)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills
    build_tier(killed, ONE_SECOND)
    assert build_tier(killed, ONE_SECOND).commits == 0
    assert visible(killed) == visible(whole)
    assert booked(killed) == booked(whole) == WINDOWS


def test_two_builds_at_once_count_nothing_twice(tmp_path: Path) -> None:
    archive = an_archive(str(tmp_path))
    some_hours(archive)
    processes = [start_build(archive) for _ in range(2)]
    windows = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(windows) == booked(archive) == WINDOWS
    assert all(rows == 3600 for files in visible(archive).values() for _, rows in files)
    assert build_tier(archive, ONE_SECOND).commits == 0


SHARED = """
import sys
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines_tests.unit.tiers.builders import an_archive
result = build_tier(an_archive(sys.argv[1]), TIERS["1s"], processes=int(sys.argv[2]))
print(result.rows, result.windows)
"""
FULL_WIDTH = 812
at_full_size = pytest.mark.skipif(
    not os.environ.get("EFD_TEST_SCALE"), reason="half a minute; EFD_TEST_SCALE=1 runs it"
)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, pytest.param(1, marks=at_full_size)])
def test_two_hours_of_all_force_actuators_take_less_than_a_gibibyte(tmp_path: Path, processes: int) -> None:
    archive = an_archive(str(tmp_path))
    dataset = Dataset("lsst.sal.MTM1M3.forceActuatorData")
    per_file = 18_000
    noise = np.random.default_rng(3).normal(size=(FULL_WIDTH, per_file)).astype(np.float32)
    for first in range(0, 360_000, per_file):
        columns = {f"force{n}": noise[n - first // per_file] for n in range(FULL_WIDTH)}
        times = MONDAY_US + np.arange(first, first + per_file) * 20_000
        archive_rows(archive, dataset, rows(times, columns, first_offset=first))
    command = [sys.executable, "-c", SHARED, archive.store.root, str(processes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak_bytes = peak_of_tree(process)
        answer, _ = process.communicate()
    assert [int(figure) for figure in answer.split()] == [360_000, 7200]
    assert 0 < peak_bytes < 2**30
    tier = archive.read(dataset, tier="1s", columns=["count", "min_force811"])
    assert set(tier["count"].to_pylist()) == {50}
    raw = archive.read(dataset, columns=["force811"])["force811"].to_numpy()
    assert np.array_equal(tier["min_force811"].to_numpy(), raw.reshape(-1, 50).min(axis=1))


@pytest.mark.slow
def test_dasks_workers_share_the_work_and_a_lost_one_loses_nothing(tmp_path: Path) -> None:
    import distributed

    cluster_of: Any = distributed.LocalCluster
    alone, shared_out = an_archive(str(tmp_path / "alone")), an_archive(str(tmp_path / "shared"))
    for archive in (alone, shared_out):
        some_hours(archive)
    build_tier(alone, ONE_SECOND)
    with cluster_of(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        settings = shared_out.settings.model_copy(update={"dask_scheduler": cluster.scheduler_address})
        worker = next(iter(cluster.workers.values()))
        lost: list[int] = []

        def lose(what: str, done: int, expected: int) -> None:
            if done and not lost:
                lost.append(done)
                os.kill(worker.pid, signal.SIGKILL)

        build_tier(Archive(settings), ONE_SECOND, progress=lose)
    assert lost
    assert visible(shared_out) == visible(alone)
    assert build_tier(shared_out, ONE_SECOND).commits == 0
