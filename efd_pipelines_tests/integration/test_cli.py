"""The command line on real servers, as a user calls it: from records on Kafka to a dataset in Dask."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from efd_pipelines.cli import main
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.ports import free_port
from efd_pipelines.servers.registry import RegistryServer

AZIMUTH = "lsst.sal.MTMount.azimuth"
NIGHT = ("--from", "2026-11-15T23:59", "--to", "2026-11-16T00:01:30")


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, on the file descriptors themselves: libraries written in C are heard too."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Shell:
    """`efd` in a directory and with settings of its own; called in this process, which spares each call's imports."""

    directory: Path
    capture: pytest.CaptureFixture[str]

    def run(self, *arguments: str, **settings: str) -> Said:
        self.capture.readouterr()
        with pytest.MonkeyPatch.context() as environment:
            for name, value in settings.items():
                environment.setenv(name, value)
            code = main(arguments)
        return Said(code, *self.capture.readouterr())

    def json(self, *arguments: str, code: int = 0) -> Any:
        """The one document that a command prints."""
        said = self.run(*arguments, "--json")
        assert said.code == code, said.err
        assert "Traceback" not in said.err
        return json.loads(said.out)


@pytest.fixture
def shell(
    empty_kafka: KafkaServer,
    registry: RegistryServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Shell:
    for name in [name for name in os.environ if name.startswith("EFD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EFD_KAFKA_BOOTSTRAP", empty_kafka.bootstrap)
    monkeypatch.setenv("EFD_REGISTRY_URL", registry.url)
    monkeypatch.setenv("EFD_ARCHIVE", str(tmp_path / "archive"))
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, capfd)


def test_from_the_observatory_to_dask_by_command_line(shell: Shell) -> None:
    start = ("--start", "2026-11-15T23:59:00")
    produced = shell.json(
        "simulate", "observatory", "--seed", "4", "--seconds", "90", *start, "--exposures", "--rate", "0.1"
    )
    listed = shell.json("topics")
    archived = shell.json("archive", "run")
    again = shell.json("archive", "run", "--until-caught-up")
    weeks = shell.json("archive", "status")
    audit = shell.json("archive", "verify", "--deep")
    tier = shell.json("tiers", "run")
    joined = shell.json("exposures", "run", "lsstcam")
    report = shell.json("report", "storage", "--from", "2026-11-09", "--to", "2026-11-23")
    growth = shell.json("report", "growth")
    odd = shell.json("report", "anomalies")
    export = shell.json("export", AZIMUTH, *NIGHT, "--fields", "actualPosition,timestamp", "--out", "azimuth")

    assert produced["exposures"] > 0
    assert {topic["topic"] for topic in listed} == {week["topic"] for week in weeks} | without_records(listed)
    assert sum(topic["records"] for topic in listed) == produced["records"]
    assert all(topic["covered"] and topic["schema_ids"] and topic["columns"] for topic in listed)
    assert archived["records"] == archived["rows"] == produced["records"]
    assert again["records"] == 0
    assert sum(week["rows"] for week in weeks) == produced["records"]
    assert {week["week"] for week in weeks} == {"2026-11-09", "2026-11-16"}
    assert {week["lag"] for week in weeks} == {0}
    assert audit["ok"]
    assert audit["rows"] == audit["records"] == produced["records"]
    assert tier["windows"] > 0
    assert joined["exposures"] == produced["exposures"]
    assert joined["values"] > 0
    assert {row["csc"] for row in report["telemetry"]} >= {"MTM1M3", "MTMount", "ESS"}
    assert all(Path(file).is_file() for file in report["files"])
    assert growth["rows"][0]["year"] == 2023
    assert growth["live"]["rows"]
    assert all(Path(file).is_file() for file in growth["files"])
    assert odd["anomalies"] == []
    rows_of_azimuth = sum(week["rows"] for week in weeks if week["topic"] == AZIMUTH)
    assert export["rows"] == rows_of_azimuth
    frame = dd.read_parquet(shell.directory / "azimuth" / AZIMUTH, index="time", calculate_divisions=True)
    assert len(frame) == rows_of_azimuth
    assert frame.known_divisions
    assert list(frame.columns) == ["actualPosition", "timestamp"]
    assert joined_rows(shell.directory / "consdb.sqlite") == produced["exposures"]


def without_records(topics: list[dict[str, Any]]) -> set[str]:
    return {topic["topic"] for topic in topics if not topic["records"]}


def joined_rows(database: Path) -> int:
    with sqlite3.connect(database) as connection:
        (table,) = connection.execute(
            "SELECT name FROM sqlite_master WHERE name = 'efd_lsstcam_exposure_efd'"
        ).fetchone()
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)


def test_the_files_that_count_are_what_any_parquet_reader_needs(shell: Shell, shared: Path) -> None:
    produced = shell.json("simulate", "replay", str(shared / "recorded"))
    shell.json("archive", "run", "MTMount")
    files = shell.json("archive", "files", AZIMUTH)
    later = shell.json("archive", "files", AZIMUTH, "--from", "2023-07-29")
    misspelt = shell.run("archive", "run", "MTMuont")

    assert produced["topics"] == 12
    assert sum(pq.read_metadata(file["path"]).num_rows for file in files) == sum(file["rows"] for file in files) == 589
    assert {file["week"] for file in files} == {"2023-07-24"}
    assert all(Path(file["path"]).stat().st_size == file["bytes"] for file in files)
    assert all(datetime.fromisoformat(file["from"]) <= datetime.fromisoformat(file["to"]) for file in files)
    assert later == []
    assert misspelt.code == 2
    assert "MTMount" in misspelt.err
    assert {week["topic"].split(".")[2] for week in shell.json("archive", "status")} == {"MTMount"}


def test_what_cannot_be_decoded_leaves_0_unless_strict(shell: Shell, empty_kafka: KafkaServer) -> None:
    shell.json("simulate", "observatory", "--seconds", "2", "--rate", "0.05")
    shell.json("archive", "run")
    poison = Producer({"bootstrap.servers": empty_kafka.bootstrap})
    poison.produce(AZIMUTH, b"no frame at all")
    poison.flush()

    archived = shell.json("archive", "run", "--strict", code=1)
    letters = shell.json("archive", "dead-letters")
    dead = shell.json("archive", "files", AZIMUTH, "--outside")

    assert archived["dead_letters"] == 1
    assert archived["rows"] == 1
    assert [(one["topic"], one["count"]) for one in letters] == [(AZIMUTH, 1)]
    assert [file["week"] for file in dead] == ["dead"]
    assert shell.json("archive", "gaps") == []
    assert shell.run("archive", "dead-letters", "--strict").code == 1
    assert shell.json("archive", "verify", "--deep")["dead_letters"] == 1


def test_a_registry_out_of_reach_is_named_and_nothing_is_lost(shell: Shell) -> None:
    produced = shell.json("simulate", "observatory", "--seconds", "2", "--rate", "0.05")
    closed = f"http://127.0.0.1:{free_port()}"

    failed = shell.run("archive", "run", "--json", EFD_REGISTRY_URL=closed)
    archived = shell.json("archive", "run")

    assert failed.code == 3
    assert closed in json.loads(failed.out)["error"]["message"]
    assert "Traceback" not in failed.err
    assert archived["rows"] == produced["records"]


def test_a_configuration_is_checked_against_the_topics_that_there_are(shell: Shell) -> None:
    shell.json("simulate", "observatory", "--seconds", "1", "--rate", "0.05")
    config = shell.directory / "config_lsstcam.yaml"
    config.write_text(
        "version: 1.0.0\ncolumns:\n"
        "- {name: mt_azimuth_mean, tables: [exposure_efd], function: mean, datatype: float, description: mean,\n"
        f"   ivoa: {{unit: deg, ucd: pos.az}}, topics: [{{name: {AZIMUTH}, fields: [{{name: actualPositon}}]}}]}}\n"
    )

    found = shell.json("exposures", "check", str(config), code=1)

    assert found["columns"] == found["topics"] == 1
    assert not found["ok"]
    assert "actualPosition" in found["problems"][0]["detail"]


def test_the_installed_command_prints_one_document_and_nothing_else(shell: Shell) -> None:
    efd = Path(sys.executable).with_name("efd")

    done = subprocess.run(
        [efd, "archive", "status", "--json"], capture_output=True, text=True, check=False, timeout=120
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == []


def test_a_moment_without_exposures_joins_none(shell: Shell) -> None:
    by_day = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}T18:00:00"
    produced = shell.json(
        "simulate", "observatory", "--seconds", "1", "--rate", "0.05", "--exposures", "--start", by_day
    )
    shell.json("archive", "run")

    joined = shell.json("exposures", "run", "lsstcam")

    assert produced["exposures"] == joined["exposures"] == 0
