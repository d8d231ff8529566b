"""What tests of the Dagster layer share: a deployment whose archive is a directory."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.definitions import build_defs
from efd_pipelines.resources import Deployment
from efd_pipelines.settings import load_settings


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An empty archive, which the process's settings name; they name nothing else."""
    for name in [name for name in os.environ if name.startswith("EFD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EFD_ARCHIVE", str(tmp_path / "archive"))
    monkeypatch.chdir(tmp_path)
    return Deployment().archive()


@pytest.fixture
def kafka_is_set(archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings name a broker and a registry; nothing is there, which is known after a second."""
    (tmp_path / "configuration.yaml").write_text("kafka: {timeout_s: 1}\n")
    monkeypatch.setenv("EFD_CONFIG", str(tmp_path / "configuration.yaml"))
    monkeypatch.setenv("EFD_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("EFD_REGISTRY_URL", "http://127.0.0.1:1")


@pytest.fixture(scope="session")
def definitions() -> dg.Definitions:
    """The definitions of the shipped configuration."""
    return build_defs(load_settings({}, None).configuration)
