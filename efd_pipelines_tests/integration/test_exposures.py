"""Exposure joins into a real ConsDB: PostgreSQL and SQLite pass the same tests."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
import yaml
from pydantic import SecretStr

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.errors import DatabaseUnavailable, DataError, SettingsError
from efd_pipelines.exposures import results as result_tables
from efd_pipelines.exposures.configuration import load_transformation
from efd_pipelines.exposures.consdb import ConsDB, naive_tai, read_exposures, write_exposures
from efd_pipelines.exposures.joins import join_exposures
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.observatory import Observatory as Observed
from efd_pipelines.simulator.observatory import run_observatory
from efd_pipelines.times import this_week
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    Observatory,
    a_column,
    a_configuration,
    an_exposure,
    table_of,
    times,
    utc,
)

NIGHT = utc("2026-11-17T02:00:00")
DEMO = "configurations/demo_lsstcam.yaml"


@pytest.fixture(params=["sqlite", "postgres"])
def consdb_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'somewhere' / 'consdb.sqlite'}"
    return str(request.getfixturevalue("database_url"))


@pytest.fixture
def observatory(consdb_url: str, tmp_path: Path) -> Observatory:
    """Ten minutes of azimuth, three exposures, a mean and a spread."""
    built = Observatory.at(
        tmp_path, consdb_url, config=a_configuration(tmp_path, [a_column(), a_column("spread", "stddev")])
    )
    built.archives(AZIMUTH, azimuth(NIGHT, 600))
    built.exposes(*(an_exposure(NIGHT + timedelta(seconds=60 * n), seq_num=n + 1) for n in range(3)))
    return built


def azimuth(start: datetime, count: int) -> Any:
    return table_of(times(start, count, 1.0), {"actualPosition": np.arange(count, dtype=np.float64)})


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


def test_the_demonstration_makes_all_its_columns(consdb_url: str, tmp_path: Path) -> None:
    observatory = Observatory.at(tmp_path, consdb_url, config="builtin:demo")
    observatory.archives(AZIMUTH, azimuth(NIGHT, 60))
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


def test_postgresql_that_stops_and_comes_back(tmp_path: Path) -> None:
    from efd_pipelines.servers.postgresql import PostgresServer
    from efd_pipelines_tests.conftest import start

    server = PostgresServer(tmp_path / "postgres", die_with_parent=True)
    start(server)
    try:
        observatory = Observatory.at(
            tmp_path, server.make_database("consdb"), config=a_configuration(tmp_path, a_column())
        )
        observatory.archives(AZIMUTH, azimuth(NIGHT, 60))
        observatory.exposes(an_exposure(NIGHT))
        server.stop()
        with pytest.raises(DatabaseUnavailable, match="nothing was written"):
            observatory.joins()
        server.start()
        assert observatory.joins().exposures == 1
    finally:
        server.erase()


def test_readers_of_sqlite_are_not_kept_out_by_a_writer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'consdb.sqlite'}"
    write_exposures(url, "cdb_lsstcam", [an_exposure(NIGHT)])
    with ConsDB(url) as consdb, consdb.writing("A test") as connection:
        connection.exec_driver_sql("UPDATE cdb_lsstcam_exposure SET band = 'i'")
        with sqlite3.connect(tmp_path / "consdb.sqlite", timeout=1) as reader:
            assert reader.execute("SELECT count(*) FROM cdb_lsstcam_exposure").fetchone() == (1,)


@pytest.mark.timeout(600)
def test_a_simulated_night_agrees_with_the_messages_themselves(local_settings: Settings, database_url: str) -> None:
    """From producers through Kafka and the archive into PostgreSQL, across a Monday, each column of the demo."""
    settings = local_settings.model_copy(update={"consdb_url": SecretStr(database_url)})
    columns = yaml.safe_load(resources.files("efd_pipelines.exposures").joinpath(DEMO).read_text())["columns"]
    topics = {column["topics"][0]["name"] for column in columns} | {"lsst.sal.MTCamera.logevent_endReadout"}
    wanted = frozenset(topic.removeprefix("lsst.sal.") for topic in topics)
    start = this_week().start - timedelta(seconds=120)
    produced = run_observatory(settings, 4, 300, start=start, exposures=True, rate=0.1, topics=wanted)
    assert drain(Archive(settings), settings).rows == produced.records
    join = settings.configuration.exposures[0]
    result = join_exposures(Archive(settings), settings, join, now=this_week().start + timedelta(hours=1))
    assert (result.exposures, result.columns, result.skipped) == (produced.exposures, len(columns), {})
    assert result.exposures >= 5
    messages = _messages(Observed(4, 0.1, wanted), start, 300)
    engine = sa.create_engine(database_url)
    frame = pd.read_sql("SELECT * FROM cdb_lsstcam.exposure JOIN efd_lsstcam.exposure_efd USING (exposure_id)", engine)
    engine.dispose()
    assert (frame["obs_start"] < naive_tai(this_week().start)).any()
    assert (frame["obs_end"] > naive_tai(this_week().start)).any()
    for _, row in frame.iterrows():
        for column in columns:
            expected = _by_brute_force(column, messages, row["obs_start"], row["obs_end"])
            assert row[column["name"]] == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True), column["name"]
    assert frame[[column["name"] for column in columns]].notna().mean().min() > 0.5


def _messages(observed: Observed, start: datetime, seconds: float) -> dict[str, pd.DataFrame]:
    """Every value that the simulated observatory sent, by topic: one row a record, its event time as index."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for block in observed.blocks(start, seconds):
        for series in block:
            narrow = {field.name for field in series.topic.fields if field.sal_type == "float"}
            flat: dict[str, Any] = {}
            for name, values in series.columns.items():
                sent = np.asarray(values, dtype=np.float32) if name in narrow else values
                many = np.ndim(sent) == 2
                flat |= {f"{name}{n}": part for n, part in enumerate(np.asarray(sent).T)} if many else {name: sent}
            frame = pd.DataFrame(flat, index=pd.to_datetime(series.times_us, unit="us"))
            parts.setdefault(series.topic.name, []).append(frame)
    return {topic: pd.concat(frames).sort_index(kind="stable") for topic, frames in parts.items()}


def _by_brute_force(column: dict[str, Any], messages: dict[str, pd.DataFrame], start: datetime, end: datetime) -> float:
    leap = pd.Timedelta(seconds=37)
    begin = pd.Timestamp(start) - leap + pd.Timedelta(hours=column.get("start_offset", 0))
    (topic,) = column["topics"]
    if topic["name"] not in messages:
        return float("nan")
    inside = messages[topic["name"]].loc[begin : pd.Timestamp(end) - leap]
    if "subset_field" in column:
        wanted = column["subset_value"] if isinstance(column["subset_value"], list) else [column["subset_value"]]
        inside = inside[inside[column["subset_field"]].isin(wanted)]
    names = [field["name"] for field in topic["fields"] if field["name"] != column.get("subset_field")]
    if names[0] not in inside:
        names = [name for name in inside if str(name).rstrip("0123456789") == names[0]]
    chosen = inside[names].astype(np.float64)
    if "pre_aggregate_interval" in column:
        chosen = getattr(chosen.resample(column["pre_aggregate_interval"]), _reduced_by(column["function"]))().dropna()
    return _reduce(column["function"], chosen, column.get("function_args", {}))


def _reduced_by(function: str) -> str:
    return function if function in ("min", "max") else "mean"


def _reduce(function: str, chosen: pd.DataFrame, arguments: dict[str, Any]) -> float:
    values = pd.Series(chosen.to_numpy().ravel()).dropna()
    if values.empty:
        return float("nan")
    if function == "most_recent_value":
        return float(values.to_list()[-1])
    if function == "rms_from_polynomial_fit":
        seconds = (chosen.index - chosen.index[0]).total_seconds().to_numpy()
        fit = np.polynomial.Chebyshev.fit(seconds, chosen.iloc[:, 0].to_numpy(), arguments["degree"])
        return float(np.sqrt(np.mean((chosen.iloc[:, 0].to_numpy() - fit(seconds)) ** 2)))
    return float(values.std(ddof=1) if function == "stddev" else getattr(values, function)())
