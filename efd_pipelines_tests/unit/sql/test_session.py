"""Questions in SQL: the same rows as the archive gives, from only the files that they need, and nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.errors import UnknownDataset, UsageError
from efd_pipelines.exposures.consdb import write_exposures
from efd_pipelines.sql import SqlSession
from efd_pipelines.sql.names import AmbiguousName, Names
from efd_pipelines.sql.statements import NotAQuestion
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.exports.builders import (
    ESS,
    FORCES,
    PRIVATE,
    START_US,
    TEMPERATURE,
    ArchiveBuilder,
    column,
    messages,
    seconds,
)

HOUR = 3600
M1M3 = [*PRIVATE, column("xForce", pa.float32()), column("state", pa.int32())]


@pytest.fixture
def builder(tmp_path: Path) -> ArchiveBuilder:
    """Three days of ESS, ten seconds of 50 Hz, rows outside the weeks, and one late column."""
    builder = ArchiveBuilder(str(tmp_path / "archive"))
    for day in range(3):
        builder.add(TEMPERATURE, messages(seconds(day * 24 * HOUR, day * 24 * HOUR + 600), first_seq=day * 600))
    late = [*ESS, column("added", pa.float64())]
    builder.add(TEMPERATURE, messages(seconds(3 * 24 * HOUR, 3 * 24 * HOUR + 100), columns=late, first_seq=5000))
    builder.add(TEMPERATURE, messages(seconds(0, 5), first_seq=9000), place=QUARANTINE)
    builder.add(TEMPERATURE, messages(seconds(0, 7), first_seq=9100), place=DEAD)
    builder.add(FORCES, messages(seconds(0, 10, 0.02), columns=M1M3))
    return builder


@pytest.fixture
def session(builder: ArchiveBuilder) -> Any:
    with SqlSession(builder.archive) as session:
        yield session


def rows_of(session: SqlSession, statement: str) -> list[tuple[Any, ...]]:
    table = session.ask(statement).table()
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def test_a_view_has_the_rows_that_the_archive_gives(builder: ArchiveBuilder, session: SqlSession) -> None:
    ours = builder.archive.read(Dataset(TEMPERATURE))
    seen = session.ask('SELECT * FROM ESS."temperature" ORDER BY private_seqNum').table()
    ours = ours.sort_by("private_seqNum")
    assert set(seen.column_names) == set(ours.column_names)
    for name in seen.column_names:
        assert seen[name].cast(ours[name].type).to_pylist() == ours[name].to_pylist(), name
    assert rows_of(session, f'SELECT count(*) FROM "{TEMPERATURE}"') == [(1900,)]
    assert rows_of(session, "SELECT count(*), count(added) FROM raw.ess.Temperature") == [(1900, 100)]


def test_only_files_of_the_time_asked_for_are_opened(builder: ArchiveBuilder, session: SqlSession) -> None:
    archive, dataset = builder.archive, Dataset(TEMPERATURE)
    first = archive.snapshot(dataset).files(None, None, START_US + 1)[0]
    Path(first.uri.removeprefix("file://")).unlink()
    asked = "SELECT count(*) FROM ESS.temperature WHERE time >= '2026-11-17' AND time < '2026-11-17 00:00:10'"
    assert rows_of(session, asked) == [(10,)]


def test_numbers_compare_as_duckdb_says_nan_too(builder: ArchiveBuilder) -> None:
    rows = messages(seconds(0, 100), columns=[*PRIVATE, column("x", pa.float32())])
    values = np.where(np.arange(100) % 10 == 0, np.nan, np.arange(100)).astype(np.float32)
    builder.add("lsst.sal.MTM2.x", rows.set_column(rows.column_names.index("x"), column("x", pa.float32()), [values]))
    with SqlSession(builder.archive) as session, duckdb.connect() as plain:
        there = pa.table({"x": values})
        for condition in ("x > 5", "x < 5", "x <> 5", "isnan(x)", "x = 'nan'::FLOAT"):
            expected = plain.execute(f"SELECT count(*) FROM there WHERE {condition}").fetchall()
            assert rows_of(session, f"SELECT count(*) FROM MTM2.x WHERE {condition}") == expected
        assert there.num_rows == 100


def test_a_tier_is_asked_by_name_and_what_is_not_summarised_passes_unchanged(
    builder: ArchiveBuilder, session: SqlSession
) -> None:
    with pytest.raises(UnknownDataset, match="no 1s tier yet"):
        session.ask("FROM tier_1s.MTM1M3.forceActuatorData")
    build_tier(builder.archive, TIERS["1s"])
    found = rows_of(session, "SELECT count, max_xForce FROM tier_1s.MTM1M3.forceActuatorData ORDER BY time")
    raw = builder.archive.read(Dataset(FORCES)).slice(0, 50)
    assert (len(found), found[0]) == (10, (50, pc.max(raw["xForce"]).as_py()))
    assert rows_of(session, "SELECT count(*) FROM tier_1s.ESS.temperature") == [(1900,)]


def test_what_is_archived_meanwhile_is_in_the_next_answer(builder: ArchiveBuilder, session: SqlSession) -> None:
    count = "SELECT count(*) FROM ESS.temperature"
    assert rows_of(session, count) == [(1900,)]
    builder.add(TEMPERATURE, messages(seconds(4 * 24 * HOUR, 4 * 24 * HOUR + 10), first_seq=7000))
    assert rows_of(session, count) == [(1910,)]


def test_names_that_differ_only_in_case_are_numbered_and_never_mistaken(builder: ArchiveBuilder) -> None:
    builder.add("lsst.sal.MTCamera.logevent_Ready", messages(seconds(0, 3)))
    builder.add("lsst.sal.MTCamera.logevent_ready", messages(seconds(0, 4)))
    with SqlSession(builder.archive) as session:
        assert rows_of(session, "SELECT count(*) FROM MTCamera.logevent_Ready") == [(3,)]
        assert rows_of(session, "SELECT count(*) FROM MTCamera.logevent_ready_2") == [(4,)]
        assert rows_of(session, 'SELECT count(*) FROM "lsst.sal.MTCamera.logevent_ready"') == [(4,)]
        with pytest.raises(AmbiguousName, match="only in case"):
            session.ask("FROM MTCamera.logevent_ready")
        listed = rows_of(session, "SELECT name FROM datasets WHERE component = 'MTCamera' ORDER BY name")
        assert listed == [("MTCamera.logevent_Ready",), ("MTCamera.logevent_ready_2",)]


def test_numbers_avoid_names_that_there_are() -> None:
    texts = ["lsst.sal.A.x", "lsst.sal.A.X", "lsst.sal.A.x_2", "lsst.sal.a.X", "lsst.dm.y"]
    names = Names.of(map(Dataset.parse, texts))
    found = {(one.schema.lower(), one.view.lower()) for one in names.by_text.values()}
    assert len(found) == len(texts)
    assert names.by_text["lsst.sal.A.x_2"].view == "x_2"
    assert names.by_text["lsst.dm.y"].text == '"lsst.dm".y'


def test_consdb_is_joined_to_the_archive(tmp_path: Path, builder: ArchiveBuilder) -> None:
    begin = np.datetime64("2026-11-16T00:00:00", "us").item()
    exposure = {"day_obs": 20261115, "seq_num": 1, "exposure_id": 2026111500001, "exposure_name": "MC_O"}
    url = builder.archive.settings.require_consdb()
    write_exposures(url, "cdb_lsstcam", [{**exposure, "obs_start": begin, "obs_end": begin, "exp_time": 15.0}])
    with SqlSession(builder.archive) as session:
        joined = """
            SELECT e.exposure_id, count(*) FROM consdb.cdb_lsstcam.exposure e
            JOIN ESS.temperature t ON t.time >= e.obs_start AND t.time < e.obs_start + INTERVAL 15 SECOND GROUP BY 1
        """
        assert rows_of(session, joined) == [(2026111500001, 15)]
        assert rows_of(session, "SELECT exp_time FROM cdb_lsstcam.exposure") == [(15.0,)]
        assert ("cdb_lsstcam", "exposure") in rows_of(session, "FROM consdb_tables")
        with pytest.raises(UnknownDataset, match=r"did you mean cdb_lsstcam\.exposure"):
            session.ask("FROM consdb.cdb_lsstcam.exposures")


def test_the_ledger_is_a_table(session: SqlSession) -> None:
    assert rows_of(session, "SELECT sum(rows) FROM ledger WHERE week LIKE '2%' AND component = 'ESS'") == [(1900,)]


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 1) TO 'stolen.csv'",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW raw.ESS.temperature",
        "ATTACH 'other.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "DELETE FROM ledger",
    ],
)
def test_statements_that_change_something_are_refused(session: SqlSession, statement: str) -> None:
    with pytest.raises(NotAQuestion, match="not allowed"):
        session.ask(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "FROM read_csv('/etc/passwd')",
        "FROM '/etc/passwd'",
        "FROM glob('/*')",
        "FROM read_text('/etc/hostname')",
        "FROM session",
    ],
)
def test_nothing_outside_can_be_read(session: SqlSession, statement: str) -> None:
    with pytest.raises(UsageError):
        session.ask(statement).table()


def test_mistakes_are_told_with_the_nearest_name(session: SqlSession) -> None:
    with pytest.raises(UsageError, match=r"did you mean ESS\.temperature"):
        session.ask("FROM ESS.temperatur")
    with pytest.raises(UsageError, match="does not understand"):
        session.ask("SELEC 1")
    with pytest.raises(UsageError, match="2 statements"):
        session.ask("SELECT 1; SELECT 2")
    with pytest.raises(UsageError, match="nothing"):
        session.ask("SELECT nothing FROM ESS.temperature")


@pytest.mark.parametrize(
    ("tables", "count"),
    [
        ("ESS.temperature a JOIN MTM1M3.forceActuatorData b USING (time)", 10),
        ("ESS.temperature ASOF JOIN raw.MTM1M3.forceActuatorData USING (time)", 1900),
        ("ESS.temperature NATURAL JOIN (SELECT time FROM MTM1M3.forceActuatorData)", 10),
        ('(FROM "lsst.sal.ESS.temperature") JOIN (FROM MTM1M3.forceActuatorData) USING (time)', 10),
        ("ESS.temperature WHERE time IN (SELECT time FROM MTM1M3.forceActuatorData SEMI JOIN f USING (time))", 10),
    ],
)
def test_tables_are_found_wherever_a_statement_names_them(session: SqlSession, tables: str, count: int) -> None:
    statement = f"WITH f AS (FROM MTM1M3.forceActuatorData) SELECT count(*) FROM {tables}"
    assert rows_of(session, statement) == [(count,)]
    assert rows_of(session, f"EXPLAIN {statement}")


def test_a_pivot_finds_its_table(session: SqlSession) -> None:
    pivoted = "PIVOT (FROM MTM1M3.forceActuatorData LIMIT 3) ON private_seqNum USING count(*) GROUP BY state"
    assert rows_of(session, pivoted)


@pytest.mark.parametrize(
    "statement", ["DESCRIBE ESS.temperature", "SUMMARIZE ESS.temperature", "EXPLAIN FROM ESS.temperature"]
)
def test_questions_about_a_view_make_it(session: SqlSession, statement: str) -> None:
    assert rows_of(session, statement)
