"""ConsDB itself, on PostgreSQL and SQLite: its exposures, and what is said where it is none, or cannot be reached.

Joins into it: `test_exposures.py`. When it fails half-way: `test_exposures_faults.py`.
"""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from efd_pipelines.errors import DatabaseUnavailable, DataError, SettingsError
from efd_pipelines.exposures.consdb import ConsDB, read_exposures, write_exposures
from efd_pipelines_tests.unit.exposures.builders import (
    NIGHT,
    Observatory,
    a_column,
    a_configuration,
    an_exposure,
)


def test_no_exposure_table_says_what_to_check(consdb_url: str) -> None:
    with ConsDB(consdb_url) as consdb, pytest.raises(DataError, match=r"no table.*exposure.*EFD_CONSDB_URL"):
        read_exposures(consdb, "cdb_lsstcam")


def test_exposures_come_back_as_they_were_written(consdb_url: str) -> None:
    rows = [
        an_exposure(NIGHT, 30.0, seq_num=2, band="r", airmass=1.25, img_type="science"),
        an_exposure(NIGHT - timedelta(seconds=60), None, seq_num=1),
    ]
    assert write_exposures(consdb_url, "cdb_lsstcam", rows) == 2
    assert write_exposures(consdb_url, "cdb_lsstcam", [rows[0] | {"airmass": 1.5}]) == 1
    with ConsDB(consdb_url) as consdb:
        found = read_exposures(consdb, "cdb_lsstcam")
    assert found.seq_num.tolist() == [1, 2]
    begin_us = int(NIGHT.timestamp() * 1_000_000)
    assert found.begin_us.tolist() == [begin_us - 60_000_000, begin_us]
    assert int(found.end_us[1]) == begin_us + 30_000_000


@pytest.mark.parametrize(
    ("change", "said"),
    [({"colour": "red"}, "no column colour"), ({"obs_start": NIGHT}, "obs_start of an exposure has a time zone")],
)
def test_an_exposure_that_cannot_be_is_refused(consdb_url: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        write_exposures(consdb_url, "cdb_lsstcam", [an_exposure(NIGHT) | change])


@pytest.mark.parametrize("url", ["postgresql://efd:s3cret@127.0.0.1:1/consdb", "sqlite:////proc/none/consdb.sqlite"])
def test_an_unreachable_database_is_said_to_be_and_keeps_its_password(tmp_path: Path, url: str) -> None:
    observatory = Observatory.at(tmp_path, url, config=a_configuration(tmp_path, a_column()))
    with pytest.raises(DatabaseUnavailable) as caught:
        observatory.joins()
    said = str(caught.value)
    assert "s3cret" not in said
    assert "EFD_CONSDB_URL" in said or "/proc/none" in said


@pytest.mark.parametrize("url", ["consdb", "mysql://efd:s3cret@host/consdb", "postgresql://efd:s3cret@host:port/x"])
def test_a_url_that_is_none_is_a_setting_to_mend(url: str) -> None:
    with pytest.raises(SettingsError, match="EFD_CONSDB_URL") as caught:
        ConsDB(url)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "consdb.sqlite").write_bytes(b"not a database at all, but long enough to look at" * 40)
    with ConsDB(f"sqlite:///{tmp_path / 'consdb.sqlite'}") as consdb, pytest.raises(DataError, match="not a database"):
        read_exposures(consdb, "cdb_lsstcam")


def test_readers_of_sqlite_are_not_kept_out_by_a_writer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'consdb.sqlite'}"
    write_exposures(url, "cdb_lsstcam", [an_exposure(NIGHT)])
    with ConsDB(url) as consdb, consdb.writing("A test") as connection:
        connection.exec_driver_sql("UPDATE cdb_lsstcam_exposure SET band = 'i'")
        with sqlite3.connect(tmp_path / "consdb.sqlite", timeout=1) as reader:
            assert reader.execute("SELECT count(*) FROM cdb_lsstcam_exposure").fetchone() == (1,)
