"""Exposure joins where ConsDB fails half-way: a clear error, nothing half written, and the next run makes it whole."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from efd_pipelines.errors import DatabaseUnavailable
from efd_pipelines.exposures import results
from efd_pipelines.servers.postgresql import PostgresServer
from efd_pipelines_tests.conftest import start
from efd_pipelines_tests.faults.full_consdb import ON_A_SMALL_DISK
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    NIGHT,
    Observatory,
    a_column,
    a_configuration,
    an_exposure,
    azimuth,
)

MEANS = [15.0, 75.0, 135.0]


def an_observatory(directory: Path, url: str) -> Observatory:
    """Ten minutes of azimuth and three exposures, each a batch of its own."""
    built = Observatory.at(directory, url, config=a_configuration(directory, a_column()))
    built.archives(AZIMUTH, azimuth(600))
    built.exposes(*(an_exposure(NIGHT + timedelta(seconds=60 * n), seq_num=n + 1) for n in range(3)))
    return built


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL that a test may stop."""
    made = PostgresServer(tmp_path / "postgres", die_with_parent=True)
    start(made)
    yield made
    made.erase()


def test_consdb_that_stops_in_the_middle_keeps_whole_batches_and_loses_none(
    tmp_path: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    observatory = an_observatory(tmp_path, server.make_database("consdb"))
    monkeypatch.setattr(results, "ROWS_PER_TRANSACTION", 1)
    provenance, batches = results._provenance, []

    def stops(*given: Any) -> Any:
        """In the second batch, when the values are written and their provenance is not."""
        batches.append(1)
        if len(batches) == 2:
            server.stop()
        return provenance(*given)

    monkeypatch.setattr(results, "_provenance", stops)
    with pytest.raises(DatabaseUnavailable, match="nothing was written"):
        observatory.joins()
    server.start()
    for table in ("exposure_efd", "exposure_efd_provenance"):
        assert [row["seq_num"] for row in observatory.rows(table)] == [1]
    assert observatory.joins().exposures == 2
    assert [row["value"] for row in observatory.rows()] == MEANS


def test_consdb_that_stops_and_comes_back(tmp_path: Path, server: PostgresServer) -> None:
    observatory = an_observatory(tmp_path, server.make_database("consdb"))
    server.stop()
    with pytest.raises(DatabaseUnavailable, match="nothing was written"):
        observatory.joins()
    server.start()
    assert observatory.joins().exposures == 3


def test_a_locked_row_is_waited_for_and_then_said_to_be_locked(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    observatory = an_observatory(tmp_path, database_url)
    observatory.joins()
    monkeypatch.setattr("efd_pipelines.exposures.consdb.LOCK_TIMEOUT_S", 1)
    row = "SELECT 1 FROM efd_lsstcam.exposure_efd WHERE seq_num = 2 FOR UPDATE"
    observatory.configures(a_column(function="max"))
    with psycopg.connect(database_url.replace("+psycopg", "")) as other:
        other.execute(row)
        with pytest.raises(DatabaseUnavailable, match=r"keeps it locked.*nothing was written"):
            observatory.joins()
        assert [one["value"] for one in observatory.rows()] == MEANS
        monkeypatch.setattr("efd_pipelines.exposures.consdb.LOCK_TIMEOUT_S", 30)
        freeing = threading.Timer(1.0, other.rollback)
        freeing.start()
        assert observatory.joins().exposures == 3
        freeing.join()
    assert [one["value"] for one in observatory.rows()] == [30.0, 90.0, 150.0]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_full_disk_is_named_writes_nothing_by_halves_and_loses_nothing(tmp_path: Path, kind: str) -> None:
    full = tmp_path / "full"
    full.mkdir()
    command = ["unshare", "-Urm", "sh", "-c", ON_A_SMALL_DISK, sys.executable, kind, str(full)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["error"] == "DatabaseUnavailable"
    assert "Make room for the database, then run again: nothing was written" in found["message"]
    assert found["full"] == found["before"]
    assert found["before"]["exposure_efd"] == 40
    assert found["joined"] == 200
    assert found["after"] == {table: rows * 6 for table, rows in found["before"].items()}
    assert found["right"]
