"""A demo's directory: it keeps out what is in force outside, and two demos."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from efd_pipelines.demo.site import Site, SiteInUse
from efd_pipelines.errors import StoreUnavailable

REACHED = {"EFD_KAFKA_BOOTSTRAP": "127.0.0.1:29092", "EFD_REGISTRY_URL": "http://127.0.0.1:8081/apis/ccompat/v7"}


def test_settings_of_production_do_not_reach_a_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = {
        "EFD_ARCHIVE": "s3://production/archive",
        "EFD_KAFKA_BOOTSTRAP": "production:9092",
        "EFD_KAFKA_SASL_PASSWORD": "hush",
        "EFD_REGISTRY_AUTH": "me:hush",
        "EFD_CONSDB_URL": "postgresql://production/consdb",
        "EFD_PROFILE": "usdf",
        "EFD_SLACK_WEBHOOK": "https://hooks.example.org/alerts",
        "DAGSTER_HOME": "/production",
    }
    for name, value in outside.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EFD_SERVERS_CACHE", "/cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("EFD_SLACK_WEBHOOK=https://hooks.example.org/alerts\n")
    site = Site.at(tmp_path / "demo")

    environment = site.environment(REACHED)
    settings = site.settings(REACHED)

    assert not {name: value for name, value in outside.items() if environment.get(name) == value}
    assert environment["EFD_SERVERS_CACHE"] == "/cache"
    assert environment["PATH"] == os.environ["PATH"]
    assert settings.archive == str(tmp_path / "demo" / "archive")
    assert settings.kafka_bootstrap == REACHED["EFD_KAFKA_BOOTSTRAP"]
    assert settings.require_consdb() == f"sqlite:///{tmp_path}/demo/consdb.sqlite"
    assert settings.slack_webhook is None
    assert settings.kafka_properties == {}


def test_dagster_finds_its_instance_and_the_code_under_one_name(tmp_path: Path) -> None:
    site = Site.at(tmp_path / "demo")

    instance = yaml.safe_load((site.dagster / "dagster.yaml").read_text())
    workspace = yaml.safe_load((site.dagster / "workspace.yaml").read_text())

    assert instance["telemetry"] == {"enabled": False}
    ours = Path(__file__).parents[3] / "workspace.yaml"
    assert workspace == yaml.safe_load(ours.read_text())


def test_a_second_demo_in_the_directory_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    site = Site.at(tmp_path)
    hold = (
        "from pathlib import Path; from efd_pipelines.demo.site import Site\n"
        f"with Site.at(Path({str(tmp_path)!r})).claimed(): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"

        with pytest.raises(SiteInUse, match=str(other.pid)), site.claimed():
            pass

        other.kill()
    with site.claimed():
        pass


def test_a_place_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreUnavailable, match="file"):
        Site.at(tmp_path / "file" / "demo")
