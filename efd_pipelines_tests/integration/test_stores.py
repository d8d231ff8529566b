"""What real stores tell of themselves, and half a year through Kafka and the archive, against counts of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines.simulator.observatory import Observatory
from efd_pipelines.simulator.pace import Pace
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.storage import storage_report
from efd_pipelines.storage.stores import INFLUXDB_TOPICS, Asked, ask_stores
from efd_pipelines.storage.throughput import measure
from efd_pipelines.storage.weekly import snapshots, weekly_sizes
from efd_pipelines.times import Week, microseconds, this_week, weeks_between
from efd_pipelines_tests.integration.conftest import MakeSettings

SECONDS = 605.0 if os.environ.get("EFD_TEST_SCALE") else 1.0
TOPICS = frozenset({"MTMount.azimuth", "MTM1M3.hardpointActuatorData", "ESS.temperature", "MTM1M3.logevent_heartbeat"})
HALF_YEAR = weeks_between(Week.parse("2026-05-04"), Week.parse("2026-10-26"))


@pytest.mark.timeout(3600 if os.environ.get("EFD_TEST_SCALE") else 600)
def test_half_a_year_is_reported_as_it_was_produced(local_settings: Settings) -> None:
    records: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    observatory = Observatory(3, topics=TOPICS)
    with SalProducer(local_settings) as producer:
        producer.prepare(observatory.topics())
        for week in HALF_YEAR:
            start = week.start + timedelta(hours=40)
            for series in observatory.blocks(start, SECONDS):
                producer.send(series, Pace("max", anchor_us=microseconds(start)))
                for one in series:
                    key = week.key, producer.topic_name(one.topic)
                    records[key] += len(one)
                    sizes[key] += sum(len(frame) for frame in producer.frames(one))
    archive = Archive(local_settings)
    drain(archive, local_settings)
    rows = weekly_sizes(archive, stores=["received"]).to_pylist()
    assert {(row["week"], row["topic"]): row["records"] for row in rows} == records
    assert {(row["week"], row["topic"]): row["bytes"] for row in rows} == sizes
    report = measure(archive, start=HALF_YEAR[0], end=HALF_YEAR[-1].next())
    assert report.total("messages") == report.total("rows") == sum(records.values())
    assert report.total_mb == pytest.approx(sum(sizes.values()) / 1e6)
    kept = storage_report(archive, week=this_week())
    assert kept.missing == ()
    held = {row["topic"]: row["records"] for row in snapshots(archive).to_pylist() if row["store"] == "kafka"}
    assert held == {topic: sum(n for (_, of), n in records.items() if of == topic) for _, topic in records}


def test_influxdb_tells_its_shards_by_week_as_its_own_tool_does(influx: InfluxServer, tmp_path: Path) -> None:
    database = "storage_report"
    httpx.post(f"{influx.url}/query", data={"q": f"CREATE DATABASE {database}"}).raise_for_status()
    weeks = [Week.parse("2025-11-10"), Week.parse("2025-11-17")]
    for count, week in zip((400, 4000), weeks, strict=True):
        begin = week.start_us * 1000
        lines = "\n".join(f"lsst.sal.MTM1M3.made force={n}.5 {begin + n * 10**9}" for n in range(count))
        httpx.post(f"{influx.url}/write", params={"db": database}, content=lines).raise_for_status()
    told = inspected(influx, database)
    archive = Archive(load_settings({"EFD_INFLUX_URL": influx.url}, None, archive=str(tmp_path / "archive")))
    deadline = time.monotonic() + 30
    while (found := of_database(asked := ask_stores(archive, this_week(), {}), database)) != told:
        assert time.monotonic() < deadline, (found, told, asked.missing)
        time.sleep(0.5)
    assert set(found) == {week.key for week in weeks}


def test_what_influx_inspect_wrote_is_imported(influx: InfluxServer, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("reports: {influx_report: disk.json}\n")
    document = {
        "Summary": {"shards": 1, "tsm_files": 1, "total_tsm_size": 70},
        "Shard": [{"db": "efd", "rp": "autogen", "shard": "1", "tsm_files": 1, "size": 70}],
        "Measurement": [{"db": "efd", "rp": "autogen", "measurement": "lsst.sal.MTM1M3.made", "size": 65}],
    }
    (tmp_path / "disk.json").write_text(json.dumps(document))
    settings = load_settings({"EFD_CONFIG": str(tmp_path / "site.yaml")}, None, archive=str(tmp_path / "archive"))
    asked = ask_stores(Archive(settings), this_week(), {})
    (row,) = [row for row in asked.table().to_pylist() if row["store"] == INFLUXDB_TOPICS]
    assert (row["topic"], row["component"], row["bytes"], asked.missing) == ("lsst.sal.MTM1M3.made", "MTM1M3", 65, [])
    (tmp_path / "disk.json").write_text('{"Summary": {}}')
    assert "-detailed" in ask_stores(Archive(settings), this_week(), {}).missing[0]


def test_postgresql_tells_its_tables(database_url: str, tmp_path: Path) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE made AS SELECT generate_series(1, 20000) AS n"))
        expected = connection.execute(sa.text("SELECT pg_total_relation_size('made')")).scalar_one()
    engine.dispose()
    settings = load_settings({"EFD_CONSDB_URL": database_url}, None, archive=str(tmp_path / "archive"))
    asked = ask_stores(Archive(settings), this_week(), {})
    assert asked.missing == []
    assert {row["place"]: row["bytes"] for row in asked.rows} == {"public.made": expected}


def test_stores_that_do_not_answer_are_named_and_the_report_is_made(site: MakeSettings) -> None:
    settings = site(influx_url="http://127.0.0.1:1")
    report = storage_report(Archive(settings), week=this_week())
    assert len(report.files) >= 4
    (line,) = report.missing
    assert "InfluxDB at http://127.0.0.1:1 could not be asked" in line


def inspected(influx: InfluxServer, database: str) -> dict[str, int]:
    """Bytes by week as `influx_inspect report-disk` counts them, once its write-ahead log is empty."""
    answer = httpx.post(f"{influx.url}/query", data={"q": "SHOW SHARDS"}).json()
    (shards,) = [one for one in answer["results"][0]["series"] if one["name"] == database]
    weeks = {str(row[0]): row[4][:10] for row in shards["values"]}
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done = subprocess.run([str(influx.inspect), "report-disk", str(influx.data)], capture_output=True, check=True)
        of = {row["shard"]: row["size"] for row in json.loads(done.stdout)["Shard"] if row["db"] == database}
        if len(of) == len(weeks):
            return {weeks[number]: size for number, size in of.items()}
        time.sleep(0.5)
    raise AssertionError("InfluxDB wrote no files")


def of_database(asked: Asked, database: str) -> dict[str, int]:
    return {row["week"]: row["bytes"] for row in asked.rows if row["place"] == database}
