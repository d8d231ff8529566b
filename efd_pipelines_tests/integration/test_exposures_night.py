"""A night of both cameras: from producers through Kafka and the archive to PostgreSQL, against the messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
import yaml
from pydantic import SecretStr

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.exposures.consdb import write_exposures
from efd_pipelines.exposures.joins import join_exposures
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import load_topics
from efd_pipelines.times import this_week
from efd_pipelines_tests.night import BruteForce, Messages, messages, used_fields
from efd_pipelines_tests.unit.exposures.builders import an_exposure

GONE = {"mt_logevent_annular_zernike_coeff", "mt_logevent_visit_dof"}
"""Columns whose fields today's SAL has no more."""


@pytest.mark.timeout(600)
def test_a_night_of_both_cameras_equals_what_the_messages_say(
    local_settings: Settings, database_url: str, shared: Path
) -> None:
    settings = local_settings.model_copy(update={"consdb_url": SecretStr(database_url)})
    configured = {name: shared / "consdb" / f"config_{name}.yaml" for name in ("lsstcam", "latiss")}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    columns = {name: yaml.load(file.read_text(), loader)["columns"] for name, file in configured.items()}
    monday = this_week().start
    night = _send(settings, shared, [one for some in columns.values() for one in some], monday)
    exposures = _expose(database_url, monday)
    compared = 0
    for instrument, file in configured.items():
        join = ExposureJoin(instrument=instrument, config=str(file))
        result = join_exposures(Archive(settings), settings, join, now=monday + timedelta(hours=2))
        assert (result.exposures, result.visits) == (len(exposures[instrument]),) * 2
        assert set(result.skipped) == (GONE if instrument == "lsstcam" else set())
        compared += _compare(database_url, instrument, columns[instrument], night, exposures[instrument])
    assert compared == 756


def _send(settings: Settings, shared: Path, columns: list[dict[str, Any]], monday: datetime) -> dict[str, Messages]:
    topics = load_topics(shared / "sal" / "topics.json.gz")
    night = messages(topics, used_fields(columns), monday - timedelta(seconds=150), 300, before=3600)
    with SalProducer(settings) as producer:
        producer.prepare([topics[name] for name in night])
        producer.send([one for sent in night.values() for one in sent.series], None, None, 0)
        records = producer.records
    assert drain(Archive(settings), settings).rows == records == sum(len(o) for m in night.values() for o in m.series)
    return night


def _expose(url: str, monday: datetime) -> dict[str, list[dict[str, Any]]]:
    """Both cameras at once, across the week's boundary, one of no length, one in which there is nothing yet."""
    offsets: dict[str, list[tuple[float, float]]] = {
        "lsstcam": [(-110, 30), (-70.3, 15), (-12.5, 30), (40, 30), (75, 0)],
        "latiss": [(-100, 45), (-40, 60)],
    }
    made = {}
    for instrument, windows in offsets.items():
        rows = [an_exposure(monday + timedelta(seconds=at), s, seq_num=n + 1) for n, (at, s) in enumerate(windows)]
        rows.append(an_exposure(monday + timedelta(hours=-30), 10.0, day_obs=20200101, seq_num=99))
        write_exposures(url, f"cdb_{instrument}", rows)
        made[instrument] = rows
    return made


def _compare(
    url: str,
    instrument: str,
    columns: list[dict[str, Any]],
    night: Mapping[str, Messages],
    exposures: list[dict[str, Any]],
) -> int:
    """Every value of every table; the number of columns that have one."""
    tables = _tables(url, instrument, {table for column in columns for table in column["tables"]})
    brute_force = BruteForce(night)
    filled = set()
    for exposure in exposures:
        for column in columns:
            value = brute_force.value(column, exposure["obs_start"], exposure["obs_end"])
            for table in column["tables"]:
                found = _found(tables[table], column, exposure["exposure_id"])
                close = 1e-6 if column["function"].startswith("rms") else 1e-9
                assert found == pytest.approx(value, rel=close, abs=1e-12, nan_ok=True), (table, column["name"])
            if value not in ({}, None) and value == value:
                filled.add(column["name"])
    return len(filled)


def _tables(url: str, instrument: str, names: set[str]) -> dict[str, dict[Any, Any]]:
    """Of each table, the rows of each exposure or visit: one, or an unpivoted one's many by their property."""
    engine = sa.create_engine(url)
    found: dict[str, dict[Any, Any]] = {}
    for name in names:
        key = "visit_id" if name.startswith("visit") else "exposure_id"
        frame = pd.read_sql(f"SELECT * FROM efd_{instrument}.{name}", engine)
        if name.endswith("_unpivoted"):
            found[name] = {
                number: {
                    of: dict(zip(some["field"], some["value"], strict=True)) for of, some in part.groupby("property")
                }
                for number, part in frame.groupby(key)
            }
        else:
            found[name] = {row[key]: row for row in frame.to_dict("records")}
            assert len(found[name]) == len(frame)
    engine.dispose()
    return found


def _found(rows: Mapping[int, Any], column: Mapping[str, Any], number: int) -> Any:
    if column.get("store_unpivoted"):
        return rows.get(number, {}).get(column["name"], {})
    value = rows[number][column["name"]]
    return float("nan") if value is None else value
