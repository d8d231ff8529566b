"""Exports and joins by the workers of a Dask cluster, one of which dies on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from efd_pipelines import cluster
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.client import EfdArchive
from efd_pipelines.cluster import DaskUnavailable
from efd_pipelines.exports import export, pieces
from efd_pipelines.exports.checking import check
from efd_pipelines.exposures import joins
from efd_pipelines_tests.observed import observe
from efd_pipelines_tests.unit.exports.builders import TEMPERATURE, ArchiveBuilder, at, messages, seconds
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    Observatory,
    a_column,
    a_configuration,
    an_exposure,
    table_of,
    times,
)
from efd_pipelines_tests.unit.exposures.builders import TEMPERATURE as DOME

MONTH = [datetime(2026, 10, 1, 3, tzinfo=UTC) + timedelta(days=n) for n in range(31)]
TOPICS = ("MTMount.azimuth", "ESS.temperature", "MTM1M3.hardpointActuatorData")
SECONDS = 1800.0 if os.environ.get("EFD_TEST_SCALE") else 10.0
"""Of each night of the month; all of it would be 10⁸ records."""


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """A scheduler and two workers, each a process of its own; one that dies is begun anew."""
    import distributed

    cluster_of: Any = distributed.LocalCluster
    with cluster_of(n_workers=2, threads_per_worker=1, dashboard_address=None) as found:
        yield found


@pytest.fixture
def one_to_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a day: a scaled down month would be one."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1)
    monkeypatch.setattr(pieces, "LEAST_BYTES", 1)


@pytest.mark.timeout(3600)
def test_a_month_of_the_observatory_is_whole_though_a_worker_dies(
    tmp_path: Path, one_to_a_day: None, workers: Any
) -> None:
    import dask.dataframe as dd

    builder = ArchiveBuilder(str(tmp_path / "archive"))
    records = observe(builder, TOPICS, MONTH, SECONDS, rate=0.2, unit=SliceUnit.DAY)
    out = tmp_path / "out"
    settings = builder.archive.settings.model_copy(update={"dask_scheduler": workers.scheduler_address})
    victim = next(iter(workers.workers.values()))
    lost: list[int] = []

    def lose(what: str, done: int, expected: int) -> None:
        if not lost:
            lost.append(done)
            os.kill(victim.pid, signal.SIGKILL)

    begin, end = MONTH[0] - timedelta(hours=3), MONTH[-1] + timedelta(days=1)
    result = export(Archive(settings), "lsst.sal.*", begin, end, out=str(out), progress=lose)
    assert 0 < lost[0] < result.rows == records
    assert check(settings, str(out), deep=True).ok
    efd = EfdArchive(settings=builder.archive.settings)
    for topic in (f"lsst.sal.{name}" for name in TOPICS):
        frame = dd.read_parquet(str(out / topic), index="time", calculate_divisions=True)
        assert frame.known_divisions
        assert frame.npartitions == 31
        assert frame.divisions == tuple(sorted(frame.divisions))
        found = frame.compute()
        assert found.index.is_monotonic_increasing
        theirs = efd.select_time_series(topic, list(found.columns), begin, end)
        keys = ["salIndex", "private_seqNum"] if "salIndex" in found else ["private_seqNum"]
        ours, expected = (
            one.rename_axis("time").reset_index().sort_values(["time", *keys], ignore_index=True)
            for one in (found, theirs)
        )
        pd.testing.assert_frame_equal(ours, expected[ours.columns], check_dtype=False, check_exact=True)


def test_joins_of_a_night_are_those_of_one_process_though_a_worker_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: Any
) -> None:
    alone, shared = (_a_night(tmp_path, name) for name in ("alone", "shared"))
    expected = alone.joins()
    assert (expected.exposures, expected.nulls, len(expected.skipped)) == (30, 0, 0)
    shared.settings = shared.settings.model_copy(update={"dask_scheduler": workers.scheduler_address})
    monkeypatch.setattr(joins, "FEWER_AT_ONCE", 5)
    victim = next(iter(workers.workers.values()))
    told: list[tuple[str, int, int]] = []

    def lose(*said: Any) -> None:
        told.append(said)
        if len(told) == 2:
            os.kill(victim.pid, signal.SIGKILL)

    found = shared.joins(progress=lose)
    assert told == [("Joining on the Dask cluster", n, 6) for n in range(6)]
    assert (found.exposures, found.values) == (expected.exposures, expected.values)
    for table in ("exposure_efd", "exposure_efd_unpivoted", "exposure_efd_provenance"):
        ours, theirs = (
            [{name: row[name] for name in row if not name.endswith("_at")} for row in of.rows(table)]
            for of in (shared, alone)
        )
        assert ours == theirs
    assert len(shared.rows()) == 30


def _a_night(directory: Path, name: str) -> Observatory:
    """The same records and exposures wherever it is made; columns of every way of computing."""
    columns = (
        a_column(),
        a_column("p90", "percentile", function_args={"percentile": 90}),
        a_column("last", "most_recent_value", start_offset=-5),
        a_column("both", "stddev") + f"  - name: {DOME}\n    fields:\n    - name: actualPosition\n",
        a_column("each", "max", fields=["item"], store_unpivoted="True").replace("_efd]", "_efd_unpivoted]"),
    )
    where = directory / name
    where.mkdir()
    found = Observatory.at(where, config=a_configuration(where, columns))
    start = MONTH[0]
    rng = np.random.default_rng(8)
    time_us = times(start, 1800, 1.0)
    for topic in (AZIMUTH, DOME):
        fields = {"actualPosition": rng.standard_normal(1800), "item": rng.standard_normal((1800, 3))}
        found.archives(topic, table_of(time_us, fields))
    found.exposes(*(an_exposure(start + timedelta(seconds=50 * n), 40.0, seq_num=n) for n in range(30)))
    return found


def test_a_cluster_without_workers_is_told_and_the_export_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import distributed

    builder = ArchiveBuilder(str(tmp_path / "archive"))
    builder.add(TEMPERATURE, messages(seconds(0, 60)))
    monkeypatch.setattr(cluster, "WITHOUT_WORKERS_S", 0.5)
    monkeypatch.setattr(cluster, "_LOOK_S", 0.2)
    cluster_of: Any = distributed.LocalCluster
    with cluster_of(n_workers=0, processes=False, dashboard_address=None) as empty:
        settings = builder.archive.settings.model_copy(update={"dask_scheduler": empty.scheduler_address})
        with pytest.raises(DaskUnavailable, match="has no workers"):
            export(Archive(settings), TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out")).rows == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "out"]


def test_a_scheduler_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    builder = ArchiveBuilder(str(tmp_path / "archive"))
    builder.add(TEMPERATURE, messages(seconds(0, 60)))
    settings = builder.archive.settings.model_copy(update={"dask_scheduler": "tcp://127.0.0.1:9"})
    with pytest.raises(DaskUnavailable, match=r"127.0.0.1:9 does not answer.*EFD_DASK_SCHEDULER"):
        export(Archive(settings), TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
