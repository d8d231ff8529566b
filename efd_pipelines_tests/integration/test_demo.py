"""The demo as its user runs it: from nothing to a report, again and again, killed and interrupted on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import psutil
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.demo.site import Site
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.ports import free_port
from efd_pipelines.servers.registry import RegistryServer

SECONDS = "4"


@pytest.fixture
def place(kafka: KafkaServer, registry: RegistryServer, tmp_path: Path) -> Iterator[Path]:
    """A directory for a demo, on a machine where its servers can be installed (or the test is skipped)."""
    place = tmp_path / "demo"
    yield place
    for process in living_on(place):
        process.kill()


def demo(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """A demo, started with production's settings in the environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "efd_pipelines.cli", "demo", "--data", str(place), "--seconds", SECONDS, *arguments],
        env={**os.environ, "EFD_ARCHIVE": "s3://production/archive", "EFD_KAFKA_BOOTSTRAP": "production:9092"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(running: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = running.communicate(timeout=1200)
    assert running.returncode == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def ended_at(running: subprocess.Popen[str], words: str, number: signal.Signals) -> tuple[int, str]:
    """Sends a signal when the demo tells something; its exit code and all that it told."""
    assert running.stderr is not None
    told = ""
    for line in running.stderr:
        told += line
        if words in line:
            running.send_signal(number)
            break
    told += running.communicate(timeout=120)[1] or ""
    return running.returncode, told


def living_on(place: Path) -> list[psutil.Process]:
    """Processes that work in a demo's directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(place) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def nothing_lives_on(place: Path) -> bool:
    deadline = time.monotonic() + 30
    while living_on(place) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not living_on(place)


def produced(told: str) -> int:
    return int(re.findall(r"([\d,]+) records of \d+ topics", told)[0].replace(",", ""))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_demo_goes_on_where_the_one_before_ended_however_that_was(place: Path) -> None:
    first = finished(demo(place, "--json"))
    killed_code, killed = ended_at(demo(place), "Archiving the backlog", signal.SIGKILL)
    nothing_after_kill = nothing_lives_on(place)
    interrupted_code, interrupted = ended_at(demo(place), "Running the Dagster job", signal.SIGINT)
    nothing_after_interrupt = nothing_lives_on(place)
    last = finished(demo(place, "--json"))

    assert first["rows"] == first["records"] > 1000
    assert first["archive"] == str(place / "archive")
    assert Path(first["report"]).read_text().startswith("# ")
    assert len(dd.read_parquet(Path(first["export"]) / "lsst.sal.MTMount.azimuth")) > 0
    assert killed_code == -signal.SIGKILL
    assert nothing_after_kill
    assert interrupted_code == 130
    assert "Traceback" not in interrupted
    assert nothing_after_interrupt
    assert nothing_lives_on(place)
    audit = verify(Archive(Site.at(place).settings({})), deep=True)
    assert audit.ok
    assert audit.rows == first["records"] + produced(killed) + produced(interrupted) + last["records"]
    assert last["archived_rows"] == audit.rows


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_dev_shows_a_ui_and_a_living_observatory_and_leaves_nothing(place: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "efd_pipelines.cli", "dev", "--data", str(place), "--port", str(port), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        said = "".join(running.stdout.readline() for _ in range(5))
        running_now = json.loads(said)
        with urllib.request.urlopen(f"{running_now['url']}/server_info", timeout=60) as answer:
            info = json.loads(answer.read())
        records = records_on_brokers(Path(running_now["settings"]))
        refused = subprocess.run(
            [sys.executable, "-m", "efd_pipelines.cli", "demo", "--data", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        running.send_signal(signal.SIGINT)
        code = running.wait(timeout=120)

    assert running_now["url"] == f"http://127.0.0.1:{port}"
    assert info["dagster_version"]
    assert records > 0
    assert refused.returncode == 2
    assert f"is in use by process {running.pid}" in refused.stderr
    assert code == 0
    assert nothing_lives_on(place)


def records_on_brokers(env: Path) -> int:
    """What `efd topics` counts with the settings that dev wrote, once something has come."""
    settings = dict(line.split("=", 1) for line in env.read_text().splitlines())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = subprocess.run(
            [sys.executable, "-m", "efd_pipelines.cli", "topics", "--json"],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=True,
        )
        count: int = sum(topic["records"] for topic in json.loads(done.stdout))
        if count:
            return count
    return 0
