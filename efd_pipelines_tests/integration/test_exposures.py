"""Exposure joins into a real ConsDB: PostgreSQL and SQLite pass the same tests.

ConsDB itself: `test_consdb.py`. A whole simulated night: `test_exposures_simulated.py`, `test_exposures_night.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from efd_pipelines.errors import DatabaseUnavailable, DataError
from efd_pipelines.exposures import results as result_tables
from efd_pipelines.exposures.configuration import load_transformation
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    NIGHT,
    Observatory,
    a_column,
    a_configuration,
    an_exposure,
    azimuth,
)


@pytest.fixture
def observatory(consdb_url: str, tmp_path: Path) -> Observatory:
    """Ten minutes of azimuth, three exposures, a mean and a spread."""
    built = Observatory.at(
        tmp_path, consdb_url, config=a_configuration(tmp_path, [a_column(), a_column("spread", "stddev")])
    )
    built.archives(AZIMUTH, azimuth(600))
    built.exposes(*(an_exposure(NIGHT + timedelta(seconds=60 * n), seq_num=n + 1) for n in range(3)))
    return built


def is_sqlite(observatory: Observatory) -> bool:
    return observatory.consdb_url.startswith("sqlite")


def table_name(observatory: Observatory, table: str = "exposure_efd") -> str:
    return f"efd_lsstcam_{table}" if is_sqlite(observatory) else f"efd_lsstcam.{table}"


@pytest.fixture
def engine(observatory: Observatory) -> Iterator[sa.Engine]:
    """The database by a way that is not ours."""
    made = sa.create_engine(observatory.consdb_url)
    yield made
    made.dispose()


def execute(engine: sa.Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(statement))


def test_values_agree_with_duckdb_over_the_files_of_the_archive(observatory: Observatory) -> None:
    result = observatory.joins()
    files = [file.uri for file in observatory.archive.files(Dataset.parse(AZIMUTH))]
    for n, row in enumerate(observatory.rows()):
        begin = NIGHT + timedelta(seconds=60 * n)
        with duckdb.connect() as connection:
            (expected,) = connection.execute(
                "SELECT avg(actualPosition), stddev_samp(actualPosition), count(*) FROM read_parquet(?) "
                "WHERE time BETWEEN ?::TIMESTAMPTZ AND ?::TIMESTAMPTZ",
                [files, begin, begin + timedelta(seconds=30)],
            ).fetchall()
        assert expected[2] == 31
        assert row["value"] == pytest.approx(expected[0], rel=1e-14)
        assert row["spread"] == pytest.approx(expected[1], rel=1e-13)
    assert (result.exposures, result.values, result.nulls) == (3, 6, 0)


def test_keys_and_creation_are_those_of_the_observatory(observatory: Observatory, engine: sa.Engine) -> None:
    observatory.joins()
    inspector = sa.inspect(engine)
    where: dict[str, Any] = {} if is_sqlite(observatory) else {"schema": "efd_lsstcam"}
    name = "efd_lsstcam_exposure_efd" if is_sqlite(observatory) else "exposure_efd"
    assert inspector.get_pk_constraint(name, **where)["constrained_columns"] == ["day_obs", "seq_num"]
    assert [c["column_names"] for c in inspector.get_unique_constraints(name, **where)] == [["exposure_id"]]
    columns = {column["name"]: column for column in inspector.get_columns(name, **where)}
    assert list(columns) == ["day_obs", "seq_num", "exposure_id", "created_at", "value", "spread"]
    assert isinstance(columns["value"]["type"], sa.Double)
    if not is_sqlite(observatory):
        assert columns["value"]["comment"] == "A column of a test. [deg]"


def test_a_second_run_computes_nothing_and_keeps_when_a_row_was_made(observatory: Observatory) -> None:
    observatory.joins()
    before = observatory.rows()
    assert observatory.joins().exposures == 0
    assert observatory.joins(recompute=True).exposures == 3
    assert observatory.rows() == before


def test_a_column_that_is_new_is_added_and_filled_and_one_that_left_keeps_its_values(observatory: Observatory) -> None:
    observatory.joins()
    values = [row["value"] for row in observatory.rows()]
    observatory.configures(a_column("highest", "max"))
    assert observatory.joins().exposures == 3
    rows = observatory.rows()
    assert [row["value"] for row in rows] == values
    assert [row["highest"] for row in rows] == [30.0, 90.0, 150.0]


def test_null_never_replaces_a_value(observatory: Observatory) -> None:
    observatory.joins()
    before = observatory.rows()
    observatory.configures(a_column(subset_field="private_origin", subset_value=8), a_column("spread", "stddev"))
    assert observatory.joins().nulls == 3
    assert observatory.rows() == before
    assert [row["value"] for row in observatory.rows("exposure_efd_provenance")] == [31, 31, 31]


def test_comments_follow_the_configuration(observatory: Observatory, engine: sa.Engine) -> None:
    observatory.joins()
    observatory.configures(a_column().replace("A column of a test.", 'It\'s "new"; 100 %'))
    observatory.joins()
    name = (
        {"table_name": "efd_lsstcam_exposure_efd"}
        if is_sqlite(observatory)
        else {"table_name": "exposure_efd", "schema": "efd_lsstcam"}
    )
    comments = {column["name"]: column.get("comment") for column in sa.inspect(engine).get_columns(**name)}
    # SQLite has none; the configuration must be taken there all the same.
    assert comments["value"] == (None if is_sqlite(observatory) else 'It\'s "new"; 100 % [deg]')


def test_a_column_of_another_type_is_refused_before_anything_is_written(
    observatory: Observatory, engine: sa.Engine
) -> None:
    observatory.joins()
    execute(engine, f"ALTER TABLE {table_name(observatory)} ADD COLUMN label VARCHAR(8)")
    observatory.configures(a_column("label"), a_column("highest", "max"))
    with pytest.raises(DataError, match=r"label is VARCHAR.*Rename the column"):
        observatory.joins()
    assert "highest" not in observatory.rows()[0]


def test_the_tables_of_the_observatory_are_taken_as_they_are(observatory: Observatory, engine: sa.Engine) -> None:
    if not is_sqlite(observatory):
        execute(engine, "CREATE SCHEMA efd_lsstcam")
    execute(
        engine,
        f"CREATE TABLE {table_name(observatory)} (day_obs INTEGER NOT NULL, seq_num INTEGER NOT NULL, "
        "exposure_id BIGINT NOT NULL UNIQUE, created_at TIMESTAMP, value FLOAT, other FLOAT, "
        "PRIMARY KEY (day_obs, seq_num))",
    )
    execute(
        engine,
        f"INSERT INTO {table_name(observatory)} (day_obs, seq_num, exposure_id, value, other) "
        "VALUES (20261115, 1, 2026111500001, -1.0, 7.0)",
    )
    observatory.joins()
    first = observatory.rows()[0]
    assert (first["value"], first["other"]) == (15.0, 7.0)
    assert first["spread"] is not None


def test_an_exposure_id_that_another_row_has_is_refused_whole(observatory: Observatory, engine: sa.Engine) -> None:
    observatory.joins()
    execute(engine, f"DELETE FROM {table_name(observatory)}")
    execute(
        engine,
        f"INSERT INTO {table_name(observatory)} (day_obs, seq_num, exposure_id, created_at) "
        "VALUES (20200101, 9, 2026111500003, '2026-11-17 00:00:00')",
    )
    with pytest.raises(DataError, match="nothing was written"):
        observatory.joins(recompute=True)
    assert len(observatory.rows()) == 1


def test_a_batch_is_written_whole_or_not_at_all(observatory: Observatory, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> Iterator[dict[str, Any]]:
        raise KeyboardInterrupt

    observatory.joins(end=NIGHT)
    monkeypatch.setattr(result_tables, "_provenance", dies)
    with pytest.raises(KeyboardInterrupt):
        observatory.joins()
    assert observatory.rows() == []
    monkeypatch.undo()
    assert observatory.joins().exposures == 3


def test_a_locked_table_is_said_to_be_locked(
    observatory: Observatory, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    observatory.joins()
    monkeypatch.setattr("efd_pipelines.exposures.consdb.LOCK_TIMEOUT_S", 1)
    with engine.connect() as other:
        if is_sqlite(observatory):
            other.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            other.exec_driver_sql("LOCK TABLE efd_lsstcam.exposure_efd IN EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable, match=r"keeps it locked"):
            observatory.joins(recompute=True)
        other.rollback()
    assert observatory.joins(recompute=True).exposures == 3


def test_the_demonstration_makes_all_its_columns(consdb_url: str, tmp_path: Path) -> None:
    observatory = Observatory.at(tmp_path, consdb_url, config="builtin:demo")
    observatory.archives(AZIMUTH, azimuth(60))
    observatory.exposes(an_exposure(NIGHT))
    result = observatory.joins()
    (row,) = observatory.rows()
    names = {column.name for column in load_transformation("builtin:demo").columns}
    assert names < set(row)
    assert row["mt_mount_azimuth_position_mean"] == 15.0
    assert result.columns + len(result.skipped) == len(names)


def test_two_joins_at_once_write_the_same(observatory: Observatory, tmp_path: Path) -> None:
    program = tmp_path / "join.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from efd_pipelines_tests.unit.exposures.builders import Observatory\n"
        f"o = Observatory.at(Path({str(tmp_path)!r}), {observatory.consdb_url!r}, config={observatory.join.config!r})\n"
        "print(o.joins(recompute=True).exposures)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    runs = [
        subprocess.Popen([sys.executable, str(program)], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [run.communicate(timeout=300)[0].strip() for run in runs] == ["3", "3", "3"]
    assert [row["value"] for row in observatory.rows()] == [15.0, 75.0, 135.0]
