"""Whatever a user does wrong, or finds out of reach, is told in words, with a remedy and the exit code for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from efd_pipelines.servers.ports import free_port
from efd_pipelines_tests.unit.cli.conftest import Answer, Efd

AN_HOUR = ("--from", "2026-11-21", "--to", "2026-11-21T01:00")


def told(answer: Answer, code: int, *words: str) -> None:
    """The answer is an error for people: message, remedy, no stack trace."""
    assert answer.code == code, answer.err
    assert "Error: " in answer.err
    assert "Remedy: " in answer.err
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err


@pytest.fixture
def impatient(tmp_path: Path) -> str:
    """A configuration that waits two seconds for brokers."""
    file = tmp_path / "impatient.yaml"
    file.write_text("kafka: {byte_budget: 1048576, stall_s: 2, timeout_s: 2}\n")
    return str(file)


@pytest.fixture
def closed() -> str:
    """An address at which nobody listens."""
    return f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("archive", "run"),
        ("topics",),
        ("simulate", "observatory"),
        ("simulate", "topics", "topics.json"),
    ],
)
def test_a_missing_broker_setting_is_named(efd: Efd, arguments: tuple[str, ...], tmp_path: Path) -> None:
    topic = {"csc": "Test", "kind": "telemetry", "indexed": True, "partitions": 1, "fields": []}
    (tmp_path / "topics.json").write_text(json.dumps({"lsst.sal.Test.scalars": topic}))

    told(efd(*arguments), 2, "EFD_KAFKA_BOOTSTRAP is not set")


def test_a_missing_registry_setting_is_named(efd: Efd, closed: str) -> None:
    told(efd("archive", "run", EFD_KAFKA_BOOTSTRAP=closed), 2, "EFD_REGISTRY_URL is not set")


def test_a_setting_that_does_not_exist_is_named(efd: Efd) -> None:
    told(efd("archive", "status", EFD_ARCHIV="/data"), 2, "EFD_ARCHIV", "no such setting")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("archve",), ("archve",)),
        (("archive",), ("command",)),
        (("archive", "status", "--weak", "2026-11-16"), ("--weak",)),
        (("archive", "files"), ("DATASET",)),
        (("archive", "status", "--week", "2026-11-17"), ("no Monday", "2026-11-16")),
        (("archive", "status", "--week", "soon"), ("'soon' is no week",)),
        (("archive", "files", "forceActuatorData"), ("'forceActuatorData' is no dataset",)),
        (("archive", "files", "lsst.sal.X.y", "--from", "yesterday"), ("'yesterday' is no time",)),
        (("archive", "files", "lsst.sal.X.y", "--from", "2026-11-22", "--to", "2026-11-21"), ("not after",)),
        (("archive", "files", "lsst.sal.X.y"), ("lsst.sal.X.y is not in the archive",)),
        (("archive", "status", "MTM1M3"), ("No component", "MTM1M3")),
        (("tiers", "run", "MTM1M3"), ("No component", "MTM1M3")),
        (("tiers", "run", "--tier", "7s"), ("7s",)),
        (("archive", "verify", "lsst.sal.X.y"), ("lsst.sal.X.y is not in the archive",)),
        (("export", "lsst.sal.X.y", *AN_HOUR, "--out", "there"), ("There is no archive", "EFD_ARCHIVE")),
        (("export", "lsst.sal.X.y", *AN_HOUR, "--out", "there", "--tier", "7s"), ("7s",)),
        (("exposures", "run", "no-such-camera"), ("no-such-camera", "lsstcam")),
        (("exposures", "run", "lsstcam", "--day-obs", "20261121", "--from", "2026-11-21"), ("observing day",)),
        (("report", "storage", "--week", "2026-11-16", "--from", "2026-11-09"), ("range",)),
        (("report", "storage", "--sizes", "nowhere"), ("nowhere", "table4_telemetry_topics.csv")),
        (("topics", "--kind", "gossip"), ("gossip", "telemetry")),
        (("demo", "--seconds", "0"), ("--seconds",)),
    ],
)
def test_wrong_use_is_explained(efd: Efd, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    told(efd(*arguments), 2, *words)


@pytest.mark.parametrize(
    "arguments",
    [("archive", "run"), ("topics",), ("simulate", "observatory", "--seconds", "1")],
)
def test_a_broker_out_of_reach_is_named(efd: Efd, arguments: tuple[str, ...], closed: str, impatient: str) -> None:
    answer = efd(
        *arguments,
        EFD_KAFKA_BOOTSTRAP=closed,
        EFD_REGISTRY_URL=f"http://{closed}",
        EFD_CONFIG=impatient,
    )

    told(answer, 3, closed)


def test_status_without_its_broker_tells_what_is_archived(efd: Efd, closed: str, impatient: str) -> None:
    answer = efd("archive", "status", "--json", EFD_KAFKA_BOOTSTRAP=closed, EFD_CONFIG=impatient)

    assert answer.code == 0
    assert answer.document == []
    assert closed in answer.err


def test_a_database_out_of_reach_is_named_without_its_password(efd: Efd, closed: str) -> None:
    answer = efd("exposures", "run", "lsstcam", EFD_CONSDB_URL=f"postgresql+psycopg://me:hush@{closed}/consdb")

    told(answer, 3, closed.partition(":")[0])
    assert "hush" not in answer.err


def test_an_object_store_out_of_reach_is_named(efd: Efd, closed: str) -> None:
    answer = efd(
        "archive",
        "status",
        EFD_ARCHIVE="s3://bucket/archive",
        EFD_S3_ENDPOINT=f"http://{closed}",
        AWS_ACCESS_KEY_ID="me",
        AWS_SECRET_ACCESS_KEY="hush",
    )

    told(answer, 3, "s3://bucket/archive")
    assert "hush" not in answer.err


def test_a_directory_that_cannot_be_is_named(efd: Efd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    told(efd("report", "storage", EFD_ARCHIVE=str(tmp_path / "file" / "archive")), 3, "file/archive")
    told(efd("demo", "--data", str(tmp_path / "file" / "demo")), 3, "file")


def test_an_error_is_one_json_document_too(efd: Efd) -> None:
    answer = efd("archive", "run", "--json")

    assert answer.document["error"]["exit_code"] == answer.code == 2
    assert "EFD_KAFKA_BOOTSTRAP" in answer.document["error"]["message"]
    assert answer.document["error"]["remedy"]


def test_nobody_who_stops_reading_gets_a_stack_trace(tmp_path: Path) -> None:
    command = f"{sys.executable} -m efd_pipelines.cli config show | head -c 1"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.stderr == ""
