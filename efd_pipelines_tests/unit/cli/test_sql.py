"""`efd sql`: tables for people, CSV, Parquet and JSON for programs."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from efd_pipelines_tests.unit.cli.conftest import Efd
from efd_pipelines_tests.unit.exports.builders import TEMPERATURE, ArchiveBuilder, messages, seconds

ASKED = "SELECT time, sensorName, temperatureItem0 FROM ESS.temperature ORDER BY time"


@pytest.fixture
def root(tmp_path: Path) -> str:
    builder = ArchiveBuilder(str(tmp_path / "archive"))
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    return builder.root


def test_rows_as_a_table_csv_json_and_parquet(efd: Efd, root: str, tmp_path: Path) -> None:
    table = efd("sql", ASKED, EFD_ARCHIVE=root)
    assert (table.code, len(table.out.splitlines())) == (0, 6)
    assert "2026-11-16 00:00:01" in table.out
    rows = list(csv.DictReader(io.StringIO(efd("sql", ASKED, "--format", "csv", EFD_ARCHIVE=root).out)))
    assert (len(rows), rows[4]["sensorName"], rows[4]["time"]) == (5, "sensor 4", "2026-11-16T00:00:04Z")
    found = efd("sql", ASKED, "--json", EFD_ARCHIVE=root).document
    assert [one["name"] for one in found["columns"]] == ["time", "sensorName", "temperatureItem0"]
    assert found["rows"][4]["sensorName"] == "sensor 4"
    file = tmp_path / "out.parquet"
    assert efd("sql", ASKED, "--format", "parquet", "--out", str(file), EFD_ARCHIVE=root).code == 0
    assert pq.read_table(file)["sensorName"].to_pylist() == [f"sensor {n}" for n in range(5)]


def test_a_long_table_is_cut_and_says_so(efd: Efd, root: str) -> None:
    cut = efd("sql", ASKED, "--limit", "2", EFD_ARCHIVE=root)
    assert len(cut.out.splitlines()) == 3
    assert "more than 2 rows" in cut.err


def test_mistakes_end_with_two_and_leave_no_file(efd: Efd, root: str, tmp_path: Path) -> None:
    assert efd("sql", "FROM ESS.humidity", EFD_ARCHIVE=root).code == 2
    assert efd("sql", "DROP VIEW x", EFD_ARCHIVE=root).code == 2
    assert efd("sql", ASKED, "--format", "parquet", EFD_ARCHIVE=root).code == 2
    missing = tmp_path / "none" / "out.csv"
    assert efd("sql", ASKED, "--format", "csv", "--out", str(missing), EFD_ARCHIVE=root).code == 2


def test_statements_are_read_from_a_file_and_the_process_ends_well(root: str) -> None:
    call = [sys.executable, "-m", "efd_pipelines.cli", "sql"]
    statements = "SELECT count(*) AS n FROM ESS.temperature;\nFROM datasets;\n"
    done = subprocess.run(
        call, input=statements, env={"EFD_ARCHIVE": root, "HOME": root}, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "ESS.temperature" in done.stdout
